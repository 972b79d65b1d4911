/**
 * A gRPC server on raw node:http2, for the services that Envoy asks on every request: about half the CPU of grpc-js, for which it knows
 * no more of gRPC than those need (docs/adr). Frames are cut out of whatever chunks they come in; nothing is held beyond one message of
 * MESSAGE_BYTES_MAX a stream.
 *
 * Envoy takes a stream that ends with status OK for permission, whatever its configuration says. So nothing here ends one like that: a
 * stream is answered, failed with another status, or reset.
 */
import {
  createServer,
  constants as http2,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  type ServerStreamResponseOptions,
} from 'node:http2'
import { listenAtPath } from '#api/socket-path.ts'

export const GRPC_STATUS = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const
export type GrpcStatus = (typeof GRPC_STATUS)[keyof typeof GRPC_STATUS]

/** Envoy takes requests with up to 60 KiB of headers, and tells of each about ten bytes more than it has. */
export const MESSAGE_BYTES_MAX = 64 * 1024
/** Flag and length before each message. */
export const PREFIX_LENGTH = 5

/** On one connection; Envoy opens another when it needs more. */
const STREAMS_OF_SESSION_MAX = 16_384
/** On all of them; what is beyond is failed at once with UNAVAILABLE. */
const STREAMS_MAX = 65_536
/** Megabytes. Node's own limit of 10 is met by some thousand streams, which it then refuses. */
const SESSION_MEMORY_MAX = 1024
/** Of one connection: a message of every stream that is open has to fit, or streams wait for each other. */
const SESSION_WINDOW_BYTES = 16 * 1024 * 1024
const HEADER_BYTES_MAX = 16 * 1024
/** How long a stream may be open without a message, and after it was answered. */
const IDLE_MS_MAX = 30_000
const CLOSE_GRACE_MS = 200

/** What one stream does. */
export interface GrpcHandler {
  /** @param message a view of what was received: to be copied if it is kept */
  onMessage(message: Buffer): void
}

export interface GrpcMethod {
  /** `/package.Service/Method` */
  readonly path: string
  open(call: GrpcCall): GrpcHandler
}

export interface GrpcServerOptions {
  readonly methods: readonly GrpcMethod[]
  /** Something is wrong with this program, or with who talks to it. */
  readonly onError: (error: Error) => void
}

const RESPONSE_HEADERS = { ':status': 200, 'content-type': 'application/grpc' }
/** The types do not know that a date can be left out. */
const RESPONSE_OPTIONS: ServerStreamResponseOptions & { sendDate: boolean } = { sendDate: false }
const FAILURE_OPTIONS = { ...RESPONSE_OPTIONS, endStream: true }

/** One stream of Envoy. */
export class GrpcCall {
  readonly metadata: IncomingHttpHeaders
  readonly #stream: ServerHttp2Stream
  #isAnswered = false
  #hasFailed = false

  constructor(stream: ServerHttp2Stream, metadata: IncomingHttpHeaders) {
    this.#stream = stream
    this.metadata = metadata
  }

  /** What still comes is of no interest. */
  get hasFailed(): boolean {
    return this.#hasFailed
  }

  /** @param frames one message or several, each with its prefix */
  send(frames: Buffer): void {
    if (this.#stream.destroyed || this.#stream.closed) return
    if (!this.#isAnswered) {
      this.#isAnswered = true
      this.#stream.respond(RESPONSE_HEADERS, RESPONSE_OPTIONS)
    }
    this.#stream.write(frames)
  }

  /** Ends the stream. Never with OK: what that means to Envoy is above. @param reason printable ASCII */
  fail(status: GrpcStatus, reason: string): void {
    if (this.#stream.destroyed || this.#stream.closed) return
    if (this.#isAnswered) {
      // No trailers without having promised them with the headers, which would cost every stream something.
      this.#hasFailed = true
      this.#stream.close(http2.NGHTTP2_INTERNAL_ERROR)
      return
    }
    this.#isAnswered = true
    this.#hasFailed = true
    this.#stream.respond({ ...RESPONSE_HEADERS, 'grpc-status': status, 'grpc-message': reason }, FAILURE_OPTIONS)
  }

  /** @internal */
  endIdle(): void {
    if (this.#isAnswered) this.#stream.close(http2.NGHTTP2_CANCEL)
    else this.fail(GRPC_STATUS.deadlineExceeded, 'no message came')
  }
}

/** Cuts messages out of chunks. */
export class FrameReader {
  readonly #onMessage: (message: Buffer) => void
  #held: Buffer[] = []
  #heldLength = 0
  /** Of the message that is held, with its prefix; unknown while that is not complete. */
  #wantedLength = PREFIX_LENGTH

  constructor(onMessage: (message: Buffer) => void) {
    this.#onMessage = onMessage
  }

  /** @throws FrameError for what cannot become a message */
  push(chunk: Buffer): void {
    let bytes = chunk
    if (this.#heldLength > 0) {
      this.#held.push(chunk)
      this.#heldLength += chunk.length
      if (this.#heldLength < this.#wantedLength) return
      bytes = Buffer.concat(this.#held)
      this.#held = []
      this.#heldLength = 0
    }
    for (;;) {
      this.#wantedLength = wantedLength(bytes)
      if (bytes.length < this.#wantedLength) break
      this.#onMessage(bytes.subarray(PREFIX_LENGTH, this.#wantedLength))
      bytes = bytes.subarray(this.#wantedLength)
    }
    if (bytes.length === 0) return
    this.#held = [bytes]
    this.#heldLength = bytes.length
  }
}

/** Length that bytes have to have to hold a message, or first of all its prefix. */
function wantedLength(bytes: Buffer): number {
  if (bytes.length < PREFIX_LENGTH) return PREFIX_LENGTH
  if (bytes[0] !== 0) throw new FrameError(GRPC_STATUS.unimplemented, 'compressed messages are not understood')
  const length = bytes.readUInt32BE(1)
  if (length > MESSAGE_BYTES_MAX) throw new FrameError(GRPC_STATUS.resourceExhausted, `a message may have ${MESSAGE_BYTES_MAX} bytes`)
  return PREFIX_LENGTH + length
}

export class FrameError extends Error {
  readonly status: GrpcStatus

  constructor(status: GrpcStatus, message: string) {
    super(message)
    this.status = status
  }
}

/** Puts the prefix before a message. */
export function frameMessage(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(PREFIX_LENGTH + message.length)
  frame[0] = 0
  frame.writeUInt32BE(message.length, 1)
  frame.set(message, PREFIX_LENGTH)
  return frame
}

export interface GrpcServer {
  /** Streams that are open now. */
  readonly streamCount: number
  /** Lets go of everything. What has no answer yet is reset, and Envoy refuses it. */
  close(): Promise<void>
}

/** Serves on a UNIX socket that only root may use. @throws ApiError when a living process answers there */
export async function serveGrpc(path: string, { methods, onError }: GrpcServerOptions): Promise<GrpcServer> {
  const byPath = new Map(methods.map((method) => [method.path, method]))
  const calls = new Map<GrpcCall, number>()
  const sessions = new Set<ServerHttp2Session>()
  const server = createServer({
    // Envoy ends its streams with a reset. Node takes a thousand of those for an attack and closes the connection.
    streamResetBurst: 1e9,
    streamResetRate: 1e9,
    maxSessionMemory: SESSION_MEMORY_MAX,
    settings: { maxConcurrentStreams: STREAMS_OF_SESSION_MAX, maxHeaderListSize: HEADER_BYTES_MAX },
  })
  server.on('session', (session) => {
    sessions.add(session)
    session.setLocalWindowSize(SESSION_WINDOW_BYTES)
    session.on('close', () => sessions.delete(session))
  })
  server.on('sessionError', onError)
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', ignore)
    const method = byPath.get(headers[':path'] ?? '')
    const call = new GrpcCall(stream, headers)
    if (method === undefined) return call.fail(GRPC_STATUS.unimplemented, 'no such method')
    if (calls.size >= STREAMS_MAX) return call.fail(GRPC_STATUS.unavailable, 'too many streams')
    calls.set(call, sweeps)
    stream.on('close', () => calls.delete(call))
    const handler = method.open(call)
    const reader = new FrameReader((message) => handler.onMessage(message))
    stream.on('data', (chunk: Buffer) => {
      if (call.hasFailed) return
      try {
        reader.push(chunk)
      } catch (error) {
        if (!(error instanceof FrameError)) onError(error as Error)
        call.fail(error instanceof FrameError ? error.status : GRPC_STATUS.internal, error instanceof FrameError ? error.message : 'failed')
      }
    })
    stream.on('end', () => call.endIdle())
  })

  let sweeps = 0
  const sweeper = setInterval(() => {
    sweeps += 1
    for (const [call, opened] of calls) {
      if (sweeps - opened < 2) break
      call.endIdle()
    }
  }, IDLE_MS_MAX).unref()
  const remove = await listenAtPath(path, { mode: 0o600 }, async (temporary) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    server.once('error', reject).listen(temporary, resolve)
    await promise
    server.off('error', reject)
  })
  server.on('error', onError)

  return {
    get streamCount() {
      return calls.size
    },
    async close() {
      clearInterval(sweeper)
      remove()
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const session of sessions) session.close()
      const timer = setTimeout(() => {
        for (const session of sessions) session.destroy()
      }, CLOSE_GRACE_MS)
      await closed
      clearTimeout(timer)
    },
  }
}

function ignore(): void {}

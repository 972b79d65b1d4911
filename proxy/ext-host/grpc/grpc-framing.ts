/**
 * A gRPC server for the services that Envoy asks on every request, with no more of gRPC than those need. Frames are cut out of whatever
 * chunks they come in; nothing is held beyond one message of MESSAGE_BYTES_MAX a stream.
 *
 * Envoy takes a stream that ends with status OK for permission, whatever its configuration says. So nothing here ends one like that: a
 * stream is answered, failed with another status, or reset.
 */
import { createServer } from 'node:net'
import { listenAtPath } from '#api/socket-path.ts'
import { encodeLiteral, type HeaderList } from './hpack.ts'
import { HTTP2_ERROR, Http2Connection, type Http2Stream, type StreamSink } from './http2-connection.ts'

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
const STREAMS_OF_CONNECTION_MAX = 16_384
/** On all of them; what is beyond is failed at once with UNAVAILABLE. */
const STREAMS_MAX = 65_536
/** How long a stream may be open without a message, and after it was answered. */
const IDLE_MS_MAX = 30_000
const CLOSE_GRACE_MS = 200

/** What one stream does. */
export interface GrpcHandler {
  /** @param message a view of what was received: to be copied if it is kept */
  onMessage(message: Buffer): void
  /** The stream is gone, whoever ended it. */
  onClosed?(): void
}

export interface GrpcMethod {
  /** `/package.Service/Method` */
  readonly path: string
  /** MESSAGE_BYTES_MAX when not given. */
  readonly messageBytesMax?: number
  /** Streams last as long as what they are about, and may be quiet. */
  readonly isLongLived?: boolean
  open(call: GrpcCall): GrpcHandler
}

export interface GrpcServerOptions {
  readonly methods: readonly GrpcMethod[]
  /** Something is wrong with this program, or with who talks to it. */
  readonly onError: (error: Error) => void
  /** Whether a lock guards the path. */
  readonly replaces?: boolean
}

/** `:status` 200, which is entry 8 of the static table. */
const RESPONSE_HEADERS = Buffer.concat([Buffer.from([0x88]), encodeLiteral('content-type', 'application/grpc')])

/** One stream of Envoy. */
export class GrpcCall {
  readonly #stream: Http2Stream
  readonly #headers: HeaderList
  #isAnswered = false
  #hasFailed = false

  constructor(stream: Http2Stream, headers: HeaderList) {
    this.#stream = stream
    this.#headers = headers
  }

  /** What still comes is of no interest. */
  get hasFailed(): boolean {
    return this.#hasFailed
  }

  /** @param name lower case @returns the first value */
  metadata(name: string): string | undefined {
    for (let index = 0; index < this.#headers.length; index += 2) if (this.#headers[index] === name) return this.#headers[index + 1]
    return undefined
  }

  /** @param frames one message or several, each with its prefix */
  send(frames: Buffer): void {
    if (!this.#isAnswered) {
      this.#isAnswered = true
      this.#stream.sendHeaders(RESPONSE_HEADERS, false)
    }
    this.#stream.sendData(frames)
  }

  /** Ends the stream. Never with OK: what that means to Envoy is above. @param reason printable ASCII */
  fail(status: GrpcStatus, reason: string): void {
    this.#hasFailed = true
    const trailers = [encodeLiteral('grpc-status', String(status)), encodeLiteral('grpc-message', reason)]
    this.#stream.sendHeaders(Buffer.concat(this.#isAnswered ? trailers : [RESPONSE_HEADERS, ...trailers]), true)
  }

  /** @internal Ends what has gone on for too long. */
  endIdle(): void {
    if (this.#isAnswered) this.#stream.reset(HTTP2_ERROR.cancel)
    else this.fail(GRPC_STATUS.deadlineExceeded, 'no message came')
  }
}

/** Cuts messages out of chunks. */
export class FrameReader {
  readonly #onMessage: (message: Buffer) => void
  readonly #bytesMax: number
  #held: Buffer[] = []
  #heldLength = 0
  /** Of the message that is held, with its prefix; unknown while that is not complete. */
  #wantedLength = PREFIX_LENGTH

  constructor(onMessage: (message: Buffer) => void, bytesMax = MESSAGE_BYTES_MAX) {
    this.#onMessage = onMessage
    this.#bytesMax = bytesMax
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
      this.#wantedLength = wantedLength(bytes, this.#bytesMax)
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
function wantedLength(bytes: Buffer, bytesMax: number): number {
  if (bytes.length < PREFIX_LENGTH) return PREFIX_LENGTH
  if (bytes[0] !== 0) throw new FrameError(GRPC_STATUS.unimplemented, 'compressed messages are not understood')
  const length = bytes.readUInt32BE(1)
  if (length > bytesMax) throw new FrameError(GRPC_STATUS.resourceExhausted, `a message may have ${bytesMax} bytes`)
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
  /** Takes no more connections, and no more streams on those that are open. */
  stop(): void
  /** Lets go of everything. What has no answer yet is reset, and Envoy refuses it. */
  close(): Promise<void>
}

/** Serves on a UNIX socket that only root may use. @throws ApiError when a living process answers there, and is not to be replaced */
export async function serveGrpc(path: string, { methods, onError, replaces = false }: GrpcServerOptions): Promise<GrpcServer> {
  const byPath = new Map(methods.map((method) => [method.path, method]))
  const calls = new Set<GrpcCall>()
  /** Those that have to be done soon, in the order in which they were opened. */
  const openedAt = new Map<GrpcCall, number>()
  const connections = new Set<Http2Connection>()
  const open = (stream: Http2Stream, headers: HeaderList) => {
    const call = new GrpcCall(stream, headers)
    const method = byPath.get(call.metadata(':path') ?? '')
    if (method === undefined) return call.fail(GRPC_STATUS.unimplemented, 'no such method')
    if (calls.size >= STREAMS_MAX) return call.fail(GRPC_STATUS.unavailable, 'too many streams')
    calls.add(call)
    if (method.isLongLived !== true) openedAt.set(call, sweeps)
    const onClosed = () => {
      calls.delete(call)
      openedAt.delete(call)
    }
    return new Receiving(call, method.open(call), { onError, onClosed, messageBytesMax: method.messageBytesMax ?? MESSAGE_BYTES_MAX })
  }
  const server = createServer((socket) => {
    const connection = new Http2Connection(socket, {
      streamsMax: STREAMS_OF_CONNECTION_MAX,
      open: (stream, headers) => open(stream, headers) ?? undefined,
      onClosed: () => connections.delete(connection),
      onError,
    })
    connections.add(connection)
  })

  let sweeps = 0
  const sweeper = setInterval(() => {
    sweeps += 1
    for (const [call, opened] of openedAt) {
      if (sweeps - opened < 2) break
      call.endIdle()
    }
  }, IDLE_MS_MAX).unref()
  const remove = await listenAtPath(path, { mode: 0o600, replaces }, async (temporary) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    server.once('error', reject).listen(temporary, resolve)
    await promise
    server.off('error', reject)
  })
  server.on('error', onError)

  const closed = new Promise<void>((resolve) => server.once('close', resolve))
  const stop = (): void => {
    remove()
    server.close()
    for (const connection of connections) connection.close()
  }
  return {
    get streamCount() {
      return calls.size
    },
    stop,
    async close() {
      clearInterval(sweeper)
      stop()
      const timer = setTimeout(() => {
        for (const connection of connections) connection.destroy()
      }, CLOSE_GRACE_MS)
      await closed
      clearTimeout(timer)
    },
  }
}

/** What comes on a stream, for its handler. */
class Receiving implements StreamSink {
  readonly #call: GrpcCall
  readonly #handler: GrpcHandler
  readonly #reader: FrameReader
  readonly #options: ReceivingOptions

  constructor(call: GrpcCall, handler: GrpcHandler, options: ReceivingOptions) {
    this.#call = call
    this.#handler = handler
    this.#reader = new FrameReader((message) => handler.onMessage(message), options.messageBytesMax)
    this.#options = options
  }

  onData(chunk: Buffer): void {
    if (this.#call.hasFailed) return
    try {
      this.#reader.push(chunk)
    } catch (error) {
      if (error instanceof FrameError) this.#call.fail(error.status, error.message)
      else {
        this.#options.onError(error as Error)
        this.#call.fail(GRPC_STATUS.internal, 'it failed')
      }
    }
  }

  onEnd(): void {
    if (!this.#call.hasFailed) this.#call.endIdle()
  }

  onClosed(): void {
    this.#options.onClosed()
    this.#handler.onClosed?.()
  }
}

interface ReceivingOptions {
  readonly onError: (error: Error) => void
  readonly onClosed: () => void
  readonly messageBytesMax: number
}

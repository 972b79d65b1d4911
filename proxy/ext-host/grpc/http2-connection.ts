/**
 * The server's side of one HTTP/2 connection (RFC 9113), as much of it as gRPC over a local socket takes. Node's own spends about three
 * times as much on a stream as all that happens on it here, and takes a client that ends streams with resets, as Envoy does, for an
 * attacker. What the socket brings in one piece is answered in one piece.
 *
 * Not here: server push, priorities (read over), upgrades, compression of what is sent. Whatever the peer does wrong ends the connection.
 */
import type { Socket } from 'node:net'
import { HEADER_BYTES_MAX, type HeaderList, HpackDecoder, HpackError } from './hpack.ts'

export const HTTP2_ERROR = {
  noError: 0,
  protocolError: 1,
  internalError: 2,
  flowControlError: 3,
  frameSizeError: 6,
  refusedStream: 7,
  cancel: 8,
  compressionError: 9,
} as const
export type Http2ErrorCode = (typeof HTTP2_ERROR)[keyof typeof HTTP2_ERROR]

/** What a stream's messages go to. */
export interface StreamSink {
  onData(chunk: Buffer): void
  /** The peer has nothing more to say. */
  onEnd(): void
  /** The stream is gone, whoever ended it. */
  onClosed(): void
}

export interface ConnectionOptions {
  readonly streamsMax: number
  /** @returns undefined for a stream that was answered at once */
  readonly open: (stream: Http2Stream, headers: HeaderList) => StreamSink | undefined
  readonly onClosed: () => void
  /** What the peer did wrong. */
  readonly onError: (error: Error) => void
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')
const FRAME_HEADER_LENGTH = 9
/** Of a payload, in both directions: the least that may be agreed on. */
const FRAME_BYTES_MAX = 16_384
const WINDOW_BYTES_DEFAULT = 65_535
const WINDOW_BYTES_MAX = 2 ** 31 - 1
/** What may be on its way to us on a stream: more than a message. */
const STREAM_WINDOW_BYTES = 256 * 1024
/** And on all of a connection's. Nothing waits here, so this is only what the kernel holds. */
const CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
/** What a stream may have waiting for a peer that does not take it. */
const WAITING_BYTES_MAX = 4 * 1024 * 1024
const UNSENT_BYTES_MAX = 64 * 1024 * 1024
const STREAM_ID_MAX = 2 ** 31 - 1
/** For streams that the peer opened before it knew that this end goes: a peer of the same machine. */
const GO_AWAY_GRACE_MS = 50

const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const
const END_STREAM = 0x1
const ACK = 0x1
const END_HEADERS = 0x4
const PADDED = 0x8
const PRIORITY = 0x20

const SETTING_MAX_CONCURRENT_STREAMS = 3
const SETTING_INITIAL_WINDOW_SIZE = 4
const SETTING_LENGTH = 6

class ConnectionError extends Error {
  readonly code: Http2ErrorCode

  constructor(code: Http2ErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

export class Http2Stream {
  readonly id: number
  readonly #connection: Http2Connection
  /** @internal */
  sink: StreamSink | undefined
  /** @internal What the peer takes. */
  window: number
  /** @internal What waits for that. */
  readonly waiting: { payload: Buffer; isLast: boolean }[] = []
  /** @internal Of those. */
  waitingBytes = 0
  /** @internal Received and not yet made up for. */
  consumed = 0
  /** @internal */
  isRemoteEnded = false
  /** @internal */
  isLocalEnded = false
  isClosed = false

  constructor(id: number, window: number, connection: Http2Connection) {
    this.id = id
    this.window = window
    this.#connection = connection
  }

  /** @param block headers, encoded */
  sendHeaders(block: Buffer, isLast: boolean): void {
    if (!this.isClosed && !this.isLocalEnded) this.#connection.sendHeaders(this, block, isLast)
  }

  sendData(payload: Buffer, isLast = false): void {
    if (!this.isClosed && !this.isLocalEnded) this.#connection.sendData(this, payload, isLast)
  }

  reset(code: Http2ErrorCode): void {
    if (!this.isClosed) this.#connection.reset(this, code)
  }
}

export class Http2Connection {
  readonly #socket: Socket
  readonly #options: ConnectionOptions
  readonly #decoder = new HpackDecoder()
  readonly #streams = new Map<number, Http2Stream>()
  readonly #blocked = new Set<Http2Stream>()
  #held: Buffer | undefined
  #hasPreface = false
  /** Of those that were taken. */
  #lastId = 0
  /** Of those that came. */
  #seenId = 0
  /** A header block that goes on in the next frame. */
  #open: { id: number; isLast: boolean; parts: Buffer[]; length: number } | undefined
  #window = WINDOW_BYTES_DEFAULT
  #streamWindow = WINDOW_BYTES_DEFAULT
  #consumed = 0
  #out: Buffer[] = []
  #isReading = false
  #isFlushDue = false
  #isAskedToGo = false
  #isEnding = false

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket
    this.#options = options
    socket.on('data', (chunk: Buffer) => this.#onChunk(chunk))
    socket.on('error', () => {})
    socket.on('close', () => this.#onClose())
    this.#frame(
      FRAME.settings,
      0,
      0,
      settings([SETTING_MAX_CONCURRENT_STREAMS, options.streamsMax], [SETTING_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES]),
    )
    this.#frame(FRAME.windowUpdate, 0, 0, uint32(CONNECTION_WINDOW_BYTES - WINDOW_BYTES_DEFAULT))
    this.#flush()
  }

  /**
   * Takes no more streams, and ends with the last of those that are open. Those that the peer opens before it can know are taken: it is
   * asked first to open no more, and only then told which was the last (RFC 9113, 6.8).
   */
  close(): void {
    if (this.#isEnding || this.#isAskedToGo) return
    this.#isAskedToGo = true
    this.#sayGoAway(STREAM_ID_MAX, HTTP2_ERROR.noError)
    this.#flush()
    setTimeout(() => this.#closeNow(), GO_AWAY_GRACE_MS).unref()
  }

  #closeNow(): void {
    if (this.#isEnding) return
    this.#goAway(HTTP2_ERROR.noError)
    this.#flush()
    if (this.#streams.size === 0) this.#socket.end()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  /** @internal */
  sendHeaders(stream: Http2Stream, block: Buffer, isLast: boolean): void {
    this.#frame(FRAME.headers, isLast ? END_HEADERS | END_STREAM : END_HEADERS, stream.id, block)
    if (isLast) this.#endLocal(stream)
    this.#flushSoon()
  }

  /** @internal */
  sendData(stream: Http2Stream, payload: Buffer, isLast: boolean): void {
    stream.waiting.push({ payload, isLast })
    stream.waitingBytes += payload.length
    this.#sendWaiting(stream)
    if (stream.waiting.length > 0) {
      this.#blocked.add(stream)
      if (stream.waitingBytes > WAITING_BYTES_MAX) this.reset(stream, HTTP2_ERROR.flowControlError)
    }
    this.#flushSoon()
  }

  /** @internal */
  reset(stream: Http2Stream, code: Http2ErrorCode): void {
    this.#frame(FRAME.reset, 0, stream.id, uint32(code))
    this.#remove(stream)
    this.#flushSoon()
  }

  #onChunk(chunk: Buffer): void {
    this.#isReading = true
    try {
      this.#read(this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]))
    } catch (error) {
      const code =
        error instanceof ConnectionError
          ? error.code
          : error instanceof HpackError
            ? HTTP2_ERROR.compressionError
            : HTTP2_ERROR.internalError
      this.#options.onError(error as Error)
      this.#goAway(code)
      this.#flush()
      this.#socket.destroySoon()
    }
    this.#isReading = false
    this.#flush()
  }

  #read(bytes: Buffer): void {
    let at = 0
    if (!this.#hasPreface) {
      const seen = bytes.subarray(0, PREFACE.length)
      if (!seen.equals(PREFACE.subarray(0, seen.length))) throw new ConnectionError(HTTP2_ERROR.protocolError, 'this is not HTTP/2')
      if (seen.length === PREFACE.length) {
        this.#hasPreface = true
        at = PREFACE.length
      }
    }
    while (this.#hasPreface && bytes.length - at >= FRAME_HEADER_LENGTH) {
      const length = bytes.readUIntBE(at, 3)
      if (length > FRAME_BYTES_MAX) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'a frame is too long')
      const start = at + FRAME_HEADER_LENGTH
      if (bytes.length < start + length) break
      const id = bytes.readUInt32BE(at + 5) & 0x7fff_ffff
      this.#onFrame(bytes[at + 3] ?? 0, bytes[at + 4] ?? 0, id, bytes.subarray(start, start + length))
      at = start + length
    }
    this.#held = at < bytes.length ? bytes.subarray(at) : undefined
  }

  #onFrame(type: number, flags: number, id: number, payload: Buffer): void {
    if (this.#open !== undefined && (type !== FRAME.continuation || id !== this.#open.id))
      throw new ConnectionError(HTTP2_ERROR.protocolError, 'headers are interrupted')
    switch (type) {
      case FRAME.data:
        this.#onData(flags, id, payload)
        break
      case FRAME.headers:
        this.#onHeaders(flags, id, payload)
        break
      case FRAME.continuation:
        this.#onContinuation(flags, payload)
        break
      case FRAME.reset:
        this.#onReset(id, payload)
        break
      case FRAME.settings:
        this.#onSettings(flags, id, payload)
        break
      case FRAME.ping:
        if (payload.length !== 8 || id !== 0) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'a wrong ping')
        if ((flags & ACK) === 0) this.#frame(FRAME.ping, ACK, 0, payload)
        break
      case FRAME.windowUpdate:
        this.#onWindowUpdate(id, payload)
        break
      case FRAME.push:
        throw new ConnectionError(HTTP2_ERROR.protocolError, 'clients do not push')
      default:
      // Priorities, the peer's farewell, and what is not known.
    }
  }

  #onHeaders(flags: number, id: number, payload: Buffer): void {
    if (id % 2 === 0) throw new ConnectionError(HTTP2_ERROR.protocolError, 'not a stream of a client')
    let block = unpadded(flags, payload)
    if ((flags & PRIORITY) !== 0) {
      if (block.length < 5) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'a wrong priority')
      block = block.subarray(5)
    }
    const isLast = (flags & END_STREAM) !== 0
    if ((flags & END_HEADERS) !== 0) this.#onBlock(id, isLast, block)
    else this.#open = { id, isLast, parts: [block], length: block.length }
  }

  #onContinuation(flags: number, payload: Buffer): void {
    const open = this.#open
    if (open === undefined) throw new ConnectionError(HTTP2_ERROR.protocolError, 'nothing to go on with')
    // A view of what was read: the rest comes later.
    open.parts = [Buffer.concat([...open.parts, payload])]
    open.length += payload.length
    if (open.length > HEADER_BYTES_MAX) throw new ConnectionError(HTTP2_ERROR.protocolError, 'too many headers')
    if ((flags & END_HEADERS) === 0) return
    this.#open = undefined
    this.#onBlock(open.id, open.isLast, open.parts[0] ?? payload)
  }

  #onBlock(id: number, isLast: boolean, block: Buffer): void {
    // Whatever becomes of the stream: the next block is read with what this one has put into the table.
    const headers = this.#decoder.decode(block)
    const known = this.#streams.get(id)
    if (known !== undefined) {
      if (known.isRemoteEnded || !isLast) throw new ConnectionError(HTTP2_ERROR.protocolError, 'headers come twice')
      this.#endRemote(known)
      return
    }
    if (id <= this.#seenId) return
    this.#seenId = id
    if (this.#isEnding) return
    this.#lastId = id
    if (this.#streams.size >= this.#options.streamsMax) {
      this.#frame(FRAME.reset, 0, id, uint32(HTTP2_ERROR.refusedStream))
      return
    }
    const stream = new Http2Stream(id, this.#streamWindow, this)
    this.#streams.set(id, stream)
    stream.sink = this.#options.open(stream, headers)
    if (isLast) this.#endRemote(stream)
  }

  #onData(flags: number, id: number, payload: Buffer): void {
    this.#consumed += payload.length
    if (this.#consumed >= CONNECTION_WINDOW_BYTES / 2) {
      this.#frame(FRAME.windowUpdate, 0, 0, uint32(this.#consumed))
      this.#consumed = 0
    }
    const stream = this.#streams.get(id)
    if (stream === undefined) {
      if (id === 0 || id > this.#seenId) throw new ConnectionError(HTTP2_ERROR.protocolError, 'data of no stream')
      return
    }
    if (stream.isRemoteEnded) throw new ConnectionError(HTTP2_ERROR.protocolError, 'data after the end')
    const chunk = unpadded(flags, payload)
    if (chunk.length > 0) stream.sink?.onData(chunk)
    if (stream.isClosed) return
    if ((flags & END_STREAM) !== 0) {
      this.#endRemote(stream)
      return
    }
    stream.consumed += payload.length
    if (stream.consumed < STREAM_WINDOW_BYTES / 2) return
    this.#frame(FRAME.windowUpdate, 0, id, uint32(stream.consumed))
    stream.consumed = 0
  }

  #onReset(id: number, payload: Buffer): void {
    if (payload.length !== 4) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'a wrong reset')
    if (id === 0 || id > this.#seenId) throw new ConnectionError(HTTP2_ERROR.protocolError, 'reset of no stream')
    const stream = this.#streams.get(id)
    if (stream !== undefined) this.#remove(stream)
  }

  #onSettings(flags: number, id: number, payload: Buffer): void {
    if (id !== 0 || payload.length % SETTING_LENGTH !== 0) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'wrong settings')
    if ((flags & ACK) !== 0) return
    for (let at = 0; at < payload.length; at += SETTING_LENGTH) {
      // Of the others, none changes anything for a server that uses no table and no frames beyond the least.
      if (payload.readUInt16BE(at) !== SETTING_INITIAL_WINDOW_SIZE) continue
      const window = payload.readUInt32BE(at + 2)
      if (window > WINDOW_BYTES_MAX) throw new ConnectionError(HTTP2_ERROR.flowControlError, 'a window is too large')
      for (const stream of this.#streams.values()) stream.window += window - this.#streamWindow
      this.#streamWindow = window
    }
    this.#frame(FRAME.settings, ACK, 0, EMPTY)
    this.#unblock()
  }

  #onWindowUpdate(id: number, payload: Buffer): void {
    if (payload.length !== 4) throw new ConnectionError(HTTP2_ERROR.frameSizeError, 'a wrong window')
    const bytes = payload.readUInt32BE(0) & 0x7fff_ffff
    if (bytes === 0) throw new ConnectionError(HTTP2_ERROR.protocolError, 'a window that does not grow')
    if (id === 0) {
      this.#window += bytes
      if (this.#window > WINDOW_BYTES_MAX) throw new ConnectionError(HTTP2_ERROR.flowControlError, 'a window is too large')
    } else {
      if (id > this.#seenId) throw new ConnectionError(HTTP2_ERROR.protocolError, 'window of no stream')
      const stream = this.#streams.get(id)
      if (stream === undefined) return
      stream.window += bytes
      if (stream.window > WINDOW_BYTES_MAX) throw new ConnectionError(HTTP2_ERROR.flowControlError, 'a window is too large')
    }
    this.#unblock()
  }

  #unblock(): void {
    for (const stream of this.#blocked) {
      this.#sendWaiting(stream)
      if (stream.waiting.length === 0) this.#blocked.delete(stream)
    }
  }

  /** As much as the windows take. */
  #sendWaiting(stream: Http2Stream): void {
    for (let next = stream.waiting[0]; next !== undefined; next = stream.waiting[0]) {
      const length = Math.max(0, Math.min(next.payload.length, FRAME_BYTES_MAX, this.#window, stream.window))
      if (length === 0 && next.payload.length > 0) return
      const isWhole = length === next.payload.length
      this.#frame(FRAME.data, isWhole && next.isLast ? END_STREAM : 0, stream.id, isWhole ? next.payload : next.payload.subarray(0, length))
      this.#window -= length
      stream.waitingBytes -= length
      stream.window -= length
      if (!isWhole) {
        next.payload = next.payload.subarray(length)
        continue
      }
      stream.waiting.shift()
      if (next.isLast) this.#endLocal(stream)
    }
  }

  #endRemote(stream: Http2Stream): void {
    stream.isRemoteEnded = true
    stream.sink?.onEnd()
    if (stream.isLocalEnded) this.#remove(stream)
  }

  #endLocal(stream: Http2Stream): void {
    stream.isLocalEnded = true
    if (stream.isRemoteEnded) this.#remove(stream)
  }

  #remove(stream: Http2Stream): void {
    if (stream.isClosed) return
    stream.isClosed = true
    this.#streams.delete(stream.id)
    this.#blocked.delete(stream)
    stream.waiting.length = 0
    stream.sink?.onClosed()
    if (this.#isEnding && this.#streams.size === 0) this.#socket.end()
  }

  #goAway(code: Http2ErrorCode): void {
    this.#isEnding = true
    this.#sayGoAway(this.#lastId, code)
  }

  #sayGoAway(lastId: number, code: Http2ErrorCode): void {
    this.#frame(FRAME.goAway, 0, 0, Buffer.concat([uint32(lastId), uint32(code)]))
  }

  #onClose(): void {
    this.#isEnding = true
    for (const stream of this.#streams.values()) this.#remove(stream)
    this.#options.onClosed()
  }

  /** A small payload is copied behind its header: one piece is written faster than two. */
  #frame(type: number, flags: number, id: number, payload: Buffer): void {
    const frame = Buffer.allocUnsafe(FRAME_HEADER_LENGTH + payload.length)
    frame.writeUIntBE(payload.length, 0, 3)
    frame[3] = type
    frame[4] = flags
    frame.writeUInt32BE(id, 5)
    frame.set(payload, FRAME_HEADER_LENGTH)
    this.#out.push(frame)
  }

  #flushSoon(): void {
    if (this.#isReading || this.#isFlushDue) return
    this.#isFlushDue = true
    queueMicrotask(() => {
      this.#isFlushDue = false
      this.#flush()
    })
  }

  #flush(): void {
    if (this.#out.length === 0) return
    const bytes = this.#out.length === 1 ? this.#out[0] : Buffer.concat(this.#out)
    this.#out = []
    if (bytes === undefined || this.#socket.destroyed || !this.#socket.writable) return
    this.#socket.write(bytes)
    // Who asks and does not read is not served.
    if (this.#socket.writableLength > UNSENT_BYTES_MAX) this.#socket.destroy()
  }
}

const EMPTY = Buffer.alloc(0)

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function settings(...pairs: readonly (readonly [number, number])[]): Buffer {
  const bytes = Buffer.alloc(pairs.length * SETTING_LENGTH)
  for (const [index, [name, value]] of pairs.entries()) {
    bytes.writeUInt16BE(name, index * SETTING_LENGTH)
    bytes.writeUInt32BE(value, index * SETTING_LENGTH + 2)
  }
  return bytes
}

function unpadded(flags: number, payload: Buffer): Buffer {
  if ((flags & PADDED) === 0) return payload
  const length = payload[0]
  if (length === undefined || length >= payload.length) throw new ConnectionError(HTTP2_ERROR.protocolError, 'nothing but padding')
  return payload.subarray(1, payload.length - length)
}

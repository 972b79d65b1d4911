/**
 * One connection through the relay: Envoy hands over the client's side with a PROXY header, the other side is dialled here with the client's own
 * address, and a parser stands between. Nothing is read from one side that the other does not take.
 */
import type { Socket } from 'node:net'
import type { StreamDirection } from '#parsers/contract.ts'
import { setReceiveLowWater } from '#sys/socket-options.ts'
import type { Splicer } from '#sys/splice.ts'
import type { StreamDriver } from '../parsing/driver.ts'
import { decodeProxyHeader, type ProxyHeader } from './proxy-header.ts'
import type { OnRead, ReadingSocket } from './reading-socket.ts'

/** For Envoy to say whose connection it is, which it knows when it connects. */
const HEADER_WAIT_MS = 5000
const DIAL_WAIT_MS = 10_000
/** Of less, reading and writing is as cheap. */
const SPLICED_BYTES_MIN = 16 << 10
/** In one turn, for other connections' sake. */
const SPLICES_MAX = 4
/** Of bulk that a server sends: how much has to be there for a worker to be woken. */
const BATCH_BYTES = 512 << 10
/** Of what the client does not take; of more, its requests are not read either: some of them are answered here. */
const CLIENT_BACKLOG_BYTES_MAX = 1 << 20

/** What a header led to. */
export interface Relayed {
  readonly isServerFirst: boolean
  /** Begins a connection to where the client wanted to go. @throws SystemCallError */
  readonly dial: (onRead: OnRead) => ReadingSocket
  /** @param sink where the driver's bytes go */
  readonly drive: (sink: RelayConnection) => StreamDriver
  /** Why it was closed before its end. */
  readonly onFailure: (reason: string) => void
  readonly onClose: () => void
}

export interface RelayConnectionParts {
  /** The client's side. */
  readonly accept: (onRead: OnRead) => ReadingSocket
  readonly splicer: Splicer
  /** @returns undefined for a header that no connection may have @throws nothing */
  readonly open: (header: ProxyHeader) => Relayed | undefined
  /** Of a connection that nobody can be told of. */
  readonly onRefused: (reason: string) => void
  readonly onClose: () => void
}

const EMPTY: Buffer = Buffer.alloc(0)

export class RelayConnection {
  readonly #client: ReadingSocket
  readonly #parts: RelayConnectionParts
  #header: Buffer = EMPTY
  #relayed: Relayed | undefined
  #driver: StreamDriver | undefined
  #upstream: ReadingSocket | undefined
  #timer: NodeJS.Timeout | undefined
  /** How much has to be there for the server's side to be read. */
  #wakeBytes = 1
  #isClosed = false
  /** The driver has what was read, and says what becomes of it. */
  #isReading = false
  readonly #unwritten: Record<StreamDirection, Uint8Array | undefined> = { original: undefined, reply: undefined }

  constructor(parts: RelayConnectionParts) {
    this.#parts = parts
    this.#client = parts.accept((bytes) => this.#onClientData(bytes))
    const { socket: client } = this.#client
    this.#timer = setTimeout(() => this.#refuse('no PROXY header came'), HEADER_WAIT_MS)
    client.on('end', () => (this.#driver === undefined ? this.destroy() : this.#driver.pushEnd('original')))
    client.on('drain', () => this.#regulate())
    // Whatever breaks, 'close' follows.
    client.on('error', () => {})
    client.on('close', () => this.#onClientClosed())
  }

  /** The driver's sink. What lies side by side in what was read is written at once: each write may wake somebody. */
  write(direction: StreamDirection, data: Uint8Array): void {
    if (this.#isClosed) return
    const before = this.#unwritten[direction]
    if (before !== undefined && before.buffer === data.buffer && before.byteOffset + before.length === data.byteOffset) {
      this.#unwritten[direction] = new Uint8Array(before.buffer, before.byteOffset, before.length + data.length)
      return
    }
    this.#flush(direction)
    if (this.#isReading) this.#unwritten[direction] = data
    else this.#send(direction, data)
  }

  /** The driver's sink. */
  end(direction: StreamDirection): void {
    this.#flush(direction)
    if (direction === 'reply') this.#client.socket.end()
    else this.#dial()?.socket.end()
  }

  /** The driver's sink. */
  close(reason: string): void {
    this.#flushAll()
    this.#relayed?.onFailure(reason)
    this.destroy()
  }

  /** The driver's sink. */
  goOn(): void {
    this.#regulate()
  }

  /** Both sides, at once. */
  destroy(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#driver?.dispose()
    this.#client.socket.destroy()
    const upstream = this.#upstream?.socket
    if (upstream?.connecting === false) upstream.resetAndDestroy()
    else upstream?.destroy()
    this.#relayed?.onClose()
    this.#parts.onClose()
  }

  #refuse(reason: string): void {
    this.#parts.onRefused(reason)
    this.destroy()
  }

  #onClientData(chunk: Buffer): boolean {
    if (this.#driver !== undefined) return this.#onData('original', chunk)
    this.#header = Buffer.concat([this.#header, chunk])
    let header: ProxyHeader | number
    try {
      header = decodeProxyHeader(this.#header)
    } catch (error) {
      this.#refuse(error instanceof Error ? error.message : String(error))
      return false
    }
    if (typeof header === 'number') return false
    clearTimeout(this.#timer)
    const rest = this.#header.subarray(header.length)
    this.#header = EMPTY
    this.#relayed = this.#parts.open(header)
    if (this.#relayed === undefined) {
      this.destroy()
      return false
    }
    this.#driver = this.#relayed.drive(this)
    if (this.#relayed.isServerFirst) this.#dial()
    return rest.length > 0 && this.#onData('original', rest)
  }

  /** @returns the other side, dialled if it was not; undefined when that fails */
  #dial(): ReadingSocket | undefined {
    if (this.#upstream !== undefined || this.#relayed === undefined) return this.#upstream
    try {
      this.#upstream = this.#relayed.dial((bytes) => this.#onData('reply', bytes))
    } catch (error) {
      this.close(`the server cannot be reached: ${error instanceof Error ? error.message : String(error)}`)
      return undefined
    }
    const { socket: upstream } = this.#upstream
    this.#timer = setTimeout(() => this.close('the server did not take the connection'), DIAL_WAIT_MS)
    upstream.on('connect', () => clearTimeout(this.#timer))
    upstream.on('end', () => this.#driver?.pushEnd('reply'))
    upstream.on('drain', () => this.#regulate())
    upstream.on('error', (error: NodeJS.ErrnoException) => {
      if (upstream.connecting || upstream.pending) this.close(`the server cannot be reached: ${error.code ?? error.message}`)
    })
    upstream.on('close', () => this.#onUpstreamClosed())
    return this.#upstream
  }

  #send(direction: StreamDirection, data: Uint8Array): void {
    if (direction === 'reply') this.#client.socket.write(data)
    else this.#dial()?.socket.write(data)
  }

  #flush(direction: StreamDirection): void {
    const data = this.#unwritten[direction]
    if (data === undefined) return
    this.#unwritten[direction] = undefined
    if (!this.#isClosed) this.#send(direction, data)
  }

  #flushAll(): void {
    this.#flush('original')
    this.#flush('reply')
  }

  #onData(direction: StreamDirection, bytes: Buffer): boolean {
    this.#isReading = true
    this.#driver?.push(direction, bytes)
    this.#isReading = false
    this.#flushAll()
    const isSpliced = this.#splice(direction)
    if (direction === 'reply') this.#wakeForBatches()
    this.#regulate()
    return !isSpliced
  }

  /** The server's side is readable when a batch of what passes is there, or the rest of it. */
  #wakeForBatches(): void {
    const [upstream, driver] = [this.#upstream, this.#driver]
    if (upstream === undefined || driver === undefined || upstream.socket.destroyed) return
    const passing = driver.passing('reply')
    const bytes = passing < SPLICED_BYTES_MIN ? 1 : Math.min(passing, BATCH_BYTES)
    if (bytes === this.#wakeBytes) return
    setReceiveLowWater(upstream.fd, bytes)
    this.#wakeBytes = bytes
  }

  /** What passes whatever it is goes from one socket to the other within the kernel. @returns whether anything did, or will */
  #splice(direction: StreamDirection): boolean {
    const [from, to] = direction === 'original' ? [this.#client, this.#upstream] : [this.#upstream, this.#client]
    const driver = this.#driver
    if (from === undefined || to === undefined || driver === undefined) return false
    for (let turns = 0; turns < SPLICES_MAX; turns++) {
      const bytes = driver.passing(direction)
      if (bytes < SPLICED_BYTES_MIN || from.socket.destroyed) return turns > 0
      if (!isIdle(to.socket)) return true
      const { taken, left } = this.#parts.splicer.move(from.fd, to.fd, bytes)
      if (taken === 0) return true
      if (left.length > 0) to.socket.write(left)
      driver.passed(direction, taken)
    }
    return true
  }

  /** What was read of a side still goes to the other when both have ended; a side that broke off is broken off to the other too. */
  #onClientClosed(): void {
    this.#endAfter(this.#upstream?.socket)
  }

  #onUpstreamClosed(): void {
    this.#endAfter(this.#client.socket)
  }

  #endAfter(other: Socket | undefined): void {
    if (other?.writableEnded === true && !other.writableFinished && !other.destroyed) other.once('finish', () => this.destroy())
    else this.destroy()
  }

  /** Reads a side when the other has taken all that was read of it before, which is in the memory that is read into. */
  #regulate(): void {
    const [client, upstream, driver] = [this.#client.socket, this.#upstream?.socket, this.#driver]
    if (this.#isClosed || driver === undefined) return
    const isClientSlow = client.writableLength > CLIENT_BACKLOG_BYTES_MAX
    read(client, driver.wants('original') && (upstream?.writableLength ?? 0) === 0 && !isClientSlow)
    if (upstream !== undefined) read(upstream, driver.wants('reply') && client.writableLength === 0)
  }
}

/** All that was written is with the kernel, and more may be. */
function isIdle(socket: Socket): boolean {
  return socket.writableLength === 0 && !socket.connecting && !socket.destroyed && !socket.writableEnded
}

function read(socket: Socket, isWanted: boolean): void {
  if (socket.isPaused() === !isWanted) return
  if (isWanted) socket.resume()
  else socket.pause()
}

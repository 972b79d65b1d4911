/**
 * One connection through the relay: Envoy hands over the client's side with a PROXY header, the other side is dialled here with the client's own
 * address, and a parser stands between. Nothing is read from one side that the other does not take.
 */
import type { Socket } from 'node:net'
import type { StreamDirection } from '#parsers/contract.ts'
import type { StreamDriver } from '../driver.ts'
import { decodeProxyHeader, type ProxyHeader } from './proxy-header.ts'

/** For Envoy to say whose connection it is, which it knows when it connects. */
const HEADER_WAIT_MS = 5000
const DIAL_WAIT_MS = 10_000
/** Of what the client does not take; of more, its requests are not read either: some of them are answered here. */
const CLIENT_BACKLOG_BYTES_MAX = 1 << 20

/** What a header led to. */
export interface Relayed {
  readonly isServerFirst: boolean
  /** Begins a connection to where the client wanted to go. @throws SystemCallError */
  readonly dial: () => Socket
  /** @param sink where the driver's bytes go */
  readonly drive: (sink: RelayConnection) => StreamDriver
  /** Why it was closed before its end. */
  readonly onFailure: (reason: string) => void
}

export interface RelayConnectionParts {
  /** @returns undefined for a header that no connection may have @throws nothing */
  readonly open: (header: ProxyHeader) => Relayed | undefined
  /** Of a connection that nobody can be told of. */
  readonly onRefused: (reason: string) => void
  readonly onClose: () => void
}

const EMPTY: Buffer = Buffer.alloc(0)

export class RelayConnection {
  readonly #client: Socket
  readonly #parts: RelayConnectionParts
  #header: Buffer = EMPTY
  #relayed: Relayed | undefined
  #driver: StreamDriver | undefined
  #upstream: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  /** @param client accepted, with allowHalfOpen */
  constructor(client: Socket, parts: RelayConnectionParts) {
    this.#client = client
    this.#parts = parts
    this.#timer = setTimeout(() => this.#refuse('no PROXY header came'), HEADER_WAIT_MS)
    client.on('data', (chunk: Buffer) => this.#onClientData(chunk))
    client.on('end', () => (this.#driver === undefined ? this.destroy() : this.#driver.pushEnd('original')))
    client.on('drain', () => this.#regulate())
    // Whatever breaks, 'close' follows.
    client.on('error', () => {})
    client.on('close', () => this.#onClientClosed())
  }

  /** The driver's sink. */
  write(direction: StreamDirection, data: Uint8Array): void {
    if (this.#isClosed) return
    if (direction === 'reply') this.#client.write(data)
    else this.#dial()?.write(data)
  }

  /** The driver's sink. */
  end(direction: StreamDirection): void {
    if (direction === 'reply') this.#client.end()
    else this.#dial()?.end()
  }

  /** The driver's sink. */
  close(reason: string): void {
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
    this.#client.destroy()
    if (this.#upstream?.connecting === false) this.#upstream.resetAndDestroy()
    else this.#upstream?.destroy()
    this.#parts.onClose()
  }

  #refuse(reason: string): void {
    this.#parts.onRefused(reason)
    this.destroy()
  }

  #onClientData(chunk: Buffer): void {
    if (this.#driver !== undefined) {
      this.#driver.push('original', chunk)
      this.#regulate()
      return
    }
    this.#header = this.#header.length === 0 ? chunk : Buffer.concat([this.#header, chunk])
    let header: ProxyHeader | number
    try {
      header = decodeProxyHeader(this.#header)
    } catch (error) {
      this.#refuse(error instanceof Error ? error.message : String(error))
      return
    }
    if (typeof header === 'number') return
    clearTimeout(this.#timer)
    const rest = this.#header.subarray(header.length)
    this.#header = EMPTY
    this.#relayed = this.#parts.open(header)
    if (this.#relayed === undefined) {
      this.destroy()
      return
    }
    this.#driver = this.#relayed.drive(this)
    if (this.#relayed.isServerFirst) this.#dial()
    if (rest.length > 0) this.#onClientData(rest)
  }

  /** @returns the other side, dialled if it was not; undefined when that fails */
  #dial(): Socket | undefined {
    if (this.#upstream !== undefined || this.#relayed === undefined) return this.#upstream
    let upstream: Socket
    try {
      upstream = this.#relayed.dial()
    } catch (error) {
      this.close(`the server cannot be reached: ${error instanceof Error ? error.message : String(error)}`)
      return undefined
    }
    this.#upstream = upstream
    this.#timer = setTimeout(() => this.close('the server did not take the connection'), DIAL_WAIT_MS)
    upstream.on('connect', () => clearTimeout(this.#timer))
    upstream.on('data', (chunk: Buffer) => {
      this.#driver?.push('reply', chunk)
      this.#regulate()
    })
    upstream.on('end', () => this.#driver?.pushEnd('reply'))
    upstream.on('drain', () => this.#regulate())
    upstream.on('error', (error: NodeJS.ErrnoException) => {
      if (upstream.connecting || upstream.pending) this.close(`the server cannot be reached: ${error.code ?? error.message}`)
    })
    upstream.on('close', () => this.#onUpstreamClosed())
    return upstream
  }

  /** What was read of a side still goes to the other when both have ended; a side that broke off is broken off to the other too. */
  #onClientClosed(): void {
    this.#endAfter(this.#upstream)
  }

  #onUpstreamClosed(): void {
    this.#endAfter(this.#client)
  }

  #endAfter(other: Socket | undefined): void {
    if (other?.writableEnded === true && !other.writableFinished && !other.destroyed) other.once('finish', () => this.destroy())
    else this.destroy()
  }

  /** Reads of each side what there is room for. */
  #regulate(): void {
    const [client, upstream, driver] = [this.#client, this.#upstream, this.#driver]
    if (this.#isClosed || driver === undefined) return
    const isClientSlow = client.writableLength > CLIENT_BACKLOG_BYTES_MAX
    read(client, driver.wants('original') && upstream?.writableNeedDrain !== true && !isClientSlow)
    if (upstream !== undefined) read(upstream, driver.wants('reply') && !client.writableNeedDrain)
  }
}

function read(socket: Socket, isWanted: boolean): void {
  if (socket.isPaused() === !isWanted) return
  if (isWanted) socket.resume()
  else socket.pause()
}

/** Takes connections of Envoy on a UNIX socket. */
import { createServer, type Server, type Socket } from 'node:net'
import { listenAtPath } from '#api/socket-path.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import { duplicate, getSocketOption } from '#sys/libc.ts'
import { SOL_SOCKET, setSocketOptions } from '#sys/socket-options.ts'
import { Splicer } from '#sys/splice.ts'
import { bindTcp } from '#sys/tcp.ts'
import { SLOT_VALUE_TYPE } from '../contract.ts'
import { MemoryBudget } from '../parsing/memory-budget.ts'
import type { ParsedConnection, ParserHost } from '../parsing/parser-host.ts'
import { RelayConnection, type Relayed } from './connection.ts'
import type { ProxyHeader } from './proxy-header.ts'
import { type OnRead, type ReadingSocket, readingSocket } from './reading-socket.ts'

const SO_PEERCRED = 17
const MODE = 0o600
const BACKLOG = 4096
/** Of those whose header has not come. */
const UNOPENED_MAX = 4096
/** Of a worker, to read bulk into. */
const READ_BYTES = 64 << 20
/** Room for what one read may bring, as the kernel counts it, so that nothing waits for Envoy to take the first part of it. */
const SEND_BUFFER_BYTES = 768 << 10

export interface RelayServerParts {
  readonly path: string
  readonly host: ParserHost
  /** Runs in the namespace that proxies connect to servers from. */
  readonly inNetns: <T>(run: () => T) => T
}

export class RelayServer {
  readonly #parts: RelayServerParts
  readonly #server: Server
  readonly #splicer = new Splicer()
  readonly #readBudget = new MemoryBudget(READ_BYTES)
  readonly #connections = new Set<RelayConnection>()
  readonly #unopened = new Set<RelayConnection>()
  #removeSocket: (() => void) | undefined

  constructor(parts: RelayServerParts) {
    this.#parts = parts
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => this.#accept(socket))
  }

  /** Whoever calls holds the lock of the path. @throws ApiError when it cannot be served */
  async listen(): Promise<void> {
    this.#removeSocket = await listenAtPath(this.#parts.path, { mode: MODE, replaces: true }, async (path) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      this.#server.once('error', reject).listen({ path, backlog: BACKLOG }, resolve)
      await promise
      this.#server.off('error', reject)
    })
  }

  /** Takes no more. */
  stop(): void {
    this.#removeSocket?.()
    this.#removeSocket = undefined
    this.#server.close()
  }

  close(): void {
    this.stop()
    for (const connection of [...this.#connections]) connection.destroy()
    this.#splicer.close()
  }

  #accept(socket: Socket): void {
    socket.on('error', () => {})
    let own: number
    try {
      own = this.#take(descriptorOf(socket))
    } catch (error) {
      this.#parts.host.refuse(error instanceof Error ? error.message : String(error))
      return
    } finally {
      socket.destroy()
    }
    const connection: RelayConnection = new RelayConnection({
      splicer: this.#splicer,
      accept: (onRead) => readingSocket(own, this.#readBudget, onRead),
      open: (header) => this.#open(connection, header),
      onRefused: (why) => this.#parts.host.refuse(why),
      onClose: () => {
        this.#connections.delete(connection)
        this.#unopened.delete(connection)
      },
    })
    this.#connections.add(connection)
    this.#unopened.add(connection)
  }

  /** @returns another descriptor of the socket: node:net lets nobody say what one that it accepted reads into @throws Error when it is refused */
  #take(fd: number): number {
    const reason = this.#unopened.size >= UNOPENED_MAX ? `${UNOPENED_MAX} connections have no header yet` : peerProblem(fd)
    if (reason !== '') throw new Error(reason)
    setSocketOptions(fd, false, { sendBufferBytes: SEND_BUFFER_BYTES })
    return duplicate(fd)
  }

  #open(connection: RelayConnection, header: ProxyHeader): Relayed | undefined {
    this.#unopened.delete(connection)
    const slotName = header.values.get(SLOT_VALUE_TYPE)?.toString('latin1') ?? ''
    const opened = this.#parts.host.open(slotName, header, () => connection.destroy())
    if (opened === undefined) return undefined
    return {
      isServerFirst: opened.connection.slot.definition.isServerFirst,
      dial: (onRead) => this.#dial(opened.connection, onRead),
      drive: (sink) => opened.drive(sink),
      onFailure: (reason) => opened.fail(reason),
      onClose: () => opened.release(),
    }
  }

  /** As if the client had connected itself. Where its address cannot be had, it does not connect with another. @throws SystemCallError */
  #dial({ slot, source, destination, destinationPort }: ParsedConnection, onRead: OnRead): ReadingSocket {
    return this.#parts.inNetns(() => {
      const fd = bindTcp(source, 0, { transparent: true, mark: slot.upstreamMark, bindsAddressOnly: true })
      const reading = readingSocket(fd, this.#readBudget, onRead)
      reading.socket
        .setNoDelay(true)
        .setKeepAlive(true)
        .connect({ host: bytesToAddress(destination), port: destinationPort })
      return reading
    })
  }
}

/** node:net has no other name for it. @returns -1 for a socket that is gone */
function descriptorOf(socket: Socket & { readonly _handle?: { readonly fd?: number } }): number {
  return socket._handle?.fd ?? -1
}

/** @returns why who connected is not Envoy, or empty */
function peerProblem(fd: number): string {
  if (fd < 0) return 'the connection is gone'
  const credentials = Buffer.alloc(12)
  if (getSocketOption(fd, SOL_SOCKET, SO_PEERCRED, credentials) < 12) return 'the peer has no credentials'
  const userId = credentials.readUInt32LE(4)
  return userId === process.geteuid?.() ? '' : `the peer is process ${credentials.readUInt32LE(0)} of user ${userId}`
}

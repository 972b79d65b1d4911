/** Takes connections of Envoy on a UNIX socket, and refuses what is none of a local endpoint's. */
import { createServer, type Server, Socket } from 'node:net'
import { listenAtPath } from '#api/socket-path.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import { getSocketOption } from '#sys/libc.ts'
import { SOL_SOCKET } from '#sys/socket-options.ts'
import { bindTcp } from '#sys/tcp.ts'
import { parseSlotName } from '../../slot-name.ts'
import { SLOT_VALUE_TYPE } from '../contract.ts'
import { type DriverLimits, MemoryBudget, StreamDriver } from '../driver.ts'
import { RelayConnection, type Relayed } from './connection.ts'
import type { ProxyHeader } from './proxy-header.ts'
import type { LoadedSlot, RelaySlots } from './slots.ts'

const SO_PEERCRED = 17
const MODE = 0o600
const BACKLOG = 4096
const CONNECTIONS_MAX = 16_384
/** Of a worker, for what has to be held back. */
const BUDGET_BYTES = 256 << 20
const ANSWER_BYTES_MAX = 4 << 20
const TURNS_MAX = 1024

/** Which connection something is about. */
export interface RelayedConnection {
  readonly slot: LoadedSlot
  /** 16 bytes each. */
  readonly source: Uint8Array
  readonly sourcePort: number
  readonly destination: Uint8Array
  readonly destinationPort: number
}

export interface RelayServerParts {
  readonly path: string
  readonly slots: RelaySlots
  /** Runs in the namespace that proxies connect to servers from. */
  readonly inNetns: <T>(run: () => T) => T
  /** What a parser tells. */
  readonly onRecord: (connection: RelayedConnection, record: unknown) => void
  readonly onFailure: (connection: RelayedConnection, reason: string) => void
  readonly onRefused: (reason: string) => void
}

export class RelayServer {
  readonly #parts: RelayServerParts
  readonly #server: Server
  readonly #budget = new MemoryBudget(BUDGET_BYTES)
  readonly #connections = new Map<RelayConnection, LoadedSlot | undefined>()
  #onIdle: (() => void) | undefined
  #removeSocket: (() => void) | undefined

  constructor(parts: RelayServerParts) {
    this.#parts = parts
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket))
  }

  /** @throws ApiError when another process serves the path, or it cannot be served */
  async listen(): Promise<void> {
    this.#removeSocket = await listenAtPath(this.#parts.path, { mode: MODE }, async (path) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      this.#server.once('error', reject).listen({ path, backlog: BACKLOG }, resolve)
      await promise
      this.#server.off('error', reject)
    })
  }

  /** Connections of these end. */
  end(slots: readonly LoadedSlot[]): void {
    const ended = new Set(slots)
    for (const [connection, slot] of this.#connections) if (slot !== undefined && ended.has(slot)) connection.destroy()
  }

  /** Takes no more. Resolves when the last has ended, or after the time. */
  async drain(timeoutMs: number): Promise<void> {
    this.#stopListening()
    if (this.#connections.size === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
      this.#onIdle = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  close(): void {
    this.#stopListening()
    for (const connection of [...this.#connections.keys()]) connection.destroy()
  }

  #stopListening(): void {
    this.#removeSocket?.()
    this.#removeSocket = undefined
    this.#server.close()
  }

  #accept(socket: Socket): void {
    const reason = this.#connections.size >= CONNECTIONS_MAX ? `there are ${CONNECTIONS_MAX} connections already` : peerProblem(socket)
    if (reason !== '') {
      socket.on('error', () => {})
      socket.destroy()
      this.#parts.onRefused(reason)
      return
    }
    const connection: RelayConnection = new RelayConnection(socket, {
      open: (header) => this.#open(connection, header),
      onRefused: this.#parts.onRefused,
      onClose: () => {
        this.#connections.delete(connection)
        if (this.#connections.size === 0) this.#onIdle?.()
      },
    })
    this.#connections.set(connection, undefined)
  }

  #open(connection: RelayConnection, header: ProxyHeader): Relayed | undefined {
    const { source, sourcePort, destination, destinationPort, values } = header
    const { slots, onRefused } = this.#parts
    const text = values.get(SLOT_VALUE_TYPE)?.toString('latin1') ?? ''
    const name = parseSlotName(text)
    const slot = name && slots.get(name)
    if (slot === undefined) {
      onRefused(`no slot has the name ${JSON.stringify(text)}`)
      return undefined
    }
    const local = slot.direction === 'egress' ? source : destination
    if (!slots.isLocal(local)) {
      onRefused(`no endpoint has the address ${bytesToAddress(local)}`)
      return undefined
    }
    this.#connections.set(connection, slot)
    const told: RelayedConnection = { slot, source, sourcePort, destination, destinationPort }
    return {
      isServerFirst: slot.definition.isServerFirst,
      dial: () => this.#dial(told),
      drive: (sink) => {
        const parser = slot.definition.create({ rules: () => slot.rules, report: (record) => this.#parts.onRecord(told, record) })
        const limits: DriverLimits = {
          bufferBytesMax: slot.definition.bufferBytesMax,
          answerBytesMax: ANSWER_BYTES_MAX,
          turnsMax: TURNS_MAX,
          budget: this.#budget,
        }
        return new StreamDriver(parser, sink, limits)
      },
      onFailure: (reason) => this.#parts.onFailure(told, reason),
    }
  }

  /** As if the client had connected itself. Where its address cannot be had, it does not connect with another. @throws SystemCallError */
  #dial({ slot, source, destination, destinationPort }: RelayedConnection): Socket {
    return this.#parts.inNetns(() => {
      const fd = bindTcp(source, 0, { transparent: true, mark: slot.upstreamMark, bindsAddressOnly: true })
      return new Socket({ fd, allowHalfOpen: true })
        .setNoDelay(true)
        .setKeepAlive(true)
        .connect({ host: bytesToAddress(destination), port: destinationPort })
    })
  }
}

/** @returns why who connected is not Envoy, or empty. Its socket has no other name for the descriptor than this one. */
function peerProblem(socket: Socket & { readonly _handle?: { readonly fd?: number } }): string {
  const fd = socket._handle?.fd
  if (fd === undefined || fd < 0) return 'the socket has no descriptor'
  const credentials = Buffer.alloc(12)
  if (getSocketOption(fd, SOL_SOCKET, SO_PEERCRED, credentials) < 12) return 'the peer has no credentials'
  const userId = credentials.readUInt32LE(4)
  return userId === process.geteuid?.() ? '' : `the peer is process ${credentials.readUInt32LE(0)} of user ${userId}`
}

/**
 * DNS over TCP: a listener for each slot, at the port and with the mark by which the kernel hands it the connections that policy sends there.
 * A connection's own address is the server that the client addressed.
 */
import { createServer, type Server, Socket } from 'node:net'
import type { DnsSlot } from '#api/gen/headgate/v1/control_pb.js'
import type { AnswerRcode } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'
import { bindTcp } from '#sys/tcp.ts'
import type { QueryJudge } from './query-judge.ts'
import { TcpConnection, type TcpCounts } from './tcp-connection.ts'

export const CONNECTIONS_MAX = 4096
/** So that one client does not keep the others from connecting. */
export const CONNECTIONS_OF_CLIENT_MAX = 512
const BACKLOG = 4096
const SWEEP_INTERVAL_MS = 1000

const LOOPBACK = addressToBytes('127.0.0.1')

interface Listener {
  readonly slot: DnsSlot
  readonly server: Server
  readonly connections: Set<TcpConnection>
}

export class TcpProxy {
  readonly counts: TcpCounts = { overLimit: 0, dropped: 0, unexpected: 0, timedOut: 0, upstreamFailed: 0 }
  readonly #judge: QueryJudge
  readonly #rejectCode: AnswerRcode
  readonly #inNetns: <T>(run: () => T) => T
  readonly #onChange: () => void
  readonly #reader = new MessageReader()
  /** What there should be, and what there is. */
  #slots: readonly DnsSlot[] = []
  readonly #listeners = new Map<number, Listener>()
  readonly #countOfClient = new Map<string, number>()
  readonly #timer: NodeJS.Timeout
  #connectionCount = 0

  /** @param inNetns runs something in the egress proxies' namespace @param onChange a slot came to listen, or ceased to, by itself */
  constructor(judge: QueryJudge, rejectCode: AnswerRcode, inNetns: <T>(run: () => T) => T, onChange: () => void) {
    this.#judge = judge
    this.#rejectCode = rejectCode
    this.#inNetns = inNetns
    this.#onChange = onChange
    this.#timer = setInterval(() => this.#sweep(), SWEEP_INTERVAL_MS)
  }

  get connectionCount(): number {
    return this.#connectionCount
  }

  /** Whether connections to a slot can be accepted. */
  isListening({ mark }: DnsSlot): boolean {
    return this.#listeners.get(mark)?.server.listening === true
  }

  /** Listens for these and no others. A slot that is gone takes its connections with it; new rules of one that stays touch none. */
  setSlots(slots: Iterable<DnsSlot>): void {
    this.#slots = [...slots]
    const wanted = new Map(this.#slots.map((slot) => [slot.mark, slot]))
    for (const [mark, { slot }] of this.#listeners) {
      const next = wanted.get(mark)
      if (next === undefined || next.upstreamMark !== slot.upstreamMark || next.port !== slot.port) this.#close(mark)
    }
    this.#listen()
  }

  close(): void {
    clearInterval(this.#timer)
    for (const mark of [...this.#listeners.keys()]) this.#close(mark)
  }

  /** @returns whether a listener is new */
  #listen(): boolean {
    let isNew = false
    for (const slot of this.#slots) {
      if (this.#listeners.has(slot.mark)) continue
      const listener = this.#listenFor(slot)
      if (listener === undefined) continue
      this.#listeners.set(slot.mark, listener)
      isNew = true
    }
    return isNew
  }

  /** @returns undefined when the port cannot be had yet: it is tried again with the next sweep */
  #listenFor(slot: DnsSlot): Listener | undefined {
    const { mark, port } = slot
    let fd: number
    try {
      fd = this.#inNetns(() => bindTcp(LOOPBACK, port, { transparent: true, reuseAddress: true, mark }))
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error
      return undefined
    }
    const connections = new Set<TcpConnection>()
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket, slot, connections))
    server.on('error', () => {
      if (this.#listeners.get(mark)?.server !== server) return
      this.#close(mark)
      this.#onChange()
    })
    // Listens before it returns, or has no handle afterwards.
    server.listen({ fd, backlog: BACKLOG })
    return server.listening ? { slot, server, connections } : undefined
  }

  #close(mark: number): void {
    const listener = this.#listeners.get(mark)
    if (listener === undefined) return
    this.#listeners.delete(mark)
    listener.server.close()
    for (const connection of listener.connections) connection.destroy()
  }

  #accept(socket: Socket, { mark, upstreamMark }: DnsSlot, connections: Set<TcpConnection>): void {
    const { remoteAddress: client, remotePort: clientPort, localAddress: server, localPort: serverPort } = socket
    const ofClient = this.#countOfClient.get(client ?? '') ?? 0
    if (client === undefined || clientPort === undefined || server === undefined || serverPort === undefined) {
      // Gone before it was looked at.
      socket.destroy()
      return
    }
    if (this.#connectionCount >= CONNECTIONS_MAX || ofClient >= CONNECTIONS_OF_CLIENT_MAX) {
      this.counts.overLimit += 1
      socket.on('error', () => {})
      socket.resetAndDestroy()
      return
    }
    this.#countOfClient.set(client, ofClient + 1)
    this.#connectionCount += 1
    const clientAddress = addressToBytes(client)
    const dial = (): Socket => {
      const fd = this.#inNetns(() => bindTcp(clientAddress, 0, { transparent: true, mark: upstreamMark, bindsAddressOnly: true }))
      return new Socket({ fd, allowHalfOpen: true }).setNoDelay(true).connect({ host: server, port: serverPort })
    }
    const connection: TcpConnection = new TcpConnection(
      socket,
      {
        judge: this.#judge,
        rejectCode: this.#rejectCode,
        counts: this.counts,
        reader: this.#reader,
        mark,
        clientAddress,
        clientPort,
        serverAddress: addressToBytes(server),
        serverPort,
        dial,
      },
      () => {
        connections.delete(connection)
        this.#connectionCount -= 1
        const left = (this.#countOfClient.get(client) ?? 0) - 1
        if (left > 0) this.#countOfClient.set(client, left)
        else this.#countOfClient.delete(client)
      },
    )
    connections.add(connection)
  }

  #sweep(): void {
    const nowMs = performance.now()
    for (const { connections } of this.#listeners.values()) for (const connection of connections) connection.sweep(nowMs)
    if (this.#listen()) this.#onChange()
  }
}

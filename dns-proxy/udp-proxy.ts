/**
 * DNS over UDP. Queries of all slots come to one socket, with the slot in the packet's mark and the server that the client addressed beside
 * it; what policy allows leaves for that server with the client's own address as source, and the answer is let go when the kernel knows
 * what it teaches.
 */
import { DNS_ANSWERS_PORT, MARK_EGRESS_ACCEPTED, MARK_EGRESS_UPSTREAM } from '#bpf/gen/abi.ts'
import { type AnswerRcode, RCODE } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { errorAnswer, lowerUdpPayloadBytes, truncatedReply, writeId } from '#parsers/dns/reply.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'
import { type ReceiveBatch, UdpSocket } from '#sys/udp.ts'
import type { QueryJudge, RefusedQuery } from './query-judge.ts'
import { randomIndex } from './random-numbers.ts'
import type { JudgedQuestion, SlotRules } from './slot-rules.ts'
import { type Transaction, Transactions } from './transactions.ts'

/** Each with a port of its own: what an attacker has to guess beside the id. */
const UPSTREAM_SOCKETS = 64
/** Of the proxies' namespace (agent/datapath/topology.ts); workloads choose theirs above. */
const UPSTREAM_PORTS = { first: 10_240, last: 32_767 } as const
/** As Cilium's; clients ask again long before. */
const ANSWER_WAIT_MS = 10_000
const EXPIRY_INTERVAL_MS = 1000
const BUFFER_BYTES = 8 << 20
const REPLY_SOCKETS_MAX = 256
/**
 * What passes as one packet, whatever tunnels it goes through (DNS flag day 2020): the datapath drops fragments (bpf/src/packet.h). Servers
 * are told so, and what they send beyond it comes over TCP.
 */
const UDP_PAYLOAD_BYTES = 1232
const DATAGRAM_BYTES_MAX = 65_535
const LARGE_BATCH = 16

const LOOPBACK = addressToBytes('127.0.0.1')
const ANY = addressToBytes('0.0.0.0')

export interface UdpCounts {
  /** Datagrams that no slot of ours was meant by, or that were no query. */
  dropped: number
  /** Queries for which there was no room. */
  overLimit: number
  /** Answers that nobody waits for, or of somebody who was not asked. */
  unexpected: number
  timedOut: number
}

export class UdpProxy {
  readonly counts: UdpCounts = { dropped: 0, overLimit: 0, unexpected: 0, timedOut: 0 }
  readonly #judge: QueryJudge
  readonly #rejectCode: AnswerRcode
  readonly #transactions = new Transactions(UPSTREAM_SOCKETS)
  readonly #queries: UdpSocket
  readonly #answers: UdpSocket
  readonly #upstream: UdpSocket[] = []
  readonly #socketOfPort = new Map<number, number>()
  /** By the port that they answer from; the oldest goes when there are too many. */
  readonly #replies = new Map<number, UdpSocket>()
  readonly #dirty = new Set<UdpSocket>()
  readonly #inNetns: <T>(run: () => T) => T
  readonly #reader = new MessageReader()
  readonly #timer: NodeJS.Timeout

  /**
   * @param queries stays open when this is closed @param inNetns runs something in the egress proxies' namespace
   * @throws SystemCallError; nothing is left open then
   */
  constructor(judge: QueryJudge, rejectCode: AnswerRcode, queries: UdpSocket, inNetns: <T>(run: () => T) => T) {
    this.#judge = judge
    this.#rejectCode = rejectCode
    this.#queries = queries
    this.#inNetns = inNetns
    const large = { datagramBytesMax: DATAGRAM_BYTES_MAX, batchCount: LARGE_BATCH }
    const buffers = { receiveBufferBytes: BUFFER_BYTES, sendBufferBytes: BUFFER_BYTES }
    this.#answers = inNetns(() =>
      UdpSocket.bind(LOOPBACK, DNS_ANSWERS_PORT, {
        ...large,
        ...buffers,
        transparent: true,
        mark: MARK_EGRESS_UPSTREAM,
        receiveOriginalDestination: true,
      }),
    )
    try {
      while (this.#upstream.length < UPSTREAM_SOCKETS) {
        const socket = this.#bindUpstream()
        this.#socketOfPort.set(socket.localPort, this.#upstream.push(socket) - 1)
      }
    } catch (error) {
      for (const socket of [this.#answers, ...this.#upstream]) socket.close()
      throw error
    }
    this.#timer = setInterval(() => this.#expire(), EXPIRY_INTERVAL_MS)
  }

  start(): void {
    this.#queries.receive((batch) => this.#onQueries(batch))
    this.#answers.receive((batch) => this.#onAnswers(batch))
  }

  /** Takes no more queries; those that come wait in their socket. */
  stop(): void {
    this.#queries.stop()
  }

  close(): void {
    clearInterval(this.#timer)
    this.stop()
    this.#queries.flush()
    for (const socket of [this.#answers, ...this.#upstream, ...this.#replies.values()]) socket.close()
  }

  #bindUpstream(): UdpSocket {
    for (let tries = 0; ; tries++) {
      const port = UPSTREAM_PORTS.first + randomIndex(UPSTREAM_PORTS.last + 1 - UPSTREAM_PORTS.first)
      try {
        return this.#inNetns(() =>
          UdpSocket.bind(ANY, port, { transparent: true, mark: MARK_EGRESS_UPSTREAM, sendBufferBytes: BUFFER_BYTES }),
        )
      } catch (error) {
        if (!(error instanceof SystemCallError) || error.code !== 'EADDRINUSE' || tries > UPSTREAM_SOCKETS) throw error
      }
    }
  }

  #onQueries(batch: ReceiveBatch): void {
    const nowMs = performance.now()
    this.#transactions.draw(batch.count)
    for (let index = 0; index < batch.count; index++) this.#onQuery(batch, index, nowMs)
    this.#flush()
  }

  #onQuery(batch: ReceiveBatch, index: number, nowMs: number): void {
    const slot = this.#judge.slotAt(batch.mark(index))
    const reader = this.#reader
    const data = batch.data(index)
    const isReadable = reader.load(data) && !batch.isTruncated(index)
    if (slot === undefined || !reader.hasHeader || reader.isReply) {
      this.counts.dropped += 1
      return
    }
    const client = this.#judge.clientAt(batch.source(index))
    const judged = client === undefined ? RCODE.SERVFAIL : this.#judge.judge(reader, isReadable, slot, client)
    if (client === undefined || typeof judged === 'number') {
      this.#refuseAt(batch, index, slot, undefined, judged as AnswerRcode)
      return
    }
    if (!judged.isAllowed) {
      this.#refuseAt(batch, index, slot, judged, this.#rejectCode)
      return
    }
    const server = this.#judge.serverAt(batch.destination(index))
    const clientPort = batch.sourcePort(index)
    const serverPort = batch.destinationPort(index)
    const transaction: Transaction = {
      client,
      clientPort,
      server,
      serverPort,
      clientId: reader.id,
      asked: judged,
      slotId: slot.slot.id,
      startedMs: nowMs,
      socket: 0,
      id: 0,
    }
    if (this.#judge.begin(client, server)) this.#forward(transaction, data, true)
    else if (!this.#waits(transaction, Uint8Array.from(data))) this.#forward(transaction, data, false)
  }

  /** @returns whether a query that there is no room for waits for some */
  #waits(transaction: Transaction, message: Uint8Array): boolean {
    return this.#judge.waitForRoom(transaction.client, transaction.server, (hasRoom) => {
      this.#reader.load(message)
      this.#forward(transaction, message, hasRoom)
      this.#flush()
    })
  }

  /** Sends a query to its server, or SERVFAIL back. @param data loaded */
  #forward(transaction: Transaction, data: Uint8Array, hasRoom: boolean): void {
    const { client, clientPort, server, serverPort, slotId, asked } = transaction
    if (!hasRoom || !this.#transactions.open(transaction)) {
      if (hasRoom) this.#judge.end(transaction)
      this.counts.overLimit += 1
      const query = { slotId, clientAddress: client.address, clientPort, serverAddress: server.address, serverPort, asked }
      this.#refuse(query, RCODE.SERVFAIL)
      return
    }
    const socket = this.#upstream[transaction.socket] as UdpSocket
    writeId(data, transaction.id)
    lowerUdpPayloadBytes(this.#reader, UDP_PAYLOAD_BYTES)
    socket.send(data, server.address, serverPort, client.address)
    this.#dirty.add(socket)
  }

  #refuseAt(batch: ReceiveBatch, index: number, { slot }: SlotRules, asked: JudgedQuestion | undefined, rcode: AnswerRcode): void {
    const query = {
      slotId: slot.id,
      clientAddress: batch.source(index),
      clientPort: batch.sourcePort(index),
      serverAddress: batch.destination(index),
      serverPort: batch.destinationPort(index),
      asked,
    }
    this.#refuse(query, rcode)
  }

  /** Answers what is loaded in place of the server. */
  #refuse(query: RefusedQuery, rcode: AnswerRcode): void {
    this.#judge.reportRefused(query, false, rcode)
    const answer = errorAnswer(this.#reader, rcode, UDP_PAYLOAD_BYTES)
    if (answer !== undefined) this.#send(answer, query.clientAddress, query.clientPort, query.serverAddress, query.serverPort)
  }

  #onAnswers(batch: ReceiveBatch): void {
    const nowMs = performance.now()
    for (let index = 0; index < batch.count; index++) this.#onAnswer(batch, index, nowMs)
    this.#flush()
  }

  #onAnswer(batch: ReceiveBatch, index: number, nowMs: number): void {
    const data = batch.data(index)
    const socket = this.#socketOfPort.get(batch.destinationPort(index))
    const transaction = socket === undefined || data.length < 2 ? undefined : this.#transactions.find(socket, data.readUInt16BE(0))
    if (transaction === undefined || !isFrom(transaction, batch, index)) {
      this.counts.unexpected += 1
      return
    }
    const reader = this.#reader
    reader.load(data)
    if (batch.isTruncated(index) || !this.#judge.isAnswerTo(reader, transaction)) {
      // The one that was asked may still answer in another way.
      this.counts.unexpected += 1
      return
    }
    this.#transactions.close(transaction)
    this.#judge.end(transaction)
    let answer: Uint8Array = data
    const replacement = this.#judge.replacementOf(reader, transaction)
    if (replacement !== undefined) {
      answer = replacement
      reader.load(answer)
    } else if (data.length > UDP_PAYLOAD_BYTES) {
      // The client comes back over TCP; before that it has no address, and nobody learns one.
      answer = truncatedReply(reader, UDP_PAYLOAD_BYTES)
      reader.load(answer)
    }
    this.#judge.learn(reader, transaction, nowMs, false)
    writeId(answer, transaction.clientId)
    this.#send(answer, transaction.client.address, transaction.clientPort, transaction.server.address, transaction.serverPort)
  }

  #send(data: Uint8Array, clientAddress: Uint8Array, clientPort: number, serverAddress: Uint8Array, serverPort: number): void {
    const socket = this.#replies.get(serverPort) ?? this.#bindReply(serverPort)
    if (socket === undefined) {
      this.counts.dropped += 1
      return
    }
    socket.send(data, clientAddress, clientPort, serverAddress)
    this.#dirty.add(socket)
  }

  #bindReply(serverPort: number): UdpSocket | undefined {
    if (this.#replies.size >= REPLY_SOCKETS_MAX) {
      const [oldest] = this.#replies
      if (oldest !== undefined) {
        this.#replies.delete(oldest[0])
        this.#dirty.delete(oldest[1])
        oldest[1].close()
      }
    }
    try {
      const socket = this.#inNetns(() =>
        UdpSocket.bind(ANY, serverPort, {
          transparent: true,
          reuseAddress: true,
          mark: MARK_EGRESS_ACCEPTED,
          sendBufferBytes: BUFFER_BYTES,
        }),
      )
      this.#replies.set(serverPort, socket)
      return socket
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error
      return undefined
    }
  }

  #flush(): void {
    for (const socket of this.#dirty) socket.flush()
    this.#dirty.clear()
  }

  #expire(): void {
    for (const transaction of this.#transactions.expire(performance.now() - ANSWER_WAIT_MS)) {
      this.counts.timedOut += 1
      this.#judge.end(transaction)
      this.#judge.reportTimeout(transaction, false)
    }
  }
}

function isFrom({ server, serverPort, client }: Transaction, batch: ReceiveBatch, index: number): boolean {
  return (
    batch.sourcePort(index) === serverPort &&
    isSameAddress(server.address, batch.source(index)) &&
    isSameAddress(client.address, batch.destination(index))
  )
}

/** From the end, where addresses differ. */
function isSameAddress(one: Uint8Array, other: Uint8Array): boolean {
  for (let offset = 15; offset >= 0; offset--) if (one[offset] !== other[offset]) return false
  return true
}

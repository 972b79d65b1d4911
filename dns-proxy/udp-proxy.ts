/**
 * DNS over UDP. Queries of all slots come to one socket, with the slot in the packet's mark and the server that the client addressed beside
 * it; what policy allows leaves for that server with the client's own address as source, and the answer is let go when the kernel knows
 * what it teaches.
 */
import { randomInt } from 'node:crypto'
import { DNS_ANSWERS_PORT, DNS_QUERIES_PORT, MARK_EGRESS_ACCEPTED, MARK_EGRESS_UPSTREAM } from '#bpf/gen/abi.ts'
import { type AnswerRcode, RCODE } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { errorAnswer, writeId } from '#parsers/dns/reply.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'
import { type ReceiveBatch, UdpSocket } from '#sys/udp.ts'
import type { QueryJudge } from './query-judge.ts'
import { type Transaction, Transactions } from './transactions.ts'

/** Each with a port of its own: what an attacker has to guess beside the id. */
const UPSTREAM_SOCKETS = 64
/** Of the proxies' namespace (agent/datapath/topology.ts); workloads choose theirs above. */
const UPSTREAM_PORTS = { first: 10_240, last: 32_767 } as const
const TRANSACTIONS_MAX = 65_536
/** As Cilium's; clients ask again long before. */
const ANSWER_WAIT_MS = 10_000
const EXPIRY_INTERVAL_MS = 1000
const BUFFER_BYTES = 8 << 20
const REPLY_SOCKETS_MAX = 256
/** What we tell of ourselves in answers of our own. */
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
  readonly #transactions = new Transactions(UPSTREAM_SOCKETS, TRANSACTIONS_MAX)
  readonly #queries: UdpSocket
  readonly #answers: UdpSocket
  readonly #upstream: readonly UdpSocket[]
  readonly #socketOfPort = new Map<number, number>()
  /** By the port that they answer from; the oldest goes when there are too many. */
  readonly #replies = new Map<number, UdpSocket>()
  readonly #dirty = new Set<UdpSocket>()
  readonly #inNetns: <T>(run: () => T) => T
  readonly #reader = new MessageReader()
  readonly #timer: NodeJS.Timeout

  /** @param inNetns runs something in the egress proxies' namespace */
  constructor(judge: QueryJudge, rejectCode: AnswerRcode, inNetns: <T>(run: () => T) => T) {
    this.#judge = judge
    this.#rejectCode = rejectCode
    this.#inNetns = inNetns
    const common = { transparent: true, receiveBufferBytes: BUFFER_BYTES, sendBufferBytes: BUFFER_BYTES }
    const large = { datagramBytesMax: DATAGRAM_BYTES_MAX, batchCount: LARGE_BATCH }
    this.#queries = inNetns(() =>
      UdpSocket.bind(LOOPBACK, DNS_QUERIES_PORT, {
        ...common,
        mark: MARK_EGRESS_ACCEPTED,
        receiveMark: true,
        receiveOriginalDestination: true,
      }),
    )
    this.#answers = inNetns(() =>
      UdpSocket.bind(LOOPBACK, DNS_ANSWERS_PORT, { ...common, ...large, mark: MARK_EGRESS_UPSTREAM, receiveOriginalDestination: true }),
    )
    this.#upstream = Array.from({ length: UPSTREAM_SOCKETS }, () => this.#bindUpstream())
    for (const [index, { localPort }] of this.#upstream.entries()) this.#socketOfPort.set(localPort, index)
    this.#timer = setInterval(() => this.#expire(), EXPIRY_INTERVAL_MS)
  }

  start(): void {
    this.#queries.receive((batch) => this.#onQueries(batch))
    this.#answers.receive((batch) => this.#onAnswers(batch))
  }

  close(): void {
    clearInterval(this.#timer)
    for (const socket of [this.#queries, this.#answers, ...this.#upstream, ...this.#replies.values()]) socket.close()
  }

  #bindUpstream(): UdpSocket {
    for (let tries = 0; ; tries++) {
      const port = randomInt(UPSTREAM_PORTS.first, UPSTREAM_PORTS.last + 1)
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
    for (let index = 0; index < batch.count; index++) this.#onQuery(batch, index, nowMs)
    this.#flush()
  }

  #onQuery(batch: ReceiveBatch, index: number, nowMs: number): void {
    const slot = this.#judge.slotAt(batch.mark(index))
    const reader = this.#reader
    const isReadable = !batch.isTruncated(index) && reader.load(batch.data(index))
    if (slot === undefined || (!isReadable && !reader.hasHeader) || reader.isReply) {
      this.counts.dropped += 1
      return
    }
    const query = { data: batch.data(index), slot, clientAddress: batch.source(index), serverAddress: batch.destination(index) }
    const judged = this.#judge.judge(reader, isReadable, query)
    const clientPort = batch.sourcePort(index)
    const serverPort = batch.destinationPort(index)
    if (judged.refusal !== undefined) {
      const rcode = judged.refusal === 'policy' ? this.#rejectCode : judged.refusal
      this.#judge.reportRefused(judged, { ...query, clientPort, serverPort, isTcp: false }, rcode)
      this.#answer(reader, rcode, query, clientPort, serverPort)
      return
    }
    const transaction = this.#transactions.open({
      clientAddress: Buffer.from(query.clientAddress),
      clientPort,
      serverAddress: Buffer.from(query.serverAddress),
      serverPort,
      clientId: reader.id,
      name: judged.name,
      type: judged.type,
      question: judged.question,
      slotId: slot.slot.id,
      endpointId: judged.endpointId,
      verdict: judged.verdict,
      startedMs: nowMs,
    })
    if (transaction === undefined) {
      this.counts.overLimit += 1
      this.#answer(reader, RCODE.SERVFAIL, query, clientPort, serverPort)
      return
    }
    const socket = this.#upstream[transaction.socket] as UdpSocket
    writeId(query.data, transaction.id)
    socket.send(query.data, transaction.serverAddress, serverPort, transaction.clientAddress)
    this.#dirty.add(socket)
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
    this.#judge.learn(reader, transaction, nowMs, false)
    writeId(data, transaction.clientId)
    this.#send(data, transaction.clientAddress, transaction.clientPort, transaction.serverAddress, transaction.serverPort)
  }

  #answer(
    reader: MessageReader,
    rcode: AnswerRcode,
    { clientAddress, serverAddress }: { readonly clientAddress: Uint8Array; readonly serverAddress: Uint8Array },
    clientPort: number,
    serverPort: number,
  ): void {
    const answer = errorAnswer(reader, rcode, UDP_PAYLOAD_BYTES)
    if (answer !== undefined) this.#send(answer, clientAddress, clientPort, serverAddress, serverPort)
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
      this.#judge.reportTimeout(transaction, false)
    }
  }
}

function isFrom({ serverAddress, serverPort, clientAddress }: Transaction, batch: ReceiveBatch, index: number): boolean {
  return (
    batch.sourcePort(index) === serverPort &&
    Buffer.compare(serverAddress, batch.source(index)) === 0 &&
    Buffer.compare(clientAddress, batch.destination(index)) === 0
  )
}

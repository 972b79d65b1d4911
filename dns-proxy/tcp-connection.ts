/**
 * One client's connection: its queries are judged each by itself, and what may go shares one connection to the server that the client
 * addressed, which is opened for the first of them. Answers come in whatever order the server gives them, refusals at once (RFC 7766 6.2.1.1).
 * Nothing is read from one side that the other does not take.
 */
import type { Socket } from 'node:net'
import { type AnswerRcode, HEADER_BYTES, RCODE, TYPE } from '#parsers/dns/codes.ts'
import { encodeFrame, FrameReader } from '#parsers/dns/frame.ts'
import type { MessageReader } from '#parsers/dns/message.ts'
import { errorAnswer, writeId } from '#parsers/dns/reply.ts'
import type { QueryJudge } from './query-judge.ts'
import { randomId } from './random-numbers.ts'
import type { JudgedQuestion } from './slot-rules.ts'
import type { OpenQuery } from './transactions.ts'

/** Queries on their way; more are read when one of them is answered. */
export const QUERIES_OF_CONNECTION_MAX = 128
/** As over UDP: nothing that asks needs more. */
const QUERY_BYTES_MAX = 4096
const ANSWER_WAIT_MS = 10_000
const IDLE_MS = 10_000
const DIAL_MS = 5000
/** For a client to take what is left, and to close its side. */
const LINGER_MS = 10_000
/** Zone transfers are many messages, which say of none of the names in them that somebody asked for it. */
const TRANSFERS: ReadonlySet<number> = new Set([TYPE.AXFR, TYPE.IXFR])
/** Over TCP a size of messages over UDP has to be told all the same. */
const UDP_PAYLOAD_BYTES = 1232

/** Of all connections since the process began. */
export interface TcpCounts {
  /** Connections and queries that there was no room for. */
  overLimit: number
  /** Messages that were no query. */
  dropped: number
  /** Messages of a server that answer nothing that was asked of it. */
  unexpected: number
  timedOut: number
  /** Connections to a server that could not be made, or broke. */
  upstreamFailed: number
}

export interface ConnectionParts {
  readonly judge: QueryJudge
  readonly rejectCode: AnswerRcode
  readonly counts: TcpCounts
  /** Shared: it is used for one message at a time. */
  readonly reader: MessageReader
  /** The slot's, which is looked up for each query: its rules change while connections last. */
  readonly mark: number
  /** 16 bytes each, IPv4 mapped. */
  readonly clientAddress: Uint8Array
  readonly clientPort: number
  readonly serverAddress: Uint8Array
  readonly serverPort: number
  /** Begins a connection to the server, with the client's address. @throws SystemCallError */
  readonly dial: () => Socket
}

export class TcpConnection {
  readonly #parts: ConnectionParts
  readonly #client: Socket
  readonly #queries = new FrameReader(QUERY_BYTES_MAX)
  readonly #answers = new FrameReader()
  /** By the id that they were given here: a client may use one twice. */
  readonly #open = new Map<number, OpenQuery>()
  /** Queries that wait for room among all. */
  #waitingCount = 0
  #upstream: Socket | undefined
  #dialedMs = 0
  /** When a whole query came or an answer was let go. */
  #activeMs = performance.now()
  #hasClientEnded = false
  /** When nothing more was to be said to the client. */
  #finishedMs: number | undefined

  /** @param client accepted, with allowHalfOpen @param onClose told once */
  constructor(client: Socket, parts: ConnectionParts, onClose: () => void) {
    this.#client = client
    this.#parts = parts
    client.on('data', (chunk: Buffer) => {
      this.#queries.push(chunk)
      this.#readQueries()
    })
    client.on('end', () => {
      this.#hasClientEnded = true
      this.#finishIfDone()
    })
    client.on('drain', () => {
      this.#readAnswers()
      this.#readQueries()
    })
    // Whatever breaks, 'close' follows.
    client.on('error', () => {})
    client.on('close', () => {
      this.#upstream?.destroy()
      for (const [id, query] of this.#open) this.#end(id, query)
      onClose()
    })
  }

  get openCount(): number {
    return this.#open.size
  }

  /** Ends it at once, both sides. */
  destroy(): void {
    this.#upstream?.destroy()
    this.#client.resetAndDestroy()
  }

  /** Ends what has waited too long. To be called every second or so. */
  sweep(nowMs: number): void {
    if (this.#finishedMs !== undefined) {
      if (nowMs - this.#finishedMs > LINGER_MS) this.destroy()
      return
    }
    if (this.#upstream?.connecting === true && nowMs - this.#dialedMs > DIAL_MS) {
      this.#upstreamFailed()
      return
    }
    const open = this.#open.size
    for (const [id, query] of this.#open) {
      if (query.startedMs >= nowMs - ANSWER_WAIT_MS) break
      this.#lose(id, query)
    }
    if (this.#open.size < open) this.#readQueries()
    if (this.#open.size + this.#waitingCount === 0 && nowMs - this.#activeMs > IDLE_MS) this.#finish()
  }

  get #canReadQueries(): boolean {
    return (
      this.#finishedMs === undefined &&
      !this.#client.destroyed &&
      this.#open.size + this.#waitingCount < QUERIES_OF_CONNECTION_MAX &&
      !this.#client.writableNeedDrain &&
      this.#upstream?.writableNeedDrain !== true
    )
  }

  /** Takes queries for as long as their answers could be taken. */
  #readQueries(): void {
    this.#client.cork()
    this.#upstream?.cork()
    while (this.#canReadQueries) {
      const message = this.#queries.next()
      if (message === undefined) break
      this.#onQuery(message)
    }
    this.#upstream?.uncork()
    this.#client.uncork()
    if (this.#queries.fault !== undefined) this.destroy()
    else if (this.#canReadQueries) this.#client.resume()
    else this.#client.pause()
    this.#finishIfDone()
  }

  #onQuery(message: Uint8Array): void {
    const { judge, reader, rejectCode, counts, mark, clientAddress, clientPort, serverAddress, serverPort } = this.#parts
    const slot = judge.slotAt(mark)
    if (slot === undefined) {
      this.destroy()
      return
    }
    const isReadable = reader.load(message)
    if (!reader.hasHeader || reader.isReply) {
      counts.dropped += 1
      return
    }
    const startedMs = performance.now()
    this.#activeMs = startedMs
    const slotId = slot.slot.id
    const client = judge.clientAt(clientAddress)
    const judged = client === undefined ? RCODE.SERVFAIL : judge.judge(reader, isReadable, slot, client)
    if (client === undefined || typeof judged === 'number') {
      this.#refuse(slotId, undefined, judged as AnswerRcode)
      return
    }
    if (!judged.isAllowed || TRANSFERS.has(judged.type)) {
      this.#refuse(slotId, judged, judged.isAllowed ? RCODE.NOTIMP : rejectCode)
      return
    }
    const server = judge.serverAt(serverAddress)
    const query = { client, clientPort, server, serverPort, clientId: reader.id, asked: judged, slotId, startedMs }
    if (judge.begin(client, server)) this.#forward(query, message, true)
    else if (!this.#waits(query, Uint8Array.from(message))) this.#forward(query, message, false)
  }

  /** @returns whether a query that there is no room for waits for some */
  #waits(query: OpenQuery, message: Uint8Array): boolean {
    const { judge, reader } = this.#parts
    const waits = judge.waitForRoom(query.client, query.server, (hasRoom) => {
      this.#waitingCount -= 1
      if (this.#client.destroyed || this.#finishedMs !== undefined) {
        if (hasRoom) judge.end(query)
        return
      }
      reader.load(message)
      this.#forward(query, message, hasRoom)
      this.#upstream?.uncork()
      this.#readQueries()
    })
    if (waits) this.#waitingCount += 1
    return waits
  }

  /** Sends a query to the server, or SERVFAIL back. @param message loaded */
  #forward(query: OpenQuery, message: Uint8Array, hasRoom: boolean): void {
    const { judge, counts } = this.#parts
    if (!hasRoom) {
      counts.overLimit += 1
      this.#refuse(query.slotId, query.asked, RCODE.SERVFAIL)
      return
    }
    const upstream = this.#upstream ?? this.#dial()
    if (upstream === undefined) {
      judge.end(query)
      return
    }
    const id = this.#freeId()
    this.#open.set(id, query)
    writeId(message, id)
    upstream.write(encodeFrame(message))
  }

  /** Answers in place of the server. @param asked undefined when the question was not looked at */
  #refuse(slotId: number, asked: JudgedQuestion | undefined, rcode: AnswerRcode): void {
    const { judge, reader, clientAddress, clientPort, serverAddress, serverPort } = this.#parts
    judge.reportRefused({ slotId, clientAddress, clientPort, serverAddress, serverPort, asked }, true, rcode)
    const answer = errorAnswer(reader, rcode, UDP_PAYLOAD_BYTES)
    if (answer !== undefined) this.#client.write(encodeFrame(answer))
  }

  /** Few of the ids are in use. */
  #freeId(): number {
    for (;;) {
      const id = randomId()
      if (!this.#open.has(id)) return id
    }
  }

  #dial(): Socket | undefined {
    let upstream: Socket
    try {
      upstream = this.#parts.dial()
    } catch {
      this.#upstreamFailed()
      return undefined
    }
    this.#upstream = upstream
    this.#dialedMs = performance.now()
    upstream.cork()
    upstream.on('data', (chunk: Buffer) => {
      this.#answers.push(chunk)
      this.#readAnswers()
    })
    upstream.on('drain', () => this.#readQueries())
    upstream.on('error', () => this.#upstreamFailed())
    upstream.on('end', () => {
      for (const [id, query] of this.#open) this.#lose(id, query)
      this.#finish()
    })
    return upstream
  }

  #readAnswers(): void {
    const upstream = this.#upstream
    if (upstream === undefined) return
    const nowMs = performance.now()
    this.#client.cork()
    while (!this.#client.writableNeedDrain) {
      const message = this.#answers.next()
      if (message === undefined) break
      this.#onAnswer(message, nowMs)
    }
    this.#client.uncork()
    if (this.#answers.fault !== undefined) {
      this.#upstreamFailed()
      return
    }
    if (this.#client.writableNeedDrain) upstream.pause()
    else upstream.resume()
    this.#readQueries()
  }

  #onAnswer(message: Uint8Array, nowMs: number): void {
    const { judge, reader, counts } = this.#parts
    reader.load(message)
    const query = message.length < HEADER_BYTES ? undefined : this.#open.get(reader.id)
    if (query === undefined || !judge.isAnswerTo(reader, query)) {
      counts.unexpected += 1
      return
    }
    this.#end(reader.id, query)
    this.#activeMs = nowMs
    const answer = judge.replacementOf(reader, query) ?? message
    if (answer !== message) reader.load(answer)
    judge.learn(reader, query, nowMs, true)
    writeId(answer, query.clientId)
    this.#client.write(encodeFrame(answer))
  }

  #end(id: number, query: OpenQuery): void {
    this.#open.delete(id)
    this.#parts.judge.end(query)
  }

  #lose(id: number, query: OpenQuery): void {
    this.#end(id, query)
    this.#parts.counts.timedOut += 1
    this.#parts.judge.reportTimeout(query, true)
  }

  #upstreamFailed(): void {
    this.#parts.counts.upstreamFailed += 1
    for (const [id, query] of this.#open) this.#lose(id, query)
    this.destroy()
  }

  /** A client that asks no more still gets what it asked for. */
  #finishIfDone(): void {
    if (this.#hasClientEnded && this.#open.size + this.#waitingCount === 0 && this.#canReadQueries) this.#finish()
  }

  /** Says goodbye to both sides, behind what is still to be written. */
  #finish(): void {
    if (this.#finishedMs !== undefined) return
    this.#finishedMs = performance.now()
    this.#upstream?.destroy()
    this.#client.end()
    // Whatever comes is of no use any more, and is taken so that the end behind it is seen.
    this.#client.resume()
  }
}

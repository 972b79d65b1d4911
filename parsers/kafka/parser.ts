/**
 * The Kafka parser: each request is judged by what it names before it goes on, and a denied one gets the answer that a broker gives to what it does
 * not authorize. What goes on is the client's own bytes; record batches are neither read nor kept, where one topic is produced to.
 */
import {
  answer,
  drop,
  fail,
  insert,
  more,
  type Op,
  type Ops,
  type Parser,
  type ParserConnection,
  type ParserDefinition,
  pass,
  type StreamDirection,
} from '../contract.ts'
import { API_KEYS, apiKeyOfNumber, type KafkaApiKey } from './api-keys.ts'
import { encodeUnsupportedApiVersions, filterApiVersions } from './api-versions.ts'
import { Cursor, decodeLeadingMessage, type KafkaStruct, type Place, skipTagged } from './decode.ts'
import { CORRELATION_BYTES, type DeniedKind, ERROR_CODES, encodeDenial, encodeResponse } from './denial.ts'
import { IncompleteError, KafkaParseError } from './errors.ts'
import { FetchSessions, sessionBegunBy, sessionHeadBytes, sessionUseOf } from './fetch-sessions.ts'
import { decodeRequestHeader, decodeSize, type RequestHeader, SIZE_BYTES } from './frame.ts'
import type { KafkaRuleset, KafkaVerdict } from './judge.ts'
import { type KafkaRequest, meansAllWithoutTopics } from './match.ts'
import { isAboutResources, namedIn, namedInStruct } from './named.ts'
import { asksAllOffsets, filterOffsets } from './offset-lists.ts'
import { decodeProduceHead } from './produce.ts'
import { isFollowedByTokens, tokenFrameBytes, tokensOf } from './sasl.ts'
import { type MessagePlan, planOf, type StructPlan } from './schema.ts'
import { prependEntries, type SplitRequest, splitTopics } from './split.ts'
import { TopicIds } from './topic-ids.ts'
import { filterTopicList, isTopicList, narrowTopicList } from './topic-lists.ts'

/** What brokers take at most unless they say otherwise (socket.request.max.bytes, 100 MiB), and a little more. */
const BUFFER_BYTES_MAX = 128 << 20

/** What a flow tells of a request. */
export interface KafkaRecord {
  /** Name of the kind of request, or its number. */
  readonly apiKey: string
  readonly apiVersion: number
  readonly correlationId: number
  readonly clientId: string
  readonly topics: readonly string[]
  readonly isAllowed: boolean
  readonly rule: string
  readonly isAudited: boolean
  /** What the client is told; 0: nothing. */
  readonly errorCode: number
}

/** What becomes of a request that names topics some of which are denied. */
export type MixedRequests = 'split' | 'deny'

export const KAFKA_PARSER = 'kafka'

export function kafkaParser(mixedRequests: MixedRequests = 'split'): ParserDefinition<KafkaRuleset, KafkaRecord> {
  return {
    name: KAFKA_PARSER,
    isServerFirst: false,
    bufferBytesMax: BUFFER_BYTES_MAX,
    create: (connection) => new KafkaParser(connection, mixedRequests),
  }
}

const ERROR_BYTES = 2

interface ReadRequest extends KafkaRequest {
  readonly otherTransactions: readonly string[]
}

interface Judged extends KafkaRequest {
  readonly verdict: KafkaVerdict
}

class KafkaParser implements Parser {
  readonly #connection: ParserConnection<KafkaRuleset, KafkaRecord>
  /** Requests that the broker has not answered: it answers them in their order. */
  readonly #open: OpenRequest[] = []
  readonly #ids = new TopicIds()
  readonly #sessions = new FetchSessions()
  readonly #mixedRequests: MixedRequests
  /** The client has sent a handshake that tokens follow, if the broker agrees. */
  #isHandshaking = false
  /** How many tokens of it come next. */
  #tokens = 0
  /** The broker has not said yet what ids stand for. Whatever else it says meanwhile does not tell. */
  #isAsking = false

  constructor(connection: ParserConnection<KafkaRuleset, KafkaRecord>, mixedRequests: MixedRequests) {
    this.#connection = connection
    this.#mixedRequests = mixedRequests
  }

  onData(direction: StreamDirection, bytes: Uint8Array, endOfStream: boolean): Ops {
    if (endOfStream) return []
    const ops: Op[] = []
    let rest = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    try {
      while (rest.length > 0) {
        const covered = direction === 'original' ? this.#request(rest, ops) : this.#reply(rest, ops)
        if (covered === 0 || covered > rest.length) break
        rest = rest.subarray(covered)
      }
    } catch (error) {
      if (error instanceof IncompleteError) ops.push(more(error.neededBytes))
      else if (error instanceof KafkaParseError) ops.push(fail(error.message))
      else throw error
    }
    return ops
  }

  /** @returns how many bytes the ops are about; more than there are: the rest goes the same way */
  #request(bytes: Buffer, ops: Op[]): number {
    if (this.#isHandshaking || this.#isAsking) {
      ops.push({ op: 'wait' })
      return 0
    }
    if (this.#tokens > 0) return this.#token(bytes, ops)
    if (bytes.length < SIZE_BYTES) throw new IncompleteError(SIZE_BYTES)
    const frameBytes = SIZE_BYTES + decodeSize(bytes)
    const header = decodeRequestHeader(bytes, frameBytes)
    const kind = apiKeyOfNumber(header.apiKey)
    const plan = planOf('request', header.apiKey, header.apiVersion)
    // Before it, nothing is known of the other side.
    if (header.apiKey === API_KEYS.API_VERSIONS) return this.#apiVersions(header, plan !== undefined, frameBytes, ops)
    if (kind === undefined || plan === undefined) return this.#unknown(header, frameBytes, ops)
    if (header.apiKey === API_KEYS.PRODUCE) return this.#produce(header, plan, kind, bytes, frameBytes, ops)
    const message = decodeBody(bytes, frameBytes, header, plan)
    const decoded = { plan, message, bytes, frameBytes }
    if (header.apiKey === API_KEYS.SASL_HANDSHAKE && isFollowedByTokens(plan.version)) return this.#handshake(header, decoded, kind, ops)
    if (isTopicList(header.apiKey)) return this.#topicList(header, decoded, kind, ops)
    if (asksAllOffsets(message, plan) && this.#connection.rules().asksTopics) return this.#allOffsets(header, decoded, kind, ops)
    const session = this.#session(decoded)
    if (session !== undefined && 'errorCode' in session) {
      const response = planOf('response', plan.apiKey, plan.version) as MessagePlan
      ops.push(drop(frameBytes), answer(encodeResponse(response, header.correlationId, session)))
      return frameBytes
    }
    return this.#judged(header, decoded, kind, ops, { isAnswered: true, session })
  }

  #handshake(header: RequestHeader, decoded: DecodedFrame, kind: KafkaApiKey, ops: Op[]): number {
    const tokens = tokensOf(String(decoded.message.values.mechanism))
    const judged = this.#judge({ ...headOf(header, kind), topics: [], groups: [] })
    if (!judged.verdict.isAllowed) return this.#deny(header, decoded, judged, ops)
    this.#report(header, judged)
    this.#isHandshaking = true
    this.#open.push({ correlationId: header.correlationId, tokens })
    ops.push(pass(decoded.frameBytes, 'opens'))
    return decoded.frameBytes
  }

  #token(bytes: Buffer, ops: Op[]): number {
    const frameBytes = tokenFrameBytes(bytes)
    this.#tokens--
    this.#open.push({ correlationId: undefined })
    ops.push(pass(frameBytes, 'opens'))
    return frameBytes
  }

  /** The broker's answer to a handshake: with an error, it will take no tokens. */
  #learnHandshake(tokens: number, bytes: Buffer, frameBytes: number): void {
    const neededBytes = SIZE_BYTES + CORRELATION_BYTES + ERROR_BYTES
    if (frameBytes < neededBytes) throw new KafkaParseError(`an answer to a handshake of ${frameBytes} bytes`)
    if (bytes.length < neededBytes) throw new IncompleteError(neededBytes)
    this.#isHandshaking = false
    this.#tokens = bytes.readInt16BE(SIZE_BYTES + CORRELATION_BYTES) === 0 ? tokens : 0
  }

  #apiVersions(header: RequestHeader, isKnown: boolean, frameBytes: number, ops: Op[]): number {
    const { apiVersion, correlationId } = header
    this.#report(header, { ...headOf(header, apiKeyOfNumber(header.apiKey)), topics: [], groups: [], verdict: ALLOWED })
    if (isKnown) {
      this.#open.push({ correlationId, transform: (frame) => filterApiVersions(frame, apiVersion) })
      ops.push(pass(frameBytes, 'opens'))
      // The frame may not all be there: what is dropped of it comes last.
    } else ops.push(answer(encodeUnsupportedApiVersions(correlationId)), drop(frameBytes))
    return frameBytes
  }

  /** A request that is read whole. */
  #judged(header: RequestHeader, decoded: DecodedFrame, kind: KafkaApiKey, ops: Op[], how: Answering): number {
    const request = this.#requestOf(header, kind, decoded, ops)
    if (request === undefined) return 0
    const judged = this.#judge(request, request.otherTransactions)
    if (judged.verdict.isAllowed) return this.#let(header, decoded.frameBytes, ops, judged, how)
    const covered = this.#split(header, decoded, request, ops, how)
    if (covered > 0) return covered
    if (how.isAnswered) return this.#deny(header, decoded, judged, ops)
    // Nobody waits for an answer.
    this.#report(header, judged)
    ops.push(drop(decoded.frameBytes))
    return decoded.frameBytes
  }

  /** @returns 0 where it cannot be */
  #split(header: RequestHeader, decoded: DecodedFrame, request: KafkaRequest, ops: Op[], { isAnswered, session }: Answering): number {
    if (this.#mixedRequests === 'deny' || request.topics === 'all') return 0
    // The broker adds all of its partitions to a transaction, or none.
    if (header.apiKey === API_KEYS.ADD_PARTITIONS_TO_TXN) return 0
    const { plan, message, bytes, frameBytes } = decoded
    const { correlationId } = header
    const byTopic = new Map(request.topics.map((topic) => [topic, this.#judge({ ...request, topics: [topic] })]))
    const isAllowed = (topic: KafkaStruct, inTopic: StructPlan) =>
      this.#namesOf(topic, inTopic, bytes).every((name) => byTopic.get(name)?.verdict.isAllowed === true)
    const split = splitTopics({ plan, message, bytes, correlationId }, frameBytes, isAllowed)
    if (split === undefined) return 0
    for (const judged of byTopic.values()) {
      this.#report(header, judged, judged.verdict.isAllowed || !isAnswered ? 0 : ERROR_CODES.topic)
    }
    ops.push(drop(frameBytes), isAnswered ? insert(split.changed, 'opens') : insert(split.changed))
    if (isAnswered) this.#open.push({ correlationId, prepended: { plan, split }, ...(session && { session }) })
    return frameBytes
  }

  /** By name, by id, or by both. An id of nothing that is known has the name of no topic, and so has what has neither. */
  #namesOf(topic: KafkaStruct, plan: StructPlan, bytes: Buffer): string[] {
    const { topics, topicIds } = namedInStruct(topic, plan)
    const ids = idsAt(topicIds, bytes).filter((id) => !this.#ids.isNone(id))
    const names = [...topics, ...ids.map((id) => this.#ids.nameOf(id) ?? '')]
    return names.length > 0 ? names : ['']
  }

  /** What goes on with what was named before is judged by what it was allowed by then. @returns an error for one that may not go on */
  #session({ plan, message }: DecodedFrame): BeginningSession | { readonly errorCode: number } | undefined {
    const rules = this.#connection.rules()
    const session = rules.asksTopics ? sessionUseOf(message, plan) : undefined
    if (session === undefined) return undefined
    const { key, isNew, errorCode } = session
    if (!isNew) return key !== undefined && this.#sessions.isUnder(key, rules) ? undefined : { errorCode }
    if (key === undefined) return { plan, rules }
    this.#sessions.begin(key, rules)
    return undefined
  }

  /** What has no layout here is judged by its header; to deny it there is no answer that its client would understand. */
  #unknown(header: RequestHeader, frameBytes: number, ops: Op[]): number {
    const judged = this.#judge({ ...headOf(header, undefined), topics: [], groups: [] })
    if (judged.verdict.isAllowed) return this.#let(header, frameBytes, ops, judged)
    this.#report(header, judged)
    ops.push(fail(`a denied request of kind ${header.apiKey} and version ${header.apiVersion}, which has no answer that is known here`))
    return 0
  }

  #produce(header: RequestHeader, plan: MessagePlan, kind: KafkaApiKey, bytes: Buffer, frameBytes: number, ops: Op[]): number {
    const head = decodeProduceHead(bytes.subarray(0, frameBytes), header, plan, frameBytes)
    const how = { isAnswered: head.acks !== 0, session: undefined }
    const { topic = head.topicId && this.#ids.nameOf(head.topicId) } = head
    if (head.isWhole && (topic !== undefined || head.topicId === undefined || !this.#connection.rules().asksTopics)) {
      const topics = topic === undefined ? [] : [topic]
      const judged = this.#judge({ ...headOf(header, kind), topics, groups: [], ...transactionOf(head.transactionalId) })
      // Of what is denied, the partitions have to be known for an answer.
      if (judged.verdict.isAllowed) return this.#let(header, frameBytes, ops, judged, how)
    }
    const message = decodeBody(bytes, frameBytes, header, plan)
    return this.#judged(header, { plan, message, bytes, frameBytes }, kind, ops, how)
  }

  /** @returns undefined while the broker is asked what topics ids stand for */
  #requestOf(header: RequestHeader, kind: KafkaApiKey, { plan, message, bytes }: DecodedFrame, ops: Op[]): ReadRequest | undefined {
    const { topics, topicIds, groups, transactionalIds, isAllTopics } = namedIn(message, plan)
    const isAsked = this.#connection.rules().asksTopics
    const ids = idsAt(isAsked ? topicIds : [], bytes).filter((id) => !this.#ids.isNone(id))
    const unknown = ids.filter((id) => !this.#ids.isAsked(id))
    if (unknown.length > 0) {
      const { frame, correlationId } = this.#ids.ask(unknown, header.clientId)
      const transform = (answerFrame: Buffer) => {
        this.#ids.learnAnswer(answerFrame)
        this.#isAsking = false
        return undefined
      }
      this.#open.push({ correlationId, transform })
      this.#isAsking = true
      ops.push(insert(frame, 'opens'), { op: 'wait' })
      return undefined
    }
    const named = ids.map((id) => this.#ids.nameOf(id))
    // It may be a topic that is just being made.
    for (const id of ids) if (this.#ids.nameOf(id) === undefined) this.#ids.forget(id)
    return {
      ...headOf(header, kind),
      // What the broker does not know either could be anything.
      topics:
        (isAllTopics && (meansAllWithoutTopics(kind.name) || isAboutResources(plan))) || named.includes(undefined)
          ? 'all'
          : [...topics, ...named.filter((name) => name !== undefined)],
      groups,
      ...transactionOf(transactionalIds[0]),
      otherTransactions: transactionalIds.slice(1),
    }
  }

  /** Whoever may ask at all is told of what it may see. */
  #topicList(header: RequestHeader, decoded: DecodedFrame, kind: KafkaApiKey, ops: Op[]): number {
    const { plan, message, bytes, frameBytes } = decoded
    const head = { ...headOf(header, kind), groups: [] }
    const asked = this.#judge({ ...head, topics: [] })
    const { topics, isAllTopics } = namedIn(message, plan)
    const whole = { ...asked, topics: isAllTopics ? ('all' as const) : topics }
    if (!asked.verdict.isAllowed) return this.#deny(header, decoded, whole, ops)
    // Asked of the rules that are in force then.
    const isVisible = (topic: string) => this.#connection.rules().judge({ ...head, topics: [topic] }).isAllowed
    const { changed, denied } = narrowTopicList(bytes.subarray(0, frameBytes), message, plan, isVisible)
    for (const topic of denied) this.#report(header, this.#judge({ ...head, topics: [topic] }), ERROR_CODES.topic)
    this.#report(header, { ...whole, topics: topics.filter((topic) => !denied.includes(topic)) })
    const transform = (frame: Buffer) => filterTopicList(frame, plan, denied, isVisible)
    this.#open.push({ correlationId: header.correlationId, transform })
    if (changed === undefined) ops.push(pass(frameBytes, 'opens'))
    else ops.push(drop(frameBytes), insert(changed, 'opens'))
    return frameBytes
  }

  /** Whoever may ask about the group is told of those topics that it may name. */
  #allOffsets(header: RequestHeader, decoded: DecodedFrame, kind: KafkaApiKey, ops: Op[]): number {
    const { plan, message, frameBytes } = decoded
    const { topics, groups } = namedIn(message, plan)
    const head = headOf(header, kind)
    const judged = this.#judge({ ...head, topics, groups })
    if (!judged.verdict.isAllowed) return this.#deny(header, decoded, judged, ops)
    this.#report(header, judged)
    const isVisible = (topic: string, group: string) =>
      this.#connection.rules().judge({ ...head, topics: [topic], groups: [group] }).isAllowed
    const transform = (frame: Buffer) => filterOffsets(frame, message, plan, isVisible)
    this.#open.push({ correlationId: header.correlationId, transform })
    ops.push(pass(frameBytes, 'opens'))
    return frameBytes
  }

  #let(header: RequestHeader, frameBytes: number, ops: Op[], judged: Judged, { isAnswered, session }: Answering = ANSWERED): number {
    this.#report(header, judged)
    if (isAnswered) this.#open.push({ correlationId: header.correlationId, ...(session && { session }) })
    ops.push(isAnswered ? pass(frameBytes, 'opens') : pass(frameBytes))
    return frameBytes
  }

  #deny(header: RequestHeader, { plan, message, bytes, frameBytes }: DecodedFrame, judged: Judged, ops: Op[]): number {
    const { correlationId, apiKey, apiVersion } = header
    const kind = this.#deniedKind(judged)
    const denial = encodeDenial({ plan, message, bytes, correlationId }, kind)
    this.#report(header, judged, denial === undefined ? 0 : ERROR_CODES[kind])
    if (denial === undefined) {
      ops.push(fail(`a denied request of kind ${apiKey} and version ${apiVersion}, whose answer has no place for an error`))
      return 0
    }
    ops.push(drop(frameBytes), answer(denial))
    return frameBytes
  }

  /** What of a denied request it is that no rule allows. */
  #deniedKind(request: KafkaRequest): DeniedKind {
    const rules = this.#connection.rules()
    if (request.topics.length > 0 && rules.judge({ ...request, topics: [] }).isAllowed) return 'topic'
    // It would not be allowed about other topics either: as brokers do, group and transaction come first.
    if (request.groups.length > 0) return 'group'
    if (request.transactionalId === undefined && request.topics.length > 0) return 'topic'
    return request.transactionalId === undefined ? 'cluster' : 'transactionalId'
  }

  /** Of several transactional ids, each has to be allowed. */
  #judge(request: KafkaRequest, otherTransactions: readonly string[] = []): Judged {
    const rules = this.#connection.rules()
    for (const transactionalId of otherTransactions) {
      const verdict = rules.judge({ ...request, transactionalId })
      if (!verdict.isAllowed) return { ...request, transactionalId, verdict }
    }
    return { ...request, verdict: rules.judge(request) }
  }

  #report({ apiVersion, correlationId, clientId = '' }: RequestHeader, { apiKey, topics, verdict }: Judged, errorCode = 0): void {
    const named = topics === 'all' ? [] : topics
    this.#connection.report({ apiKey, apiVersion, correlationId, clientId, topics: named, ...verdict, errorCode })
  }

  #learnSession({ plan, rules }: BeginningSession, bytes: Buffer, frameBytes: number): void {
    const neededBytes = sessionHeadBytes(plan)
    if (frameBytes < neededBytes) throw new KafkaParseError(`an answer to a fetch of ${frameBytes} bytes`)
    if (bytes.length < neededBytes) throw new IncompleteError(neededBytes)
    const key = sessionBegunBy(bytes, plan)
    if (key !== undefined) this.#sessions.begin(key, rules)
  }

  #reply(bytes: Buffer, ops: Op[]): number {
    const [request] = this.#open
    if (request !== undefined && request.correlationId === undefined) {
      const frameBytes = tokenFrameBytes(bytes)
      this.#open.shift()
      ops.push(pass(frameBytes, 'closes'))
      return frameBytes
    }
    if (bytes.length < SIZE_BYTES + CORRELATION_BYTES) throw new IncompleteError(SIZE_BYTES + CORRELATION_BYTES)
    const frameBytes = SIZE_BYTES + decodeSize(bytes)
    const correlationId = bytes.readInt32BE(SIZE_BYTES)
    if (request?.correlationId !== correlationId)
      throw new KafkaParseError(`an answer to request ${correlationId} where that to ${request?.correlationId ?? 'none'} comes`)
    if (request.transform !== undefined && bytes.length < frameBytes) throw new IncompleteError(frameBytes)
    if (request.tokens !== undefined) this.#learnHandshake(request.tokens, bytes, frameBytes)
    if (request.session !== undefined) this.#learnSession(request.session, bytes, frameBytes)
    const prepended = request.prepended && prependEntries(bytes, frameBytes, request.prepended.plan, request.prepended.split)
    this.#open.shift()
    if (prepended !== undefined) {
      const { head, covered } = prepended
      ops.push(drop(covered), insert(head), pass(frameBytes - covered, 'closes'))
      return frameBytes
    }
    const frame = bytes.subarray(0, frameBytes)
    const changed = request.transform === undefined ? frame : request.transform(frame)
    if (changed === undefined) ops.push(drop(frameBytes, 'closes'))
    else if (changed === frame) ops.push(pass(frameBytes, 'closes'))
    else ops.push(drop(frameBytes), insert(changed, 'closes'))
    return frameBytes
  }
}

/** A fetch that asks for a session, and what allowed it. */
interface BeginningSession {
  readonly plan: MessagePlan
  readonly rules: unknown
}

interface OpenRequest {
  /** Undefined for a token, whose answer is one too. */
  readonly correlationId: number | undefined
  /** Of a handshake: how many tokens follow it. */
  readonly tokens?: number
  readonly session?: BeginningSession
  /** Errors for what of it did not go on. */
  readonly prepended?: { readonly plan: MessagePlan; readonly split: SplitRequest }
  /** What becomes of the whole frame of its answer, undefined if the client is to have none; absent: nothing. */
  readonly transform?: (frame: Buffer) => Buffer | undefined
}

interface DecodedFrame {
  readonly plan: MessagePlan
  readonly message: KafkaStruct
  readonly bytes: Buffer
  readonly frameBytes: number
}

interface Answering {
  /** The client waits for an answer. */
  readonly isAnswered: boolean
  readonly session: BeginningSession | undefined
}

const ANSWERED: Answering = { isAnswered: true, session: undefined }
const ALLOWED: KafkaVerdict = { isAllowed: true, rule: '', isAudited: false }

/** @throws IncompleteError, KafkaParseError */
function decodeBody(bytes: Buffer, frameBytes: number, { bodyOffset }: RequestHeader, plan: MessagePlan): KafkaStruct {
  if (frameBytes > BUFFER_BYTES_MAX) throw new KafkaParseError(`a request of ${frameBytes} bytes that has to be read`)
  if (bytes.length < frameBytes) throw new IncompleteError(frameBytes)
  const frame = bytes.subarray(0, frameBytes)
  const cursor = new Cursor(frame, bodyOffset, plan.isFlexible)
  if (plan.isFlexible) skipTagged(cursor)
  return decodeLeadingMessage(frame, cursor.offset, plan)
}

function headOf(
  { apiKey, apiVersion, clientId }: RequestHeader,
  kind: KafkaApiKey | undefined,
): Pick<KafkaRequest, 'apiKey' | 'apiVersion' | 'clientId'> {
  return { apiKey: kind?.name ?? String(apiKey), apiVersion, ...(clientId === undefined ? {} : { clientId }) }
}

function idsAt(places: readonly Place[], bytes: Buffer): string[] {
  return places.map(({ start, end }) => bytes.toString('latin1', start, end))
}

function transactionOf(transactionalId: string | undefined): Pick<KafkaRequest, 'transactionalId'> {
  return transactionalId === undefined ? {} : { transactionalId }
}

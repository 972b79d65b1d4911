/**
 * Random conversations with the Kafka parser in its driver: requests of every kind about topics that are allowed and that are not, whole or damaged,
 * cut anywhere, with a broker that answers, some time, and not always as it should. What comes out is read again, by Kafka's definitions alone.
 */
import { KAFKA_API_KEYS } from '#parsers/kafka/api-keys.ts'
import { decodeLeadingMessage, isArray, isStruct, type KafkaStruct, type KafkaValue } from '#parsers/kafka/decode.ts'
import { encodeResponse } from '#parsers/kafka/denial.ts'
import type { Encodable } from '#parsers/kafka/encode.ts'
import { KafkaParseError } from '#parsers/kafka/errors.ts'
import { kafkaParser, type MixedRequests } from '#parsers/kafka/parser.ts'
import { type FieldPlan, knownApiKeys, type MessagePlan, planOf, type StructPlan, versionsOf } from '#parsers/kafka/schema.ts'
import { type DriverSink, StreamDriver } from '#proxy/ext-host/parsing/driver.ts'
import { MemoryBudget } from '#proxy/ext-host/parsing/memory-budget.ts'
import { createRandom } from '../../support/random.ts'
import { NAMES, requestFrame, rulesetOf, sampleOf } from './support.ts'

const PRODUCE = 0
const FETCH = 1
const METADATA = 3
const OFFSET_FETCH = 9
const HANDSHAKE = 17
const API_VERSIONS = 18
const DESCRIBE_TOPIC_PARTITIONS = 75
const BUDGET_BYTES = 8 << 20
const ALLOWED = 'orders'
const DENIED = 'secret'
/** Only the broker knows it. */
const HIDDEN = 'hidden'
const TOPICS: Readonly<Record<number, string>> = { 1: ALLOWED, 2: DENIED, 3: HIDDEN }
const RULES = rulesetOf({
  allow: (['produce', 'consume', 'admin'] as const).map((role) => ({ name: role, role, topic: ALLOWED })),
})

type Random = () => number

export interface FuzzTotals {
  conversations: number
  /** Frames that reached the broker. */
  passed: number
  closed: number
}

/** @throws Error at what must never be, with the seed of its conversation */
export function fuzzKafka(seed: number, durationMs: number): FuzzTotals {
  const totals: FuzzTotals = { conversations: 0, passed: 0, closed: 0 }
  const deadline = performance.now() + durationMs
  for (let each = seed; performance.now() < deadline; each++) {
    try {
      converse(each, totals)
    } catch (error) {
      throw new Error(`conversation ${each}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
    totals.conversations++
  }
  return totals
}

function converse(seed: number, totals: FuzzTotals): void {
  const random = createRandom(seed)
  const mixed: MixedRequests = random() < 0.8 ? 'split' : 'deny'
  const isHonest = random() < 0.4
  const frames = Array.from({ length: 1 + below(random, 12) }, (_, index) => requestOf(random, index + 1))
  const original = Buffer.concat(frames.map((frame) => (isHonest || random() < 0.7 ? frame : damaged(frame, random))))
  const first = new Conversation(mixed, createRandom(seed + 1), isHonest)
  first.run(original)
  totals.passed += first.passed
  if (first.reason !== undefined) totals.closed++
  if (first.reason !== undefined || !isHonest || frames.some(isAboutSessions)) return
  // Cut in other places, and answered at other times, all is the same.
  const second = new Conversation(mixed, createRandom(seed + 2), isHonest)
  second.run(original)
  for (const direction of ['original', 'reply'] as const) {
    if (!first.bytes(direction).equals(second.bytes(direction))) throw new Error(`what goes ${direction} depends on how bytes are cut`)
  }
}

/** A broker, a client that reads everything, and the parser between them. */
class Conversation implements DriverSink {
  readonly #random: Random
  readonly #isHonest: boolean
  readonly #driver: StreamDriver
  readonly #budget = new MemoryBudget(BUDGET_BYTES)
  readonly #written: Record<'original' | 'reply', Buffer[]> = { original: [], reply: [] }
  /** Of what the broker was sent, the end that is no whole frame. */
  #unread = Buffer.alloc(0)
  #answers: Buffer[] = []
  #tokens = 0
  passed = 0
  reason: string | undefined

  constructor(mixed: MixedRequests, random: Random, isHonest: boolean) {
    this.#random = random
    this.#isHonest = isHonest
    const parser = kafkaParser(mixed).create({ rules: () => RULES, report: () => {} })
    this.#driver = new StreamDriver(parser, this, {
      bufferBytesMax: 128 << 20,
      answerBytesMax: 4 << 20,
      turnsMax: 1024,
      budget: this.#budget,
    })
  }

  bytes(direction: 'original' | 'reply'): Buffer {
    return Buffer.concat(this.#written[direction])
  }

  run(original: Buffer): void {
    for (let offset = 0; offset < original.length && this.reason === undefined; ) {
      const end = Math.min(original.length, offset + 1 + below(this.#random, this.#random() < 0.5 ? 20 : 2000))
      // The transport's memory is its own again after the call.
      const chunk = Buffer.from(original.subarray(offset, end))
      this.#driver.push('original', chunk)
      chunk.fill(0xee)
      offset = end
      if (this.#random() < 0.3) this.#answer()
    }
    while (this.#answers.length > 0 && this.reason === undefined) this.#answer()
    this.#driver.pushEnd('original')
    this.#driver.pushEnd('reply')
    this.#driver.dispose()
    if (this.#budget.usedBytes !== 0) throw new Error(`${this.#budget.usedBytes} bytes of the budget are gone`)
    if (this.reason !== undefined && /^the parser/.test(this.reason)) throw new Error(this.reason)
    if (this.reason !== undefined && this.#isHonest) throw new Error(`closed though nobody lied: ${this.reason}`)
    if (this.#isHonest && this.bytes('reply').includes(HIDDEN)) throw new Error('a topic is told of that nobody may see')
  }

  /** What the broker has said comes, as a network brings it. */
  #answer(): void {
    const all = Buffer.concat(this.#answers.splice(0))
    for (let offset = 0; offset < all.length && this.reason === undefined; ) {
      const end = Math.min(all.length, offset + 1 + below(this.#random, 300))
      this.#driver.push('reply', Buffer.from(all.subarray(offset, end)))
      offset = end
    }
  }

  write(direction: 'original' | 'reply', data: Uint8Array): void {
    const bytes = Buffer.from(data)
    this.#written[direction].push(bytes)
    if (direction === 'reply') return
    this.#unread = Buffer.concat([this.#unread, bytes])
    while (this.#unread.length >= 4 && this.#unread.length >= 4 + this.#unread.readInt32BE(0)) {
      const frameBytes = 4 + this.#unread.readInt32BE(0)
      const frame = this.#unread.subarray(0, frameBytes)
      this.#unread = this.#unread.subarray(frameBytes)
      this.passed++
      this.#serve(frame)
    }
  }

  #serve(frame: Buffer): void {
    if (this.#tokens > 0) {
      this.#tokens--
      this.#answers.push(Buffer.from('0000000161', 'hex'))
      return
    }
    const request = readAsBroker(frame)
    const [apiKey, version] = [frame.readInt16BE(4), frame.readInt16BE(6)]
    const response = planOf('response', apiKey, version)
    if (response === undefined) throw new Error(`request ${apiKey} of version ${version} reached the broker`)
    if (apiKey === HANDSHAKE && version === 0) this.#tokens = 1
    if (apiKey === PRODUCE && request?.values.acks === 0) return
    const values = apiKey === METADATA ? metadataOf(request) : answerTo(response)
    const answer = encodeResponse(response, frame.readInt32BE(8), values)
    this.#answers.push(this.#isHonest || this.#random() < 0.9 ? answer : damaged(answer, this.#random))
  }

  end(): void {}

  goOn(): void {}

  close(reason: string): void {
    this.reason = reason
  }
}

/** @returns undefined for what a broker cannot read @throws Error for what should not have come to it */
function readAsBroker(frame: Buffer): KafkaStruct | undefined {
  const [apiKey, version] = [frame.readInt16BE(4), frame.readInt16BE(6)]
  const plan = planOf('request', apiKey, version)
  if (plan === undefined) return undefined
  let offset = 14 + Math.max(0, frame.readInt16BE(12))
  let message: KafkaStruct
  try {
    if (plan.isFlexible) offset = skipTags(frame, offset)
    message = decodeLeadingMessage(frame, offset, plan)
  } catch (error) {
    if (!(error instanceof KafkaParseError)) throw error
    // Only of what produces, the end is not looked at: nobody else’s topics are in records.
    if (apiKey === PRODUCE || apiKey === API_VERSIONS) return undefined
    throw new Error(`request ${apiKey} of version ${version} passed, and cannot be read`, { cause: error })
  }
  for (const topic of topicsIn(message, plan, frame, apiKey === METADATA)) {
    if (topic !== ALLOWED) throw new Error(`request ${apiKey} of version ${version} about ${JSON.stringify(topic)} passed`)
  }
  return message
}

function skipTags(frame: Buffer, start: number): number {
  let offset = start
  const varint = (): number => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = frame[offset++]
      if (byte === undefined || shift > 28) throw new KafkaParseError('tags')
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
  }
  for (let count = varint(); count > 0; count--) {
    varint()
    const length = varint()
    offset += length
    if (offset > frame.length) throw new KafkaParseError('tags')
  }
  return offset
}

/** Every topic that is named anywhere, by whatever the definitions say that names one. */
function* topicsIn({ values }: KafkaStruct, plan: StructPlan, frame: Buffer, isMetadata: boolean): Generator<string> {
  for (const field of [...plan.fields, ...plan.tagged.values()]) {
    // Where a list goes on says nothing of what is told.
    if (field.name === 'cursor') continue
    const value = values[field.name]
    for (const item of isArray(value) ? value.items : [value]) yield* topicsOf(item, field, frame, isMetadata)
  }
}

function* topicsOf(value: KafkaValue | undefined, field: FieldPlan, frame: Buffer, isMetadata: boolean): Generator<string> {
  if (isStruct(value)) yield* topicsIn(value, field.struct, frame, isMetadata)
  else if (field.entity === 'topicName' && typeof value === 'string') yield value
  else if (field.entity === 'topicId' && typeof value === 'object' && value !== null && 'start' in value) {
    const id = frame.subarray(value.start, value.end)
    // What Metadata says of an id is narrowed in its answer.
    if (!isMetadata && id.some((byte) => byte !== 0))
      yield TOPICS[id.every((byte) => byte === id[0]) ? (id[0] as number) : 0] ?? 'an id of nothing'
  }
}

function requestOf(random: Random, correlationId: number): Buffer {
  const apiKey = pick(random, random() < 0.5 ? [PRODUCE, FETCH, METADATA, OFFSET_FETCH, API_VERSIONS, HANDSHAKE] : knownApiKeys())
  const { first = 0, last = 0 } = versionsOf(apiKey) ?? {}
  const plan = planOf('request', apiKey, first + below(random, last - first + 1)) as MessagePlan
  const values = { ...randomly(random, plan), ...(apiKey === HANDSHAKE && { mechanism: 'PLAIN' }) }
  const frame = requestFrame(apiKey, plan.version, values, { correlationId })
  // What follows such a handshake is a token.
  return apiKey === HANDSHAKE && plan.version === 0 ? Buffer.concat([frame, Buffer.from('000000026869', 'hex')]) : frame
}

/** Like a sample, with several items, other topics, and what may be absent absent. */
function randomly(random: Random, plan: StructPlan): { readonly [name: string]: Encodable } {
  const values: Record<string, Encodable> = {}
  for (const field of plan.fields) values[field.name] = randomField(random, field)
  for (const field of plan.tagged.values()) if (random() < 0.2) values[field.name] = randomField(random, field)
  return values
}

function randomField(random: Random, field: FieldPlan): Encodable {
  if (field.isNullable && random() < 0.2) return null
  const one = (): Encodable => {
    if (field.type === 'struct') return randomly(random, field.struct)
    if (field.entity === 'topicName') return pick(random, [ALLOWED, ALLOWED, ALLOWED, DENIED, DENIED, ''])
    if (field.type === 'uuid') return Buffer.alloc(16, pick(random, [0, 1, 1, 1, 2, 2, 9]))
    if (field.name === 'acks' || field.name === 'sessionEpoch') return pick(random, [-1, 0, 1])
    return sampleOf({ fields: [{ ...field, isArray: false }], tagged: new Map(), bytesMin: 0 }, NAMES)[field.name] as Encodable
  }
  return field.isArray ? Array.from({ length: below(random, 4) }, one) : one()
}

/** Topics by the names or ids that were asked for; of all topics, the hidden one too. */
function metadataOf(request: KafkaStruct | undefined): { readonly [name: string]: Encodable } {
  const asked = request?.values.topics
  const ids = isArray(asked) ? [1, 2] : [1, 2, 3]
  return {
    topics: ids.map((id) => ({ name: TOPICS[id] as string, topicId: Buffer.alloc(16, id), errorCode: 0 })),
  }
}

/** A sample; where it lists what topics there are, of the hidden one. */
function answerTo(plan: MessagePlan): { readonly [name: string]: Encodable } {
  const isList = plan.apiKey === DESCRIBE_TOPIC_PARTITIONS
  return { ...sampleOf(plan, isList ? { ...NAMES, topic: HIDDEN } : NAMES), errorCode: 0, ...(isList && { nextCursor: null }) }
}

function isAboutSessions(frame: Buffer): boolean {
  const name = [...KAFKA_API_KEYS.values()].find(({ number }) => number === frame.readInt16BE(4))?.name
  return name === 'fetch' || name === 'sharefetch'
}

/** Some damage: bits, lengths, pieces lost, doubled or put in. */
function damaged(bytes: Buffer, random: Random): Buffer {
  const changed = Buffer.from(bytes)
  const at = below(random, bytes.length)
  const length = below(random, Math.min(24, bytes.length - at))
  const ways: (() => Buffer)[] = [
    () => {
      for (let count = 1 + below(random, 4); count > 0; count--) {
        const index = below(random, changed.length)
        changed[index] = (changed[index] as number) ^ (1 << below(random, 8))
      }
      return changed
    },
    () => changed.fill(pick(random, [0, 0x7f, 0x80, 0xff]), at, at + length),
    () => changed.subarray(0, at),
    () => sized(Buffer.concat([changed.subarray(0, at), changed.subarray(at + length)])),
    () => sized(Buffer.concat([changed.subarray(0, at + length), changed.subarray(at)])),
    () => sized(Buffer.concat([changed.subarray(0, at), Buffer.from(DENIED), changed.subarray(at)])),
  ]
  return pick(random, ways)()
}

/** The damage is within: the frame is as long as it says. */
function sized(frame: Buffer): Buffer {
  if (frame.length >= 4) frame.writeInt32BE(frame.length - 4, 0)
  return frame
}

function below(random: Random, count: number): number {
  return Math.floor(random() * count)
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[below(random, values.length)] as T
}

/**
 * Requests that ask what topics there are (Metadata, DescribeTopicPartitions). The broker is asked about those alone that the rules let the client
 * see; its answer is left with those, and gets an error for each other one that the client named.
 */
import { API_KEYS } from './api-keys.ts'
import { decodeMessage, isArray, isStruct, type KafkaStruct, type KafkaValue, type Place } from './decode.ts'
import { ERROR_CODES, responseHeadBytes } from './denial.ts'
import { encodeCount, encodeStructs } from './encode.ts'
import { KafkaParseError } from './errors.ts'
import { SIZE_BYTES } from './frame.ts'
import { replaceItems } from './rewrite.ts'
import { type FieldPlan, type MessagePlan, planOf } from './schema.ts'

const LIST = 'topics'
const CURSOR = 'nextCursor'
const CURSOR_TOPIC = 'topicName'
const IS_CURSOR = Buffer.of(1)
const NO_CURSOR = Buffer.of(0xff)
/** The smallest that a name of a topic may have. */
const FIRST_CHARACTER = '-'
const FIRST_PARTITION = Buffer.alloc(4)
const NO_TAGS = Buffer.alloc(1)

export function isTopicList(apiKey: number): boolean {
  return apiKey === API_KEYS.METADATA || apiKey === API_KEYS.DESCRIBE_TOPIC_PARTITIONS
}

export interface TopicListRequest {
  /** What goes on in its place; undefined: it is as it should be. */
  readonly changed: Buffer | undefined
  /** Named, and not to be seen. */
  readonly denied: readonly string[]
}

/** @param frame whole, and what it was decoded to @param isVisible asked of each name */
export function narrowTopicList(
  frame: Buffer,
  message: KafkaStruct,
  plan: MessagePlan,
  isVisible: (topic: string) => boolean,
): TopicListRequest {
  const list = message.values[LIST]
  if (!isArray(list)) return { changed: undefined, denied: [] }
  const denied: string[] = []
  const kept: Place[] = []
  for (const item of list.items) {
    const name = nameOf(item)
    if (name === undefined || isVisible(name)) kept.push(item as KafkaStruct)
    else denied.push(name)
  }
  return { changed: denied.length === 0 ? undefined : replaceItems(frame, list, kept, [], plan.isFlexible), denied }
}

/**
 * @param frame the whole answer @param denied topics that get an error
 * @returns the frame itself where nothing is to be changed @throws KafkaParseError
 */
export function filterTopicList(
  frame: Buffer,
  request: MessagePlan,
  denied: readonly string[],
  isVisible: (topic: string) => boolean,
): Buffer {
  const plan = planOf('response', request.apiKey, request.version) as MessagePlan
  const message = decodeMessage(frame, SIZE_BYTES + responseHeadBytes(plan), plan)
  const list = message.values[LIST]
  const field = plan.fields.find(({ name }) => name === LIST)
  if (!isArray(list) || field === undefined) throw new KafkaParseError('an answer about topics without a list of them')
  const kept = list.items.filter((item) => {
    const name = nameOf(item)
    return name !== undefined && isVisible(name)
  })
  const cursor = message.values[CURSOR]
  const isTold = isStruct(cursor) && !isVisible(String(cursor.values[CURSOR_TOPIC]))
  if (kept.length === list.items.length && denied.length === 0 && !isTold) return frame
  const rest = isTold ? Buffer.concat([cursorBehind(list.items.at(-1), kept.at(-1)), frame.subarray(cursor.end)]) : undefined
  return replaceItems(frame, list, kept as KafkaStruct[], encodeErrors(field, denied, plan.isFlexible), plan.isFlexible, rest)
}

/**
 * Where an answer goes on at a topic that is not to be seen. Brokers go on with the first topic that is not before the cursor's, in the order of
 * names; none begins with what comes right behind the last one that the client was told of. Where that was not to be seen either, there
 * is no cursor that tells nothing: the list ends. Clients that name the topics that they ask about, as Kafka's own do, never get there.
 */
function cursorBehind(last: KafkaValue | undefined, lastKept: KafkaValue | undefined): Buffer {
  const name = last !== undefined && last === lastKept ? nameOf(last) : undefined
  if (name === undefined) return NO_CURSOR
  const topic = Buffer.from(name + FIRST_CHARACTER)
  return Buffer.concat([IS_CURSOR, encodeCount(topic.length, true), topic, FIRST_PARTITION, NO_TAGS])
}

function encodeErrors(field: FieldPlan, topics: readonly string[], isFlexible: boolean): Buffer[] {
  return encodeStructs(
    field.struct,
    topics.map((name) => ({ name, errorCode: ERROR_CODES.topic })),
    isFlexible,
  )
}

function nameOf(item: KafkaValue): string | undefined {
  const name = isStruct(item) ? item.values.name : undefined
  return typeof name === 'string' ? name : undefined
}

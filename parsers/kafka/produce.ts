/**
 * The beginning of a Produce request, as far as it has to be read where it is about one topic: what follows the topic's name or id are records, and
 * those are nobody's business. Its layout is Kafka's ProduceRequest, versions 3 to 13 (messages.ts).
 */
import { Cursor, skipTagged } from './decode.ts'
import type { RequestHeader } from './frame.ts'
import type { MessagePlan } from './schema.ts'

const TOPIC_ID_SINCE = 13
const UUID_BYTES = 16

export interface ProduceHead {
  readonly transactionalId: string | undefined
  readonly acks: number
  /** Everything that it names is here: it is about one topic, or none. */
  readonly isWhole: boolean
  readonly topic: string | undefined
  /** In place of the name: 16 bytes in Latin-1. */
  readonly topicId: string | undefined
}

/** @param bytes of the frame, as far as they have come @throws IncompleteError, KafkaParseError */
export function decodeProduceHead(
  bytes: Buffer,
  { bodyOffset }: RequestHeader,
  { version, isFlexible }: MessagePlan,
  frameBytes: number,
): ProduceHead {
  const cursor = new Cursor(bytes, bodyOffset, isFlexible, frameBytes)
  if (isFlexible) skipTagged(cursor)
  const transactionalId = cursor.string()
  const acks = cursor.int16()
  cursor.int32()
  const count = cursor.longLength()
  const head = { transactionalId, acks, isWhole: count <= 1, topic: undefined, topicId: undefined }
  if (count !== 1) return head
  if (version < TOPIC_ID_SINCE) return { ...head, topic: cursor.string() ?? '' }
  const start = cursor.skip(UUID_BYTES)
  return { ...head, topicId: bytes.toString('latin1', start, start + UUID_BYTES) }
}

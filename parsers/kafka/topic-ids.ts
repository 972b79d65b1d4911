/**
 * Which topics ids stand for. Requests of today's clients name topics by ids alone, rules by names: the broker that a connection leads to is asked,
 * on the same connection, so that it is asked as the client. Ids are never given to another topic.
 */
import { API_KEYS } from './api-keys.ts'
import { decodeMessage, isArray, isStruct, type Place } from './decode.ts'
import { responseHeadBytes } from './denial.ts'
import { encodeMessage } from './encode.ts'
import { SIZE_BYTES } from './frame.ts'
import { type MessagePlan, planOf } from './schema.ts'

/** The first that tells topics by their ids; brokers that have requests with ids have it. */
const METADATA_VERSION = 12
const ID_BYTES = 16
/** Of one connection; of more, the oldest are asked for again. */
const IDS_MAX = 10_000
/** Of no client: answers come in order, so it only has to look odd to people. */
const OWN_CORRELATION_ID = 0x7ead_6a7e
const NONE = '\0'.repeat(ID_BYTES)

export class TopicIds {
  /** Undefined: the broker was asked, and did not say. */
  readonly #names = new Map<string, string | undefined>()

  /** @param id 16 bytes in Latin-1 @returns whether it stands for nothing */
  isNone(id: string): boolean {
    return id === NONE
  }

  isAsked(id: string): boolean {
    return this.#names.has(id)
  }

  nameOf(id: string): string | undefined {
    return this.#names.get(id)
  }

  forget(id: string): void {
    this.#names.delete(id)
  }

  /** @returns a request of the relay's own */
  ask(ids: readonly string[], clientId: string | undefined): { readonly frame: Buffer; readonly correlationId: number } {
    const plan = planOf('request', API_KEYS.METADATA, METADATA_VERSION) as MessagePlan
    const topics = ids.map((id) => ({ topicId: Buffer.from(id, 'latin1'), name: null }))
    const body = encodeMessage(plan, { topics, allowAutoTopicCreation: false })
    const client = Buffer.from(clientId ?? '')
    const head = Buffer.alloc(SIZE_BYTES + 10)
    head.writeInt16BE(API_KEYS.METADATA, SIZE_BYTES)
    head.writeInt16BE(METADATA_VERSION, SIZE_BYTES + 2)
    head.writeInt32BE(OWN_CORRELATION_ID, SIZE_BYTES + 4)
    head.writeInt16BE(client.length, SIZE_BYTES + 8)
    const noTaggedFields = Buffer.alloc(1)
    const frame = Buffer.concat([head, client, noTaggedFields, body])
    frame.writeInt32BE(frame.length - SIZE_BYTES, 0)
    for (const id of ids) this.#keep(id, undefined)
    return { frame, correlationId: OWN_CORRELATION_ID }
  }

  /** @param frame the whole answer to such a request @throws KafkaParseError */
  learnAnswer(frame: Buffer): void {
    const plan = planOf('response', API_KEYS.METADATA, METADATA_VERSION) as MessagePlan
    const { values } = decodeMessage(frame, SIZE_BYTES + responseHeadBytes(plan), plan)
    const { topics } = values
    if (!isArray(topics)) return
    for (const topic of topics.items) {
      if (!isStruct(topic)) continue
      const { name, topicId, errorCode } = topic.values
      if (typeof name !== 'string' || errorCode !== 0) continue
      const { start, end } = topicId as Place
      this.#keep(frame.toString('latin1', start, end), name)
    }
  }

  #keep(id: string, name: string | undefined): void {
    this.#names.delete(id)
    this.#names.set(id, name)
    if (this.#names.size <= IDS_MAX) return
    const [oldest] = this.#names.keys()
    if (oldest !== undefined) this.#names.delete(oldest)
  }
}

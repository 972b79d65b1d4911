/**
 * Counts requests of Kafka by the topics that they name. Clients choose the names, so there is room for so many only, and what was only ever
 * denied has a quarter of it: no client fills it up with names that it may not use.
 */
import { create } from '@bufbuild/protobuf'
import { type TopicCounts, TopicCountsSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { KafkaRecord } from '#parsers/kafka/parser.ts'
import { countVerdict, noVerdicts, type Verdicts, verdictCounts } from '../verdict-counter.ts'

/** What brokers let topics be called. Other names are nobody's, and not for a terminal. */
const TOPIC_NAME = /^[a-zA-Z0-9._-]{1,249}$/
const DENIED_SHARE = 4
const OTHERS = ''

export class TopicCounter {
  readonly #entriesMax: number
  /** By kind of request, then by topic. */
  readonly #verdicts = new Map<string, Map<string, Verdicts>>()
  #entries = 0
  #deniedEntries = 0

  /** @param entriesMax topics, once for each kind of request that names them; 0: none is counted */
  constructor(entriesMax: number) {
    this.#entriesMax = entriesMax
  }

  count({ apiKey, topics, isAllowed, isAudited }: KafkaRecord): void {
    if (this.#entriesMax === 0) return
    for (const topic of topics) countVerdict(this.#verdictsOf(apiKey, topic, isAllowed), isAllowed, isAudited)
  }

  report(): TopicCounts[] {
    return [...this.#verdicts].flatMap(([apiKey, topics]) =>
      [...topics].map(([topic, verdicts]) => create(TopicCountsSchema, { apiKey, topic, counts: verdictCounts(verdicts) })),
    )
  }

  #verdictsOf(apiKey: string, topic: string, isAllowed: boolean): Verdicts {
    let topics = this.#verdicts.get(apiKey)
    if (topics === undefined) {
      topics = new Map()
      this.#verdicts.set(apiKey, topics)
    }
    const known = topics.get(topic)
    if (known !== undefined) {
      if (isAllowed && known.allowed === 0 && topic !== OTHERS) this.#deniedEntries--
      return known
    }
    if (topic !== OTHERS && !this.#hasRoom(topic, isAllowed)) return this.#verdictsOf(apiKey, OTHERS, isAllowed)
    if (topic !== OTHERS) {
      this.#entries++
      if (!isAllowed) this.#deniedEntries++
    }
    const verdicts = noVerdicts()
    topics.set(topic, verdicts)
    return verdicts
  }

  #hasRoom(topic: string, isAllowed: boolean): boolean {
    if (this.#entries >= this.#entriesMax || !TOPIC_NAME.test(topic)) return false
    return isAllowed || this.#deniedEntries < Math.ceil(this.#entriesMax / DENIED_SHARE)
  }
}

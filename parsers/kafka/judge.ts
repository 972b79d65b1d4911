/** The verdict on a Kafka request by the rules of a ruleset: what a deny rule matches is denied, else what an allow rule matches is allowed. */
import { KafkaMatcher, type KafkaRequest } from './match.ts'
import type { KafkaRule } from './rules.ts'

export interface NamedKafkaRule extends KafkaRule {
  readonly name: string
}

export interface KafkaRules {
  /** What no deny rule matches is allowed. */
  readonly allowAll: boolean
  readonly allow: readonly NamedKafkaRule[]
  readonly deny: readonly NamedKafkaRule[]
  /** What policies in audit would make of what is allowed. */
  readonly shadow?: KafkaRuleset
}

export interface KafkaVerdict {
  readonly isAllowed: boolean
  /** The rule that decided; empty when none matched, and where everything is allowed. */
  readonly rule: string
  /** Allowed, and the shadow would have denied it. */
  readonly isAudited: boolean
}

/** Verdicts that are remembered of a ruleset; of more, all are forgotten. Requests that name more than this are judged each time. */
const REMEMBERED_MAX = 1024
const REMEMBERED_CHARACTERS_MAX = 512

export class KafkaRuleset {
  readonly #allowAll: boolean
  readonly #allow: KafkaMatcher<NamedKafkaRule>
  readonly #deny: KafkaMatcher<NamedKafkaRule>
  readonly #shadow: KafkaRuleset | undefined
  /** Clients ask the same again and again, and there may be thousands of rules. */
  readonly #remembered = new Map<string, KafkaVerdict>()
  /** Whether the verdict depends on which topics a request names. */
  readonly asksTopics: boolean

  /** @throws RE2JSException for a pattern that is none */
  constructor({ allowAll, allow, deny, shadow }: KafkaRules) {
    this.#allowAll = allowAll
    this.#allow = new KafkaMatcher(allow)
    this.#deny = new KafkaMatcher(deny)
    this.#shadow = shadow
    this.asksTopics = [...allow, ...deny].some(isAboutTopics) || shadow?.asksTopics === true
  }

  judge(request: KafkaRequest): KafkaVerdict {
    const key = keyOf(request)
    if (key === undefined) return this.#judge(request)
    const remembered = this.#remembered.get(key)
    if (remembered !== undefined) return remembered
    const verdict = this.#judge(request)
    if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear()
    this.#remembered.set(key, verdict)
    return verdict
  }

  #judge(request: KafkaRequest): KafkaVerdict {
    const [denied] = this.#deny.denying(request)
    if (denied !== undefined) return { isAllowed: false, rule: denied.name, isAudited: false }
    const allowed = this.#allow.allowing(request)
    const isAllowed = allowed !== undefined || this.#allowAll
    const isAudited = isAllowed && this.#shadow !== undefined && !this.#shadow.judge(request).isAllowed
    return { isAllowed, rule: allowed?.[0]?.name ?? '', isAudited }
  }
}

/** Everything that a verdict depends on, where that is little. Lengths stand before what clients have chosen: no two requests have one key. */
function keyOf({ apiKey, apiVersion, clientId, topics, groups, transactionalId }: KafkaRequest): string | undefined {
  if (topics === 'all' || topics.length > 1 || groups.length > 1) return undefined
  const names = [clientId, topics[0], groups[0], transactionalId]
  let key = `${apiKey} ${apiVersion}`
  for (const name of names) key += name === undefined ? ' -' : ` ${name.length} ${name}`
  return key.length > REMEMBERED_CHARACTERS_MAX ? undefined : key
}

function isAboutTopics({ topic, topicPrefix, topicPattern }: KafkaRule): boolean {
  return topic !== undefined || topicPrefix !== undefined || topicPattern !== undefined
}

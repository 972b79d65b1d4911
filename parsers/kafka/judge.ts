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

export class KafkaRuleset {
  readonly #allowAll: boolean
  readonly #allow: KafkaMatcher<NamedKafkaRule>
  readonly #deny: KafkaMatcher<NamedKafkaRule>
  readonly #shadow: KafkaRuleset | undefined
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
    const [denied] = this.#deny.denying(request)
    if (denied !== undefined) return { isAllowed: false, rule: denied.name, isAudited: false }
    const allowed = this.#allow.allowing(request)
    const isAllowed = allowed !== undefined || this.#allowAll
    const isAudited = isAllowed && this.#shadow !== undefined && !this.#shadow.judge(request).isAllowed
    return { isAllowed, rule: allowed?.[0]?.name ?? '', isAudited }
  }
}

function isAboutTopics({ topic, topicPrefix, topicPattern }: KafkaRule): boolean {
  return topic !== undefined || topicPrefix !== undefined || topicPattern !== undefined
}

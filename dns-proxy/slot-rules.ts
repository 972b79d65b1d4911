/** What may be asked: the rules of each slot, and the slot that a packet's mark names. */
import { create } from '@bufbuild/protobuf'
import { type DnsRuleset, DnsRulesetSchema, type DnsSlot } from '#api/gen/headgate/v1/control_pb.js'
import type { ItemChanges } from '#api/stated-items.ts'
import { MARK_GENERATION_SHIFT, MARK_PORT_SHIFT } from '#bpf/gen/abi.ts'
import { HEADER_BYTES } from '#parsers/dns/codes.ts'
import type { MessageReader } from '#parsers/dns/message.ts'
import { NameIndex } from '#parsers/dns/name-index.ts'
import type { AnswerMemory } from './answer-memory.ts'
import { ruleOf } from './desired-state.ts'

/** Judgement of one query. */
export interface QueryVerdict {
  readonly isAllowed: boolean
  /** Name of a rule that decided; empty when none matched, or everything is allowed. */
  readonly rule: string
  /** Allowed, and the policies in audit would not. */
  readonly isAudited: boolean
}

/** A question of a slot, judged. The same object for all queries that ask it. */
export interface JudgedQuestion extends QueryVerdict {
  /** In lower case, with a trailing dot. */
  readonly name: string
  readonly type: number
  /** As it was asked, one character a byte: an answer has to repeat it in the same case. */
  readonly question: string
  /** Both are of whoever learns from its answers. */
  isAnswered?: boolean
  memory?: AnswerMemory
}

const GENERATION_MASK = 0xfff
/** Questions that all slots together remember, at most twice as many: what is asked again is asked soon. */
const RECENT_COUNT_MAX = 8192

class Rules {
  readonly #allowAll: boolean
  readonly #allow = new NameIndex<string>('queries')
  readonly #deny = new NameIndex<string>('queries')

  constructor({ allowAll, rules, denyRules }: DnsRuleset) {
    this.#allowAll = allowAll
    for (const [index, list] of [
      [this.#allow, rules],
      [this.#deny, denyRules],
    ] as const) {
      for (const rule of list) index.add(ruleOf(rule), rule.name)
    }
  }

  judge(name: string): Omit<QueryVerdict, 'isAudited'> {
    const denied = firstInOrder(this.#deny.matching(name))
    if (denied !== undefined) return { isAllowed: false, rule: denied }
    const allowed = firstInOrder(this.#allow.matching(name))
    return { isAllowed: allowed !== undefined || this.#allowAll, rule: allowed ?? '' }
  }
}

/** One slot with its rules compiled. */
export class SlotRules {
  readonly slot: DnsSlot
  readonly #rules: Rules
  readonly #shadow: Rules | undefined
  readonly #onRemembered: () => void
  #recent = new Map<string, JudgedQuestion>()
  #before: ReadonlyMap<string, JudgedQuestion> = new Map()

  /** @param onRemembered told of each question that is remembered from now on */
  constructor(slot: DnsSlot, onRemembered: () => void = () => {}) {
    this.slot = slot
    this.#onRemembered = onRemembered
    this.#rules = new Rules(slot.ruleset ?? NOTHING)
    this.#shadow = slot.ruleset?.shadow && new Rules(slot.ruleset.shadow)
  }

  /** @param query loaded and readable, with one question */
  judge(query: MessageReader): JudgedQuestion {
    const question = Buffer.prototype.latin1Slice.call(query.bytes, query.start + HEADER_BYTES, query.questionsEnd)
    const recent = this.#recent.get(question)
    if (recent !== undefined) return recent
    const judged = this.#before.get(question) ?? this.#judge(query, question)
    this.#recent.set(question, judged)
    this.#onRemembered()
    return judged
  }

  /** Forgets what was not asked since the last time. */
  age(): void {
    this.#before = this.#recent
    this.#recent = new Map()
  }

  #judge(query: MessageReader, question: string): JudgedQuestion {
    query.rewind()
    query.nextQuestion()
    const { name, type } = query
    return { ...this.judgeName(name), name, type, question }
  }

  /** @param name in lower case, with a trailing dot */
  judgeName(name: string): QueryVerdict {
    const { isAllowed, rule } = this.#rules.judge(name)
    return { isAllowed, rule, isAudited: isAllowed && this.#shadow !== undefined && !this.#shadow.judge(name).isAllowed }
  }
}

/** All slots, by what marks say of them. */
export class SlotTable {
  readonly #byPlace = new Map<number, SlotRules>()
  #recentCount = 0

  change({ gone, come }: ItemChanges<DnsSlot>): void {
    for (const slot of gone) this.#byPlace.delete(placeOf(slot.port, slot.generation))
    for (const slot of come) this.#byPlace.set(placeOf(slot.port, slot.generation), new SlotRules(slot, this.#onRemembered))
  }

  /** @param mark of a packet that a redirect sent here @returns undefined when no slot of ours has this port and generation */
  at(mark: number): SlotRules | undefined {
    return this.#byPlace.get(placeOf(mark >>> MARK_PORT_SHIFT, (mark >>> MARK_GENERATION_SHIFT) & GENERATION_MASK))
  }

  /** Slots are many, and whoever asks for names that nobody else asks for fills the memory of one: it is one for all. */
  readonly #onRemembered = (): void => {
    if (++this.#recentCount < RECENT_COUNT_MAX) return
    this.#recentCount = 0
    for (const slot of this.#byPlace.values()) slot.age()
  };

  *slots(): Generator<DnsSlot> {
    for (const { slot } of this.#byPlace.values()) yield slot
  }
}

const NOTHING = create(DnsRulesetSchema)

function placeOf(port: number, generation: number): number {
  return port * (GENERATION_MASK + 1) + generation
}

/** Whichever the index finds first, the same rule is named for the same query. */
function firstInOrder(names: readonly string[]): string | undefined {
  let first: string | undefined
  for (const name of names) if (first === undefined || name < first) first = name
  return first
}

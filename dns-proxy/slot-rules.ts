/** What may be asked: the rules of each slot, and the slot that a packet's mark names. */
import type { DnsRuleset, DnsSlot } from '#api/gen/headgate/v1/control_pb.js'
import { MARK_GENERATION_SHIFT, MARK_PORT_SHIFT } from '#bpf/gen/abi.ts'
import { NameIndex } from '#parsers/dns/name-index.ts'
import type { ItemChanges } from './desired-state.ts'

/** Judgement of one query. */
export interface QueryVerdict {
  readonly isAllowed: boolean
  /** Name of a rule that decided; empty when none matched, or everything is allowed. */
  readonly rule: string
  /** Allowed, and the policies in audit would not. */
  readonly isAudited: boolean
}

const GENERATION_MASK = 0xfff

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
      for (const { name, matchName, matchPattern } of list) {
        index.add({ ...(matchName === undefined ? {} : { matchName }), ...(matchPattern === undefined ? {} : { matchPattern }) }, name)
      }
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

  constructor(slot: DnsSlot) {
    this.slot = slot
    this.#rules = new Rules(slot.ruleset ?? NOTHING)
    this.#shadow = slot.ruleset?.shadow && new Rules(slot.ruleset.shadow)
  }

  /** @param name in lower case, with a trailing dot */
  judge(name: string): QueryVerdict {
    const verdict = this.#rules.judge(name)
    return { ...verdict, isAudited: verdict.isAllowed && this.#shadow !== undefined && !this.#shadow.judge(name).isAllowed }
  }
}

/** All slots, by what marks say of them. */
export class SlotTable {
  readonly #byPlace = new Map<number, SlotRules>()

  change({ gone, come }: ItemChanges<DnsSlot>): void {
    for (const slot of gone) this.#byPlace.delete(placeOf(slot.port, slot.generation))
    for (const slot of come) this.#byPlace.set(placeOf(slot.port, slot.generation), new SlotRules(slot))
  }

  /** @param mark of a packet that a redirect sent here @returns undefined when no slot of ours has this port and generation */
  at(mark: number): SlotRules | undefined {
    return this.#byPlace.get(placeOf(mark >>> MARK_PORT_SHIFT, (mark >>> MARK_GENERATION_SHIFT) & GENERATION_MASK))
  }

  *slots(): Generator<DnsSlot> {
    for (const { slot } of this.#byPlace.values()) yield slot
  }
}

const NOTHING = { allowAll: false, rules: [], denyRules: [] } as unknown as DnsRuleset

function placeOf(port: number, generation: number): number {
  return port * (GENERATION_MASK + 1) + generation
}

/** Whichever the index finds first, the same rule is named for the same query. */
function firstInOrder(names: readonly string[]): string | undefined {
  let first: string | undefined
  for (const name of names) if (first === undefined || name < first) first = name
  return first
}

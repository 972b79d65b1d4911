/**
 * Counts what the extension host has judged, from its start: it is the only one who knows the rule behind such a verdict. Envoy may not
 * have waited for every one of them; those that it did not are failures in its own count.
 */
import { create } from '@bufbuild/protobuf'
import {
  type CountsReport,
  CountsReportSchema,
  CountsSource,
  type RuleCounts,
  RuleCountsSchema,
  VerdictCountsSchema,
} from '#api/gen/headgate/v1/control_pb.js'

/** Rules that are counted each on its own; verdicts by further ones are counted together. */
const RULES_MAX = 20_000
/** Is nobody's name: names of rules have slashes. */
export const OTHER_RULES = 'others'

interface Counts {
  allowed: number
  denied: number
}

export class VerdictCounter {
  readonly #rules = new Map<string, Counts>()
  readonly #rulesMax: number
  readonly #totals: Counts = { allowed: 0, denied: 0 }
  readonly #sinceNs = BigInt(Date.now()) * 1_000_000n

  constructor(rulesMax = RULES_MAX) {
    this.#rulesMax = rulesMax
  }

  /** @param rule empty when none matched */
  count(rule: string, allowed: boolean): void {
    const counts = this.#countsOf(rule)
    if (allowed) {
      counts.allowed++
      this.#totals.allowed++
    } else {
      counts.denied++
      this.#totals.denied++
    }
  }

  report(totalsOnly: boolean): CountsReport {
    const isFull = this.#rules.has(OTHER_RULES)
    return create(CountsReportSchema, {
      source: CountsSource.EXT_HOST,
      sinceNs: this.#sinceNs,
      totals: messageOf(this.#totals),
      rules: totalsOnly ? [] : this.#sorted(),
      problem: isFull ? `only ${this.#rulesMax} rules are counted each on its own` : '',
    })
  }

  #countsOf(rule: string): Counts {
    const known = this.#rules.get(rule)
    if (known !== undefined) return known
    // The bucket of the others is one more.
    if (this.#rules.size >= this.#rulesMax && rule !== OTHER_RULES) return this.#countsOf(OTHER_RULES)
    const counts = { allowed: 0, denied: 0 }
    this.#rules.set(rule, counts)
    return counts
  }

  #sorted(): RuleCounts[] {
    return [...this.#rules]
      .sort(([nameA, a], [nameB, b]) => b.allowed + b.denied - a.allowed - a.denied || (nameA < nameB ? -1 : 1))
      .map(([rule, counts]) => create(RuleCountsSchema, { rule, counts: messageOf(counts) }))
  }
}

function messageOf({ allowed, denied }: Counts) {
  return create(VerdictCountsSchema, { allowed: BigInt(allowed), denied: BigInt(denied) })
}

/**
 * Counts verdicts from the start of the process that takes them: it is the only one who knows the rule behind each. Of the HTTP judge's, Envoy
 * may not have waited for every one; those that it did not are failures in its own count.
 */
import { create } from '@bufbuild/protobuf'
import {
  type CountsReport,
  CountsReportSchema,
  type CountsSource,
  type RuleCounts,
  RuleCountsSchema,
  type VerdictCounts,
  VerdictCountsSchema,
} from '#api/gen/headgate/v1/control_pb.js'

/** Rules that are counted each on its own; verdicts by further ones are counted together. */
const RULES_MAX = 20_000
/** Is nobody's name: names of rules have slashes. */
export const OTHER_RULES = 'others'

/** How often what was decided. */
export interface Verdicts {
  allowed: number
  denied: number
  audited: number
}

export class VerdictCounter {
  readonly #rules = new Map<string, Verdicts>()
  readonly #rulesMax: number
  readonly #source: CountsSource
  readonly #totals = noVerdicts()
  readonly #sinceNs = BigInt(Date.now()) * 1_000_000n

  constructor(source: CountsSource, rulesMax = RULES_MAX) {
    this.#source = source
    this.#rulesMax = rulesMax
  }

  /** @param rule empty when none matched */
  count(rule: string, isAllowed: boolean, isAudited = false): void {
    countVerdict(this.#verdictsOf(rule), isAllowed, isAudited)
    countVerdict(this.#totals, isAllowed, isAudited)
  }

  report(totalsOnly: boolean): CountsReport {
    const isFull = this.#rules.has(OTHER_RULES)
    return create(CountsReportSchema, {
      source: this.#source,
      sinceNs: this.#sinceNs,
      totals: verdictCounts(this.#totals),
      rules: totalsOnly ? [] : this.#sorted(),
      problem: isFull ? `only ${this.#rulesMax} rules are counted each on its own` : '',
    })
  }

  #verdictsOf(rule: string): Verdicts {
    const known = this.#rules.get(rule)
    if (known !== undefined) return known
    // The bucket of the others is one more.
    if (this.#rules.size >= this.#rulesMax && rule !== OTHER_RULES) return this.#verdictsOf(OTHER_RULES)
    const verdicts = noVerdicts()
    this.#rules.set(rule, verdicts)
    return verdicts
  }

  #sorted(): RuleCounts[] {
    return [...this.#rules]
      .sort(([nameA, a], [nameB, b]) => b.allowed + b.denied - a.allowed - a.denied || (nameA < nameB ? -1 : 1))
      .map(([rule, verdicts]) => create(RuleCountsSchema, { rule, counts: verdictCounts(verdicts) }))
  }
}

export function noVerdicts(): Verdicts {
  return { allowed: 0, denied: 0, audited: 0 }
}

export function countVerdict(verdicts: Verdicts, isAllowed: boolean, isAudited: boolean): void {
  if (isAllowed) verdicts.allowed++
  else verdicts.denied++
  if (isAudited) verdicts.audited++
}

export function verdictCounts({ allowed, denied, audited }: Verdicts): VerdictCounts {
  return create(VerdictCountsSchema, { allowed: BigInt(allowed), denied: BigInt(denied), audited: BigInt(audited) })
}

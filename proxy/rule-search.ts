/**
 * Finds the rules for which Envoy refuses a ruleset, by halving: a refusal does not say which rule it is about. Every set that is
 * tried is a part of the wanted one, so whatever is in force on the way allows less than the policy, never more.
 */

export interface Refused<Rule> {
  readonly rule: Rule
  readonly reason: string
}

export class RuleSearch<Rule> {
  /** Together in force at the last acknowledgement, or to be so first. */
  #good: readonly Rule[]
  /** Groups still to be tried with the good ones, the next one last. */
  readonly #groups: (readonly Rule[])[]
  readonly #refused: Refused<Rule>[] = []
  #trying: readonly Rule[] | undefined
  #baseTried: boolean

  /**
   * @param rules all of them; together they were refused
   * @param inForce those of them that are in force now
   * @param exactly whether nothing but those is in force: then there is no need to narrow it first
   */
  constructor(rules: readonly Rule[], inForce: ReadonlySet<Rule>, exactly: boolean) {
    this.#good = rules.filter((rule) => inForce.has(rule))
    this.#groups = halves(rules.filter((rule) => !inForce.has(rule)))
    this.#baseTried = exactly
  }

  /** The set to try now; undefined when the search is over. */
  get candidate(): readonly Rule[] | undefined {
    if (!this.#baseTried) return this.#good
    this.#trying ??= this.#groups.pop()
    return this.#trying === undefined ? undefined : [...this.#good, ...this.#trying]
  }

  get good(): readonly Rule[] {
    return this.#good
  }

  get refused(): readonly Refused<Rule>[] {
    return this.#refused
  }

  /** The candidate is in force. */
  acceptedCandidate(): void {
    this.#good = this.candidate ?? this.#good
    this.#baseTried = true
    this.#trying = undefined
  }

  /** The candidate was refused. */
  refusedCandidate(reason: string): void {
    if (!this.#baseTried) {
      // Even what was in force is refused now: nothing is known to be good any more.
      this.#groups.push(...halves(this.#good))
      this.#good = []
      this.#baseTried = true
      return
    }
    const trying = this.#trying ?? []
    this.#trying = undefined
    if (trying.length === 1) this.#refused.push({ rule: trying[0]!, reason })
    else this.#groups.push(...halves(trying))
  }
}

/** Two groups, the first half last; fewer when there is less to split. */
function halves<Rule>(rules: readonly Rule[]): (readonly Rule[])[] {
  if (rules.length === 0) return []
  const middle = Math.ceil(rules.length / 2)
  return [rules.slice(middle), rules.slice(0, middle)].filter((group) => group.length > 0)
}

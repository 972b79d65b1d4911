/** Which DNS rules a query matches, each rule asked by itself and in order: for simulation, where the DNS proxy has name-index.ts. */
import { compileName, type NameUse } from './name-pattern.ts'
import type { DnsRule } from './rules.ts'

/** Rules, compiled. A rule with a name and a pattern matches what either matches. */
export class DnsMatcher<Rule extends DnsRule = DnsRule> {
  readonly #rules: readonly { readonly rule: Rule; readonly matches: (name: string) => boolean }[]

  constructor(rules: readonly Rule[], use: NameUse = 'queries') {
    this.#rules = rules.map((rule) => ({ rule, matches: compileName(rule, use) }))
  }

  /** The rules that match, in their order; the query is allowed if there is one. @param name in any case, with or without trailing dot */
  matching(name: string): Rule[] {
    return this.#rules.filter(({ matches }) => matches(name)).map(({ rule }) => rule)
  }
}

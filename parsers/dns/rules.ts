/** A DNS rule as policy states it, for queries (`rules.dns`) and for names of peers (`toFQDNs`). */

export interface DnsRule {
  /** Lower-case, with a trailing dot. */
  readonly matchName?: string
  /** Lower-case, with a trailing dot; parsers/dns/name-pattern.ts says what it matches. */
  readonly matchPattern?: string
}

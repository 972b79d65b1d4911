/** What a node of this version makes of a ruleset that it cannot run yet: it denies the traffic, and a trace says so. */
import type { HttpRule } from '#parsers/http/rules.ts'
import { httpRules, type NamedRule, type ResolvedRuleset } from '../resolved.ts'

/** @returns undefined where a node does what the rules say */
export function notEnforced(ruleset: ResolvedRuleset): string | undefined {
  const { kind, allowAll, deny, serverNames, terminatingTls, originatingTls } = ruleset
  const isIntercepted = terminatingTls !== undefined || originatingTls !== undefined
  if (kind === 'conflict' || (allowAll && deny.length === 0 && !isIntercepted && kind !== 'listener')) return undefined
  const denied = (what: string) => `${what} not enforced by this version: a node denies this traffic`
  if (isIntercepted) return denied('TLS interception is')
  if (serverNames.length > 0) return denied('rules on server names are')
  if (kind === 'listener') return denied('a redirect to a listener is')
  return kind === 'cassandra' || kind === 'tls' ? denied(`${kind} rules are`) : undefined
}

/** What a node of this version does not report of the denials of policies in audit. @returns undefined where it reports all of them */
export function notReported({ kind, allow, deny }: ResolvedRuleset): string | undefined {
  const asksForSecrets = ({ rule }: NamedRule<HttpRule>) => rule.headerMatches?.some(({ secret }) => secret !== undefined) === true
  return kind === 'http' && httpRules([...allow, ...deny]).some(asksForSecrets)
    ? 'what policies in audit ask of secrets is not reported by this version: a node reports no denial for the sake of one'
    : undefined
}

/** What a node of this version makes of a ruleset that it cannot run yet: it denies the traffic, and a trace says so. */
import { httpRules, type ResolvedRuleset } from '../resolved.ts'

/** A ruleset can hold thousands of rules, and is asked about with every question. */
const known = new WeakMap<ResolvedRuleset, { readonly gap: string | undefined }>()

/** @returns undefined where a node does what the rules say */
export function notEnforced(ruleset: ResolvedRuleset): string | undefined {
  let found = known.get(ruleset)
  if (found === undefined) {
    found = { gap: gapOf(ruleset) }
    known.set(ruleset, found)
  }
  return found.gap
}

function gapOf(ruleset: ResolvedRuleset): string | undefined {
  const { kind, parser, allowAll, allow, deny, serverNames, terminatingTls, originatingTls } = ruleset
  const isIntercepted = terminatingTls !== undefined || originatingTls !== undefined
  if (kind === 'conflict' || (allowAll && deny.length === 0 && !isIntercepted && kind !== 'listener')) return undefined
  const denied = (what: string) => `${what} not enforced by this version: a node denies this traffic`
  if (isIntercepted) return denied('TLS interception is')
  if (serverNames.length > 0) return denied('rules on server names are')
  if (kind === 'listener') return denied('a redirect to a listener is')
  if (kind !== 'http') return denied(`${kind === 'parser' ? parser : kind} rules are`)
  const hasActions = httpRules([...allow, ...deny]).some(({ rule }) =>
    (rule.headerMatches ?? []).some(({ secret, mismatch }) => secret !== undefined || mismatch !== undefined),
  )
  return hasActions ? 'HTTP rules with header actions or secrets are not enforced by this version: a node denies their requests' : undefined
}

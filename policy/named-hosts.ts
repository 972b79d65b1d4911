/**
 * Rules with names and HTTP rules: an address can be that of many names, of which policy may mean one, so a request has to ask for a host
 * that the rule names. What states a host itself is judged by that.
 */
import { isMatchAll, normalizeName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import type { L7Rules, PeerSet, Traffic } from './model.ts'

/** What `*` stands for in a name. */
const ANY_PART = '[-a-z0-9_]*'
const WHOLE_LABELS = '(?:[-a-z0-9_]+\\.)+'

/** The hosts of the peers' names, as an expression of RE2; undefined where not all peers have names, or they may have any. */
export function hostsOf(peers: PeerSet): string | undefined {
  if (peers.kind !== 'members') return undefined
  const names = peers.members.flatMap((peer) => (peer.kind === 'fqdn' ? [peer.name] : []))
  if (names.length === 0 || names.length < peers.members.length) return undefined
  const patterns = names.map(hostOfName)
  return patterns.includes(undefined) ? undefined : `(?i:${patterns.join('|')})\\.?(?::[0-9]+)?`
}

/** @returns the traffic itself where peers have no names, or may have any */
export function withNamedHosts(traffic: Traffic, peers: PeerSet): Traffic {
  const host = hostsOf(peers)
  if (traffic.kind !== 'ports' || host === undefined) return traffic
  return { kind: 'ports', rules: traffic.rules.map((rule) => (rule.l7 === undefined ? rule : { ...rule, l7: bound(rule.l7, host) })) }
}

function bound(l7: L7Rules, host: string): L7Rules {
  if (l7.kind !== 'http') return l7
  return { ...l7, rules: l7.rules.map((rule) => (rule.host === undefined ? { ...rule, host } : rule)) }
}

/** As an expression of RE2, without the last dot; undefined for every name. */
function hostOfName({ matchName, matchPattern }: DnsRule): string | undefined {
  if (matchName !== undefined) return quoted(normalizeName(matchName).slice(0, -1))
  if (matchPattern === undefined || isMatchAll(matchPattern)) return undefined
  const pattern = normalizeName(matchPattern).slice(0, -1)
  const [, rest] = /^\*\*+\.(.+)$/.exec(pattern) ?? []
  const text = (rest ?? pattern).split(/\*+/).map(quoted).join(ANY_PART)
  return rest === undefined ? text : `${WHOLE_LABELS}${text}`
}

/** Names have letters, digits, hyphens, underscores and dots only. */
function quoted(text: string): string {
  return text.replaceAll('.', '\\.')
}

/**
 * Why a rule has a part in a flow or has none, in words: peers first, then ports, then the HTTP rules. It reads documents rule by rule,
 * as an author does, and takes no verdict; the verdict comes from the resolved rows (trace.ts), and tests hold the two together.
 */
import type { HttpRequest } from '#parsers/http/match.ts'
import { containsPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import type { LabelSet } from '../labels.ts'
import type { LabelSelector, Peer, PolicyRule, PortRange, PortRule } from '../model.ts'
import { selectorsOfEntity } from '../reserved.ts'
import { selects } from '../selector.ts'
import { matcherOf } from './matchers.ts'

/** The other side of a flow, as rules see it. */
export interface TracedPeer {
  readonly labels: LabelSet
  /** An address outside of the known endpoints, or the prefix that an identity stands for. */
  readonly prefix: Prefix | undefined
}

export interface TracedTraffic {
  /** As policies name them. */
  readonly protocol: 'TCP' | 'UDP' | 'SCTP' | 'ICMP'
  /** 0 for ICMP. */
  readonly port: number
  readonly http: HttpRequest | undefined
}

export interface Explanation {
  /** The rule has a say about this flow. */
  readonly isMatch: boolean
  readonly reason: string
}

export function explainRule(rule: PolicyRule, peer: TracedPeer, traffic: TracedTraffic, clusterName: string): Explanation {
  const whom = explainPeers(rule, peer, clusterName)
  if (!whom.isMatch) return whom
  const what = explainTraffic(rule, traffic)
  return { isMatch: what.isMatch, reason: what.isMatch ? `${whom.reason}, ${what.reason}` : what.reason }
}

function explainPeers({ peers, direction }: PolicyRule, peer: TracedPeer, clusterName: string): Explanation {
  const side = direction === 'ingress' ? 'sender' : 'receiver'
  if (peers.kind === 'none') return { isMatch: false, reason: 'the rule names nobody: it only switches default deny on' }
  if (peers.kind === 'any') return { isMatch: true, reason: 'for everybody' }
  const found = peers.members.find((member) => selectsPeer(member, peer, clusterName))
  return found === undefined
    ? { isMatch: false, reason: `the ${side} is none of: ${peers.members.map(describePeer).join('; ')}` }
    : { isMatch: true, reason: `the ${side} is ${describePeer(found)}` }
}

function selectsPeer(member: Peer, { labels, prefix }: TracedPeer, clusterName: string): boolean {
  switch (member.kind) {
    case 'endpoints':
      return selects(member.selector, labels)
    case 'entity':
      return selectorsOfEntity(member.entity, clusterName).some((selector) => selects(selector, labels))
    case 'cidr':
      return isInCidr(member.cidr, member.except, prefix, labels)
  }
}

/** Every address of a family is what an identity stands for that means the world and has no prefix of its own. */
function isInCidr(cidr: string, except: readonly string[], prefix: Prefix | undefined, labels: LabelSet): boolean {
  const outer = parsePrefix(cidr)
  if (outer === undefined) return false
  if (prefix === undefined) {
    const isWorld = labels.has('reserved', 'world') || labels.has('reserved', `world-ipv${outer.family}`)
    return outer.length === 0 && isWorld
  }
  const holes = except.flatMap((text) => parsePrefix(text) ?? [])
  return containsPrefix(outer, prefix) && !holes.some((hole) => containsPrefix(hole, prefix))
}

function explainTraffic({ traffic }: PolicyRule, { protocol, port, http }: TracedTraffic): Explanation {
  if (traffic.kind === 'any') return { isMatch: true, reason: 'on every port' }
  const where = protocol === 'ICMP' ? 'ICMP' : `${port}/${protocol}`
  const covering = traffic.rules.filter(({ ranges }) => ranges.some((range) => covers(range, protocol, port)))
  if (covering.length === 0) {
    const named = traffic.rules.flatMap(({ ranges }) => ranges.map(describeRange))
    return { isMatch: false, reason: `${where} is none of: ${named.join(', ') || 'no port at all'}` }
  }
  const plain = covering.find(({ l7 }) => l7 === undefined)
  if (plain !== undefined) return { isMatch: true, reason: `on ${where}` }
  return explainHttp(covering, where, http)
}

function explainHttp(rules: readonly PortRule[], where: string, request: HttpRequest | undefined): Explanation {
  const lists = rules.flatMap(({ l7 }) => (l7 === undefined ? [] : [l7.rules]))
  const count = lists.reduce((sum, { length }) => sum + length, 0)
  if (request === undefined) return { isMatch: true, reason: `on ${where}, for requests that meet one of ${count} HTTP rules` }
  const [first] = lists.flatMap((list) => matcherOf(list).matching(request))
  if (first === undefined) return { isMatch: false, reason: `on ${where}, but the request meets none of ${count} HTTP rules` }
  const conditions = [
    ...(['method', 'path', 'host'] as const).flatMap((name) => (first[name] === undefined ? [] : [`${name} ${first[name]}`])),
    ...first.headers.map(({ name, value }) => (value === undefined ? `header ${name}` : `header ${name}: ${value}`)),
  ]
  return { isMatch: true, reason: `on ${where}, the request meets ${conditions.join(', ') || 'the rule without conditions'}` }
}

function covers({ protocol, first, last }: PortRange, asked: TracedTraffic['protocol'], port: number): boolean {
  if (asked === 'ICMP') return false
  return (protocol === 'ANY' || protocol === asked) && port >= first && port <= last
}

function describeRange({ protocol, first, last }: PortRange): string {
  const ports = first === 0 ? 'every port' : first === last ? String(first) : `${first}-${last}`
  return `${ports}/${protocol}`
}

function describePeer(peer: Peer): string {
  switch (peer.kind) {
    case 'endpoints':
      return describeSelector(peer.selector)
    case 'entity':
      return `entity ${peer.entity}`
    case 'cidr':
      return peer.except.length === 0 ? peer.cidr : `${peer.cidr} except ${peer.except.join(', ')}`
  }
}

function describeSelector({ requirements }: LabelSelector): string {
  if (requirements.length === 0) return 'everybody'
  return requirements
    .map(({ source, key, operator, values }) => {
      const name = source === 'any' ? key : `${source}:${key}`
      if (operator === 'Exists') return `with ${name}`
      if (operator === 'DoesNotExist') return `without ${name}`
      const set = values.length === 1 ? values[0] : `(${values.join('|')})`
      return operator === 'In' ? `${name}=${set}` : `${name}!=${set}`
    })
    .join(' and ')
}

/**
 * Why a rule has a part in a flow or has none, in words: peers first, then ports, then what is said on the connection. It reads documents
 * rule by rule, as an author does, and takes no verdict; the verdict comes from the resolved rows (trace.ts), and tests hold the two
 * together.
 */
import { compileName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import type { SecretLookup } from '#parsers/http/judge.ts'
import type { HeaderMatch } from '#parsers/http/rules.ts'
import { containsPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import { DNS_PORT, PROTOCOL_NUMBERS } from '../compile.ts'
import type { LabelSet } from '../labels.ts'
import {
  type FqdnPeer,
  type L7Rule,
  type LabelSelector,
  type NamedPort,
  type Peer,
  PORTLESS_PROTOCOLS,
  type PolicyRule,
  type PortRange,
  type PortRule,
} from '../model.ts'
import { isReferencePeer, type ReferencePeer, type ResolvedReference } from '../references.ts'
import { selectorsOfEntity, selectorsOfNodes } from '../reserved.ts'
import { canRead, kindOfPart } from '../rulesets.ts'
import { selects } from '../selector.ts'
import type { NamedPortNumber } from '../selector-index.ts'
import { isServerNameAllowed, matchingRules } from './matchers.ts'
import { hasPorts, ICMP_PROTOCOLS, type TracedTraffic } from './traffic.ts'

/** The other side of a flow, as rules see it. */
export interface TracedPeer {
  readonly labels: LabelSet
  /** An address outside of the known endpoints, or the prefixes that an identity stands for. */
  readonly prefixes: readonly Prefix[]
  /** DNS names that it is known by, lower-case, with a trailing dot. */
  readonly names: readonly string[]
}

/** What a rule is read with. */
export interface ExplainContext {
  readonly clusterName: string
  /** What the other rules of the direction and verdict require of endpoints. */
  readonly requires: readonly LabelSelector[]
  /** Ports that the receiver has names for. */
  readonly namedPorts: readonly NamedPortNumber[]
  readonly resolve: (peer: ReferencePeer) => ResolvedReference
  /** Whether deny rules with names are about queries for them as well. */
  readonly observesQueries: boolean
  readonly secretOf: SecretLookup
}

export interface Explanation {
  /** The rule has a say about this flow. */
  readonly isMatch: boolean
  readonly reason: string
}

export function explainRule(rule: PolicyRule, peer: TracedPeer, traffic: TracedTraffic, context: ExplainContext): Explanation {
  const refused = context.observesQueries ? refusedName(rule, traffic) : undefined
  if (refused !== undefined) return yes(`queries for the name ${describeName(refused.name)} are refused`)
  const whom = explainPeers(rule, peer, context)
  if (!whom.isMatch) return whom
  const what = explainTraffic(rule, traffic, context)
  return { isMatch: what.isMatch, reason: what.isMatch ? `${whom.reason}, ${what.reason}` : what.reason }
}

/** As compileNameQueries has it. */
function refusedName({ direction, verdict, peers }: PolicyRule, { protocol, port, request }: TracedTraffic): FqdnPeer | undefined {
  const isQuery = request?.kind === 'dns' && port === DNS_PORT && (protocol === PROTOCOL_NUMBERS.UDP || protocol === PROTOCOL_NUMBERS.TCP)
  if (!isQuery || direction !== 'egress' || verdict !== 'deny' || peers.kind !== 'members') return undefined
  return peers.members.flatMap((peer) => (peer.kind === 'fqdn' ? [peer] : [])).find((peer) => nameTestOf(peer)(request.name))
}

function no(reason: string): Explanation {
  return { isMatch: false, reason }
}

function yes(reason: string): Explanation {
  return { isMatch: true, reason }
}

function explainPeers({ peers, direction }: PolicyRule, peer: TracedPeer, context: ExplainContext): Explanation {
  const side = direction === 'ingress' ? 'sender' : 'receiver'
  if (peers.kind === 'none') return no('the rule names nobody: it only switches default deny on')
  if (peers.kind === 'any') return yes('for everybody')
  const found = peers.members.find((member) => selectsPeer(member, peer, context))
  if (found !== undefined) return yes(`the ${side} is ${describePeer(found)}`)
  const without = { ...context, requires: [] }
  const narrowed = peers.members.find((member) => selectsPeer(member, peer, without))
  if (narrowed !== undefined) {
    const missing = context.requires.filter((selector) => !selects(selector, peer.labels)).map(describeSelector)
    return no(
      `the ${side} is ${describePeer(narrowed)}, but not ${missing.join('; ')}, which ${direction === 'ingress' ? 'from' : 'to'}Requires asks for`,
    )
  }
  return no(`the ${side} is none of: ${peers.members.map(describePeer).join('; ')}`)
}

function selectsPeer(member: Peer, peer: TracedPeer, { clusterName, requires, resolve }: ExplainContext): boolean {
  const { labels, prefixes } = peer
  const isEndpoint = (selector: LabelSelector) => selects(selector, labels) && requires.every((required) => selects(required, labels))
  switch (member.kind) {
    case 'endpoints':
      return isEndpoint(member.selector)
    case 'entity':
      return selectorsOfEntity(member.entity, clusterName).some((selector) => selects(selector, labels))
    case 'cidr':
      return isInCidr(member.cidr, member.except, prefixes, labels)
    case 'nodes':
      return selectorsOfNodes(member.selector).some((selector) => selects(selector, labels))
    case 'fqdn':
      return peer.names.some(nameTestOf(member))
    default: {
      const { selectors, cidrs } = resolve(member)
      return selectors.some(isEndpoint) || cidrs.some((cidr) => isInCidr(cidr, [], prefixes, labels))
    }
  }
}

const nameTests = new WeakMap<FqdnPeer, (name: string) => boolean>()

function nameTestOf(peer: FqdnPeer): (name: string) => boolean {
  let test = nameTests.get(peer)
  if (test === undefined) {
    test = compileName(peer.name, 'peers')
    nameTests.set(peer, test)
  }
  return test
}

/** Every address of a family is what an identity stands for that means the world and has no prefix of its own. */
function isInCidr(cidr: string, except: readonly string[], prefixes: readonly Prefix[], labels: LabelSet): boolean {
  const outer = parsePrefix(cidr)
  if (outer === undefined || !isWorld(labels)) return false
  if (prefixes.length === 0)
    return outer.length === 0 && (labels.has('reserved', 'world') ? outer.family === 4 : isWorld(labels, outer.family))
  const holes = except.flatMap((text) => parsePrefix(text) ?? [])
  return prefixes.some((prefix) => containsPrefix(outer, prefix) && !holes.some((hole) => containsPrefix(hole, prefix)))
}

function isWorld(labels: LabelSet, family?: 4 | 6): boolean {
  const names = family === undefined ? ['world', 'world-ipv4', 'world-ipv6'] : [`world-ipv${family}`]
  return names.some((name) => labels.has('reserved', name))
}

function explainTraffic({ traffic, verdict }: PolicyRule, asked: TracedTraffic, context: ExplainContext): Explanation {
  if (traffic.kind === 'any') return yes('on every port')
  const { name } = asked
  if (traffic.kind === 'icmps') {
    const isNamed = traffic.fields.some(({ family, type }) => family === ICMP_PROTOCOLS[asked.protocol] && type === asked.port)
    if (isNamed) return yes(`on ${name}`)
    return no(`${name} is none of: ${traffic.fields.map(({ family, type }) => `icmp${family === 6 ? 'v6' : ''}/${type}`).join(', ')}`)
  }
  const covering = traffic.rules.filter((rule) => isOnPort(rule, asked, context.namedPorts))
  if (covering.length === 0) {
    const named = traffic.rules.flatMap(({ ranges, names }) => [...ranges.map(describeRange), ...names.map(describeNamedPort)])
    return no(`${name} is none of: ${named.join(', ') || 'no port at all'}`)
  }
  if (covering.some(isWithoutConditions)) return yes(`on ${name}`)
  const explained = covering.map((rule) => explainRequest(rule, asked, verdict, context.secretOf))
  return explained.find(({ isMatch }) => isMatch) ?? (explained[0] as Explanation)
}

function isWithoutConditions({ l7, serverNames = [] }: PortRule): boolean {
  return l7 === undefined && serverNames.length === 0
}

const KIND_NAMES = { http: 'HTTP', dns: 'DNS', kafka: 'Kafka', cassandra: 'Cassandra' } as const

function explainRequest(
  { l7, serverNames = [] }: PortRule,
  { name, request, serverName }: TracedTraffic,
  verdict: PolicyRule['verdict'],
  secretOf: SecretLookup,
): Explanation {
  const isAboutNames = serverNames.length > 0
  if (isAboutNames && (serverName !== undefined || request !== undefined) && !isServerNameAllowed(serverNames, serverName)) {
    const stated = serverName === undefined ? 'no server name is stated' : `${serverName} is none of them`
    return no(`on ${name}, for the server names ${serverNames.join(', ')}, and ${stated}`)
  }
  const names = isAboutNames ? `, for the server names ${serverNames.join(', ')}` : ''
  if (l7 === undefined) return yes(`on ${name}${names}`)
  const count = l7.rules.length
  const rules = `${count} ${l7.kind === 'parser' ? l7.parser : KIND_NAMES[l7.kind]} ${count === 1 ? 'rule' : 'rules'}`
  if (request === undefined || l7.kind === 'parser') {
    // What denies requests denies no connection.
    if (verdict === 'deny') return no(`on ${name}${names}, for requests that meet one of ${rules}, and none is asked about`)
    return yes(`on ${name}${names}, for requests that meet one of ${rules}`)
  }
  const matching = matchingRules(l7.kind, l7.rules, request, verdict, secretOf)
  if (matching === undefined) return no(`on ${name}${names}, but the request meets none of ${rules}`)
  return yes(`on ${name}${names}, the request meets ${(matching[0] && describeL7Rule(matching[0])) || 'the rule without conditions'}`)
}

const NAMED_FIRST: ReadonlySet<string> = new Set(['method', 'path', 'host'])

function describeName({ matchName, matchPattern }: DnsRule): string {
  return [matchName, matchPattern].flatMap((name) => (name === undefined ? [] : [name.replace(/(.)\.$/, '$1')])).join(' or ')
}

/** What an L7 rule asks for, in one line. */
export function describeL7Rule(rule: L7Rule): string {
  if ('matchName' in rule || 'matchPattern' in rule) return describeName(rule as DnsRule)
  const { headers, headerMatches, ...fields } = rule as Readonly<Record<string, unknown>> & {
    readonly headers?: readonly { readonly name: string; readonly value?: string }[]
    readonly headerMatches?: readonly HeaderMatch[]
  }
  return [
    ...[...NAMED_FIRST].flatMap((name) => (fields[name] === undefined ? [] : [`${name} ${fields[name]}`])),
    ...Object.entries(fields).flatMap(([name, value]) => (NAMED_FIRST.has(name) ? [] : [`${name} ${value}`])),
    ...(headers ?? []).map(({ name, value }) => (value === undefined ? `header ${name}` : `header ${name}: ${value}`)),
    ...(headerMatches ?? []).map(describeHeaderMatch),
  ].join(', ')
}

function describeHeaderMatch({ name, value, secret, mismatch }: HeaderMatch): string {
  const wanted = secret === undefined ? value : `the secret ${secret.namespace}/${secret.name}`
  return `header ${name}${wanted === undefined ? '' : `: ${wanted}`}${mismatch === undefined ? '' : ` (else ${mismatch})`}`
}

function isOnPort(rule: PortRule, { protocol, port }: TracedTraffic, namedPorts: readonly NamedPortNumber[]): boolean {
  if (!canRead(kindOfPart(rule), protocol)) return false
  const { ranges, names } = rule
  return (
    ranges.some((range) => covers(range, protocol, port)) ||
    names.some((name) =>
      namedPorts.some(
        (known) =>
          known.name === name.name &&
          known.port === port &&
          PROTOCOL_NUMBERS[known.protocol] === protocol &&
          (name.protocol === 'ANY' || name.protocol === known.protocol),
      ),
    )
  )
}

function covers({ protocol, first, last }: PortRange, asked: number, port: number): boolean {
  if (Object.hasOwn(PORTLESS_PROTOCOLS, protocol)) return PORTLESS_PROTOCOLS[protocol as keyof typeof PORTLESS_PROTOCOLS] === asked
  const isProtocol = protocol === 'ANY' ? hasPorts(asked) : PROTOCOL_NUMBERS[protocol as keyof typeof PROTOCOL_NUMBERS] === asked
  return isProtocol && port >= first && port <= last
}

function describeRange({ protocol, first, last }: PortRange): string {
  if (Object.hasOwn(PORTLESS_PROTOCOLS, protocol)) return protocol
  const ports = first === 0 ? 'every port' : first === last ? String(first) : `${first}-${last}`
  return `${ports}/${protocol}`
}

function describeNamedPort({ name, protocol }: NamedPort): string {
  return `${name}/${protocol}`
}

function describePeer(peer: Peer): string {
  switch (peer.kind) {
    case 'endpoints':
      return describeSelector(peer.selector)
    case 'entity':
      return `entity ${peer.entity}`
    case 'cidr':
      return peer.except.length === 0 ? peer.cidr : `${peer.cidr} except ${peer.except.join(', ')}`
    case 'nodes':
      return `a node ${peer.selector.requirements.length === 0 ? '' : describeSelector(peer.selector)}`.trimEnd()
    case 'fqdn':
      return `the name ${describeL7Rule(peer.name)}`
    default:
      return isReferencePeer(peer) ? describeReference(peer) : ''
  }
}

function describeReference(peer: ReferencePeer): string {
  switch (peer.kind) {
    case 'cidr-group':
      return 'name' in peer.group ? `CIDR group ${peer.group.name}` : `a CIDR group ${describeSelector(peer.group.selector)}`
    case 'service':
      return 'name' in peer.service
        ? `service ${peer.namespace}/${peer.service.name}`
        : `a service ${describeSelector(peer.service.selector)}${peer.namespace === '' ? '' : ` in ${peer.namespace}`}`
    case 'group':
      return `group ${[...peer.group.securityGroupIds, ...peer.group.securityGroupNames, ...Object.entries(peer.group.labels).map((pair) => pair.join('='))].join(', ')}`
  }
}

export function describeSelector({ requirements }: LabelSelector): string {
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

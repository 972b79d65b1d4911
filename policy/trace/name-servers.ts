/**
 * Whom policy lets an endpoint ask for names: for each rule that queries can go by, somebody whom it means and a port of his. Where a
 * question does not say which server is asked, it is about these.
 */
import { addressBits, containsPrefix, formatPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import { type CompiledSpec, DNS_PORT } from '../compile.ts'
import type { LabelSelector, Peer, PolicyRule, PortRule } from '../model.ts'
import { RESERVED_IDENTITIES, selectorsOfEntity, selectorsOfNodes } from '../reserved.ts'
import { selects } from '../selector.ts'
import type { NamedPortNumber } from '../selector-index.ts'
import type { Party, Scene } from './scene.ts'
import { labelsMeeting } from './stand-ins.ts'

/** Somebody who could be asked, as questions name him. */
export interface NameServer {
  readonly text: string
  readonly port: string
}

const WORLD: NameServer = { text: 'reserved:world', port: `${DNS_PORT}/UDP` }
/** A policy can have thousands of rules, and the first that are about DNS say it. */
const SERVERS_MAX = 200
/** Who stands for a rule for everybody. */
const ANYBODY = ['reserved:world', 'reserved:host'] as const

/** Rules that are about DNS, those for its port, and those that happen to cover it. */
const RANKS = ['dns', 'port', 'other'] as const
type Rank = (typeof RANKS)[number]

interface QueryPort {
  readonly rank: Rank
  readonly port: string
}

const known = new WeakMap<readonly CompiledSpec[], readonly NameServer[]>()

/** @param server whom the question names; undefined: anybody @returns those that rules are about come first, and there is always one */
export function nameServersOf(scene: Scene, from: Party, server: string | undefined): readonly NameServer[] {
  const specs = scene.specsOf(from)
  if (server !== undefined) {
    const ports = rulesOf(specs).flatMap((rule) => portsOf(rule, scene.namedPortsOf(scene.party(server))))
    return [...ordered(ports), `${DNS_PORT}/UDP`, `${DNS_PORT}/TCP`].map((port) => ({ text: server, port }))
  }
  const isJudged = from.subject !== undefined && scene.groupOf(from).enforced.egress
  if (!isJudged) return [WORLD]
  let found = known.get(specs)
  if (found === undefined) {
    found = search(scene, specs)
    known.set(specs, found)
  }
  return found
}

function search(scene: Scene, specs: readonly CompiledSpec[]): readonly NameServer[] {
  const servers = new Map<string, NameServer & { readonly rank: Rank }>()
  for (const rule of rulesOf(specs)) {
    if (rule.traffic.kind === 'icmps' || servers.size >= SERVERS_MAX) continue
    for (const text of new Set(peopleOf(rule, scene))) {
      for (const { rank, port } of portsOf(rule, scene.namedPortsOf(scene.party(text)))) {
        const key = `${rank} ${text} ${port}`
        if (!servers.has(key)) servers.set(key, { text, port, rank })
      }
    }
  }
  return [...RANKS.flatMap((rank) => [...servers.values()].filter((server) => server.rank === rank)), WORLD].map(({ text, port }) => ({
    text,
    port,
  }))
}

function rulesOf(specs: readonly CompiledSpec[]): PolicyRule[] {
  return specs.flatMap(({ rules }) => rules.flatMap(({ rule }) => (rule.direction === 'egress' && rule.verdict === 'allow' ? [rule] : [])))
}

function ordered(ports: readonly QueryPort[]): string[] {
  return RANKS.flatMap((rank) => ports.filter((port) => port.rank === rank).map(({ port }) => port))
}

/** Ports that queries can go to by a rule. */
function portsOf({ traffic }: PolicyRule, named: readonly NamedPortNumber[]): QueryPort[] {
  if (traffic.kind === 'any') return [{ rank: 'other', port: `${DNS_PORT}/UDP` }]
  return traffic.kind === 'icmps' ? [] : traffic.rules.flatMap((rule) => portsOfMember(rule, named))
}

function portsOfMember({ l7, ranges, names, serverNames = [] }: PortRule, named: readonly NamedPortNumber[]): QueryPort[] {
  const isDns = l7?.kind === 'dns'
  if ((l7 !== undefined && !isDns) || serverNames.length > 0) return []
  const numbered = ranges.flatMap(({ protocol, first, last }): QueryPort[] => {
    if (protocol !== 'UDP' && protocol !== 'TCP' && protocol !== 'ANY') return []
    const isCovered = first <= DNS_PORT && DNS_PORT <= last
    if (!isCovered && !isDns) return []
    const rank = isDns ? 'dns' : first === last ? 'port' : 'other'
    return [{ rank, port: `${isCovered ? DNS_PORT : first}/${protocol === 'ANY' ? 'UDP' : protocol}` }]
  })
  const byName = names.flatMap(({ name, protocol }) =>
    named
      .filter((port) => port.name === name && (protocol === 'ANY' || protocol === port.protocol) && port.protocol !== 'SCTP')
      .filter(({ port }) => isDns || port === DNS_PORT)
      .map((port): QueryPort => ({ rank: isDns ? 'dns' : 'port', port: `${port.port}/${port.protocol}` })),
  )
  return [...numbered, ...byName]
}

/** For each peer of a rule somebody whom it means, as far as anybody is known or can be made up. */
function peopleOf({ peers }: PolicyRule, scene: Scene): string[] {
  if (peers.kind === 'any') return [...ANYBODY]
  return peers.kind === 'none' ? [] : peers.members.flatMap((peer) => peopleOfPeer(peer, scene))
}

function peopleOfPeer(peer: Peer, scene: Scene): string[] {
  switch (peer.kind) {
    case 'endpoints':
      return endpointOf(peer.selector, scene)
    case 'entity':
      if (peer.entity === 'all') return [...ANYBODY]
      return selectorsOfEntity(peer.entity, scene.clusterName).flatMap((selector) => reservedOf(selector) ?? endpointOf(selector, scene))
    case 'cidr':
      return addressIn(peer.cidr, peer.except)
    case 'nodes':
      return selectorsOfNodes(peer.selector).flatMap((selector) => knownOf(selector, scene) ?? [])
    case 'fqdn':
      // A server that is known by its name only would have to be asked for first.
      return []
    default: {
      const { selectors, cidrs } = scene.resolve(peer)
      return [...selectors.flatMap((selector) => endpointOf(selector, scene)), ...cidrs.flatMap((cidr) => addressIn(cidr, []))]
    }
  }
}

function endpointOf(selector: LabelSelector, scene: Scene): string[] {
  return [knownOf(selector, scene) ?? labelsMeeting(selector) ?? []].flat()
}

function knownOf(selector: LabelSelector, scene: Scene): string | undefined {
  for (const [text, { labels }] of scene.known()) if (selects(selector, labels)) return text
  return undefined
}

/** Nobody for entities that nobody is. @returns undefined for a selector of endpoints */
function reservedOf({ requirements: [first] }: LabelSelector): string[] | undefined {
  if (first?.source !== 'reserved') return undefined
  return Object.hasOwn(RESERVED_IDENTITIES, first.key) ? [`reserved:${first.key}`] : []
}

/** The first address of a prefix, or its last, that is in no exception. */
function addressIn(cidr: string, except: readonly string[]): string[] {
  const prefix = parsePrefix(cidr)
  if (prefix === undefined || prefix.family !== 4) return []
  const bits = addressBits(prefix.family)
  const size = 1n << BigInt(bits - prefix.length)
  const holes = except.flatMap((text) => parsePrefix(text) ?? [])
  const ends = [prefix.address, prefix.address + size - 1n].map((address): Prefix => ({ family: prefix.family, address, length: bits }))
  const free = ends.find((address) => !holes.some((hole) => containsPrefix(hole, address)))
  return free === undefined ? [] : [formatPrefix(free).slice(0, -`/${bits}`.length)]
}

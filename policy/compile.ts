/**
 * From a policy to what resolving needs of it: rules with names, ports as blocks, L7 parts by what has to run them. Names are of content,
 * never of position, so they outlive whatever happens around a rule: other rules, their order, the name of the file, descriptions.
 */
import { createHash } from 'node:crypto'
import { type CompiledRule, portPrefixes, type TrafficBlock } from './blocks.ts'
import {
  documentName,
  type NamedPort,
  type PeerSet,
  PORTLESS_PROTOCOLS,
  type Policy,
  type PolicyRule,
  type PolicySpec,
  type PortRange,
} from './model.ts'
import { ANY_PROTOCOL, type Direction } from './resolved.ts'
import { canRead, DNS_PART, type L7Part, l7PartOf } from './rulesets.ts'

/** Protocols that have ports. */
export const PROTOCOL_NUMBERS = { TCP: 6, UDP: 17, SCTP: 132 } as const
export type PortProtocol = keyof typeof PROTOCOL_NUMBERS

const ICMP_NUMBERS = { 4: 1, 6: 58 } as const
/** An ICMP type stands in the upper byte of what is the port elsewhere. */
const ICMP_TYPE_SHIFT = 8

/** All traffic, without L7 rules. */
export const EVERYTHING = { protocol: ANY_PROTOCOL, port: 0, portPrefixLength: 0, l7: undefined } as const

export interface CompiledPolicyRule {
  readonly direction: Direction
  readonly rule: PolicyRule
  readonly compiled: CompiledRule
  /** Digest of what it says: equal ones mean the same, but for what the things are now that it refers to. */
  readonly digest: string
}

/** One spec of a policy. */
export interface CompiledSpec {
  /** documentName */
  readonly policy: string
  readonly namespace: string
  readonly audit: boolean
  readonly spec: PolicySpec
  readonly rules: readonly CompiledPolicyRule[]
}

const DIGEST_IN_NAME = 12

/**
 * A rule's name has a digest of what it says and of whom its policy selects, and an ordinal among rules of its document that are equal
 * in both. An L7 rule's name has a digest of what it says alone: equal ones of a policy and direction mean the same, and are one.
 */
export function compilePolicy(document: Policy): CompiledSpec[] {
  const policy = documentName(document)
  const ordinals = new Map<string, number>()
  return document.specs.map((spec) => ({
    policy,
    namespace: document.namespace,
    audit: document.audit,
    spec,
    rules: spec.rules.map((rule) => {
      const { direction, verdict, peers, traffic, requires } = rule
      const digest = digestOf([spec.subject.selector, verdict, peers, traffic, ...(requires.length > 0 ? [requires] : [])])
      const base = `${policy}/${direction}/${digest.slice(0, DIGEST_IN_NAME)}`
      const ordinal = ordinals.get(base) ?? 0
      ordinals.set(base, ordinal + 1)
      const compiled = { name: `${base}-${ordinal}`, verdict, isForAnyPeer: isAnyPeer(peers), ...compileTraffic(rule, policy) }
      return { direction, rule, compiled, digest }
    }),
  }))
}

/** Where queries of rules with names are seen. */
export const DNS_PORT = 53
const DNS_BLOCKS: readonly TrafficBlock[] = [PROTOCOL_NUMBERS.UDP, PROTOCOL_NUMBERS.TCP].map((protocol) => ({
  protocol,
  port: DNS_PORT,
  portPrefixLength: 16,
}))

/**
 * What a rule with names says of asking for them: where it allows, queries are to be seen, or no address would ever be learned; where it
 * denies, they are refused.
 * @returns undefined for a rule without names
 */
export function compileNameQueries({ direction, rule, compiled }: CompiledPolicyRule, policy: string): CompiledRule | undefined {
  if (direction !== 'egress' || rule.peers.kind !== 'members') return undefined
  const names = rule.peers.members.flatMap((peer) => (peer.kind === 'fqdn' ? [peer.name] : []))
  if (names.length === 0) return undefined
  const isDeny = rule.verdict === 'deny'
  const rules = isDeny
    ? names.map((name) => ({ name: `${policy}/${direction}/${digestOf(['deny', 'dns', name]).slice(0, DIGEST_IN_NAME)}`, rule: name }))
    : []
  const l7 = { ...DNS_PART, rules }
  return {
    name: compiled.name,
    verdict: isDeny ? 'deny' : 'observe',
    isForAnyPeer: true,
    traffic: DNS_BLOCKS.map((block) => ({ ...block, l7 })),
    named: [],
  }
}

function isAnyPeer(peers: PeerSet): boolean {
  return peers.kind === 'any' || (peers.kind === 'members' && peers.members.some((peer) => peer.kind === 'entity' && peer.entity === 'all'))
}

function compileTraffic({ peers, traffic, direction, verdict }: PolicyRule, policy: string): Pick<CompiledRule, 'traffic' | 'named'> {
  // Nobody is meant: the rule only switches default deny on.
  if (peers.kind === 'none') return { traffic: [], named: [] }
  if (traffic.kind === 'any') return { traffic: [EVERYTHING], named: [] }
  if (traffic.kind === 'icmps') {
    const blocks = traffic.fields.map(({ family, type }) => ({
      protocol: ICMP_NUMBERS[family],
      port: type << ICMP_TYPE_SHIFT,
      portPrefixLength: 8,
      l7: undefined,
    }))
    return { traffic: blocks, named: [] }
  }
  const parts = traffic.rules.map((port): { port: typeof port; l7: L7Part | undefined } => {
    const l7 = l7PartOf(port, (rule, kind) => {
      const digest = digestOf(verdict === 'deny' ? ['deny', kind, rule] : [kind, rule])
      return `${policy}/${direction}/${digest.slice(0, DIGEST_IN_NAME)}`
    })
    return { port, l7 }
  })
  return {
    traffic: parts.flatMap(({ port, l7 }) =>
      port.ranges
        .flatMap(blocksOf)
        .filter(({ protocol }) => canRead(l7?.shape.kind, protocol))
        .map((block) => ({ ...block, l7 })),
    ),
    named: parts.flatMap(({ port, l7 }) => port.names.flatMap(({ name, protocol }) => namedOf(name, protocol, l7))),
  }
}

function namedOf(name: string, protocol: NamedPort['protocol'], l7: L7Part | undefined): CompiledRule['named'][number][] {
  if (l7 === undefined || l7.shape.kind === 'dns') return [{ name, protocol, l7 }]
  return protocol === 'TCP' || protocol === 'ANY' ? [{ name, protocol: 'TCP', l7 }] : []
}

/** ANY of a rule with ports is every protocol that has ports: ICMP has none. */
function blocksOf({ protocol, first, last }: PortRange): TrafficBlock[] {
  if (protocol in PORTLESS_PROTOCOLS) {
    return [{ protocol: PORTLESS_PROTOCOLS[protocol as keyof typeof PORTLESS_PROTOCOLS], port: 0, portPrefixLength: 0 }]
  }
  const protocols = protocol === 'ANY' ? Object.values(PROTOCOL_NUMBERS) : [PROTOCOL_NUMBERS[protocol as PortProtocol]]
  const prefixes = portPrefixes(first, last)
  return protocols.flatMap((number) => prefixes.map((prefix) => ({ protocol: number, ...prefix })))
}

/** Of the content alone: where it stands in the file does not matter. */
function digestOf(content: unknown): string {
  const text = JSON.stringify(content, (key, value: unknown) => (key === 'at' ? undefined : value))
  return createHash('sha256').update(text).digest('hex')
}

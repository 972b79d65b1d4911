/**
 * From a document to what resolving needs of it: rules with names, ports as blocks. Names are of content, never of position, so they
 * outlive whatever happens around a rule: other rules, their order, the name of the file, descriptions.
 */
import { createHash } from 'node:crypto'
import { type CompiledRule, portPrefixes, type TrafficBlock } from './blocks.ts'
import { documentName, type PeerSet, type PolicyDocument, type PolicyRule, type PolicySpec, type PortRange } from './model.ts'
import { ANY_PROTOCOL, type Direction, type NamedHttpRule } from './resolved.ts'

/** Protocols that have ports. */
export const PROTOCOL_NUMBERS = { TCP: 6, UDP: 17, SCTP: 132 } as const

/** All traffic, without L7 rules. */
export const EVERYTHING = { protocol: ANY_PROTOCOL, port: 0, portPrefixLength: 0, http: undefined } as const

export interface CompiledPolicyRule {
  readonly direction: Direction
  readonly rule: PolicyRule
  readonly compiled: CompiledRule
}

/** One spec of a document. */
export interface CompiledSpec {
  /** namespace/name */
  readonly policy: string
  readonly spec: PolicySpec
  readonly rules: readonly CompiledPolicyRule[]
}

/**
 * A rule's name has a digest of what it says and of whom its policy selects, and an ordinal among rules of its document that are equal
 * in both. An HTTP rule's name has a digest of what it says alone: equal ones of a policy and direction mean the same, and are one.
 */
export function compileDocument(document: PolicyDocument): CompiledSpec[] {
  const policy = documentName(document)
  const ordinals = new Map<string, number>()
  return document.specs.map((spec) => ({
    policy,
    spec,
    rules: spec.rules.map((rule) => {
      const { direction, verdict, peers, traffic } = rule
      const base = `${policy}/${direction}/${digestOf([spec.subject, verdict, peers, traffic])}`
      const ordinal = ordinals.get(base) ?? 0
      ordinals.set(base, ordinal + 1)
      const compiled = { name: `${base}-${ordinal}`, verdict, isForAnyPeer: isAnyPeer(peers), traffic: compileTraffic(rule, policy) }
      return { direction, rule, compiled }
    }),
  }))
}

function isAnyPeer(peers: PeerSet): boolean {
  return peers.kind === 'any' || (peers.kind === 'members' && peers.members.some((peer) => peer.kind === 'entity' && peer.entity === 'all'))
}

function compileTraffic({ peers, traffic, direction }: PolicyRule, policy: string): CompiledRule['traffic'] {
  // Nobody is meant: the rule only switches default deny on.
  if (peers.kind === 'none') return []
  if (traffic.kind === 'any') return [EVERYTHING]
  return traffic.rules.flatMap(({ ranges, l7 }) => {
    const http = l7?.rules.map((rule): NamedHttpRule => ({ ...rule, name: `${policy}/${direction}/${digestOf(['http', rule])}` }))
    return ranges.flatMap(blocksOf).map((block) => ({ ...block, http }))
  })
}

/** ANY of a rule with ports is every protocol that has ports: ICMP has none. */
function blocksOf({ protocol, first, last }: PortRange): TrafficBlock[] {
  const protocols = protocol === 'ANY' ? Object.values(PROTOCOL_NUMBERS) : [PROTOCOL_NUMBERS[protocol]]
  const prefixes = portPrefixes(first, last)
  return protocols.flatMap((number) => prefixes.map((prefix) => ({ protocol: number, ...prefix })))
}

/** Of the content alone: where it stands in the file does not matter. */
function digestOf(content: unknown): string {
  const text = JSON.stringify(content, (key, value: unknown) => (key === 'at' ? undefined : value))
  return createHash('sha256').update(text).digest('hex').slice(0, 12)
}

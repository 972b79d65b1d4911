/**
 * A policy as the engine takes it: checked, with selectors already scoped to their namespace and numbers parsed, each node with
 * the place that it came from. Everything is plain readonly data, so it can be cached by the content of its file. Documents,
 * subjects, peers, traffic and L7 rules are unions with a `kind`.
 *
 * Policies may name things that other documents define (ReferenceDocument: services, CIDR groups, peer groups); those names are resolved
 * by the engine, so that a file can be parsed without the others.
 */
import type { CassandraRule } from '#parsers/cassandra/rules.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import type { KafkaRule } from '#parsers/kafka/rules.ts'
import type { TlsContext } from '#parsers/tls/rules.ts'
import type { Direction } from './direction.ts'
import type { Position } from './problems.ts'

/** Which language is read: what Cilium accepts and nothing else, or with what Headgate adds (docs/policy-reference.md). */
export const DIALECTS = ['cilium', 'extended'] as const
export type Dialect = (typeof DIALECTS)[number]

export const SELECTOR_OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist'] as const
export type SelectorOperator = (typeof SELECTOR_OPERATORS)[number]

/** One condition on labels; matchLabels are conditions In with one value. */
export interface LabelRequirement {
  /** k8s, reserved, container…, or any for a label of whatever source. */
  readonly source: string
  readonly key: string
  readonly operator: SelectorOperator
  readonly values: readonly string[]
}

/** Selects the identities that meet all requirements; without any it selects every identity, known or not. */
export interface LabelSelector {
  readonly requirements: readonly LabelRequirement[]
}

/** Entities that policy can name and that are told by a reserved identity or the cluster's label. */
export const ENTITIES = [
  'all',
  'world',
  'cluster',
  'cluster-mesh',
  'host',
  'init',
  'ingress',
  'unmanaged',
  'remote-node',
  'health',
  'none',
  'kube-apiserver',
] as const
export type Entity = (typeof ENTITIES)[number]

export interface EndpointsPeer {
  readonly kind: 'endpoints'
  readonly at: Position
  readonly selector: LabelSelector
}

export interface EntityPeer {
  readonly kind: 'entity'
  readonly at: Position
  readonly entity: Entity
}

export interface CidrPeer {
  readonly kind: 'cidr'
  readonly at: Position
  /** Canonical: host bits zero, always with a length. */
  readonly cidr: string
  readonly except: readonly string[]
}

/** Prefixes of CiliumCIDRGroups: of the one with this name, or of those whose labels are selected. */
export interface CidrGroupPeer {
  readonly kind: 'cidr-group'
  readonly at: Position
  readonly group: { readonly name: string } | { readonly selector: LabelSelector }
}

/** Nodes by their labels. */
export interface NodesPeer {
  readonly kind: 'nodes'
  readonly at: Position
  readonly selector: LabelSelector
}

/** Backends of services: of the one with this name, or of those whose labels are selected. */
export interface ServicePeer {
  readonly kind: 'service'
  readonly at: Position
  /** Empty: every namespace. */
  readonly namespace: string
  readonly service: { readonly name: string } | { readonly selector: LabelSelector }
}

/** Addresses that a provider knows (policy/references.ts). */
export interface GroupPeer {
  readonly kind: 'group'
  readonly at: Position
  readonly group: AwsGroup
}

/** Instances that have one of the ids, one of the names and all of the labels; what is empty is not asked about. */
export interface AwsGroup {
  readonly labels: Readonly<Record<string, string>>
  readonly securityGroupIds: readonly string[]
  readonly securityGroupNames: readonly string[]
}

/** Addresses that a DNS name stands for, as endpoints are answered. Egress only; exactly one of the rule's fields is there. */
export interface FqdnPeer {
  readonly kind: 'fqdn'
  readonly at: Position
  readonly name: DnsRule
}

export type Peer = EndpointsPeer | EntityPeer | CidrPeer | CidrGroupPeer | NodesPeer | ServicePeer | GroupPeer | FqdnPeer

/**
 * Whom a rule is about: `any` when it names nobody and has ports, `none` when a list of peers is there but empty (or nothing
 * is said at all: `ingress: [{}]`), else whoever one of the members selects.
 */
export type PeerSet = { readonly kind: 'any' } | { readonly kind: 'none' } | { readonly kind: 'members'; readonly members: readonly Peer[] }

/** Protocols with ports; ANY is all of them. */
export const PORT_PROTOCOLS = ['TCP', 'UDP', 'SCTP', 'ANY'] as const
export type PortProtocolName = (typeof PORT_PROTOCOLS)[number]

/** Protocols without ports that rules can name, with their numbers. */
export const PORTLESS_PROTOCOLS = { VRRP: 112, IGMP: 2, GRE: 47, IPIP: 4, IPV6: 41, ESP: 50, AH: 51 } as const
export type PortlessProtocolName = keyof typeof PORTLESS_PROTOCOLS

export interface PortRange {
  readonly at: Position
  readonly protocol: PortProtocolName | PortlessProtocolName
  /** First and last port, inclusive; 0 to 65535 is any port, and what a protocol without ports has. */
  readonly first: number
  readonly last: number
}

/** A port that the receiver's side names: for ingress the subject itself, for egress each peer. */
export interface NamedPort {
  readonly at: Position
  readonly protocol: PortProtocolName
  /** Lower case. */
  readonly name: string
}

export interface HttpRules {
  readonly kind: 'http'
  /** Empty when no request can match any: all are denied. (An empty list in the document means no L7 rules.) */
  readonly rules: readonly HttpRule[]
}

export interface DnsRules {
  readonly kind: 'dns'
  readonly rules: readonly DnsRule[]
}

export interface KafkaRules {
  readonly kind: 'kafka'
  readonly rules: readonly KafkaRule[]
}

export interface CassandraRules {
  readonly kind: 'cassandra'
  readonly rules: readonly CassandraRule[]
}

/** What its keys and values mean is the parser's. */
export type ParserRule = Readonly<Record<string, string>>

/** Key-value rules of a parser of a user (`l7proto`, `l7`). */
export interface ParserRules {
  readonly kind: 'parser'
  readonly parser: string
  readonly rules: readonly ParserRule[]
}

export type L7Rules = HttpRules | DnsRules | KafkaRules | CassandraRules | ParserRules
export type L7Kind = L7Rules['kind']
export type L7Rule = L7Rules['rules'][number]

/** An Envoy listener of the user's own. */
export interface ListenerRef {
  readonly name: string
  readonly envoyConfig: { readonly kind: 'CiliumEnvoyConfig' | 'CiliumClusterwideEnvoyConfig'; readonly name: string }
  /** 1 to 100, lower wins; 0: none stated. */
  readonly priority: number
}

/** One member of toPorts. */
export interface PortRule {
  readonly at: Position
  /** With `names` both empty it matches nothing. */
  readonly ranges: readonly PortRange[]
  readonly names: readonly NamedPort[]
  /** In a deny rule: what is denied of the traffic, the rest is not touched. */
  readonly l7?: L7Rules
  /** Patterns of server names (parsers/tls/server-name.ts); absent: any, TLS or not. */
  readonly serverNames?: readonly string[]
  readonly terminatingTls?: TlsContext
  readonly originatingTls?: TlsContext
  readonly listener?: ListenerRef
}

export interface IcmpField {
  readonly at: Position
  readonly family: 4 | 6
  readonly type: number
}

export type Traffic =
  | { readonly kind: 'any' }
  | { readonly kind: 'ports'; readonly rules: readonly PortRule[] }
  | { readonly kind: 'icmps'; readonly fields: readonly IcmpField[] }

/** One member of ingress, ingressDeny, egress or egressDeny. */
export interface PolicyRule {
  readonly at: Position
  readonly direction: Direction
  readonly verdict: 'allow' | 'deny'
  readonly peers: PeerSet
  /**
   * What peers of kind `endpoints` have to meet as well, in every rule of this verdict of every policy that selects the subject in this
   * direction (fromRequires, toRequires).
   */
  readonly requires: readonly LabelSelector[]
  readonly traffic: Traffic
}

/** One rule of Cilium's API: the content of `spec` or of a member of `specs`. */
export interface PolicySpec {
  readonly at: Position
  /** Nodes: policy of hosts, which is read and simulated, not enforced yet. */
  readonly subject: { readonly kind: 'endpoints' | 'nodes'; readonly selector: LabelSelector }
  /** Whether it puts its subjects at default deny; false too where it has no rules of that direction. */
  readonly defaultDeny: Readonly<Record<Direction, boolean>>
  readonly rules: readonly PolicyRule[]
  readonly description: string
  /** source:key=value */
  readonly labels: readonly string[]
  /** Word that flows of its rules carry (`log.value`), or empty. */
  readonly log: string
}

export const POLICY_KINDS = ['CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy', 'NetworkPolicy'] as const

export interface Policy {
  readonly kind: (typeof POLICY_KINDS)[number]
  /** Empty for a clusterwide one. */
  readonly namespace: string
  readonly name: string
  readonly at: Position
  /** What it would deny is reported, and not denied. */
  readonly audit: boolean
  readonly specs: readonly PolicySpec[]
}

interface Reference {
  /** Empty for what is clusterwide. */
  readonly namespace: string
  readonly name: string
  readonly at: Position
}

export interface CidrGroup extends Reference {
  readonly kind: 'CiliumCIDRGroup'
  /** source:key=value */
  readonly labels: readonly string[]
  /** Canonical prefixes. */
  readonly cidrs: readonly string[]
}

/** A Kubernetes service, as far as policy sees it. */
export interface Service extends Reference {
  readonly kind: 'Service'
  /** source:key=value */
  readonly labels: readonly string[]
  /** Its backends are the endpoints of its namespace with these labels; without, they are those of its EndpointSlices. */
  readonly selector?: LabelSelector
}

export interface EndpointSlice extends Reference {
  readonly kind: 'EndpointSlice'
  /** Name of the service that it is of. */
  readonly service: string
  readonly addresses: readonly string[]
}

/** What the file-backed provider of groups knows: addresses of instances that are alike. */
export interface PeerGroup extends Reference {
  readonly kind: 'PeerGroup'
  readonly aws: AwsGroup
  /** Canonical prefixes. */
  readonly cidrs: readonly string[]
}

/** What policies refer to by name or label. */
export type ReferenceDocument = CidrGroup | Service | EndpointSlice | PeerGroup

export type PolicyDocument = Policy | ReferenceDocument

export function isPolicy(document: PolicyDocument): document is Policy {
  return (POLICY_KINDS as readonly string[]).includes(document.kind)
}

/**
 * What is known of a document that is not in force because its file was refused. Until a version of it is accepted, the
 * endpoints that it selects are at default deny in the directions that it names, whatever enableDefaultDeny says: it may
 * have wanted to deny something.
 */
export interface RefusedDocument {
  readonly kind: string
  readonly namespace: string
  /** Empty when it could not be read. */
  readonly name: string
  readonly at: Position
  readonly subjects: readonly RefusedSubject[]
}

export interface RefusedSubject {
  /** Requirements that could not be read are left out: the selector then selects more, within the namespace. */
  readonly selector: LabelSelector
  readonly directions: readonly Direction[]
}

/**
 * How a document is called in rule names, flows and status: namespace/name, the name of a clusterwide one, and with its kind before it
 * where a CiliumNetworkPolicy may have the same name.
 */
export function documentName({
  kind,
  namespace,
  name,
}: {
  readonly kind: string
  readonly namespace: string
  readonly name: string
}): string {
  const path = namespace === '' ? name : `${namespace}/${name}`
  return kind === '' || kind.startsWith('Cilium') ? path : `${kind.toLowerCase()}:${path}`
}

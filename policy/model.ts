/**
 * A policy as the engine takes it: checked, with selectors already scoped to their namespace and numbers parsed, each node with
 * the place that it came from. Everything is plain readonly data, so it can be cached by the content of its file. Documents,
 * subjects, peers, traffic and L7 rules are unions with a `kind`: the rest of the language is further members of them.
 */
import type { HttpRule } from '#parsers/http/rules.ts'
import type { Position } from './problems.ts'
import type { Direction } from './resolved.ts'

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

export type Peer = EndpointsPeer | EntityPeer | CidrPeer

/**
 * Whom a rule is about: `any` when it names nobody and has ports, `none` when a list of peers is there but empty (or nothing
 * is said at all: `ingress: [{}]`), else whoever one of the members selects.
 */
export type PeerSet = { readonly kind: 'any' } | { readonly kind: 'none' } | { readonly kind: 'members'; readonly members: readonly Peer[] }

export const PORT_PROTOCOLS = ['TCP', 'UDP', 'ANY'] as const
export type PortProtocolName = (typeof PORT_PROTOCOLS)[number]

export interface PortRange {
  readonly at: Position
  readonly protocol: PortProtocolName
  /** First and last port, inclusive; 0 to 65535 is any port. */
  readonly first: number
  readonly last: number
}

export interface HttpRules {
  readonly kind: 'http'
  /** Empty when no request can match any: all are denied. (An empty list in the document means no L7 rules.) */
  readonly rules: readonly HttpRule[]
}

export type L7Rules = HttpRules

/** One member of toPorts. */
export interface PortRule {
  readonly at: Position
  /** Empty matches nothing. */
  readonly ranges: readonly PortRange[]
  readonly l7?: L7Rules
}

export type Traffic = { readonly kind: 'any' } | { readonly kind: 'ports'; readonly rules: readonly PortRule[] }

/** One member of ingress, ingressDeny, egress or egressDeny. */
export interface PolicyRule {
  readonly at: Position
  readonly direction: Direction
  readonly verdict: 'allow' | 'deny'
  readonly peers: PeerSet
  readonly traffic: Traffic
}

/** One rule of Cilium's API: the content of `spec` or of a member of `specs`. */
export interface PolicySpec {
  readonly at: Position
  readonly subject: { readonly kind: 'endpoints'; readonly selector: LabelSelector }
  /** Whether it puts its subjects at default deny; false too where it has no rules of that direction. */
  readonly defaultDeny: Readonly<Record<Direction, boolean>>
  readonly rules: readonly PolicyRule[]
  readonly description: string
  /** source:key=value */
  readonly labels: readonly string[]
}

export interface CiliumPolicy {
  readonly kind: 'CiliumNetworkPolicy' | 'CiliumClusterwideNetworkPolicy'
  /** Empty for a clusterwide one. */
  readonly namespace: string
  readonly name: string
  readonly at: Position
  readonly specs: readonly PolicySpec[]
}

export type PolicyDocument = CiliumPolicy

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

/** namespace/name, or the name of a clusterwide one: how a document is called in rule names, flows and status. */
export function documentName(document: { readonly namespace: string; readonly name: string }): string {
  return document.namespace === '' ? document.name : `${document.namespace}/${document.name}`
}

/**
 * The reserved identities, whose numbers and labels are the same everywhere, and the entities of the language in terms of them.
 * Numbers and labels are Cilium's (pkg/identity/numericidentity.go, pkg/policy/api/entity.go).
 */
import { formatLabel } from './labels.ts'
import type { Entity, LabelSelector } from './model.ts'

export const RESERVED_IDENTITIES = {
  host: 1,
  world: 2,
  unmanaged: 3,
  health: 4,
  init: 5,
  'remote-node': 6,
  'kube-apiserver': 7,
  ingress: 8,
  'world-ipv4': 9,
  'world-ipv6': 10,
} as const

/** Key of the label that tells an endpoint's cluster; its source is k8s. */
export const CLUSTER_LABEL_KEY = 'io.cilium.k8s.policy.cluster'

/** Key of the label that tells an endpoint's namespace; its source is k8s. */
export const NAMESPACE_LABEL_KEY = 'io.kubernetes.pod.namespace'

/** Prefix of the keys of labels that an endpoint has from its namespace; their source is k8s. */
export const NAMESPACE_LABELS_PREFIX = 'io.cilium.k8s.namespace.labels.'

/** What belongs to a cluster beside its endpoints. */
const CLUSTER_MEMBERS = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'] as const

function reserved(name: string): LabelSelector {
  return { requirements: [{ source: 'reserved', key: name, operator: 'In', values: [''] }] }
}

/** Labels that a node has in policy from its own. */
export function nodeLabels(labels: Readonly<Record<string, string>>): readonly string[] {
  return Object.entries(labels).map(([key, value]) => formatLabel({ source: 'node', key, value }))
}

const CIDR_LABEL = 'cidr:'

/** Label of an identity that address prefixes match if they cover the address. */
export function addressLabel(address: string): string {
  return `${CIDR_LABEL}${address}/${address.includes(':') ? 128 : 32}`
}

/** Labels of an API server that is no node. */
export function apiServerLabels(address: string): readonly string[] {
  return [addressLabel(address), 'reserved:kube-apiserver', 'reserved:world']
}

/** The prefixes that an identity with these labels stands for. */
export function prefixesOf(labels: readonly string[]): readonly string[] {
  return labels.filter((label) => label.startsWith(CIDR_LABEL)).map((label) => label.slice(CIDR_LABEL.length))
}

/** The selectors of nodes, this machine included, that meet requirements. */
export function selectorsOfNodes({ requirements }: LabelSelector): readonly LabelSelector[] {
  return ['host', 'remote-node'].map((name) => ({ requirements: [...reserved(name).requirements, ...requirements] }))
}

/** The selectors of which any one makes up the entity; `all` is the selector without requirements. */
export function selectorsOfEntity(entity: Entity, clusterName: string): readonly LabelSelector[] {
  switch (entity) {
    case 'all':
      return [{ requirements: [] }]
    case 'world':
      return [reserved('world'), reserved('world-ipv4'), reserved('world-ipv6')]
    case 'cluster':
      return [
        ...CLUSTER_MEMBERS.map(reserved),
        { requirements: [{ source: 'k8s', key: CLUSTER_LABEL_KEY, operator: 'In', values: [clusterName] }] },
      ]
    case 'cluster-mesh':
      return [
        ...CLUSTER_MEMBERS.map(reserved),
        { requirements: [{ source: 'k8s', key: CLUSTER_LABEL_KEY, operator: 'Exists', values: [] }] },
      ]
    default:
      return [reserved(entity)]
  }
}

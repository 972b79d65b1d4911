/**
 * An evaluator of policy that is slow and obviously right: for one flow it walks every rule of every document, as they stand in the
 * file, and asks whether it matches. It shares nothing with policy/ but the names of things, so what both say is likely so.
 */

export interface RawRule {
  readonly fromEndpoints?: readonly RawSelector[]
  readonly toEndpoints?: readonly RawSelector[]
  readonly fromEntities?: readonly string[]
  readonly toEntities?: readonly string[]
  readonly fromCIDR?: readonly string[]
  readonly toCIDR?: readonly string[]
  readonly fromCIDRSet?: readonly { readonly cidr: string; readonly except?: readonly string[] }[]
  readonly toCIDRSet?: readonly { readonly cidr: string; readonly except?: readonly string[] }[]
  readonly toPorts?: readonly RawPortRule[]
}

export interface RawSelector {
  readonly matchLabels?: Readonly<Record<string, string>>
  readonly matchExpressions?: readonly { readonly key: string; readonly operator: string; readonly values?: readonly string[] }[]
}

export interface RawPortRule {
  readonly ports?: readonly { readonly port: string; readonly endPort?: number; readonly protocol?: string }[]
  readonly rules?: { readonly http?: readonly RawHttpRule[] }
}

export interface RawHttpRule {
  readonly method?: string
  readonly path?: string
}

export interface RawSpec {
  readonly endpointSelector: RawSelector
  readonly enableDefaultDeny?: { readonly ingress?: boolean; readonly egress?: boolean }
  readonly ingress?: readonly RawRule[]
  readonly ingressDeny?: readonly RawRule[]
  readonly egress?: readonly RawRule[]
  readonly egressDeny?: readonly RawRule[]
}

export interface RawDocument {
  readonly apiVersion: 'cilium.io/v2'
  readonly kind: 'CiliumNetworkPolicy'
  readonly metadata: { readonly name: string; readonly namespace: string }
  readonly specs: readonly RawSpec[]
}

/** An identity; one that is not known to the engine has no labels and is marked so. */
export interface RawIdentity {
  readonly id: number
  readonly labels: readonly string[]
  readonly cidr?: string
  readonly isUnknown?: boolean
}

export interface NaiveFlow {
  readonly subject: RawIdentity
  readonly direction: 'ingress' | 'egress'
  readonly peer: RawIdentity
  readonly protocol: number
  readonly port: number
}

export interface NaiveVerdict {
  readonly verdict: 'allow' | 'deny' | 'redirect'
  /** Denied by a deny rule. */
  readonly isExplicit: boolean
  readonly allowAll: boolean
  /** method and path of each HTTP rule, without repetition, sorted. */
  readonly http: readonly string[]
}

const NUMBERS: Readonly<Record<string, readonly number[]>> = { TCP: [6], UDP: [17], ANY: [6, 17, 132] }
const CLUSTER_ENTITIES = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver']

export function judge(documents: readonly RawDocument[], flow: NaiveFlow): NaiveVerdict {
  let hasRules = false
  let isDefaultDeny = false
  let isDenied = false
  let isAllowed = false
  let isRedirected = false
  const http = new Set<string>()
  for (const { metadata, specs } of documents) {
    for (const spec of specs) {
      const isSubject = flow.subject.labels.includes(`k8s:io.kubernetes.pod.namespace=${metadata.namespace}`)
      if (!isSubject || !meetsAll(spec.endpointSelector, flow.subject)) continue
      const allows = spec[flow.direction] ?? []
      const denies = spec[`${flow.direction}Deny`] ?? []
      if (allows.length + denies.length === 0) continue
      hasRules = true
      if (spec.enableDefaultDeny?.[flow.direction] !== false) isDefaultDeny = true
      for (const rule of denies) if (isRuleFor(rule, flow, metadata.namespace) && traffic(rule, flow).length > 0) isDenied = true
      for (const rule of allows) {
        if (!isRuleFor(rule, flow, metadata.namespace)) continue
        for (const match of traffic(rule, flow)) {
          if (match.length === 0) isAllowed = true
          else isRedirected = true
          for (const { method = '', path = '' } of match) http.add(`${method} ${path}`)
        }
      }
    }
  }
  if (isDenied) return { verdict: 'deny', isExplicit: true, allowAll: false, http: [] }
  if (!hasRules || !isDefaultDeny) isAllowed = true
  if (isRedirected) return { verdict: 'redirect', isExplicit: false, allowAll: isAllowed, http: [...http].sort() }
  return { verdict: isAllowed ? 'allow' : 'deny', isExplicit: false, allowAll: false, http: [] }
}

function isRuleFor(rule: RawRule, { direction, peer }: NaiveFlow, namespace: string): boolean {
  const endpoints = direction === 'ingress' ? rule.fromEndpoints : rule.toEndpoints
  const entities = direction === 'ingress' ? rule.fromEntities : rule.toEntities
  const cidrs = direction === 'ingress' ? rule.fromCIDR : rule.toCIDR
  const cidrSets = direction === 'ingress' ? rule.fromCIDRSet : rule.toCIDRSet
  const lists = [endpoints, entities, cidrs, cidrSets].filter((list) => list !== undefined)
  // A rule that names nobody means everybody, if it has ports; a list that is there but empty means nobody.
  if (lists.length === 0) return (rule.toPorts ?? []).length > 0
  if (lists.some((list) => list.length === 0)) return false
  if (entities?.includes('all')) return true
  if (peer.isUnknown === true) return false
  return (
    (endpoints ?? []).some((selector) => isPeer(selector, peer, namespace)) ||
    (entities ?? []).some((entity) => isEntity(entity, peer)) ||
    (cidrs ?? []).some((cidr) => isInside(cidr, [], peer)) ||
    (cidrSets ?? []).some(({ cidr, except = [] }) => isInside(cidr, except, peer))
  )
}

/** One entry for each member of toPorts that the flow matches: its HTTP rules, none for a match without L7. */
function traffic({ toPorts = [] }: RawRule, { protocol, port }: NaiveFlow): (readonly RawHttpRule[])[] {
  if (toPorts.length === 0) return [[]]
  const matches: (readonly RawHttpRule[])[] = []
  for (const { ports = [], rules } of toPorts) {
    for (const { port: text, endPort = 0, protocol: name = 'ANY' } of ports) {
      const first = Number(text)
      const isAnyPort = first === 0
      const isInRange = port >= first && port <= Math.max(first, endPort)
      if (NUMBERS[name]?.includes(protocol) && (isAnyPort || isInRange)) matches.push(rules?.http ?? [])
    }
  }
  return matches
}

function isPeer(selector: RawSelector, peer: RawIdentity, namespace: string): boolean {
  const keys = [...Object.keys(selector.matchLabels ?? {}), ...(selector.matchExpressions ?? []).map(({ key }) => key)]
  const isScoped = !keys.some(
    (key) => key.startsWith('reserved:') || key.endsWith('io.kubernetes.pod.namespace') || key.includes('io.cilium.k8s.namespace.labels.'),
  )
  if (isScoped && !peer.labels.includes(`k8s:io.kubernetes.pod.namespace=${namespace}`)) return false
  return meetsAll(selector, peer)
}

function meetsAll({ matchLabels = {}, matchExpressions = [] }: RawSelector, { labels }: RawIdentity): boolean {
  for (const [key, value] of Object.entries(matchLabels)) if (valueIn(labels, key) !== value) return false
  for (const { key, operator, values = [] } of matchExpressions) {
    const value = valueIn(labels, key)
    if (operator === 'In' && !(value !== undefined && values.includes(value))) return false
    if (operator === 'NotIn' && value !== undefined && values.includes(value)) return false
    if (operator === 'Exists' && value === undefined) return false
    if (operator === 'DoesNotExist' && value !== undefined) return false
  }
  return true
}

function valueIn(labels: readonly string[], key: string): string | undefined {
  for (const label of labels) {
    const [name = '', value = ''] = label.split('=')
    const bare = name.slice(name.indexOf(':') + 1)
    if (key === name || key === bare || key === `any:${bare}`) return value
  }
  return undefined
}

function isEntity(entity: string, { labels }: RawIdentity): boolean {
  if (entity === 'world') return ['world', 'world-ipv4', 'world-ipv6'].some((name) => labels.includes(`reserved:${name}`))
  if (entity !== 'cluster') return labels.includes(`reserved:${entity}`)
  return labels.includes('k8s:io.cilium.k8s.policy.cluster=default') || CLUSTER_ENTITIES.some((name) => labels.includes(`reserved:${name}`))
}

/** IPv4 only. Addresses that have no identity of their own are the world's: only the prefix of everything matches them. */
function isInside(outer: string, except: readonly string[], peer: RawIdentity): boolean {
  if (peer.cidr === undefined) return bitsOf(outer) === '' && (peer.id === 2 || peer.id === 9)
  const own = bitsOf(peer.cidr)
  return own.startsWith(bitsOf(outer)) && !except.some((hole) => own.startsWith(bitsOf(hole)))
}

/** The significant bits of a prefix, as text. */
function bitsOf(cidr: string): string {
  const [address = '', length = '32'] = cidr.split('/')
  const bits = address.split('.').map((octet) => Number(octet).toString(2).padStart(8, '0'))
  return bits.join('').slice(0, Number(length))
}

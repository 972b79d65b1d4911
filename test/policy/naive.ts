/**
 * An evaluator of policy that is slow and obviously right: for one flow it walks every rule of every document, as they stand in the
 * file, and asks whether it matches. It shares nothing with policy/ but the names of things, so what both say is likely so.
 */

export interface RawRule {
  readonly fromEndpoints?: readonly RawSelector[]
  readonly toEndpoints?: readonly RawSelector[]
  readonly fromRequires?: readonly RawSelector[]
  readonly toRequires?: readonly RawSelector[]
  readonly fromEntities?: readonly string[]
  readonly toEntities?: readonly string[]
  readonly fromCIDR?: readonly string[]
  readonly toCIDR?: readonly string[]
  readonly fromCIDRSet?: readonly RawCidrSet[]
  readonly toCIDRSet?: readonly RawCidrSet[]
  readonly toPorts?: readonly RawPortRule[]
  readonly icmps?: readonly { readonly fields: readonly { readonly type: number; readonly family?: string }[] }[]
}

export interface RawCidrSet {
  readonly cidr: string
  readonly except?: readonly string[]
}

export interface RawSelector {
  readonly matchLabels?: Readonly<Record<string, string>>
  readonly matchExpressions?: readonly { readonly key: string; readonly operator: string; readonly values?: readonly string[] }[]
}

export interface RawPortRule {
  /** A port is a number, or a name that begins with a letter. */
  readonly ports?: readonly { readonly port?: string; readonly endPort?: number; readonly protocol?: string }[]
  readonly serverNames?: readonly string[]
  readonly rules?: { readonly http?: readonly RawHttpRule[]; readonly kafka?: readonly { readonly topic: string }[] }
}

export interface RawHttpRule {
  readonly method?: string
  readonly path?: string
  readonly headers?: readonly string[]
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
  readonly metadata: { readonly name: string; readonly namespace: string; readonly annotations?: Readonly<Record<string, string>> }
  readonly specs: readonly RawSpec[]
}

export interface RawNamedPort {
  readonly name: string
  readonly protocol: 'TCP' | 'UDP' | 'SCTP'
  readonly port: number
}

/** An identity; one that is not known to the engine has no labels and is marked so. */
export interface RawIdentity {
  readonly id: number
  readonly labels: readonly string[]
  readonly cidr?: string
  readonly isUnknown?: boolean
  readonly namedPorts?: readonly RawNamedPort[]
  /** As a subject: verdicts about it are reported only. */
  readonly audit?: boolean
}

export interface NaiveFlow {
  readonly subject: RawIdentity
  readonly direction: 'ingress' | 'egress'
  readonly peer: RawIdentity
  readonly protocol: number
  /** Of ICMP: type * 256. */
  readonly port: number
}

export interface NaiveVerdict {
  readonly verdict: 'allow' | 'deny' | 'redirect'
  /** Denied by a deny rule. */
  readonly isExplicit: boolean
  /** Allowed, and policy in audit would have denied it. */
  readonly audit: boolean
  /** What is redirected meets. */
  readonly ruleset?: NaiveRuleset
}

export interface NaiveRuleset {
  /** http, kafka, tls or conflict */
  readonly kind: string
  readonly allowAll: boolean
  /** As text, without repetition, sorted. */
  readonly allow: readonly string[]
  readonly deny: readonly string[]
  readonly serverNames: readonly string[]
  readonly shadow?: NaiveRuleset | 'deny-all'
}

const NUMBERS: Readonly<Record<string, readonly number[]>> = { TCP: [6], UDP: [17], SCTP: [132], ANY: [6, 17, 132], GRE: [47], VRRP: [112] }
const CLUSTER_ENTITIES = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver']

export function judge(documents: readonly RawDocument[], flow: NaiveFlow): NaiveVerdict {
  const enforced = judgeBy(
    documents.filter((document) => flow.subject.audit !== true && !isInAudit(document)),
    flow,
  )
  if (enforced.verdict === 'deny') return enforced
  const audited = judgeBy(documents, flow)
  if (JSON.stringify(audited) === JSON.stringify(enforced)) return enforced
  const wouldDeny = audited.verdict === 'deny' || audited.ruleset?.kind === 'conflict'
  if (enforced.ruleset !== undefined) {
    return { ...enforced, ruleset: { ...enforced.ruleset, shadow: wouldDeny ? 'deny-all' : (audited.ruleset ?? 'deny-all') } }
  }
  if (wouldDeny || audited.ruleset === undefined) return { ...enforced, audit: true }
  const passing = { kind: audited.ruleset.kind, allowAll: true, allow: [], deny: [], serverNames: [] }
  return { verdict: 'redirect', isExplicit: false, audit: false, ruleset: { ...passing, shadow: audited.ruleset } }
}

export function isInAudit({ metadata }: RawDocument): boolean {
  return metadata.annotations?.['headgate.io/audit'] === 'true'
}

function judgeBy(documents: readonly RawDocument[], flow: NaiveFlow): NaiveVerdict {
  const specs = documents.flatMap((document) => document.specs.map((spec) => ({ spec, namespace: document.metadata.namespace })))
  const selecting = specs.filter(
    ({ spec, namespace }) =>
      flow.subject.labels.includes(`k8s:io.kubernetes.pod.namespace=${namespace}`) && meetsAll(spec.endpointSelector, flow.subject),
  )
  const isFor = (rule: RawRule, namespace: string, section: 'allow' | 'deny') => {
    const others = selecting.flatMap(({ spec }) => rulesOf(spec, flow.direction, section))
    const required = others.flatMap(({ fromRequires = [], toRequires = [] }) => [...fromRequires, ...toRequires])
    return isRuleFor(rule, flow, namespace, required)
  }
  let isDefaultDeny = false
  let isDenied = false
  let isAllowed = false
  const allowing: Match[] = []
  const denying: Match[] = []
  for (const { spec, namespace } of selecting) {
    const allows = rulesOf(spec, flow.direction, 'allow')
    const denies = rulesOf(spec, flow.direction, 'deny')
    if (allows.length + denies.length > 0 && spec.enableDefaultDeny?.[flow.direction] !== false) isDefaultDeny = true
    for (const rule of denies) {
      if (!isFor(rule, namespace, 'deny')) continue
      for (const match of traffic(rule, flow)) {
        if (match.kind === '') isDenied = true
        else denying.push(match)
      }
    }
    for (const rule of allows) {
      if (!isFor(rule, namespace, 'allow')) continue
      for (const match of traffic(rule, flow)) {
        if (match.kind === '') isAllowed = true
        else allowing.push(match)
      }
    }
  }
  if (isDenied) return { verdict: 'deny', isExplicit: true, audit: false }
  if (!isDefaultDeny) isAllowed = true
  if (!isAllowed && allowing.length === 0) return { verdict: 'deny', isExplicit: false, audit: false }
  if (allowing.length === 0 && denying.length === 0) return { verdict: 'allow', isExplicit: false, audit: false }
  const kinds = unique([...allowing, ...denying].map(({ kind }) => kind).filter((kind) => kind !== 'tls'))
  const serverNames = unique(allowing.flatMap((match) => match.serverNames))
  const isConflict = kinds.length > 1 || (kinds.length === 1 && serverNames.length > 0)
  const ruleset = {
    kind: isConflict ? 'conflict' : (kinds[0] ?? 'tls'),
    allowAll: isAllowed,
    allow: unique(allowing.flatMap(({ rules }) => rules)),
    deny: unique(denying.flatMap(({ rules }) => rules)),
    serverNames,
  }
  return { verdict: 'redirect', isExplicit: false, audit: false, ruleset }
}

function unique(texts: readonly string[]): string[] {
  return [...new Set(texts)].sort()
}

function rulesOf(spec: RawSpec, direction: 'ingress' | 'egress', section: 'allow' | 'deny'): readonly RawRule[] {
  return (section === 'allow' ? spec[direction] : spec[`${direction}Deny`]) ?? []
}

function isRuleFor(rule: RawRule, { direction, peer }: NaiveFlow, namespace: string, required: readonly RawSelector[]): boolean {
  const endpoints = direction === 'ingress' ? rule.fromEndpoints : rule.toEndpoints
  const entities = direction === 'ingress' ? rule.fromEntities : rule.toEntities
  const cidrs = direction === 'ingress' ? rule.fromCIDR : rule.toCIDR
  const cidrSets = direction === 'ingress' ? rule.fromCIDRSet : rule.toCIDRSet
  const lists = [endpoints, entities, cidrs, cidrSets].filter((list) => list !== undefined)
  // A rule that names nobody means everybody, if it has ports; a list that is there but empty means nobody.
  if (lists.length === 0) return (rule.toPorts ?? []).length > 0 || (rule.icmps ?? []).length > 0
  if (lists.some((list) => list.length === 0)) return false
  if (entities?.includes('all')) return true
  if (peer.isUnknown === true) return false
  // Requirements are of no namespace.
  const meetsRequired = required.every((one) => meetsAll(one, peer))
  return (
    (endpoints ?? []).some((selector) => isPeer(selector, peer, namespace) && meetsRequired) ||
    (entities ?? []).some((entity) => isEntity(entity, peer)) ||
    (cidrs ?? []).some((cidr) => isInside(cidr, [], peer)) ||
    (cidrSets ?? []).some(({ cidr, except = [] }) => isInside(cidr, except, peer))
  )
}

/** A member of toPorts that the flow matches. */
interface Match {
  /** Empty without L7 part. */
  readonly kind: string
  readonly rules: readonly string[]
  readonly serverNames: readonly string[]
}

function traffic({ toPorts = [], icmps = [] }: RawRule, flow: NaiveFlow): Match[] {
  const plain: Match = { kind: '', rules: [], serverNames: [] }
  if (icmps.length > 0) {
    const fields = icmps.flatMap(({ fields: its }) => its)
    return fields.some(({ type, family = 'IPv4' }) => flow.protocol === (family === 'IPv4' ? 1 : 58) && flow.port >> 8 === type)
      ? [plain]
      : []
  }
  if (toPorts.length === 0) return [plain]
  return toPorts.flatMap((member) => {
    if (!(member.ports ?? []).some((port) => isPort(port, flow))) return []
    const { serverNames = [], rules = {} } = member
    if ((rules.http ?? []).length > 0) {
      const texts = (rules.http ?? []).map(({ method = '', path = '', headers = [] }) => [method, path, ...headers].join(' '))
      return [{ kind: 'http', rules: texts, serverNames }]
    }
    if ((rules.kafka ?? []).length > 0) return [{ kind: 'kafka', rules: (rules.kafka ?? []).map(({ topic }) => topic), serverNames }]
    return [serverNames.length > 0 ? { kind: 'tls', rules: [], serverNames } : plain]
  })
}

function isPort(
  {
    port: text = '0',
    endPort = 0,
    protocol: name = 'ANY',
  }: { readonly port?: string; readonly endPort?: number; readonly protocol?: string },
  { direction, subject, peer, protocol, port }: NaiveFlow,
): boolean {
  if (!NUMBERS[name]?.includes(protocol)) return false
  if (/^[a-z]/.test(text)) {
    const known = (direction === 'ingress' ? subject : peer).namedPorts ?? []
    return known.some((one) => one.name === text && NUMBERS[one.protocol]?.includes(protocol) && one.port === port)
  }
  const first = Number(text)
  return first === 0 || (port >= first && port <= Math.max(first, endPort))
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

/** Random policies, identities and flows for the properties: small alphabets, so that rules meet one another often. */
import fc from 'fast-check'
import type { HttpRule } from '#parsers/http/rules.ts'
import { type EngineSubject, PolicyEngine } from '#policy/engine.ts'
import type { ParseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import type { NamedRule, PolicyRow, ResolvedGroup, ResolvedRuleset } from '#policy/resolved.ts'
import type {
  NaiveRuleset,
  NaiveVerdict,
  RawDocument,
  RawHttpRule,
  RawIdentity,
  RawNamedPort,
  RawPortRule,
  RawRule,
  RawSelector,
  RawSpec,
} from './naive.ts'

export const LIMITS: ParseOptions = { dialect: 'extended', regexProgramSizeMax: 10_000, l7Proxy: true, extendedIpProtocols: false }
const NAMESPACES = ['blue', 'red'] as const
const APPS = ['web', 'api', 'db'] as const
const CIDRS = ['10.0.0.0/8', '10.1.0.0/16', '10.1.2.0/24', '10.1.2.3/32', '192.168.0.0/16', '0.0.0.0/0'] as const
const HOLES: Readonly<Record<string, readonly string[]>> = {
  '10.0.0.0/8': ['10.1.0.0/16', '10.1.2.0/24'],
  '10.1.0.0/16': ['10.1.2.0/24', '10.1.2.3/32'],
  '0.0.0.0/0': ['10.0.0.0/8', '192.168.0.0/16'],
}
const PORTS = [0, 1, 79, 80, 81, 443, 1023, 8000, 8080, 8191, 65535] as const

/** Peers that no workloads file names, and one that the engine has never heard of. */
export const RESERVED: readonly RawIdentity[] = [
  { id: 1, labels: ['reserved:host'] },
  { id: 2, labels: ['reserved:world'] },
  { id: 6, labels: ['reserved:remote-node'] },
  { id: 9, labels: ['reserved:world-ipv4'] },
  { id: 10, labels: ['reserved:world-ipv6'] },
  { id: 99_999, labels: [], isUnknown: true },
]

const NAMED_PORTS: Readonly<Record<string, readonly RawNamedPort[]>> = {
  web: [
    { name: 'http', protocol: 'TCP', port: 80 },
    { name: 'dns', protocol: 'UDP', port: 81 },
  ],
  api: [
    { name: 'http', protocol: 'TCP', port: 8080 },
    { name: 'dns', protocol: 'TCP', port: 81 },
  ],
}

/** Every endpoint that the labels can make; policy only reports on one of them. */
export const ENDPOINTS: readonly RawIdentity[] = NAMESPACES.flatMap((namespace, n) =>
  [...APPS, undefined].map((app, a) => ({
    id: 1000 + n * 10 + a,
    labels: [
      `k8s:io.kubernetes.pod.namespace=${namespace}`,
      'k8s:io.cilium.k8s.policy.cluster=default',
      `k8s:io.cilium.k8s.namespace.labels.team=${namespace}s`,
      ...(app === undefined ? [] : [`k8s:app=${app}`]),
    ],
    namedPorts: NAMED_PORTS[app ?? ''] ?? [],
    audit: app === undefined && namespace === 'red',
  })),
)

export const selector: fc.Arbitrary<RawSelector> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...APPS).map((app) => ({ matchLabels: { app } })) },
  fc.constant({}),
  fc.constantFrom(...APPS).map((app) => ({ matchLabels: { 'k8s:app': app } })),
  fc.constantFrom(...NAMESPACES).map((name) => ({ matchLabels: { 'io.kubernetes.pod.namespace': name } })),
  fc.constantFrom(...NAMESPACES).map((name) => ({ matchLabels: { 'k8s:io.cilium.k8s.namespace.labels.team': `${name}s` } })),
  fc.constant({ matchLabels: { 'reserved:world': '' } }),
  fc.constant({ matchExpressions: [{ key: 'reserved:host', operator: 'DoesNotExist' }] }),
  fc
    .tuple(fc.constantFrom('In', 'NotIn'), fc.uniqueArray(fc.constantFrom(...APPS), { minLength: 1, maxLength: 2 }))
    .map(([operator, values]) => ({ matchExpressions: [{ key: 'app', operator, values }] })),
  fc.constantFrom('Exists', 'DoesNotExist').map((operator) => ({ matchExpressions: [{ key: 'app', operator }] })),
  fc.constantFrom('Exists', 'DoesNotExist').map((operator) => ({ matchExpressions: [{ key: 'io.kubernetes.pod.namespace', operator }] })),
)

/** Subjects are of the policy's own namespace whatever they say, so they do not name one here. */
const subject: fc.Arbitrary<RawSelector> = fc.oneof(
  fc.constant({}),
  fc.constantFrom(...APPS).map((app) => ({ matchLabels: { app } })),
  fc.constantFrom('Exists', 'DoesNotExist').map((operator) => ({ matchExpressions: [{ key: 'app', operator }] })),
)

const http: fc.Arbitrary<RawHttpRule> = fc.record(
  {
    method: fc.constantFrom('GET', 'POST'),
    path: fc.constantFrom('/a', '/b/.*'),
    headers: fc.constantFrom(['x-key: a'], ['x-key: b'], ['x-key: a,b'], ['x-key: c'], ['x-key'], []),
  },
  { requiredKeys: [] },
)

const range = fc
  .record({ port: fc.constantFrom(...PORTS), span: fc.constantFrom(0, 0, 0, 1, 7, 920, 65535) })
  // Port 0 means every port, and a range that begins there is refused.
  .map(({ port, span }) => ({ port: String(port), ...(span === 0 || port === 0 ? {} : { endPort: Math.min(65535, port + span) }) }))

type RawPort = NonNullable<RawPortRule['ports']>[number]

const namedPort: fc.Arbitrary<RawPort> = fc.record(
  { port: fc.constantFrom('http', 'dns', 'none'), protocol: fc.constantFrom('TCP', 'UDP', 'SCTP', 'ANY') },
  { requiredKeys: ['port'] },
)

const plainPorts: fc.Arbitrary<RawPortRule> = fc.record(
  {
    ports: fc.array(
      fc.oneof(
        {
          weight: 5,
          arbitrary: fc
            .tuple(range, fc.constantFrom('TCP', 'UDP', 'SCTP', 'ANY', undefined))
            .map(([ports, protocol]): RawPort => ({ ...ports, ...(protocol && { protocol }) })),
        },
        namedPort,
        fc.constantFrom('GRE', 'VRRP').map((protocol): RawPort => ({ port: '0', protocol })),
      ),
      { maxLength: 3 },
    ),
  },
  { requiredKeys: [] },
)

const tcpPorts: fc.Arbitrary<RawPort[]> = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: range.filter(({ port }) => port !== '0').map((ports): RawPort => ({ ...ports, protocol: 'TCP' })) },
    fc.constant<RawPort>({ port: 'http', protocol: 'TCP' }),
  ),
  { maxLength: 2 },
)

const httpPorts: fc.Arbitrary<RawPortRule> = fc.record({ ports: tcpPorts, rules: fc.record({ http: fc.array(http, { maxLength: 3 }) }) })

const kafkaPorts: fc.Arbitrary<RawPortRule> = fc.record({
  ports: tcpPorts,
  rules: fc.record({ kafka: fc.array(fc.record({ topic: fc.constantFrom('orders', 'logs') }), { maxLength: 2 }) }),
})

const namePorts: fc.Arbitrary<RawPortRule> = fc.record({
  ports: tcpPorts,
  serverNames: fc.array(fc.constantFrom('a.example', 'b.example'), { minLength: 1, maxLength: 2 }),
})

/** Mostly HTTP: with too much else, everything would be in conflict with everything. */
const l7Ports: fc.Arbitrary<RawPortRule> = fc.oneof(
  { weight: 8, arbitrary: httpPorts },
  { weight: 1, arbitrary: kafkaPorts },
  { weight: 1, arbitrary: namePorts },
)

const cidrSet = fc
  .constantFrom(...CIDRS)
  .chain((cidr) => fc.subarray([...(HOLES[cidr] ?? [])]).map((except) => ({ cidr, ...(except.length > 0 && { except }) })))

function rule(direction: 'ingress' | 'egress', verdict: 'allow' | 'deny'): fc.Arbitrary<RawRule> {
  const side = direction === 'ingress' ? 'from' : 'to'
  const few = { maxLength: 2 }
  const entity = fc.constantFrom('all', 'world', 'cluster', 'host', 'remote-node', 'none')
  const peers: fc.Arbitrary<RawRule> = fc.oneof(
    { weight: 2, arbitrary: fc.constant({}) },
    { weight: 4, arbitrary: fc.array(selector, few).map((list) => ({ [`${side}Endpoints`]: list })) },
    { weight: 2, arbitrary: fc.array(entity, few).map((list) => ({ [`${side}Entities`]: list })) },
    fc.array(fc.constantFrom(...CIDRS), few).map((list) => ({ [`${side}CIDR`]: list })),
    { weight: 2, arbitrary: fc.array(cidrSet, few).map((list) => ({ [`${side}CIDRSet`]: list })) },
  )
  const ports: fc.Arbitrary<RawRule> = fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    {
      weight: 6,
      arbitrary: fc
        .array(verdict === 'deny' ? fc.oneof({ weight: 3, arbitrary: plainPorts }, httpPorts) : fc.oneof(plainPorts, l7Ports), {
          maxLength: 2,
        })
        .map((toPorts) => ({ toPorts })),
    },
    fc
      .array(fc.record({ type: fc.constantFrom(0, 8, 11), family: fc.constantFrom('IPv4', 'IPv6') }), { minLength: 1, maxLength: 2 })
      .map((fields) => ({ icmps: [{ fields }] })),
  )
  const requires = fc.oneof(
    { weight: 12, arbitrary: fc.constant({}) },
    fc.array(selector, { minLength: 1, maxLength: 1 }).map((list) => ({ [`${side}Requires`]: list })),
  )
  return fc.tuple(peers, ports, requires).map(([whom, what, required]) => ({ ...whom, ...what, ...required }))
}

const spec: fc.Arbitrary<RawSpec> = fc
  .record(
    {
      endpointSelector: subject,
      enableDefaultDeny: fc.record({ ingress: fc.boolean(), egress: fc.boolean() }, { requiredKeys: [] }),
      ingress: fc.array(rule('ingress', 'allow'), { maxLength: 3 }),
      ingressDeny: fc.array(rule('ingress', 'deny'), { maxLength: 1 }),
      egress: fc.array(rule('egress', 'allow'), { maxLength: 3 }),
      egressDeny: fc.array(rule('egress', 'deny'), { maxLength: 1 }),
    },
    { requiredKeys: ['endpointSelector'] },
  )
  .filter(({ ingress = [], ingressDeny = [], egress = [], egressDeny = [] }) =>
    [ingress, ingressDeny, egress, egressDeny].some((list) => list.length > 0),
  )

export function document(name: string): fc.Arbitrary<RawDocument> {
  return fc.record({
    apiVersion: fc.constant('cilium.io/v2' as const),
    kind: fc.constant('CiliumNetworkPolicy' as const),
    metadata: fc.record({
      name: fc.constant(name),
      namespace: fc.constantFrom(...NAMESPACES),
      annotations: fc.oneof({ weight: 4, arbitrary: fc.constant({}) }, fc.constant({ 'headgate.io/audit': 'true' })),
    }),
    specs: fc.array(spec, { minLength: 1, maxLength: 2 }),
  })
}

export const probe = fc.record({
  subject: fc.constantFrom(...ENDPOINTS),
  direction: fc.constantFrom('ingress' as const, 'egress' as const),
  traffic: fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        protocol: fc.constantFrom(6, 6, 6, 17, 132),
        port: fc.oneof(fc.constantFrom(...PORTS), fc.integer({ min: 0, max: 65535 })),
      }),
    },
    fc.record({ protocol: fc.constantFrom(1, 58), port: fc.constantFrom(0, 8 << 8, 11 << 8, 13 << 8) }),
    fc.record({ protocol: fc.constantFrom(47, 112, 89), port: fc.constant(0) }),
  ),
})

/** Puts a document in force under the name of its file. */
export function apply(engine: PolicyEngine, file: string, raw: RawDocument): void {
  const { documents, problems } = parsePolicyFile(`${JSON.stringify(raw)}\n`, file, LIMITS)
  const errors = problems.filter(({ severity }) => severity === 'error')
  if (errors.length > 0) throw new Error(`generated document is refused: ${JSON.stringify(errors)}`)
  engine.upsertFile(file, documents, [])
}

/** Allocates identities for the prefixes that policies mention, takes back those of prefixes that they do not. */
export class Prefixes {
  readonly identities = new Map<string, RawIdentity>()
  #lastId = 1 << 24

  sync(engine: PolicyEngine): void {
    const wanted = engine.cidrPrefixes()
    for (const [cidr, { id }] of this.identities) {
      if (wanted.has(cidr)) continue
      engine.removeIdentity(id)
      this.identities.delete(cidr)
    }
    for (const cidr of wanted) {
      if (this.identities.has(cidr) || cidr.endsWith('/0')) continue
      const identity = { id: ++this.#lastId, labels: [`cidr:${cidr}`, 'reserved:world'], cidr }
      engine.upsertIdentity(identity)
      this.identities.set(cidr, identity)
    }
  }
}

/** An identity as the one whose endpoints are judged; its number is its group's too. */
export function subjectOf({ id, namedPorts = [], audit = false }: RawIdentity): EngineSubject {
  return { group: id, identity: id, namedPorts, audit }
}

/** An engine that judges every endpoint. */
export function startEngine(): PolicyEngine {
  const engine = new PolicyEngine()
  for (const endpoint of ENDPOINTS) {
    engine.upsertIdentity(endpoint)
    engine.addSubject(subjectOf(endpoint))
  }
  return engine
}

/** What the kernel says of a flow: the longest row of the peer's identity and, only if there is none, of any identity. */
export function lookUp(
  group: ResolvedGroup,
  direction: 'ingress' | 'egress',
  identity: number,
  protocol: number,
  port: number,
): PolicyRow | undefined {
  for (const peer of [identity, 0]) {
    let best: PolicyRow | undefined
    for (const row of group.rows.values()) {
      if (row.direction !== direction || row.identity !== peer) continue
      if (row.protocol !== 0 && row.protocol !== protocol) continue
      const size = 2 ** (16 - row.portPrefixLength)
      if (row.protocol !== 0 && (port < row.port || port >= row.port + size)) continue
      if (best === undefined || lengthOf(row) > lengthOf(best)) best = row
    }
    if (best !== undefined) return best
  }
  return undefined
}

function lengthOf({ protocol, portPrefixLength }: PolicyRow): number {
  return protocol === 0 ? 0 : 1 + portPrefixLength
}

/** A row, or its absence, in the words of the naive evaluator. */
export function verdictOf(group: ResolvedGroup, direction: 'ingress' | 'egress', row: PolicyRow | undefined): NaiveVerdict {
  if (!group.enforced[direction]) return { verdict: 'allow', isExplicit: false, audit: false }
  if (row === undefined) return { verdict: 'deny', isExplicit: false, audit: false }
  const ruleset = row.classKey === undefined ? undefined : group.classes.get(row.classKey)?.ruleset
  if ((row.verdict === 'redirect') !== (ruleset !== undefined)) throw new Error(`row and class do not agree: ${JSON.stringify(row)}`)
  return { verdict: row.verdict, isExplicit: row.explicitDeny, audit: row.audit, ...(ruleset && { ruleset: rulesetOf(ruleset) }) }
}

function rulesetOf({ kind, allowAll, allow, deny, serverNames, shadow }: ResolvedRuleset): NaiveRuleset {
  const rules = { allow: textsOf(allow), deny: textsOf(deny) }
  return { kind, allowAll, ...rules, serverNames, ...(shadow && { shadow: shadow === 'deny-all' ? shadow : rulesetOf(shadow) }) }
}

function textsOf(rules: readonly NamedRule[]): string[] {
  const texts = rules.map(({ rule }) => ('topic' in rule ? String(rule.topic) : textOf(rule as HttpRule)))
  return [...new Set(texts)].sort()
}

function textOf({ method = '', path = '', headers }: HttpRule): string {
  return [method, path, ...headers.map(({ name, value }) => (value === undefined ? name : `${name}: ${value}`))].join(' ')
}

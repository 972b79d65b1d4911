/**
 * g11: what one request costs to judge when 294 policies of 68 rules each are about it: the row of the kernel's tables and the compiled
 * rules behind it, as the simulator takes them, against a walk through all rules as they stand in the files.
 */
import { RE2JS } from 're2js'
import type { HttpRequest } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { LabelSet } from '#policy/labels.ts'
import { isPolicy, type Policy, type PolicyRule } from '#policy/model.ts'
import type { ParseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { selects } from '#policy/selector.ts'
import { Scene } from '#policy/trace/scene.ts'
import { judge } from '#policy/trace/trace.ts'
import { parseTraffic } from '#policy/trace/traffic.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { machineConditions } from './harness/conditions.ts'
import { compare, median, p99 } from './harness/statistics.ts'

const POLICIES = 294
const RULES = 68
const PARSE: ParseOptions = { dialect: 'extended', regexProgramSizeMax: 10_000, l7Proxy: true, extendedIpProtocols: false }
/** Requests of one run of ours; the walk answers fewer, because it takes so much longer. */
const REQUESTS = 20_000
const WALKED_REQUESTS = 20
const PORT = 80
const SERVER = labelsOf('server')
const CLIENT = labelsOf('client')

interface Targets {
  readonly ratio: number
  readonly microseconds: number
}

export const g11: Bench = {
  name: 'g11',
  summary: 'one request judged by 294 policies of 68 rules, against a walk through them',
  run: async (options) => run(options),
}

function run({ pairs = 7 }: Options): Result {
  const conditions = machineConditions()
  const target = targetOf<Targets>('g11')
  const policies = Array.from({ length: POLICIES }, (_, index) => parse(index))
  const started = performance.now()
  const scene = new Scene({ files: policies.map((policy) => ({ file: policy.name, documents: [policy], refused: [] })) })
  const [from, to] = [scene.party(CLIENT.join()), scene.party(SERVER.join())]
  say(`resolved in ${rounded(performance.now() - started)} ms`)
  const traffic = { ...parseTraffic(`${PORT}/TCP`, []), serverName: undefined }
  const decide = (request: HttpRequest) => judge(scene, { from, to, traffic: { ...traffic, request: { kind: 'http', request } } })
  const walker = new Walker(policies)
  const requests = Array.from({ length: 1_000 }, (_, index) => requestOf(index))

  const wrong: string[] = []
  for (const request of requests.slice(0, 200)) {
    const [ours, theirs] = [decide(request) === 'allowed', walker.isAllowed(request)]
    if (ours !== theirs) wrong.push(`${request.method} ${request.path}: ${ours}, and the walk says ${theirs}`)
  }
  microsecondsOf(REQUESTS, (index) => decide(requests[index % requests.length]!))
  const a: number[] = []
  const b: number[] = []
  const slowest: number[] = []
  for (let pair = 0; pair < pairs; pair++) {
    a.push(microsecondsOf(WALKED_REQUESTS, (index) => walker.isAllowed(requests[(index * 37) % requests.length]!)))
    b.push(microsecondsOf(REQUESTS, (index) => decide(requests[index % requests.length]!)))
    slowest.push(...requests.map((request) => microsecondsOf(1, () => decide(request))))
    say(`pair ${pair + 1}/${pairs}: walk ${rounded(a.at(-1) ?? 0)} µs, ours ${rounded(b.at(-1) ?? 0)} µs`)
  }
  const comparison = compare(a, b)
  const microseconds = median(comparison.b)
  const complaints = [
    ...(wrong.length > 0 ? [`oracle: ${wrong.length} wrong`] : []),
    ...(comparison.ratio > target.ratio ? [`ratio ${comparison.ratio} over ${target.ratio}`] : []),
    ...(microseconds > target.microseconds ? [`${microseconds} µs over ${target.microseconds}`] : []),
  ]
  return {
    bench: 'g11',
    ...comparison,
    microseconds,
    singleRequestP99: rounded(p99(slowest)),
    target,
    pass: complaints.length === 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: { checked: 200, wrong: wrong.length, ...(wrong.length > 0 ? { samples: wrong.slice(0, 10) } : {}) },
    conditions: { ...conditions, policies: POLICIES, rulesOfEach: RULES, requestsOfARun: REQUESTS, unit: 'µs a request' },
  }
}

function labelsOf(app: string): string[] {
  return ['k8s:io.kubernetes.pod.namespace=default', 'k8s:io.cilium.k8s.policy.cluster=default', `k8s:app=${app}`]
}

/** Half of the rules are exact paths, a third are beginnings, the rest are real expressions. */
function pathOf(policy: number, rule: number): string {
  const base = `/api/v1/team${policy}/item${rule}`
  if (rule % 6 === 5) return `${base}/[0-9]+/(view|edit)-[a-z]*`
  return rule % 3 === 2 ? `${base}/.*` : base
}

function parse(index: number): Policy {
  const rules = Array.from({ length: RULES }, (_, rule) => ({
    fromEndpoints: [{ matchLabels: { app: 'client' } }],
    toPorts: [
      {
        ports: [{ port: String(PORT), protocol: 'TCP' }],
        rules: { http: [{ method: rule % 2 === 0 ? 'GET' : 'GET|POST', path: pathOf(index, rule) }] },
      },
    ],
  }))
  const document = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: `p${index}` },
    spec: { endpointSelector: { matchLabels: { app: 'server' } }, ingress: rules },
  }
  const { documents, problems } = parsePolicyFile(JSON.stringify(document), `p${index}.json`, PARSE)
  const [policy] = documents.filter(isPolicy)
  if (policy === undefined) throw new Error(`the bench's own policy is refused: ${JSON.stringify(problems)}`)
  return policy
}

/** Every fourth request is denied. */
function requestOf(index: number): HttpRequest {
  const [policy, rule] = [(index * 97) % POLICIES, (index * 31) % RULES]
  const rest = rule % 6 === 5 ? `/${index}/view-a` : rule % 3 === 2 ? '/some/where' : ''
  const path = `/api/v1/team${policy}/item${rule}${rest}${index % 4 === 3 ? '~' : ''}`
  return { method: index % 4 === 3 ? 'DELETE' : 'GET', path, authority: 'server', headers: new Map() }
}

/** Every rule of every policy in turn, as a reader would, with its expressions compiled beforehand. */
class Walker {
  readonly #policies: readonly Policy[]
  readonly #compiled = new Map<HttpRule, { readonly method: RE2JS; readonly path: RE2JS }>()
  readonly #server = new LabelSet(SERVER)
  readonly #client = new LabelSet(CLIENT)

  constructor(policies: readonly Policy[]) {
    this.#policies = policies
    for (const rule of policies.flatMap(({ specs }) => specs.flatMap(({ rules }) => rules.flatMap(httpRulesOf)))) {
      this.#compiled.set(rule, { method: RE2JS.compile(rule.method ?? '.*'), path: RE2JS.compile(rule.path ?? '.*') })
    }
  }

  isAllowed(request: HttpRequest): boolean {
    let isAllowed = false
    for (const { specs } of this.#policies) {
      for (const { subject, rules } of specs) {
        if (!selects(subject.selector, this.#server)) continue
        for (const rule of rules) if (this.#isFor(rule) && httpRulesOf(rule).some((http) => this.#matches(http, request))) isAllowed = true
      }
    }
    return isAllowed
  }

  #isFor({ peers }: PolicyRule): boolean {
    return peers.kind === 'members' && peers.members.some((peer) => peer.kind === 'endpoints' && selects(peer.selector, this.#client))
  }

  #matches(rule: HttpRule, { method, path }: HttpRequest): boolean {
    const compiled = this.#compiled.get(rule)
    return compiled?.method.testExact(method) === true && compiled.path.testExact(path)
  }
}

function httpRulesOf({ traffic }: PolicyRule): HttpRule[] {
  if (traffic.kind !== 'ports') return []
  return traffic.rules
    .filter(({ ranges }) => ranges.some(({ first, last }) => first <= PORT && PORT <= last))
    .flatMap(({ l7 }) => (l7?.kind === 'http' ? l7.rules : []))
}

function microsecondsOf(count: number, ask: (index: number) => unknown): number {
  const before = performance.now()
  for (let index = 0; index < count; index++) ask(index)
  return ((performance.now() - before) * 1000) / count
}

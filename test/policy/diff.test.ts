import test from 'ava'
import fc from 'fast-check'
import { describeChange, diffPolicies, type FlowChange, type PolicyDiff } from '#policy/diff/diff.ts'
import { RecordedFlows } from '#policy/diff/flows.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { answerQuestion } from '#policy/trace/question.ts'
import { Scene, type SceneEndpoint, type SceneNode } from '#policy/trace/scene.ts'
import type { TraceAnswer } from '#policy/trace/trace-name.ts'
import type { RawDocument } from './naive.ts'
import { document, ENDPOINTS, LIMITS, probe } from './world.ts'

const ENDPOINT_LABELS = ['k8s:io.kubernetes.pod.namespace=default', 'k8s:io.cilium.k8s.policy.cluster=default']
const THREE: readonly SceneEndpoint[] = [
  { name: 'default/web', labels: ['k8s:app=web', ...ENDPOINT_LABELS], addresses: ['10.9.0.1'] },
  { name: 'default/web-2', labels: ['k8s:app=web', ...ENDPOINT_LABELS], addresses: ['10.9.0.2'] },
  { name: 'default/api', labels: ['k8s:app=api', ...ENDPOINT_LABELS], addresses: ['10.9.0.3'] },
]

function sceneOf(texts: readonly string[], endpoints: readonly SceneEndpoint[], nodes: readonly SceneNode[] = []): Scene {
  const files = texts.map((text, index) => {
    const { documents, refused, problems } = parsePolicyFile(text, `${index}.yaml`, LIMITS)
    const error = problems.find(({ severity }) => severity === 'error')
    if (error !== undefined) throw new Error(JSON.stringify(error))
    return { file: `${index}.yaml`, documents, refused }
  })
  return new Scene({ files, endpoints, nodes })
}

function policy(rules: string, name = 'p'): string {
  return `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: ${name}}\nspec:\n  endpointSelector: {matchLabels: {app: api}}\n${rules}`
}

function diff(before: string, after: string, endpoints = THREE, nodes: readonly SceneNode[] = [], changesMax = 1000): PolicyDiff {
  return diffPolicies({
    before: sceneOf([before], endpoints, nodes),
    after: sceneOf([after], endpoints, nodes),
    endpoints,
    nodes,
    changesMax,
  })
}

function lines({ changes }: PolicyDiff): string[] {
  return changes.map((change) => `${change.from} -> ${change.to} ${change.traffic}: ${describeChange(change)}`)
}

const WEB = 'fromEndpoints: [{matchLabels: {app: web}}]'
const http = (path: string) =>
  `  ingress:\n  - ${WEB}\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: ${path}}]}}]\n`
const plain = (port: string, more = '') => `  ingress:\n  - ${WEB}\n    toPorts: [{ports: [{port: "${port}"${more}}]}]\n`

test('ports, protocols, ranges and requests that change are told for endpoints that are alike at once', (t) => {
  const told = (before: string, after: string) => lines(diff(policy(before), policy(after)))
  const pair = 'default/web (and 1 alike) -> default/api'
  t.deepEqual(told(plain('80'), plain('80')), [])
  t.deepEqual(told(plain('80', ', protocol: TCP'), plain('81', ', protocol: TCP')), [
    `${pair} 80/TCP: allowed -> denied`,
    `${pair} 81/TCP: denied -> allowed`,
  ])
  t.deepEqual(told(plain('80'), plain('80', ', protocol: UDP')), [
    `${pair} 80/TCP: allowed -> denied`,
    `${pair} 80/SCTP: allowed -> denied`,
  ])
  t.deepEqual(told(plain('8000', ', endPort: 8009'), plain('8003', ', endPort: 8020')), [
    `${pair} 8000-8002/ANY: allowed -> denied`,
    `${pair} 8010-8020/ANY: denied -> allowed`,
  ])
  t.deepEqual(told(http('/a'), http('/b')), [`${pair} 80/TCP: redirected: +GET /b -GET /a`])
  t.deepEqual(told(http('/a'), plain('80', ', protocol: TCP')), [`${pair} 80/TCP: redirected (GET /a) -> allowed`])
  t.deepEqual(told(`  ingress: [{${WEB}}]\n`, '  ingress: [{}]\n'), [`${pair} any traffic: allowed -> denied`])
  t.deepEqual(told('  ingress: [{}]\n', `  ingress:\n  - ${WEB}\n    icmps: [{fields: [{type: 8}]}]\n`), [
    `${pair} icmp/8: denied -> allowed`,
  ])
})

test('calls and conditions on headers that change are told apart by what they say', (t) => {
  const on = (rules: string) => policy(`  ingress:\n  - ${WEB}\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {${rules}}}]\n`)
  const told = (before: string, after: string) => lines(diff(on(before), on(after)))
  const pair = 'default/web (and 1 alike) -> default/api 80/TCP'
  t.deepEqual(told('grpc: [{service: Cart, method: Get}]', 'http: [{method: POST, path: /Cart/Get}]'), [])
  t.deepEqual(told('grpc: [{service: Cart, method: Get}]', 'grpc: [{service: Cart, method: Set}]'), [
    `${pair}: redirected: +POST /Cart/Set -POST /Cart/Get`,
  ])
  const header = (more: string) => `http: [{headerMatches: [{name: a, ${more}, mismatch: REPLACE}]}]`
  t.deepEqual(told(header('value: b'), header('secret: {name: c}')), [
    `${pair}: redirected: +header a: the secret default/c (else REPLACE) -header a: b (else REPLACE)`,
  ])
})

test('prefixes, names, nodes and entities that either side names are asked about', (t) => {
  const after = `  ingress:
  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
  - fromNodes: [{matchLabels: {zone: a}}]
  egress:
  - toFQDNs: [{matchPattern: "*.example.com"}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
`
  const nodes = [{ name: 'n', labels: ['reserved:remote-node', 'node:zone=a'], addresses: ['10.8.0.1'] }]
  const told = lines(diff(policy('  ingress: [{}]\n  egress: [{}]\n'), policy(after), THREE, nodes))
  t.deepEqual(told.sort(), [
    '10.0.0.0/8 -> default/api any traffic: denied -> allowed',
    'default/api -> *.example.com 443/TCP: denied -> allowed',
    'node/n -> default/api any traffic: denied -> allowed',
  ])
})

test('without endpoints, whoever the selectors describe stands for them', (t) => {
  const { changes } = diff(policy(plain('80', ', protocol: TCP')), policy(plain('81', ', protocol: TCP')), [])
  t.deepEqual([...new Set(changes.map(({ from, traffic }) => `${from} ${traffic}`))].sort(), [
    'k8s:app=web,k8s:io.kubernetes.pod.namespace=default 80/TCP',
    'k8s:app=web,k8s:io.kubernetes.pod.namespace=default 81/TCP',
  ])
})

test('what is not shown is counted', (t) => {
  const { changes, changeCount } = diff(policy(plain('80', ', protocol: TCP')), policy(plain('81', ', protocol: TCP')), THREE, [], 1)
  t.is(changes.length, 1)
  t.is(changeCount, 2)
})

test('recorded flows are asked about with their requests, and odd records are counted', (t) => {
  const flows = new RecordedFlows(THREE.map(({ name }) => name))
  const web = { address: '10.9.0.1', labels: ['k8s:app=web'], endpoint: { id: 1, namespace: 'default', name: 'web' } }
  const api = { address: '10.9.0.3', port: 80, labels: [], endpoint: { id: 2, namespace: 'default', name: 'api' } }
  const request = (path: string) => ({ source: web, destination: api, protocol: 'TCP', http: { method: 'GET', path, authority: 'api' } })
  for (const record of [
    request('/a'),
    request('/a'),
    request('/c'),
    { source: web, destination: api, protocol: 'TCP' },
    undefined,
    [],
    'x',
    {},
    { ...request('/a'), protocol: '47' },
  ])
    flows.add(record)
  const answer = flows.diff(sceneOf([policy(http('/a'))], THREE), sceneOf([policy(http('/b'))], THREE))
  t.deepEqual(answer, {
    changes: [
      {
        question: { from: 'default/web', to: 'default/api', port: '80/TCP', http: { method: 'GET', path: '/a', host: 'api' } },
        count: 2,
        before: 'allowed',
        after: 'denied',
      },
    ],
    flowCount: 4,
    skippedCount: 5,
  })
})

const NAMES: Readonly<Record<number, string>> = { 6: 'TCP', 17: 'UDP', 132: 'SCTP', 47: 'GRE', 112: 'VRRP', 1: 'icmp', 58: 'icmpv6' }

/** Whether a line of the answer is about this traffic. */
function isAbout({ traffic }: FlowChange, { protocol, port }: { protocol: number; port: number }): boolean {
  const name = NAMES[protocol] ?? ''
  if (traffic === 'any traffic' || traffic === name) return true
  const type = port >> 8
  const [, family, firstType, lastType = firstType] = /^(icmp|icmpv6)\/(\d+)(?:-(\d+))?$/.exec(traffic) ?? []
  if (family !== undefined) return family === name && type >= Number(firstType) && type <= Number(lastType)
  const [, first, last = first, suffix = ''] = /^(\d+|every port)(?:-(\d+))?\/(\w+)$/.exec(traffic) ?? []
  if (suffix !== name && !(suffix === 'ANY' && ['TCP', 'UDP', 'SCTP'].includes(name))) return false
  return first === 'every port' || (port >= Number(first) && port <= Number(last))
}

/** As a question names it; undefined for what none can be about. */
function portOf({ protocol, port }: { protocol: number; port: number }): string | undefined {
  const name = NAMES[protocol]
  if (name === undefined || name === 'GRE' || name === 'VRRP') return name
  if (name.startsWith('icmp')) return `${name}/${port >> 8}`
  return port === 0 ? undefined : `${port}/${name}`
}

function wordOf({ egress, ingress, verdict, audit }: TraceAnswer): string {
  const isRedirected = egress.verdict === 'redirected' || ingress.verdict === 'redirected'
  return `${verdict === 'denied' ? 'denied' : isRedirected ? 'redirected' : 'allowed'} ${audit ?? false}`
}

test('a diff tells of the flows whose trace is another one, and of no others', (t) => {
  const endpoints = ENDPOINTS.map(
    ({ id, labels, namedPorts = [], audit = false }): SceneEndpoint => ({ name: `x/e${id}`, labels, addresses: [], namedPorts, audit }),
  )
  const documents = fc.tuple(document('one'), document('two'), document('one'), document('two'))
  let count = 0
  fc.assert(
    fc.property(documents, fc.array(probe, { minLength: 10, maxLength: 10 }), ([one, two, three, four]: RawDocument[], flows) => {
      const [before, after] = [
        [one, two],
        [three, four],
      ].map((all) =>
        sceneOf(
          all.map((raw) => `${JSON.stringify(raw)}\n`),
          endpoints,
        ),
      ) as [Scene, Scene]
      const { changes } = diffPolicies({ before, after, endpoints, nodes: [], changesMax: 1_000_000 })
      const byPair = new Map<string, FlowChange[]>()
      for (const change of changes)
        byPair.set(`${change.from} ${change.to}`, [...(byPair.get(`${change.from} ${change.to}`) ?? []), change])
      for (const { subject, traffic } of flows) {
        const text = portOf(traffic)
        if (text === undefined) continue
        for (const other of [...endpoints.map(({ name }) => name), 'reserved:host', 'reserved:world']) {
          const [from, to] = [`x/e${subject.id}`, other]
          const [old, now] = [before, after].map((scene) => wordOf(answerQuestion(scene, { from, to, port: text })))
          const all = byPair.get(`${from} ${to}`) ?? []
          // Whether they are among the others depends on whether any rule names them.
          if (/^(GRE|VRRP)$/.test(text) && all.some((change) => change.traffic === 'other protocols')) continue
          const told = all.filter((change) => isAbout(change, traffic))
          count += told.length
          const words = told.map((change) => [change.before, change.after].map(({ verdict, audit }) => `${verdict} ${audit}`))
          const isRight =
            old === now
              ? words.every(([a, b]) => a === old && b === now)
              : words.length === 1 && words[0]?.[0] === old && words[0]?.[1] === now
          if (!isRight) throw new Error(`${from} ${to} ${text}: ${old} -> ${now}, told ${JSON.stringify(told)}`)
        }
      }
    }),
    { numRuns: 60 },
  )
  t.true(count > 1000)
})

test('a hundred policies and three hundred endpoints are compared in seconds', (t) => {
  const endpoints = Array.from(
    { length: 300 },
    (_, index): SceneEndpoint => ({ name: `default/w${index}`, labels: [`k8s:app=w${index}`, ...ENDPOINT_LABELS], addresses: [] }),
  )
  const texts = (shift: number) =>
    Array.from({ length: 100 }, (_, index) => {
      const rules = [1, 2, 3].map(
        (number) =>
          `  - fromEndpoints: [{matchLabels: {app: w${(index * number + shift) % 300}}}]\n    toPorts: [{ports: [{port: "${80 + number}"}]}]\n`,
      )
      return policy(`  ingress:\n${rules.join('')}`, `p${index}`).replace('app: api', `app: w${index}`)
    })
  const start = performance.now()
  const { changeCount } = diffPolicies({
    before: sceneOf(texts(0), endpoints),
    after: sceneOf(texts(1), endpoints),
    endpoints,
    nodes: [],
    changesMax: 200,
  })
  t.true(changeCount > 500)
  t.true(performance.now() - start < 20_000)
})

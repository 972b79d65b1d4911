import test from 'ava'
import fc from 'fast-check'
import { normalizePath } from '#parsers/http/normalize.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { answerQuestion, QuestionError } from '#policy/trace/question.ts'
import { Scene, type SceneEndpoint, type SceneInput } from '#policy/trace/scene.ts'
import type { TracedSide } from '#policy/trace/trace.ts'
import { NORMALIZED_PATHS, REDIRECTED_PATH, REFUSED_PATHS } from '../support/paths.ts'
import { isInAudit, judge, type NaiveRuleset, type RawDocument, type RawIdentity } from './naive.ts'
import { document, ENDPOINTS, LIMITS, probe, RESERVED } from './world.ts'

const ADDRESSES = ['10.1.2.3', '10.1.2.4', '10.9.9.9', '192.168.1.1', '8.8.8.8']
const PROTOCOLS: Readonly<Record<number, string>> = { 6: 'TCP', 17: 'UDP', 132: 'SCTP' }

/** Traffic as a question names it; undefined for what none can be about. */
function portOf({ protocol, port }: { protocol: number; port: number }): string | undefined {
  if (protocol === 1 || protocol === 58) return `icmp${protocol === 58 ? 'v6' : ''}/${port >> 8}`
  if (protocol === 47 || protocol === 112) return protocol === 47 ? 'gre' : 'VRRP'
  return PROTOCOLS[protocol] === undefined || port === 0 ? undefined : `${port}/${PROTOCOLS[protocol]}`
}

function sceneOf(texts: Readonly<Record<string, string>>, endpoints: readonly SceneEndpoint[] = [], more: Partial<SceneInput> = {}): Scene {
  const files = Object.entries(texts).map(([file, text]) => {
    const { documents, refused } = parsePolicyFile(text, file, LIMITS)
    return { file, documents, refused }
  })
  return new Scene({ files, endpoints, ...more })
}

/** What the rules that matched amount to, by the words of the language alone. */
function verdictOfRules({ matched }: TracedSide): 'allowed' | 'denied' {
  if (matched.some(({ action }) => action === 'deny')) return 'denied'
  return matched.some(({ action }) => action === 'allow') ? 'allowed' : 'denied'
}

/** Asked about: a header of two lines, whose value is `a,b` to rules that allow, and each part of it too to those that deny. */
const ASKED = { method: 'GET', path: '/b/x', headers: { 'X-Key': ['a', 'b'] } }
const RULE_TEXT = /^(?<method>\w*) (?<path>\S*)(?: x-key(?:: (?<value>\S+))?)?$/

/** What an HTTP ruleset says of the request; rules are told as `METHOD path header: value`. */
function meets({ kind, allowAll, allow, deny, serverNames }: NaiveRuleset): boolean {
  const isMet = (text: string, values: readonly string[]) => {
    const { method = '', path = '', value = 'a,b' } = RULE_TEXT.exec(text)?.groups ?? {}
    return ['', 'GET'].includes(method) && ['', '/b/.*'].includes(path) && values.includes(value)
  }
  if (kind === 'conflict' || deny.some((text) => isMet(text, ['a', 'b', 'a,b']))) return false
  return allowAll || (kind === 'http' && serverNames.length === 0 && allow.some((text) => isMet(text, ['a,b'])))
}

test('a trace says what a walk through all rules says, and its explanation amounts to its verdict', (t) => {
  const known = ENDPOINTS.map(
    ({ id, labels, namedPorts = [], audit = false }): SceneEndpoint => ({
      name: `x/e${id}`,
      labels,
      addresses: [],
      namedPorts,
      audit,
    }),
  )
  const peers: readonly (RawIdentity & { readonly text: string })[] = [
    ...ENDPOINTS.map((endpoint) => ({ ...endpoint, text: `x/e${endpoint.id}` })),
    ...RESERVED.filter(({ isUnknown }) => isUnknown !== true).map((identity) => ({ ...identity, text: identity.labels[0] ?? '' })),
    ...ADDRESSES.map((address) => ({ id: 0, labels: ['reserved:world'], cidr: `${address}/32`, text: address })),
  ]
  let requests = 0
  const documents = fc.tuple(document('one'), document('two')).chain((all) => fc.subarray(all, { minLength: 1 }))
  fc.assert(
    fc.property(documents, fc.array(probe, { minLength: 20, maxLength: 20 }), (policies: RawDocument[], flows) => {
      const scene = sceneOf(Object.fromEntries(policies.map((raw) => [raw.metadata.name, `${JSON.stringify(raw)}\n`])), known)
      const isAudited = policies.some(isInAudit)
      for (const { subject, direction, traffic } of flows) {
        const port = portOf(traffic)
        if (port === undefined) continue
        for (const peer of peers) {
          const own = `x/e${subject.id}`
          const [from, to] = direction === 'egress' ? [own, peer.text] : [peer.text, own]
          const answer = answerQuestion(scene, { from, to, port })[direction]
          const expected = judge(policies, { subject, direction, peer, ...traffic })
          if (expected.ruleset?.kind === 'http') {
            const { l7, audit = false } = answerQuestion(scene, { from, to, port, http: ASKED })[direction]
            const isLetThrough = meets(expected.ruleset)
            const { shadow } = expected.ruleset
            const isReported = isLetThrough && shadow !== undefined && (shadow === 'deny-all' || !meets(shadow))
            if ((l7 === 'allowed') !== isLetThrough || audit !== isReported)
              throw new Error(`${from} ${to} ${port}: ${l7} ${JSON.stringify(expected)}`)
            requests++
          }
          const words = { allow: 'allowed', deny: 'denied', redirect: 'redirected' } as const
          const isReported = expected.audit || expected.ruleset?.shadow === 'deny-all'
          const isRight = answer.verdict === words[expected.verdict] && (answer.audit === true) === isReported
          const isDefault = !answer.matched.some(({ action }) => action === 'deny') && expected.verdict !== 'deny'
          const isExplained = verdictOfRules(answer) === (answer.verdict === 'denied' ? 'denied' : 'allowed') || isDefault
          // Rules of policies in audit match too, and have no say.
          if (isRight && (isExplained || isAudited || subject.audit === true)) continue
          throw new Error(`${direction} ${own} ${peer.text} ${port}: ${JSON.stringify({ answer, expected })}`)
        }
      }
    }),
    { numRuns: 250 },
  )
  t.true(requests > 10)
})

const WEB = 'k8s:app=web'
const API = 'k8s:app=api'
const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: "/a(/.*)?", headers: ["X-Key: v"]}]}
  - fromCIDR: [10.0.0.0/8]
  ingressDeny:
  - fromCIDR: [10.1.0.0/16]
`

test('requests are judged by the rules of their connection, in the form that the proxy gives their path', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY })
  const ask = (path: string, headers: Record<string, string> = { 'x-key': 'v' }) =>
    answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path, headers } }).ingress
  t.like(ask('/a/b'), { verdict: 'redirected', l7: 'allowed' })
  t.like(ask('//a/./b/../c'), { l7: 'allowed' })
  t.like(ask('/b%2f%2e%2e;x/a'), { l7: 'allowed' })
  t.like(ask('/b'), { l7: 'denied', reason: 'no HTTP rule allows it' })
  t.like(ask('/a', {}), { l7: 'denied' })
  t.like(answerQuestion(scene, { from: WEB, to: API, port: '80' }).ingress, { verdict: 'redirected', l7: null })
  const other = answerQuestion(scene, { from: WEB, to: API, port: '81/TCP' })
  t.is(other.verdict, 'denied')
  t.is(other.ingress.unmatched[0]?.reason, '81/TCP is none of: 80/TCP')
  t.like(other.ingress.unmatched[0]?.at, { file: 'api.yaml', line: 7, path: 'spec.ingress[0]' })
})

test('addresses are told apart by prefix, and those of endpoints are the endpoints', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY }, [
    { name: 'default/api', labels: [API, 'k8s:io.kubernetes.pod.namespace=default'], addresses: ['10.2.0.1'] },
    { name: 'default/other', labels: ['k8s:io.kubernetes.pod.namespace=default'], addresses: ['10.2.0.2'] },
  ])
  const ask = (from: string) => answerQuestion(scene, { from, to: '10.2.0.1', port: '80' })
  t.is(ask('10.3.0.1').verdict, 'allowed')
  t.like(ask('10.1.0.1').ingress, { verdict: 'denied', reason: 'a deny rule matches' })
  t.like(ask('11.0.0.1').ingress, { verdict: 'denied', reason: 'no rule allows it' })
  t.is(ask('10.2.0.2').verdict, 'denied')
  t.is(ask('reserved:host').verdict, 'denied')
  t.is(answerQuestion(scene, { from: 'api', to: 'other', port: 'icmp' }).verdict, 'allowed')
  t.like(answerQuestion(scene, { from: 'api', to: '8.8.8.8', port: '53/UDP' }).ingress, { verdict: 'allowed', matched: [] })
})

test('a refused policy puts those whom it selects at default deny', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY.replace('10.0.0.0/8', '10.0.0.0/99') })
  t.is(answerQuestion(scene, { from: '10.3.0.1', to: API, port: '80' }).verdict, 'denied')
})

test('questions that cannot be meant are refused by what is wrong with them', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY })
  const question = { from: WEB, to: API, port: '80/TCP' }
  for (const [wrong, message] of [
    [null, /is an object/],
    [[], /is an object/],
    [{ ...question, from: 1 }, /^from is needed/],
    [{ ...question, port: '0' }, /not 0$/],
    [{ ...question, port: '80/XYZ' }, /not 80\/XYZ$/],
    [{ ...question, form: 'x' }, /no such field: form/],
    [{ ...question, from: 'shop/web' }, /no endpoint has that name/],
    [{ ...question, from: 'reserved:nobody' }, /there are reserved:host/],
    [{ ...question, http: { path: 1 } }, /^http:/],
    [{ ...question, http: { path: '/a', bodies: {} } }, /^http:/],
    [{ ...question, http: { path: '/a/%2e%2e;/b' } }, /the proxy refuses a request for this path/],
    [{ ...question, http: { path: '/a', headers: { host: ['a', 'b'] } } }, /more than one host/],
    [{ ...question, http: { method: 'CONNECT', path: 'a:443' } }, /not simulated/],
    [{ ...question, http: { path: '/%00' } }, /the proxy refuses a request for this path/],
  ] as const) {
    t.throws(() => answerQuestion(scene, wrong), { instanceOf: QuestionError, message })
  }
})

test('more label sets than are kept may be asked about', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY })
  for (let index = 0; index < 10_100; index++) {
    const { verdict } = answerQuestion(scene, { from: `k8s:app=x${index}`, to: API, port: '80' })
    if (verdict !== 'denied') t.fail(String(index))
  }
  t.is(answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path: '/a', headers: { 'X-KEY': 'v' } } }).verdict, 'allowed')
})

test('whoever was asked about long ago is still known beside one who is new', (t) => {
  const scene = sceneOf({ 'api.yaml': POLICY })
  for (let index = 0; index < 20_100; index++) {
    const { ingress } = answerQuestion(scene, { from: `k8s:app=x${index}`, to: API, port: '80' })
    const names = answerQuestion(scene, { from: WEB, to: `x${index}.example`, port: '80' })
    if (ingress.verdict !== 'denied' || names.verdict !== 'allowed') t.fail(String(index))
  }
  t.throws(() => answerQuestion(scene, { from: 'a=b,'.repeat(2000), to: API, port: '80' }), { instanceOf: QuestionError })
})

test('paths get the form that Envoy judges', (t) => {
  for (const [path, expected] of [...NORMALIZED_PATHS, ['/a/%2e%2e/x', '/x'], ['/%2561', '/%2561'], ['/a/', '/a/']] as const) {
    t.deepEqual(normalizePath(path), { kind: 'path', path: expected }, path)
  }
  t.deepEqual(normalizePath(REDIRECTED_PATH[0]), { kind: 'redirect', path: REDIRECTED_PATH[1] })
  for (const path of [...REFUSED_PATHS, '\\a', 'a']) t.deepEqual(normalizePath(path), { kind: 'refused' }, path)
})

function policyOf(subject: string, rules: string, head = ''): string {
  return `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p${head}}\nspec:\n  endpointSelector: {matchLabels: {app: ${subject}}}\n${rules}`
}

const AUDIT = ', annotations: {headgate.io/audit: "true"}'

test('what only audit lets through is allowed and reported, on connections and on requests', (t) => {
  const rules =
    '  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]\n'
  const inAudit = sceneOf({ 'a.yaml': policyOf('api', rules, AUDIT) })
  const ask = (scene: Scene, from: string, method?: string) =>
    answerQuestion(scene, { from, to: API, port: '80', ...(method !== undefined && { http: { method } }) })
  t.like(ask(inAudit, 'app=x'), { verdict: 'allowed', audit: true, ingress: { verdict: 'allowed', audit: true } })
  t.like(ask(inAudit, WEB, 'GET'), {
    verdict: 'allowed',
    audit: undefined,
    ingress: { verdict: 'redirected', l7: 'allowed', audit: undefined },
  })
  t.like(ask(inAudit, WEB, 'PUT'), { verdict: 'allowed', audit: true, ingress: { verdict: 'redirected', l7: 'allowed', audit: true } })
  t.is(ask(inAudit, WEB, 'GET').ingress.matched[0]?.audit, true)
  const node = sceneOf({ 'a.yaml': policyOf('api', rules) }, [], { audit: true })
  t.like(ask(node, 'app=x'), { verdict: 'allowed', audit: true })
  const endpoint = { name: 'default/api', labels: [API, 'k8s:io.kubernetes.pod.namespace=default'], addresses: [], audit: true }
  const own = sceneOf({ 'a.yaml': policyOf('api', rules) }, [endpoint])
  t.like(answerQuestion(own, { from: 'app=x', to: 'default/api', port: '80' }), { verdict: 'allowed', audit: true })
  t.is(ask(own, 'app=x').verdict, 'denied')
})

test('enforcement modes and the way of this host hold offline too', (t) => {
  const ask = (scene: Scene, from = 'app=x') => answerQuestion(scene, { from, to: API, port: '80' }).ingress.verdict
  const texts = { 'a.yaml': policyOf('web', '  ingress: [{}]\n') }
  t.is(ask(sceneOf(texts)), 'allowed')
  t.is(ask(sceneOf(texts, [], { enforcement: 'always' })), 'denied')
  const denied = { 'a.yaml': policyOf('api', '  ingress: [{}]\n') }
  t.is(ask(sceneOf(denied)), 'denied')
  t.is(ask(sceneOf(denied, [], { enforcement: 'never' })), 'allowed')
  t.is(ask(sceneOf(denied), 'reserved:host'), 'denied')
  t.is(ask(sceneOf(denied, [], { allowLocalhost: true }), 'reserved:host'), 'allowed')
})

test('named ports are those of the receiver, whoever asks', (t) => {
  const labels = (app: string) => [`k8s:app=${app}`, 'k8s:io.kubernetes.pod.namespace=default']
  const scene = sceneOf(
    {
      'a.yaml': policyOf('api', '  ingress:\n  - toPorts: [{ports: [{port: http, protocol: TCP}]}]\n'),
      'b.yaml': policyOf('web', '  egress:\n  - toEndpoints: [{}]\n    toPorts: [{ports: [{port: http}]}]\n'),
    },
    [
      { name: 'default/api', labels: labels('api'), addresses: [], namedPorts: [{ name: 'http', protocol: 'TCP', port: 8080 }] },
      { name: 'default/api-2', labels: labels('api'), addresses: [], namedPorts: [{ name: 'http', protocol: 'TCP', port: 9090 }] },
      { name: 'default/web', labels: labels('web'), addresses: [] },
    ],
  )
  const ask = (to: string, port: string) => answerQuestion(scene, { from: 'web', to, port })
  t.is(ask('api', 'http').verdict, 'allowed')
  t.like(ask('api', '8080'), { verdict: 'allowed', ingress: { matched: [{ reason: 'for everybody, on 8080/TCP' }] } })
  // The sender's rule means the ports of all endpoints with these labels, the receiver's its own.
  t.like(ask('api', '9090'), {
    verdict: 'denied',
    egress: { verdict: 'allowed' },
    ingress: { unmatched: [{ reason: '9090/TCP is none of: http/TCP' }] },
  })
  t.is(ask('api-2', '9090').verdict, 'allowed')
  t.throws(() => ask('web', 'http'), { message: /^the receiver has no port of that name: http/ })
  t.throws(() => ask('api', 'http/UDP'), { message: /it has http\/TCP/ })
})

test('peers that refer to other documents, names, nodes and requirements are explained', (t) => {
  const rules = `  egress:
  - toCIDRSet: [{cidrGroupRef: office}]
  - toServices: [{k8sService: {serviceName: db, namespace: default}}]
  - toFQDNs: [{matchPattern: "*.example.com"}]
  - toNodes: [{matchLabels: {zone: a}}]
  - toEndpoints: [{matchLabels: {app: api}}]
    toRequires: [{matchLabels: {env: prod}}]
`
  const references = `apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: office}\nspec: {externalCIDRs: [192.0.2.0/24]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: default}\nspec: {selector: {app: db}}\n`
  const scene = sceneOf({ 'a.yaml': policyOf('web', rules), 'r.yaml': references }, [], {
    nodes: [{ name: 'n', labels: ['reserved:remote-node', 'node:zone=a'], addresses: ['10.8.0.1'] }],
  })
  const why = (to: string) => {
    const { matched, unmatched, verdict } = answerQuestion(scene, { from: WEB, to, port: '80' }).egress
    return [verdict, ...(verdict === 'allowed' ? matched : unmatched).map(({ reason }) => reason)]
  }
  t.deepEqual(why('192.0.2.1'), ['allowed', 'the receiver is CIDR group office, on every port'])
  t.deepEqual(why('app=db,env=prod'), ['allowed', 'the receiver is service default/db, on every port'])
  t.deepEqual(why('WWW.example.com'), ['allowed', 'the receiver is the name *.example.com, on every port'])
  t.deepEqual(why('node/n'), ['allowed', 'the receiver is a node zone=a, on every port'])
  t.deepEqual(why('10.8.0.1'), why('node/n'))
  t.deepEqual(why('app=api,env=prod')[0], 'allowed')
  t.is(why('app=api')[0], 'denied')
  t.regex(why('app=api').at(-1) ?? '', /the receiver is app=api and .*, but not env=prod, which toRequires asks for/)
  t.is(why('example.org')[0], 'denied')
  t.is(answerQuestion(scene, { from: WEB, to: 'www.example.com', port: '80' }).egress.notes, undefined)
})

test('deny rules on requests leave the rest alone, and conflicts let nothing through', (t) => {
  const all = '  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}]}]\n'
  const deny = '  ingressDeny:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/admin.*"}]}}]\n'
  const scene = sceneOf({ 'a.yaml': policyOf('api', all + deny) })
  const ask = (path?: string) =>
    answerQuestion(scene, { from: WEB, to: API, port: '80', ...(path !== undefined && { http: { path } }) }).ingress
  t.like(ask('/admin/x'), { verdict: 'redirected', l7: 'denied', reason: 'a deny rule matches the request' })
  t.like(ask('/x'), { verdict: 'redirected', l7: 'allowed' })
  t.like(ask(), { verdict: 'redirected', l7: null })
  const kafka = '  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {kafka: [{topic: a}]}}]\n'
  const http = kafka.replace('kafka: [{topic: a}]', 'http: [{}]')
  const conflict = sceneOf({ 'a.yaml': policyOf('api', kafka), 'b.yaml': policyOf('api', http).replace('name: p', 'name: q') })
  t.like(answerQuestion(conflict, { from: WEB, to: API, port: '80', http: {} }).ingress, { l7: 'denied' })
})

test('policies for nodes are simulated, and said not to be enforced', (t) => {
  const text = `apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: hosts}\nspec:\n  nodeSelector: {matchLabels: {zone: a}}\n  ingress:\n  - fromEntities: [remote-node]\n`
  const nodes = [
    { name: 'a', labels: ['reserved:remote-node', 'node:zone=a'], addresses: ['10.8.0.1'] },
    { name: 'b', labels: ['reserved:remote-node', 'node:zone=b'], addresses: ['10.8.0.2'] },
  ]
  const scene = sceneOf({ 'a.yaml': text }, [], { nodes })
  const ask = (from: string, to: string) => answerQuestion(scene, { from, to, port: '22' }).ingress
  t.like(ask('node/b', '10.8.0.1'), {
    verdict: 'allowed',
    matched: [{ action: 'allow' }],
    notes: ['policy for nodes is not enforced by this version: a node lets this traffic through'],
  })
  t.like(ask('8.8.8.8', 'node/a'), { verdict: 'denied' })
  t.like(ask('8.8.8.8', 'node/b'), { verdict: 'allowed', matched: [] })
  t.throws(() => ask('node/c', 'node/a'), { message: /no node has that name/ })
})

const STATION_KEY = 'k1'
const KEYED = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {path: /key, headerMatches: [{name: X-Key, secret: {name: key}}]}
        - {path: /set, headerMatches: [{name: X-Key, secret: {name: key}, mismatch: REPLACE}, {name: X-Old, value: none, mismatch: DELETE}]}
        - {path: /plain, headers: ["X-A: 1,2"]}
  ingressDeny:
  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{headers: ["X-B: 2"]}]}}]
  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /set, headerMatches: [{name: X-C, secret: {name: key}}]}]}}]
`

test('what rules do about headers is told, and never what a secret holds', (t) => {
  const scene = sceneOf({ 'api.yaml': KEYED }, [], {
    secretOf: (namespace, name) => (namespace === 'default' && name === 'key' ? STATION_KEY : undefined),
  })
  const ask = (path: string, headers: Record<string, string | string[]> = {}) =>
    answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path, headers } })
  t.is(ask('/key', { 'x-key': STATION_KEY }).verdict, 'allowed')
  t.is(ask('/key', { 'x-key': 'k2' }).verdict, 'denied')
  const changed = ask('/set', { 'x-key': 'k2', 'x-old': 'v' })
  t.like(changed, { verdict: 'allowed', egress: { headers: undefined } })
  t.deepEqual(changed.ingress.headers, [
    { name: 'x-key', action: 'REPLACE' },
    { name: 'x-old', action: 'DELETE' },
  ])
  t.deepEqual(ask('/set', { 'x-key': STATION_KEY, 'x-old': 'none' }).ingress.headers, undefined)
  t.is(ask('/set', { 'x-c': STATION_KEY }).verdict, 'denied')
  t.is(ask('/set', { 'x-c': STATION_KEY }).ingress.headers, undefined)
  for (const answer of [changed, ask('/key')]) t.false(JSON.stringify(answer).includes(STATION_KEY))
  t.false(changed.ingress.notes?.some((note) => note.includes('--secrets')) ?? false)
})

test('a secret that is not known lets nobody in and denies everybody, and the answer says so', (t) => {
  const scene = sceneOf({ 'api.yaml': KEYED })
  const ask = (path: string) => answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path, headers: { 'x-key': STATION_KEY } } })
  const note = 'what the secret default/key holds is not known here (--secrets): judged as where it cannot be read'
  t.is(ask('/key').verdict, 'denied')
  t.true(ask('/key').ingress.notes?.includes(note))
  t.like(ask('/set'), { verdict: 'denied', ingress: { reason: 'a deny rule matches the request' } })
  t.true(ask('/set').ingress.notes?.includes(note))
  t.false(ask('/plain').ingress.notes?.includes(note) ?? false)
})

test('a header that comes several times is one value, of which a deny rule sees each part', (t) => {
  const scene = sceneOf({ 'api.yaml': KEYED })
  const ask = (headers: Record<string, string | string[]>) =>
    answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path: '/plain', headers } }).verdict
  t.is(ask({ 'x-a': ['1', '2'] }), 'allowed')
  t.is(ask({ 'x-a': '1,2' }), 'allowed')
  for (const headers of [{ 'x-a': '1' }, { 'x-a': ['2', '1'] }, { 'x-a': '1, 2' }, { 'x-a': ['1,2', '1,2'] }]) t.is(ask(headers), 'denied')
  const allowed = { 'x-a': '1,2' }
  for (const value of ['2', ['1', '2'], '1 ,\t2 ', ['3', '1,2,4']]) t.is(ask({ ...allowed, 'x-b': value }), 'denied', JSON.stringify(value))
  for (const value of ['1', '22', '2 2', '1;2']) t.is(ask({ ...allowed, 'x-b': value }), 'allowed', value)
})

test('what audit makes of a secret is told, and that a node does not report it', (t) => {
  const rules = (more: string) =>
    `  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /a, headerMatches: [{name: x-key, secret: {name: key}${more}}]}]}}]\n`
  const scene = sceneOf({ 'a.yaml': policyOf('api', rules(''), AUDIT) }, [], { secretOf: () => 'right' })
  const ask = (key: string) => answerQuestion(scene, { from: WEB, to: API, port: '80', http: { path: '/a', headers: { 'x-key': key } } })
  t.like(ask('right'), { verdict: 'allowed', audit: undefined, ingress: { notes: undefined } })
  t.like(ask('wrong'), { verdict: 'allowed', audit: true })
  t.regex(ask('wrong').ingress.notes?.join() ?? '', /is not reported by this version/)
  const changing = sceneOf({ 'a.yaml': policyOf('api', rules(', mismatch: REPLACE'), AUDIT) }, [], { secretOf: () => 'right' })
  t.like(answerQuestion(changing, { from: WEB, to: API, port: '80', http: { path: '/a' } }), {
    verdict: 'allowed',
    audit: undefined,
    ingress: { headers: undefined },
  })
})

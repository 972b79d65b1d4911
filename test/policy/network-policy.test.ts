import test from 'ava'
import { isPolicy, type Policy, type PolicyRule, type PolicySpec } from '#policy/model.ts'
import { messagesOf, parse, policy, problemsOf, Resolved } from './support.ts'

/** A NetworkPolicy with the given lines as its spec, which selects pods with app=web unless it says whom. */
function networkPolicy(spec: string, { name = 'np', namespace = 'default' } = {}): string {
  const selector = spec.includes('podSelector: {}\n') || spec.startsWith('podSelector') ? '' : 'podSelector: {matchLabels: {app: web}}\n'
  const body = `${selector}${spec}`.trim().split('\n')
  return `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ${name}, namespace: ${namespace}}
spec:
${body.map((line) => `  ${line}\n`).join('')}`
}

function read(text: string): Policy {
  const { documents, problems } = parse(text)
  const [document] = documents
  if (document === undefined || !isPolicy(document)) throw new Error(problems.map(({ message }) => message).join('; '))
  return document
}

function specOf(spec: string): PolicySpec {
  const [first] = read(networkPolicy(spec)).specs
  if (first === undefined) throw new Error('no spec')
  return first
}

function ruleOf(spec: string): PolicyRule {
  const [rule] = specOf(spec).rules
  if (rule === undefined) throw new Error('no rule')
  return rule
}

/** The selectors of a rule's peers as `source:key operator values`. */
function conditions(spec: string): string[][] {
  const { peers } = ruleOf(spec)
  return (peers.kind === 'members' ? peers.members : []).map((peer) =>
    peer.kind === 'endpoints'
      ? peer.selector.requirements.map(({ source, key, operator, values }) => `${source}:${key} ${operator} ${values.join()}`.trim())
      : [JSON.stringify({ ...peer, at: undefined })],
  )
}

/** Ports of a rule as `first-last/protocol` or `name/protocol`. */
function ports(spec: string): string[] {
  const { traffic } = ruleOf(spec)
  if (traffic.kind !== 'ports') return [traffic.kind]
  return traffic.rules.flatMap(({ ranges, names }) => [
    ...ranges.map(({ first, last, protocol }) => `${first}-${last}/${protocol}`),
    ...names.map(({ name, protocol }) => `${name}/${protocol}`),
  ])
}

test('a NetworkPolicy is a policy of its namespace with one spec', (t) => {
  const document = read(networkPolicy('ingress: [{}]', { namespace: 'shop' }))
  t.like(document, { kind: 'NetworkPolicy', namespace: 'shop', name: 'np', audit: false })
  t.is(document.specs.length, 1)
  t.deepEqual(document.specs[0]?.subject, {
    kind: 'endpoints',
    selector: {
      requirements: [
        { source: 'k8s', key: 'app', operator: 'In', values: ['web'] },
        { source: 'k8s', key: 'io.kubernetes.pod.namespace', operator: 'In', values: ['shop'] },
      ],
    },
  })
})

test('without policyTypes it restricts ingress, and egress if there are rules for it', (t) => {
  const denied = (spec: string) => specOf(spec).defaultDeny
  t.deepEqual(denied('podSelector: {}'), { ingress: true, egress: false })
  t.deepEqual(denied('egress: [{}]'), { ingress: true, egress: true })
  t.deepEqual(denied('egress: []'), { ingress: true, egress: false })
  t.deepEqual(denied('policyTypes: []\negress: [{}]'), { ingress: true, egress: true })
  t.deepEqual(denied('policyTypes: [Egress]'), { ingress: false, egress: true })
  t.deepEqual(denied('policyTypes: [Ingress]'), { ingress: true, egress: false })
  t.deepEqual(denied('policyTypes: [Ingress, Egress]'), { ingress: true, egress: true })
})

test('an empty list of rules denies everything in its direction', (t) => {
  t.deepEqual(specOf('ingress: []\npolicyTypes: [Ingress]').rules, [])
  const resolved = new Resolved(networkPolicy('ingress: []\npolicyTypes: [Ingress]'))
  t.deepEqual([resolved.ingress('api'), resolved.verdict('egress', 'api', '80/TCP')], ['deny', 'allow'])
})

test('rules of a direction that policyTypes leaves out have no effect, and a warning says so', (t) => {
  const text = networkPolicy('policyTypes: [Egress]\ningress: [{}]\negress: [{}]')
  t.deepEqual(problemsOf(text), [
    '7:3 warning spec.ingress: has no effect: policyTypes does not name Ingress (add Ingress, or remove ingress)',
  ])
  t.deepEqual(
    read(text).specs[0]?.rules.map(({ direction }) => direction),
    ['egress'],
  )
})

test('an absent or empty list of peers or ports is everybody and everything', (t) => {
  for (const rule of ['{}', '{from: []}', '{from: [], ports: []}', '{ports: []}'])
    t.like(ruleOf(`ingress: [${rule}]`), { peers: { kind: 'any' }, traffic: { kind: 'any' }, verdict: 'allow', requires: [] })
  t.like(ruleOf('ingress: [{ports: [{port: 80}]}]'), { peers: { kind: 'any' }, traffic: { kind: 'ports' } })
  t.like(ruleOf('policyTypes: [Egress]\negress: [{to: []}]'), { direction: 'egress', peers: { kind: 'any' } })
})

test('an empty rule lets everybody in, unlike that of a CiliumNetworkPolicy', (t) => {
  const resolved = new Resolved(networkPolicy('ingress: [{}]'))
  for (const peer of ['api', 'far', 'world', 'host'] as const) t.is(resolved.ingress(peer), 'allow', peer)
  t.is(resolved.verdict('ingress', 'world', 'ICMP'), 'allow')
  t.is(new Resolved(policy('ingress: [{}]')).ingress('api'), 'deny')
})

test('podSelector means pods of the policy’s namespace, namespaceSelector those of namespaces with these labels', (t) => {
  t.deepEqual(conditions('ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]'), [
    ['k8s:app In api', 'k8s:io.kubernetes.pod.namespace In default'],
  ])
  t.deepEqual(conditions('ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}}]}]'), [
    ['k8s:io.cilium.k8s.namespace.labels.team In shop', 'k8s:io.kubernetes.pod.namespace Exists'],
  ])
  t.deepEqual(
    conditions(`ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [a, b]}]},
     podSelector: {matchLabels: {app: api}}}]}]`),
    [
      [
        'k8s:app In api',
        'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name NotIn a,b',
        'k8s:io.kubernetes.pod.namespace Exists',
      ],
    ],
  )
  t.deepEqual(conditions('ingress: [{from: [{namespaceSelector: {}}]}]'), [['k8s:io.kubernetes.pod.namespace Exists']])
  t.deepEqual(conditions('ingress: [{from: [{podSelector: {}}]}]'), [['k8s:io.kubernetes.pod.namespace In default']])
})

test('pods of any namespace are not the world or the host, whatever conditions a selector has', (t) => {
  for (const selector of ['{}', '{matchExpressions: [{key: team, operator: DoesNotExist}]}']) {
    const resolved = new Resolved(networkPolicy(`ingress: [{from: [{namespaceSelector: ${selector}}]}]`))
    t.is(resolved.ingress('far'), 'allow', selector)
    for (const peer of ['world', 'host', 'init'] as const) t.is(resolved.ingress(peer), 'deny', peer)
  }
})

test('peers of different kinds may stand in one rule', (t) => {
  const spec = 'ingress: [{from: [{podSelector: {matchLabels: {app: api}}}, {ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.0/16]}}]}]'
  t.deepEqual(conditions(spec), [
    ['k8s:app In api', 'k8s:io.kubernetes.pod.namespace In default'],
    ['{"kind":"cidr","cidr":"10.0.0.0/8","except":["10.9.0.0/16"]}'],
  ])
  const resolved = new Resolved(networkPolicy(spec))
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far'), resolved.ingress('world')], ['allow', 'deny', 'deny'])
  t.deepEqual([resolved.ingress('10.0.0.0/8'), resolved.ingress('10.9.0.0/16')], ['allow', 'deny'])
})

test('ports are numbers, ranges, names, or all of a protocol, and TCP unless they say more', (t) => {
  const all = '[{port: 80}, {port: 53, protocol: UDP}, {port: 8000, endPort: 8099}, {port: http}, {protocol: SCTP}, {port: 5, endPort: 5}]'
  t.deepEqual(ports(`ingress: [{ports: ${all}}]`), ['80-80/TCP', '53-53/UDP', '8000-8099/TCP', '0-65535/SCTP', '5-5/TCP', 'http/TCP'])
  t.deepEqual(ports('ingress: [{ports: [{}]}]'), ['0-65535/TCP'])
  t.deepEqual(ports('ingress: [{}]'), ['any'])
})

test('what the API server refuses of ports is refused', (t) => {
  const cases = [
    ['{port: "80"}', 'not a name of a port: 80'],
    ['{port: HTTP}', 'not a name of a port: HTTP'],
    ['{port: a--b}', 'not a name of a port: a--b'],
    ['{port: a-name-that-is-too-long}', 'not a name of a port: a-name-that-is-too-long'],
    ['{port: 0}', 'must be between 1 and 65535: 0'],
    ['{port: 65536}', 'must be between 1 and 65535: 65536'],
    ['{port: 80, protocol: tcp}', 'no such protocol: tcp'],
    ['{port: 80, protocol: ICMP}', 'no such protocol: ICMP'],
    ['{port: 80, endPort: 79}', 'endPort must not be below port: 79'],
    ['{port: http, endPort: 90}', 'endPort needs a port that is a number, not a name: http'],
    ['{endPort: 90}', 'endPort needs a port'],
    ['{port: 80, endPort: "90"}', 'must be a whole number without quotes, is a string: 90'],
    ['{port: 80, ports: 1}', 'unknown field: ports'],
    ['{port: ~}', 'has no value'],
  ] as const
  for (const [port, message] of cases) t.deepEqual(messagesOf(networkPolicy(`ingress: [{ports: [${port}]}]`)), [message], port)
})

test('what the API server refuses of peers is refused', (t) => {
  const cases = [
    ['{}', 'a peer is needed: podSelector, namespaceSelector or ipBlock'],
    ['{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}', 'ipBlock cannot stand beside podSelector or namespaceSelector'],
    ['{ipBlock: {}}', 'cidr is needed'],
    ['{ipBlock: {cidr: 10.0.0.1}}', 'not a CIDR prefix: 10.0.0.1'],
    ['{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}', 'an exception must be a smaller prefix inside 10.0.0.0/8: 11.0.0.0/16'],
    ['{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}', 'an exception must be a smaller prefix inside 10.0.0.0/8: 10.0.0.0/8'],
    ['{ipBlock: {cidr: 10.0.0.0/8, except: [fd00::/64]}}', 'an exception must be a smaller prefix inside 10.0.0.0/8: fd00::/64'],
    ['{podSelector: {matchLabels: {"k8s:app": web}}}', 'not a label key: k8s:app'],
    ['{podSelector: {matchLabels: {"a/b/c": web}}}', 'not a label key: a/b/c'],
    ['{podSelector: {matchLabels: {app: "a b"}}}', 'not a label value: a b'],
    ['{podSelector: {matchExpressions: [{key: app, operator: In}]}}', 'In needs values'],
    ['{podSelector: {matchExpressions: [{key: app, operator: Exists, values: [a]}]}}', 'Exists takes no values'],
    ['{podSelector: {matchExpressions: [{key: app, operator: Equals, values: [a]}]}}', 'no such operator: Equals'],
    ['{podSelector: {matchExpressions: [{key: app}]}}', 'key and operator are needed'],
    ['{podselector: {}, ipBlock: {cidr: 10.0.0.0/8}}', 'unknown field: podselector'],
    ['{podSelector: }', 'has no value'],
  ] as const
  for (const [peer, message] of cases) t.deepEqual(messagesOf(networkPolicy(`ingress: [{from: [${peer}]}]`)), [message], peer)
})

test('what the API server refuses of the rest is refused', (t) => {
  const cases = [
    ['policyTypes: [ingress]', 'no such policy type: ingress'],
    ['policyTypes: [Ingress, Egress, Ingress]', 'more policy types than 2: 3'],
    ['policyTypes: Ingress', 'must be a list, is a string: Ingress'],
    ['ingress: {}', 'must be a list, is a map'],
    ['ingress: [~]', 'has no value'],
    ['ingress: [{to: []}]', 'unknown field: to'],
    ['ingress:', 'has no value'],
    ['endpointSelector: {}', 'unknown field: endpointSelector'],
    ['ingressDeny: []', 'unknown field: ingressDeny'],
  ] as const
  for (const [spec, message] of cases) t.deepEqual(messagesOf(networkPolicy(spec)), [message], spec)
  t.deepEqual(messagesOf(networkPolicy('podSelector: {}').replace(/spec:.*/s, '')), ['spec is needed'])
  t.deepEqual(messagesOf(networkPolicy('podSelector: {}').replace('networking.k8s.io/v1', 'extensions/v1beta1')), [
    'not a version of NetworkPolicy: extensions/v1beta1',
  ])
})

test('without podSelector it selects every pod of the namespace, with a warning', (t) => {
  const text = networkPolicy('podSelector: {}').replace('podSelector: {}', 'ingress: []')
  t.deepEqual(messagesOf(text, 'warning'), ['without podSelector it selects every pod of the namespace'])
  t.deepEqual(
    read(text).specs[0]?.subject.selector.requirements.map(({ key }) => key),
    ['io.kubernetes.pod.namespace'],
  )
})

test('a refused one puts at default deny whom it selects, in the directions that it is about', (t) => {
  const directions = (spec: string) => {
    const [document] = parse(networkPolicy(spec)).refused
    t.is(document?.kind, 'NetworkPolicy')
    return document?.subjects.flatMap((subject) => subject.directions)
  }
  t.deepEqual(directions('ingress: [{form: []}]'), ['ingress'])
  t.deepEqual(directions('egress: [{form: []}]'), ['ingress', 'egress'])
  t.deepEqual(directions('egress: {}'), ['ingress', 'egress'])
  t.deepEqual(directions('policyTypes: [Egress]\nfoo: 1'), ['egress'])
  t.deepEqual(directions('policyTypes: [egress]'), ['ingress', 'egress'])
  t.deepEqual(directions('policyTypes: 1'), ['ingress', 'egress'])
  const resolved = new Resolved(networkPolicy('ingress: [{form: []}]'))
  t.deepEqual([resolved.ingress('api'), resolved.verdict('egress', 'api', '80/TCP')], ['deny', 'allow'])
})

test('a condition that cannot be read is left out of whom a refused one selects', (t) => {
  t.is(new Resolved(networkPolicy('podSelector: {matchLabels: {app: 1}}')).ingress('api'), 'deny')
  t.is(new Resolved(networkPolicy('podSelector: {matchLabels: {app: 1}}', { namespace: 'other' })).ingress('api'), 'allow')
})

test('it adds up with policies of Cilium’s kinds, whose deny rules win', (t) => {
  const resolved = new Resolved(
    networkPolicy('ingress: [{from: [{podSelector: {}}]}]'),
    policy('ingressDeny: [{fromEndpoints: [{matchLabels: {app: api}}]}]\nenableDefaultDeny: {ingress: false}'),
  )
  t.deepEqual([resolved.ingress('web'), resolved.ingress('api'), resolved.ingress('far')], ['allow', 'deny', 'deny'])
})

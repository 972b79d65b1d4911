/** What trips people about Cilium's language, as far as reading a policy decides it; the rest stands in semantics.test.ts. */
import test, { type ExecutionContext } from 'ava'
import { DIALECTS, type Dialect } from '#policy/model.ts'
import { peersOf, portRuleOf, portsOf, ruleOf, said, specOf, warned } from './spec.ts'

const HTTP = 'rules: {http: [{}]}'

function ports(list: string, more = HTTP, section = 'egress'): string {
  return `${section}: [{toPorts: [{ports: [${list}], ${more}}]}]`
}

/** Each trap is one in both dialects. */
function trap(title: string, run: (t: ExecutionContext, dialect: Dialect) => void): void {
  for (const dialect of DIALECTS) test(`${title} (${dialect})`, (t) => run(t, dialect))
}

trap('an empty list of peers selects nobody, none at all with ports everybody, and an empty selector the namespace', (t, dialect) => {
  t.is(peersOf('ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: "80"}]}]}]', { dialect }), 'none')
  t.is(peersOf('ingress: [{toPorts: [{ports: [{port: "80"}]}]}]', { dialect }), 'any')
  t.deepEqual(peersOf('ingress: [{fromEndpoints: [{}]}]', { dialect }), [
    {
      kind: 'endpoints',
      selector: { requirements: [{ source: 'k8s', key: 'io.kubernetes.pod.namespace', operator: 'In', values: ['shop'] }] },
    },
  ])
})

trap('a policy without any rule is refused, whatever it says of default deny', (t, dialect) => {
  const message = 'a policy needs at least one member in ingress, ingressDeny, egress or egressDeny'
  t.deepEqual(said('ingress: []', { dialect }), [message])
  t.deepEqual(said('ingress: []\nenableDefaultDeny: {ingress: true}', { dialect }), [message])
})

trap('an empty rule matches nothing and switches default deny on', (t, dialect) => {
  const { rules, defaultDeny } = specOf('ingress: [{}]', { dialect })
  t.like(rules[0], { peers: { kind: 'none' }, traffic: { kind: 'any' } })
  t.deepEqual(defaultDeny, { ingress: true, egress: false })
})

trap('deny rules alone switch default deny on, unless the policy says not to', (t, dialect) => {
  t.deepEqual(specOf('egressDeny: [{toEntities: [world]}]', { dialect }).defaultDeny, { ingress: false, egress: true })
  t.deepEqual(specOf('egressDeny: [{toEntities: [world]}]\nenableDefaultDeny: {egress: false}', { dialect }).defaultDeny, {
    ingress: false,
    egress: false,
  })
})

trap('an empty list of HTTP rules is none, and an empty rule allows and shows every request', (t, dialect) => {
  t.is(portRuleOf(ports('{port: "80"}', 'rules: {http: []}'), { dialect }).l7, undefined)
  t.deepEqual(portRuleOf(ports('{port: "80", protocol: TCP}'), { dialect }).l7, { kind: 'http', rules: [{ headers: [] }] })
})

test('denying names and requests is refused where Cilium’s language is read', (t) => {
  for (const spec of ['egressDeny: [{toFQDNs: [{matchName: a.example}]}]', ports('{port: "80", protocol: TCP}', HTTP, 'ingressDeny')]) {
    t.is(said(spec, { dialect: 'cilium' }).length, 1)
    t.deepEqual(said(spec), [])
  }
})

trap('HTTP rules need their protocol stated', (t, dialect) => {
  t.deepEqual(said(ports('{port: "80"}'), { dialect }), ['L7 rules can only apply to TCP, not ANY'])
  t.deepEqual(said(ports('{port: http, protocol: UDP}'), { dialect }), ['L7 rules can only apply to TCP, not UDP'])
  t.deepEqual(said(ports('{port: "0", protocol: TCP}'), { dialect }), ['L7 rules cannot apply to every port'])
  t.deepEqual(said(ports('{port: "80", endPort: 90, protocol: TCP}'), { dialect }), [])
})

trap('DNS rules are for egress, need their ports, and take no range', (t, dialect) => {
  const dns = 'rules: {dns: [{matchPattern: "*"}]}'
  t.deepEqual(said(ports('{port: "53", protocol: UDP}', dns, 'ingress'), { dialect }), ['dns rules are for egress only'])
  t.deepEqual(said('egress: [{toPorts: [{rules: {dns: [{matchPattern: "*"}]}}]}]', { dialect }), ['dns rules need a port'])
  t.deepEqual(said(ports('{port: "53", endPort: 54}', dns), { dialect }), ['dns rules cannot apply to a range of ports: 53-54'])
  t.deepEqual(said(ports('{port: "0"}', dns), { dialect }), ['L7 rules cannot apply to every port'])
  t.deepEqual(said(ports('{port: "53", protocol: SCTP}', dns), { dialect }), ['dns rules can only apply to UDP and TCP, not SCTP'])
  t.deepEqual(said(ports('{port: "53"}, {port: "53", protocol: TCP}, {port: dns, protocol: UDP}', dns), { dialect }), [])
  t.deepEqual(said(ports('{port: "80", protocol: TCP}', HTTP, 'ingress'), { dialect }), [])
})

trap('a listener is for egress, and a clusterwide policy cannot use one of a namespace', (t, dialect) => {
  const listener = (kind: string) => `listener: {name: l, envoyConfig: {kind: ${kind}, name: c}}`
  const own = listener('CiliumEnvoyConfig')
  t.deepEqual(said(ports('{port: "80", protocol: TCP}', own), { dialect }), [])
  t.is(said(ports('{port: "80", protocol: TCP}', own, 'ingress'), { dialect }).length, 1)
  t.is(said(ports('{port: "80", protocol: TCP}', `${own}, ${HTTP}`), { dialect }).length, 1)
  t.is(said(ports('{port: "80", protocol: TCP}', own), { dialect, clusterwide: true }).length, 1)
  t.deepEqual(said(ports('{port: "80", protocol: TCP}', listener('CiliumClusterwideEnvoyConfig')), { dialect, clusterwide: true }), [])
})

trap('a leading zero makes a port octal, one of base 16 is a name, and one that is neither is refused', (t, dialect) => {
  t.deepEqual(portsOf('{port: "010"}, {port: "0x10"}', { dialect }), ['8-8/ANY', '0x10/ANY'])
  t.deepEqual(said(ports('{port: "0080"}', ''), { dialect }), ['not a port: 0080'])
})

trap('an endPort that is not above its port means nothing, nor does one of a named port', (t, dialect) => {
  t.deepEqual(portsOf('{port: "80", endPort: 80}, {port: "80", endPort: 7}, {port: web, endPort: 90}', { dialect }), [
    '80-80/ANY',
    '80-80/ANY',
    'web/ANY',
  ])
  t.deepEqual(warned('ingress: [{toPorts: [{ports: [{port: "80", endPort: 7}, {port: web, endPort: 90}]}]}]', { dialect }), [
    'endPort is below port and means nothing: 7',
    'endPort means nothing beside a named port: 90',
  ])
})

trap('L7 rules are refused where the proxy is off', (t, dialect) => {
  t.deepEqual(said(ports('{port: "80", protocol: TCP}'), { dialect, l7Proxy: false }), [
    'L7 rules are switched off by the setting policy.l7Proxy',
  ])
})

trap('the limits are Cilium’s', (t, dialect) => {
  const many = (count: number) => Array.from({ length: count }, (_, index) => `{port: "${index + 1}"}`).join()
  t.deepEqual(said(ports(many(40), ''), { dialect }), [])
  t.deepEqual(said(ports(many(41), ''), { dialect }), ['more ports than 40: 41'])
  t.deepEqual(said(`ingress: [{icmps: [{fields: [${Array(41).fill('{type: 8}').join()}]}]}]`, { dialect }), ['more fields than 40: 41'])
  t.is(said(`ingress: [{}]\nlog: {value: ${'a'.repeat(33)}}`, { dialect }).length, 1)
  t.is(said(`egress: [{toFQDNs: [{matchName: ${'a.'.repeat(128)}}]}]`, { dialect }).length, 1)
})

trap('kinds of peers exclude one another in a rule, and all of them take ports', (t, dialect) => {
  t.deepEqual(said('ingress: [{fromEndpoints: [{}], fromEntities: [world]}]', { dialect }), [
    'fromEndpoints and fromEntities cannot stand in one rule',
  ])
  for (const peers of [
    'toEndpoints: [{}]',
    'toEntities: [all]',
    'toCIDR: [10.0.0.1]',
    'toCIDRSet: [{cidr: 10.0.0.0/8}]',
    'toNodes: [{}]',
    'toServices: [{k8sServiceSelector: {selector: {}}}]',
    'toGroups: [{aws: {labels: {a: b}}}]',
    'toFQDNs: [{matchPattern: "*"}]',
  ])
    t.is(ruleOf(`egress: [{${peers}, toPorts: [{ports: [{port: "80"}]}]}]`, { dialect }).traffic.kind, 'ports', peers)
})

trap('a header without a space asks for presence, and one with its colon for what no request has', (t, dialect) => {
  const header = (text: string) => ports('{port: "80", protocol: TCP}', `rules: {http: [{headers: ['${text}']}]}`)
  t.deepEqual(portRuleOf(header('X-Key'), { dialect }).l7?.rules, [{ headers: [{ name: 'x-key' }] }])
  t.deepEqual(portRuleOf(header('X-Key: true'), { dialect }).l7?.rules, [{ headers: [{ name: 'x-key', value: 'true' }] }])
  t.deepEqual(portRuleOf(header('X-Key:true'), { dialect }).l7?.rules, [])
})

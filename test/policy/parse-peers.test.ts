import test from 'ava'
import { peersOf, ruleOf, said, specOf, type Variant, warned } from './spec.ts'

const CILIUM: Variant = { dialect: 'cilium' }
const CLUSTERWIDE: Variant = { clusterwide: true }

const label = (key: string, ...values: string[]) => ({ source: 'any', key, operator: values.length > 0 ? 'In' : 'Exists', values })

test('a policy selects endpoints or nodes, and nodes only when it is clusterwide', (t) => {
  t.deepEqual(specOf('nodeSelector: {matchLabels: {role: edge}}\ningress: [{}]', CLUSTERWIDE).subject, {
    kind: 'nodes',
    selector: { requirements: [label('role', 'edge')] } as never,
  })
  t.is(specOf('ingress: [{}]', CLUSTERWIDE).subject.kind, 'endpoints')
  t.deepEqual(said('nodeSelector: {}\ningress: [{}]'), ['nodes belong to no namespace, so a policy of one cannot select them'])
  t.deepEqual(said('nodeSelector: {}\nendpointSelector: {}\ningress: [{}]', CLUSTERWIDE), [
    'endpointSelector and nodeSelector cannot stand in one policy',
  ])
})

test('every entity of the schema is one, and those of Go alone are told with what to write', (t) => {
  const names = 'all, world, cluster, cluster-mesh, host, init, ingress, unmanaged, remote-node, health, none, kube-apiserver'
  t.deepEqual(
    peersOf(`ingress: [{fromEntities: [${names}]}]`),
    names.split(', ').map((entity) => ({ kind: 'entity', entity })),
  )
  t.deepEqual(said('egress: [{toEntities: [world-ipv4, world-ipv6, nobody]}]'), [
    'no such entity: world-ipv4',
    'no such entity: world-ipv6',
    'no such entity: nobody',
  ])
})

test('a member of a set of prefixes is a prefix, a group by name, or groups by label', (t) => {
  const set = (member: string) => `ingress: [{fromCIDRSet: [${member}]}]`
  t.deepEqual(peersOf(set('{cidr: 10.1.2.3/8, except: [10.9.0.0/16]}')), [{ kind: 'cidr', cidr: '10.0.0.0/8', except: ['10.9.0.0/16'] }])
  t.deepEqual(peersOf(set('{cidrGroupRef: offices}')), [{ kind: 'cidr-group', group: { name: 'offices' } }])
  t.deepEqual(peersOf(set('{cidrGroupSelector: {matchExpressions: [{key: vpn, operator: Exists}]}}')), [
    { kind: 'cidr-group', group: { selector: { requirements: [label('vpn')] } } },
  ])
  t.deepEqual(said(set('{except: []}')), [
    'one of cidr, cidrGroupRef and cidrGroupSelector is needed',
    'exceptions are possible with cidr only',
  ])
  t.deepEqual(said(set('{cidr: 10.0.0.0/8, cidrGroupRef: a}')), ['cidr, cidrGroupRef and cidrGroupSelector exclude one another'])
  t.deepEqual(said(set('{cidrGroupRef: a, except: [10.0.0.0/8]}')), ['exceptions are possible with cidr only'])
  t.deepEqual(said(set('{cidrGroupRef: A_b}')), ['not a name of a CiliumCIDRGroup: A_b'])
  t.deepEqual(said(set('{cidrGroupRef: ""}')), ['must not be empty'])
  t.deepEqual(said(set('{cidr: 10.0.0.0/16, except: [10.0.0.0/8]}')), ['an exception must lie inside 10.0.0.0/16: 10.0.0.0/8'])
})

test('nodes and groups of instances are peers of both directions', (t) => {
  t.deepEqual(peersOf('ingress: [{fromNodes: [{matchLabels: {zone: a}}]}]'), [
    { kind: 'nodes', selector: { requirements: [label('zone', 'a')] } },
  ])
  t.deepEqual(peersOf('egress: [{toNodes: [{}]}]', CILIUM), [{ kind: 'nodes', selector: { requirements: [] } }])
  const aws = '{labels: {team: a}, securityGroupsIds: [sg-1], securityGroupsNames: [db]}'
  t.deepEqual(peersOf(`egress: [{toGroups: [{aws: ${aws}}]}]`), [
    { kind: 'group', group: { labels: { team: 'a' }, securityGroupIds: ['sg-1'], securityGroupNames: ['db'] } },
  ])
  t.deepEqual(warned('ingress: [{fromGroups: [{aws: {region: eu}}]}]'), [
    'without any condition this selects every instance',
    'region has no effect, as in Cilium: the provider knows it',
  ])
  t.deepEqual(said('ingress: [{fromGroups: [{gcp: {}}]}]'), ['aws is needed', 'unknown field: gcp'])
})

test('services are named with their namespace, or selected', (t) => {
  const services = (member: string) => `egress: [{toServices: [${member}]}]`
  t.deepEqual(peersOf(services('{k8sService: {serviceName: api, namespace: shop}}')), [
    { kind: 'service', namespace: 'shop', service: { name: 'api' } },
  ])
  const both = '{k8sService: {serviceName: api, namespace: shop}, k8sServiceSelector: {selector: {matchLabels: {app: a}}}}'
  t.deepEqual(peersOf(services(both)), [
    { kind: 'service', namespace: 'shop', service: { name: 'api' } },
    { kind: 'service', namespace: '', service: { selector: { requirements: [label('app', 'a')] } } },
  ])
  t.deepEqual(warned(services('{k8sService: {serviceName: api}}')), [
    'without a namespace this is the service of that name in every namespace',
  ])
  t.deepEqual(said(services('{}')), ['k8sService or k8sServiceSelector is needed'])
  t.deepEqual(said(services('{k8sServiceSelector: {namespace: shop}}')), ['selector is needed'])
  t.deepEqual(said('ingress: [{fromServices: []}]'), ['unknown field: fromServices'])
})

test('names of peers are written in full or with stars, and one of the two', (t) => {
  const fqdns = (member: string, section = 'egress') => `${section}: [{toFQDNs: [${member}]}]`
  t.deepEqual(peersOf(fqdns('{matchName: API.Example.com}')), [{ kind: 'fqdn', name: { matchName: 'api.example.com.' } }])
  t.deepEqual(peersOf(fqdns('{matchPattern: "*"}')), [{ kind: 'fqdn', name: { matchPattern: '*.' } }])
  t.deepEqual(said(fqdns('{matchName: a.example, matchPattern: "*.example"}')), [
    'matchName and matchPattern exclude one another in toFQDNs',
  ])
  t.deepEqual(said(fqdns('{}')), ['matchName or matchPattern is needed'])
  t.deepEqual(said(fqdns('{matchName: ""}')), ['matchName or matchPattern is needed'])
  t.deepEqual(said(fqdns('{matchName: "*.example"}')), ['a name has no wildcards: *.example'])
  for (const name of ['a b', 'é.example', 'a..b', '.a', '.', `${'a'.repeat(256)}`])
    t.deepEqual(said(fqdns(`{matchName: "${name}"}`)), [`not a DNS name: ${name}`])
  for (const name of ['[a].b', 'a{2}', '**..b', '+.a'])
    t.deepEqual(said(fqdns(`{matchPattern: "${name}"}`)), [`not a pattern of DNS names: ${name}`])
  t.deepEqual(said('ingress: [{toFQDNs: [{matchName: a.example}]}]'), ['unknown field: toFQDNs'])
})

test('denying names is of the dialect extended', (t) => {
  const deny = 'egressDeny: [{toFQDNs: [{matchName: a.example}]}]'
  t.deepEqual(said(deny, CILIUM), ['only the dialect extended has this: toFQDNs in egressDeny'])
  t.deepEqual(peersOf(deny), [{ kind: 'fqdn', name: { matchName: 'a.example.' } }])
})

test('requirements narrow peers and are none themselves', (t) => {
  const rule = ruleOf('ingress: [{fromRequires: [{matchLabels: {env: prod}}], fromEndpoints: [{}]}]')
  t.deepEqual(rule.requires, [{ requirements: [label('env', 'prod')] }] as never)
  t.is(rule.peers.kind, 'members')
  t.is(ruleOf('egress: [{toRequires: [{matchLabels: {env: prod}}]}]').peers.kind, 'none')
  t.deepEqual(warned('ingress: [{fromRequires: [{}], toPorts: [{ports: [{port: "80"}]}]}]'), [
    'requirements are asked of endpoints that are selected by label only: this allows everybody',
  ])
  t.deepEqual(said('ingress: [{fromRequires: [{}]}]', CILIUM), ['only the dialect extended has this: fromRequires'])
  t.deepEqual(ruleOf('ingress: [{fromRequires: []}]', CILIUM).requires, [])
})

test('one kind of peers stands in a rule', (t) => {
  t.deepEqual(said('egress: [{toFQDNs: [{matchName: a.example}], toServices: [{k8sService: {serviceName: a, namespace: b}}]}]'), [
    'toServices and toFQDNs cannot stand in one rule',
  ])
  t.is(peersOf('egress: [{toNodes: [], toEntities: [all]}]'), 'none')
})

test('labels of nodes, groups and services are not of the policy’s namespace', (t) => {
  for (const rule of ['fromNodes: [{}]', 'fromCIDRSet: [{cidrGroupSelector: {}}]', 'fromRequires: [{}]'])
    t.false(JSON.stringify(ruleOf(`ingress: [{${rule}}]`)).includes('io.kubernetes.pod.namespace'), rule)
})

test('a word for flows is short and can be printed', (t) => {
  t.is(specOf('ingress: [{}]\nlog: {value: "checkout äöü"}').log, 'checkout äöü')
  t.is(specOf('ingress: [{}]').log, '')
  t.is(specOf(`ingress: [{}]\nlog: {value: "${'😀'.repeat(32)}"}`).log.length, 64)
  t.deepEqual(said(`ingress: [{}]\nlog: {value: ${'a'.repeat(33)}}`), [`longer than 32 characters: ${'a'.repeat(33)}`])
  t.deepEqual(said('ingress: [{}]\nlog: {value: "a\\tb"}'), ['holds characters that cannot be printed'])
  t.deepEqual(said('ingress: [{}]\nlog: {word: a}'), ['unknown field: word'])
})

test('authentication is accepted when it is disabled', (t) => {
  t.deepEqual(warned('ingress: [{authentication: {mode: disabled}}]'), [])
  t.deepEqual(said('egress: [{authentication: {mode: required}}]'), [
    'mutual authentication is not supported, and Cilium is about to remove it: required',
  ])
  t.deepEqual(said('egress: [{authentication: {}}]'), ['mode is needed'])
  t.deepEqual(said('egressDeny: [{authentication: {mode: disabled}}]'), ['unknown field: authentication'])
})

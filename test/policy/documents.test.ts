import test from 'ava'
import { isPolicy, type ReferenceDocument } from '#policy/model.ts'
import { messagesOf, parse, policy, problemsOf } from './support.ts'
import { LIMITS } from './world.ts'

const CILIUM = { ...LIMITS, dialect: 'cilium' } as const

/** A document of a kind; `rest` are the lines after metadata. */
function documentText(kind: string, apiVersion: string, metadata: string, rest: string): string {
  return `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: {${metadata}}\n${rest}\n`
}

function cidrGroup(cidrs: string, metadata = 'name: office'): string {
  return documentText('CiliumCIDRGroup', 'cilium.io/v2', metadata, `spec: {externalCIDRs: ${cidrs}}`)
}

function service(spec: string, metadata = 'name: db, namespace: shop'): string {
  return documentText('Service', 'v1', metadata, `spec: ${spec}`)
}

function slice(rest: string, metadata = 'name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}'): string {
  return documentText('EndpointSlice', 'discovery.k8s.io/v1', metadata, rest)
}

function peerGroup(spec: string, metadata = 'name: front'): string {
  return documentText('PeerGroup', 'headgate.io/v1', metadata, `spec: ${spec}`)
}

/** The only document of a text, without its place. */
function read(text: string): Omit<ReferenceDocument, 'at'> {
  const { documents, problems } = parse(text)
  const [document] = documents
  if (document === undefined || isPolicy(document)) throw new Error(problems.map(({ message }) => message).join('; '))
  const { at: _, ...rest } = document
  return rest
}

test('every kind is read in its versions, and no others', (t) => {
  const texts = [
    policy('ingress: [{}]'),
    policy('ingress: [{}]').replace('CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy').replace(', namespace: default', ''),
    documentText('NetworkPolicy', 'networking.k8s.io/v1', 'name: a', 'spec: {podSelector: {}}'),
    cidrGroup('[10.0.0.0/8]'),
    cidrGroup('[10.0.0.0/8]').replace('v2', 'v2alpha1'),
    service('{}'),
    slice('addressType: IPv4'),
    peerGroup('{aws: {labels: {a: b}}, cidrs: [10.0.0.0/8]}'),
  ]
  for (const text of texts) {
    t.deepEqual(problemsOf(text), [])
    const kind = /kind: (.*)/.exec(text)?.[1]
    t.is(parse(text).documents[0]?.kind as string, kind as string)
    const version = /apiVersion: (.*)/.exec(text)?.[1]
    t.deepEqual(messagesOf(text.replace(`apiVersion: ${version}`, 'apiVersion: apps/v1')), [`not a version of ${kind}: apps/v1`])
    t.deepEqual(messagesOf(text.replace(`apiVersion: ${version}\n`, '')), ['apiVersion is needed'])
    // Both dialects read every kind: services and groups are configuration.
    t.deepEqual(parse(text, CILIUM).problems, [])
  }
  t.deepEqual(messagesOf(documentText('Deployment', 'apps/v1', 'name: a', 'spec: {replicas: 1}')), ['not a kind of policy: Deployment'])
  t.deepEqual(messagesOf(documentText('constructor', 'v1', 'name: a', 'spec: {}')), ['not a kind of policy: constructor'])
})

test('lists of every kind are read as their members', (t) => {
  const item = cidrGroup('[10.0.0.0/8]').trimEnd().replaceAll('\n', '\n    ')
  for (const kind of ['List', 'CiliumCIDRGroupList', 'ServiceList', 'NetworkPolicyList', 'EndpointSliceList', 'PeerGroupList']) {
    const text = `apiVersion: v1\nkind: ${kind}\nitems:\n  - ${item}\n`
    t.deepEqual(problemsOf(text), [], kind)
    t.is(parse(text).documents[0]?.kind, 'CiliumCIDRGroup')
  }
})

test('names are unique within a file for each kind, and for policies that flows could not tell apart', (t) => {
  const network = documentText('NetworkPolicy', 'networking.k8s.io/v1', 'name: p, namespace: default', 'spec: {podSelector: {}}')
  t.deepEqual(messagesOf([policy('ingress: [{}]'), network, service('{}', 'name: p, namespace: default')].join('---\n')), [])
  t.deepEqual(
    messagesOf([service('{}'), service('{}', 'name: db, namespace: other'), cidrGroup('[10.0.0.0/8]', 'name: db')].join('---\n')),
    [],
  )
  t.deepEqual(messagesOf([policy('ingress: [{}]'), policy('ingress: [{}]')].join('---\n')), [
    'two policies of one file have the same name: default/p',
  ])
  t.deepEqual(messagesOf([network, network].join('---\n')), ['two policies of one file have the same name: networkpolicy:default/p'])
  t.deepEqual(messagesOf([cidrGroup('[10.0.0.0/8]'), cidrGroup('[10.0.0.0/8]')].join('---\n')), [
    'two documents of kind CiliumCIDRGroup of one file have the same name: office',
  ])
})

test('one wrong document refuses the file, and only policies tell of subjects', (t) => {
  const text = [policy('ingress: [{}]'), cidrGroup('[10.0.0]'), service('{selector: {app: db}}')].join('---\n')
  const { documents, refused } = parse(text)
  t.deepEqual(documents, [])
  t.deepEqual(
    refused.map(({ kind, namespace, name, subjects }) => [kind, namespace, name, subjects.length]),
    [
      ['CiliumNetworkPolicy', 'default', 'p', 1],
      ['CiliumCIDRGroup', '', 'office', 0],
      ['Service', 'shop', 'db', 0],
    ],
  )
})

test('the kind that a misspelt one was meant to be decides whom it would have restricted', (t) => {
  const subjects = (text: string) => parse(text).refused.flatMap((document) => document.subjects.map(({ directions }) => directions.join()))
  const network = documentText('NetworkPolicy', 'networking.k8s.io/v1', 'name: a', 'spec: {podSelector: {}}')
  t.deepEqual(subjects(network.replace('NetworkPolicy', 'Networkpolicy')), ['ingress'])
  t.deepEqual(subjects(network.replace('kind: NetworkPolicy\n', '')), ['ingress'])
  t.deepEqual(subjects(policy('ingress: [{}]').replace('CiliumNetworkPolicy', 'ciliumnetworkpolicies')), ['ingress'])
  t.deepEqual(subjects(policy('ingress: [{}]').replace('kind: CiliumNetworkPolicy\n', '')), ['ingress'])
  const clusterwide = policy('ingress: [{}]').replace('CiliumNetworkPolicy', 'CiliumClusterWideNetworkPolicy')
  t.deepEqual(messagesOf(clusterwide), ['not a kind of policy: CiliumClusterWideNetworkPolicy', 'a clusterwide policy has no namespace'])
  t.deepEqual(subjects(clusterwide), ['ingress'])
  t.deepEqual(subjects(documentText('Deployment', 'apps/v1', 'name: a', 'spec: {selector: {}}')), [])
})

test('an annotation puts a policy into audit', (t) => {
  const annotated = (annotation: string) => policy('ingress: [{}]').replace('{name: p', `{annotations: {${annotation}}, name: p`)
  const auditOf = (text: string) => {
    const [document] = parse(text).documents
    return document !== undefined && isPolicy(document) ? document.audit : undefined
  }
  t.is(auditOf(policy('ingress: [{}]')), false)
  t.is(auditOf(annotated('headgate.io/audit: "true"')), true)
  t.is(auditOf(annotated('headgate.io/audit: "false"')), false)
  t.deepEqual(problemsOf(annotated('headgate.io/audit: "true", example.com/other: 1')), [])
  t.deepEqual(messagesOf(annotated('headgate.io/audit: "yes"')), ['must be "true" or "false": yes'])
  t.deepEqual(messagesOf(annotated('headgate.io/audit: true')), ['must be a string, is a boolean in YAML 1.1: true'])
  t.deepEqual(messagesOf(annotated('headgate.io/audit: ')), ['has no value'])
  t.deepEqual(messagesOf(annotated('headgate.io/adit: "true"'), 'warning'), ['no such annotation: headgate.io/adit'])
  t.deepEqual(messagesOf(cidrGroup('[10.0.0.0/8]', 'name: a, annotations: {headgate.io/audit: "true"}'), 'warning'), [
    'has no effect on a CiliumCIDRGroup: headgate.io/audit',
  ])
})

test('Cilium knows no audit of one policy: in its dialect the policy is enforced, and a warning says so', (t) => {
  const text = policy('ingress: [{}]').replace('{name: p', '{annotations: {headgate.io/audit: "true"}, name: p')
  const { documents, problems } = parse(text, CILIUM)
  t.like(documents[0], { audit: false })
  t.deepEqual(
    problems.map(({ severity, message }) => [severity, message]),
    [['warning', 'has no effect in the dialect cilium: headgate.io/audit']],
  )
})

test('a CIDR group has canonical prefixes, and labels to be selected by', (t) => {
  t.deepEqual(read(cidrGroup('[10.1.2.3/8, "fd00:0::1/64", 10.0.0.0/8, 192.0.2.1]', 'name: office, labels: {site: home, empty: ""}')), {
    kind: 'CiliumCIDRGroup',
    namespace: '',
    name: 'office',
    labels: ['k8s:empty', 'k8s:site=home'],
    cidrs: ['10.0.0.0/8', '192.0.2.1/32', 'fd00::/64'],
  } as never)
})

test('what is wrong with a CIDR group is refused', (t) => {
  t.deepEqual(messagesOf(cidrGroup('[10.0.0]')), ['not a CIDR prefix: 10.0.0'])
  t.deepEqual(messagesOf(cidrGroup('[10]')), ['must be a string, is a number in YAML 1.1: 10'])
  t.deepEqual(messagesOf(cidrGroup('')), ['has no value'])
  t.deepEqual(messagesOf(cidrGroup('[]'), 'warning'), ['an empty list is a group of nobody'])
  t.deepEqual(messagesOf(cidrGroup('[]').replace('externalCIDRs', 'cidrs')), ['externalCIDRs is needed', 'unknown field: cidrs'])
  t.deepEqual(messagesOf(cidrGroup('[]').replace(/spec:.*\n/, '')), ['spec is needed'])
  t.deepEqual(messagesOf(cidrGroup('[]', 'name: a, namespace: b')), ['a CiliumCIDRGroup has no namespace'])
  t.deepEqual(messagesOf(cidrGroup('[]', 'name: a, labels: {b: 1}')), ['must be a string, is a number in YAML 1.1: 1'])
  t.deepEqual(messagesOf(`${cidrGroup('[]')}foo: 1\n`), ['unknown field: foo'])
  // As Cilium, in its dialect.
  t.deepEqual(parse(cidrGroup('[10.0.0.1]'), CILIUM).problems[0]?.hint, 'write 10.0.0.1/32')
})

test('a service is what kubectl prints of it: its selector counts, scoped to its namespace', (t) => {
  const text = service(
    '{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80, targetPort: http}], selector: {app: db}, type: ClusterIP, newField: 1}',
    'name: db, namespace: shop, labels: {tier: back}, annotations: {a: b}, uid: x',
  )
  t.deepEqual(problemsOf(`${text}status: {loadBalancer: {}}\n`), [])
  t.deepEqual(read(text), {
    kind: 'Service',
    namespace: 'shop',
    name: 'db',
    labels: ['k8s:tier=back'],
    selector: {
      requirements: [
        { source: 'k8s', key: 'app', operator: 'In', values: ['db'] },
        { source: 'k8s', key: 'io.kubernetes.pod.namespace', operator: 'In', values: ['shop'] },
      ],
    },
  } as never)
  for (const spec of ['{}', '{selector: {}}', '{clusterIP: None}']) t.false('selector' in read(service(spec)), spec)
})

test('what is wrong with a service is refused, and one of a name outside is of no use', (t) => {
  t.deepEqual(messagesOf(service('{selector: {app: 1}}')), ['must be a string, is a number in YAML 1.1: 1'])
  t.deepEqual(messagesOf(service('{selector: }')), ['has no value'])
  t.deepEqual(messagesOf(service('{selector: []}')), ['must be a map, is a list'])
  t.deepEqual(messagesOf(service('{}').replace(/spec:.*\n/, '')), ['spec is needed'])
  const external = service('{type: ExternalName, externalName: a.example, selector: {app: db}}')
  t.deepEqual(messagesOf(external, 'warning'), ['a service of type ExternalName has no backends: who refers to it means nobody'])
  t.false('selector' in read(external))
})

test('an endpoint slice has the addresses of the endpoints that are ready', (t) => {
  const text = slice(`addressType: IPv4
ports: ~
endpoints:
  - {addresses: [192.0.2.2], conditions: {ready: true, serving: true}, nodeName: a, targetRef: {kind: Pod}}
  - {addresses: [192.0.2.1]}
  - {addresses: [192.0.2.1], conditions: {}}
  - {addresses: [192.0.2.3], conditions: {ready: false, terminating: true}}`)
  t.deepEqual(problemsOf(text), [])
  t.deepEqual(read(text), {
    kind: 'EndpointSlice',
    namespace: 'shop',
    name: 'db-1',
    service: 'db',
    addresses: ['192.0.2.1', '192.0.2.2'],
  } as never)
  t.deepEqual((read(slice('addressType: IPv6\nendpoints: [{addresses: ["fd00:0:0::1"]}]')) as { addresses?: unknown }).addresses, [
    'fd00::1',
  ])
  t.deepEqual((read(slice('addressType: IPv4\nendpoints: ~')) as { addresses?: unknown }).addresses, [])
})

test('what is wrong with an endpoint slice is refused or told', (t) => {
  const endpoints = (addresses: string, type = 'IPv4') => slice(`addressType: ${type}\nendpoints: [{addresses: ${addresses}}]`)
  t.deepEqual(messagesOf(endpoints('[fd00::1]')), ['not an IPv4 address: fd00::1'])
  t.deepEqual(messagesOf(endpoints('[10.0.0.1/32]')), ['not an IPv4 address: 10.0.0.1/32'])
  t.deepEqual(messagesOf(endpoints('[10.0.0.1]', 'IPv6')), ['not an IPv6 address: 10.0.0.1'])
  t.deepEqual(messagesOf(endpoints('[10.0.0.1]', 'IPv5')), ['no such address type: IPv5'])
  t.deepEqual(messagesOf(slice('endpoints: []')), ['addressType is needed'])
  t.deepEqual(messagesOf(slice('addressType: IPv4\nendpoints: [{}]')), ['addresses is needed'])
  t.deepEqual(messagesOf(slice('addressType: IPv4\nendpoint: []')), ['unknown field: endpoint'])
  t.deepEqual(messagesOf(slice(`addressType: IPv4\nendpoints: [${'{addresses: []}, '.repeat(1001)}]`)), ['more endpoints than 1000: 1001'])
  t.deepEqual(messagesOf(endpoints('[a.example]', 'FQDN'), 'warning'), ['names are not looked up: this slice adds no address'])
  t.deepEqual(messagesOf(endpoints('[a.example]', 'FQDN')), [])
  t.deepEqual(messagesOf(slice('addressType: IPv4', 'name: a'), 'warning'), [
    'without the label kubernetes.io/service-name it is of no service',
  ])
})

test('a peer group says which instances have which addresses', (t) => {
  t.deepEqual(
    read(
      peerGroup('{aws: {labels: {env: prod}, securityGroupsIds: [sg-1], securityGroupsNames: [front]}, cidrs: [10.0.0.1, 10.1.0.0/16]}'),
    ),
    {
      kind: 'PeerGroup',
      namespace: '',
      name: 'front',
      aws: { labels: { env: 'prod' }, securityGroupIds: ['sg-1'], securityGroupNames: ['front'] },
      cidrs: ['10.0.0.1/32', '10.1.0.0/16'],
    } as never,
  )
})

test('what is wrong with a peer group is refused', (t) => {
  t.deepEqual(messagesOf(peerGroup('{}')), ['aws is needed', 'cidrs is needed'])
  t.deepEqual(messagesOf(peerGroup('{aws: {}, cidrs: []}')), ['labels, securityGroupsIds or securityGroupsNames is needed'])
  t.deepEqual(messagesOf(peerGroup('{aws: {labels: {a: 1}}, cidrs: [x]}')), [
    'must be a string, is a number in YAML 1.1: 1',
    'not a CIDR prefix: x',
  ])
  t.deepEqual(messagesOf(peerGroup('{aws: {labels: {a: b}, securityGroupIds: [a]}, cidrs: [10.0.0.0/8], gcp: {}}')), [
    'unknown field: securityGroupIds',
    'unknown field: gcp',
  ])
  t.deepEqual(messagesOf(peerGroup('{aws: {labels: {a: b}}, cidrs: []}', 'name: a, namespace: b')), ['a PeerGroup has no namespace'])
})

import test from 'ava'
import type { AwsGroup, CidrGroupPeer, GroupPeer, LabelRequirement, ServicePeer } from '#policy/model.ts'
import { isReferencePeer, References } from '#policy/references.ts'
import { parse } from './support.ts'

const AT = { file: 'p.yaml', line: 1, column: 1, path: '' }

function where(key: string, value: string, source = 'any'): { requirements: LabelRequirement[] } {
  return { requirements: [{ source, key, operator: 'In', values: [value] }] }
}

function cidrGroup(group: CidrGroupPeer['group']): CidrGroupPeer {
  return { kind: 'cidr-group', at: AT, group }
}

function service(peer: ServicePeer['service'], namespace = 'shop'): ServicePeer {
  return { kind: 'service', at: AT, namespace, service: peer }
}

function group({ labels = {}, securityGroupIds = [], securityGroupNames = [] }: Partial<AwsGroup>): GroupPeer {
  return { kind: 'group', at: AT, group: { labels, securityGroupIds, securityGroupNames } }
}

function cidrGroupText(name: string, cidrs: string, labels = '{}'): string {
  return `---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: ${name}, labels: ${labels}}\nspec: {externalCIDRs: ${cidrs}}\n`
}

function serviceText(name: string, spec: string, labels = '{}', namespace = 'shop'): string {
  return `---\napiVersion: v1\nkind: Service\nmetadata: {name: ${name}, namespace: ${namespace}, labels: ${labels}}\nspec: ${spec}\n`
}

function sliceText(name: string, of: string, addresses: string, namespace = 'shop'): string {
  return `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ${name}, namespace: ${namespace}, labels: {kubernetes.io/service-name: ${of}}}
addressType: IPv4
endpoints: [{addresses: ${addresses}}]
`
}

function groupText(name: string, aws: string, cidrs: string): string {
  return `---\napiVersion: headgate.io/v1\nkind: PeerGroup\nmetadata: {name: ${name}}\nspec: {aws: ${aws}, cidrs: ${cidrs}}\n`
}

/** What each file says. */
function create(files: Readonly<Record<string, string>>): References {
  const references = new References()
  for (const [file, text] of Object.entries(files)) replace(references, file, text)
  return references
}

/** @returns the keys that changed, sorted */
function replace(references: References, file: string, text: string): string[] {
  const { documents, problems } = parse(text)
  if (problems.some(({ severity }) => severity === 'error')) throw new Error(problems.map(({ message }) => message).join('; '))
  return [...references.replace(file, documents)].sort()
}

test('a CIDR group stands for its prefixes, by name and by label', (t) => {
  const references = create({
    'a.yaml':
      cidrGroupText('office', '[10.2.0.0/16, 10.1.0.0/16, 10.2.0.0/16]', '{site: home}') +
      cidrGroupText('vpn', '[10.3.0.0/16]', '{site: home}'),
    'b.yaml': cidrGroupText('cloud', '["fd00::/8"]', '{site: away}'),
  })
  t.deepEqual(references.resolve(cidrGroup({ name: 'office' })), { selectors: [], cidrs: ['10.1.0.0/16', '10.2.0.0/16'] })
  t.deepEqual(references.resolve(cidrGroup({ selector: where('site', 'home') })).cidrs, ['10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16'])
  t.deepEqual(references.resolve(cidrGroup({ selector: { requirements: [] } })).cidrs.length, 4)
  for (const source of ['k8s', 'cidrgroup'])
    t.is(references.resolve(cidrGroup({ selector: where('site', 'away', source) })).cidrs.length, 1)
  t.is(references.resolve(cidrGroup({ selector: where('site', 'away', 'reserved') })).cidrs.length, 0)
})

test('a name that nothing defines stands for nobody, and is missing', (t) => {
  const references = create({ 'a.yaml': cidrGroupText('office', '[]') + serviceText('db', '{selector: {app: db}}') })
  const nobody = { selectors: [], cidrs: [] }
  for (const peer of [
    cidrGroup({ name: 'none' }),
    cidrGroup({ selector: where('a', 'b') }),
    service({ name: 'none' }),
    service({ name: 'db' }, 'other'),
    service({ selector: where('a', 'b') }),
    group({ labels: { a: 'b' } }),
  ]) {
    t.deepEqual(references.resolve(peer), nobody)
    t.true(references.isMissing(peer))
  }
  t.deepEqual(references.resolve(cidrGroup({ name: 'office' })), nobody)
  t.false(references.isMissing(cidrGroup({ name: 'office' })))
  t.false(references.isMissing({ kind: 'entity', at: AT, entity: 'world' }))
})

test('a service with a selector stands for endpoints of its namespace, one without for the addresses of its slices', (t) => {
  const references = create({
    'services.yaml':
      serviceText('db', '{selector: {app: db}}', '{tier: back}') + serviceText('ext', '{ports: [{port: 80}]}', '{tier: back}'),
    'slices.yaml':
      sliceText('ext-1', 'ext', '[192.0.2.2, 192.0.2.1]') +
      sliceText('ext-2', 'ext', '[192.0.2.1]') +
      sliceText('db-1', 'db', '[10.0.0.1]'),
  })
  const selector = {
    requirements: [
      { source: 'k8s', key: 'app', operator: 'In', values: ['db'] },
      { source: 'k8s', key: 'io.kubernetes.pod.namespace', operator: 'In', values: ['shop'] },
    ],
  }
  t.deepEqual(references.resolve(service({ name: 'db' })), { selectors: [selector], cidrs: [] } as never)
  t.deepEqual(references.resolve(service({ name: 'ext' })), { selectors: [], cidrs: ['192.0.2.1/32', '192.0.2.2/32'] })
  t.deepEqual(references.resolve(service({ selector: where('tier', 'back') })), {
    selectors: [selector],
    cidrs: ['192.0.2.1/32', '192.0.2.2/32'],
  } as never)
  t.true(references.isMissing(service({ selector: where('tier', 'back') }, 'other')))
})

test('services are selected in every namespace without one, and named in none', (t) => {
  const references = create({
    'a.yaml':
      serviceText('db', '{selector: {app: db}}', '{tier: back}', 'a') + serviceText('db', '{selector: {app: db}}', '{tier: back}', 'b'),
  })
  t.true(references.isMissing(service({ name: 'db' }, '')))
  t.is(references.resolve(service({ name: 'db' }, '')).selectors.length, 0)
  t.is(references.resolve(service({ selector: where('tier', 'back') }, '')).selectors.length, 2)
  t.is(references.resolve(service({ name: 'db' }, 'a')).selectors.length, 1)
})

test('a slice without its service is nobody’s', (t) => {
  const references = create({ 'a.yaml': sliceText('ext-1', 'ext', '[192.0.2.1]') })
  t.true(references.isMissing(service({ name: 'ext' })))
  t.deepEqual(references.resolve(service({ name: 'ext' })).cidrs, [])
})

test('a group is asked for by ids, names and labels; what is left out is not asked about', (t) => {
  const references = create({
    'a.yaml':
      groupText(
        'front',
        '{labels: {env: prod, app: web}, securityGroupsIds: [sg-1, sg-2], securityGroupsNames: [front]}',
        '[198.51.100.1]',
      ) + groupText('back', '{labels: {env: prod}, securityGroupsIds: [sg-3]}', '[198.51.100.2/31]'),
  })
  const cidrs = (asked: Partial<AwsGroup>) => references.resolve(group(asked)).cidrs
  t.deepEqual(cidrs({ labels: { env: 'prod' } }), ['198.51.100.1/32', '198.51.100.2/31'])
  t.deepEqual(cidrs({ labels: { env: 'prod', app: 'web' } }), ['198.51.100.1/32'])
  t.deepEqual(cidrs({ securityGroupIds: ['sg-2', 'sg-9'] }), ['198.51.100.1/32'])
  t.deepEqual(cidrs({ securityGroupIds: ['sg-2'], labels: { env: 'test' } }), [])
  t.deepEqual(cidrs({ securityGroupNames: ['back'] }), [])
  t.deepEqual(cidrs({ labels: { constructor: 'x' } }), [])
})

test('other providers are asked about groups too', (t) => {
  const asked: AwsGroup[] = []
  const references = new References([
    {
      cidrsOf: (one) => {
        asked.push(one)
        return ['203.0.113.1/32']
      },
    },
  ])
  replace(references, 'a.yaml', groupText('a', '{labels: {env: prod}}', '[198.51.100.1]'))
  t.deepEqual(references.resolve(group({ labels: { env: 'prod' } })).cidrs, ['198.51.100.1/32', '203.0.113.1/32'])
  t.deepEqual(asked, [{ labels: { env: 'prod' }, securityGroupIds: [], securityGroupNames: [] }])
})

test('an update tells the keys whose meaning may have changed, and no others', (t) => {
  const references = new References()
  const office = cidrGroupText('office', '[10.1.0.0/16]')
  const db = serviceText('db', '{selector: {app: db}}')
  t.deepEqual(replace(references, 'a.yaml', office + db), ['cidr-group/*', 'cidr-group/office', 'service/*', 'service/shop/db'])
  t.deepEqual(replace(references, 'a.yaml', office + db), [])
  t.deepEqual(replace(references, 'a.yaml', `\n# moved\n${db}${office}`), [])
  t.deepEqual(replace(references, 'a.yaml', office + db.replace('app: db', 'app: api')), ['service/*', 'service/shop/db'])
  t.deepEqual(replace(references, 'b.yaml', sliceText('x', 'db', '[10.0.0.1]')), ['service/*', 'service/shop/db'])
  t.deepEqual(replace(references, 'b.yaml', groupText('x', '{labels: {a: b}}', '[]')), ['group/*', 'service/*', 'service/shop/db'])
  t.deepEqual([...references.replace('b.yaml', [])], ['group/*'])
  t.deepEqual([...references.replace('a.yaml', [])].sort(), ['cidr-group/*', 'cidr-group/office', 'service/*', 'service/shop/db'])
  t.deepEqual([...references.replace('a.yaml', [])], [])
  t.true(references.isMissing(cidrGroup({ name: 'office' })))
})

test('what a peer depends on is among the keys of every update that changes it', (t) => {
  const references = new References()
  t.deepEqual(references.keysOf(cidrGroup({ name: 'office' })), ['cidr-group/office'])
  t.deepEqual(references.keysOf(cidrGroup({ selector: where('a', 'b') })), ['cidr-group/*'])
  t.deepEqual(references.keysOf(service({ name: 'db' })), ['service/shop/db'])
  t.deepEqual(references.keysOf(service({ selector: where('a', 'b') })), ['service/*'])
  t.deepEqual(references.keysOf(group({})), ['group/*'])
  t.deepEqual(references.keysOf({ kind: 'entity', at: AT, entity: 'world' }), [])
  t.deepEqual([cidrGroup({ name: 'a' }), { kind: 'entity', at: AT, entity: 'world' } as const].map(isReferencePeer), [true, false])
})

test('documents with one name in several files add up, and each goes with its file', (t) => {
  const references = create({ 'a.yaml': cidrGroupText('office', '[10.1.0.0/16]'), 'b.yaml': cidrGroupText('office', '[10.2.0.0/16]') })
  const office = cidrGroup({ name: 'office' })
  t.deepEqual(references.resolve(office).cidrs, ['10.1.0.0/16', '10.2.0.0/16'])
  references.replace('a.yaml', [])
  t.deepEqual(references.resolve(office).cidrs, ['10.2.0.0/16'])
  // The same content in two files is two documents.
  replace(references, 'a.yaml', cidrGroupText('office', '[10.2.0.0/16]'))
  references.replace('b.yaml', [])
  t.deepEqual(references.resolve(office).cidrs, ['10.2.0.0/16'])
})

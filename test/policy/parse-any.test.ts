/** Documents that nobody would write: every field of the language in any place, with values of any type. */
import test from 'ava'
import fc from 'fast-check'
import type { Dialect } from '#policy/model.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from './world.ts'

const FIELDS = [
  'endpointSelector nodeSelector matchLabels matchExpressions key operator values ingress ingressDeny egress egressDeny enableDefaultDeny',
  'labels description log value fromEndpoints toEndpoints fromEntities fromCIDR fromCIDRSet cidr cidrGroupRef cidrGroupSelector except',
  'fromNodes toNodes fromRequires toRequires toServices k8sService k8sServiceSelector serviceName namespace selector fromGroups toGroups aws',
  'region securityGroupsIds toFQDNs matchName matchPattern toPorts ports port endPort protocol rules http dns kafka cassandra l7proto l7 path',
  'method host headers headerMatches name secret mismatch role apiKey apiVersion clientID topic topicPattern query_action query_table icmps',
  'fields family type terminatingTLS originatingTLS serverNames listener envoyConfig kind priority authentication mode __proto__ constructor',
].flatMap((line) => line.split(' '))

const WORDS = [
  '',
  '*',
  '80',
  '0',
  '0x10',
  'TCP',
  'dns',
  'produce',
  'select',
  '(',
  '10.0.0.0/8',
  'all',
  'In',
  'a.example',
  'disabled',
  'ADD',
  '__proto__',
]

const scalar = fc.oneof(
  fc.constantFrom<unknown>(...WORDS),
  fc.constantFrom<unknown>(null, true, 0, -1, 8, 1.5, 70_000),
  fc.string({ maxLength: 4 }),
)

const { node: anything } = fc.letrec<{ node: unknown }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 7 },
    scalar,
    fc.array(tie('node'), { maxLength: 2 }),
    fc.dictionary(fc.constantFrom(...FIELDS), tie('node'), { maxKeys: 4, noNullPrototype: true }),
  ),
}))

/** What stands at the right place more often than not. */
const port = fc.record(
  {
    port: fc.constantFrom('80', '0', 'web', '53'),
    protocol: fc.constantFrom('TCP', 'UDP', 'ANY', 'GRE'),
    endPort: fc.constantFrom(0, 90),
  },
  { requiredKeys: ['port'] },
)
const l7 = fc.constantFrom<unknown>(
  { http: [] },
  { http: [{ path: '/a' }] },
  { dns: [{ matchPattern: '*' }] },
  { kafka: [{ role: 'produce' }] },
  { l7proto: 'x' },
  { cassandra: [] },
)
const rule = fc.record(
  {
    toEndpoints: fc.constantFrom<unknown>([], [{}]),
    toFQDNs: fc.constant([{ matchName: 'a.example' }]),
    toRequires: fc.constantFrom<unknown>([], [{}]),
    icmps: fc.constant([{ fields: [{ type: 8 }] }]),
    toPorts: fc.array(
      fc.record(
        { ports: fc.array(port, { maxLength: 2 }), rules: l7, serverNames: fc.constant(['*']), listener: anything },
        { requiredKeys: ['ports'] },
      ),
      { maxLength: 2 },
    ),
  },
  { requiredKeys: [] },
)
const spec = fc.record(
  {
    endpointSelector: fc.constant({}),
    egress: fc.array(fc.oneof({ weight: 9, arbitrary: rule }, anything), { maxLength: 2 }),
    egressDeny: fc.array(rule, { maxLength: 1 }),
    ingress: anything,
  },
  { requiredKeys: ['endpointSelector'] },
)

function parse(body: unknown, dialect: Dialect) {
  const text = JSON.stringify({ apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata: { name: 'p' }, spec: body })
  return parsePolicyFile(text, 'p.json', { ...LIMITS, dialect })
}

test('whatever stands where, the answer is documents or problems with their place', (t) => {
  fc.assert(
    fc.property(fc.oneof(anything, spec), fc.constantFrom('cilium', 'extended'), (body, dialect) => {
      const { documents, problems } = parse(body, dialect)
      const errors = problems.filter(({ severity }) => severity === 'error')
      return errors.length > 0 === (documents.length === 0) && errors.every(({ line, message }) => line > 0 && message !== '')
    }),
    { numRuns: 3000 },
  )
  t.pass()
})

test('what the dialect cilium accepts, the dialect extended accepts, and it means the same', (t) => {
  let acceptedCount = 0
  fc.assert(
    fc.property(spec, (body) => {
      const strict = parse(body, 'cilium')
      if (strict.documents.length === 0) return true
      acceptedCount += 1
      return JSON.stringify(strict) === JSON.stringify(parse(body, 'extended'))
    }),
    { numRuns: 3000 },
  )
  t.true(acceptedCount > 20, `${acceptedCount}`)
})

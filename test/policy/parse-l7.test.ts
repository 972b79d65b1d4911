import test from 'ava'
import type { L7Rules } from '#policy/model.ts'
import { portRuleOf, said, type Variant, warned } from './spec.ts'

const CILIUM: Variant = { dialect: 'cilium' }

const TCP = '{port: "80", protocol: TCP}'
const rule = (rules: string, { section = 'egress', ports = TCP } = {}) =>
  `${section}: [{toPorts: [{ports: [${ports}], rules: {${rules}}}]}]`
const dns = (rules: string, ports = '{port: "53"}') => rule(`dns: ${rules}`, { ports })

function l7Of(spec: string, variant?: Variant): L7Rules | undefined {
  return portRuleOf(spec, variant).l7
}

test('one kind of L7 rules stands in a member of toPorts', (t) => {
  t.deepEqual(said(rule('http: [{}], dns: [{matchName: a.example}]')), ['http and dns cannot stand in one member of toPorts'])
  t.deepEqual(said(rule('http: [], kafka: []')), ['http and kafka cannot stand in one member of toPorts'])
  t.deepEqual(said(rule('grpc: [{}], dns: [{matchName: a.example}]')), ['grpc and dns cannot stand in one member of toPorts'])
  t.deepEqual(said(rule('htp: []')), ['unknown field: htp'])
})

test('an empty list is no L7 rules, and an empty rule allows everything', (t) => {
  for (const kind of ['http', 'grpc', 'dns', 'kafka', 'cassandra'])
    t.is(l7Of(rule(`${kind}: []`, { ports: '{port: "0"}' })), undefined, kind)
  t.is(l7Of(rule('')), undefined)
  t.deepEqual(l7Of(rule('http: [{}]')), { kind: 'http', rules: [{ headers: [] }] })
  t.deepEqual(l7Of(rule('kafka: [{}]')), { kind: 'kafka', rules: [{}] })
  t.deepEqual(l7Of(rule('cassandra: [{}]')), { kind: 'cassandra', rules: [{}] })
})

test('what Cilium has not is refused in its dialect, by name', (t) => {
  for (const [text, what] of [
    ['kafka: []', 'kafka'],
    ['grpc: [{service: shop.Cart}]', 'grpc'],
    ['cassandra: [{}]', 'cassandra'],
    ['l7proto: memcached, l7: [{}]', 'l7proto'],
  ] as const)
    t.deepEqual(said(rule(text), CILIUM), [`only the dialect extended has this: ${what}`])
  t.deepEqual(said(rule('http: [{}]', { section: 'egressDeny' }), CILIUM), ['only the dialect extended has this: rules in a deny rule'])
  t.deepEqual(said(rule('http: [{}]'), CILIUM), [])
})

test('without the proxy every L7 rule is refused', (t) => {
  const off: Variant = { l7Proxy: false }
  for (const kind of ['http: [{}]', 'kafka: [{}]', 'l7proto: memcached'])
    t.deepEqual(said(rule(kind), off), ['L7 rules are switched off by the setting policy.l7Proxy'], kind)
  t.deepEqual(said(dns('[{matchPattern: "*"}]'), off), ['L7 rules are switched off by the setting policy.l7Proxy'])
  t.deepEqual(said(rule('http: []'), off), [])
})

test('nodes have DNS rules in egress only', (t) => {
  const nodes = (spec: string) => said(`nodeSelector: {}\n${spec}`, { clusterwide: true })
  t.deepEqual(nodes(dns('[{matchPattern: "*"}]')), [])
  t.deepEqual(nodes(rule('http: [{}]')), ['a policy of nodes can have dns rules in egress only: http'])
  t.deepEqual(nodes(rule('http: [{}]', { section: 'ingress' })), ['a policy of nodes can have dns rules in egress only: http'])
})

test('deny rules deny what their L7 rules match', (t) => {
  t.deepEqual(l7Of(rule('http: [{method: DELETE}]', { section: 'ingressDeny' })), {
    kind: 'http',
    rules: [{ method: 'DELETE', headers: [] }],
  })
  t.deepEqual(warned(rule('http: []', { section: 'ingressDeny' })), [
    'an empty list is no L7 rules at all: everything on these ports is denied',
  ])
  t.deepEqual(said(rule('http: [{headerMatches: [{name: a, value: b, mismatch: LOG}]}]', { section: 'ingressDeny' })), [
    'a deny rule changes no request: LOG',
  ])
})

test('headerMatches without action and secret are headers, the others are kept', (t) => {
  const matches =
    '[{name: X-A}, {name: X-B, value: b, mismatch: ""}, {name: X-C, value: c, mismatch: REPLACE}, {name: X-D, secret: {name: s}}]'
  t.deepEqual(l7Of(rule(`http: [{headers: ["X-Z: z"], headerMatches: ${matches}}]`), CILIUM), {
    kind: 'http',
    rules: [
      {
        headers: [{ name: 'x-z', value: 'z' }, { name: 'x-a' }, { name: 'x-b', value: 'b' }],
        headerMatches: [
          { name: 'x-c', value: 'c', mismatch: 'REPLACE' },
          { name: 'x-d', secret: { namespace: 'shop', name: 's' } },
        ],
      },
    ],
  })
  t.deepEqual(warned(rule('http: [{headerMatches: [{name: "a b"}, {name: ":path"}, {value: c}, {name: a, mismatch: drop}]}]')), [
    'error: not a header name: a b',
    'error: not a header name: :path',
    'error: name is needed',
    'error: no such action: drop',
  ])
  t.deepEqual(warned(rule('http: [{headerMatches: [{name: a, mismatch: ADD}, {name: a, value: " b"}]}]')), [
    'without a value there is nothing to write into the header: ADD',
    'no header value begins or ends with a space, so this matches none: " b"',
  ])
})

test('DNS rules have a name, a pattern, or either of both', (t) => {
  t.deepEqual(l7Of(dns('[{matchName: A.example}, {matchPattern: "**.B.example."}, {matchPattern: "*"}]'), CILIUM), {
    kind: 'dns',
    rules: [{ matchName: 'a.example.' }, { matchPattern: '**.b.example.' }, { matchPattern: '*.' }],
  })
  t.deepEqual(l7Of(dns('[{matchName: a.example, matchPattern: "*.a.example"}]')), {
    kind: 'dns',
    rules: [{ matchName: 'a.example.', matchPattern: '*.a.example.' }],
  })
  t.deepEqual(warned(dns('[{matchName: a.example, matchPattern: "*.a.example"}]')), [
    'a query needs to match only one of matchName and matchPattern',
  ])
  t.deepEqual(said(dns('[{}, {matchPatern: a}]')), [
    'matchName or matchPattern is needed',
    'matchName or matchPattern is needed',
    'unknown field: matchPatern',
  ])
})

test('Kafka rules name a role or a kind of request, and what it is about', (t) => {
  const text =
    '{role: Produce, topic: orders, clientID: shop}, {apiKey: Offsets, apiVersion: "5"}, {role: admin, topicPrefix: dev., group: g, transactionalID: x}, {topicPattern: "a|b"}'
  t.deepEqual(l7Of(rule(`kafka: [${text}]`)), {
    kind: 'kafka',
    rules: [
      { role: 'produce', topic: 'orders', clientId: 'shop' },
      { apiKey: 'listoffsets', apiVersion: 5 },
      { role: 'admin', topicPrefix: 'dev.', group: 'g', transactionalId: 'x' },
      { topicPattern: 'a|b' },
    ],
  })
  const errors = (member: string) => said(rule(`kafka: [{${member}}]`))
  t.deepEqual(errors('role: produce, apiKey: fetch'), ['role and apiKey exclude one another'])
  t.deepEqual(errors('role: read'), ['no such role: read'])
  t.deepEqual(errors('apiKey: constructor'), ['no such kind of request: constructor'])
  t.deepEqual(errors('apiVersion: "v1"'), ['not a version of a request: v1'])
  t.deepEqual(errors('apiVersion: "99999"'), ['not a version of a request: 99999'])
  t.deepEqual(errors('topic: "a*"'), ['not a name of a topic: a*'])
  t.deepEqual(errors(`topic: ${'a'.repeat(256)}`), ['longer than 255 characters: 256'])
  t.deepEqual(errors('topic: a, topicPrefix: b'), ['topic and topicPrefix exclude one another'])
  t.deepEqual(errors('topicPattern: "("'), ['not a regular expression of RE2: ('])
  t.deepEqual(warned(rule('kafka: [{apiKey: heartbeat, topic: a}]')), [
    'requests of this kind name no topic, so it is not asked about: heartbeat',
  ])
})

test('Cassandra rules name a kind of statement and a table, under either name', (t) => {
  const expected: L7Rules = { kind: 'cassandra', rules: [{ action: 'select', table: 'shop\\..*' }, { action: 'create-table' }] }
  t.deepEqual(l7Of(rule("cassandra: [{query_action: SELECT, query_table: 'shop\\..*'}, {action: create-columnfamily}]")), expected)
  t.deepEqual(
    l7Of(rule("l7proto: cassandra, l7: [{query_action: select, query_table: 'shop\\..*'}, {query_action: create-table}]")),
    expected,
  )
  t.deepEqual(l7Of(rule('l7proto: cassandra')), { kind: 'cassandra', rules: [{}] })
  const errors = (member: string) => said(rule(`cassandra: [{${member}}]`))
  t.deepEqual(errors('query_action: fetch'), ['no such kind of statement: fetch'])
  t.deepEqual(errors('query_action: create-role, query_table: a.b'), ['statements of this kind name no table: create-role'])
  t.deepEqual(errors('query_table: "("'), ['not a regular expression of RE2: ('])
  t.deepEqual(errors('query_table: a.b, table: a.b'), ['the same as query_table, which is there as well: table'])
  t.deepEqual(errors('query_tables: a.b'), ['unknown field: query_tables'])
  t.deepEqual(warned(rule('cassandra: [{table: users}]')), ['a table is keyspace.table, so this matches none: users'])
})

test('rules of other parsers are pairs of words', (t) => {
  t.deepEqual(l7Of(rule('l7proto: r2d2, l7: [{cmd: READ, file: a}, {}]')), {
    kind: 'parser',
    parser: 'r2d2',
    rules: [{ cmd: 'READ', file: 'a' }, {}],
  })
  t.deepEqual(l7Of(rule('l7proto: memcached')), { kind: 'parser', parser: 'memcached', rules: [{}] })
  t.deepEqual(said(rule('l7: [{a: b}]')), ['l7 needs l7proto, which says whose rules these are'])
  for (const name of ['http', 'dns', 'kafka'])
    t.deepEqual(said(rule(`l7proto: ${name}`)), [`l7proto is for parsers without a field of their own: ${name}`])
  t.deepEqual(said(rule('l7proto: R2D2')), ['not a name of a parser: R2D2'])
  t.deepEqual(said(rule('l7proto: a, l7: [{k: 1}]')), ['must be a string, is a number in YAML 1.1: 1'])
  t.deepEqual(said(rule(`l7proto: a, l7: [{k: ${'v'.repeat(5000)}}]`)), ['longer than 4096 characters: 5000'])
})

import test from 'ava'
import fc from 'fast-check'
import { LabelSet } from '#policy/labels.ts'
import type { Finding } from '#policy/lint/findings.ts'
import { lintPolicies } from '#policy/lint/lint.ts'
import { implies, mayBothSelect } from '#policy/lint/selectors.ts'
import type { Dialect, LabelSelector } from '#policy/model.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { selects } from '#policy/selector.ts'
import { judge, type NaiveVerdict, type RawDocument, type RawIdentity, type RawRule, type RawSpec } from './naive.ts'
import { document, ENDPOINTS, LIMITS, probe, RESERVED } from './world.ts'

type Texts = Readonly<Record<string, string>>

function lint(
  texts: Texts,
  more: { dialect?: Dialect; labels?: readonly (readonly string[])[]; namespaces?: readonly string[] } = {},
): readonly Finding[] {
  const { dialect = 'extended', labels, namespaces = ['default'] } = more
  const files = Object.entries(texts).map(([file, text]) => {
    const { documents, problems } = parsePolicyFile(text, file, { ...LIMITS, dialect })
    const errors = problems.filter(({ severity }) => severity === 'error')
    if (errors.length > 0) throw new Error(JSON.stringify(errors))
    return { file, documents }
  })
  return lintPolicies({ files, dialect, ...(labels && { known: { labels, namespaces } }) })
}

/** `lint severity file:line message` of each. */
function told(texts: Texts, more: Parameters<typeof lint>[1] = {}): string[] {
  return lint(texts, more).map(({ lint: id, severity, file, line, message }) => `${id} ${severity} ${file}:${line} ${message}`)
}

function policy(spec: string, name = 'p', namespace = 'default'): string {
  return `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec:\n  endpointSelector: {matchLabels: {app: api}}\n${spec}`
}

const WEB = 'fromEndpoints: [{matchLabels: {app: web}}]'

test('calls are judged as the requests that they are, and rules that change headers always have an effect', (t) => {
  const on = (rules: string) =>
    `  - ${WEB}\n    toPorts: [{ports: [{port: "80", protocol: TCP}]${rules === '' ? '' : `, rules: {${rules}}`}}]\n`
  const of = (...rules: string[]) => told({ 'a.yaml': policy(`  ingress:\n${rules.map(on).join('')}`) })
  const call = 'grpc: [{service: shop.Cart, method: Get*}]'
  t.deepEqual(of(call, 'http: [{method: GET}]'), [])
  t.regex(of(call, '').join(), /^policy\/l7-useless warning [^,]*these rules have no effect/)
  t.regex(of(call, call).join(), /^policy\/redundant-rule warning [^,]*says the same/)
  t.deepEqual(of('http: [{headerMatches: [{name: a, value: b, mismatch: REPLACE}]}]', ''), [])
  t.is(of('http: [{headerMatches: [{name: a, secret: {name: b}}]}]', '').length, 1)
})

test('different kinds of rules on one port are an error for the same subject and peers, and a warning where it depends', (t) => {
  const http = `  ingress:\n  - ${WEB}\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]\n`
  const kafka = (peers: string, port = '80') =>
    `  ingress:\n  - ${peers}\n    toPorts: [{ports: [{port: "${port}", protocol: TCP}], rules: {kafka: [{topic: a}]}}]\n`
  const [same, ...others] = told({ 'a.yaml': policy(http, 'a'), 'b.yaml': policy(kafka(WEB), 'b') })
  t.regex(
    same ?? '',
    /^policy\/conflict error a\.yaml:8 http and kafka rules .* 80\/TCP: here and in default\/b \(b\.yaml:8 spec\.ingress\[0\]\.toPorts\[0\]\)/,
  )
  t.deepEqual(others, [])
  t.regex(
    told({ 'a.yaml': policy(http, 'a'), 'b.yaml': policy(kafka('fromEndpoints: [{matchLabels: {tier: x}}]'), 'b') })[0] ?? '',
    /^policy\/conflict warning .*may conflict/,
  )
  t.deepEqual(told({ 'a.yaml': policy(http, 'a'), 'b.yaml': policy(kafka('fromEndpoints: [{matchLabels: {app: db}}]'), 'b') }), [])
  t.deepEqual(told({ 'a.yaml': policy(http, 'a'), 'b.yaml': policy(kafka(WEB, '81'), 'b') }), [])
  t.deepEqual(told({ 'a.yaml': policy(http, 'a'), 'b.yaml': policy(kafka(WEB), 'b', 'other') }), [])
})

test('differing certificates, listeners of equal priority, and server names beside L7 rules conflict', (t) => {
  const egress = (member: string) =>
    `  egress:\n  - toEntities: [world]\n    toPorts: [{ports: [{port: "443", protocol: TCP}], ${member}}]\n`
  const tls = (name: string) =>
    egress(
      `terminatingTLS: {secret: {namespace: x, name: ${name}}}, originatingTLS: {secret: {namespace: x, name: ca}}, rules: {http: [{method: GET}]}`,
    )
  const listener = (name: string, priority: number) =>
    egress(`listener: {envoyConfig: {kind: CiliumClusterwideEnvoyConfig, name: c}, name: ${name}, priority: ${priority}}`)
  const pair = (a: string, b: string) => told({ 'a.yaml': policy(a, 'a'), 'b.yaml': policy(b, 'b') })
  t.regex(pair(tls('one'), tls('two'))[0] ?? '', /^policy\/conflict error .*different terminatingTLS/)
  t.false(pair(tls('one'), tls('one')).some((text) => text.includes('conflict')))
  t.regex(pair(listener('one', 5), listener('two', 5))[0] ?? '', /listeners of equal priority/)
  t.false(pair(listener('one', 5), listener('two', 6)).some((text) => text.includes('conflict')))
  t.regex(pair(egress('serverNames: [a.example]'), egress('rules: {http: [{method: GET}]}'))[0] ?? '', /serverNames without terminatingTLS/)
})

test('rules that others deny, cover or repeat are told of with both places', (t) => {
  const specs = `  ingress:
  - ${WEB}
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: web, tier: x}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromCIDR: [10.1.0.0/16]
  - fromEntities: [world]
  - fromEndpoints: [{matchLabels: {app: bad}}]
  ingressDeny:
  - fromEndpoints: [{matchExpressions: [{key: app, operator: In, values: [bad, worse]}]}]
`
  t.deepEqual(told({ 'a.yaml': policy(specs) }), [
    'policy/redundant-rule warning a.yaml:9 moot: default/p covers all of it (a.yaml:7 spec.ingress[0])',
    'policy/redundant-rule warning a.yaml:11 moot: default/p covers all of it (a.yaml:12 spec.ingress[3])',
    'policy/denied-rule warning a.yaml:13 nothing is left of this rule: default/p denies all of it (a.yaml:15 spec.ingressDeny[0])',
  ])
  const one = policy(`  ingress:\n  - ${WEB}\n`, 'one')
  t.deepEqual(told({ 'a.yaml': one, 'b.yaml': policy(`  ingress:\n  - ${WEB}\n`, 'two') }), [
    'policy/redundant-rule warning b.yaml:7 moot: default/one says the same (a.yaml:7 spec.ingress[0])',
  ])
  const audit = one.replace('namespace: default}', 'namespace: default, annotations: {headgate.io/audit: "true"}}')
  t.deepEqual(told({ 'a.yaml': audit, 'b.yaml': policy(`  ingress:\n  - ${WEB}\n`, 'two') }), [])
})

test('L7 rules beside a rule without any are useless, unless they are there to see requests', (t) => {
  const rule = (rules: string) => `  ingress:
  - ${WEB}
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [${rules}]}}]
  - fromEndpoints: [{}]
    toPorts: [{ports: [{port: "1", endPort: 1000, protocol: TCP}]}]
`
  t.deepEqual(told({ 'a.yaml': policy(rule('{method: GET}')) }), [
    'policy/l7-useless warning a.yaml:8 these rules have no effect: default/p allows the same traffic without any (a.yaml:9 spec.ingress[1])',
  ])
  t.deepEqual(told({ 'a.yaml': policy(rule('{}')) }), [])
})

test('toFQDNs needs a way to ask for names: a DNS rule for Cilium, an open port 53 here', (t) => {
  const names = '  egress:\n  - toFQDNs: [{matchName: a.example.com}]\n'
  const open = '  - toEntities: [world]\n    toPorts: [{ports: [{port: "53", protocol: UDP}]}]\n'
  const rule = '  - toEntities: [world]\n    toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*"}]}}]\n'
  for (const [texts, dialect, isTold] of [
    [names, 'extended', true],
    [names + open, 'extended', false],
    [`  enableDefaultDeny: {egress: false}\n${names}`, 'extended', false],
    [names + open, 'cilium', true],
    [names + rule, 'cilium', false],
  ] as const) {
    t.is(
      told({ 'a.yaml': policy(texts) }, { dialect }).some((text) => text.startsWith('policy/fqdn-without-dns warning a.yaml:')),
      isTold,
      texts + dialect,
    )
  }
})

test('labels, namespaces and references that nothing has are told of, and what everybody has is not', (t) => {
  const specs = `  ingress:
  - fromEndpoints: [{matchLabels: {app: wbe}}, {matchLabels: {tier: x}}, {matchLabels: {k8s:io.kubernetes.pod.namespace: nowhere}}, {matchLabels: {reserved:host: ""}}]
  egress:
  - toCIDRSet: [{cidrGroupRef: none}]
  - toServices: [{k8sService: {serviceName: db, namespace: data}}]
`
  const labels = [
    ['k8s:app=web', 'k8s:io.kubernetes.pod.namespace=default'],
    ['k8s:app=api', 'k8s:io.kubernetes.pod.namespace=default'],
  ]
  t.deepEqual(
    told({ 'a.yaml': policy(specs) }, { labels }).map((text) => text.replace(/ a\.yaml:\d+ /, ' ')),
    [
      'policy/unknown-label warning no endpoint has the label app=wbe',
      'policy/unknown-label warning no endpoint has the label tier',
      'policy/unknown-namespace warning no endpoint is in this namespace: nowhere',
      'policy/unknown-reference warning no file given here defines the CIDR group none',
      'policy/unknown-reference warning no file given here defines the service data/db',
    ],
  )
  const group = 'apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: none}\nspec: {externalCIDRs: [10.0.0.0/8]}\n'
  t.false(told({ 'a.yaml': policy(specs), 'g.yaml': group }).some((text) => text.includes('CIDR group')))
  t.regex(
    told({ 'a.yaml': policy(`  ingress: [{${WEB}}]\n`, 'p', 'void') }, { labels })[0] ?? '',
    /unknown-namespace .*of this policy: void/,
  )
})

test('two documents of one kind and name in different files are an error', (t) => {
  const text = policy(`  ingress: [{${WEB}}]\n`)
  t.deepEqual(told({ 'a.yaml': text, 'b.yaml': text }), [
    'policy/duplicate-name error b.yaml:1 another file has a document of this kind and name: default/p (a.yaml:1)',
  ])
})

test('findings of one kind are bounded, and what is left out is counted', (t) => {
  const texts = Object.fromEntries(
    Array.from({ length: 700 }, (_, index) => [`${index}.yaml`, policy(`  ingress: [{${WEB}}]\n`, `p${index}`)]),
  )
  const all = lint(texts)
  t.is(all.length, 501)
  t.true(all.some(({ message }) => message === 'more findings of this kind are not shown: 199'))
})

test('three thousand policies are compared in seconds', (t) => {
  const files = Array.from({ length: 3000 }, (_, index) => {
    const rules = [0, 1].map(
      (number) =>
        `  - fromEndpoints: [{matchLabels: {app: a${(index * 7 + number) % 400}}}]\n    toPorts: [{ports: [{port: "${8000 + number}", protocol: TCP}], rules: {http: [{path: /${index % 5}}]}}]\n`,
    )
    const { documents } = parsePolicyFile(policy(`  ingress:\n${rules.join('')}  - {}\n`, `p${index}`), `${index}.yaml`, LIMITS)
    return { file: `${index}.yaml`, documents }
  })
  const start = performance.now()
  const findings = lintPolicies({ files, dialect: 'extended' })
  t.true(performance.now() - start < 20_000)
  t.false(findings.some(({ lint: id }) => id === 'policy/not-compared'))
})

const requirement = fc
  .record({
    source: fc.constantFrom('any', 'k8s'),
    key: fc.constantFrom('app', 'tier'),
    operator: fc.constantFrom('In' as const, 'NotIn' as const, 'Exists' as const, 'DoesNotExist' as const),
    values: fc.subarray(['a', 'b', 'c'], { minLength: 1 }),
  })
  .map((all) => (all.operator === 'In' || all.operator === 'NotIn' ? all : { ...all, values: [] }))
const selector: fc.Arbitrary<LabelSelector> = fc.array(requirement, { maxLength: 3 }).map((requirements) => ({ requirements }))
const LABEL_SETS = ['', 'a', 'b', 'c', 'd'].flatMap((app) =>
  ['', 'a', 'b', 'd'].map(
    (tier) => new LabelSet([...(app === '' ? [] : [`k8s:app=${app}`]), ...(tier === '' ? [] : [`k8s:tier=${tier}`])]),
  ),
)

test('what is said of selectors holds for every set of labels', (t) => {
  fc.assert(
    fc.property(selector, selector, (a, b) => {
      const both = LABEL_SETS.filter((labels) => selects(a, labels) && selects(b, labels))
      if (!mayBothSelect(a, b) && both.length > 0) throw new Error(`both select ${both[0]?.text}`)
      if (implies(a, b) && LABEL_SETS.some((labels) => selects(a, labels) && !selects(b, labels))) throw new Error('not implied')
    }),
    { numRuns: 5000 },
  )
  // A selector of any source is met by labels of another one too.
  const of = (source: string, operator: 'In' | 'NotIn') => ({ requirements: [{ source, key: 'app', operator, values: ['a'] }] })
  t.true(implies(of('k8s', 'In'), of('any', 'In')))
  t.false(implies(of('any', 'In'), of('k8s', 'In')))
  t.false(implies(of('k8s', 'NotIn'), of('any', 'NotIn')))
})

/** What matters of a verdict for whoever sends the traffic. */
function decisionOf({ verdict, ruleset }: NaiveVerdict): string {
  if (verdict !== 'redirect' || ruleset === undefined) return verdict
  if (ruleset.kind === 'conflict') return 'conflict'
  return ruleset.allowAll
    ? `allow${ruleset.deny.length > 0 ? ` but ${ruleset.deny}` : ''}`
    : `${ruleset.kind} ${ruleset.allow} ${ruleset.deny} ${ruleset.serverNames}`
}

const SECTION = /^specs\[(\d)\]\.(ingress|egress|ingressDeny|egressDeny)\[(\d)\](?:\.toPorts\[(\d)\])?$/

/** The documents without a rule, or without a member of its toPorts; default deny stays. */
function without(policies: readonly RawDocument[], { file, path }: Finding): RawDocument[] {
  const [, spec, section = 'ingress', rule, port] = SECTION.exec(path) ?? []
  const name = section.startsWith('ingress') ? 'fromEndpoints' : 'toEndpoints'
  const cut = (whole: RawRule): RawRule =>
    port === undefined
      ? {
          [name]: [],
          ...(whole.fromRequires && { fromRequires: whole.fromRequires }),
          ...(whole.toRequires && { toRequires: whole.toRequires }),
        }
      : { ...whole, toPorts: (whole.toPorts ?? []).map((member, index) => (index === Number(port) ? { ports: [] } : member)) }
  return policies.map((raw) =>
    raw.metadata.name !== file
      ? raw
      : {
          ...raw,
          specs: raw.specs.map((its, index) =>
            index !== Number(spec)
              ? its
              : {
                  ...its,
                  [section]: (its[section as keyof RawSpec] as readonly RawRule[]).map((whole, at) =>
                    at === Number(rule) ? cut(whole) : whole,
                  ),
                },
          ),
        },
  )
}

const PEERS: readonly RawIdentity[] = [
  ...ENDPOINTS,
  ...RESERVED,
  ...['10.1.2.3/32', '10.1.2.0/24', '10.1.0.0/16', '10.0.0.0/8', '192.168.0.0/16'].map((cidr, index) => ({
    id: 5000 + index,
    labels: ['reserved:world', `cidr:${cidr}`],
    cidr,
  })),
]

function lintRaw(policies: readonly RawDocument[]): readonly Finding[] {
  return lint(Object.fromEntries(policies.map((raw) => [raw.metadata.name, `${JSON.stringify(raw)}\n`])))
}

test('a rule that is told to be moot can go without any verdict changing', (t) => {
  const documents = fc.tuple(document('one'), document('two')).chain((all) => fc.subarray(all, { minLength: 1 }))
  let count = 0
  fc.assert(
    fc.property(documents, fc.array(probe, { minLength: 30, maxLength: 30 }), (policies: RawDocument[], flows) => {
      for (const finding of lintRaw(policies)) {
        if (!['policy/redundant-rule', 'policy/denied-rule', 'policy/l7-useless'].includes(finding.lint)) continue
        const others = without(policies, finding)
        for (const { subject, direction, traffic } of flows) {
          for (const peer of PEERS) {
            const flow = { subject, direction, peer, ...traffic }
            const [before, after] = [judge(policies, flow), judge(others, flow)]
            count++
            // Without the rules that conflict, there is no conflict.
            if (decisionOf(before) === decisionOf(after) || decisionOf(before) === 'conflict') continue
            throw new Error(JSON.stringify({ finding, flow, before, after }))
          }
        }
      }
    }),
    { numRuns: 200 },
  )
  t.true(count > 1000)
})

const l7Rule: fc.Arbitrary<RawRule> = fc
  .tuple(
    fc.constantFrom<RawRule>(
      {},
      { fromEndpoints: [{}] },
      { fromEndpoints: [{ matchLabels: { app: 'web' } }] },
      { fromEndpoints: [{ matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['web'] }] }] },
      { fromEntities: ['world'] },
      { fromEntities: ['cluster'] },
      { fromCIDR: ['10.0.0.0/8'] },
      { fromCIDRSet: [{ cidr: '10.1.0.0/16', except: ['10.1.2.0/24'] }] },
    ),
    fc.constantFrom('79', '80'),
    fc.constantFrom(
      { rules: { http: [{ method: 'GET' }] } },
      { rules: { kafka: [{ topic: 'orders' }] } },
      { serverNames: ['a.example'] },
      {},
    ),
  )
  .map(([peers, port, l7]) => ({
    ...peers,
    toPorts: [{ ports: [{ port, protocol: 'TCP', ...(port === '79' && { endPort: 80 }) }], ...l7 }],
  }))

const l7Document = (name: string): fc.Arbitrary<RawDocument> =>
  fc
    .tuple(fc.constantFrom({}, { matchLabels: { app: 'web' } }), fc.array(l7Rule, { minLength: 1, maxLength: 2 }))
    .map(([endpointSelector, ingress]) => ({
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name, namespace: 'blue' },
      specs: [{ endpointSelector, ingress }],
    }))

test('no conflict goes unnoticed, and one that is sure is one', (t) => {
  let count = 0
  fc.assert(
    fc.property(l7Document('one'), l7Document('two'), (...policies) => {
      const told = lintRaw(policies).filter(({ lint: id }) => id === 'policy/conflict')
      const flows = ENDPOINTS.flatMap((subject) => PEERS.flatMap((peer) => [79, 80].map((port) => ({ subject, peer, port }))))
      const isThere = flows.some((flow) => judge(policies, { ...flow, direction: 'ingress', protocol: 6 }).ruleset?.kind === 'conflict')
      if (isThere) count++
      if (isThere && told.length === 0) throw new Error('a conflict is not told')
      const isSure = told.some(({ severity }) => severity === 'error')
      if (isSure && !isThere) throw new Error(`there is none: ${told[0]?.message}`)
    }),
    { numRuns: 300 },
  )
  t.true(count > 20)
})

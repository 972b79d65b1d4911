import test from 'ava'
import { RE2JS } from 're2js'
import { isPolicy, type Policy } from '#policy/model.ts'
import { withNamedHosts } from '#policy/named-hosts.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from './world.ts'

function hostOf(
  names: readonly object[],
  http: object = {},
  dialect: 'cilium' | 'extended' = 'extended',
  section = 'egress',
): string | undefined {
  const text = JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'a', namespace: 'b' },
    spec: {
      endpointSelector: {},
      [section]: [{ toFQDNs: names, toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [http] } }] }],
    },
  })
  const { documents } = parsePolicyFile(text, 'a.yaml', { ...LIMITS, dialect })
  const [policy] = documents.filter(isPolicy) as Policy[]
  const traffic = policy?.specs[0]?.rules[0]?.traffic
  if (traffic?.kind !== 'ports') return undefined
  const [rule] = traffic.rules[0]?.l7?.rules ?? []
  return (rule as { readonly host?: string } | undefined)?.host
}

const CASES: readonly (readonly [names: readonly object[], hosts: readonly string[], others: readonly string[]])[] = [
  [
    [{ matchName: 'api.example.com' }],
    ['api.example.com', 'API.Example.com', 'api.example.com.', 'api.example.com:8080', 'api.example.com.:80'],
    ['', 'apixexample.com', 'api.example.com.evil.test', 'x.api.example.com', 'api.example.com:x', 'api.example.com:80:80', '10.0.0.1'],
  ],
  [
    [{ matchPattern: '*.example.com' }],
    ['a.example.com', 'a-1.EXAMPLE.com:80', '.example.com'],
    ['example.com', 'a.b.example.com', 'a.example.comx'],
  ],
  [[{ matchPattern: '**.example.com' }], ['a.example.com', 'a.b.example.com'], ['example.com', '.example.com', 'a..example.com']],
  [
    [{ matchPattern: 'img-*-eu.example.com' }],
    ['img-1-eu.example.com', 'img--eu.example.com'],
    ['img-1.example.com', 'img-a.b-eu.example.com'],
  ],
  [
    [{ matchName: 'a.test' }, { matchPattern: 'b*.test' }],
    ['a.test', 'b.test', 'bb.test:1'],
    ['ab.test', 'c.test'],
  ],
]

test('a request to a name has to ask for a host of that name', (t) => {
  for (const [names, hosts, others] of CASES) {
    const pattern = RE2JS.compile(hostOf(names) ?? '')
    for (const host of hosts) t.true(pattern.matches(host), `${JSON.stringify(names)}: ${host}`)
    for (const host of others) t.false(pattern.matches(host), `${JSON.stringify(names)}: ${host}`)
  }
})

test('what states a host itself, every name, deny rules and the dialect of Cilium are left as they are', (t) => {
  t.is(hostOf([{ matchName: 'a.test' }], { host: '.*' }), '.*')
  t.is(hostOf([{ matchPattern: '*' }]), undefined)
  t.is(hostOf([{ matchName: 'a.test' }, { matchPattern: '**' }]), undefined)
  t.is(hostOf([{ matchName: 'a.test' }], {}, 'cilium'), undefined)
  t.is(hostOf([{ matchName: 'a.test' }], { path: '/x' }, 'extended', 'egressDeny'), undefined)
  const traffic = { kind: 'any' } as const
  t.is(withNamedHosts(traffic, { kind: 'any' }), traffic)
})

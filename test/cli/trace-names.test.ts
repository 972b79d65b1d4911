import { createSocket } from 'node:dgram'
import { Resolver } from 'node:dns/promises'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import { EndpointSchema, ExportPolicyResponseSchema } from '#api/gen/headgate/v1/local_pb.js'
import { CliError } from '#cli/errors.ts'
import { resolveName } from '#cli/resolve-name.ts'
import { LearnedNames } from '#dns-proxy/learned-names.ts'
import { metricsOf } from '#dns-proxy/names-metrics.ts'
import { serveNames } from '#dns-proxy/names-server.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { FakeMaps } from '../dns-proxy/fake-maps.ts'
import { pointer, rawMessage, rawName, rawRecord } from '../parsers/dns/messages.ts'
import { EXPORTED, serveFakeAgent } from './fake-agent.ts'
import { headgate, temporaryFolder } from './run-headgate.ts'

const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: dns}}]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.example"}]}}]
  - toFQDNs: [{matchName: api.example}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
`

function policyFile(t: ExecutionContext): string {
  const file = join(temporaryFolder(t), 'policy.yaml')
  writeFileSync(file, POLICY)
  return file
}

function asker(t: ExecutionContext): (...args: string[]) => ReturnType<typeof headgate> {
  const file = policyFile(t)
  return (...args) => headgate(['policy', 'trace', '--policy', file, '--from', 'app=web', '--port', '443', ...args])
}

test('a trace to a name tells query, answers and verdict, in order', async (t) => {
  const ask = asker(t)
  const { stdout, exitCode } = await ask(
    '--to',
    'fqdn:api.example',
    '--answer',
    '192.0.2.7',
    '--answer',
    '169.254.169.254',
    '--cname',
    'x.example',
  )
  t.is(exitCode, 1)
  const lines = stdout.split('\n').filter((line) => !/^ +[+-] /.test(line))
  t.deepEqual(lines, [
    'query for api.example to k8s:app=dns,k8s:io.kubernetes.pod.namespace=default 53/UDP: allowed, and seen by the DNS process',
    '  egress: redirected, request allowed (a DNS rule allows it)',
    '  ingress: allowed (no policy restricts its ingress)',
    '  alias of: x.example',
    '  selectors that match: api.example',
    'answer 192.0.2.7: known by api.example',
    '  egress: allowed (a rule allows a name that it is known by)',
    '  ingress: allowed (192.0.2.7 is no endpoint: no policy judges its side)',
    'answer 169.254.169.254: teaches nothing: not an address of the world',
    '  egress: denied (no rule allows it)',
    '  ingress: allowed (169.254.169.254 is no endpoint: no policy judges its side)',
    'verdict: denied',
    '',
  ])
  t.regex(stdout, /^ {4}\+ allow by default\/web \(.*policy\.yaml:7 spec\.egress\[0\]\): .* the request meets \*\.example$/m)
  const alone = await ask('--to', 'api.example')
  t.is(alone.exitCode, 0)
  t.regex(alone.stdout, /^any address of it:\n {2}egress: allowed/m)
  t.is((await ask('--to', 'api.example', '--dns-server', '8.8.8.8')).exitCode, 1)
})

test('a trace to a name has the same as JSON, and of a batch', async (t) => {
  const ask = asker(t)
  const json = JSON.parse((await ask('--to', 'api.example', '--answer', '192.0.2.7', '-o', 'json')).stdout)
  t.like(json, {
    verdict: 'allowed',
    query: { verdict: 'allowed', seen: true, port: '53/UDP', names: ['api.example'], selectors: [{ name: 'api.example', denies: false }] },
    answers: [
      { address: '192.0.2.7', teaches: true, reason: '', selectors: ['api.example'], verdict: 'allowed', egress: { verdict: 'allowed' } },
    ],
    egress: { verdict: 'allowed' },
  })
  const questions = [
    { from: 'app=web', to: 'fqdn:api.example', port: '443', answers: ['192.0.2.7'], cnames: ['x.example'], dnsServer: 'app=dns' },
    { from: 'app=web', to: 'api.example', port: '443', answers: ['fe80::1'] },
  ]
  const { stdout } = await headgate(['policy', 'trace', '--policy', policyFile(t), '--batch', '-'], {
    input: questions.map((question) => JSON.stringify(question)).join('\n'),
  })
  const [first = '', second = ''] = stdout.split('\n')
  t.like(JSON.parse(first), { verdict: 'allowed', query: { server: 'app=dns', names: ['api.example', 'x.example'] } })
  t.like(JSON.parse(second), {
    error: 'answers: this version drops IPv6 whatever policy says, so only addresses of IPv4 are judged: fe80::1',
  })
})

test('a trace to a name says which option is wrong', async (t) => {
  const ask = asker(t)
  for (const [args, message] of [
    [['--to', '192.0.2.7', '--answer', '192.0.2.7'], /--answer: goes with a DNS name \(fqdn:api\.example\.com\), not with 192\.0\.2\.7/],
    [['--to', 'api.example', '--answer', 'x'], /--answer: not an address: x/],
    [['--to', 'api.example', '--answer', '2001:db8::1'], /--answer: this version drops IPv6 .*: 2001:db8::1/],
    [['--to', 'api.example', '--cname', 'a..b'], /--cname: not a DNS name: a\.\.b/],
    [['--to', 'api.example', '--dns-server', 'x/y'], /--dns-server: x\/y: no endpoint has that name/],
    [['--to', `${'a'.repeat(64)}.example`], /a label of a DNS name has at most 63 characters/],
    [['--to', 'app=api', '--resolve'], /--resolve: goes with a DNS name .*, not with app=api/],
    [['--to', 'fqdn:a..b', '--resolve'], /not a DNS name: a\.\.b/],
    [['--to', 'api.example', '--resolve', '--answer', '192.0.2.7'], /--answer and --cname do not go with it/],
  ] as const) {
    const { exitCode, stderr } = await ask(...args)
    t.is(exitCode, 2, stderr)
    t.regex(stderr, message)
    t.regex(stderr, /HG-1108/)
  }
})

test('a name that cannot be looked up is named', async (t) => {
  // No name of this domain is ever there (RFC 6761), whether a server answers or none does.
  const { exitCode, stderr } = await asker(t)('--to', 'api.invalid', '--resolve')
  t.is(exitCode, 2)
  t.regex(stderr, /HG-1113: cannot look up api\.invalid: /)
})

const TYPE_A = 1
const TYPE_CNAME = 5
const NXDOMAIN = 3
const QUESTION_OFFSET = 12

/** A server of names, which knows addresses and aliases. */
async function resolverOf(t: ExecutionContext, known: Readonly<Record<string, { a?: string[]; cname?: string }>>): Promise<Resolver> {
  const socket = createSocket('udp4')
  socket.on('message', (query, { port, address }) => {
    const labels: string[] = []
    let offset = QUESTION_OFFSET
    for (let length = query[offset] ?? 0; length > 0; length = query[offset] ?? 0) {
      labels.push(query.toString('latin1', offset + 1, offset + 1 + length))
      offset += 1 + length
    }
    const question = query.subarray(QUESTION_OFFSET, offset + 5)
    const { a = [], cname } = known[labels.join('.')] ?? {}
    const type = query.readUInt16BE(offset + 1)
    const records =
      type === TYPE_A
        ? a.map((text) => rawRecord(pointer(QUESTION_OFFSET), TYPE_A, addressToBytes(text).subarray(12)))
        : type === TYPE_CNAME && cname !== undefined
          ? [rawRecord(pointer(QUESTION_OFFSET), TYPE_CNAME, rawName(...cname.split('.')))]
          : []
    const rcode = known[labels.join('.')] === undefined ? NXDOMAIN : 0
    const flags = 0x8180 | rcode
    socket.send(rawMessage({ id: query.readUInt16BE(0), flags, counts: [1, records.length, 0, 0] }, question, ...records), port, address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  t.teardown(() => socket.close())
  const resolver = new Resolver({ timeout: 1000, tries: 1 })
  resolver.setServers([`127.0.0.1:${socket.address().port}`])
  return resolver
}

test('a name is looked up with its chain', async (t) => {
  const resolver = await resolverOf(t, {
    'www.example': { a: ['192.0.2.7', '192.0.2.8'], cname: 'edge.example' },
    'edge.example': { a: ['192.0.2.7'], cname: 'a.edge.example' },
    'a.edge.example': { a: ['192.0.2.7'] },
    'six.example': {},
    'loop.example': { a: ['192.0.2.7'], cname: 'loop.example' },
  })
  const { answers, cnames } = await resolveName('www.example', resolver)
  t.deepEqual([...answers].sort(), ['192.0.2.7', '192.0.2.8'])
  t.deepEqual(cnames, ['edge.example', 'a.edge.example'])
  t.deepEqual(await resolveName('a.edge.example', resolver), { answers: ['192.0.2.7'], cnames: [] })
  t.is((await resolveName('loop.example', resolver)).cnames.length, 16)
  for (const [name, reason] of [
    ['six.example', 'it has no address of IPv4'],
    ['none.example', 'there is no such name'],
  ] as const) {
    await t.throwsAsync(resolveName(name, resolver), {
      instanceOf: CliError,
      code: 'HG-1113',
      message: `cannot look up ${name}: ${reason}`,
    })
  }
  resolver.setServers(['127.0.0.1:1'])
  await t.throwsAsync(resolveName('www.example', resolver), { message: 'cannot look up www.example: no name server answers' })
})

test('expectations are about names and their answers too', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'p.yaml'), POLICY)
  const file = join(folder, 'e.yaml')
  const head = 'apiVersion: headgate.io/v1\nkind: PolicyTest\npolicies: [p.yaml]\ntests:\n'
  writeFileSync(
    file,
    `${head}- {from: app=web, to: fqdn:api.example, answers: [192.0.2.7], cnames: [x.example], dnsServer: app=dns, port: 443/TCP, verdict: allowed}
- {from: app=web, to: api.example, answers: [192.0.2.7, 127.0.0.1], port: 443/TCP, verdict: denied}
- {from: app=web, to: www.example, answers: [192.0.2.7], cnames: [api.example], port: 443/TCP, verdict: allowed}
- {from: app=web, to: api.example, answers: [127.0.0.1], port: 443/TCP, verdict: allowed}
- {from: app=web, to: 192.0.2.7, answers: [192.0.2.7], port: 443/TCP, verdict: allowed}
`,
  )
  const { stdout } = await headgate(['policy', 'test', file])
  t.regex(stdout, /^ok {4}app=web -> fqdn:api\.example \(192\.0\.2\.7\) 443\/TCP$/m)
  t.regex(stdout, /^FAIL {2}app=web -> api\.example \(127\.0\.0\.1\).*expected allowed, is denied$/m)
  t.regex(stdout, /^ {6}answer 127\.0\.0\.1: teaches nothing: not an address of the world$/m)
  t.regex(stdout, /is answers: goes with a DNS name/)
  t.regex(stdout, /^3 passed, 2 failed$/m)
  writeFileSync(
    file,
    `${head}- {from: app=web, to: api.example, answers: [192.0.2.7, "::1"], cnames: [a b], port: "443", verdict: allowed}\n`,
  )
  const refused = await headgate(['policy', 'test', file])
  t.is(refused.exitCode, 2)
  t.regex(refused.stderr, /e\.yaml:5:\d+: error: tests\[0\]\.answers\[1\]: this version drops IPv6/)
  t.regex(refused.stderr, /e\.yaml:5:\d+: error: tests\[0\]\.cnames\[0\]: not a DNS name: a b/)
})

test('trace --live judges names by the agent’s policy, and tells what the DNS process knows of them', async (t) => {
  const run = join(temporaryFolder(t), 'run')
  mkdirSync(run)
  const endpoints = ['web', 'dns'].map((name, index) =>
    create(EndpointSchema, {
      spec: { name, namespace: 'default' },
      labels: [`k8s:app=${name}`, 'k8s:io.kubernetes.pod.namespace=default'],
      addresses: [`10.0.0.${7 + index}`],
    }),
  )
  const files = [{ file: 'web.yaml', text: POLICY, refusedText: '' }]
  await serveFakeAgent(t, run, {
    exportPolicy: (_call, reply) => reply(null, create(ExportPolicyResponseSchema, { ...EXPORTED, endpoints, files })),
  })
  const ask = (...args: string[]) => {
    const to = ['--from', 'web', '--to', 'api.example', '--port', '443', '--answer', '192.0.2.7', '--answer', '10.0.0.8']
    return headgate(['--set', `paths.run=${run}`, 'policy', 'trace', '--live', ...to, ...args])
  }
  const without = await ask()
  t.is(without.exitCode, 1)
  t.regex(without.stdout, /^known now: cannot be told, no DNS process answers on .*dns\.sock$/m)
  t.regex(without.stdout, /^query for api\.example to default\/dns 53\/UDP: allowed, and seen by the DNS process$/m)
  t.regex(without.stdout, /^answer 192\.0\.2\.7: known by api\.example$/m)
  t.regex(without.stdout, /^answer 10\.0\.0\.8: teaches nothing: an endpoint has it$/m)

  const names = new LearnedNames(new FakeMaps().maps, { minTtlSeconds: 0, addressesOfNameMax: 10, zombiesMax: 10, graceSeconds: 0 })
  names.changeSelectors({ gone: [], come: [create(NameSelectorSchema, { id: 101, matchPattern: '*.example' })] })
  t.teardown(await serveNames(join(run, 'dns.sock'), 'no-such-group', { names: () => names, metrics: () => metricsOf(undefined) }))
  t.regex((await ask()).stdout, /^known now: nothing$/m)
  names.learn(0, ['api.example.'], addressToBytes('192.0.2.9'), 100_000, performance.now())
  names.learn(7, ['api.example.'], addressToBytes('192.0.2.7'), 100_000, performance.now())
  names.learn(0, ['other.example.'], addressToBytes('192.0.2.1'), 100_000, performance.now())
  t.regex((await ask()).stdout, /^known now: 192\.0\.2\.7 \(\d+s, endpoint 7 only\), 192\.0\.2\.9 \(\d+s\)$/m)
  t.like(JSON.parse((await ask('-o', 'json')).stdout), {
    verdict: 'denied',
    known: [
      { address: '192.0.2.7', zombie: false, endpointId: 7 },
      { address: '192.0.2.9', endpointId: 0 },
    ],
  })
  const alone = await headgate([
    '--set',
    `paths.run=${run}`,
    'policy',
    'trace',
    '--live',
    '--from',
    'web',
    '--to',
    '10.0.0.8',
    '--port',
    '53/UDP',
  ])
  t.notRegex(alone.stdout, /known now/)
})

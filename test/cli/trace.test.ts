import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { EndpointSchema, ExportPolicyResponseSchema, NodeAddressSchema } from '#api/gen/headgate/v1/local_pb.js'
import { EXPORTED, refusal, serveFakeAgent } from './fake-agent.ts'
import { headgate, ROOT, temporaryFolder } from './run-headgate.ts'

const DEMO = [
  'policy',
  'trace',
  '--policy',
  join(ROOT, 'examples/demo/policies'),
  '--endpoints',
  join(ROOT, 'examples/demo/workloads.yaml'),
]

test('trace tells the verdict of both sides, why, and where the rule stands', async (t) => {
  const allowed = await headgate([...DEMO, '--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--http', 'GET /products/17'])
  t.is(allowed.exitCode, 0, allowed.stderr)
  t.regex(allowed.stdout, /^egress: redirected, request allowed \(an HTTP rule allows it\)$/m)
  t.regex(
    allowed.stdout,
    /^ {2}\+ allow by shop\/api \(.*api\.yaml:\d+ spec\.ingress\[0\]\): the sender is app=web .*, the request meets method GET/m,
  )
  t.regex(allowed.stdout, /^verdict: allowed$/m)
  const denied = await headgate([...DEMO, '--from', 'shop/batch', '--to', 'shop/api', '--port', '80', '-o', 'json'])
  t.is(denied.exitCode, 1)
  const answer = JSON.parse(denied.stdout) as Record<string, unknown>
  t.like(answer, { verdict: 'denied', egress: { verdict: 'allowed', matched: [] }, ingress: { verdict: 'denied', l7: null, matched: [] } })
})

test('trace answers a batch line by line, the wrong ones too', async (t) => {
  const questions = [
    JSON.stringify({ from: 'shop/web', to: 'shop/api', port: '80/TCP', http: { method: 'POST', path: '/orders' } }),
    'nonsense',
    '',
    JSON.stringify({ from: 'shop/nobody', to: 'shop/api', port: '80/TCP' }),
    JSON.stringify({ from: 'shop/web', to: '8.8.8.8', port: '53/UDP' }),
  ]
  const { stdout, exitCode } = await headgate([...DEMO, '--batch', '-'], { input: questions.join('\n') })
  t.is(exitCode, 2)
  const answers = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { verdict?: string; error?: string })
  t.deepEqual(
    answers.map(({ verdict, error }) => verdict ?? error),
    ['allowed', 'not JSON', 'shop/nobody: no endpoint has that name', 'denied'],
  )
})

test('trace says what it cannot do with its arguments or files', async (t) => {
  const folder = temporaryFolder(t)
  const broken = join(folder, 'broken.yaml')
  writeFileSync(
    broken,
    'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec: {endpointSelector: {}, ingress: [{fromCIDR: [x]}]}\n',
  )
  const refused = await headgate(['policy', 'trace', '--policy', broken, '--from', '1.1.1.1', '--to', 'app=a', '--port', '80'])
  t.is(refused.exitCode, 1)
  t.regex(refused.stderr, /broken\.yaml:4:\d+: error: .*not a CIDR prefix: x/)
  t.regex(refused.stderr, /endpoints that it selects are at default deny/)
  for (const [args, message] of [
    [['--from', 'shop/web'], /--from, --to and --port are needed/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--http', 'GET'], /expected 'METHOD \/path', not GET/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--host', 'x'], /say more about --http or --grpc/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--grpc', 'shop.Cart'], /expected package.Service\/Method, not shop.Cart/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--http', 'GET /', '--grpc', 'a/b'], /not about http and grpc/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--http', 'GET /', '--header', 'x'], /expected 'Name: value', not x/],
    [['--batch', join(folder, 'none')], /HG-1111/],
    [['--live'], /--policy, --endpoints and --dialect do not go with it/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--kafka', 'shout orders'], /expected 'produce TOPIC'/],
    [
      ['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--dns', 'a', '--cassandra', 'SELECT'],
      /about one request, not about dns and cassandra/,
    ],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', 'metrics'], /the receiver has no port of that name: metrics/],
  ] as const) {
    const { exitCode, stderr } = await headgate([...DEMO, ...args])
    t.is(exitCode, 2, stderr)
    t.regex(stderr, message)
  }
})

test('expectations of the demo are met, and one that is not shows its trace', async (t) => {
  const met = await headgate(['policy', 'test', join(ROOT, 'examples/demo/expectations.yaml')])
  t.is(met.exitCode, 0, met.stdout + met.stderr)
  t.regex(met.stdout, /^ok {4}shop\/web -> shop\/api 80\/TCP GET \/products$/m)
  t.regex(met.stdout, /^18 passed, 0 failed$/m)

  const folder = temporaryFolder(t)
  const file = join(folder, 'expectations.yaml')
  const head = `apiVersion: headgate.io/v1\nkind: PolicyTest\npolicies: [${join(ROOT, 'examples/demo/policies')}]\nendpoints: ${join(ROOT, 'examples/demo/workloads.yaml')}\n`
  writeFileSync(
    file,
    `${head}tests:\n- {from: shop/batch, to: shop/api, port: 80/TCP, verdict: allowed}\n- {from: nobody/x, to: shop/api, port: 80/TCP, verdict: denied}\n- from: shop/web\n  to: shop/api\n  port: 80/TCP\n  http: {method: GET, path: /products, host: a, headers: {X-Key: v}}\n  verdict: allowed\n`,
  )
  const failed = await headgate(['policy', 'test', file])
  t.is(failed.exitCode, 1)
  t.regex(failed.stdout, /^FAIL {2}shop\/batch -> shop\/api 80\/TCP \(.*:6\): expected allowed, is denied$/m)
  t.regex(failed.stdout, /^ {6} {2}- allow by shop\/api .*: the sender is none of: /m)
  t.regex(failed.stdout, /^FAIL {2}nobody\/x .* is nobody\/x: no endpoint has that name$/m)
  t.regex(failed.stdout, /^1 passed, 2 failed$/m)
  const json = JSON.parse((await headgate(['policy', 'test', file, '-o', 'json'])).stdout) as { failed: number; tests: object[] }
  t.like(json, { passed: 1, failed: 2 })
  t.like(json.tests[0], { line: 6, expected: 'allowed', actual: 'denied', passed: false })
})

test('a file of expectations is refused with all of its mistakes', async (t) => {
  const file = join(temporaryFolder(t), 'e.yaml')
  writeFileSync(
    file,
    'apiVersion: headgate.io/v2\nkind: PolicyTest\npolicies: [x]\ntests:\n- {from: a, to: b, verdict: allowed}\n- {from: a, to: b, port: "80", verdict: maybe, http: GET}\n- {form: a}\n',
  )
  const { exitCode, stderr } = await headgate(['policy', 'test', file])
  t.is(exitCode, 2)
  for (const line of [
    /e\.yaml:1:1: error: apiVersion: apiVersion is needed/,
    /e\.yaml:5:\d+: error: tests\[0\]: port is needed/,
    /e\.yaml:6:\d+: error: tests\[1\]\.verdict: not a verdict: maybe; allowed or denied/,
    /e\.yaml:6:\d+: error: tests\[1\]\.http: not a request: GET/,
    /e\.yaml:7:\d+: error: tests\[2\]\.form: unknown field: form/,
  ]) {
    t.regex(stderr, line)
  }
  writeFileSync(file, 'apiVersion: headgate.io/v1\nkind: PolicyTest\ntests: []\n')
  t.regex((await headgate(['policy', 'test', file])).stderr, /the file expects nothing/)
})

test('trace asks about every kind of request', async (t) => {
  const folder = temporaryFolder(t)
  const policies = join(folder, 'policies.yaml')
  const member = (port: string, rules: string) =>
    `  - toPorts: [{ports: [{port: "${port}", protocol: ${port === '53' ? 'UDP' : 'TCP'}}], ${rules}}]\n`
  writeFileSync(
    policies,
    `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  endpointSelector: {matchLabels: {app: web}}\n  egress:\n${[
      member('53', 'rules: {dns: [{matchPattern: "*.example.com"}]}'),
      member('9092', 'rules: {kafka: [{role: produce, topic: orders}]}'),
      member('9042', 'rules: {cassandra: [{query_action: select, query_table: "shop[.].*"}]}'),
      member('443', 'serverNames: ["*.example.com"]'),
    ].join('')}`,
  )
  const ask = async (...args: readonly string[]) => {
    const { stdout, stderr, exitCode } = await headgate([
      'policy',
      'trace',
      '--policy',
      policies,
      '--from',
      'app=web,k8s:io.kubernetes.pod.namespace=shop',
      ...args,
    ])
    return `${exitCode} ${/^egress: (.*)$/m.exec(stdout)?.[1] ?? stderr}`
  }
  t.is(await ask('--to', '8.8.8.8', '--dns', 'api.example.com'), '0 redirected, request allowed (a DNS rule allows it)')
  t.is(await ask('--to', '8.8.8.8', '--dns', 'example.org'), '1 redirected, request denied (no DNS rule allows it)')
  t.is(
    await ask('--to', '10.0.0.1', '--port', '9092', '--kafka', 'produce orders'),
    '0 redirected, request allowed (a Kafka rule allows it)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '9092', '--kafka', 'consume orders'),
    '1 redirected, request denied (no Kafka rule allows it)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '9042', '--cassandra', 'SELECT * FROM shop.orders'),
    '0 redirected, request allowed (a Cassandra rule allows it)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '9042', '--cassandra', 'SELECT * FROM bank.money'),
    '1 redirected, request denied (no Cassandra rule allows it)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '443', '--sni', 'www.example.com'),
    '0 redirected, request allowed (its server name is allowed)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '443', '--sni', 'www.example.org'),
    '1 redirected, request denied (no rule allows this server name)',
  )
  t.is(
    await ask('--to', '10.0.0.1', '--port', '9092', '--http', 'GET /'),
    '1 redirected, request denied (Kafka rules stand there, which no request of HTTP meets)',
  )
})

test('trace --live asks about what the agent has in force', async (t) => {
  const run = join(temporaryFolder(t), 'run')
  mkdirSync(run)
  const text = (name: string, selector: string) =>
    `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: ${name}, namespace: default}\nspec:\n  endpointSelector: {matchLabels: {app: ${selector}}}\n  ingress:\n  - fromNodes: [{matchLabels: {zone: a}}]\n    toPorts: [{ports: [{port: http}]}]\n`
  const endpoint = (name: string) => ({
    spec: { name, namespace: 'default', ports: name === 'web' ? [{ name: 'http', port: 8080, protocol: 'TCP' }] : [] },
    labels: [`k8s:app=${name}`, 'k8s:io.kubernetes.pod.namespace=default'],
    addresses: [name === 'web' ? '10.0.0.7' : '10.0.0.8'],
  })
  const files = [
    { file: 'web.yaml', text: text('web', 'web'), refusedText: '' },
    { file: 'db.yaml', text: '', refusedText: text('db', 'db').replace('toPorts', 'toPort') },
  ]
  const nodes = [create(NodeAddressSchema, { address: '10.0.1.1', labels: ['node:zone=a', 'reserved:remote-node'] })]
  const endpoints = [create(EndpointSchema, endpoint('web')), create(EndpointSchema, endpoint('db'))]
  let allowLocalhost = false
  await serveFakeAgent(t, run, {
    exportPolicy: (_call, reply) =>
      reply(null, create(ExportPolicyResponseSchema, { ...EXPORTED, endpoints, files, nodes, allowLocalhost })),
  })
  const ask = async (from: string, to: string, port: string) => {
    const { stdout, stderr, exitCode } = await headgate([
      '--set',
      `paths.run=${run}`,
      'policy',
      'trace',
      '--live',
      '--from',
      from,
      '--to',
      to,
      '--port',
      port,
    ])
    t.is(stderr, '')
    return `${exitCode} ${/^ingress: (.*)$/m.exec(stdout)?.[1] ?? ''}`
  }
  t.is(await ask('10.0.1.1', 'web', 'http/TCP'), '0 allowed (a rule allows it)')
  t.is(await ask('10.0.1.1', '10.0.0.7', '8081'), '1 denied (no rule allows it)')
  t.is(await ask('10.0.1.2', 'default/web', '8080'), '1 denied (no rule allows it)')
  t.is(await ask('10.0.1.1', 'default/db', '8080'), '1 denied (no rule allows it)')
  allowLocalhost = true
  t.regex(await ask('reserved:host', 'default/web', '22'), /^0 allowed \(this host may always/)
})

test('trace --live says when there is no agent, or one that cannot answer', async (t) => {
  const run = join(temporaryFolder(t), 'run')
  mkdirSync(run)
  const args = ['--set', `paths.run=${run}`, 'policy', 'trace', '--live', '--from', '1.1.1.1', '--to', '2.2.2.2', '--port', '80']
  const alone = await headgate(args)
  t.is(alone.exitCode, 2)
  t.regex(alone.stderr, /HG-1101/)
  await serveFakeAgent(t, run, { exportPolicy: (_call, reply) => reply(refusal(12, 'unknown method')) })
  t.regex((await headgate(args)).stderr, /HG-1109: unknown method/)
})

test('expectations are about every kind of request too', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(
    join(folder, 'p.yaml'),
    'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec:\n  endpointSelector: {}\n  egress:\n  - toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: a.example}]}}]\n  - icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]\n',
  )
  const file = join(folder, 'e.yaml')
  const head = 'apiVersion: headgate.io/v1\nkind: PolicyTest\npolicies: [p.yaml]\ntests:\n'
  writeFileSync(
    file,
    `${head}- {from: app=x, to: 8.8.8.8, dns: a.example, verdict: allowed}\n- {from: app=x, to: 8.8.8.8, port: 53/TCP, dns: b.example, verdict: denied}\n- {from: app=x, to: "2001:db8::1", port: icmpv6/128, verdict: allowed}\n- {from: app=x, to: a.example, port: icmp, verdict: denied}\n`,
  )
  const met = await headgate(['policy', 'test', file])
  t.is(met.exitCode, 0, met.stdout + met.stderr)
  t.regex(met.stdout, /^ok {4}app=x -> 8\.8\.8\.8 53\/UDP a\.example$/m)
  writeFileSync(file, `${head}- {from: app=x, to: 8.8.8.8, port: "53", dns: a.example, kafka: produce x, verdict: allowed}\n`)
  t.regex((await headgate(['policy', 'test', file])).stderr, /a test is about one request, not about dns and kafka/)
})

test('trace is given secrets as a folder, tells what is done to headers, and keeps values to itself', async (t) => {
  const folder = temporaryFolder(t)
  const policy = join(folder, 'policy.yaml')
  const rules =
    '[{path: /a, headerMatches: [{name: X-Key, secret: {name: key}}]}, {path: /b, headerMatches: [{name: X-Key, secret: {name: pair}, mismatch: ADD}]}]'
  writeFileSync(
    policy,
    `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  endpointSelector: {matchLabels: {app: api}}\n  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: ${rules}}}]}]\n`,
  )
  const secrets = join(folder, 'secrets')
  mkdirSync(join(secrets, 'default/pair'), { recursive: true })
  writeFileSync(join(secrets, 'default/key'), 'sesame\r\n')
  writeFileSync(join(secrets, 'default/pair/token'), 'mellon')
  const ask = (...more: string[]) =>
    headgate(['policy', 'trace', '--policy', policy, '--from', 'app=web', '--to', 'app=api', '--port', '80', ...more])
  const right = await ask('--secrets', secrets, '--http', 'GET /a', '--header', 'X-Key: sesame')
  t.is(right.exitCode, 0, right.stdout)
  const wrong = await ask('--secrets', secrets, '--http', 'GET /a', '--header', 'X-Key: open')
  t.is(wrong.exitCode, 1)
  t.notRegex(wrong.stdout, /sesame|--secrets/)
  const unknown = await ask('--http', 'GET /a', '--header', 'X-Key: sesame')
  t.is(unknown.exitCode, 1)
  t.regex(unknown.stdout, /^ {2}note: what the secret default\/key holds is not known here \(--secrets\)/m)
  const added = await ask('--secrets', secrets, '--http', 'GET /b')
  t.is(added.exitCode, 0)
  t.regex(added.stdout, /^ {2}header x-key is not as wanted: the wanted value is added \(ADD\)$/m)
  t.notRegex(added.stdout, /mellon/)
  const json = await ask('--secrets', secrets, '--http', 'GET /b', '-o', 'json')
  t.like(JSON.parse(json.stdout), { ingress: { headers: [{ name: 'x-key', action: 'ADD' }] } })
  const none = await ask('--secrets', join(folder, 'none'), '--http', 'GET /b')
  t.is(none.exitCode, 2)
  t.regex(none.stderr, /HG-1111: cannot read the folder of secrets/)
})

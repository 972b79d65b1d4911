import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
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
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--host', 'x'], /say more about --http/],
    [['--from', 'shop/web', '--to', 'shop/api', '--port', '80', '--http', 'GET /', '--header', 'x'], /expected 'Name: value', not x/],
    [['--batch', join(folder, 'none')], /HG-1111/],
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
  t.regex(met.stdout, /^11 passed, 0 failed$/m)

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

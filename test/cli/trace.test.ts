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

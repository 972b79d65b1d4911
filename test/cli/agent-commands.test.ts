import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { GetCountsResponseSchema, StatusSchema, WaitPolicyResponseSchema } from '#api/gen/headgate/v1/local_pb.js'
import { refusal, serveFakeAgent } from './fake-agent.ts'
import { headgate, ROOT, temporaryFolder } from './run-headgate.ts'

const NOT_FOUND = 5
const FAILED_PRECONDITION = 9
const UNIMPLEMENTED = 12

test('endpoint list and get print tables, facts and JSON', async (t) => {
  const run = temporaryFolder(t)
  await serveFakeAgent(t, run)
  const ask = (...args: string[]) => headgate([...args, '--set', `paths.run=${run}`])
  t.is(
    (await ask('endpoint', 'list')).stdout,
    'ID  NAME         IDENTITY  ADDRESSES  ENFORCED  STATE\n7   default/web  1001      10.0.0.7   ingress   ready\n',
  )
  t.like(JSON.parse((await ask('endpoint', 'list', '-o', 'json')).stdout), { endpoints: [{ id: 7, spec: { name: 'web', netns: 'web' } }] })
  t.regex((await ask('endpoint', 'get', 'web')).stdout, /^identity: +1001$/m)
  t.is((await ask('identity', 'list')).stdout, 'ID    ENDPOINTS  LABELS\n1001  1          k8s:app=web\n')
  const missing = await ask('endpoint', 'get', 'other/web')
  t.is(missing.exitCode, 1)
  t.regex(missing.stderr, /error HG-1107: there is no endpoint other\/web/)
})

test('endpoint add sends what was asked for and refuses what it cannot mean', async (t) => {
  const run = temporaryFolder(t)
  let seen: unknown
  await serveFakeAgent(t, run, {
    addEndpoint: (call, reply) => {
      seen = call.request.spec
      reply(refusal(FAILED_PRECONDITION, 'no namespace of that name: web', 'HG-2002'))
    },
  })
  const ask = (...args: string[]) => headgate(['endpoint', 'add', 'shop/web', ...args, '--set', `paths.run=${run}`])
  const outcome = await ask('--netns', 'web', '-l', 'app=web', '-l', 'tier=', '--ip', '10.0.0.7', '--ip', 'fd00::7', '-p', 'http=80/tcp')
  t.is(outcome.exitCode, 1)
  t.regex(outcome.stderr, /^error HG-2002: no namespace of that name: web\nnext: look the code up in docs\/errors\.md/)
  t.like(seen, {
    name: 'web',
    namespace: 'shop',
    labels: { app: 'web', tier: '' },
    attachment: { case: 'netns', value: 'web' },
    ipv4: ['10.0.0.7'],
    ipv6: ['fd00::7'],
    ports: [{ name: 'http', port: 80, protocol: 'TCP' }],
  })
  for (const args of [[], ['--netns', 'a', '--interface', 'b'], ['--netns', 'a', '-l', '=x'], ['--netns', 'a', '-p', 'http=0/TCP']]) {
    t.is((await ask(...args)).exitCode, 2, args.join(' '))
  }
})

test('the agent’s refusals become exit code 1 with its words', async (t) => {
  const run = temporaryFolder(t)
  await serveFakeAgent(t, run, { removeEndpoint: (_call, reply) => reply(refusal(NOT_FOUND, 'no such endpoint: default/web')) })
  const outcome = await headgate(['endpoint', 'remove', 'web', '--set', `paths.run=${run}`])
  t.is(outcome.exitCode, 1)
  t.regex(outcome.stderr, /^error HG-1107: no such endpoint: default\/web/)
})

test('status shows processes, refusals and fill', async (t) => {
  const run = temporaryFolder(t)
  await serveFakeAgent(t, run, {
    getStatus: (_call, reply) =>
      reply(
        null,
        create(StatusSchema, {
          version: '0.1.0',
          processes: [{ name: 'proxy', pid: 5, version: '0.1.0', connected: true, revision: 9n, appliedRevision: 8n }],
          maps: [{ name: 'policy', entries: 50, maxEntries: 200 }],
          counters: [{ verdict: 'dropped', reason: 'policy_denied', direction: 1, packets: 3n, bytes: 180n }],
          refused: [{ slotId: 4, rule: 'r', reason: 'regex program too large' }],
          refusedPolicies: [
            { file: 'a.yaml', state: 'refused', problems: [{ line: 3, column: 5, path: 'spec', message: 'unknown field' }] },
          ],
        }),
      ),
  })
  const { stdout } = await headgate(['status', '--set', `paths.run=${run}`])
  t.regex(stdout, /^proxy +5 +0\.1\.0 +yes +9 +8$/m)
  t.regex(stdout, /^policy +50 +200 +25\.0 %$/m)
  t.regex(stdout, /^dropped +policy_denied +ingress +3 +180$/m)
  t.regex(stdout, /slot 4 r: regex program too large/)
  t.regex(stdout, /a\.yaml: refused\n +3:5 spec: unknown field/)
  t.regex(stdout, /^COUNTED BY +ALLOWED +DENIED +AUDITED +FAILED +SINCE +PROBLEM\nproxy +12 +3 +2 +1 +2026-01-02T03:04:05Z\n/m)
})

test('status tells of flows lost by where they were lost, and of counts that it cannot have', async (t) => {
  const run = temporaryFolder(t)
  const status = { version: '0.1.0', flowsSeen: 40n, flowsLost: 9n }
  let isOld = false
  await serveFakeAgent(t, run, {
    getStatus: (_call, reply) => reply(null, create(StatusSchema, isOld ? status : { ...status, flowsLostKernel: 4n })),
    getCounts: (_call, reply) => {
      // One that never comes, and one that does not know the call.
      if (isOld) reply(refusal(UNIMPLEMENTED, 'unknown method'))
    },
  })
  const started = performance.now()
  const late = await headgate(['status', '--set', `paths.run=${run}`])
  t.true(performance.now() - started < 15_000)
  t.is(late.exitCode, 0)
  t.regex(late.stdout, /^40 flows seen; lost: 4 in the kernel, 0 in Envoy, 5 on the way to the agent$/m)
  t.regex(late.stdout, /^Requests:\n {2}no answer from the agent within 1\.5 s/m)
  isOld = true
  const old = await headgate(['status', '--set', `paths.run=${run}`])
  t.regex(old.stdout, /^40 flows seen; lost: 0 in Envoy, 9 on the way to the agent$/m)
  t.regex(old.stdout, /^Requests:\n {2}unknown method$/m)
  const json = JSON.parse((await headgate(['status', '-o', 'json', '--set', `paths.run=${run}`])).stdout)
  t.like(json, { version: '0.1.0', requests: { reports: [], problem: 'unknown method' } })
})

test('policy counts shows rules by their requests, and who does not answer', async (t) => {
  const run = temporaryFolder(t)
  await serveFakeAgent(t, run)
  const { stdout, exitCode } = await headgate(['policy', 'counts', '--set', `paths.run=${run}`])
  t.is(exitCode, 0)
  t.deepEqual(
    stdout.split('\n').map((line) => line.replaceAll(/ +/g, ' ')),
    [
      'RULE ALLOWED DENIED AUDITED',
      'default/web/ingress/0123456789ab 12 0 0',
      '(no rule) 0 3 2',
      '',
      'COUNTED BY ALLOWED DENIED AUDITED FAILED SINCE PROBLEM',
      'proxy 12 3 2 1 2026-01-02T03:04:05Z',
      'ext-host does not answer within 500 ms',
      '',
    ],
  )
  const json = JSON.parse((await headgate(['policy', 'counts', '-o', 'json', '--set', `paths.run=${run}`])).stdout)
  t.like(json.reports[0], { source: 'COUNTS_SOURCE_PROXY', totals: { allowed: '12', denied: '3' } })
})

test('policy counts adds up what workers counted of topics', async (t) => {
  const run = temporaryFolder(t)
  const topics = (allowed: bigint) => [
    { topic: 'orders', apiKey: 'produce', counts: { allowed, denied: 1n } },
    { topic: '', apiKey: 'fetch', counts: { denied: 2n } },
  ]
  const reportOf = (worker: number, allowed: bigint) => ({ source: 3, worker, totals: { allowed, denied: 3n }, topics: topics(allowed) })
  const reports = [reportOf(0, 5n), reportOf(1, 7n)]
  await serveFakeAgent(t, run, { getCounts: (_call, reply) => reply(null, create(GetCountsResponseSchema, { reports })) })
  const { stdout } = await headgate(['policy', 'counts', '--set', `paths.run=${run}`])
  const lines = stdout.split('\n').map((line) => line.replaceAll(/ +/g, ' '))
  t.deepEqual(
    lines.filter((line) => /^(TOPIC|orders|\(other|relay)/.test(line)),
    [
      'relay 0 5 3 0 0 1970-01-01T00:00:00Z',
      'relay 1 7 3 0 0 1970-01-01T00:00:00Z',
      'TOPIC REQUEST ALLOWED DENIED AUDITED',
      'orders produce 12 2 0',
      '(other topics) fetch 0 4 0',
    ],
  )
})

test('policy counts fails when nobody has anything to tell', async (t) => {
  const run = temporaryFolder(t)
  await serveFakeAgent(t, run, {
    getCounts: (_call, reply) => reply(null, create(GetCountsResponseSchema, { reports: [{ source: 1, problem: 'does not count' }] })),
  })
  const { stdout, exitCode } = await headgate(['policy', 'counts', '--set', `paths.run=${run}`])
  t.is(exitCode, 1)
  t.regex(stdout, /^proxy +does not count$/m)
})

test('observe prints one safe line a flow, JSON as it came, and counts losses apart', async (t) => {
  const run = temporaryFolder(t)
  const { observed } = await serveFakeAgent(t, run)
  const compact = await headgate(['observe', '--last', '5', '--verdict', 'dropped', '--port', '80', '--set', `paths.run=${run}`])
  t.is(
    compact.stdout,
    '03:04:05.678 ingress default/cli:4000 -> default/web:80 HTTP/1.1 GET web/\\x1b[31madmin 403 dropped by envoy (policy_denied; policy default/web)\n',
  )
  t.is(compact.stderr, '3 flows lost\n')
  t.like(observed[0], { last: 5, follow: false, verdicts: ['dropped'], ports: [80] })
  const json = await headgate(['observe', '-o', 'json', '--set', `paths.run=${run}`])
  t.like(JSON.parse(json.stdout), { verdict: 'dropped' })
  t.is((await headgate(['observe', '--verdict', 'maybe', '--set', `paths.run=${run}`])).exitCode, 2)
})

test('observe --follow goes on with the next agent', async (t) => {
  const run = temporaryFolder(t)
  const first = await serveFakeAgent(t, run)
  const child = spawn(join(ROOT, 'bin/headgate'), ['observe', '-f', '-o', 'json', '--set', `paths.run=${run}`])
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  t.false((await lines.next()).done)
  first.close()
  const second = await serveFakeAgent(t, run)
  t.false((await lines.next()).done)
  t.like(second.observed[0], { last: 0, follow: true })
  child.kill('SIGINT')
})

test('policy wait ends in 1 when Envoy refused rules and when it takes too long', async (t) => {
  const run = temporaryFolder(t)
  let answer = true
  await serveFakeAgent(t, run, {
    waitPolicy: (_call, reply) => {
      if (answer) reply(null, create(WaitPolicyResponseSchema, { revision: 9n, refused: [{ slotId: 4, rule: 'r', reason: 'too large' }] }))
    },
  })
  const refused = await headgate(['policy', 'wait', '--set', `paths.run=${run}`])
  t.is(refused.exitCode, 1)
  t.regex(refused.stderr, /error HG-1103: .*\n {2}slot 4 r: too large/)
  answer = false
  const late = await headgate(['policy', 'wait', '--timeout', '200ms', '--set', `paths.run=${run}`])
  t.is(late.exitCode, 1)
  t.regex(late.stderr, /error HG-1104/)
})

test('policy wait waits for an agent that is not there yet', async (t) => {
  const run = temporaryFolder(t)
  const waiting = headgate(['policy', 'wait', '--timeout', '20s', '--set', `paths.run=${run}`])
  // Give it a head start; it succeeds either way, so no sleep decides the result.
  await new Promise((resolve) => setTimeout(resolve, 300))
  await serveFakeAgent(t, run)
  const outcome = await waiting
  t.is(outcome.exitCode, 0, outcome.stderr)
  t.is(outcome.stdout, 'in force: revision 9\n')
})

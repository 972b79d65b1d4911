import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { CountsSource } from '#api/gen/headgate/v1/control_pb.js'
import { ReceivedEntries, resetReceived } from '#proxy/access-log/received.ts'
import { askAdmin } from '#proxy/envoy/admin.ts'
import { OTHER_RULES, VerdictCounter } from '#proxy/ext-host/verdict-counter.ts'
import { countsOf, parseRuleStat, readEnvoyCounts } from '#proxy/verdict-counts.ts'

const PREFIX = 'http.slots.rbac.policy.'

/** A name as policy makes them has slashes; everything else may be in it. */
const ruleName = fc.tuple(fc.string(), fc.string()).map(([a, b]) => `${a}/${b}`)

test('the name of any rule comes back out of the names of its statistics', (t) => {
  fc.assert(
    fc.property(ruleName, (rule) => {
      t.deepEqual(parseRuleStat(`${PREFIX}${rule}.allowed`), { rule, verdict: 'allowed' })
      t.deepEqual(parseRuleStat(`${PREFIX}deny/${rule}.denied`), { rule, verdict: 'denied' })
      t.deepEqual(parseRuleStat(`${PREFIX}audit-deny/${rule}.shadow_denied`), { rule, verdict: 'audited' })
      t.is(parseRuleStat(`${PREFIX}${rule}.shadow_allowed`), undefined)
    }),
  )
})

test('what stands for no rule has none, and what is left to the extension host is not counted here', (t) => {
  t.deepEqual(parseRuleStat(`${PREFIX}*.allowed`), { rule: '', verdict: 'allowed' })
  t.deepEqual(parseRuleStat(`${PREFIX}none.denied`), { rule: '', verdict: 'denied' })
  t.deepEqual(parseRuleStat(`${PREFIX}invalid.denied`), { rule: '', verdict: 'denied' })
  t.deepEqual(parseRuleStat(`${PREFIX}audit-none.shadow_denied`), { rule: '', verdict: 'audited' })
  for (const name of ['ext-host.allowed', 'ok.shadow_allowed', 'allowed', '', 'a/b']) t.is(parseRuleStat(PREFIX + name), undefined, name)
  t.is(parseRuleStat('http.slots.rbac.allowed'), undefined)
  t.is(parseRuleStat(`x${PREFIX}a/b.allowed`), undefined)
})

test('totals leave out what the extension host judges, and are never negative', (t) => {
  const stats = Object.entries({
    'http.slots.rbac.allowed': 10,
    'http.slots.rbac.denied': 4,
    'http.slots.rbac.shadow_denied': 3,
    'http.slots.ext_proc.streams_started': 6,
    'http.slots.ext_proc.streams_failed': 1,
    'http.slots.ext_proc.message_timeouts': 2,
    'access_logs.grpc_access_log.logs_dropped': 5,
    [`${PREFIX}none.denied`]: 3,
    [`${PREFIX}invalid.denied`]: 1,
    [`${PREFIX}a/b.allowed`]: 4,
    [`${PREFIX}a/c.allowed`]: Number.NaN,
    'cluster.x': 7,
  }).map(([name, value]) => ({ name, value }))
  const { totals, rules, flowsDropped } = countsOf(stats)
  t.like(totals, { allowed: 4n, denied: 4n, audited: 3n, failed: 3n })
  t.is(flowsDropped, 5n)
  t.deepEqual(
    rules.map(({ rule, counts }) => [rule, counts?.allowed, counts?.denied]),
    [
      ['', 0n, 4n],
      ['a/b', 4n, 0n],
    ],
  )
  t.is(countsOf([{ name: 'http.slots.ext_proc.streams_started', value: 6 }]).totals.allowed, 0n)
})

const asking = (adminSocket: string, flowsReceived?: bigint) => ({ adminSocket, totalsOnly: true, flowsReceived: () => flowsReceived })

/** An admin socket that answers as it is told. */
async function admin(t: ExecutionContext, listener: RequestListener): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-admin-'))
  const path = join(folder, 'admin.sock')
  const server = createServer(listener)
  server.listen(path)
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
    rmSync(folder, { recursive: true })
  })
  return path
}

test('an Envoy that is silent, slow, talkative, broken or away is a problem, in time', async (t) => {
  const silent = await admin(t, () => {})
  t.deepEqual(await askAdmin(silent, '/', { timeoutMs: 50 }), { problem: 'Envoy does not answer within 50 ms' })
  const slow = await admin(t, (_request, response) => {
    const timer = setInterval(() => response.write('x'), 5)
    response.on('close', () => clearInterval(timer))
  })
  t.deepEqual(await askAdmin(slow, '/', { timeoutMs: 100 }), { problem: 'Envoy does not answer within 100 ms' })
  const talkative = await admin(t, (_request, response) => response.end('x'.repeat(100_000)))
  t.deepEqual(await askAdmin(talkative, '/', { bytesMax: 99_999 }), { problem: "Envoy's answer is longer than 99999 bytes" })
  t.like(await askAdmin(talkative, '/', { bytesMax: 100_000 }), { body: 'x'.repeat(100_000) })
  const refusing = await admin(t, (_request, response) => response.writeHead(503).end('no'))
  t.deepEqual(await askAdmin(refusing, '/'), { problem: 'Envoy does not answer: status 503' })
  const cut = await admin(t, (_request, response) => {
    response.writeHead(200, { 'content-length': 10 })
    response.write('x')
    setTimeout(() => response.destroy(), 10)
  })
  t.regex(((await askAdmin(cut, '/')) as { problem: string }).problem, /^Envoy does not answer: /)
  t.deepEqual(await askAdmin('/nowhere', '/'), { problem: 'Envoy does not answer: it does not run' })
})

test('an answer that is no statistics is a problem', async (t) => {
  for (const body of ['', 'null', '{}', '{"stats":7}', '{"stats":[']) {
    const old = await admin(t, (_request, response) =>
      response.end('{"stats":[{"name":"access_logs.grpc_access_log.logs_dropped","value":2}]}'),
    )
    t.is((await readEnvoyCounts(asking(old))).problem, 'Envoy was started by a version that does not count; restart it')
    const path = await admin(t, (_request, response) => response.end(body))
    t.regex((await readEnvoyCounts(asking(path))).problem, /no statistics/, body)
  }
  const path = await admin(t, (_request, response) =>
    response.end(
      '{"stats":[null,{"histograms":{}},{"name":"http.slots.rbac.denied","value":2},{"name":"http.slots.rbac.allowed","value":0}]}',
    ),
  )
  t.is((await readEnvoyCounts(asking(path))).totals?.denied, 2n)
})

test('verdicts of the extension host are counted by rule, and no rule too many', (t) => {
  const counter = new VerdictCounter(CountsSource.EXT_HOST, 2)
  counter.count('a/b', true)
  counter.count('', false)
  t.is(counter.report(false).problem, '')
  for (let index = 0; index < 10; index++) counter.count(`x/${index}`, index % 2 === 0)
  counter.count('a/b', false)
  const { totals, rules, problem } = counter.report(false)
  t.like(totals, { allowed: 6n, denied: 7n })
  t.deepEqual(
    rules.map(({ rule, counts }) => [rule, counts?.allowed, counts?.denied]),
    [
      [OTHER_RULES, 5n, 5n],
      ['a/b', 1n, 1n],
      ['', 0n, 1n],
    ],
  )
  t.regex(problem, /only 2 rules/)
  t.deepEqual(counter.report(true).rules, [])
})

test('flows that Envoy sent and that did not arrive are lost, with those that it dropped', async (t) => {
  const stats = {
    'http.slots.rbac.allowed': 1,
    'access_logs.grpc_access_log.logs_dropped': 2,
    'access_logs.grpc_access_log.grpc_entries_flushed': 10,
  }
  const body = JSON.stringify({ stats: Object.entries(stats).map(([name, value]) => ({ name, value })) })
  const path = await admin(t, (_request, response) => response.end(body))
  t.is((await readEnvoyCounts(asking(path, 10n))).flowsLost, 2n)
  t.is((await readEnvoyCounts(asking(path, 4n))).flowsLost, 8n)
  t.is((await readEnvoyCounts(asking(path, 11n))).flowsLost, 2n)
  // Nobody counted: what is not known is not told.
  t.is((await readEnvoyCounts(asking(path))).flowsLost, 2n)
  let arrived = 7n
  t.is((await readEnvoyCounts({ ...asking(path), flowsReceived: () => ++arrived })).flowsLost, 2n)
})

test('arrived flows are counted over restarts of the proxy, and anew with Envoy', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-received-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'flows-received')
  const first = new ReceivedEntries(path)
  t.is(first.current(), undefined)
  resetReceived(path)
  first.current()?.add(3)
  const old = first.current()
  old?.add(4)
  const second = new ReceivedEntries(path)
  t.is(second.current()?.count, 7n)
  resetReceived(path)
  t.is(first.current()?.count, 0n)
  // A late delivery of the Envoy before.
  old?.add(5)
  t.is(first.current()?.count, 0n)
  first.close()
  second.close()
})

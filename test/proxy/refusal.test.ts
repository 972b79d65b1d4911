import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { echoServer, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18082
const PORT = 20001
const BAD = '/bad('

const stack = new Stack({ upstreamPort: UPSTREAM_PORT })
const refusalsPath = join(stack.config.paths.state, 'proxy/refusals.json')

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(() => stack.close())

const rule = (name: string, path = `/${name}`) => ({ name, path })
const rejections = () =>
  stack
    .log('envoy')
    .split('\n')
    .filter((line) => line.includes('gRPC config for') && line.includes('rejected')).length

test.serial('a rule that Envoy refuses is left out and reported in its words, and the others are in force', async (t) => {
  const http = [rule('a'), rule('b', BAD), rule('c'), rule('d'), rule('e', 'x{1001}')]
  const report = await stack.agent.applied(stack.agent.change([slotOf(1, { http })]))
  t.deepEqual(report.refused.map(({ slotId, rule }) => [slotId, rule]).toSorted(), [
    [1, 'b'],
    [1, 'e'],
  ])
  for (const { rule, reason } of report.refused) t.regex(reason, rule === 'b' ? /missing \)/ : /repetition/)
  for (const path of ['/a', '/c', '/d']) t.is(await statusOf(PORT, path), 200, path)
  for (const path of ['/b', '/bad(', '/x']) t.is(await statusOf(PORT, path), 403, path)
})

test.serial('a refused ruleset leaves nothing in force that the new policy does not have', async (t) => {
  const http = [rule('c'), rule('b', BAD), rule('f')]
  const report = await stack.agent.applied(stack.agent.change([slotOf(1, { http })]))
  t.deepEqual(
    report.refused.map(({ rule }) => rule),
    ['b'],
  )
  for (const path of ['/c', '/f']) t.is(await statusOf(PORT, path), 200, path)
  for (const path of ['/a', '/d', '/b']) t.is(await statusOf(PORT, path), 403, path)
})

test.serial('what was refused once is not sent again, by this process or the next, to this Envoy or the next', async (t) => {
  const before = rejections()
  t.true(before > 0)
  await stack.kill(stack.proxy)
  stack.startProxy()
  await stack.agent.report((report) => report.pid === stack.proxy?.pid && report.appliedRevision === stack.agent.revision)
  t.is(await statusOf(PORT, '/c'), 200)
  const http = [rule('c'), rule('b', BAD), rule('g')]
  const report = await stack.agent.applied(stack.agent.change([slotOf(1, { http })]))
  t.deepEqual(
    report.refused.map(({ rule }) => rule),
    ['b'],
  )
  t.is(await statusOf(PORT, '/g'), 200)
  await stack.kill(stack.envoy)
  await stack.agent.report((one) => !one.envoyConnected)
  stack.startEnvoy()
  await stack.agent.report((one) => one.envoyConnected && one.listening.length === 1)
  const last = await stack.agent.applied(stack.agent.change([slotOf(1, { http: [...http, rule('h')] })]))
  t.deepEqual(
    last.refused.map(({ rule }) => rule),
    ['b'],
  )
  t.is(await statusOf(PORT, '/h'), 200)
  t.is(rejections(), before)
})

test.serial('bytes that Envoy refused before are refused again, not acknowledged, even if this side has forgotten them', async (t) => {
  const before = rejections()
  await stack.kill(stack.proxy)
  t.true(readFileSync(refusalsPath, 'utf8').includes('missing )'))
  rmSync(refusalsPath)
  stack.startProxy()
  const report = await stack.agent.report((one) => one.pid === stack.proxy?.pid && one.appliedRevision === stack.agent.revision)
  t.deepEqual(
    report.refused.map(({ rule }) => rule),
    ['b'],
  )
  t.true(rejections() > before)
  t.is(await statusOf(PORT, '/h'), 200)
  t.is(await statusOf(PORT, '/bad('), 403)
})

test.serial('a slot whose port is taken is reported, and listens as soon as the port is free', async (t) => {
  const { createServer } = await import('node:net')
  const squatter = createServer().listen(20007, '127.0.0.1')
  const revision = stack.agent.change([slotOf(7, { allowAll: true })])
  const report = await stack.agent.applied(revision)
  t.deepEqual(
    report.refused.filter(({ slotId }) => slotId === 7).map(({ rule }) => rule),
    [''],
  )
  t.regex(report.refused.find(({ slotId }) => slotId === 7)?.reason ?? '', /Address already in use|cannot bind/)
  squatter.close()
  await stack.agent.report((one) => one.listening.includes((7 << 12) | 1) && !one.refused.some(({ slotId }) => slotId === 7))
  t.is(await statusOf(20007, '/any'), 200)
})

import test from 'ava'
import { echoServer, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18088
const PORT = 20001
const BAD = '/bad('

const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(() => stack.close())

const rule = (name: string, path = `/${name}`) => ({ name, path })
const allow = [rule('a'), rule('b'), rule('c')]

/** @returns names of what was refused, sorted */
async function refusedOf(ruleset: Parameters<typeof slotOf>[1]): Promise<string[]> {
  const report = await stack.agent.applied(stack.agent.change([slotOf(1, ruleset)]))
  for (const { reason } of report.refused) if (!/missing \)|repetition/.test(reason)) throw new Error(`another reason: ${reason}`)
  return report.refused.map(({ rule }) => rule).toSorted()
}
const statuses = (...paths: string[]) => Promise.all(paths.map((path) => statusOf(PORT, path)))

test.serial('a deny rule that Envoy refuses makes its slot deny everything, and is named', async (t) => {
  t.deepEqual(await refusedOf({ http: allow }), [])
  t.deepEqual(await refusedOf({ http: allow, httpDeny: [rule('x'), rule('y', BAD), rule('z', 'x{1001}')] }), ['y', 'z'])
  t.deepEqual(await statuses('/a', '/b', '/x', '/other'), [403, 403, 403, 403])
  t.deepEqual(await refusedOf({ http: allow, httpDeny: [rule('x')] }), [])
  t.deepEqual(await statuses('/a', '/x'), [200, 403])
  t.deepEqual(await refusedOf({ allowAll: true, httpDeny: [rule('x'), rule('w', '/(')] }), ['w'])
  t.deepEqual(await statuses('/a', '/x'), [403, 403])
})

test.serial('an allow rule that Envoy refuses is left out beside deny rules that it takes', async (t) => {
  t.deepEqual(await refusedOf({ http: [...allow, rule('q', '/q(')], httpDeny: [rule('a')] }), ['q'])
  t.deepEqual(await statuses('/a', '/b', '/c', '/q'), [403, 200, 200, 403])
})

test.serial('a shadow that Envoy refuses is dropped and its rule named, and what is enforced stays all the time', async (t) => {
  t.deepEqual(await refusedOf({ http: allow, httpDeny: [rule('a')] }), [])
  const before = stack.agent.flows.length
  let asking = true
  const asked: number[] = []
  const asker = (async () => {
    while (asking) asked.push(...(await statuses('/b')))
  })()
  const shadow = { http: [rule('b'), rule('s', '/s(')], httpDeny: [rule('t', '/t('), rule('c')] }
  t.deepEqual(await refusedOf({ http: allow, httpDeny: [rule('a')], shadow }), ['s', 't'])
  asking = false
  await asker
  t.true(asked.length > 0)
  t.true(asked.every((status) => status === 200))
  t.deepEqual(await statuses('/a', '/b', '/c'), [403, 200, 200])
  await stack.agent.flow(({ path }) => path === '/a')
  t.false(stack.agent.flows.slice(before).some(({ audit }) => audit))
})

test.serial('a shadow comes back when it is mended, and stays when only the enforced rules are bad', async (t) => {
  t.deepEqual(await refusedOf({ http: [...allow, rule('u', '/u(')], shadow: { http: [rule('b')] } }), ['u'])
  t.deepEqual(await statuses('/b', '/c', '/u'), [200, 200, 403])
  await stack.agent.flow(({ path, audit }) => path === '/c' && audit)
})

test.serial('bad rules in all parts are all named, at once when they are known, and after a restart', async (t) => {
  const bad = { http: [rule('a'), rule('v', '/v(')], httpDeny: [rule('x')], shadow: { http: [rule('r', '/r(')] } }
  t.deepEqual(await refusedOf(bad), ['r', 'v'])
  t.deepEqual(await statuses('/a', '/x'), [200, 403])
  const rejections = () =>
    stack
      .log('envoy')
      .split('\n')
      .filter((line) => line.includes('gRPC config for') && line.includes('rejected')).length
  const before = rejections()
  await stack.kill(stack.proxy)
  stack.startProxy()
  await stack.agent.report((report) => report.pid === stack.proxy?.pid && report.appliedRevision === stack.agent.revision)
  t.deepEqual(await refusedOf({ ...bad, http: [...bad.http, rule('b')] }), ['r', 'v'])
  t.deepEqual(await statuses('/a', '/b'), [200, 200])
  t.deepEqual(await refusedOf({ ...bad, httpDeny: [rule('v', '/v(')] }), ['v'])
  t.deepEqual(await statuses('/a', '/b'), [403, 403])
  t.is(rejections(), before)
})

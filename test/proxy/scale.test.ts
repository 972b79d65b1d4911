/** Many rules in one slot, and many slots, on the real Envoy: what is in force is what was asked for, and a change of it is soon there. */
import { Agent } from 'node:http'
import test from 'ava'
import { echoServer, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18099
const RULES = 10_000
const SLOTS = 1000
const BIG = 20_001
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })
const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(async () => {
  keepAlive.destroy()
  await stack.close()
})

const KINDS = [
  (n: number) => ({ path: `/exact/${n}` }),
  (n: number) => ({ path: `/begin/${n}/.*`, method: 'GET' }),
  (n: number) => ({ path: `/regex/${n}/[a-z]+(/[0-9]+)?` }),
  (n: number) => ({ path: '/same', headers: [{ name: 'x-key', value: `key-${n}` }] }),
  (n: number) => ({ path: `/[a-z]+/free${n}` }),
]
const rulesOf = (version: number) =>
  Array.from({ length: RULES }, (_, n) => ({
    name: `shop/policy/egress/${String(n).padStart(12, '0')}`,
    ...(n === 0 ? { path: `/version-${version}` } : (KINDS[n % KINDS.length] as (typeof KINDS)[number])(n)),
  }))

test.serial('ten thousand rules in one slot hold, and an edit of one is there for the next request of an open connection', async (t) => {
  t.timeout(60_000)
  const ask = (path: string, headers: Record<string, string> = {}) => statusOf(BIG, path, { agent: keepAlive, headers })
  let startedMs = performance.now()
  await stack.agent.applied(stack.agent.change([slotOf(1, { http: rulesOf(1) })]))
  t.log(`in force after ${Math.round(performance.now() - startedMs)} ms`)
  for (const n of [5, 5000, 9995]) {
    t.is(await ask(`/exact/${n}`), 200)
    t.is(await ask(`/begin/${n + 1}/x/y?z`), 200)
    t.is(await ask(`/regex/${n + 2}/abc/17`), 200)
    t.is(await ask('/same', { 'x-key': `key-${n + 3}` }), 200)
    t.is(await ask(`/any/free${n + 4}`), 200)
    t.is(await ask(`/exact/${n + 1}`), 403)
    t.is(await ask(`/begin/${n}/x`), 403)
    t.is(await ask(`/regex/${n + 2}/ABC`), 403)
    t.is(await ask('/same', { 'x-key': `key-${n}` }), 403)
    t.is(await ask(`/any/free${n}`), 403)
  }
  for (const version of [2, 3]) {
    startedMs = performance.now()
    await stack.agent.applied(stack.agent.change([slotOf(1, { http: rulesOf(version) })]))
    t.log(`one of them edited after ${Math.round(performance.now() - startedMs)} ms`)
    t.is(await ask(`/version-${version}`), 200)
    t.is(await ask(`/version-${version - 1}`), 403)
  }
  t.is(Object.values(keepAlive.freeSockets).flat().length, 1)
})

test.serial('a thousand slots each have their own rules', async (t) => {
  t.timeout(60_000)
  const slots = Array.from({ length: SLOTS }, (_, index) => slotOf(index + 2, { http: [{ name: 'r', path: `/slot-${index}` }] }))
  const startedMs = performance.now()
  await stack.agent.applied(stack.agent.change(slots))
  t.log(`in force after ${Math.round(performance.now() - startedMs)} ms`)
  for (const index of [0, 1, 499, 998, 999]) {
    t.is(await statusOf(BIG + 1 + index, `/slot-${index}`), 200)
    t.is(await statusOf(BIG + 1 + index, `/slot-${index + 1}`), 403)
  }
})

import { Agent } from 'node:http'
import test from 'ava'
import { echoServer, get, Load, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18083
const stack = new Stack({ upstreamPort: UPSTREAM_PORT })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(() => stack.close())

const rule = (name: string) => ({ name, path: `/${name}` })
const proxyIsBack = () =>
  stack.agent.report(
    (report) => report.pid === stack.proxy?.pid && report.envoyConnected && report.appliedRevision === stack.agent.revision,
  )
/** Envoy acknowledges a removal a moment before its workers have let go of the sockets. */
const untilRefused = async (port: number) => {
  for (let refused = false; !refused; ) {
    refused = await statusOf(port, '/').then(
      () => false,
      (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED',
    )
  }
}
/** How often Envoy took a listener or changed one, and how often it dropped one. */
const listenerChanges = () => {
  const stats = stack.admin('/stats?filter=listener_manager.listener_(added|modified|removed)')
  return stats.trim().split('\n').sort().join(' ')
}

test.serial('a listener without rules of its own denies', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(1, { http: [] })]))
  t.is(await statusOf(20001, '/a'), 403)
})

test.serial(
  'an edited rule judges the next request on a connection that is open, and none after the report sees the old one',
  async (t) => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    await stack.agent.applied(stack.agent.change([slotOf(1, { http: [rule('a')] })]))
    t.is((await get(20001, '/a', { agent })).status, 200)
    let stale = 0
    for (let round = 0; round < 50; round++) {
      const [allowed, denied] = round % 2 === 0 ? ['b', 'a'] : ['a', 'b']
      await stack.agent.applied(stack.agent.change([slotOf(1, { http: [rule(allowed)] })]))
      const answers = await Promise.all([
        get(20001, `/${denied}`, { agent }),
        get(20001, `/${denied}`),
        get(20001, `/${allowed}`, { agent }),
      ])
      if (answers[0].status !== 403 || answers[1].status !== 403 || answers[2].status !== 200) stale += 1
    }
    t.is(stale, 0)
    agent.destroy()
  },
)

test.serial('killing the proxy under load fails no request, and the next one goes on from its copy and takes nothing away', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(1, { http: [rule('a')] }), slotOf(2, { http: [rule('b')] })]))
  const before = listenerChanges()
  const allowed = new Load(20001, '/a', 4)
  const denied = new Load(20002, '/a', 2)
  // Without the agent nobody but the copy on disk can say what is wanted.
  stack.agent.stop()
  for (let round = 0; round < 3; round++) {
    await allowed.more(50)
    await stack.kill(stack.proxy)
    await allowed.more(50)
    stack.startProxy()
    await allowed.more(50)
  }
  await stack.agent.start()
  await proxyIsBack()
  await allowed.more(50)
  await Promise.all([allowed.stop(), denied.stop()])
  t.deepEqual([...allowed.statuses.keys()], [200])
  t.deepEqual([...denied.statuses.keys()], [403])
  t.deepEqual([...allowed.errors, ...denied.errors], [])
  t.is(listenerChanges(), before)
})

test.serial('a change that came while the proxy was dead is applied by the next one', async (t) => {
  await stack.kill(stack.proxy)
  const revision = stack.agent.change([slotOf(1, { http: [rule('c')] })], [2])
  t.is(await statusOf(20001, '/a'), 200)
  stack.startProxy()
  await stack.agent.applied(revision)
  t.is(await statusOf(20001, '/a'), 403)
  t.is(await statusOf(20001, '/c'), 200)
  await untilRefused(20002)
})

test.serial('a killed Envoy comes back with everything, agent or no agent', async (t) => {
  stack.agent.stop()
  await stack.kill(stack.envoy)
  await untilRefused(20001)
  const started = Date.now()
  stack.startEnvoy()
  while ((await statusOf(20001, '/c').catch(() => 0)) !== 200) await new Promise((resolve) => setImmediate(resolve))
  t.log(`${Date.now() - started} ms from start to first answer`)
  t.is(await statusOf(20001, '/a'), 403)
  await stack.agent.start()
  await proxyIsBack()
})

test.serial('a new agent with the same slots changes nothing in Envoy', async (t) => {
  const before = listenerChanges()
  stack.agent.stop()
  stack.agent.epoch = 2n
  stack.agent.revision = 1n
  await stack.agent.start()
  await stack.agent.applied(1n)
  t.is(listenerChanges(), before)
  t.is(await statusOf(20001, '/c'), 200)
})

test.serial('an update that does not fit is healed by asking for everything', async (t) => {
  stack.agent.corruptNext = true
  const revision = stack.agent.change([slotOf(1, { http: [rule('d')] })])
  await stack.agent.applied(revision)
  t.is(await statusOf(20001, '/d'), 200)
})

test.serial('200 slots are added in one change, and taken away in one', async (t) => {
  const slots = Array.from({ length: 200 }, (_, index) => slotOf(100 + index, { http: [rule(`s${index}`)] }))
  const started = Date.now()
  const report = await stack.agent.applied(stack.agent.change(slots))
  t.log(`added in ${Date.now() - started} ms`)
  t.is(report.listening.length, 201)
  const answers = await Promise.all(slots.map((slot, index) => statusOf(slot.port, `/s${index}`)))
  t.true(answers.every((status) => status === 200))
  t.is(await statusOf(20100, '/s1'), 403)
  const removal = Date.now()
  await stack.agent.applied(
    stack.agent.change(
      [],
      slots.map(({ id }) => id),
    ),
  )
  t.log(`removed in ${Date.now() - removal} ms`)
  await untilRefused(20100)
  t.is(await statusOf(20001, '/d'), 200)
})

test.serial('a slot whose id is used again has nothing of the old one', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(9, { http: [rule('old')] })]))
  t.is(await statusOf(20009, '/old'), 200)
  await stack.agent.applied(stack.agent.change([slotOf(9, { http: [rule('new')] }, { generation: 2, port: 21009 })]))
  t.is(await statusOf(21009, '/new'), 200)
  t.is(await statusOf(21009, '/old'), 403)
  await untilRefused(20009)
})

test.serial('a second proxy does not start beside the first', async (t) => {
  const first = stack.proxy
  const second = stack.startProxy()
  await new Promise((resolve) => second.once('exit', resolve))
  t.not(second.exitCode, 0)
  t.regex(stack.log('proxy'), /lock is held by process/)
  stack.proxy = first
  t.is(await statusOf(20001, '/d'), 200)
})

test.serial('a second Envoy does not start beside the first', async (t) => {
  const first = stack.envoy
  const second = stack.startEnvoy()
  await new Promise((resolve) => second.once('exit', resolve))
  t.not(second.exitCode, 0)
  t.regex(stack.log('envoy'), /lock is held by process/)
  stack.envoy = first
  t.is(first?.exitCode, null)
  t.is(await statusOf(20001, '/d'), 200)
})

import { once } from 'node:events'
import { Agent } from 'node:http'
import { createConnection } from 'node:net'
import test from 'ava'
import { echoServer, get, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18086
const PORT = 20001
const DENIED = 'no way'

// Nothing is sampled: what is seen of allowed requests is what audit asks for.
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' }, http: { deniedBody: DENIED } } })
const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(async () => {
  keepAlive.destroy()
  await stack.close()
})

type Rules = Parameters<typeof slotOf>[1]
const inForce = (ruleset: Rules) => stack.agent.applied(stack.agent.change([slotOf(1, ruleset)]))

/** The flow of a request for a path that no other test asks for. */
const flowOf = (path: string) => stack.agent.flow((flow) => flow.path === path)

test.serial('a request that a deny rule matches is denied whatever else matches, and the rule is named', async (t) => {
  await inForce({
    http: [
      { name: 'all', path: '/.*' },
      { name: 'exact', path: '/secret' },
    ],
    httpDeny: [
      { name: 'x/y/ingress/1', path: '/secret.*' },
      { name: 'x/y/ingress/0', method: 'DELETE' },
    ],
  })
  t.is(await statusOf(PORT, '/open'), 200)
  const denied = await get(PORT, '/secret')
  t.is(denied.status, 403)
  t.is(denied.body, DENIED)
  t.is(await statusOf(PORT, '/other', { method: 'DELETE' }), 403)
  t.like(await flowOf('/secret'), { allowed: false, audit: false, rule: 'x/y/ingress/1' })
  t.like(await flowOf('/other'), { allowed: false, audit: false, rule: 'x/y/ingress/0' })
})

test.serial('with allow_all everything else passes, and without any allow rule nothing does', async (t) => {
  await inForce({ allowAll: true, httpDeny: [{ name: 'd', path: '/no' }] })
  t.is(await statusOf(PORT, '/yes'), 200)
  t.is(await statusOf(PORT, '/no'), 403)
  await inForce({ httpDeny: [{ name: 'd', path: '/no' }] })
  t.is(await statusOf(PORT, '/nothing'), 403)
  t.is(await statusOf(PORT, '/no'), 403)
  t.like(await flowOf('/nothing'), { allowed: false, rule: '' })
})

test.serial('a deny rule matches by host and by header, by any value of a header that comes twice', async (t) => {
  await inForce({
    http: [{ name: 'a', path: '/.*' }],
    httpDeny: [
      { name: 'host', host: 'bad\\.example(:\\d+)?' },
      { name: 'exact', headers: [{ name: 'x-key', value: 'true' }] },
      { name: 'present', path: '/p', headers: [{ name: 'x-p' }] },
    ],
  })
  const ask = (path: string, headers: Record<string, string | string[]> = {}) => statusOf(PORT, path, { headers })
  t.is(await ask('/', { host: 'bad.example:80' }), 403)
  t.is(await ask('/', { host: 'good.example' }), 200)
  t.is(await ask('/', { 'X-Key': 'true' }), 403)
  t.is(await ask('/', { 'X-Key': 'false' }), 200)
  t.is(await ask('/p', { 'x-p': '' }), 403)
  t.is(await ask('/p'), 200)
  const socket = createConnection(PORT, '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nHost: a\r\nX-Key: false\r\nX-Key: true\r\n\r\n')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  socket.destroy()
  t.regex(answer.toString(), /^HTTP\/1\.1 403 /)
})

test.serial(
  'a deny by path is not passed by another spelling of the path, but by a query string unless its pattern allows for one',
  async (t) => {
    await inForce({
      allowAll: true,
      httpDeny: [
        { name: 'plain', path: '/secret' },
        { name: 'query', path: '/hidden(\\?.*)?' },
      ],
    })
    for (const path of ['/secret', '//secret', '/x/../secret', '/./secret', '/%73ecret', '/hidden?q', '/secret#f']) {
      t.not(await statusOf(PORT, path), 200, path)
    }
    t.is(await statusOf(PORT, '/secret?q'), 200)
  },
)

test.serial('an edit of deny rules judges the next request of an open connection', async (t) => {
  const ask = (path: string) => get(PORT, path, { agent: keepAlive })
  await inForce({ allowAll: true })
  t.is((await ask('/a')).status, 200)
  await inForce({ allowAll: true, httpDeny: [{ name: 'a', path: '/a' }] })
  t.is((await ask('/a')).status, 403)
  await inForce({ allowAll: true, httpDeny: [{ name: 'b', path: '/b' }] })
  t.is((await ask('/a')).status, 200)
  t.is((await ask('/b')).status, 403)
  await inForce({ allowAll: true })
  t.is((await ask('/b')).status, 200)
  t.is(Object.values(keepAlive.freeSockets).flat().length, 1)
})

test.serial('what the shadow denies is passed and reported at once, and nothing else is', async (t) => {
  await inForce({
    http: [{ name: 'all', path: '/shadow/.*' }],
    shadow: {
      http: [
        { name: 'a', path: '/shadow/a.*' },
        { name: 'b', path: '/shadow/b' },
      ],
      httpDeny: [{ name: 'x/y/egress/d', path: '/shadow/ad' }],
    },
  })
  t.is(await statusOf(PORT, '/shadow/a'), 200)
  t.is(await statusOf(PORT, '/shadow/b'), 200)
  const started = Date.now()
  t.is(await statusOf(PORT, '/shadow/ad'), 200)
  t.is(await statusOf(PORT, '/shadow/c'), 200)
  t.is(await statusOf(PORT, '/elsewhere'), 403)
  t.like(await flowOf('/shadow/ad'), { allowed: true, audit: true, rule: 'x/y/egress/d', status: 200 })
  t.like(await flowOf('/shadow/c'), { allowed: true, audit: true, rule: '' })
  t.log(`seen after ${Date.now() - started} ms`)
  t.like(await flowOf('/elsewhere'), { allowed: false, audit: false, rule: '' })
  t.false(stack.agent.flows.some(({ path }) => path === '/shadow/a' || path === '/shadow/b'))
})

test.serial('an empty shadow denies everything, one that allows everything only what its deny rules match', async (t) => {
  await inForce({ allowAll: true, shadow: {} })
  t.is(await statusOf(PORT, '/empty'), 200)
  t.like(await flowOf('/empty'), { allowed: true, audit: true, rule: '' })
  await inForce({ allowAll: true, shadow: { allowAll: true, httpDeny: [{ name: 's', path: '/denied-1' }] } })
  t.is(await statusOf(PORT, '/passed-1'), 200)
  t.is(await statusOf(PORT, '/denied-1'), 200)
  t.like(await flowOf('/denied-1'), { allowed: true, audit: true, rule: 's' })
  t.false(stack.agent.flows.some(({ path }) => path === '/passed-1'))
})

test.serial('a deny rule denies whatever the shadow says, and the shadow reports beside it', async (t) => {
  await inForce({
    http: [{ name: 'all', path: '/.*' }],
    httpDeny: [{ name: 'z', path: '/both-denied' }],
    shadow: { http: [{ name: 'a', path: '/both-allowed' }], httpDeny: [{ name: 'a', path: '/both-denied' }] },
  })
  t.is(await statusOf(PORT, '/both-allowed'), 200)
  t.is(await statusOf(PORT, '/both-denied'), 403)
  t.is(await statusOf(PORT, '/both-audit'), 200)
  t.like(await flowOf('/both-denied'), { allowed: false, audit: false, rule: 'z' })
  t.like(await flowOf('/both-audit'), { allowed: true, audit: true, rule: '' })
  t.false(stack.agent.flows.some(({ path }) => path === '/both-allowed'))
})

test.serial('a sampled request that the shadow denies is reported once', async (t) => {
  const sampled = new Stack({ upstreamPort: UPSTREAM_PORT + 1 })
  t.teardown(() => sampled.close())
  await sampled.start()
  await echoServer(UPSTREAM_PORT + 1)
  await sampled.agent.applied(sampled.agent.change([slotOf(2, { allowAll: true, shadow: { http: [{ name: 'a', path: '/a' }] } })]))
  t.is(await statusOf(PORT + 1, '/b'), 200)
  t.is(await statusOf(PORT + 1, '/a'), 200)
  // Samples come a second later at the latest, and all together.
  t.like(await sampled.agent.flow(({ path }) => path === '/a'), { allowed: true, audit: false, rule: '' })
  t.deepEqual(
    sampled.agent.flows.filter(({ path }) => path === '/b').map(({ audit }) => audit),
    [true],
  )
  // With deny rules the allow rule is told by the other engine.
  const ruled = slotOf(2, {
    http: [
      { name: 'c', path: '/c' },
      { name: 'all', path: '/.*' },
    ],
    httpDeny: [{ name: 'd', path: '/d' }],
  })
  await sampled.agent.applied(sampled.agent.change([ruled]))
  t.is(await statusOf(PORT + 1, '/c'), 200)
  t.like(await sampled.agent.flow(({ path }) => path === '/c'), { allowed: true, audit: false, rule: 'all' })
  t.false(/deprecat|unknown field/i.test(sampled.log('envoy')))
})

/** The extension host as a real Envoy meets it, and servers that Envoy must not meet. */
import { once } from 'node:events'
import { createServer, type ServerHttp2Stream } from 'node:http2'
import { join } from 'node:path'
import type { MessageInitShape } from '@bufbuild/protobuf'
import test from 'ava'
import { MismatchAction, type RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import { frameMessage } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { ExtHostStack } from '../support/ext-host-stack.ts'
import { get, Load } from '../support/http.ts'

const SECRET = { namespace: 'default', name: 'token' }

const RULES: MessageInitShape<typeof RulesetSchema> = {
  http: [
    { name: 'judged', headerMatches: [{ name: 'x-judged', value: 'yes', mismatch: MismatchAction.REPLACE }], path: '/|/slow' },
    { name: 'plain', path: '/plain.*' },
    { name: 'secret', path: '/secret', headerMatches: [{ name: 'x-token', secret: SECRET }] },
    { name: 'write', path: '/write', headerMatches: [{ name: 'x-token', secret: SECRET, mismatch: MismatchAction.REPLACE }] },
    {
      name: 'edits',
      path: '/edits',
      headerMatches: [
        { name: 'x-a', value: 'v', mismatch: MismatchAction.ADD },
        { name: 'x-b', value: 'v', mismatch: MismatchAction.REPLACE },
        { name: 'x-c', value: 'v', mismatch: MismatchAction.DELETE },
        { name: 'x-d', mismatch: MismatchAction.LOG },
      ],
    },
  ],
  httpDeny: [{ name: 'deny', headers: [{ name: 'x-a', value: 'bad' }] }],
}

/** What a careless server may do with the first message of a stream. */
const CARELESS: Readonly<Record<string, (stream: ServerHttp2Stream) => void>> = {
  'ends-well': (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.end()
  },
  silent: () => {},
  garbage: (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
    stream.write(frameMessage(Buffer.from([0xff, 0xff, 0xff])))
  },
  // Of ProcessingResponse: response_headers.
  'wrong-phase': (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
    stream.write(frameMessage(Buffer.from([0x12, 0])))
  },
}

const stack = new ExtHostStack()
const careless = createServer({ streamResetBurst: 1e9, streamResetRate: 1e9 })

test.before(async () => {
  careless.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    stream.once('data', () => CARELESS[String(headers['x-headgate-ruleset'])]?.(stream as ServerHttp2Stream))
  })
  const socket = join(stack.folder, 'careless.sock')
  careless.listen(socket)
  await once(careless, 'listening')
  stack.writeSecret('token', 'sesame\n')
  await stack.setRulesets({ k1: RULES })
  await stack.start({
    ours: { key: 'k1' },
    unknown: { key: 'k2' },
    'no-path': { key: 'k1', forwarded: [':method', ':authority'] },
    'response-too': { key: 'k1', mode: { response_header_mode: 'SEND' } },
    'body-too': { key: 'k1', mode: { request_body_mode: 'BUFFERED' } },
    down: { key: 'k1', socket: join(stack.folder, 'none.sock') },
    ...Object.fromEntries(Object.keys(CARELESS).map((name) => [name, { key: name, socket, timeoutMs: 300 }])),
  })
  stack.seen.length = 0
})

test.after.always(async () => {
  await stack.close()
  careless.close()
})

function reached(path: string): number {
  return stack.seen.filter((request) => request.path === path).length
}

async function logged(pattern: RegExp): Promise<void> {
  const deadline = performance.now() + 5000
  while (!pattern.test(stack.log('access'))) {
    if (performance.now() > deadline) throw new Error(`not in the log: ${pattern}\n${stack.log('access')}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test.serial('a request that a rule allows reaches the server, and its rule the access log', async (t) => {
  t.is((await get(stack.port('ours'), '/plain?x=1')).status, 200)
  t.is(reached('/plain?x=1'), 1)
  await logged(/ours \/plain\?x=1 200 via_upstream \{"(result":"allowed","rule":"plain|rule":"plain","result":"allowed)"\}/)
})

test.serial('a request that no rule allows, or one denies, is answered as the listener answers denials', async (t) => {
  for (const [path, headers] of [
    ['/other', {}],
    ['/plain-bad', { 'x-a': 'bad' }],
    ['/plain-bad', { 'x-a': ['good', 'bad'] }],
    ['/plain-bad', { 'x-a': 'good, bad ,x' }],
  ] as const) {
    const { status, body } = await get(stack.port('ours'), path, { headers: { ...headers } as Record<string, string> })
    t.deepEqual([status, body], [418, 'denied by policy'])
    t.is(reached(path), 0)
  }
  await logged(/ours \/plain-bad 418 headgate_denied .*"rule":"deny"/)
})

test.serial('a gRPC client that is denied gets its status in the headers', async (t) => {
  const { status, headers } = await get(stack.port('ours'), '/shop.Cart/Get', {
    method: 'POST',
    headers: { 'content-type': 'application/grpc', 'content-length': '0' },
  })
  t.deepEqual([status, headers['grpc-status'], headers['grpc-message']], [200, '7', 'denied by policy'])
})

test.serial('a secret lets its bearer in, as it is now', async (t) => {
  const ask = async (token?: string) =>
    (await get(stack.port('ours'), '/secret', { headers: token === undefined ? {} : { 'x-token': token } })).status
  t.is(await ask('sesame'), 200)
  t.is(await ask('wrong'), 418)
  t.is(await ask(), 418)
  stack.writeSecret('token', 'open')
  const deadline = performance.now() + 5000
  while ((await ask('open')) !== 200 && performance.now() < deadline);
  t.is(await ask('open'), 200)
  t.is(await ask('sesame'), 418)
  stack.writeSecret('token', 'sesame')
  while ((await ask('sesame')) !== 200 && performance.now() < deadline);
  t.is(await ask('sesame'), 200)
})

test.serial('a secret is written into a request, and into no log', async (t) => {
  t.is((await get(stack.port('ours'), '/write', { headers: { 'x-token': 'forged' } })).status, 200)
  const [request] = stack.seen.filter(({ path }) => path === '/write')
  t.deepEqual(
    request?.headers.filter(([name]) => name === 'x-token'),
    [['x-token', 'sesame']],
  )
  t.false(stack.log('envoy').includes('sesame') || stack.log('access').includes('sesame') || stack.log('ext-host').includes('sesame'))
})

test.serial('headers are added, replaced and removed, however often they come', async (t) => {
  t.is((await get(stack.port('ours'), '/edits', { headers: { 'x-a': ['1', '2'], 'x-b': ['1', '2'], 'x-c': ['1', '2'] } })).status, 200)
  const values = (name: string) =>
    stack.seen
      .filter(({ path }) => path === '/edits')
      .flatMap(({ headers }) => headers)
      .flatMap(([key, value]) => (key === name ? [value] : []))
      .join(',')
      .replaceAll(' ', '')
  t.deepEqual([values('x-a'), values('x-b'), values('x-c')], ['1,2,v', 'v', ''])
  await logged(/ours \/edits 200 .*"headers":\{[^}]*"x-d":"LOG"/)
})

test.serial('what cannot be judged is refused, whatever is wrong', async (t) => {
  for (const listener of ['unknown', 'no-path', 'down', 'garbage', 'wrong-phase']) {
    const path = `/plain-${listener}`
    const started = performance.now()
    t.true((await get(stack.port(listener), path)).status >= 500, listener)
    t.true(performance.now() - started < 250, listener)
    t.is(reached(path), 0, listener)
  }
})

test.serial('phases that were not to be asked about are refused', async (t) => {
  t.true((await get(stack.port('response-too'), '/plain')).status >= 500)
  const { status } = await get(stack.port('body-too'), '/plain-body', { method: 'POST', headers: { 'content-length': '0' } })
  t.true(status === 200 || status >= 500)
})

test.serial('a server that says nothing is waited for as long as configured', async (t) => {
  const started = performance.now()
  t.true((await get(stack.port('silent'), '/plain-silent')).status >= 500)
  t.true(performance.now() - started > 280)
  t.is(reached('/plain-silent'), 0)
})

// Why the extension host never ends a stream: this is what Envoy makes of it, whatever failure_mode_allow says.
test.serial('a server that ends a stream with OK before its verdict lets the request through', async (t) => {
  t.is((await get(stack.port('ends-well'), '/plain-ends')).status, 200)
  t.is(reached('/plain-ends'), 1)
})

test.serial('20,000 requests on kept connections get their answers', async (t) => {
  t.timeout(180_000)
  stack.seen.length = 0
  const load = new Load(stack.port('ours'), '/', 64)
  await load.more(20_000)
  await load.stop()
  t.deepEqual([...load.statuses.keys()], [200])
  t.deepEqual(load.errors, [])
  t.true(stack.seen.every(({ headers }) => headers.some(([name, value]) => name === 'x-judged' && value === 'yes')))
})

test.serial('a request that was judged goes on when the extension host dies', async (t) => {
  const before = reached('/slow')
  const answer = get(stack.port('ours'), '/slow')
  while (reached('/slow') === before) await new Promise((resolve) => setTimeout(resolve, 5))
  await stack.kill(stack.extHost)
  t.is((await answer).status, 200)
  t.is((await get(stack.port('ours'), '/')).status, 503)
  await stack.startExtHost()
  t.is((await get(stack.port('ours'), '/')).status, 200)
})

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  test.serial(`${signal} under load: requests are judged or refused, and none slips by`, async (t) => {
    t.timeout(120_000)
    stack.seen.length = 0
    const load = new Load(stack.port('ours'), '/', 32)
    for (let round = 0; round < 4; round++) {
      await load.more(500)
      await stack.kill(stack.extHost, signal)
      await load.more(50)
      await stack.startExtHost()
    }
    await load.more(500)
    await load.stop()
    t.deepEqual(
      [...load.statuses.keys()].filter((status) => status !== 200 && status < 500),
      [],
    )
    t.deepEqual(load.errors, [])
    t.true((load.statuses.get(200) ?? 0) > 1000)
    t.true((load.statuses.get(503) ?? 0) > 0)
    t.true(stack.seen.every(({ headers }) => headers.some(([name, value]) => name === 'x-judged' && value === 'yes')))
    t.is(stack.seen.length, load.statuses.get(200) ?? 0)
  })
}

import { once } from 'node:events'
import { Agent, createServer, type Server } from 'node:http'
import test from 'ava'
import { MismatchAction } from '#api/gen/headgate/v1/control_pb.js'
import { get } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18096
const PORT = 20001
const { LOG, ADD, DELETE, REPLACE } = MismatchAction
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'all' } } })
const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })

test.before(async () => {
  await stack.start()
  await headerServer(UPSTREAM_PORT)
})
test.after.always(async () => {
  keepAlive.destroy()
  await stack.close()
})

/** Answers with the header lines that arrived. */
async function headerServer(port: number): Promise<Server> {
  const server = createServer((request, response) => {
    const lines: [string, string][] = []
    for (let index = 0; index < request.rawHeaders.length; index += 2)
      lines.push([(request.rawHeaders[index] ?? '').toLowerCase(), request.rawHeaders[index + 1] ?? ''])
    response.end(JSON.stringify(lines))
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  server.unref()
  return server
}

type Rules = Parameters<typeof slotOf>[1]
const inForce = (ruleset: Rules) => stack.agent.applied(stack.agent.change([slotOf(1, ruleset)]))

/** Lines of a header as they arrived; undefined when the request was denied. */
async function arrived(path: string, name: string, lines: readonly string[]): Promise<readonly string[] | undefined> {
  const headers = ['host', 'shop', ...lines.flatMap((line) => [name, line])]
  const { status, body } = await get(PORT, path, { agent: keepAlive, headers: headers as never })
  if (status === 403) return undefined
  return (JSON.parse(body) as [string, string][]).filter(([key]) => key === name).map(([, value]) => value)
}

const rule = (mismatch: MismatchAction, value?: string) => ({
  name: 'x/y/egress/1',
  path: '/a.*',
  headerMatches: [{ name: 'x-token', mismatch, ...(value === undefined ? {} : { value }) }],
})

// What arrives of: no line, the right one, a wrong one, both, an empty one.
const LINES = [[], ['right'], ['wrong'], ['right', 'wrong'], ['']] as const
const EXPECTED = [
  [LOG, 'right', [[], ['right'], ['wrong'], ['right', 'wrong'], ['']]],
  [ADD, 'right', [['right'], ['right'], ['wrong', 'right'], ['right', 'wrong', 'right'], ['', 'right']]],
  [DELETE, 'right', [[], ['right'], [], [], []]],
  [REPLACE, 'right', [['right'], ['right'], ['right'], ['right'], ['right']]],
  [LOG, undefined, LINES],
  [ADD, undefined, LINES],
  [DELETE, undefined, LINES],
  [REPLACE, undefined, LINES],
] as const

for (const [action, value, expected] of EXPECTED) {
  test.serial(
    `${MismatchAction[action]} ${value === undefined ? 'without a value' : 'of a value'} does what it says to each kind of header`,
    async (t) => {
      await inForce({ http: [rule(action, value)] })
      for (const [index, lines] of LINES.entries()) {
        const got = await arrived('/a', 'x-token', lines)
        // Some lines come as one.
        t.is(got?.join(), expected[index]?.join(), `${JSON.stringify(lines)} became ${JSON.stringify(got)}`)
      }
      t.is(await arrived('/b', 'x-token', ['wrong']), undefined)
    },
  )
}

test.serial('a mismatch without an action fails the rule, by the whole of what several lines say', async (t) => {
  await inForce({ http: [rule(MismatchAction.UNSPECIFIED, 'right')] })
  t.deepEqual(await arrived('/a', 'x-token', ['right']), ['right'])
  for (const lines of [[], ['wrong'], ['right', 'wrong'], ['wrong', 'right'], ['']]) t.is(await arrived('/a', 'x-token', lines), undefined)
})

test.serial('every rule that matches does its part, in the order of the names, and one that fails does nothing', async (t) => {
  const change = (name: string, path: string, value: string, more = {}) => ({
    name,
    path,
    headerMatches: [{ name: 'x-token', value, mismatch: REPLACE }],
    ...more,
  })
  await inForce({
    http: [
      change('3', '/.*', 'third', { headers: [{ name: 'x-token', value: 'second' }] }),
      change('1', '/a', 'first'),
      change('2', '/a|/b', 'second'),
      change('4', '/a', 'never', { headers: [{ name: 'x-token', value: 'second' }] }),
      change('5', '/a', 'never', { method: 'POST' }),
    ],
  })
  t.deepEqual(await arrived('/a', 'x-token', []), ['third'])
  t.deepEqual(await arrived('/b', 'x-token', ['x']), ['third'])
  t.is(await arrived('/c', 'x-token', ['x']), undefined)
})

test.serial('several conditions of one rule are judged before the first of them changes anything', async (t) => {
  await inForce({
    http: [
      {
        name: 'r',
        headers: [{ name: 'x-token', value: 'old' }],
        headerMatches: [
          { name: 'x-token', value: 'new', mismatch: REPLACE },
          { name: 'x-other', value: 'added', mismatch: ADD },
        ],
      },
    ],
  })
  const { body } = await get(PORT, '/', { headers: { 'x-token': 'old' } })
  t.regex(body, /\["x-token","new"\].*\["x-other","added"\]/)
  t.is(await arrived('/', 'x-token', ['new']), undefined)
})

test.serial('values are written as they are, whatever they look like to Envoy', async (t) => {
  for (const value of ['100%', '%REQ(:path)%', '%%', 'a b, c', '"quoted"', 'ü']) {
    await inForce({ http: [{ name: 'r', headerMatches: [{ name: 'x-token', value, mismatch: REPLACE }] }] })
    const [got] = (await arrived('/', 'x-token', ['wrong'])) ?? []
    t.is(Buffer.from(got ?? '', 'latin1').toString(), value)
  }
})

test.serial('header actions work beside allow-all and never beside a denial', async (t) => {
  await inForce({ allowAll: true, http: [rule(REPLACE, 'right')], httpDeny: [{ name: 'd', path: '/admin' }] })
  t.deepEqual(await arrived('/a', 'x-token', ['wrong']), ['right'])
  t.deepEqual(await arrived('/other', 'x-token', ['wrong']), ['wrong'])
  t.is(await arrived('/admin', 'x-token', ['wrong']), undefined)
})

test.serial('a flow says which headers were not as wanted and what was done, never a value', async (t) => {
  await inForce({ http: [rule(REPLACE, 's3cret'), { ...rule(LOG, 'other'), name: 'x/y/egress/2' }] })
  t.deepEqual(await arrived('/a/flow', 'x-token', ['wr0ng']), ['s3cret'])
  const flow = await stack.agent.flow(({ path }) => path === '/a/flow')
  t.deepEqual(
    flow.headerNotes.map(({ name, action }) => [name, action]),
    [['x-token', LOG]],
  )
  t.false(JSON.stringify(flow, (_key, value) => (typeof value === 'bigint' ? String(value) : value)).includes('s3cret'))
})

test.serial('rules with and without actions follow each other on an open connection without draining it', async (t) => {
  const ask = () => arrived('/a', 'x-token', ['wrong'])
  await inForce({ http: [{ name: 'plain', path: '/a' }] })
  t.deepEqual(await ask(), ['wrong'])
  await inForce({ http: [rule(REPLACE, 'right')] })
  t.deepEqual(await ask(), ['right'])
  await inForce({ http: [rule(REPLACE, 'newer')] })
  t.deepEqual(await ask(), ['newer'])
  await inForce({ http: [{ name: 'plain', path: '/a' }] })
  t.deepEqual(await ask(), ['wrong'])
  await inForce({})
  t.is(await ask(), undefined)
  t.is(Object.values(keepAlive.freeSockets).flat().length, 1)
})

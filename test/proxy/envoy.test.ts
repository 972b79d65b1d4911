import { once } from 'node:events'
import { type Agent, createServer, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import test from 'ava'
import { Stack, slotOf } from './support/stack.ts'

const upstream = createServer((request, response) => {
  response.end(`${request.method} ${request.url}`)
})

let stack: Stack

test.before(async () => {
  stack = new Stack({ upstreamPort: 18080 })
  await stack.start()
  upstream.listen(18080, '127.0.0.1')
  await once(upstream, 'listening')
  upstream.unref()
})
test.after.always(() => stack.close())

interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

async function get(port: number, path: string, options: RequestOptions & { agent?: Agent } = {}): Promise<Answer> {
  const request = httpRequest({ host: '127.0.0.1', port, path, ...options })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString() }
}

test.serial('a request that a rule allows passes, any other gets 403', async (t) => {
  const revision = stack.agent.change([slotOf(1, { http: [{ name: 'ns/p/egress/a', path: '/public.*', method: 'GET' }] })])
  const report = await stack.agent.applied(revision)
  t.deepEqual(report.listening, [(1 << 12) | 1])
  t.true(report.envoyConnected)
  t.is(report.envoyVersion, '1.40.0')
  t.is(report.refused.length, 0)

  const allowed = await get(20001, '/public/x?y=1')
  t.is(allowed.status, 200)
  t.is(allowed.body, 'GET /public/x?y=1')
  const denied = await get(20001, '/private')
  t.log(await stack.agent.flow((one) => one.path === '/private'))
  t.is(denied.status, 403)
  t.is(denied.body, 'Access denied')
  t.log(denied.headers)

  const flow = await stack.agent.flow((one) => one.path === '/private')
  t.is(flow.status, 403)
  t.false(flow.allowed)
  t.is(flow.slotId, 1)
  const good = await stack.agent.flow((one) => one.path === '/public/x?y=1')
  t.true(good.allowed)
  t.is(good.rule, 'ns/p/egress/a')
  t.log(good)
})

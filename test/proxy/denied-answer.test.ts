import { once } from 'node:events'
import http2, { type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2'
import { status as grpcStatus, Metadata } from '@grpc/grpc-js'
import test from 'ava'
import { deniedAnswers } from '#proxy/xds/denied-answer.ts'
import { GrpcClient, KINDS } from './support/grpc.ts'
import { get } from './support/http.ts'
import { exchange, firstLine, headerLines, RawUpstream } from './support/raw-http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18087
const PORT = 20001
const RULE = 'ns/secret-rule-name/egress/0'
/** Whatever could mean something to a format string, a header, JSON or gRPC. */
const BODY = '100% of %REQ(:path)% %LOCAL_REPLY_BODY% %%s are "denied"\r\nx-evil: 1\n\ttab \\ é€𝄞\u0001 <b>'
const STATUS = 451

const configured = { deniedBody: BODY, deniedStatus: STATUS }
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' }, http: configured } })
const upstream = new RawUpstream()
/** Two ways to be denied: by a rule, and by the lack of one. */
const RULES = { http: [{ name: `${RULE}-allow`, path: '/open' }], httpDeny: [{ name: RULE, path: '/secret.*' }] }
const DENIED_PATHS = ['/secret', '/elsewhere']

test.before(async () => {
  await stack.start()
  await upstream.listen(UPSTREAM_PORT)
  await stack.agent.applied(stack.agent.change([slotOf(1, RULES)]))
})
test.after.always(async () => {
  await upstream.close()
  await stack.close()
})
test.serial.beforeEach(() => {
  upstream.requests.length = 0
  upstream.response = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
})

const PROBLEM = { type: 'about:blank', title: 'Unavailable For Legal Reasons', status: STATUS, detail: BODY }

test.serial('a denied request gets the status and the body of the settings, whatever characters it holds', async (t) => {
  for (const path of DENIED_PATHS) {
    const answer = await get(PORT, path)
    t.is(answer.status, STATUS)
    t.is(answer.body, BODY)
    t.is(answer.headers['content-type'], 'text/plain; charset=utf-8')
    t.is(answer.headers['content-length'], String(Buffer.byteLength(BODY)))
    t.is(answer.headers['cache-control'], 'no-store')
    t.deepEqual(Object.keys(answer.headers).toSorted(), ['cache-control', 'content-length', 'content-type', 'date'])
  }
  t.like(await stack.agent.flow(({ path }) => path === '/secret'), { allowed: false, rule: RULE, status: STATUS })
})

test.serial('clients that accept JSON get a problem document, and others do not', async (t) => {
  for (const accept of [
    'application/json',
    'Application/JSON',
    'application/problem+json',
    'application/vnd.api+json; charset=utf-8',
    'application/*+json',
    'text/html, application/json',
    'text/html;q=0.9,application/json;q=0.001',
    'application/json;q=1.000',
    'application/json ; Q=0.5 ; ext="a b"',
    'application/json;q=0, application/problem+json',
    'application/json;quality=0',
    'application/json,',
    ' , application/json',
  ]) {
    const answer = await get(PORT, '/secret', { headers: { accept } })
    t.is(answer.status, STATUS, accept)
    t.is(answer.headers['content-type'], 'application/problem+json', accept)
    t.deepEqual(JSON.parse(answer.body), PROBLEM, accept)
    t.is(answer.headers['content-length'], String(Buffer.byteLength(answer.body)), accept)
  }
  for (const accept of [
    '*/*',
    'text/html',
    'application/*',
    'application/json;q=0',
    'application/json; q=0.000, text/html',
    'application/json;Q=0.',
    'application/json;charset=utf-8;q=0',
    'application/jsonp',
    'application/json-seq',
    'application/xml+jsonx',
    'text/json',
    'xapplication/json',
    '',
  ]) {
    const answer = await get(PORT, '/secret', { headers: { accept } })
    t.is(answer.body, BODY, accept)
    t.is(answer.headers['content-type'], 'text/plain; charset=utf-8', accept)
  }
  // Lines of the same header are one list.
  const lines = await exchange(PORT, 'GET /secret HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nAccept: application/json\r\n\r\n')
  t.true(headerLines(lines).includes('content-type: application/problem+json'))
})

test.serial('a HEAD request gets the headers and no body', async (t) => {
  for (const [accept, length] of [
    ['text/html', Buffer.byteLength(BODY)],
    ['application/json', Buffer.byteLength(JSON.stringify(PROBLEM))],
  ] as const) {
    const request = (path: string) => `HEAD ${path} HTTP/1.1\r\nHost: x\r\nAccept: ${accept}\r\n\r\n`
    const answer = await exchange(PORT, request('/secret'), 'headers')
    t.is(firstLine(answer), `HTTP/1.1 ${STATUS} Unknown`)
    t.true(headerLines(answer).includes(`content-length: ${length}`), answer)
    // The answer to a second request would be lost behind a body that is not to be there.
    const both = await exchange(PORT, request('/secret') + request('/secret').replace('Host', 'Connection: close\r\nHost'), 'end')
    t.is(both.split('\r\n\r\n').length, 3)
    t.true(both.endsWith('\r\n\r\n'))
  }
})

test.serial('HTTP/2 clients get the same', async (t) => {
  const session = http2.connect(`http://127.0.0.1:${PORT}`)
  for (const [headers, contentType, body] of [
    [{}, 'text/plain; charset=utf-8', BODY],
    [{ accept: 'application/json' }, 'application/problem+json', JSON.stringify(PROBLEM)],
    [{ ':method': 'HEAD' }, 'text/plain; charset=utf-8', ''],
  ] as const) {
    const stream = session.request({ ':path': '/secret', ...headers } satisfies OutgoingHttpHeaders)
    stream.end()
    const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders & Record<string, unknown>]
    let seen = ''
    for await (const chunk of stream) seen += String(chunk)
    t.is(answer[':status'] as unknown, STATUS)
    t.is(answer['content-type'], contentType)
    t.is(seen, body)
  }
  session.destroy()
})

test.serial('gRPC clients get PERMISSION_DENIED with the body as its message, for all kinds of call', async (t) => {
  const client = new GrpcClient(PORT)
  t.teardown(() => client.close())
  for (const kind of KINDS) {
    for (const accept of ['*/*', 'application/json']) {
      const metadata = new Metadata()
      metadata.set('accept', accept)
      const { code, details, messages, headers, trailers } = await client.call(kind, ['a'], metadata)
      t.is(code, grpcStatus.PERMISSION_DENIED, kind)
      t.is(details, BODY, kind)
      t.deepEqual(messages, [])
      t.false(JSON.stringify([headers?.getMap(), trailers?.getMap()]).includes('secret-rule'))
    }
  }
  t.is(upstream.requests.length, 0)
})

test.serial('gRPC-Web clients get it as trailers in the body', async (t) => {
  for (const [asked, expected] of [
    ['application/grpc-web', 'application/grpc-web'],
    ['application/grpc-web+proto', 'application/grpc-web'],
    ['application/grpc-web-text', 'application/grpc-web-text'],
  ] as const) {
    const answer = await get(PORT, '/a.B/C', { method: 'POST', headers: { 'content-type': asked, accept: 'application/json' } })
    t.is(answer.status, 200)
    t.is(answer.headers['content-type'], expected)
    const frame = Buffer.from(answer.body, expected.endsWith('text') ? 'base64' : 'latin1')
    if (expected.endsWith('text')) t.is(frame[0], 0x80)
    const trailers = new Map(Array.from(frame.toString('latin1', 5).matchAll(/([^:\r\n]+):(.*)\r\n/g), ([, name, value]) => [name, value]))
    t.is(trailers.get('grpc-status'), '7')
    t.is(decodeURIComponent(trailers.get('grpc-message') ?? ''), BODY)
  }
})

test.serial('no answer names the rule', async (t) => {
  for (const headers of [
    '',
    'Accept: application/json\r\n',
    'Content-Type: application/grpc\r\n',
    'Content-Type: application/grpc-web\r\n',
    'TE: trailers\r\nX-Envoy-Force-Trace: 1\r\n',
  ]) {
    for (const path of DENIED_PATHS) {
      const answer = await exchange(PORT, `GET ${path} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`)
      t.notRegex(answer, /secret-rule|rbac|envoy/i)
    }
  }
})

test.serial("a server's own answers are left alone, whatever their status", async (t) => {
  for (const line of ['403 Forbidden', `${STATUS} Mine`, '500 Mine']) {
    const answer = `HTTP/1.1 ${line}\r\nDate: x\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nmine`
    upstream.response = answer
    for (const headers of ['', 'Accept: application/json\r\n']) {
      t.is(await exchange(PORT, `GET /open HTTP/1.1\r\nHost: x\r\n${headers}\r\n`), answer)
    }
  }
})

test.serial('the proxy says itself what is wrong where nothing is denied', async (t) => {
  t.is(firstLine(await exchange(PORT, 'GET /open HTTP/1.1\r\n\r\n')), 'HTTP/1.1 400 Bad Request')
  await upstream.close()
  t.is((await get(PORT, '/open')).status, 503)
})

test.serial('a status without a name has no title, and an empty body is none', async (t) => {
  const other = new Stack({ upstreamPort: UPSTREAM_PORT, config: { http: { deniedBody: '', deniedStatus: 499 } } })
  t.teardown(() => other.close())
  await other.start()
  await other.agent.applied(other.agent.change([slotOf(2, RULES)]))
  const port = PORT + 1
  const plain = await get(port, '/secret')
  t.is(plain.status, 499)
  t.is(plain.body, '')
  const json = await get(port, '/secret', { headers: { accept: 'application/json' } })
  t.deepEqual(JSON.parse(json.body), { type: 'about:blank', status: 499, detail: '' })
  const client = new GrpcClient(port)
  t.teardown(() => client.close())
  const { code } = await client.call('Unary', ['a'], new Metadata())
  t.is(code, grpcStatus.PERMISSION_DENIED)
})

test('a message of gRPC is cut between characters to what clients take as a header, and half a character is replaced', (t) => {
  const messageOf = (body: string) => {
    const { mappers } = deniedAnswers({ status: 403, body })
    const sources = mappers.map(({ body: source }) => source?.specifier)
    return sources.map((source) => Buffer.from(source?.case === 'inlineBytes' ? source.value : '').toString())
  }
  const [, , message, json, text] = messageOf('x€'.repeat(2000))
  t.is(message, 'x€'.repeat(256))
  t.is(text, 'x€'.repeat(2000))
  t.is(JSON.parse(json ?? '').detail, text)
  t.is(messageOf('€'.repeat(342))[2], '€'.repeat(341))
  t.is(messageOf('a\ud800b').at(-1), 'a\ufffdb')
})

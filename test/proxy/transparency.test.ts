import { once } from 'node:events'
import http2, { type ClientHttp2Session, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2'
import { createConnection, createServer } from 'node:net'
import test from 'ava'
import { NORMALIZED_PATHS, REDIRECTED_PATH, REFUSED_PATHS } from '../support/paths.ts'
import { exchange, firstLine, headerLines, RawUpstream } from './support/raw-http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18081
const ANY = 20001
const RULES = 20002
const HEADER_RULES = 20003
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

const stack = new Stack({ upstreamPort: UPSTREAM_PORT })
const upstream = new RawUpstream()

test.before(async () => {
  await stack.start()
  await upstream.listen(UPSTREAM_PORT)
  const rules = {
    http: [
      { name: 'a', path: '/a' },
      { name: 'b', path: '/b/c\\?.*' },
    ],
  }
  const headerRules = {
    http: [
      { name: 'a', path: '/a', headers: [{ name: 'x-forwarded-proto', value: 'https' }] },
      { name: 'b', path: '/b', headers: [{ name: 'x-forwarded-proto' }] },
    ],
  }
  await stack.agent.applied(stack.agent.change([slotOf(1, { allowAll: true }), slotOf(2, rules), slotOf(3, headerRules)]))
})
test.after.always(() => stack.close())
test.serial.beforeEach(() => {
  upstream.requests.length = 0
  upstream.response = OK
})

/** What the server sees of a request. */
async function forwarded(request: string): Promise<string> {
  await exchange(ANY, request)
  return upstream.requests.at(-1) ?? ''
}

test.serial('a request reaches the server byte for byte as the client sent it', async (t) => {
  for (const request of [
    'GET /a HTTP/1.1\r\nHost: x\r\n\r\n',
    'GET /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: Foo\r\nAcCePt: */*\r\nX-Dup: a\r\nX-Dup: b\r\nX-Empty: \r\n\r\n',
    'POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello',
    'DELETE /a HTTP/1.1\r\nHost: x\r\nForwarded: for=1\r\nVia: 1.1 z\r\nX-Forwarded-For: 10.0.0.1\r\nX-Request-Id: abc\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n',
    'GET /a HTTP/1.1\r\nHost: x\r\nX-Envoy-Foo: y\r\nx-envoy-peer-metadata: z\r\nX-Envoy-Original-Dst-Host: 127.0.0.1:1\r\nX-Forwarded-Proto: https\r\n\r\n',
    'POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi',
  ]) {
    t.is(await forwarded(request), request)
  }
})

test.serial('a response reaches the client byte for byte, with a Date if the server sent none', async (t) => {
  const date = 'Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n'
  for (const response of [
    `HTTP/1.1 200 Fine By Me\r\n${date}Server: mine\r\nX-Envoy-Upstream-Service-Time: 5\r\nX-CaSe: a\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Request-Id: z\r\nContent-Length: 2\r\n\r\nok`,
    `HTTP/1.1 404 Not Found\r\n${date}Content-Length: 0\r\n\r\n`,
    `HTTP/1.1 200 OK\r\n${date}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`,
  ]) {
    upstream.response = response
    t.is(await exchange(ANY, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n'), response)
  }
  upstream.response = OK
  const bare = await exchange(ANY, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n')
  t.deepEqual(
    headerLines(bare).map((line) => line.split(':')[0]),
    ['Content-Length', 'date'],
  )
})

test.serial('nothing that a client says in x-envoy headers is obeyed, whatever address it claims', async (t) => {
  upstream.response = 'HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n'
  for (const address of ['', 'X-Forwarded-For: 127.0.0.1\r\n', 'X-Forwarded-For: 10.1.2.3\r\n', 'X-Forwarded-For: 8.8.8.8\r\n']) {
    upstream.requests.length = 0
    const answer = await exchange(
      ANY,
      `GET /a HTTP/1.1\r\nHost: x\r\n${address}X-Envoy-Retry-On: 5xx\r\nX-Envoy-Max-Retries: 3\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\nX-Envoy-Internal: true\r\n\r\n`,
    )
    t.is(firstLine(answer), 'HTTP/1.1 503 Unavailable')
    t.is(upstream.requests.length, 1)
  }
})

test.serial('a client cannot reach the header that keeps its own', async (t) => {
  const seen = await forwarded('GET /a HTTP/1.1\r\nHost: x\r\nx-headgate-saved-forwarded-proto: evil\r\n\r\n')
  t.deepEqual(headerLines(seen), ['Host: x'])
})

test.serial("a rule about X-Forwarded-Proto is about the client's, not about one that the proxy would add", async (t) => {
  for (const [path, header, expected] of [
    ['/a', 'X-Forwarded-Proto: https\r\n', '200 OK'],
    ['/a', 'X-Forwarded-Proto: http\r\n', '403 Forbidden'],
    ['/a', '', '403 Forbidden'],
    ['/b', 'X-Forwarded-Proto: http\r\n', '200 OK'],
    ['/b', '', '403 Forbidden'],
    ['/b', 'X-Headgate-Saved-Forwarded-Proto: http\r\n', '403 Forbidden'],
  ] as const) {
    const answer = await exchange(HEADER_RULES, `GET ${path} HTTP/1.1\r\nHost: x\r\n${header}\r\n`)
    t.is(firstLine(answer), `HTTP/1.1 ${expected}`, `${path} ${header}`)
  }
})

test.serial('paths are judged and forwarded in their normal form, and an escaped slash is sent back to be asked for openly', async (t) => {
  for (const [path, expected] of NORMALIZED_PATHS) {
    upstream.requests.length = 0
    const answer = await exchange(RULES, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    t.is(firstLine(upstream.requests[0] ?? answer), `GET ${expected} HTTP/1.1`, path)
  }
  t.not(firstLine(await exchange(RULES, 'GET \\a HTTP/1.1\r\nHost: x\r\n\r\n')), 'HTTP/1.1 200 OK')
  for (const path of ['/a/../x', '/a/', '/a?q', '/A', '/a/%2e%2e/x', '/b/c', '/%2561']) {
    t.is(firstLine(await exchange(RULES, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)), 'HTTP/1.1 403 Forbidden', path)
  }
  const [asked, location] = REDIRECTED_PATH
  const redirect = await exchange(RULES, `GET ${asked} HTTP/1.1\r\nHost: x\r\n\r\n`)
  t.is(firstLine(redirect), 'HTTP/1.1 307 Temporary Redirect')
  t.true(headerLines(redirect).includes(`location: ${location}`))
  for (const path of REFUSED_PATHS) {
    t.is(firstLine(await exchange(RULES, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)), 'HTTP/1.1 400 Bad Request', path)
  }
})

test.serial('a websocket is upgraded and carries bytes both ways, and a denied one is not', async (t) => {
  const upgrade = (path: string) =>
    `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n\r\n`
  const answer = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
  const server = createServer((socket) => {
    socket.once('data', () => {
      socket.write(answer)
      socket.on('data', (chunk) => socket.write(`echo ${chunk.toString()}`))
    })
    socket.on('error', () => {})
  })
  upstream.response = 'HTTP/1.1 426 Upgrade Required\r\nDate: x\r\nContent-Length: 4\r\n\r\nnope'
  t.is((await exchange(ANY, upgrade('/a'))).replace('connection: close\r\n', ''), upstream.response)
  await upstream.close()
  server.listen(UPSTREAM_PORT, '127.0.0.1')
  await once(server, 'listening')
  const socket = createConnection({ host: '127.0.0.1', port: RULES })
  socket.write(upgrade('/a'))
  const [head] = (await once(socket, 'data')) as [Buffer]
  t.regex(head.toString(), /^HTTP\/1\.1 101 /)
  socket.write('ping')
  const [echo] = (await once(socket, 'data')) as [Buffer]
  t.is(echo.toString(), 'echo ping')
  socket.destroy()
  t.is(firstLine(await exchange(RULES, upgrade('/no'))), 'HTTP/1.1 403 Forbidden')
  server.close()
})

type ResponseHeaders = Record<string, string | number | undefined>

async function ask(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
): Promise<{ headers: ResponseHeaders; trailersOnly: boolean; body: string }> {
  const stream = session.request(headers)
  stream.end()
  const [response, flags] = (await once(stream, 'response')) as [ResponseHeaders, number]
  let body = ''
  for await (const chunk of stream) body += String(chunk)
  return { headers: response, trailersOnly: (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0, body }
}

test.serial('HTTP/2 stays HTTP/2, adds nothing, and a denied gRPC call ends with PERMISSION_DENIED', async (t) => {
  const seen: string[][] = []
  const server = http2.createServer()
  server.on('stream', (stream: ServerHttp2Stream, _headers: IncomingHttpHeaders, _flags: number, rawHeaders: string[]) => {
    seen.push(rawHeaders)
    stream.respond({ ':status': 200, 'x-mine': 'a' })
    stream.end('ok')
  })
  server.listen(UPSTREAM_PORT, '127.0.0.1')
  await once(server, 'listening')
  const session = http2.connect(`http://127.0.0.1:${RULES}`)
  const answer = await ask(session, { ':path': '/a', 'user-agent': 'Foo', 'x-forwarded-proto': 'gopher', te: 'trailers' })
  t.is(answer.headers[':status'], 200)
  t.deepEqual(
    Object.keys(answer.headers).filter((name) => !name.startsWith(':')),
    ['x-mine', 'date'],
  )
  const names = (seen[0] ?? []).filter((_, index) => index % 2 === 0)
  t.deepEqual(names.toSorted(), [':authority', ':method', ':path', ':scheme', 'te', 'user-agent', 'x-forwarded-proto'])
  t.is(seen[0]?.[seen[0].indexOf('x-forwarded-proto') + 1], 'gopher')
  t.is(seen[0]?.[seen[0].indexOf(':scheme') + 1], 'http')

  const denied = await ask(session, { ':path': '/no' })
  t.is(denied.headers[':status'], 403)
  t.is(denied.body, 'Access denied')
  const grpc = await ask(session, { ':path': '/pkg.Service/Method', ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' })
  t.is(grpc.headers[':status'], 200)
  t.is(grpc.headers['grpc-status'], '7')
  t.is(grpc.headers['grpc-message'], 'Access denied')
  t.true(grpc.trailersOnly)
  const flow = await stack.agent.flow((one) => one.path === '/a' && one.protocol === 'HTTP/2')
  t.is(flow.scheme, 'http')
  session.destroy()
  server.close()
})

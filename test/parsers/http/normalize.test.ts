/**
 * Our own idea of what Envoy makes of a path, held against Envoy: what the server behind it sees, where it redirects to, what it refuses.
 * A trace that normalised a path in another way would say that a request is denied which is allowed, or the other way round.
 */
import { once } from 'node:events'
import {
  connect,
  createServer as createHttp2Server,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type ServerHttp2Stream,
} from 'node:http2'
import { createServer, type Socket } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { normalizePath } from '#parsers/http/normalize.ts'
import { exchange, firstLine, headerLines } from '../../proxy/support/raw-http.ts'
import { Stack, slotOf } from '../../proxy/support/stack.ts'

const UPSTREAM_PORT = 18086
const PORT = 20001
const RANDOM_PATHS = 3000
const CONCURRENCY = 16
const stack = new Stack({ upstreamPort: UPSTREAM_PORT })

/** Paths that the server saw, one character a byte, by the number that the request carried. */
const seen = new Map<string, string>()
let count = 0

test.before(async () => {
  await stack.start()
  const http2 = createHttp2Server({ settings: { maxHeaderListSize: 1 << 20 } })
  http2.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    seen.set(String(headers['x-number']), headers[':path'] ?? '')
    stream.respond({ ':status': 200 })
    stream.end()
  })
  // Envoy speaks to the server what the client speaks to Envoy.
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('readable', () => {
      const chunk = socket.read() as Buffer | null
      if (chunk === null) return
      socket.unshift(chunk)
      if (chunk.toString('latin1').startsWith('PRI ')) http2.emit('connection', socket)
      else serveHttp1(socket)
    })
  })
  server.listen(UPSTREAM_PORT, '127.0.0.1')
  await once(server, 'listening')
  server.unref()
  await stack.agent.applied(stack.agent.change([slotOf(1, { allowAll: true })]))
})
test.after.always(() => stack.close())

function serveHttp1(socket: Socket): void {
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1')
    for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
      const [line = '', ...headers] = text.slice(0, end).split('\r\n')
      text = text.slice(end + 4)
      const number = headers.find((header) => header.startsWith('x-number: '))?.slice('x-number: '.length) ?? ''
      seen.set(number, line.slice(line.indexOf(' ') + 1, line.lastIndexOf(' ')))
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    }
  })
}

/** What becomes of a path: `path …`, `redirect …`, or `refused`. @param bytes one character each */
async function asked(bytes: string, version: 1 | 2, method = 'GET'): Promise<string> {
  count += 1
  const number = String(count)
  const { status, location } = version === 1 ? await askHttp1(bytes, method, number) : await askHttp2(bytes, method, number)
  const path = seen.get(number)
  seen.delete(number)
  if (status === 200 && path !== undefined) return `path ${path}`
  if (status === 307 && path === undefined) return `redirect ${location}`
  if (path === undefined && (status === undefined || status === 400 || status === 404)) return 'refused'
  return `status ${status} of ${path}`
}

interface Outcome {
  readonly status: number | undefined
  readonly location: string | undefined
}

async function askHttp1(bytes: string, method: string, number: string): Promise<Outcome> {
  const answer = await exchange(PORT, `${method} ${bytes} HTTP/1.1\r\nHost: x\r\nx-number: ${number}\r\n\r\n`)
  const location = headerLines(answer).find((line) => line.startsWith('location: '))
  return { status: Number(firstLine(answer).split(' ')[1]), location: location?.slice('location: '.length) }
}

/** Status is undefined when the stream is reset. */
async function askHttp2(bytes: string, method: string, number: string): Promise<Outcome> {
  const session = connect(`http://127.0.0.1:${PORT}`)
  session.on('error', () => {})
  try {
    const stream = session.request({ ':method': method, ':path': bytes, 'x-number': number })
    stream.on('error', () => {})
    stream.resume().end()
    const answered = Promise.race([once(stream, 'response'), once(stream, 'close')]).catch(() => [])
    const [headers] = (await answered) as [(IncomingHttpHeaders & IncomingHttpStatusHeader)?]
    return { status: headers?.[':status'], location: headers?.location }
  } finally {
    session.destroy()
  }
}

function expected(text: string, version: 1 | 2): string {
  const normalized = normalizePath(text, version)
  return normalized.kind === 'refused' ? 'refused' : `${normalized.kind} ${asBytes(normalized.path)}`
}

function asBytes(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}

async function hold(t: ExecutionContext, paths: readonly string[], version: 1 | 2): Promise<void> {
  const left = paths.entries()
  const differing: object[] = []
  const work = async () => {
    for (const [, path] of left) {
      const [ours, envoys] = [expected(path, version), await asked(asBytes(path), version)]
      if (ours !== envoys) differing.push({ path, ours, envoys })
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, work))
  t.deepEqual(differing.slice(0, 20), [])
}

const PATHS = [
  ...['/', '/a', '/a/', '/a/b', '/a/./b', '/a/.', '/.', '/./', '/..', '/../', '/../..', '/a/..', '/a/../', '/a/b/..', '/a/b/../../c'],
  ...['/.a', '/a/..b', '/a/b..', '/...', '/a/.../b', '/a./b', '/a../b'],
  ...['//', '///', '//a', '/a//', '/a///', '/a//b', '/a//../b', '/a/b//..//../c', '//..//b', '/.//a', '/a/.//', '/a//.', '/a//..'],
  ...['/%2e', '/a/%2e%2E/b', '/a/.%2e', '/a/%2e.', '/%2e%2e/a', '/a/%2e%2ea', '/a/%2eb'],
  ...[
    '/a%2fb',
    '/a%2Fb',
    '/a%5cb',
    '/a%5Cb',
    '/a\\b',
    '/\\a',
    '/a\\',
    '/a\\..\\b',
    '/a%2f..%2fb',
    '/a/%2e%2e%2fb',
    '/%2f',
    '/%5c%5c',
    '/%2f%2fa',
  ],
  ...[
    '/%252f',
    '/%252e%252e/',
    '/%25',
    '/%2525',
    '/%255c',
    '/%25%32%66',
    '/%%32%66',
    '/%%32f',
    '/%2%66',
    '/%%41',
    '/%%%32%66',
    '/%2%2f',
    '/%%2f',
  ],
  ...[
    '/a%',
    '/a%0',
    '/a%g0',
    '/%u002f',
    '/%a%62',
    '/%%',
    '/%%30%30',
    '/%0%30',
    '/%2%65',
    '/%%32%65/',
    '/x/%2%65%2%65/y',
    '/%4%',
    '/%4%31%',
  ],
  ...['/%00', '/a%00b', '/a/%00/../b', '/%00/..', '/a%2500', '/%01%7f%80%ff', '/%0a%0D%09%20', '/%C3%A9', '/%c0%af', '/%c0%ae%c0%ae/'],
  ...['/%41%7a%30%2d%5F%7E', '/%21%24%26%27%28%29%2a%2b%2c%3b%3d%3A%40', '/%22%3c%3E%5e%60%7b%7C%7d%5b%5D%23%3f'],
  ...["/!$&'()*+,-.:;=@[]_~", '/"<>^`{|}', '/a;b=c', '/a;/../b', '/a/..;/b', '/;/..', '/a/..;x=y;z/b', '/a/.;x', '/a/..;'],
  ...[
    '/a/..%3b/b',
    '/a/..%3B',
    '/a/%2e%2e;/b',
    '/a/%2e;x\\b',
    '/a/...;/b',
    '/a/..;%00/b',
    '/a/..;%2fb',
    '/a/..;?b',
    '/a/..x;/b',
    '/a/..;x%5c..',
    '/a/..;..',
  ],
  ...['/%2e;', '/%2e%2e;%2f', '/a\\..;/b', '/a?b=/%2e;', '/.%2e;x?y', '/%2e;/../..', '/a//%2e;', '/a%2e;b'],
  ...[
    '/?',
    '/a?',
    '/a?b',
    '/a?b?c',
    '/a?//b/../c/%2e%2e/%2f\\%00%41',
    '/a/..?b',
    '/a/../?b',
    '/a/%2e?b',
    '/a%2fb?c%2fd',
    '/a?"<>^`{|}',
    '/a//?b//c',
  ],
  ...['/a#', '/a#b', '/#', '/a?#', '/a?b#c', '#', '/a%23b', '/a%3fb?c'],
  ...['', '*', 'a', 'a/b', '?', '?a', '.', '..', './a', '\\a', '\\\\a', '%2fa', '%2e', '/a b', '/a?b c'],
  ...['/\x01', '/a\x7f', '/a?\x01', '/a\x1fb'],
  ...['/é', '/a/é/../b', '/a?é', '/é%2fb', '/日本?日本', '/%é', '/%%61é', '/\u0080', '/\u{10ffff}', '/..é', '/é/..'],
  ...[
    `/${'a'.repeat(60_000)}`,
    `/${'a/../'.repeat(10_000)}b`,
    `/${'%2f'.repeat(10_000)}`,
    `/a?${'b/../'.repeat(10_000)}`,
    `/${'%%32'.repeat(10_000)}`,
  ],
] as const

const ABSOLUTE = [
  ...[
    'http://y',
    'http://y/',
    'http://y/a',
    'http://y:80/a',
    'HTTP://y/a',
    'https://y/a',
    'Https://Y/A/../B',
    'http://y//a',
    'http://y/a%2fb',
  ],
  ...[
    'http://y/a?b',
    'http://y?a',
    'http://y/?a',
    'http://y/a#b',
    'http://y#a',
    'http://y/%00',
    'http://y/a/../..',
    'http://y/é',
    'http://',
  ],
  ...['http:///a', 'http:/a', 'http:a', 'ftp://y/a', '//y/a', 'ws://y/a', 'http://[::1]/a', 'http://[::1]:80/a'],
] as const

for (const version of [1, 2] as const) {
  test.serial(`paths that were thought of are what Envoy makes of them, in HTTP/${version}`, (t) => hold(t, PATHS, version))

  test.serial(`targets in absolute form are what Envoy makes of them, in HTTP/${version}`, (t) => hold(t, ABSOLUTE, version))
}

test.serial('a target in absolute form says whom it is for', (t) => {
  t.deepEqual(normalizePath('http://y:8080/a%2fb'), { kind: 'redirect', path: '/a/b', authority: 'y:8080' })
  t.deepEqual(normalizePath('http://y'), { kind: 'path', path: '/', authority: 'y' })
})

test.serial('a request for everything that a server has reaches no rule', async (t) => {
  for (const version of [1, 2] as const) t.is(await asked('*', version, 'OPTIONS'), 'refused')
})

test.serial('bytes that are no text are escaped one by one', async (t) => {
  t.is(await asked('/\xe9', 2), 'path /%E9')
  t.is(await asked('/\xc0\xaf/\xff/../\xed\xa0\x80', 2), 'path /%C0%AF/%ED%A0%80')
  t.is(await asked('/a?\xe9', 2), 'path /a?\xe9')
})

const piece = fc.constantFrom(
  ...[
    '/',
    '/',
    '//',
    '.',
    '..',
    '/.',
    '/..',
    '/../',
    'a',
    'b',
    'c',
    '%',
    '%%',
    '%2',
    '%2f',
    '%2F',
    '%5c',
    '%5C',
    '%2e',
    '%2E',
    '%2e%2e',
    '\\',
  ],
  ...[
    '%25',
    '%252f',
    '%252e',
    '%41',
    '%61',
    '%30',
    '%32',
    '%46',
    '%66',
    '%65',
    '%00',
    '%0',
    '%20',
    '%7e',
    '%c3',
    '2',
    'f',
    'e',
    '0',
    '?',
    '?',
    ';',
    ':',
  ],
  ...['=', '&', '"', '<', '|', '[', '~', '-', '@', '%3f', '%23', '*', '+', ',', "'", '('],
)
const common = fc.array(piece, { maxLength: 14 }).map((pieces) => `/${pieces.join('')}`)
const anyByte = fc
  .array(
    fc.oneof(
      piece,
      fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
    ),
    { maxLength: 12 },
  )
  .map((pieces) => `/${pieces.join('')}`)
const anyText = fc
  .array(fc.oneof(piece, fc.string({ unit: 'binary', maxLength: 1 })), { maxLength: 12 })
  .map((pieces) => `/${pieces.join('')}`)

for (const version of [1, 2] as const) {
  test.serial(`random paths are what Envoy makes of them, in HTTP/${version}`, async (t) => {
    const seed = Date.now()
    t.log(`seed ${seed}`)
    const path = fc.oneof(
      { weight: 3, arbitrary: common },
      anyByte,
      ...(version === 2 ? [anyText.filter((text) => !/[\r\n\0]/.test(text))] : []),
    )
    await hold(t, fc.sample(path, { numRuns: RANDOM_PATHS, seed }), version)
  })
}

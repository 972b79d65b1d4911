/**
 * Whatever a client tries, what reaches the server is what policy allows, judged in the form in which it is forwarded. Every attack says
 * what it is answered with, and after all of them everything that the server saw is judged once more.
 */
import { once } from 'node:events'
import http2 from 'node:http2'
import { createConnection } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { askRaw, type RawHeader, type RawRequest } from './support/raw-h2.ts'
import { type Received, RecordingUpstream } from './support/recording-upstream.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18088
const [PATHS, DENY, HOSTS, TUNNEL, TOKEN, BAD, BAD_HOST, OPEN] = [20001, 20002, 20003, 20004, 20005, 20006, 20007, 20008]
const PARALLEL = 12
/** An answer too many would come in this time. */
const GRACE_MS = 15

const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })
const upstream = new RecordingUpstream()

const RULES = {
  http: [
    { name: 'a', path: '/public' },
    { name: 'b', method: 'GET', path: '/api/v1/.*' },
  ],
}
const isAllowedPath = ({ method, path }: Received) => path === '/public' || (method === 'GET' && /^\/api\/v1\/[^\n]*$/.test(path))
const isNotAdmin = ({ path }: Received) => !path.startsWith('/admin') && !path.includes('secret')
const valuesOf = ({ headers }: Received, name: string) => headers.filter(([one]) => one === name).map(([, value]) => value)

test.before(async () => {
  await stack.start()
  await upstream.listen(UPSTREAM_PORT)
  await stack.agent.applied(
    stack.agent.change([
      slotOf(1, RULES),
      slotOf(2, {
        allowAll: true,
        httpDeny: [
          { name: 'd', path: '/admin.*' },
          { name: 'q', path: '/x\\?.*secret.*' },
        ],
      }),
      slotOf(3, { http: [{ name: 'h', host: 'good\\.example(:\\d+)?' }] }),
      slotOf(4, { http: [...RULES.http, { name: 'c', method: 'CONNECT', host: 'good\\.example:443' }] }),
      slotOf(5, { http: [{ name: 't', headers: [{ name: 'x-token', value: 'right' }] }] }),
      slotOf(6, { allowAll: true, httpDeny: [{ name: 'd', headers: [{ name: 'x-bad', value: 'bad' }] }] }),
      slotOf(7, { allowAll: true, httpDeny: [{ name: 'd', host: 'bad\\.example' }] }),
      slotOf(8, { http: [{ name: 'all' }] }),
    ]),
  )
})
test.after.always(async () => {
  upstream.close()
  await stack.close()
})
test.serial.beforeEach(() => upstream.clear())

/** Statuses of everything that comes back on a connection; 0 when it was closed without an answer. */
async function answersTo(port: number, bytes: string, count: number): Promise<number[]> {
  const socket = createConnection({ host: '127.0.0.1', port })
  let seen = ''
  const statuses = () => Array.from(seen.matchAll(/HTTP\/1\.[01] (\d{3}) /g), ([, status]) => Number(status))
  socket.on('error', () => {})
  const closed = once(socket, 'close').then(() => true)
  const signal = AbortSignal.timeout(3000)
  const answered = new Promise<boolean>((resolve) => {
    signal.addEventListener('abort', () => resolve(false))
    socket.on('data', (chunk) => {
      seen += chunk.toString('latin1')
      if (statuses().length >= count) setTimeout(() => resolve(false), GRACE_MS)
    })
  })
  socket.write(bytes, 'latin1')
  await Promise.race([closed, answered])
  socket.destroy()
  return statuses().length === 0 ? [0] : statuses()
}

type Attack = readonly [bytes: string, ...statuses: number[]]

/** So that a difference can be read. */
function shortened([what, ...rest]: readonly [unknown, ...unknown[]]): unknown[] {
  return [JSON.stringify(what).slice(0, 120), ...rest]
}

/** @param isAllowed what the policy of the port says, of a request as the server sees it */
async function attack(t: ExecutionContext, port: number, attacks: readonly Attack[], isAllowed: (request: Received) => boolean) {
  const seen: Attack[] = []
  for (let index = 0; index < attacks.length; index += PARALLEL) {
    const batch = attacks.slice(index, index + PARALLEL)
    seen.push(
      ...(await Promise.all(
        batch.map(async ([bytes, ...statuses]) => [bytes, ...(await answersTo(port, bytes, statuses.length))] as const),
      )),
    )
  }
  t.deepEqual(seen.map(shortened), attacks.map(shortened))
  t.deepEqual(upstream.violations, [])
  t.deepEqual(
    upstream.received.filter((request) => !isAllowed(request)),
    [],
  )
}

const get = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
const ADMIN = get('/admin')

test.serial('no spelling of a path gets past a rule that allows others', async (t) => {
  const denied = ['/admin', '/public/../admin', '/public/%2e%2e/admin', '/public/.%2E/admin', '/./admin', '//admin', '/public//..//admin']
  const others = ['/public/..;/admin', '/public;/../admin', '/public\\..\\admin', '/%61dmin', '/%2561dmin', '/public/%252e%252e/admin']
  const odd = ['/../../admin', '/public/%c0%ae%c0%ae/admin', '/ADMIN', '/public/', '/public?x', '/public%', '/public%zz', '/public%2']
  const inside = ['/api/v1/../../admin', '/api/v1/..', '/api/v1/%2e%2e/x', '/api/v1', '/api/v1?x', '/public%0d%0aX:%20y', '/public%20']
  const redirected = ['/%2fadmin', '/x/%2F../admin', '/public%5c..%5cadmin', '/public%2f', '/..%2fadmin', '/api/v1/%2e%2e%2f%2e%2e%2fadmin']
  const refused = [
    '/admin%00',
    '/public%00',
    '/public#/admin',
    '\\admin',
    'admin',
    '*',
    '',
    '/ public',
    '/public admin',
    '/public\tx',
    '/\x80',
  ]
  const raw = ['/public\xe9', '/api/v1/\xff', '/api/v1/x?\xc3\xa9', '/api/v1/x?\xff', '/public\x7f', '/public\x01', 'public']
  await attack(
    t,
    PATHS,
    [
      ...[...denied, ...others, ...odd, ...inside].map((path): Attack => [get(path), 403]),
      ...redirected.map((path): Attack => [get(path), 307]),
      ...[...refused, ...raw, '/api/v1/%2e%2e;/%2e%2e;/admin', '/api/v1/%2e;'].map((path): Attack => [get(path), 400]),
      ...['/public', '/x/../public', '//public', '/api/v1/x?y=../../admin', '/api/v1/x%25', '/api/v1/a;b'].map(
        (path): Attack => [get(path), 200],
      ),
    ],
    isAllowedPath,
  )
  t.is(upstream.received.length, 6)
})

test.serial('no spelling of a path gets past a rule that denies it', async (t) => {
  const denied = ['/admin', '/admin/x', '/public/../admin', '/public/%2e%2e/admin', '/./admin', '//admin', '/x/..;/admin', '/x;/../admin']
  const others = [
    '/%61dmin',
    '/a%64min?x',
    '/admin%ff',
    '/admin%0a',
    '/admin?%0a',
    '/x\\..\\admin',
    '/../../admin',
    '/x/..;a=b/admin',
    '/x/.;/../admin',
    '/..;/admin',
  ]
  await attack(
    t,
    DENY,
    [
      ...[...denied, ...others].map((path): Attack => [get(path), 403]),
      ...['/%2fadmin', '/x%5c..%5cadmin'].map((path): Attack => [get(path), 307]),
      ...[
        '/admin\xff',
        '/admin?\xff',
        '/admin\x80',
        '/admin%00',
        '/admin#',
        '/admin\x7f',
        '/x/%2e%2e;/admin',
        '/x/.%2E;a=b/admin',
        '/x/%2e;/admin',
      ].map((path): Attack => [get(path), 400]),
      ...['http://other/admin', 'HTTP://other/admin', 'http://other//x/../admin', 'https://x:443/admin'].map(
        (target): Attack => [get(target), 403],
      ),
      ...['/x', '/admin/..;/x/../y', '/x/..%3b/admin', '/x?/%2e%2e;/'].map((path): Attack => [get(path), 200]),
    ],
    isNotAdmin,
  )
})

test.serial('an absolute target is judged, and forwarded, as the host and the path that it holds', async (t) => {
  const target = (url: string, host: string) => `GET ${url} HTTP/1.1\r\nHost: ${host}\r\n\r\n`
  await attack(
    t,
    PATHS,
    [
      [get('http://other/admin'), 403],
      [get('http://x/../admin'), 403],
      [get('http://public'), 403],
      [get('http://x?/public'), 404],
      [get('ftp://x/public'), 400],
      [get('http:///public'), 400],
      [get('http:/public'), 400],
      [get('http://x/public#y'), 400],
      [get('http://x\\@y/public'), 400],
      [get('x:80'), 400],
    ],
    isAllowedPath,
  )
  await attack(
    t,
    HOSTS,
    [
      [target('http://good.example/', 'evil'), 200],
      [target('http://user:pw@good.example:80/', 'evil'), 200],
      [target('http://evil/', 'good.example'), 403],
      [target('http://good.example@evil/', 'good.example'), 403],
      [target('http://evil/good.example', 'good.example'), 403],
    ],
    ({ host }) => /^good\.example(:\d+)?$/.test(host),
  )
  t.deepEqual(upstream.lines.toSorted(), ['GET / good.example', 'GET / good.example:80'])
})

test.serial('the host that is judged is the one that the server sees, and there is one', async (t) => {
  const request = (lines: string) => `GET / HTTP/1.1\r\n${lines}\r\n\r\n`
  const denied = ['GOOD.example', 'good.example\r\nHost: evil', 'evil\r\nHost: good.example']
  const others = [
    'good.example.',
    'user@good.example',
    'good.example:',
    'good.example:80@evil',
    'evil:80:good.example',
    'good.example%2eevil',
    '',
  ]
  const refused = [
    'good.example, evil',
    'good.example evil',
    'good.example\r\n evil',
    'good.example/evil',
    'good.example#x',
    'good.example\x00',
  ]
  const raw = ['good.example\xff', 'http://good.example', 'evil\r\n:authority: good.example', 'good.example\x7f', 'good.example?x']
  await attack(
    t,
    HOSTS,
    [
      ...[...denied, ...others].map((host): Attack => [request(`Host: ${host}`), 403]),
      ...[...refused, ...raw].map((host): Attack => [request(`Host: ${host}`), 400]),
      [request('Host : good.example'), 400],
      [request(' Host: good.example'), 400],
      [request('X: y'), 400],
      [request('hOsT:\tgood.example:80 '), 200],
    ],
    ({ host }) => /^good\.example(:\d+)?$/.test(host),
  )
})

test.serial('a body ends where its request says, in one way, and what follows is judged', async (t) => {
  const post = (rest: string) => `POST /public HTTP/1.1\r\nHost: x\r\n${rest}`
  const chunked = (body: string, encoding = 'Transfer-Encoding: chunked') => post(`${encoding}\r\n\r\n${body}`)
  const whole = '5\r\nhello\r\n0\r\n\r\n'
  const lengths = [
    '5\r\nContent-Length: 6',
    '5\r\nContent-Length: 5',
    '5, 5',
    '+5',
    '-1',
    '0x5',
    '5 5',
    '99999999999999999999',
    '',
    '5\x00',
    '٥',
  ]
  const encodings = ['chunked, chunked', 'xchunked', 'chunked, identity', 'identity', 'identity, chunked', 'gzip, chunked', 'chunked, gzip']
  const stranger = [
    'chunked;x=y',
    '"chunked"',
    'chunked,',
    ', chunked',
    '',
    'chunked\r\nTransfer-Encoding: chunked',
    'chunked\r\nTransfer-Encoding: x',
  ]
  const sizes = ['0x5', '-5', '+5', 'ffffffffffffffff5', '10000000000000005', 'g', '5_', '', '5\x00', '5;\nGET /admin']
  await attack(
    t,
    PATHS,
    [
      ...lengths.map((length): Attack => [post(`Content-Length: ${length}\r\n\r\nhello!${ADMIN}`), 400]),
      ...['Content-Length : 5', 'Content-Length\t: 5', ' Content-Length: 5', 'Content-Length\x00: 5'].map(
        (line): Attack => [post(`${line}\r\n\r\nhello`), 400],
      ),
      [post(`Content-Length: 0\r\n\r\n${ADMIN}`), 200, 403],
      [post(`Content-Length: 05\r\n\r\nhello${ADMIN}`), 200, 403],
      [post(`Content_Length: ${ADMIN.length}\r\n\r\n${ADMIN}`), 200, 403],
      [post(`Content-Length: ${ADMIN.length + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${ADMIN}`), 400],
      [post(`Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${whole}${ADMIN}`), 400],
      [post(`Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n${whole}${ADMIN}`), 400],
      ...[...encodings, ...stranger].map((encoding): Attack => [chunked(whole + ADMIN, `Transfer-Encoding: ${encoding}`), 501]),
      ...['chun\x00ked', '\x0bchunked', 'chunked\x7f'].map(
        (encoding): Attack => [chunked(whole + ADMIN, `Transfer-Encoding: ${encoding}`), 400],
      ),
      ...['Transfer-Encoding :chunked', 'Transfer-Encoding\t: chunked', ' Transfer-Encoding: chunked'].map(
        (line): Attack => [chunked(whole, line), 400],
      ),
      // Read in one way and written in the plain one.
      ...[
        'Transfer-Encoding:\r\n chunked',
        'Transfer-Encoding: \tChunked ',
        'Transfer-Encoding: chunked\n'.trim(),
        'transfer-encoding: chunked',
      ].map((line): Attack => [chunked(whole + ADMIN, line), 200, 403]),
      [post(`X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello${ADMIN}`), 200, 403],
      [post(`Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello${ADMIN}`), 200, 403],
      [post(`X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello${ADMIN}`), 200, 403],
      [post(`X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello`), 400],
      ...sizes.map((size): Attack => [chunked(`${size}\r\nhello\r\n0\r\n\r\n${ADMIN}`), 400]),
      ...['5;x=y', '5 ', '05', '5;x="y"', '5;x="'].map((size): Attack => [chunked(`${size}\r\nhello\r\n0\r\n\r\n${ADMIN}`), 200, 403]),
      ...['5\nhello\n0\n\n', '5\r\nhelloXX0\r\n\r\n', '5\r\nhello0\r\n\r\n', '5\rhello\r0\r\r', `\r\n${whole}`].map(
        (body): Attack => [chunked(body + ADMIN), 400],
      ),
      [chunked(`5\r\nhello\r\n0\r\nX: y\r\n\r\n${ADMIN}`), 200, 403],
      [chunked(`5\r\nhello\r\n0\r\nX : y\r\n\r\n${ADMIN}`), 400],
    ],
    isAllowedPath,
  )
  // GET and HEAD have bodies too.
  await attack(
    t,
    PATHS,
    [
      [`GET /public HTTP/1.1\r\nHost: x\r\nContent-Length: ${ADMIN.length}\r\n\r\n${ADMIN}${ADMIN}`, 200, 403],
      [`HEAD /public HTTP/1.1\r\nHost: x\r\nContent-Length: ${ADMIN.length}\r\n\r\n${ADMIN}${ADMIN}`, 200, 403],
      // The body of a denied request is not the next request.
      [`POST /admin HTTP/1.1\r\nHost: x\r\nContent-Length: ${get('/public').length}\r\n\r\n${get('/public')}`, 403],
      [`POST /admin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${whole}${get('/public')}`, 403],
    ],
    isAllowedPath,
  )
})

test.serial('names and values of headers are clean when they reach the server', async (t) => {
  const line = (text: string) => get('/public', `${text}\r\n`)
  const refused = [
    'X: a\nb',
    'X: a\x00b',
    'X\r: a',
    'X\n: a',
    'X\x00: a',
    'X Y: a',
    '"X": a',
    'X(: a',
    ': a',
    'noColon',
    'X\xff: a',
    'X: a\x01',
    'X: a\x7f',
  ]
  await attack(
    t,
    PATHS,
    [
      ...refused.map((text): Attack => [line(text), 400]),
      ...['X_Y: a', 'X: \xff', 'X: a\r\n\tb', 'X:', 'X: a\rb', 'X: y\r\r\nZ: a', 'Connection: keep-alive, X-Foo\r\nX-Foo: a'].map(
        (text): Attack => [line(text), 200],
      ),
      [line('Connection: close, Host'), 400],
    ],
    isAllowedPath,
  )
})

test.serial('a rule about a header sees what the server sees of it', async (t) => {
  const line = (text: string) => get('/', `${text}\r\n`)
  await attack(
    t,
    TOKEN,
    [
      ...['X-Token: right', 'x-token:right', 'X-Token:\tright ', 'X-Token:\r\n right', 'X-Token: ri\rght'].map(
        (text): Attack => [line(text), 200],
      ),
      ...['X-Token: wrong', 'X_Token: right', 'X-Token: RIGHT', 'X-Token: "right"', 'X-Token: right\xff', 'X-Token: right;', ''].map(
        (text): Attack => [get('/', text === '' ? '' : `${text}\r\n`), 403],
      ),
      // Named as a matter of this connection only, it does not reach the server.
      [line('Connection: X-Token\r\nX-Token: right'), 403],
      [`GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Token: right\r\n\r\n`, 403],
    ],
    (request) => valuesOf(request, 'x-token').join() === 'right',
  )
  await attack(
    t,
    BAD,
    [
      ...['X-Bad: bad', 'x-bad:bad', 'X-Bad: bad\t', 'X-Bad:\r\n bad', 'X-Bad: b\rad'].map((text): Attack => [line(text), 403]),
      ...['X-Bad: good', 'X-Bad: bad\xff', 'X_Bad: bad', 'Connection: X-Bad\r\nX-Bad: bad'].map((text): Attack => [line(text), 200]),
    ],
    (request) => !valuesOf(request, 'x-bad').includes('bad'),
  )
})

test.serial('lines of the same header are one value to an allow rule, and a deny rule sees each part of it too', async (t) => {
  const line = (text: string) => get('/', `${text}\r\n`)
  await attack(
    t,
    TOKEN,
    ['right\r\nX-Token: wrong', 'wrong\r\nX-Token: right', 'right,wrong', 'right\r\nX-Token: right'].map(
      (text): Attack => [line(`X-Token: ${text}`), 403],
    ),
    () => false,
  )
  await attack(
    t,
    BAD,
    ['ok\r\nX-Bad: bad', 'bad\r\nX-Bad: ok', 'ok, bad', 'bad,ok', 'a,bad ,c', 'a\r\nX-Bad: b, bad', ',bad,'].map(
      (text): Attack => [line(`X-Bad: ${text}`), 403],
    ),
    () => false,
  )
  await attackH2(t, BAD, [[h2('/', [['x-bad', ' bad ']]), 403]], () => false)
  await attack(
    t,
    BAD_HOST,
    [
      ...['bad.example', 'bad.example:80'].map((host): Attack => [`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 403]),
      ...['bad.example\r\nHost: x', 'x\r\nHost: bad.example'].map((host): Attack => [`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 400]),
    ],
    () => false,
  )
})

test.serial('a request line is read in one way', async (t) => {
  const start = (line: string) => `${line}\r\nHost: x\r\n\r\n`
  const refused = [
    ' GET /public HTTP/1.1',
    'get /public HTTP/1.1',
    'GET /public',
    'GET /public HTTP/1.1 HTTP/1.1',
    'G\x00ET /public HTTP/1.1',
  ]
  const others = [
    'GET /public\x00 HTTP/1.1',
    'GET /public\tx HTTP/1.1',
    'GET /public http/1.1',
    'GET, /api/v1/x HTTP/1.1',
    'Get /api/v1/x HTTP/1.1',
    'GET /public HTTP/1.1\x85',
  ]
  const read = [
    'GET  /public HTTP/1.1',
    'GET\t/public\tHTTP/1.1',
    'GET /public HTTP/1.1 ',
    '\r\nGET /public HTTP/1.1',
    'GET /public HTTP/0.9',
    'GET /public HTTP/2.0',
  ]
  await attack(
    t,
    PATHS,
    [
      ...[...refused, ...others].map((line): Attack => [start(line), 400]),
      ...read.map((line): Attack => [start(line), 200]),
      [start('GET /admin HTTP/1.1\r\nX: /public HTTP/1.1'), 403],
      [start('POST /api/v1/x HTTP/1.1'), 403],
      [start('OPTIONS * HTTP/1.1'), 404],
      ...['X-HTTP-Method-Override: GET', 'X-HTTP-Method: GET', 'X-Method-Override: GET'].map(
        (line): Attack => [start(`POST /api/v1/x HTTP/1.1\r\n${line}`), 403],
      ),
    ],
    isAllowedPath,
  )
})

const STEERING = [
  'X-Original-URL: /public',
  'X-Rewrite-URL: /public',
  'X-Envoy-Original-Path: /public',
  'X-Envoy-Original-Dst-Host: 127.0.0.1:1',
  'X-Envoy-Original-Host: good.example',
  'X-Envoy-Original-Method: GET',
  'X-Envoy-Upstream-Rq-Timeout-Ms: 1',
  'X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms: 1',
  'X-Envoy-Upstream-Alt-Stat-Name: evil',
  'X-Envoy-Decorator-Operation: evil',
  'X-Envoy-Expected-Rq-Timeout-Ms: 1',
  'X-Envoy-Retry-On: 5xx,gateway-error,reset,retriable-4xx',
  'X-Envoy-Retry-Grpc-On: cancelled',
  'X-Envoy-Max-Retries: 9',
  'X-Envoy-Retriable-Status-Codes: 200',
  'X-Envoy-Hedge-On-Per-Try-Timeout: true',
  'X-Envoy-Upstream-Rq-Timeout-Alt-Response: 204',
  'X-Envoy-Force-Trace: true',
  'X-Envoy-Internal: true',
  'X-Envoy-Attempt-Count: 7',
  'X-Envoy-Is-Timeout-Retry: true',
  'X-Forwarded-Host: good.example',
  'X-Forwarded-Proto: https',
  'X-Forwarded-For: 10.0.0.1',
  'Grpc-Timeout: 1n',
]

test.serial('no header of a client steers the proxy', async (t) => {
  const all = STEERING.map((line) => `${line}\r\n`).join('')
  for (const lines of [...STEERING.map((line) => `${line}\r\n`), all, `${all}Content-Type: application/grpc\r\n`]) {
    await attack(
      t,
      PATHS,
      [
        [get('/public', lines), 200],
        [get('/admin', lines), lines.includes('application/grpc') ? 200 : 403],
      ],
      isAllowedPath,
    )
    await attack(t, HOSTS, [[get('/', lines), lines.includes('application/grpc') ? 200 : 403]], isAllowedPath)
    t.deepEqual(upstream.lines, ['GET /public x'], lines)
    upstream.clear()
  }
  t.false(stack.admin('/stats').includes('evil'))
})

test.serial('a slow server is waited for, and asked once, whatever a client says', async (t) => {
  upstream.answer = 'HTTP/1.1 503 Slow\r\nContent-Length: 0\r\n\r\n'
  upstream.delayMs = 150
  const all = STEERING.map((line) => `${line}\r\n`).join('')
  t.deepEqual(await answersTo(PATHS, get('/public', all), 1), [503])
  t.is(upstream.received.length, 1)
})

test.serial('each of several requests on one connection is judged, and answered in order', async (t) => {
  const bursts: Attack[] = [
    [get('/public') + ADMIN, 200, 403],
    [ADMIN + get('/public'), 403, 200],
    [get('/public') + get('/api/v1/x') + ADMIN, 200, 200, 403],
    [`POST /public HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello${ADMIN}`, 200, 403],
    [`${get('/public')}GARBAGE\r\n\r\n${get('/public')}`, 200, 400],
  ]
  await attack(t, PATHS, bursts, isAllowedPath)
  // One after the other.
  const socket = createConnection({ host: '127.0.0.1', port: PATHS })
  t.teardown(() => socket.destroy())
  for (const [path, status] of [
    ['/public', 200],
    ['/admin', 403],
    ['/public', 200],
    ['/admin', 403],
    ['/admin', 403],
    ['/api/v1/x', 200],
  ] as const) {
    socket.write(get(path))
    const [answer] = (await once(socket, 'data')) as [Buffer]
    t.true(answer.toString().startsWith(`HTTP/1.1 ${status} `), path)
  }
})

test.serial('only what a rule allows becomes a tunnel, and only when the server agrees', async (t) => {
  const connect = (target: string, more = '', host = 'good.example:443') => `CONNECT ${target} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`
  const upgrade = (name: string, path = '/public', more = '') =>
    `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: ${name}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n${more}\r\n`
  const isAllowed = (request: Received) =>
    isAllowedPath(request) || (request.method === 'CONNECT' && request.path === 'good.example:443' && request.host === 'good.example:443')
  for (const port of [PATHS, TUNNEL]) {
    const allowed = port === TUNNEL
    await attack(
      t,
      port,
      [
        [connect('evil:443'), 403],
        [connect('good.example:22'), 403],
        [connect('good.example:443', '', 'evil'), allowed ? 200 : 403],
        [connect('good.example:443', 'Content-Length: 5\r\n') + ADMIN, 400],
        [connect('good.example:443', 'Transfer-Encoding: chunked\r\n') + ADMIN, 501],
        ...['/public', 'http://good.example:443/', 'good.example', '', '*'].map((target): Attack => [connect(target), 400]),
        // What follows is a request, not the inside of a tunnel.
        [upgrade('h2c') + ADMIN, 200, 403],
        [upgrade('H2C', '/admin') + ADMIN, 403, 403],
        ...['websocket', 'WebSocket'].map((name): Attack => [upgrade(name) + ADMIN, 200]),
        [upgrade('websocket', '/admin') + get('/public'), 403],
        ...['h2c, websocket', 'websocket, h2c', 'foo', 'tcp', 'CONNECT', 'connect-ip', ''].map(
          (name): Attack => [upgrade(name) + ADMIN, 403],
        ),
        [upgrade('connect-udp'), 404],
        [get('/public', 'Upgrade: websocket\r\n') + ADMIN, 200, 403],
      ],
      isAllowed,
    )
  }
})

test.serial('a tunnel needs a rule that names its method, where rules have conditions or deny', async (t) => {
  const connect = `CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n${ADMIN}`
  const statuses: number[] = []
  for (const port of [HOSTS, BAD_HOST, BAD, TOKEN]) statuses.push(...(await answersTo(port, connect, 1)).slice(0, 1))
  t.deepEqual(statuses, [403, 403, 403, 403])
  t.deepEqual(upstream.received, [])
  // Whoever restricts nothing means everything.
  t.is((await answersTo(OPEN, connect, 1))[0], 200)
})

test.serial('a denied host is denied in every spelling', async (t) => {
  const spellings = [
    'bad.example',
    'BAD.example',
    'bad.example.',
    'bad.example:80',
    'bad.example.:8080',
    'u@bad.example',
    'u:p@Bad.Example:1',
    'bad.example:',
  ]
  for (const host of spellings) t.not((await answersTo(BAD_HOST, `GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 1))[0], 200, host)
  t.deepEqual(upstream.received, [])
  for (const host of ['good.example', 'notbad.example', 'bad.example.org']) {
    t.is((await answersTo(BAD_HOST, `GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 1))[0], 200, host)
  }
})

test.serial('what is no trailer does not go on as one', async (t) => {
  const trailers = [
    'Host: evil',
    'Content-Length: 5',
    'Transfer-Encoding: chunked',
    'Authorization: x',
    'Cookie: a=b',
    'X-Forwarded-For: 1.1.1.1',
    'X-Checksum: ok',
  ]
  const request = `POST /public HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n${trailers.join('\r\n')}\r\n\r\n`
  await answersTo(OPEN, request, 1)
  t.deepEqual(
    upstream.received.map((received) => received.trailers.map(([name, value]) => `${name}: ${value}`)),
    [['x-checksum: ok']],
  )
})

test.serial('over HTTP/2 with prior knowledge each stream is judged', async (t) => {
  const session = http2.connect(`http://127.0.0.1:${PATHS}`)
  t.teardown(() => session.destroy())
  const ask = async (path: string) => {
    const stream = session.request({ ':path': path })
    stream.resume()
    const [headers] = (await once(stream, 'response')) as [Record<string, unknown>]
    await once(stream, 'close')
    return headers[':status']
  }
  const paths = ['/public', '/admin', '/public/../admin', '//admin', '/public', '/api/v1/x', '/%2e%2e/admin']
  t.deepEqual(await Promise.all(paths.map(ask)), [200, 403, 403, 403, 200, 200, 403])
  t.deepEqual(
    upstream.received.filter((request) => !isAllowedPath(request)),
    [],
  )
  t.is(upstream.received.length, 3)
})

/** A request as it should be, with some headers replaced, added or left out. */
function h2(path: string | undefined, more: readonly RawHeader[] = [], changes: Partial<Record<string, string | null>> = {}): RawHeader[] {
  const pseudo = { ':method': 'GET', ':scheme': 'http', ':authority': 'x', ':path': path, ...changes }
  return [...Object.entries(pseudo).filter((pair): pair is [string, string] => typeof pair[1] === 'string'), ...more]
}

async function attackH2(
  t: ExecutionContext,
  port: number,
  attacks: readonly (readonly [RawRequest | RawHeader[], number | undefined])[],
  isAllowed: (request: Received) => boolean,
) {
  const seen: (readonly [RawRequest | RawHeader[], number | undefined])[] = []
  for (let index = 0; index < attacks.length; index += PARALLEL) {
    const answers = attacks.slice(index, index + PARALLEL).map(async ([request]) => {
      const { status, ended } = await askRaw(port, Array.isArray(request) ? { headers: request } : request)
      return [request, ended === 'silent' ? Number.NaN : status] as const
    })
    seen.push(...(await Promise.all(answers)))
  }
  t.deepEqual(seen.map(shortened), attacks.map(shortened))
  t.deepEqual(upstream.violations, [])
  t.deepEqual(
    upstream.received.filter((request) => !isAllowed(request)),
    [],
  )
}

test.serial('over HTTP/2 a request that is not well formed reaches nobody', async (t) => {
  const ended = undefined
  await attackH2(
    t,
    PATHS,
    [
      [h2('/public'), 200],
      [h2('/admin'), 403],
      [h2(undefined), ended],
      [h2('/public', [[':path', '/admin']]), ended],
      [h2('/admin', [[':path', '/public']]), ended],
      [h2('/public', [[':method', 'POST']]), ended],
      [h2('/public', [[':authority', 'y']]), ended],
      [[['x', 'y'], ...h2('/public')], ended],
      [h2('/public', [[':foo', 'y']]), ended],
      [h2('/public', [[':status', '200']]), ended],
      [h2('/public', [['X-Upper', 'y']]), ended],
      [h2('/public', [['x y', 'z']]), ended],
      [h2('/public', [['x:y', 'z']]), ended],
      [h2('/public', [['', 'z']]), ended],
      [h2('/public', [['x\r\ny', 'z']]), ended],
      [h2('/public', [['x\xff', 'z']]), ended],
      [h2('/public', [['x', 'a\r\nX-Token: right']]), ended],
      [h2('/public', [['x', 'a\nb']]), ended],
      [h2('/public', [['x', 'a\rb']]), ended],
      [h2('/public', [['x', 'a\x00b']]), ended],
      [h2('/public', [['connection', 'close']]), ended],
      [h2('/public', [['transfer-encoding', 'chunked']]), ended],
      [h2('/public', [['keep-alive', 'x']]), ended],
      [h2('/public', [['proxy-connection', 'x']]), ended],
      [h2('/public', [['upgrade', 'websocket']]), ended],
      [h2('/public', [['te', 'gzip']]), ended],
      [
        h2('/public', [
          ['content-length', '5'],
          ['content-length', '6'],
        ]),
        ended,
      ],
      [h2('/public', [['content-length', '-5']]), ended],
      [{ headers: h2('/public', [['content-length', '3']], { ':method': 'POST' }), body: 'hello' }, ended],
      [h2('/public', [], { ':method': null }), ended],
      [h2('/public', [], { ':scheme': null }), ended],
      [h2('/public', [], { ':method': 'GET /admin HTTP/1.1\r\nX:' }), ended],
      [h2('/public', [], { ':method': 'G ET' }), ended],
      [h2('/public', [], { ':authority': 'x\r\nX-Token: right' }), ended],
      [h2('/public', [], { ':authority': 'x y' }), ended],
      [h2('/public HTTP/1.1\r\nX: y'), ended],
      [h2('/public\x00'), ended],
      [h2('/public /admin'), ended],
      [h2(''), ended],
      [{ headers: h2('/public', [], { ':method': 'POST' }), body: 'hello', trailers: [[':path', '/admin']] }, ended],
      [{ headers: h2('/public', [], { ':method': 'POST' }), body: 'hello', trailers: [['X-Upper', 'a']] }, ended],
    ],
    isAllowedPath,
  )
  t.deepEqual(upstream.lines, ['GET /public x'])
  // Only the stream ends: the connection may carry the requests of others.
  t.is((await askRaw(PATHS, { headers: h2('/public', [['x', 'a\nb']]) })).ended, 'reset')
})

test.serial('over HTTP/2 a path is judged, and forwarded, in its normal form, and no byte of it hides it from a rule', async (t) => {
  const ended = undefined
  await attackH2(
    t,
    PATHS,
    [
      ...['/admin', '/public/../admin', '//admin', '/%61dmin', '/api/v1/%2e%2e/x', '/public?x'].map((path) => [h2(path), 403] as const),
      ...['/%2fadmin', '/x%5c..%5cadmin'].map((path) => [h2(path), 307] as const),
      ...['/public#x', '/public%00', '/api/v1/%2e%2e;/x'].map((path) => [h2(path), 400] as const),
      ...['*', 'http://x/public', 'public', '/api/v1/\x01', '/api/v1/x?\n', '/api/v1/x?\x7f'].map((path) => [h2(path), ended] as const),
      [h2('/public\xff'), 403],
      ...['/api/v1/\xff', '/api/v1/x?\xc3\xa9', '/api/v1/x?\xff', '/api/v1/\x80'].map((path) => [h2(path), 200] as const),
      [h2('/api/v1/x', [], { ':method': 'get' }), 403],
      [h2('/api/v1/x', [], { ':method': 'POST' }), 403],
      [h2('/api/v1/x', [['x-http-method-override', 'GET']], { ':method': 'POST' }), 403],
      [h2('/public', [], { ':scheme': 'ftp' }), 200],
      [h2('/public', [], { ':scheme': 'https' }), 200],
    ],
    isAllowedPath,
  )
  await attackH2(
    t,
    DENY,
    [
      ...['/admin', '/x/../admin', '/%61dmin?x', '/x/..;/admin'].map((path) => [h2(path), 403] as const),
      ...['/admin\xff', '/admin?\xff', '/admin\x80', '/admin?\xe2\x82', '/admin\x85', '/\xff/../admin'].map(
        (path) => [h2(path), 403] as const,
      ),
      ...['/x?\xffsecret', '/x?a\xffsecret\xff', '/x?\xc3\xa9secret'].map((path) => [h2(path), 403] as const),
      [h2('/x/%2e%2e;/admin'), 400],
    ],
    isNotAdmin,
  )
})

test.serial('over HTTP/2 the host that is judged is the one that the server sees', async (t) => {
  const ended = undefined
  const authority = (value: string | null, ...more: RawHeader[]) => h2('/', more, { ':authority': value })
  const isGood = (request: Received) => [request.host, ...valuesOf(request, 'host')].every((host) => /^good\.example(:\d+)?$/.test(host))
  await attackH2(
    t,
    HOSTS,
    [
      [authority('good.example'), 200],
      [authority('good.example', ['host', 'evil']), 200],
      [authority('evil', ['host', 'good.example']), 403],
      [authority(null, ['host', 'good.example']), 200],
      [authority(null, ['host', 'evil']), 403],
      [authority(null, ['host', 'good.example'], ['host', 'evil']), ended],
      [authority(null), ended],
      [authority(''), ended],
      [authority('good.example,evil'), 403],
      [authority('user@good.example'), ended],
      [authority('GOOD.example'), 403],
      [authority('good.example\xff'), ended],
      [authority('good.example\x00'), ended],
      [authority('good.example/x'), ended],
    ],
    isGood,
  )
  upstream.clear()
  await attackH2(
    t,
    BAD,
    [
      [h2('/', [['x-bad', 'bad']]), 403],
      [
        h2('/', [
          ['x-bad', 'good'],
          ['x-bad', 'bad'],
        ]),
        403,
      ],
      [h2('/', [['x-bad', 'bad\xff']]), 200],
      // Trailers are no headers: rules have judged when they come.
      [{ headers: h2('/', [], { ':method': 'POST' }), body: 'a', trailers: [['x-bad', 'bad']] }, 200],
    ],
    (request) => !valuesOf(request, 'x-bad').includes('bad'),
  )
})

test.serial('over HTTP/2 only what a rule allows becomes a tunnel', async (t) => {
  const ended = undefined
  const connect = (authority: string, ...more: RawHeader[]): RawHeader[] => [[':method', 'CONNECT'], [':authority', authority], ...more]
  const websocket = (path: string, protocol = 'websocket') => h2(path, [], { ':method': 'CONNECT', ':protocol': protocol })
  await attackH2(
    t,
    TUNNEL,
    [
      [connect('evil:443'), 403],
      [connect('good.example:443'), 200],
      [connect('good.example:443', [':path', '/public']), ended],
      [connect('good.example:443', [':scheme', 'http'], [':path', '/public']), ended],
      [connect('good.example:443,evil'), 403],
      [websocket('/admin'), 403],
      [websocket('/public', 'foo'), ended],
      [websocket('/public', 'h2c'), ended],
      [h2('/public', [[':protocol', 'websocket']]), ended],
    ],
    (request) => isAllowedPath(request) || (request.method === 'CONNECT' && request.host === 'good.example:443'),
  )
})

test.serial('what is too long or too much is refused, and the proxy lives', async (t) => {
  const fields = (count: number) => Array.from({ length: count }, (_, index) => `X-${index}: y\r\n`).join('')
  await attack(
    t,
    PATHS,
    [
      [get(`/${'a'.repeat(50_000)}`), 403],
      [get(`/api/v1/${'a'.repeat(60_000)}`), 200],
      [get(`/api/v1/${'a/../'.repeat(15_000)}`), 200],
      [get(`/${'a'.repeat(200_000)}`), 431],
      [get('/public', `X: ${'y'.repeat(90_000)}\r\n`), 200],
      [get('/public', `X: ${'y'.repeat(200_000)}\r\n`), 431],
      [get('/public', fields(900)), 200],
      [get('/public', fields(1100)), 431],
      [get('/public', `X: y\r\n${' z\r\n'.repeat(50_000)}`), 431],
      [`POST /public HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${fields(1100)}\r\n`, 431],
      [`${'G'.repeat(200_000)} / HTTP/1.1\r\n\r\n`, 431],
      [`GET / HTTP/${'1'.repeat(200_000)}\r\n\r\n`, 431],
      [`POST /public HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;${'x'.repeat(200_000)}\r\nhello\r\n0\r\n\r\n`, 200],
    ],
    isAllowedPath,
  )
  await attackH2(
    t,
    PATHS,
    [
      [h2('/public', [['x', 'y'.repeat(200_000)]]), undefined],
      [
        h2(
          '/public',
          Array.from({ length: 1100 }, (_, index) => [`x-${index}`, 'y'] as const),
        ),
        undefined,
      ],
      [h2(`/api/v1/${'a'.repeat(60_000)}`), 200],
      [
        h2(
          '/public',
          Array.from({ length: 900 }, () => ['cookie', 'a=b'] as const),
        ),
        200,
      ],
    ],
    isAllowedPath,
  )
  t.is(stack.envoy?.exitCode, null)
  t.is(stack.envoy?.signalCode, null)
})

/** What clients and servers of many kinds say to each other, through the proxy: as if it were not there, until a rule says no. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Agent, createServer, request as httpRequest, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import http2, { type ServerHttp2Stream } from 'node:http2'
import { createConnection, type Socket, type Server as TcpServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type ClientDuplexStream,
  status as grpcStatus,
  Metadata,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { DEFINITIONS, GrpcClient, KINDS, serveGrpc } from './support/grpc.ts'
import { get } from './support/http.ts'
import { exchange, firstLine, headerLines } from './support/raw-http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18089
const PORT = 20001
const BODY_BYTES = 64 * 1024 * 1024
const CHUNK_BYTES = 256 * 1024
const GROWTH_KIB_MAX = 40_000

const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })
const RULES = {
  http: [
    { name: 'a', path: '/open.*' },
    { name: 'g', path: '/test\\.Bytes/.*' },
  ],
}
const inForce = (ruleset: Parameters<typeof slotOf>[1]) => stack.agent.applied(stack.agent.change([slotOf(1, ruleset)]))

test.before(async () => {
  await stack.start()
  await inForce(RULES)
})
test.after.always(() => stack.close())

async function listen<T extends TcpServer>(t: ExecutionContext, server: T): Promise<T> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(UPSTREAM_PORT, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  })
  return server
}

const serve = (t: ExecutionContext, listener: RequestListener): Promise<Server> => listen(t, createServer(listener))

async function bodyOf(stream: AsyncIterable<unknown>): Promise<string> {
  let body = ''
  for await (const chunk of stream) body += String(chunk)
  return body
}

test.serial('kept connections are kept on both sides', async (t) => {
  let connections = 0
  const server = await serve(t, (request, response) => response.end(request.url))
  server.on('connection', () => {
    connections += 1
  })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  for (const path of ['/open/1', '/open/2', '/closed', '/open/3']) {
    const answer = await get(PORT, path, { agent })
    t.is(answer.status === 200 ? answer.body : '', path === '/closed' ? '' : path)
  }
  t.is(Object.values(agent.freeSockets).flat().length, 1)
  t.is(connections, 1)
})

test.serial('an HTTP/1.0 client gets an answer that it can read, up to the end of the connection', async (t) => {
  await serve(t, (_request, response) => {
    response.write('a')
    response.end('b')
  })
  const answer = await exchange(PORT, 'GET /open HTTP/1.0\r\nHost: x\r\n\r\n', 'end')
  t.regex(answer, /^HTTP\/1\.0 200 /)
  t.false(headerLines(answer).some((line) => line.toLowerCase().startsWith('transfer-encoding')))
  t.true(answer.endsWith('\r\n\r\nab'))
  const denied = await exchange(PORT, 'GET /closed HTTP/1.0\r\nHost: x\r\n\r\n', 'end')
  t.regex(denied, /^HTTP\/1\.0 403 [\s\S]*Access denied$/)
  // Without a Host there is nothing to judge rules about hosts by.
  t.regex(await exchange(PORT, 'GET /open HTTP/1.0\r\n\r\n', 'end'), /^HTTP\/1\.0 400 /)
})

test.serial('answers without a body have none, and say how long it would be', async (t) => {
  await serve(t, (request, response) => {
    if (request.method === 'HEAD') response.writeHead(200, { 'content-length': 1234, etag: '"a"' }).end()
    else if (request.url === '/open/204') response.writeHead(204).end()
    else response.writeHead(304, { etag: '"a"' }).end()
  })
  for (const [request, line] of [
    ['HEAD /open', '200 OK'],
    ['GET /open/204', '204 No Content'],
    ['GET /open/304', '304 Not Modified'],
  ] as const) {
    const answer = await exchange(PORT, `${request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 'end')
    t.is(firstLine(answer), `HTTP/1.1 ${line}`)
    t.true(answer.endsWith('\r\n\r\n'))
    t.is(answer.split('\r\n\r\n').length, 2)
    t.is(
      headerLines(answer).find((one) => /^content-length/i.test(one)),
      line === '200 OK' ? 'content-length: 1234' : undefined,
    )
  }
})

test.serial("a server's own 100 comes before the body is sent, and a denied client gets its answer instead", async (t) => {
  const bodies: string[] = []
  const server = await serve(t, (request, response) => response.end(request.url))
  server.on('checkContinue', async (request: IncomingMessage, response) => {
    await delay(50)
    response.writeContinue()
    bodies.push(await bodyOf(request))
    response.end('done')
  })
  const head = (path: string) => `POST ${path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n`
  const socket = createConnection({ host: '127.0.0.1', port: PORT })
  t.teardown(() => socket.destroy())
  socket.write(head('/open'))
  const [first] = (await once(socket, 'data')) as [Buffer]
  t.is(first.toString(), 'HTTP/1.1 100 Continue\r\n\r\n')
  t.deepEqual(bodies, [])
  socket.write('hello')
  const [second] = (await once(socket, 'data')) as [Buffer]
  t.regex(second.toString(), /^HTTP\/1\.1 200 /)
  t.deepEqual(bodies, ['hello'])
  const denied = await exchange(PORT, head('/closed'))
  t.is(firstLine(denied), 'HTTP/1.1 403 Forbidden')
  t.is(bodies.length, 1)
})

test.serial('trailers pass both ways, over HTTP/1.1 and HTTP/2', async (t) => {
  let seen: unknown
  const server = await serve(t, async (request, response) => {
    await bodyOf(request)
    seen = request.trailers
    response.writeHead(200, { trailer: 'X-Down' })
    response.addTrailers({ 'X-Down': 'b' })
    response.end('ok')
  })
  const request = httpRequest({ host: '127.0.0.1', port: PORT, path: '/open', method: 'POST', headers: { trailer: 'X-Up' } })
  request.write('hello')
  request.addTrailers({ 'X-Up': 'a' })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  t.is(await bodyOf(response), 'ok')
  t.deepEqual(seen, { 'x-up': 'a' })
  t.deepEqual(response.trailers, { 'x-down': 'b' })
  const closed = once(server, 'close')
  server.close()
  server.closeAllConnections()
  await closed

  const h2 = http2.createServer()
  h2.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('trailers', (trailers) => {
      seen = { ...trailers }
    })
    stream.respond({ ':status': 200 }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-down': 'd' }))
    stream.resume()
    stream.on('end', () => stream.end('ok'))
  })
  await listen(t, h2 as unknown as TcpServer)
  const session = http2.connect(`http://127.0.0.1:${PORT}`)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/open', ':method': 'POST' }, { waitForTrailers: true, endStream: false })
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-up': 'c' }))
  const down = once(stream, 'trailers')
  stream.end('hello')
  t.is(await bodyOf(stream), 'ok')
  t.like(((await down) as unknown[])[0], { 'x-down': 'd' })
  t.like(seen, { 'x-up': 'c' })
})

/** No two chunks are alike. */
function chunkOf(index: number): Buffer {
  const chunk = Buffer.alloc(CHUNK_BYTES, `${index}, `)
  chunk.writeUInt32BE(index)
  return chunk
}

const residentKib = () => Number(/VmHWM:\s+(\d+)/.exec(stack.statusOfEnvoy())?.[1])

interface Duplex extends AsyncIterable<unknown> {
  write(chunk: Buffer): boolean
  end(): unknown
  once(event: 'drain', listener: () => void): unknown
}

/** Sends a body and reads it back. @returns the digests of what was sent and of what came back, and how much came before the last was sent */
async function echo(sink: Duplex, source: Promise<AsyncIterable<unknown>>) {
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  let [bytes, early] = [0, 0]
  const reading = source.then(async (stream) => {
    for await (const chunk of stream) {
      received.update(chunk as Buffer)
      bytes += (chunk as Buffer).length
    }
  })
  for (let index = 0; index < BODY_BYTES / CHUNK_BYTES; index += 1) {
    const chunk = chunkOf(index)
    sent.update(chunk)
    early = bytes
    if (!sink.write(chunk)) await new Promise<void>((resolve) => sink.once('drain', resolve))
  }
  sink.end()
  await reading
  return { sent: sent.digest('hex'), received: received.digest('hex'), early }
}

test.serial('64 MiB there and back arrive as they were sent, as they are sent, and are not kept', async (t) => {
  const server = await serve(t, (request, response) => {
    const length = request.headers['content-length']
    response.writeHead(200, length === undefined ? {} : { 'content-length': length })
    request.pipe(response)
  })
  await get(PORT, '/open')
  const before = residentKib()
  for (const headers of [{}, { 'content-length': BODY_BYTES }]) {
    const request = httpRequest({ host: '127.0.0.1', port: PORT, path: '/open', method: 'POST', headers })
    const response = once(request, 'response').then(([value]) => value as IncomingMessage)
    const { sent, received, early } = await echo(request as unknown as Duplex, response)
    t.is(received, sent)
    t.true(early > 0)
  }
  const closed = once(server, 'close')
  server.close()
  server.closeAllConnections()
  await closed

  const h2 = http2.createServer()
  h2.on('stream', (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  await listen(t, h2 as unknown as TcpServer)
  const session = http2.connect(`http://127.0.0.1:${PORT}`)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/open', ':method': 'POST' })
  const { sent, received, early } = await echo(stream, Promise.resolve(stream))
  t.is(received, sent)
  t.true(early > 0)
  t.true(residentKib() - before < GROWTH_KIB_MAX, `Envoy grew by ${residentKib() - before} KiB`)
})

test.serial('a slow upload arrives bit by bit', async (t) => {
  const seen: string[] = []
  await serve(t, async (request, response) => {
    for await (const chunk of request) seen.push(String(chunk))
    response.end('ok')
  })
  const request = httpRequest({ host: '127.0.0.1', port: PORT, path: '/open', method: 'POST' })
  for (let index = 0; index < 5; index += 1) {
    request.write(`${index}`)
    while (seen.length <= index) await delay(5)
  }
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  t.is(await bodyOf(response), 'ok')
  t.deepEqual(seen, ['0', '1', '2', '3', '4'])
})

test.serial('an answer that comes before the end of the request reaches the client', async (t) => {
  await serve(t, (_request, response) => response.writeHead(413, { connection: 'close' }).end('too much'))
  const request = httpRequest({ host: '127.0.0.1', port: PORT, path: '/open', method: 'POST', headers: { 'content-length': 1 << 20 } })
  request.on('error', () => {})
  request.write('a')
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  t.is(response.statusCode, 413)
  t.is(await bodyOf(response), 'too much')
  request.destroy()
})

test.serial('a server learns that its client has gone, in the middle of a request and of an answer', async (t) => {
  const server = await serve(t, (request, response) => {
    request.on('error', () => {})
    if (request.url === '/open/down') response.write('a')
    response.on('close', () => server.emit('gone', request.url))
  })
  for (const path of ['/open/up', '/open/down']) {
    const gone = once(server, 'gone')
    const request = httpRequest({ host: '127.0.0.1', port: PORT, path, method: 'POST', headers: { 'content-length': 10 } })
    request.on('error', () => {})
    request.on('response', (response) => response.on('error', () => {}))
    const arrived = once(server, 'request')
    request.write('a')
    await arrived
    request.destroy()
    t.deepEqual(await gone, [path])
  }
})

const UPGRADE =
  'HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n\r\n'

test.serial('a websocket carries any bytes both ways, until either side closes it', async (t) => {
  const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
  const server = await serve(t, () => {})
  server.on('upgrade', (_request: IncomingMessage, socket: Socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    socket.on('data', (chunk) => (chunk.toString() === 'bye' ? socket.end() : socket.write(chunk)))
    socket.on('error', () => {})
    socket.on('end', () => socket.end())
    socket.on('close', () => server.emit('tunnelClosed'))
  })
  for (const closer of ['server', 'client']) {
    const socket = createConnection({ host: '127.0.0.1', port: PORT })
    socket.write(`GET /open ${UPGRADE}`)
    const [head] = (await once(socket, 'data')) as [Buffer]
    t.regex(head.toString(), /^HTTP\/1\.1 101 /)
    socket.write(everyByte)
    let seen = Buffer.alloc(0)
    while (seen.length < everyByte.length) seen = Buffer.concat([seen, ((await once(socket, 'data')) as [Buffer])[0]])
    t.deepEqual(seen, everyByte)
    const closed = [once(server, 'tunnelClosed'), once(socket, 'close')]
    if (closer === 'server') socket.write('bye')
    else socket.destroy()
    await Promise.all(closed)
  }
})

test.serial('an open tunnel outlives a change of rules, and the next one is judged by them', async (t) => {
  t.teardown(() => inForce(RULES))
  const server = await serve(t, () => {})
  server.on('upgrade', (_request: IncomingMessage, socket: Socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    socket.pipe(socket)
  })
  const socket = createConnection({ host: '127.0.0.1', port: PORT })
  t.teardown(() => socket.destroy())
  socket.write(`GET /open ${UPGRADE}`)
  await once(socket, 'data')
  await inForce({})
  socket.write('still here')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  t.is(answer.toString(), 'still here')
  t.is(firstLine(await exchange(PORT, `GET /open ${UPGRADE}`)), 'HTTP/1.1 403 Forbidden')
})

const text = (value: Buffer) => value.toString()

/** Answers with what it is told, and with what it saw in the metadata. */
const bytesService = {
  Unary: (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
    const trailers = new Metadata()
    trailers.set('x-trailer', String(call.metadata.get('x-header')[0] ?? ''))
    trailers.set('x-bytes-bin', Buffer.from([0, 255, 10]))
    if (text(call.request) === 'fail') callback({ code: grpcStatus.FAILED_PRECONDITION, details: 'not now: é%', metadata: trailers })
    else if (text(call.request) !== 'hang') callback(null, call.request, trailers)
  },
  ClientStream: (call: ServerReadableStream<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
    const seen: string[] = []
    call.on('data', (message: Buffer) => seen.push(text(message)))
    call.on('end', () => callback(null, Buffer.from(seen.join('+'))))
  },
  ServerStream: (call: ServerWritableStream<Buffer, Buffer>) => {
    for (const part of text(call.request).split('+')) call.write(Buffer.from(part))
    call.end()
  },
  Bidi: (call: ServerDuplexStream<Buffer, Buffer>) => {
    call.on('data', (message: Buffer) => call.write(message))
    call.on('end', () => call.end())
    call.on('cancelled', () => cancelled.resolve())
    call.on('error', () => {})
  },
}
const cancelled = Promise.withResolvers<void>()

test.serial('gRPC calls of all kinds pass, with their metadata, errors, deadlines and cancellations', async (t) => {
  const server = await serveGrpc(UPSTREAM_PORT, bytesService)
  const client = new GrpcClient(PORT)
  t.teardown(() => {
    client.close()
    server.forceShutdown()
  })
  const metadata = new Metadata()
  metadata.set('x-header', 'seen')
  for (const [kind, sent, expected] of [
    ['Unary', ['a'], ['a']],
    ['ClientStream', ['a', 'b', 'c'], ['a+b+c']],
    ['ServerStream', ['a+b+c'], ['a', 'b', 'c']],
    ['Bidi', ['a', 'b'], ['a', 'b']],
  ] as const) {
    const outcome = await client.call(kind, sent, metadata)
    t.is(outcome.code, grpcStatus.OK, kind)
    t.deepEqual(outcome.messages, expected)
  }
  const { trailers } = await client.call('Unary', ['a'], metadata)
  t.deepEqual(trailers?.get('x-trailer'), ['seen'])
  t.deepEqual(trailers?.get('x-bytes-bin'), [Buffer.from([0, 255, 10])])
  const failed = await client.call('Unary', ['fail'], metadata)
  t.is(failed.code, grpcStatus.FAILED_PRECONDITION)
  t.is(failed.details, 'not now: é%')
  const late = await client.call('Unary', ['hang'], metadata, { deadline: Date.now() + 200 })
  t.is(late.code, grpcStatus.DEADLINE_EXCEEDED)

  const call = openBidi(client)
  call.write(Buffer.from('a'))
  await once(call, 'data')
  call.cancel()
  await cancelled.promise
  t.pass()
})

function openBidi(client: GrpcClient): ClientDuplexStream<Buffer, Buffer> {
  const { path, requestSerialize, responseDeserialize } = DEFINITIONS.Bidi
  const call = client.client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
  call.on('error', () => {})
  return call
}

test.serial('an open gRPC stream outlives a change of rules, and the next call is denied', async (t) => {
  const server = await serveGrpc(UPSTREAM_PORT, bytesService)
  const client = new GrpcClient(PORT)
  t.teardown(async () => {
    client.close()
    server.forceShutdown()
    await inForce(RULES)
  })
  const call = openBidi(client)
  const say = async (message: string) => {
    call.write(Buffer.from(message))
    t.is(String(((await once(call, 'data')) as [Buffer])[0]), message)
  }
  await say('before')
  await inForce({})
  await say('after')
  for (const kind of KINDS) t.is((await client.call(kind, ['a'], new Metadata())).code, grpcStatus.PERMISSION_DENIED, kind)
  await say('and still')
  const ended = once(call, 'end')
  call.end()
  call.resume()
  await ended
})

test.serial(
  'a client that closes its half before the answer is taken for gone: Envoy knows no half of an HTTP/1.1 connection',
  async (t) => {
    const server = await serve(t, (_request, response) => response.on('close', () => server.emit('gone')))
    const gone = once(server, 'gone')
    const socket = createConnection({ host: '127.0.0.1', port: PORT, allowHalfOpen: true })
    t.teardown(() => socket.destroy())
    const arrived = once(server, 'request')
    socket.write('GET /open HTTP/1.1\r\nHost: x\r\n\r\n')
    await arrived
    socket.end()
    t.is(await bodyOf(socket), '')
    await gone
  },
)

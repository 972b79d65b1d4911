import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import {
  FrameError,
  FrameReader,
  frameMessage,
  GRPC_STATUS,
  type GrpcHandler,
  MESSAGE_BYTES_MAX,
  serveGrpc,
} from '#proxy/ext-host/grpc/grpc-framing.ts'

const PATH = '/test.Echo/Call'

/** Echoes; what begins with "throw" throws. */
function echo(answer: (message: Buffer, send: (bytes: Buffer) => void) => void = (message, send) => send(message)) {
  return {
    path: PATH,
    open: (call: { send(frames: Buffer): void }): GrpcHandler => ({
      onMessage: (message) => answer(message, (bytes) => call.send(frameMessage(bytes))),
    }),
  }
}

async function served(t: ExecutionContext, method = echo()) {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-grpc-'))
  const path = join(folder, 'x.sock')
  const errors: Error[] = []
  const server = await serveGrpc(path, { methods: [method], onError: (error) => errors.push(error) })
  const sessions: ClientHttp2Session[] = []
  t.teardown(async () => {
    for (const session of sessions) session.destroy()
    await server.close()
    rmSync(folder, { recursive: true })
  })
  const dial = () => {
    const session = connect('http://localhost', { createConnection: () => createConnection(path) })
    session.on('error', () => {})
    sessions.push(session)
    return session
  }
  return { server, path, errors, dial }
}

interface Ended {
  readonly status: string | undefined
  readonly message: string | undefined
  readonly received: Buffer
}

/** All that becomes of a stream, until it ends or `bytes` of answers have come. */
function outcome(stream: ClientHttp2Stream, bytes = Number.POSITIVE_INFINITY): Promise<Ended> {
  return new Promise((resolve) => {
    let status: string | undefined
    let message: string | undefined
    const chunks: Buffer[] = []
    const done = () => resolve({ status, message, received: Buffer.concat(chunks) })
    stream.on('response', (headers) => {
      status = headers['grpc-status'] as string | undefined
      message = headers['grpc-message'] as string | undefined
    })
    stream.on('trailers', (headers) => {
      status = headers['grpc-status'] as string | undefined
    })
    stream.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      if (Buffer.concat(chunks).length >= bytes) done()
    })
    stream.on('error', () => {})
    stream.on('end', done)
    stream.on('close', done)
  })
}

function call(session: ClientHttp2Session, path = PATH): ClientHttp2Stream {
  return session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' })
}

test('messages are the same however they are cut', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }),
      fc.array(fc.nat(300), { maxLength: 12 }),
      (messages, cuts) => {
        const bytes = Buffer.concat(messages.map(frameMessage))
        const seen: string[] = []
        const reader = new FrameReader((message) => seen.push(message.toString('hex')))
        const points = [...new Set([0, ...cuts.filter((cut) => cut < bytes.length), bytes.length])].sort((a, b) => a - b)
        for (const [index, point] of points.entries()) reader.push(bytes.subarray(point, points[index + 1] ?? point))
        t.deepEqual(
          seen,
          messages.map((message) => Buffer.from(message).toString('hex')),
        )
      },
    ),
  )
})

test('the largest message byte by byte is put together in linear time', (t) => {
  const seen: number[] = []
  const reader = new FrameReader((message) => seen.push(message.length))
  const frame = frameMessage(Buffer.alloc(MESSAGE_BYTES_MAX))
  const started = process.cpuUsage().user
  for (let offset = 0; offset < frame.length; offset++) reader.push(frame.subarray(offset, offset + 1))
  t.deepEqual(seen, [MESSAGE_BYTES_MAX])
  t.true(process.cpuUsage().user - started < 1_000_000)
})

test('a message that is too long or compressed is refused by its prefix', (t) => {
  const refusal = (prefix: number[]) =>
    t.throws(() => new FrameReader(() => {}).push(Buffer.from(prefix)), { instanceOf: FrameError })?.status
  t.is(refusal([0, 0, 1, 0, 1]), GRPC_STATUS.resourceExhausted)
  t.is(refusal([0, 0xff, 0xff, 0xff, 0xff]), GRPC_STATUS.resourceExhausted)
  t.is(refusal([1, 0, 0, 0, 1]), GRPC_STATUS.unimplemented)
})

test('the socket is for its owner alone', async (t) => {
  const { path } = await served(t)
  t.is(statSync(path).mode & 0o777, 0o600)
})

test('messages are answered on the stream that they came on', async (t) => {
  const { dial } = await served(t)
  const stream = call(dial())
  const answered = outcome(stream, 22)
  stream.write(Buffer.concat([frameMessage(Buffer.from('one')), frameMessage(Buffer.from('two')).subarray(0, 3)]))
  stream.write(frameMessage(Buffer.from('two')).subarray(3))
  stream.write(frameMessage(Buffer.from('three')).subarray(0, 10))
  t.is(
    (await answered).received.toString('latin1'),
    ['one', 'two'].map((text) => frameMessage(Buffer.from(text)).toString('latin1')).join('') +
      frameMessage(Buffer.from('three')).toString('latin1').slice(0, 10),
  )
})

test('every failure has a status that is not OK', async (t) => {
  const { dial, errors } = await served(
    t,
    echo((message, send) => {
      if (message.toString() === 'throw') throw new Error('inside')
      send(message)
    }),
  )
  const session = dial()
  const failing = async (bytes: Buffer, path = PATH) => {
    const stream = call(session, path)
    const ended = outcome(stream)
    stream.write(bytes)
    return Number((await ended).status)
  }
  t.is(await failing(frameMessage(Buffer.from('throw'))), GRPC_STATUS.internal)
  t.is(await failing(frameMessage(Buffer.from('x')), '/test.Echo/Other'), GRPC_STATUS.unimplemented)
  t.is(await failing(Buffer.from([0, 0, 2, 0, 0])), GRPC_STATUS.resourceExhausted)
  t.is(await failing(Buffer.from([1, 0, 0, 0, 0])), GRPC_STATUS.unimplemented)
  t.is(errors.length, 1)
})

test('a failure after an answer is told too, and the end of a stream that was answered is a reset', async (t) => {
  const { dial } = await served(
    t,
    echo((message, send) => {
      if (message.toString() === 'throw') throw new Error('inside')
      send(message)
    }),
  )
  const session = dial()
  const answered = async () => {
    const stream = call(session)
    const first = outcome(stream, 6)
    stream.write(frameMessage(Buffer.from('x')))
    await first
    return stream
  }
  const failing = await answered()
  const told = outcome(failing)
  failing.write(frameMessage(Buffer.from('throw')))
  t.is(Number((await told).status), GRPC_STATUS.internal)
  const ending = await answered()
  ending.end()
  await new Promise((resolve) => ending.on('close', resolve))
  t.is(ending.rstCode, 8)
})

test('a stream that ends without a message is not answered with OK', async (t) => {
  const { dial } = await served(t)
  const stream = call(dial())
  const ended = outcome(stream)
  stream.end()
  t.is(Number((await ended).status), GRPC_STATUS.deadlineExceeded)
})

test('thousands of resets do not end the connection, and leave nothing behind', async (t) => {
  const { dial, server } = await served(t)
  const session = dial()
  for (let round = 0; round < 50; round++) {
    await Promise.all(
      Array.from({ length: 100 }, async () => {
        const stream = call(session)
        const answered = outcome(stream, 6)
        stream.write(frameMessage(Buffer.from('x')))
        t.is((await answered).received.length, 6)
        stream.close(8)
      }),
    )
  }
  t.false(session.destroyed || session.closed)
  while (server.streamCount > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  t.is(server.streamCount, 0)
})

test('bytes that are no HTTP/2 end their own connection only', async (t) => {
  const { dial, path } = await served(t)
  const session = dial()
  for (const bytes of [
    'GET / HTTP/1.1\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff',
    '\0'.repeat(100),
  ]) {
    const socket = createConnection(path)
    socket.on('error', () => {})
    socket.write(bytes, 'latin1')
    socket.resume()
    await new Promise((resolve) => socket.on('close', resolve))
  }
  const stream = call(session)
  const answered = outcome(stream, 6)
  stream.write(frameMessage(Buffer.from('x')))
  t.is((await answered).received.length, 6)
})

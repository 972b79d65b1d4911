/** Our side of HTTP/2 against Node's. */

import { mkdtempSync, rmSync } from 'node:fs'
import { type ClientHttp2Session, type ClientSessionOptions, connect, type OutgoingHttpHeaders } from 'node:http2'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { encodeLiteral, HpackDecoder, HpackError } from '#proxy/ext-host/grpc/hpack.ts'
import { Http2Connection, type Http2Stream, type StreamSink } from '#proxy/ext-host/grpc/http2-connection.ts'

const OK = Buffer.from([0x88])

interface Listening {
  readonly path: string
  readonly errors: Error[]
  readonly connections: Http2Connection[]
  readonly dial: (options?: ClientSessionOptions) => ClientHttp2Session
}

async function listening(
  t: ExecutionContext,
  open: (stream: Http2Stream, headers: readonly string[]) => StreamSink | undefined,
  streamsMax = 100,
): Promise<Listening> {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-h2-'))
  const path = join(folder, 'x.sock')
  const errors: Error[] = []
  const connections: Http2Connection[] = []
  const server: Server = createServer((socket) => {
    connections.push(new Http2Connection(socket, { streamsMax, open, onClosed: () => {}, onError: (error) => errors.push(error) }))
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  const sessions: ClientHttp2Session[] = []
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    for (const connection of connections) connection.destroy()
    server.close()
    rmSync(folder, { recursive: true })
  })
  const dial = (options: ClientSessionOptions = {}) => {
    const session = connect('http://localhost', { ...options, createConnection: () => createConnection(path) })
    session.on('error', () => {})
    sessions.push(session)
    return session
  }
  return { path, errors, connections, dial }
}

function pairs(headers: readonly string[]): [string, string][] {
  return headers.flatMap((name, index): [string, string][] => (index % 2 === 0 ? [[name, headers[index + 1] ?? '']] : []))
}

function finished(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers, { endStream: body === undefined })
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => resolve(Buffer.concat(chunks)))
    stream.on('error', reject)
    if (body !== undefined) stream.end(body)
  })
}

const ANSWER_EMPTY = (stream: Http2Stream): undefined => stream.sendHeaders(OK, true) as undefined

test('headers arrive as Node’s own encoder compresses them, one request after the other', async (t) => {
  const seen: [string, string][][] = []
  const { dial, errors } = await listening(t, (stream, headers) => {
    seen.push(pairs(headers))
    return ANSWER_EMPTY(stream)
  })
  const session = dial()
  // What header values may hold; letters make its Huffman code pay, others make it not.
  const value = fc.oneof(
    fc.stringMatching(/^[\x21-\x7e][\x20-\x7e]{0,60}[\x21-\x7e]$/),
    fc.stringMatching(/^[a-z]{1,300}$/),
    fc.constantFrom('x', 'y'),
  )
  const name = fc.oneof(fc.stringMatching(/^x-[a-z0-9]{1,20}$/), fc.constantFrom('x-a', 'accept', 'x-b'))
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.tuple(name, value), { maxLength: 20, selector: ([key]) => key }), async (headers) => {
      await finished(session, { ':path': '/x', ':method': 'POST', ...Object.fromEntries(headers) })
      t.deepEqual(
        seen.at(-1)?.filter(([key]) => !key.startsWith(':')),
        headers,
      )
    }),
    { numRuns: 500 },
  )
  t.deepEqual(errors, [])
})

test('a decoder survives whatever it is given, or says that it is wrong', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const decoder = new HpackDecoder()
      try {
        decoder.decode(Buffer.from(bytes))
        decoder.decode(Buffer.from(bytes))
      } catch (error) {
        if (!(error instanceof HpackError)) throw error
      }
    }),
    { numRuns: 5000 },
  )
  for (const length of [0, 1, 126, 127, 128, 254, 255, 300, 5000])
    t.deepEqual(new HpackDecoder().decode(encodeLiteral('x-a', 'v'.repeat(length))), ['x-a', 'v'.repeat(length)])
})

test('a small block cannot unpack to many headers', (t) => {
  const decoder = new HpackDecoder()
  const entry = Buffer.concat([Buffer.from([0x40]), encodeLiteral('x-large', 'v'.repeat(3900)).subarray(1)])
  t.is(decoder.decode(entry).length, 2)
  t.throws(() => decoder.decode(Buffer.alloc(200, 0x80 | 62)), { instanceOf: HpackError })
  t.throws(() => new HpackDecoder().decode(Buffer.alloc(1000, 0x82)), { instanceOf: HpackError })
})

test('header blocks that go on in further frames are put together', async (t) => {
  const { dial } = await listening(t, (stream, headers) => {
    stream.sendHeaders(OK, false)
    stream.sendData(Buffer.from(String(headers.length / 2)), true)
    return undefined
  })
  const headers = Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`x-${index}`, '\\'.repeat(150)]))
  t.is(Number(await finished(dial(), { ':path': '/', ...headers })), 64)
})

test('an answer waits for the windows of who gets it', async (t) => {
  const answer = Buffer.alloc(1_000_000, 'a')
  const { dial } = await listening(t, (stream) => {
    stream.sendHeaders(OK, false)
    stream.sendData(answer.subarray(0, 600_000))
    stream.sendData(answer.subarray(600_000), true)
    return undefined
  })
  for (const initialWindowSize of [16, 1000, 65_535, 1_000_000]) {
    const session = dial({ settings: { initialWindowSize } })
    const [one, two] = await Promise.all([finished(session, { ':path': '/' }), finished(session, { ':path': '/' })])
    t.deepEqual([one.length, two.length], [1_000_000, 1_000_000], String(initialWindowSize))
  }
})

test('more is taken on a stream than its window holds', async (t) => {
  const { dial } = await listening(t, (stream) => {
    let length = 0
    return {
      onData: (chunk) => {
        length += chunk.length
      },
      onEnd: () => {
        stream.sendHeaders(OK, false)
        stream.sendData(Buffer.from(String(length)), true)
      },
      onClosed: () => {},
    }
  })
  const session = dial()
  const body = Buffer.alloc(3_000_000)
  const answers = await Promise.all(Array.from({ length: 8 }, () => finished(session, { ':path': '/', ':method': 'POST' }, body)))
  t.true(answers.every((answer) => Number(answer) === body.length))
})

test('beyond as many streams as agreed a stream is refused, and the others go on', async (t) => {
  const held: Http2Stream[] = []
  const { path, connections } = await listening(
    t,
    (stream) => {
      held.push(stream)
      return { onData: () => {}, onEnd: () => {}, onClosed: () => {} }
    },
    2,
  )
  const socket = rawClient(path)
  for (const id of [1, 3, 5]) socket.write(frame(1, 0x5, id, Buffer.from([0x82, 0x84, 0x86])))
  const reset = await socket.next(3)
  t.deepEqual([reset.id, reset.payload.readUInt32BE(0)], [5, 7])
  t.is(held.length, 2)
  held[0]!.sendHeaders(OK, true)
  t.is((await socket.next(1)).id, 1)
  connections[0]!.close()
  t.is((await socket.next(7)).payload.readUInt32BE(0), 2 ** 31 - 1)
  // One that was under way.
  socket.write(frame(1, 0x5, 7, Buffer.from([0x82, 0x84, 0x86])))
  t.is((await socket.next(7)).payload.readUInt32BE(0), 7)
  t.is(held.length, 3)
})

test('what the peer does wrong ends its connection', async (t) => {
  const { path, errors } = await listening(t, () => ({ onData: () => {}, onEnd: () => {}, onClosed: () => {} }))
  const headers = Buffer.from([0x82, 0x84, 0x86])
  const wrong: Record<string, Buffer[]> = {
    'a frame that is too long': [frame(0, 0, 1, Buffer.alloc(16_385))],
    'a stream of a server': [frame(1, 0x5, 2, headers)],
    'data of no stream': [frame(0, 0, 1, Buffer.alloc(1))],
    'data after the end': [frame(1, 0x5, 1, headers), frame(0, 0, 1, Buffer.alloc(1))],
    'headers twice': [frame(1, 0x4, 1, headers), frame(1, 0x4, 1, headers)],
    'headers that are interrupted': [frame(1, 0, 1, headers), frame(6, 0, 0, Buffer.alloc(8))],
    'endless headers': [frame(1, 0, 1, headers), ...Array.from({ length: 2 }, () => frame(9, 0, 1, Buffer.alloc(16_000, 0x82)))],
    'a block that is not right': [frame(1, 0x5, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]))],
    'an entry that is not there': [frame(1, 0x5, 1, Buffer.from([0xbe]))],
    'padding alone': [frame(1, 0x4 | 0x8, 1, Buffer.from([9, 1]))],
    'a window that does not grow': [frame(8, 0, 0, Buffer.alloc(4))],
    'windows that are too large': [frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff]))],
    'settings of a wrong length': [frame(4, 0, 0, Buffer.alloc(5))],
    'a push': [frame(5, 0, 1, Buffer.alloc(10))],
    'a reset of no stream': [frame(3, 0, 9, Buffer.alloc(4))],
  }
  for (const [what, frames] of Object.entries(wrong)) {
    const before = errors.length
    const socket = rawClient(path)
    for (const each of frames) socket.write(each)
    await socket.next(7)
    await socket.closed
    t.is(errors.length, before + 1, what)
  }
})

test('bytes that were damaged on their way do not end the process', async (t) => {
  const { path } = await listening(t, (stream) => {
    stream.sendHeaders(OK, false)
    return { onData: (chunk) => stream.sendData(chunk), onEnd: () => stream.sendData(Buffer.alloc(0), true), onClosed: () => {} }
  })
  const good = Buffer.concat([
    frame(4, 0, 0, Buffer.alloc(6)),
    frame(1, 0x4, 1, Buffer.from([0x82, 0x84, 0x86, 0x41, 0x03, 0x61, 0x62, 0x63])),
    frame(0, 0, 1, Buffer.from('some data')),
    frame(6, 0, 0, Buffer.alloc(8)),
    frame(0, 1, 1, Buffer.from('and more')),
    frame(1, 0x5, 3, Buffer.from([0xbe, 0x83])),
  ])
  for (let bit = 0; bit < good.length * 8; bit++) {
    const damaged = Buffer.from(good)
    damaged[bit >> 3]! ^= 1 << (bit & 7)
    const socket = rawClient(path)
    socket.write(damaged)
    socket.socket.end()
    await socket.closed
  }
  const socket = rawClient(path)
  socket.write(good)
  t.is((await socket.next(1)).id, 1)
})

test('a connection can come byte by byte', async (t) => {
  const { path } = await listening(t, ANSWER_EMPTY)
  const socket = createConnection(path)
  const client = collect(socket)
  const bytes = Buffer.concat([PREFACE, frame(4, 0, 0, Buffer.alloc(0)), frame(1, 0x5, 1, Buffer.from([0x82, 0x84, 0x86]))])
  for (const byte of bytes) {
    socket.write(Buffer.from([byte]))
    await new Promise((resolve) => setImmediate(resolve))
  }
  t.is((await client.next(1)).id, 1)
  socket.destroy()
})

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')

function frame(type: number, flags: number, id: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(9)
  header.writeUIntBE(payload.length, 0, 3)
  header[3] = type
  header[4] = flags
  header.writeUInt32BE(id, 5)
  return Buffer.concat([header, payload])
}

interface Frame {
  readonly type: number
  readonly id: number
  readonly payload: Buffer
}

function rawClient(path: string) {
  const socket = createConnection(path)
  const client = collect(socket)
  socket.write(PREFACE)
  return client
}

/** Frames that a server sends. */
function collect(socket: Socket) {
  const frames: Frame[] = []
  let held = Buffer.alloc(0)
  let wake = Promise.withResolvers<void>()
  socket.on('error', () => {})
  socket.on('data', (chunk: Buffer) => {
    held = Buffer.concat([held, chunk])
    while (held.length >= 9 && held.length >= 9 + held.readUIntBE(0, 3)) {
      const length = held.readUIntBE(0, 3)
      frames.push({ type: held[3]!, id: held.readUInt32BE(5), payload: held.subarray(9, 9 + length) })
      held = held.subarray(9 + length)
    }
    wake.resolve()
    wake = Promise.withResolvers()
  })
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()))
  /** The next frame of a type. */
  const next = async (type: number): Promise<Frame> => {
    for (;;) {
      const index = frames.findIndex((each) => each.type === type)
      if (index >= 0) return frames.splice(0, index + 1)[index]!
      const isOver = await Promise.race([wake.promise.then(() => false), closed.then(() => true)])
      if (isOver && !frames.some((each) => each.type === type)) throw new Error(`no frame of type ${type}`)
    }
  }
  return { socket, write: (bytes: Buffer) => socket.write(bytes), next, closed }
}

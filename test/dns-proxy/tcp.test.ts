/** DNS over TCP, with real sockets on loopback for client and server. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import test from 'ava'
import { TcpConnection, type TcpCounts } from '#dns-proxy/tcp-connection.ts'
import { CONNECTIONS_OF_CLIENT_MAX, TcpProxy } from '#dns-proxy/tcp-proxy.ts'
import { FLAG, RCODE, TYPE } from '#parsers/dns/codes.ts'
import { encodeFrame, FrameReader } from '#parsers/dns/frame.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { createRandom } from '../support/random.ts'
import { CLIENT, Judging, type JudgingOptions, queryOf, readerOf, slotOf } from './judging.ts'

const WAIT_MS = 3000

/** One end of a connection, message by message. */
class Peer {
  readonly socket: Socket
  readonly messages: Buffer[] = []
  readonly #frames = new FrameReader()
  #onMessage: (() => void) | undefined

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => {
      this.#frames.push(chunk)
      for (let message = this.#frames.next(); message !== undefined; message = this.#frames.next()) this.messages.push(Buffer.from(message))
      this.#onMessage?.()
    })
  }

  /** Resolves with the first so many messages. */
  async take(count: number): Promise<Buffer[]> {
    const deadline = performance.now() + WAIT_MS
    while (this.messages.length < count) {
      const left = deadline - performance.now()
      if (left <= 0) throw new Error(`${this.messages.length} messages of ${count}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#onMessage = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    return this.messages.splice(0, count)
  }

  send(...messages: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(messages.map(encodeFrame)))
  }
}

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** Resolves when a socket is gone, with an error or without. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()))
}

/** A client, the connection under test, and the server that it leads to. */
class Link {
  readonly judging: Judging
  readonly counts: TcpCounts = { overLimit: 0, dropped: 0, unexpected: 0, timedOut: 0, upstreamFailed: 0 }
  readonly client: Peer
  readonly connection: TcpConnection
  readonly closed: Promise<void>
  readonly #accepted: Promise<Socket>

  private constructor(judging: Judging, client: Socket, accepted: Socket, upstream: Server) {
    this.judging = judging
    this.client = new Peer(client)
    this.#accepted = once(upstream, 'connection').then(([socket]) => socket as Socket)
    const { port } = upstream.address() as AddressInfo
    let onClose = () => {}
    this.closed = new Promise((resolve) => {
      onClose = resolve
    })
    this.connection = new TcpConnection(
      accepted,
      {
        judge: judging.judge,
        rejectCode: RCODE.REFUSED,
        counts: this.counts,
        reader: new MessageReader(),
        mark: judging.slot.mark,
        clientAddress: addressToBytes(CLIENT),
        clientPort: 4000,
        serverAddress: addressToBytes('10.0.0.53'),
        serverPort: 53,
        dial: () => connect({ port, host: '127.0.0.1', allowHalfOpen: true }),
      },
      () => onClose(),
    )
  }

  static async with(options: JudgingOptions, run: (link: Link) => Promise<void>): Promise<void> {
    const upstream = createServer({ allowHalfOpen: true })
    const front = createServer({ allowHalfOpen: true })
    const [, port] = [await listening(upstream), await listening(front)]
    const arrives = once(front, 'connection')
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const [accepted] = (await arrives) as [Socket]
    const link = new Link(new Judging(options), client, accepted, upstream)
    try {
      await run(link)
    } finally {
      link.connection.destroy()
      client.destroy()
      upstream.close()
      front.close()
    }
  }

  /** The server's end, once there is one. */
  async server(): Promise<Peer> {
    return new Peer(await this.#accepted)
  }
}

/** The query as its answer. */
function answerTo(query: Buffer, rcode = 0): Buffer {
  const answer = Buffer.from(query)
  answer.writeUInt16BE(FLAG.QR | FLAG.RD | rcode, 2)
  return answer
}

const ALLOWED = { rules: [{ matchName: 'api.test.' }, { matchPattern: '*.ok.test.' }] }
const ids = (messages: readonly Buffer[]): number[] => messages.map((message) => message.readUInt16BE(0))

test('queries that may go are answered by the server, under ids of their own, and the client gets back its own', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test', { id: 77 }), queryOf('a.ok.test', { id: 77 }))
    const server = await link.server()
    const [first, second] = (await server.take(2)) as [Buffer, Buffer]
    t.is(new Set(ids([first, second])).size, 2)
    t.is(readerOf(first).fault, undefined)
    // In the other order.
    server.send(answerTo(second), answerTo(first))
    const answers = await link.client.take(2)
    t.deepEqual(ids(answers), [77, 77])
    t.deepEqual(answers[0]?.subarray(12), second.subarray(12))
    t.is(link.connection.openCount, 0)
    t.is(link.judging.judge.servers()[Symbol.iterator]().next().value?.openCount, 0)
  })
})

test('what may not go is refused at once, and never leaves', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test', { id: 1 }), queryOf('evil.test', { id: 2 }), queryOf('api.test', { id: 3, type: TYPE.AXFR }))
    const refusals = await link.client.take(2)
    t.deepEqual(ids(refusals), [2, 3])
    t.deepEqual(
      refusals.map((message) => readerOf(message).rcode),
      [RCODE.REFUSED, RCODE.NOTIMP],
    )
    const server = await link.server()
    const [query] = (await server.take(1)) as [Buffer]
    server.send(answerTo(query))
    t.deepEqual(ids(await link.client.take(1)), [1])
    t.is(server.messages.length, 0)
  })
})

test('a query in pieces is judged when it is whole', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.socket.setNoDelay(true)
    for (const byte of Buffer.concat([encodeFrame(queryOf('evil.test', { id: 5 })), encodeFrame(queryOf('api.test', { id: 6 }))])) {
      link.client.socket.write(Buffer.from([byte]))
      await new Promise(setImmediate)
    }
    t.deepEqual(ids(await link.client.take(1)), [5])
    t.is((await (await link.server()).take(1)).length, 1)
  })
})

test('answers to nothing that was asked are dropped, and the right one is still taken', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test', { id: 9 }))
    const server = await link.server()
    const [query] = (await server.take(1)) as [Buffer]
    const id = query.readUInt16BE(0)
    server.send(
      answerTo(queryOf('api.test', { id: id ^ 1 })),
      answerTo(queryOf('other.test', { id })),
      answerTo(queryOf('API.test', { id })),
      query,
      Buffer.from([1]),
      answerTo(query),
      answerTo(query),
    )
    t.deepEqual(ids(await link.client.take(1)), [9])
    server.socket.end()
    await once(link.client.socket, 'end')
    t.is(link.counts.unexpected, 6)
    t.is(link.client.messages.length, 0)
  })
})

test('queries beyond the limit of a server wait for the grace period, and are answered or told', async (t) => {
  await Link.with({ ...ALLOWED, concurrencyLimit: 1, graceMs: 1500 }, async (link) => {
    link.client.send(queryOf('api.test', { id: 1 }), queryOf('a.ok.test', { id: 2 }), queryOf('b.ok.test', { id: 3 }))
    const server = await link.server()
    const [first] = (await server.take(1)) as [Buffer]
    t.is(link.client.messages.length, 0)
    server.send(answerTo(first))
    await server.take(1)
    const answers = await link.client.take(2)
    t.deepEqual(ids(answers), [1, 3])
    t.is(readerOf(answers[1] as Buffer).rcode, RCODE.SERVFAIL)
    t.is(link.connection.openCount, 1)
  })
})

test('a client that has closed its side still gets its answers', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test', { id: 1 }), queryOf('a.ok.test', { id: 2 }))
    link.client.socket.end()
    const server = await link.server()
    for (const query of await server.take(2)) server.send(answerTo(query))
    t.deepEqual(ids(await link.client.take(2)), [1, 2])
    await link.closed
  })
})

test('when the server closes, the client is closed', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test'))
    const server = await link.server()
    await server.take(1)
    server.socket.end()
    await once(link.client.socket, 'end')
    t.is(link.counts.timedOut, 1)
    link.client.socket.end()
    await link.closed
  })
})

test('no more queries are on their way at once than there is room for, and all are answered in the end', async (t) => {
  await Link.with({ allowAll: true }, async (link) => {
    const count = 1000
    link.client.send(...Array.from({ length: count }, (_, id) => queryOf(`n${id}.test`, { id })))
    const server = await link.server()
    let answered = 0
    const seen = new Set<number>()
    while (answered < count) {
      const queries = await server.take(Math.min(128, count - answered))
      t.true(server.messages.length + queries.length <= 128)
      server.send(...queries.map((query) => answerTo(query)))
      answered += queries.length
      for (const id of ids(await link.client.take(queries.length))) seen.add(id)
    }
    t.is(seen.size, count)
  })
})

test('a client that does not read holds up its queries, not our memory', async (t) => {
  await Link.with({ rules: [] }, async (link) => {
    link.client.socket.pause()
    const query = encodeFrame(queryOf('a-rather-long-name-that-takes-its-room.test'))
    const block = Buffer.concat(Array.from({ length: 1000 }, () => query))
    let sentBytes = 0
    // Both kernels' buffers fill, then ours; it ends far below what would be sent.
    while (sentBytes < 64 << 20 && link.client.socket.writableLength < 4 << 20) {
      link.client.socket.write(block)
      sentBytes += block.length
      await new Promise(setImmediate)
    }
    t.true(link.client.socket.writableLength >= 4 << 20, `${sentBytes} bytes were taken`)
  })
})

test('what waits too long ends: the query, then the connection', async (t) => {
  await Link.with(ALLOWED, async (link) => {
    link.client.send(queryOf('api.test'))
    await (await link.server()).take(1)
    const nowMs = performance.now()
    link.connection.sweep(nowMs + 9000)
    t.is(link.connection.openCount, 1)
    link.connection.sweep(nowMs + 10_500)
    t.is(link.connection.openCount, 0)
    t.is(link.counts.timedOut, 1)
    await once(link.client.socket, 'end')
    link.connection.sweep(performance.now() + 11_000)
    await link.closed
  })
})

test('messages that are no queries go nowhere, and a frame that no query can be ends the connection', async (t) => {
  await Link.with({ allowAll: true }, async (link) => {
    link.client.send(answerTo(queryOf('api.test')), Buffer.from([1, 2, 3]), queryOf('api.test', { id: 4 }))
    const server = await link.server()
    await server.take(1)
    t.is(link.counts.dropped, 2)
    link.client.socket.write(Buffer.from([0xff, 0xff]))
    await link.closed
    t.is(server.messages.length, 0)
  })
})

test('a slot that is gone takes no more queries', async (t) => {
  await Link.with({ allowAll: true }, async (link) => {
    link.judging.slots.change({ gone: [link.judging.slot], come: [] })
    link.client.send(queryOf('api.test'))
    await link.closed
    t.is(link.client.messages.length, 0)
  })
})

test('whatever a client sends, the server sees nothing but queries that may go', async (t) => {
  const seed = Date.now() >>> 0
  t.log(`seed ${seed}`)
  const random = createRandom(seed)
  for (let round = 0; round < 40; round++) {
    await Link.with(ALLOWED, async (link) => {
      const messages = Array.from({ length: 50 }, () => {
        const message = Buffer.concat([queryOf(random() < 0.5 ? 'api.test' : 'evil.test'), Buffer.alloc(random() < 0.1 ? 3 : 0)])
        for (let flips = Math.floor(random() * 3); flips > 0; flips--) {
          const offset = Math.floor(random() * message.length)
          message[offset] = (message[offset] ?? 0) ^ (1 << Math.floor(random() * 8))
        }
        return message
      })
      link.client.send(queryOf('api.test'), ...messages)
      const server = await link.server()
      await server.take(1)
      // A connection that is still there refuses this last, behind all others.
      link.client.send(queryOf('last.evil.test', { id: 0xfffe }))
      link.client.socket.end()
      await new Promise((resolve) => setTimeout(resolve, 20))
      for (const message of server.messages) {
        const reader = readerOf(message)
        t.is(reader.fault, undefined)
        t.true(reader.nextQuestion())
        t.true(reader.name === 'api.test.' || /^[^.]+\.ok\.test\.$/.test(reader.name), reader.name)
        t.is(reader.opcode, 0)
      }
    })
  }
})

test('a slot listens when its port can be had, which may be later, and its connections end with it', async (t) => {
  const blocker = createServer()
  const port = await listening(blocker)
  const slot = slotOf({}, { port })
  const judging = new Judging({})
  judging.slots.change({ gone: [], come: [slot] })
  let onListening = () => {}
  const listens = new Promise<void>((resolve) => {
    onListening = resolve
  })
  const proxy = new TcpProxy(
    judging.judge,
    RCODE.REFUSED,
    (run) => run(),
    () => onListening(),
  )
  try {
    proxy.setSlots([slot])
    t.false(proxy.isListening(slot))
    blocker.close()
    await listens
    t.true(proxy.isListening(slot))
    const client = new Peer(connect({ port, host: '127.0.0.1' }))
    client.send(queryOf('evil.test', { id: 8 }))
    t.deepEqual(ids(await client.take(1)), [8])
    t.is(proxy.connectionCount, 1)
    proxy.setSlots([slotOf({ allowAll: true }, { port })])
    t.is(proxy.connectionCount, 1, 'new rules end no connections')
    proxy.setSlots([])
    await closed(client.socket)
    t.false(proxy.isListening(slot))
    t.is(proxy.connectionCount, 0)
  } finally {
    proxy.close()
  }
})

test('one client has so many connections and no more', async (t) => {
  const probe = createServer()
  const port = await listening(probe)
  probe.close()
  await once(probe, 'close')
  const slot = slotOf({}, { port })
  const proxy = new TcpProxy(
    new Judging({}).judge,
    RCODE.REFUSED,
    (run) => run(),
    () => {},
  )
  const clients: Socket[] = []
  try {
    proxy.setSlots([slot])
    t.true(proxy.isListening(slot))
    for (let index = 0; index <= CONNECTIONS_OF_CLIENT_MAX; index++) {
      const client = connect({ port, host: '127.0.0.1' })
      client.on('error', () => {})
      clients.push(client)
      if (index < CONNECTIONS_OF_CLIENT_MAX) await once(client, 'connect')
    }
    await closed(clients.at(-1) as Socket)
    t.is(proxy.connectionCount, CONNECTIONS_OF_CLIENT_MAX)
    t.is(proxy.counts.overLimit, 1)
  } finally {
    for (const client of clients) client.destroy()
    proxy.close()
  }
})

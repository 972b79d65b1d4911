/** The relay on its own: connections with a PROXY header as Envoy makes them, a server on loopback, and parsers of different tempers. */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { more, type Parser, pass } from '#parsers/contract.ts'
import { SLOT_VALUE_TYPE } from '#proxy/ext-host/contract.ts'
import { RelayServer } from '#proxy/ext-host/relay/server.ts'
import { closeOf } from '../../../support/raw-tcp.ts'
import { LineParser } from '../../support/line-parser.ts'
import { received } from '../../support/network-stack.ts'
import { BROKEN_SLOT, KNOWN_SLOT, TestHost } from '../../support/test-host.ts'

const MEBIBYTE = 1 << 20
const NOBODY = 65_534
const PASSING: Parser = { onData: (_direction, bytes) => (bytes.length === 0 ? [] : [pass(bytes.length)]) }

/** Frames: four bytes of length, and so many bytes that need no look. */
class FrameParser implements Parser {
  onData(direction: 'original' | 'reply', bytes: Uint8Array) {
    if (bytes.length < 4) return [{ op: 'more' as const, bytes: 4 }]
    const length = 4 + Buffer.from(bytes.buffer, bytes.byteOffset, 4).readUInt32BE()
    return [pass(length, direction === 'original' ? 'opens' : 'closes')]
  }
}

/** Without the rights of root, meanwhile. */
function asNobody<T>(run: () => T): T {
  process.seteuid?.(NOBODY)
  try {
    return run()
  } finally {
    process.seteuid?.(0)
  }
}

class Relay extends TestHost {
  readonly folder = mkdtempSync(join(tmpdir(), 'hg-relay-'))
  readonly path = join(this.folder, 'relay.sock')
  isAllowedToBind = true
  readonly #server = new RelayServer({
    path: this.path,
    host: this.host,
    inNetns: (run) => (this.isAllowedToBind ? run() : asNobody(run)),
  })
  readonly #upstream = createServer({ allowHalfOpen: true })

  async start(onConnection: (socket: Socket) => void): Promise<this> {
    this.#upstream.on('connection', (socket) => onConnection(socket.on('error', () => {})))
    this.#upstream.listen(0, '127.0.0.1')
    await once(this.#upstream, 'listening')
    await this.#server.listen()
    return this
  }

  /** As Envoy does. */
  connect(slot = KNOWN_SLOT, source = '127.0.0.7'): Socket {
    const socket = connect({ path: this.path, allowHalfOpen: true }).on('error', () => {})
    socket.write(headerOf(slot, source, (this.#upstream.address() as AddressInfo).port))
    return socket
  }

  close(): void {
    this.#server.close()
    this.#upstream.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function headerOf(slot: string, source: string, port: number): Buffer {
  const addresses = Buffer.alloc(12)
  addresses.set(source.split('.').map(Number), 0)
  addresses.set([127, 0, 0, 1], 4)
  addresses.writeUInt16BE(4321, 8)
  addresses.writeUInt16BE(port, 10)
  const value = Buffer.from([SLOT_VALUE_TYPE, 0, slot.length])
  const fixed = Buffer.from('0d0a0d0a000d0a515549540a2111', 'hex')
  const length = Buffer.alloc(2)
  length.writeUInt16BE(addresses.length + value.length + slot.length)
  return Buffer.concat([fixed, length, addresses, value, Buffer.from(slot)])
}

async function withRelay(
  t: ExecutionContext,
  makeParser: () => Parser,
  onConnection: (socket: Socket) => void,
  run: (relay: Relay) => Promise<void>,
  options: ConstructorParameters<typeof Relay>[1] = {},
): Promise<void> {
  t.timeout(60_000)
  const relay = new Relay(makeParser, options)
  try {
    await relay.start(onConnection)
    await run(relay)
  } finally {
    relay.close()
  }
}

function frame(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

/** Reads a socket to its end, with pauses or without. */
async function digestOf(socket: Socket, pauseEveryBytes = Number.POSITIVE_INFINITY): Promise<string> {
  const digest = createHash('sha256')
  let sincePause = 0
  socket.on('data', (chunk: Buffer) => {
    digest.update(chunk)
    sincePause += chunk.length
    if (sincePause < pauseEveryBytes) return
    sincePause = 0
    socket.pause()
    setTimeout(() => socket.resume(), 5)
  })
  await once(socket, 'end')
  return digest.digest('hex')
}

test('bulk passes whole both ways at once, whoever reads slowly', async (t) => {
  const frames = (count: number, bytes: number) => Buffer.concat(Array.from({ length: count }, () => frame(randomBytes(bytes))))
  for (const [up, down, pauseAtServer, pauseAtClient] of [
    [frames(8, 3 * MEBIBYTE), frames(8, 3 * MEBIBYTE), Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
    [frames(300, 40_000), frames(300, 40_000), 500_000, Number.POSITIVE_INFINITY],
    [frames(3, 5 * MEBIBYTE), frames(3, 5 * MEBIBYTE), Number.POSITIVE_INFINITY, 300_000],
    [frames(20_000, 20), frames(20_000, 200), 200_000, 900_000],
  ] as const) {
    for (const makeParser of [() => new FrameParser(), () => PASSING]) {
      let atServer: Promise<string> | undefined
      await withRelay(
        t,
        makeParser,
        (socket) => {
          atServer = digestOf(socket, pauseAtServer)
          socket.end(down)
        },
        async (relay) => {
          const client = relay.connect()
          client.end(up)
          t.is(await digestOf(client, pauseAtClient), createHash('sha256').update(down).digest('hex'))
          t.is(await atServer, createHash('sha256').update(up).digest('hex'))
          t.deepEqual([relay.failures, relay.refused], [[], []])
        },
      )
    }
  }
})

test('answers of the parser stand between what passes, in their turn', async (t) => {
  const big = 'a'.repeat(100_000)
  await withRelay(
    t,
    () => new LineParser(),
    (socket) => socket.pipe(socket),
    async (relay) => {
      const client = relay.connect()
      client.end(`${big}\nd1\na2\nd3\nn4\nr5\n`)
      t.is(await received(client), `${big}\nno d1\na2\nno d3\nn4\na-written\n`)
    },
  )
})

test('nothing is read of one side that the other does not take', async (t) => {
  for (const direction of ['original', 'reply'] as const) {
    let server: Socket | undefined
    await withRelay(
      t,
      () => PASSING,
      (socket) => {
        server = socket
        if (direction === 'original') socket.pause()
      },
      async (relay) => {
        const client = relay.connect()
        client.write('go')
        while (server === undefined) await delay(5)
        const sender = direction === 'original' ? client : server
        if (direction === 'reply') client.pause()
        const before = process.memoryUsage().rss
        let taken = 0
        const chunk = Buffer.alloc(MEBIBYTE)
        // As much as is taken within a while.
        for (let last = -1; last !== taken; await delay(300)) {
          last = taken
          while (sender.writableLength < MEBIBYTE) {
            taken += chunk.length
            sender.write(chunk)
            await delay(1)
            if (taken > 256 * MEBIBYTE) break
          }
        }
        t.true(taken < 32 * MEBIBYTE, `${direction}: ${taken} bytes were taken`)
        t.true(process.memoryUsage().rss - before < 64 * MEBIBYTE)
        client.destroy()
      },
    )
  }
})

test('a side that ends early still gets the rest, and one that breaks off breaks off the other', async (t) => {
  const servers: Socket[] = []
  await withRelay(
    t,
    () => PASSING,
    (socket) => {
      servers.push(socket)
      let text = ''
      socket.setEncoding('latin1').on('data', (chunk: string) => {
        text += chunk
      })
      socket.on('end', () => socket.end(`${text} all`))
    },
    async (relay) => {
      const early = relay.connect()
      early.end('first')
      t.is(await received(early), 'first all')
      const broken = relay.connect()
      broken.write('x')
      while (servers.length < 2) await delay(5)
      broken.destroy()
      while (!(servers[1] as Socket).destroyed) await delay(5)
      const reset = relay.connect()
      reset.write('x')
      while (servers.length < 3) await delay(5)
      servers[2]?.resetAndDestroy()
      t.is(await received(reset), '')
      while (relay.host.connectionCount > 0) await delay(5)
      t.pass()
    },
  )
})

test('a server that is not there closes the client, with the reason', async (t) => {
  await withRelay(
    t,
    () => PASSING,
    () => {},
    async (relay) => {
      const client = connect({ path: relay.path }).on('error', () => {})
      client.write(Buffer.concat([headerOf(KNOWN_SLOT, '127.0.0.7', 1), Buffer.from('hello')]))
      t.is(await received(client), '')
      t.deepEqual(relay.failures, ['the server cannot be reached: ECONNREFUSED'])
      const stranger = relay.connect('slot-1-2')
      t.is(await received(stranger), '')
      const garbage = connect({ path: relay.path }).on('error', () => {})
      garbage.write('GET / HTTP/1.1\r\n')
      t.is(await received(garbage), '')
      t.deepEqual(relay.refused, ['no slot has the name "slot-1-2"', 'no PROXY header'])
    },
  )
})

test('a connection too many, and one of a slot that cannot be used, are closed with a flow', async (t) => {
  await withRelay(
    t,
    () => PASSING,
    (socket) => socket.pipe(socket),
    async (relay) => {
      const first = relay.connect()
      first.write('hello')
      const [echo] = await once(first, 'data')
      t.is(String(echo), 'hello')
      t.is(await received(relay.connect()), '')
      t.deepEqual(relay.failures, ['there are 1 connections already'])
      t.is(await received(relay.connect(BROKEN_SLOT)), '')
      t.deepEqual(relay.failures.slice(1), ['it is broken'])
      t.deepEqual(relay.refused, [])
      first.destroy()
    },
    { connections: { all: 1, client: 1 } },
  )
})

test('a client has so many connections, and others have theirs beside it', async (t) => {
  await withRelay(
    t,
    () => PASSING,
    (socket) => socket.pipe(socket),
    async (relay) => {
      const echoed = async (socket: Socket) => {
        socket.write('hello')
        const [echo] = await once(socket, 'data')
        t.is(String(echo), 'hello')
        return socket
      }
      const first = await echoed(relay.connect())
      t.is(await received(relay.connect()), '')
      t.deepEqual(relay.failures, ['there are 1 connections of this client already'])
      const other = await echoed(relay.connect(KNOWN_SLOT, '127.0.0.8'))
      first.destroy()
      while (relay.host.connectionCount > 1) await delay(1)
      for (const socket of [await echoed(relay.connect()), other]) socket.destroy()
    },
    { connections: { all: 3, client: 1 } },
  )
})

test('what is held back of a client has a limit, and others have room beside it', async (t) => {
  const HELD: Parser = {
    onData: (direction, bytes) => (direction === 'original' && bytes.length < MEBIBYTE ? [more(MEBIBYTE)] : [pass(bytes.length)]),
  }
  await withRelay(
    t,
    () => HELD,
    (socket) => socket.pipe(socket),
    async (relay) => {
      const most = Buffer.alloc(MEBIBYTE * 0.75)
      const [first, second] = [relay.connect(), relay.connect()]
      for (const socket of [first, second]) socket.resume().write(most)
      await Promise.race([first, second].map(closeOf))
      t.deepEqual(relay.failures, ['no memory is left for what has to be held back'])
      const other = relay.connect(KNOWN_SLOT, '127.0.0.8')
      for (const part of [most, Buffer.alloc(MEBIBYTE * 0.25)]) other.write(part)
      const [echo] = await once(other, 'data')
      t.true((echo as Buffer).length > 0)
      t.is(relay.failures.length, 1)
      for (const socket of [first, second, other]) socket.destroy()
    },
    { heldBytes: { all: 4 * MEBIBYTE, client: MEBIBYTE * 1.25 } },
  )
})

test('the server is connected to when the client has said something, from the client’s own address; at once where it may speak first', async (t) => {
  for (const isServerFirst of [false, true]) {
    const sources: (string | undefined)[] = []
    await withRelay(
      t,
      () => PASSING,
      (socket) => {
        sources.push(socket.remoteAddress)
        if (isServerFirst) socket.write('welcome')
        else socket.pipe(socket)
      },
      async (relay) => {
        const client = relay.connect()
        if (!isServerFirst) {
          while (relay.host.connectionCount === 0) await delay(1)
          await delay(50)
          t.deepEqual(sources, [])
          client.write('hello')
        }
        await once(client, 'data')
        t.deepEqual(sources, ['127.0.0.7'])
        client.destroy()
      },
      { isServerFirst },
    )
  }
})

test('where the client’s address cannot be had, nobody is connected to with another', async (t) => {
  let connections = 0
  await withRelay(
    t,
    () => PASSING,
    () => connections++,
    async (relay) => {
      relay.isAllowedToBind = false
      const client = relay.connect()
      client.write('hello')
      t.is(await received(client), '')
      t.deepEqual(relay.failures.length, 1)
      t.regex(relay.failures[0] ?? '', /^the server cannot be reached: .*EPERM/)
      t.is(connections, 0)
    },
  )
})

test('a connection of nobody here is closed before a byte has passed', async (t) => {
  let connections = 0
  await withRelay(
    t,
    () => PASSING,
    () => connections++,
    async (relay) => {
      relay.isLocal = false
      const client = relay.connect()
      client.write('hello')
      t.is(await received(client), '')
      t.deepEqual(relay.refused, ['no endpoint has the address 127.0.0.1'])
      t.is(connections, 0)
    },
  )
})

test('the socket is for its owner alone, and who comes by it as somebody else is closed', async (t) => {
  await withRelay(
    t,
    () => PASSING,
    (socket) => socket.pipe(socket),
    async (relay) => {
      t.is(statSync(relay.path).mode & 0o777, 0o600)
      chmodSync(relay.folder, 0o755)
      chmodSync(relay.path, 0o666)
      const stranger = asNobody(() => relay.connect())
      stranger.write('hello')
      t.is(await received(stranger), '')
      t.deepEqual(relay.refused, [`the peer is process ${process.pid} of user ${NOBODY}`])
    },
  )
})

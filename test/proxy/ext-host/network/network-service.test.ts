/** Network ext_proc as a real Envoy speaks it, with its traps: each of these lost bytes, let them pass, or kept connections in some server. */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type Parser, pass } from '#parsers/contract.ts'
import { LineParser } from '../../support/line-parser.ts'
import { NetworkStack, received } from '../../support/network-stack.ts'
import { KNOWN_SLOT } from '../../support/test-host.ts'

const PASSING: Parser = { onData: (_direction, bytes) => (bytes.length === 0 ? [] : [pass(bytes.length)]) }

type StackOptions = ConstructorParameters<typeof NetworkStack>

async function withStack(
  t: ExecutionContext,
  makeParser: StackOptions[0],
  onConnection: (socket: Socket) => void,
  run: (stack: NetworkStack) => Promise<void>,
  { slots = [KNOWN_SLOT], ...options }: StackOptions[1] & { slots?: readonly string[] } = {},
): Promise<void> {
  t.timeout(60_000)
  const stack = new NetworkStack(makeParser, options)
  try {
    await stack.start(onConnection, slots)
    await run(stack)
  } finally {
    await stack.close()
  }
}

/** Answers each line with `re:` and the line, in its order; one with `slow` after a while. */
function answerLines(socket: Socket): void {
  let text = ''
  let answered = Promise.resolve()
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    for (const line of lines) {
      answered = answered.then(async () => {
        if (line.includes('slow')) await delay(200)
        socket.write(`re:${line}\n`)
      })
    }
  })
  socket.on('end', () => void answered.then(() => socket.end()))
}

async function until(condition: () => boolean, message: string): Promise<void> {
  for (const deadline = performance.now() + 10_000; !condition(); await delay(10))
    if (performance.now() > deadline) throw new Error(message)
}

test.serial('answers of the parser come in their turn, behind those that the server takes its time for', async (t) => {
  await withStack(
    t,
    () => new LineParser(),
    answerLines,
    async (stack) => {
      const client = stack.connect()
      client.write('a-slow\nd1\na2\nd3\n')
      client.end()
      t.is(await received(client), 're:a-slow\nno d1\nre:a2\nno d3\n')
    },
  )
})

test.serial('a frame in pieces is held back and goes on whole, and both directions may have something to say at once', async (t) => {
  await withStack(
    t,
    () => new LineParser(),
    answerLines,
    async (stack) => {
      const client = stack.connect().setNoDelay(true)
      for (const byte of 'a-in-pieces\nr-changed\nd-denied\n') {
        client.write(byte)
        await delay(2)
      }
      // Of this one, something goes on and something goes back.
      client.end('r\nd\n')
      t.is(await received(client), 're:a-in-pieces\nre:a-written\nno d-denied\nre:a-written\nno d\n')
      t.deepEqual(stack.failures, [])
    },
  )
})

test.serial('each side may end before the other', async (t) => {
  const ended: string[] = []
  await withStack(
    t,
    () => PASSING,
    (socket) => {
      let text = ''
      socket.setEncoding('latin1').on('data', (chunk: string) => {
        text += chunk
        // Ends its side before the client does.
        if (text === 'first\n') socket.end('bye\n')
      })
      socket.on('end', () => {
        ended.push(text)
        if (!socket.writableEnded) socket.end(`${text}all\n`)
      })
    },
    async (stack) => {
      const early = stack.connect()
      early.end('client ends first\n')
      t.is(await received(early), 'client ends first\nall\n')
      const late = stack.connect()
      late.write('first\n')
      t.is(await received(late), 'bye\n')
      late.end('and more\n')
      await until(() => ended.length === 2, 'the server does not see the end')
      t.deepEqual(ended, ['client ends first\n', 'first\nand more\n'])
    },
  )
})

test.serial('the end of a direction is kept while the parser thinks', async (t) => {
  await withStack(
    t,
    () => new LineParser(true),
    answerLines,
    async (stack) => {
      const client = stack.connect()
      client.end('a1\nd2\na3\n')
      t.is(await received(client), 're:a1\nno d2\nre:a3\n')
    },
  )
})

test.serial('a connection that breaks off ends at the server too, whatever was answered on it before', async (t) => {
  await withStack(
    t,
    () => new LineParser(),
    answerLines,
    async (stack) => {
      const endings: readonly ((client: Socket) => void)[] = [(client) => client.resetAndDestroy(), (client) => client.destroy()]
      for (const end of endings) {
        for (const lines of ['a1\n', 'd1\n', 'd1\na2\n', 'a1\nd2\nd3\na4\n', 'a1-slow\n']) {
          const client = stack.connect()
          client.write(lines)
          if (!lines.includes('slow')) await once(client, 'data')
          await delay(50)
          const server = stack.accepted.at(-1) as Socket
          end(client)
          await until(() => server.destroyed || server.readableEnded, `${lines} is still open at the server`)
        }
      }
      for (const end of endings) {
        for (const lines of ['a1\n', 'd1\n', 'd1\na2\n', 'a1\nd2\nd3\na4\n']) {
          const client = stack.connect()
          client.write(lines)
          await once(client, 'data')
          await delay(50)
          end(stack.accepted.at(-1) as Socket)
          await until(() => client.destroyed || client.readableEnded, `${lines} is still open at the client`)
          client.destroy()
        }
      }
      await until(() => stack.host.connectionCount === 0, `${stack.host.connectionCount} connections are kept`)
      t.pass()
    },
  )
})

test.serial('a server that speaks first is heard', async (t) => {
  await withStack(
    t,
    () => PASSING,
    (socket) => {
      socket.write('hello\n')
      answerLines(socket)
    },
    async (stack) => {
      const client = stack.connect()
      const [greeting] = (await once(client, 'data')) as [Buffer]
      t.is(String(greeting), 'hello\n')
      client.end('a\n')
      t.is(await received(client), 're:a\n')
    },
    { isServerFirst: true },
  )
})

test.serial(
  'a parser that fails closes its own connection, with what was answered before; nothing behind it reaches the server',
  async (t) => {
    await withStack(
      t,
      () => new LineParser(),
      answerLines,
      async (stack) => {
        const other = stack.connect()
        other.write('a1\n')
        await once(other, 'data')
        const client = stack.connect()
        client.write('a1\nd2\n')
        await once(client, 'data')
        const [, server] = stack.accepted
        let atServer = ''
        server?.on('data', (chunk) => {
          atServer += String(chunk)
        })
        client.write('x\na-behind\n')
        await received(client)
        t.deepEqual(stack.failures, ['no such line'])
        await delay(100)
        t.notRegex(atServer, /behind/)
        other.end('a2\n')
        t.is(await received(other), 're:a2\n')
      },
    )
  },
)

test.serial('who comes by no slot, or for nobody here, is closed before a byte has passed', async (t) => {
  const bytes: string[] = []
  await withStack(
    t,
    () => PASSING,
    (socket) => socket.on('data', (chunk) => bytes.push(String(chunk))),
    async (stack) => {
      for (const slot of ['slot-1-2', 'slot-2-1', 'no-slot']) {
        const client = stack.connect(slot)
        client.write('secret\n')
        t.is(await received(client), '', slot)
        client.destroy()
      }
      stack.isLocal = false
      const stranger = stack.connect()
      stranger.write('secret\n')
      t.is(await received(stranger), '')
      await delay(100)
      t.deepEqual(bytes, [])
      t.is(stack.refused.length, 4)
    },
    { slots: [KNOWN_SLOT, 'slot-1-2', 'slot-2-1', 'no-slot'] },
  )
})

test.serial('connections end when their slot does, and when their worker dies, and nothing passes then', async (t) => {
  const bytes: string[] = []
  await withStack(
    t,
    () => new LineParser(),
    (socket) => {
      socket.on('data', (chunk) => bytes.push(String(chunk)))
      answerLines(socket)
    },
    async (stack) => {
      const client = stack.connect()
      client.write('a1\n')
      await once(client, 'data')
      stack.host.end([stack.slot])
      await received(client)
      const again = stack.connect()
      again.write('a2\n')
      await once(again, 'data')
      await stack.stopServing()
      again.write('d-unseen\na-unseen\n')
      await received(again)
      const none = stack.connect()
      none.write('a-unseen\n')
      await received(none)
      t.notRegex(bytes.join(''), /unseen/)
      await stack.serve()
      const back = stack.connect()
      back.end('a3\n')
      t.is(await received(back), 're:a3\n')
    },
  )
})

test.serial('thousands of connections come and go on one connection of Envoy', async (t) => {
  await withStack(
    t,
    () => new LineParser(),
    answerLines,
    async (stack) => {
      let wrong = 0
      const one = async (): Promise<void> => {
        for (let count = 0; count < 125; count++) {
          const client = stack.connect()
          client.end('a\nd\n')
          if ((await received(client)) !== 're:a\nno d\n') wrong++
        }
      }
      await Promise.all(Array.from({ length: 16 }, one))
      t.is(wrong, 0)
      t.deepEqual([stack.failures, stack.refused], [[], []])
    },
  )
})

test.serial('bulk passes whole, both ways at once', async (t) => {
  const size = 32 << 20
  const hash = () => createHash('sha256')
  const up = randomBytes(size)
  const down = randomBytes(size)
  let atServer = ''
  await withStack(
    t,
    () => PASSING,
    (socket) => {
      const digest = hash()
      socket.on('data', (chunk) => digest.update(chunk))
      socket.on('end', () => {
        atServer = digest.digest('hex')
      })
      socket.end(down)
    },
    async (stack) => {
      const client = stack.connect()
      const digest = hash()
      client.on('data', (chunk) => digest.update(chunk))
      client.end(up)
      await once(client, 'end')
      await until(() => atServer !== '', 'the server does not see the end')
      t.is(digest.digest('hex'), hash().update(down).digest('hex'))
      t.is(atServer, hash().update(up).digest('hex'))
    },
  )
})

test.serial('memory is bounded while a client does not read', async (t) => {
  const size = 160 << 20
  await withStack(
    t,
    () => PASSING,
    (socket) => {
      socket.on('data', () => {})
      // As fast as it goes, as much as is taken.
      const chunk = Buffer.alloc(1 << 20)
      let sent = 0
      const more = (): void => {
        while (sent < size) {
          sent += chunk.length
          if (!socket.write(chunk)) {
            socket.once('drain', more)
            return
          }
        }
        socket.end()
      }
      more()
    },
    async (stack) => {
      const before = stack.envoyRssBytes
      const client = stack.connect()
      client.pause()
      client.write('go\n')
      await delay(3000)
      const growth = stack.envoyRssBytes - before
      t.log(`Envoy grew by ${Math.round(growth / 1024 / 1024)} MiB`)
      t.true(growth < 96 << 20)
      let bytes = 0
      client.on('data', (chunk: Buffer) => {
        bytes += chunk.length
      })
      client.resume()
      await once(client, 'end')
      t.is(bytes, size)
    },
  )
})

test.serial('a client that sends on while the parser cannot take more is closed, and not kept', async (t) => {
  let held = 0
  const waiting: Parser = {
    onData: (_direction, bytes) => {
      held = bytes.length
      return [{ op: 'wait' }]
    },
  }
  await withStack(
    t,
    () => waiting,
    () => {},
    async (stack) => {
      const before = stack.envoyRssBytes
      const client = stack.connect()
      client.write(Buffer.alloc(64 << 20))
      await received(client)
      t.true(held > 0)
      t.deepEqual(stack.failures, ['more came than can be held back'])
      t.log(`Envoy grew by ${Math.round((stack.envoyRssBytes - before) / 1024 / 1024)} MiB`)
    },
  )
})

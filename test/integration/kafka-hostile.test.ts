/** Bytes that no client of Kafka sends, and clients that do not do their part, on the relay: a worker minds itself and its other connections. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { requestFrame } from '../parsers/kafka/support.ts'
import { KafkaClient } from '../support/kafka.ts'
import { type KafkaScene, kafkaPolicy, startKafkaScene } from '../support/kafka-scene.ts'
import type { Workload } from '../support/machine.ts'
import { residentMb } from '../support/memory.ts'
import { closeOf, connectRaw, restOf, serveRaw } from '../support/raw-tcp.ts'
import { policyOf } from '../support/running.ts'

const PORT = 9092
const PRODUCE = 0
const FETCH = 1
const METADATA = 3
const HEARTBEAT = 12
const CREATE_TOPICS = 19
/** What a heap grows by before it is looked through, and less than what is sent. */
const GROWTH_MB_MAX = 64
const MEGABYTE = 1 << 20
const LONGEST_NAME = 249

interface Hostile extends KafkaScene {
  /** A server that is no broker: each test says what it does. */
  readonly fake: Workload
}

/** A server of a test's own on each. */
let nextPort = PORT
let starting: Promise<Hostile> | undefined
const sceneOf = (): Promise<Hostile> => {
  starting ??= start()
  return starting
}

async function start(): Promise<Hostile> {
  const scene = await startKafkaScene(['orders'], { relay: { workers: 1 } })
  const fake = scene.machine.addWorkload('fake')
  scene.machine.writeWorkloads()
  await scene.headgate.waitForEndpoint('fake')
  const rules = [
    { role: 'produce', topic: 'orders' },
    { role: 'consume', topic: 'orders' },
    { role: 'admin', topic: 'orders' },
  ]
  const ports = Array.from({ length: 5 }, (_, index) => ({ port: String(PORT + index), protocol: 'TCP' }))
  const ingress = [{ fromEndpoints: [{ matchLabels: { app: 'shop' } }], toPorts: [{ ports, rules: { kafka: rules } }] }]
  await scene.headgate.apply('broker.json', kafkaPolicy(...rules), policyOf('fake', 'fake', { ingress }))
  return { ...scene, fake }
}

test.after.always(async () => await (await starting)?.dispose())

function memoryOf({ machine }: KafkaScene): number {
  return residentMb(Number(readFileSync(join(machine.folder, 'run/relay/0.lock'), 'utf8'))).rss
}

function toBroker({ shop, server }: Hostile): Promise<Socket> {
  return connectRaw(shop, server.address, PORT)
}

/** Whether the connection was closed, and the reason that a flow names. */
async function closedFor({ headgate }: Hostile, socket: Socket, bytes: Uint8Array): Promise<string> {
  const { localPort } = socket
  socket.resume().write(bytes)
  await restOf(socket)
  socket.destroy()
  return (await headgate.flowThat(({ source, reason, where }) => where === 'relay' && source.port === localPort && reason !== '')).reason
}

function ofSize(size: number, rest = Buffer.alloc(28)): Buffer {
  const frame = Buffer.concat([Buffer.alloc(4), rest])
  frame.writeInt32BE(size, 0)
  return frame
}

/** The beginning of a request that says it has this body; no flexible version. */
function headed(apiKey: number, version: number, body: Buffer, size = 10 + body.length): Buffer {
  const head = Buffer.alloc(14)
  head.writeInt32BE(size, 0)
  head.writeInt16BE(apiKey, 4)
  head.writeInt16BE(version, 6)
  head.writeInt16BE(-1, 12)
  return Buffer.concat([head, body])
}

const bytesOf = (hex: string) => Buffer.from(hex, 'hex')
const badClientId = requestFrame(METADATA, 9, { topics: null })
badClientId.writeInt16BE(30_000, 12)
const LIES: readonly (readonly [what: string, bytes: Buffer, reason: RegExp])[] = [
  ...[-1, 0, 3, 0x7fff_ffff, 513 << 20].map((size) => [`size ${size}`, ofSize(size), new RegExp(`^a frame of ${size} bytes$`)] as const),
  ['client id', badClientId, /^a client id of 30000 bytes in a request/],
  ['an array of 2^31 - 1', headed(METADATA, 4, bytesOf('7fffffff00')), /^2147483647 topics in \d+ bytes$/],
  ['a compact array of 2^32 - 1', headed(METADATA, 9, bytesOf('00ffffffff0f0000')), /^4294967294 topics in \d+ bytes$/],
  ['2^32 - 1 tagged fields', headed(METADATA, 9, bytesOf('ffffffff0f0000')), /bytes where \d+ are left$/],
  ['a varint without end', headed(METADATA, 9, Buffer.alloc(64, 0xff)), /varint/],
  ['a name of 2 GiB', headed(METADATA, 9, bytesOf('0002ffffffff0700')), /bytes where \d+ are left$/],
  [
    'lists in lists',
    headed(CREATE_TOPICS, 4, Buffer.concat([bytesOf('000000010001610000000100017fffffff'), Buffer.alloc(64)])),
    /^2147483647 assignments in \d+ bytes$/,
  ],
  [
    'what has to be read, of 400 MiB',
    headed(CREATE_TOPICS, 4, Buffer.alloc(100), 400 << 20),
    /^a request of \d+ bytes that has to be read$/,
  ],
  ['a message without its end', headed(HEARTBEAT, 0, bytesOf('0001610000000100')), /^2 bytes where 1 are left$/],
  ['another protocol', Buffer.from('GET / HTTP/1.1\r\nHost: broker\r\n\r\n'), /^a frame of 1195725856 bytes$/],
]

test.serial('what is no Kafka, or lies about its lengths, is closed with a flow that says why; nothing is kept of it', async (t) => {
  t.timeout(120_000)
  const scene = await sceneOf()
  const other = new KafkaClient(scene.machine, scene.shop, scene.broker.address)
  t.is((await other.ask('produce', 'orders')).result, 'ok')
  for (const [what, bytes, reason] of LIES) t.regex(await closedFor(scene, await toBroker(scene), bytes), reason, what)
  t.is((await other.ask('produce', 'orders')).result, 'ok')
  const before = memoryOf(scene)
  for (let round = 0; round < 6; round++) {
    await Promise.all(
      [...LIES.map(([, bytes]) => bytes), ...Array.from({ length: 10 }, () => randomBytes(4096))].map(async (bytes) => {
        const socket = await toBroker(scene)
        socket.resume().write(bytes)
        // Chance may look like the beginning of a frame that is not there yet.
        socket.end()
        await closeOf(socket)
      }),
    )
  }
  const grown = memoryOf(scene) - before
  t.true(grown < GROWTH_MB_MAX, `${grown} MB`)
  t.is((await other.ask('produce', 'orders')).result, 'ok')
  await other.close()
})

test.serial('of requests that nobody answers so many are let through, and all have their answers in the end', async (t) => {
  t.timeout(60_000)
  const scene = await sceneOf()
  let seen = 0
  let answering = false
  let answer: (() => void) | undefined
  const port = nextPort++
  await serveRaw(scene.fake, port, (socket) => {
    let rest = Buffer.alloc(0)
    const answers: Buffer[] = []
    answer = () => {
      answering = true
      socket.write(Buffer.concat(answers.splice(0)))
    }
    socket.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk])
      for (; rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0); rest = rest.subarray(4 + rest.readInt32BE(0))) {
        seen++
        answers.push(Buffer.concat([bytesOf('00000006'), rest.subarray(8, 12), bytesOf('0000')]))
      }
      if (answering) answer?.()
    })
  })
  const COUNT = 20_000
  const client = await connectRaw(scene.shop, scene.fake.address, port)
  const before = memoryOf(scene)
  for (let id = 0; id < COUNT; id++) client.write(requestFrame(HEARTBEAT, 0, { groupId: 'g', memberId: 'm' }, { correlationId: id }))
  while (seen < 1024) await delay(10)
  await delay(300)
  // What was read before it was too many is let through.
  t.true(seen < COUNT, `${seen}`)
  const grown = memoryOf(scene) - before
  t.true(grown < GROWTH_MB_MAX, `${grown} MB`)
  const answers: number[] = []
  let rest = Buffer.alloc(0)
  const all = new Promise<void>((resolve) => {
    client.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk])
      for (; rest.length >= 10; rest = rest.subarray(10)) answers.push(rest.readInt32BE(4))
      if (answers.length === COUNT) resolve()
    })
  })
  answer?.()
  await all
  t.true(answers.every((id, index) => id === index))
})

/** Its answer is as long as the name. */
function deniedRequest(correlationId: number): Buffer {
  return requestFrame(
    PRODUCE,
    7,
    { acks: -1, topicData: [{ name: 's'.repeat(LONGEST_NAME), partitionData: [{ index: 0, records: null }] }] },
    { correlationId },
  )
}

test.serial('answers that wait for their turn are limited', async (t) => {
  const scene = await sceneOf()
  const port = nextPort++
  await serveRaw(scene.fake, port, (socket) => socket.resume())
  const client = await connectRaw(scene.shop, scene.fake.address, port)
  const requests = Array.from({ length: 20_000 }, (_, id) => deniedRequest(id + 1))
  const first = requestFrame(HEARTBEAT, 0, { groupId: 'g', memberId: 'm' }, { correlationId: 0 })
  t.is(await closedFor(scene, client, Buffer.concat([first, ...requests])), 'too many answers wait for their turn')
})

test.serial('a client that does not read is not read either, and what was meant for it is not lost', async (t) => {
  t.timeout(60_000)
  const scene = await sceneOf()
  const client = await toBroker(scene)
  client.pause()
  const before = memoryOf(scene)
  const COUNT = 500_000
  let sent = 0
  let isStopped = false
  // It stops somewhere: with what sockets hold.
  for (let drained = true; drained && sent < COUNT; isStopped = !drained) {
    const batch = Buffer.concat(Array.from({ length: 500 }, () => deniedRequest(sent++)))
    drained = client.write(batch) || (await Promise.race([once(client, 'drain'), delay(500, false)])) !== false
  }
  const grown = memoryOf(scene) - before
  t.true(isStopped, 'all was read')
  t.true(grown < GROWTH_MB_MAX, `${grown} MB`)
  let nextId = 0
  let rest = Buffer.alloc(0)
  const all = new Promise<void>((resolve) => {
    client.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk])
      for (; rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0); rest = rest.subarray(4 + rest.readInt32BE(0))) {
        if (rest.readInt32BE(4) === nextId) nextId++
      }
      if (nextId === sent) resolve()
    })
  })
  client.resume()
  await all
  t.is(nextId, sent)
  client.destroy()
})

test.serial('a server is not read faster than its client reads', async (t) => {
  t.timeout(60_000)
  const scene = await sceneOf()
  const BULK_BYTES = 200 * MEGABYTE
  let written = 0
  const port = nextPort++
  await serveRaw(scene.fake, port, (socket) => {
    socket.once('data', async () => {
      socket.write(Buffer.concat([ofSize(BULK_BYTES + 4, Buffer.alloc(0)), bytesOf('00000007')]))
      const block = Buffer.alloc(MEGABYTE, 'b')
      while (written < BULK_BYTES) {
        written += block.length
        if (!socket.write(block)) await once(socket, 'drain')
      }
    })
  })
  const client = await connectRaw(scene.shop, scene.fake.address, port)
  client.pause()
  const before = memoryOf(scene)
  client.write(requestFrame(FETCH, 4, { topics: [{ topic: 'orders', partitions: [{ partition: 0 }] }] }, { correlationId: 7 }))
  let seen = -1
  while (seen !== written) {
    seen = written
    await delay(400)
  }
  t.true(written < BULK_BYTES / 2, `${written} bytes`)
  t.true(memoryOf(scene) - before < GROWTH_MB_MAX)
  let bytes = 0
  for await (const chunk of client) {
    bytes += (chunk as Buffer).length
    if (bytes === BULK_BYTES + 8) break
  }
  t.is(bytes, BULK_BYTES + 8)
})

test.serial('each side may end before the other, and what the other sends then still comes', async (t) => {
  const scene = await sceneOf()
  const accepted: Socket[] = []
  const port = nextPort++
  await serveRaw(scene.fake, port, (socket) => accepted.push(socket))
  const request = requestFrame(HEARTBEAT, 0, { groupId: 'g', memberId: 'm' }, { correlationId: 5 })
  const answer = bytesOf('00000006000000050000')
  const begin = async (): Promise<[Socket, Socket]> => {
    const count = accepted.length
    const client = await connectRaw(scene.shop, scene.fake.address, port)
    client.write(request)
    while (accepted.length === count) await delay(5)
    return [client, accepted[count] as Socket]
  }
  // The client ends first.
  const [client, peer] = await begin()
  client.end()
  t.deepEqual(await restOf(peer), request)
  peer.end(answer)
  t.deepEqual(await restOf(client), answer)
  // The server ends first; what the client still asks gets through to it, and nobody answers.
  const [second, quiet] = await begin()
  await once(quiet, 'data')
  quiet.end(answer)
  t.deepEqual(await restOf(second), answer)
  second.end(request)
  t.deepEqual(await restOf(quiet), request)
  // What was not all there when its side ended goes nowhere.
  const [third, cut] = await begin()
  await once(cut, 'data')
  third.end(request.subarray(0, 9))
  t.is((await restOf(cut)).length, 0)
  cut.end()
})

// The last one: the worker has used the memory that it may use.
test.serial('a frame that is announced takes memory as its bytes come, and what all connections hold is limited', async (t) => {
  t.timeout(120_000)
  const scene = await sceneOf()
  const before = memoryOf(scene)
  const announced = headed(CREATE_TOPICS, 4, Buffer.alloc(1000), 100 << 20)
  const idle = await Promise.all(Array.from({ length: 50 }, () => toBroker(scene)))
  for (const socket of idle) socket.write(announced)
  await delay(200)
  t.true(memoryOf(scene) - before < GROWTH_MB_MAX)
  // 90 MiB each, of four: more than a worker keeps for all.
  const large = idle.slice(0, 4)
  const closed = Promise.race(large.map(closeOf))
  const ports = large.map(({ localPort }) => localPort)
  for (const socket of large) socket.resume().write(Buffer.alloc(90 << 20))
  await closed
  const { reason } = await scene.headgate.flowThat(({ source, reason: why }) => ports.includes(source.port) && why !== '')
  t.is(reason, 'no memory is left for what has to be held back')
  for (const socket of idle) socket.destroy()
})

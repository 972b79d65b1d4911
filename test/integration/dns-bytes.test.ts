/** What arrives of DNS messages at the other end, byte for byte, over the real datapath; and datagrams that are too long for one packet. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { addWorld, ask, namesPolicy, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import type { Machine, Workload } from '../support/machine.ts'
import { ip, ROOT } from '../support/machine.ts'
import { type Running, withMachine } from '../support/running.ts'
import { TcpPeer } from '../support/tcp.ts'
import { startUnbound } from '../support/unbound.ts'

const TYPE = { A: 1, TXT: 16, OPT: 41, RRSIG: 46, DNSKEY: 48, NSEC3: 50, HTTPS: 65, UNKNOWN: 65_280 } as const
/** QR, AA, RD, RA, AD, CD. */
const ALL_FLAGS = 0x85b0
const FLAGS_OF_REPLY = 0x8180
const TRUNCATED = 0x0200
/** Of an MTU of 1500. */
const PACKET_BYTES_MAX = 1472
/** What servers are told. */
const DATAGRAM_BYTES_MAX = 1232
const [SIGNED, LONG, HINTED] = WORLD

const uint16 = (...values: readonly number[]): Buffer => Buffer.from(values.flatMap((value) => [value >> 8, value & 0xff]))
const addressBytes = (address: string): Buffer => Buffer.from(address.split('.').map(Number))
/** Bytes that are not like one another. */
const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, index) => (index * 167 + 13) & 0xff))

/** Of the name that was asked for, unless the owner is another. */
function record(type: number, data: Buffer, owner = uint16(0xc00c)): Buffer {
  return Buffer.concat([owner, uint16(type, 1, 0, 60, data.length), data])
}

function opt(udpPayloadBytes: number, flags: number, ...options: readonly (readonly [code: number, data: Buffer])[]): Buffer {
  const data = Buffer.concat(options.map(([code, value]) => Buffer.concat([uint16(code, value.length), value])))
  return Buffer.concat([Buffer.from([0]), uint16(TYPE.OPT, udpPayloadBytes, 0, flags, data.length), data])
}

function query(label: string, type: number, ...additionals: readonly Buffer[]): Buffer {
  const question = Buffer.concat([Buffer.from([label.length]), Buffer.from(`${label}\x04tEsT\0`), uint16(type, 1)])
  // An id, RD, AD and CD.
  return Buffer.concat([uint16(0x1234, 0x0130, 1, 0, 0, additionals.length), question, ...additionals])
}

interface Answer {
  /** Flags and counts. */
  readonly before: Buffer
  readonly behind: Buffer
}

function answer(
  flags: number,
  answers: readonly Buffer[],
  authorities: readonly Buffer[] = [],
  additionals: readonly Buffer[] = [],
): Answer {
  return {
    before: uint16(flags, 1, answers.length, authorities.length, additionals.length),
    behind: Buffer.concat([...answers, ...authorities, ...additionals]),
  }
}

function replyTo(message: Buffer, { before, behind }: Answer): Buffer {
  return Buffer.concat([message.subarray(0, 2), before, message.subarray(12, message.indexOf(0, 12) + 5), behind])
}

/** A record that makes the reply with it as long as is wanted. */
function filler(length: number): Buffer {
  return record(TYPE.UNKNOWN, noise(length - 12))
}

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  /** Nobody's policy is about it. */
  readonly free: Workload
  /** Asks the server, and says what it saw and what came back; both empty when nothing did. */
  ask(from: Workload, transport: 'udp' | 'tcp', message: Buffer): Promise<{ readonly seen: Buffer; readonly reply: Buffer }>
}

/** A client that may ask for everything and has no connections of its own but to names, and a name server with these answers by label. */
async function withServer(answers: Readonly<Record<string, Answer>>, run: (scene: Scene) => Promise<void>): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const [client, free, dns] = ['client', 'free', 'dns'].map((name) => machine.addWorkload(name)) as [Workload, Workload, Workload]
    await addWorld(machine)
    machine.writeWorkloads()
    const script = [join(ROOT, 'bin/node'), join(ROOT, 'test/support/dns-peer.mjs')]
    const file = join(machine.folder, 'answers.json')
    const hex = ({ before, behind }: Answer) => ({ before: before.toString('hex'), behind: behind.toString('hex') })
    writeFileSync(file, JSON.stringify(Object.fromEntries(Object.entries(answers).map(([label, each]) => [label, hex(each)]))))
    const server = new TcpPeer(machine.start(dns.netns, [...script, 'listen', dns.address, file]))
    await server.saw('listening')
    headgate.start()
    // Enforced in both directions: what is not judged is dropped and counted.
    const policy = namesPolicy('client', [{ matchPattern: '*.test' }], toDns([{ matchPattern: '*.test' }]))
    await headgate.apply('client.json', { ...policy, spec: { ...(policy['spec'] as object), ingress: [{}] } })
    const ask: Scene['ask'] = async (from, transport, message) => {
      const count = server.lines.length
      const { stdout } = await machine.run(from.netns, [...script, 'ask', dns.address, transport, message.toString('hex')])
      const line = server.lines.slice(count).find((each) => each.startsWith(`${transport} ${from.address}:`))
      return { seen: Buffer.from(line?.split(' ')[2] ?? '', 'hex'), reply: Buffer.from(stdout.trim(), 'hex') }
    }
    await run({ machine, headgate, client, free, ask })
  })
}

test.serial('messages arrive as they were sent, but for the id on the way and the size that fits into a packet', async (t) => {
  const nsec3Owner = Buffer.from('\x05other\x04test\0', 'latin1')
  const texts = Array.from({ length: 230 }, (_, index) =>
    record(TYPE.TXT, Buffer.concat([Buffer.from([250]), noise(250).fill(index, 0, 2)])),
  )
  const answers = {
    signed: answer(
      ALL_FLAGS,
      [
        record(TYPE.A, addressBytes(SIGNED)),
        record(TYPE.RRSIG, noise(150)),
        record(TYPE.DNSKEY, noise(260)),
        record(TYPE.UNKNOWN, noise(3)),
        record(TYPE.UNKNOWN, Buffer.alloc(0)),
      ],
      [record(TYPE.NSEC3, noise(80), nsec3Owner), record(TYPE.RRSIG, noise(151), nsec3Owner)],
      [opt(4096, 0x8000, [15, noise(20)], [10, noise(24)], [65_001, noise(1)])],
    ),
    long: answer(FLAGS_OF_REPLY, [...texts, record(TYPE.A, addressBytes(LONG))]),
    hinted: answer(FLAGS_OF_REPLY, [
      record(
        TYPE.HTTPS,
        Buffer.concat([uint16(1), Buffer.from([0]), uint16(1, 3), Buffer.from('\x02h2'), uint16(4, 4), addressBytes(HINTED)]),
      ),
    ]),
  } as const
  await withServer(answers, async ({ machine, client, ask }) => {
    const signed = (...additionals: readonly Buffer[]) => query('sIgNeD', TYPE.A, ...additionals)
    const dnssec = (udpPayloadBytes: number) =>
      signed(opt(udpPayloadBytes, 0x8000, [10, noise(8)], [12, Buffer.alloc(100)], [65_001, noise(5)]))
    const sizeOffset = signed().length + 3
    for (const [transport, message, size] of [
      ['udp', signed(), undefined],
      ['udp', dnssec(1232), 1232],
      ['udp', dnssec(4096), DATAGRAM_BYTES_MAX],
      ['tcp', signed(), undefined],
      ['tcp', dnssec(4096), 4096],
    ] as const) {
      const { seen, reply } = await ask(client, transport, message)
      const which = `${transport} ${size}`
      t.deepEqual(reply, replyTo(message, answers.signed), which)
      const sizeSeen = size === undefined ? undefined : seen.readUInt16BE(sizeOffset)
      t.is(sizeSeen, size, which)
      if (size !== undefined) message.copy(seen, sizeOffset, sizeOffset, sizeOffset + 2)
      t.deepEqual(seen.subarray(2), message.subarray(2), which)
    }
    t.true(await reaches(machine, client, SIGNED))
    const long = query('long', TYPE.TXT)
    const expected = replyTo(long, answers.long)
    t.true(expected.length > 60_000)
    t.false(await reaches(machine, client, LONG))
    t.deepEqual((await ask(client, 'tcp', long)).reply, expected)
    t.true(await reaches(machine, client, LONG), 'by a record behind 60 KB of others')
    t.false(await reaches(machine, client, HINTED))
    const hinted = query('hinted', TYPE.HTTPS)
    t.deepEqual((await ask(client, 'udp', hinted)).reply, replyTo(hinted, answers.hinted))
    t.true(await reaches(machine, client, HINTED), 'browsers connect to the hints of an HTTPS record')
  })
})

test.serial('a query or an answer in fragments goes nowhere, and the same over TCP arrives', async (t) => {
  const address = record(TYPE.A, addressBytes(WORLD[0]))
  const queryLength = query('fits', TYPE.A).length
  const lengthBefore = queryLength + address.length
  const answers = {
    fits: answer(FLAGS_OF_REPLY, [filler(DATAGRAM_BYTES_MAX - queryLength)]),
    long: answer(FLAGS_OF_REPLY, [address, filler(DATAGRAM_BYTES_MAX + 1 - lengthBefore)]),
    over: answer(FLAGS_OF_REPLY, [address, filler(PACKET_BYTES_MAX + 1 - lengthBefore)]),
    many: answer(FLAGS_OF_REPLY, [address, filler(4000 - lengthBefore)]),
  } as const
  await withServer(answers, async ({ machine, headgate, client, free, ask }) => {
    const padded = query('fits', TYPE.UNKNOWN, opt(1232, 0, [12, noise(2000)]))
    for (const from of [free, client]) {
      const { seen, reply } = await ask(from, 'udp', padded)
      t.is(seen.length, from === free ? padded.length : 0)
      t.is(reply.length > 0, from === free)
    }
    t.is(await headgate.dropped('fragment'), 2, 'both fragments of the query')
    t.is((await ask(client, 'tcp', padded)).seen.length, padded.length)
    const fits = query('fits', TYPE.UNKNOWN)
    t.is(replyTo(fits, answers.fits).length, DATAGRAM_BYTES_MAX)
    t.deepEqual((await ask(client, 'udp', fits)).reply, replyTo(fits, answers.fits))
    const cut = await ask(client, 'udp', query('long', TYPE.A))
    t.deepEqual([cut.reply.readUInt16BE(2), cut.reply.readUInt16BE(6)], [FLAGS_OF_REPLY | TRUNCATED, 0], 'it may not fit through a tunnel')
    for (const label of ['over', 'many'] as const) {
      const message = query(label, TYPE.A)
      const before = await headgate.dropped('fragment')
      t.deepEqual((await ask(free, 'udp', message)).reply, replyTo(message, answers[label]), label)
      const { seen, reply } = await ask(client, 'udp', message)
      t.is(seen.length, message.length, label)
      t.is(reply.length, 0, label)
      t.is((await headgate.dropped('fragment')) - before, label === 'over' ? 2 : 3, `fragments of ${label}`)
    }
    t.false(await reaches(machine, client, WORLD[0]), 'nobody has learned it')
    const message = query('many', TYPE.A)
    t.deepEqual((await ask(client, 'tcp', message)).reply, replyTo(message, answers.many))
    t.true(await reaches(machine, client, WORLD[0]))
  })
})

test.serial('an answer that fits into a packet of a leg but not of the workload’s device comes over TCP', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, free] = [machine.addWorkload('client'), machine.addWorkload('free')]
    const world = await addWorld(machine)
    machine.writeWorkloads()
    for (const { netns, device } of [client, free]) {
      ip('-n', machine.hostNetns, 'link', 'set', device, 'mtu', '1400')
      ip('-n', netns, 'link', 'set', 'eth0', 'mtu', '1400')
    }
    const texts = Array.from({ length: 5 }, (_, index) => `large.test. 60 IN TXT "${String.fromCharCode(97 + index).repeat(255)}"`)
    await startUnbound(machine, world, ...texts)
    headgate.start()
    const server = {
      toCIDR: [`${WORLD[0]}/32`],
      toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }], rules: { dns: [{ matchPattern: '*.test' }] } }],
    }
    await headgate.apply('client.json', namesPolicy('client', [{ matchName: 'api.test' }], server))
    // Without Headgate: the host sends the answer in fragments.
    await ask(machine, free, world.address, 'large.test', 'TXT', '+bufsize=4096')
    const control = await ask(machine, free, world.address, 'large.test', 'TXT', '+bufsize=4096')
    t.is(control.answers.length, 5, control.text)
    for (let tries = 0; tries < 3; tries++) {
      const answer = await ask(machine, client, world.address, 'large.test', 'TXT', '+bufsize=4096')
      t.is(answer.answers.length, 5, answer.text)
    }
  })
})

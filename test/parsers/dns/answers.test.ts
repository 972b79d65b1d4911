import test from 'ava'
import { type Answer, encode } from 'dns-packet'
import fc from 'fast-check'
import { ADDRESS_COUNT_MAX, ALIAS_COUNT_MAX, AnswerChain, CHAIN_NAME_COUNT_MAX } from '#parsers/dns/answers.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import { captured, pointer, rawMessage, rawName, rawParameter, rawQuestion, rawRecord, uint16 } from './messages.ts'

const reader = new MessageReader()
const chain = new AnswerChain()

interface Learned {
  readonly names: readonly string[]
  readonly addresses: readonly string[]
}

/** Addresses as text, each with its TTL. */
function learned(reply: Uint8Array): Learned {
  reader.load(reply)
  const hasAddresses = chain.read(reader)
  if (hasAddresses !== chain.addressCount > 0) throw new Error('addresses are miscounted')
  const addresses = Array.from(
    { length: chain.addressCount },
    (_, index) => `${bytesToAddress(chain.address(index))} ${chain.ttlsSeconds[index]}`,
  )
  return { names: [...chain.names], addresses }
}

function replyOf(name: string, answers: readonly Answer[], flags = 0): Buffer {
  return encode({ type: 'response', id: 1, flags, questions: [{ type: 'A', name }], answers: [...answers] })
}

function a(name: string, data: string, ttl = 60): Answer {
  return { type: 'A', name, data, ttl }
}

function cname(name: string, data: string, ttl = 60): Answer {
  return { type: 'CNAME', name, data, ttl }
}

function dname(name: string, data: string, ttl = 60): Answer {
  return { type: 'DNAME', name, data, ttl }
}

test('captured replies teach their chain and the addresses at its end', (t) => {
  t.deepEqual(learned(captured('cname-chain').reply), {
    names: ['www.example.test.', 'cdn.example.test.', 'edge.other.test.'],
    addresses: ['203.0.113.11 30', '203.0.113.10 30'],
  })
  t.deepEqual(learned(captured('cname-chain-aaaa').reply), {
    names: ['www.example.test.', 'cdn.example.test.', 'edge.other.test.'],
    addresses: ['2001:db8:1::10 30'],
  })
  t.deepEqual(learned(captured('https-hints').reply), {
    names: ['web.example.test.'],
    addresses: ['192.0.2.80 300', '192.0.2.81 300', '2001:db8::80 300'],
  })
  t.deepEqual(learned(captured('https-alias').reply), { names: ['alias.example.test.'], addresses: [] })
  t.deepEqual(learned(captured('dname').reply), { names: ['host.moved.example.test.', 'host.other.test.'], addresses: ['203.0.113.30 30'] })
  t.deepEqual(learned(captured('signed').reply), { names: ['dual.example.test.'], addresses: ['192.0.2.7 300'] })
  t.deepEqual(learned(captured('mixed-case').reply), { names: ['dual.example.test.'], addresses: ['2001:db8::7 300'] })
  for (const name of ['nxdomain', 'nodata', 'truncated', 'refused', 'signed-nxdomain']) {
    t.deepEqual(learned(captured(name).reply).addresses, [], name)
    t.is(chain.names.length, 1)
  }
})

test('the chain is found whatever the order of its records, and the rest teaches nothing', (t) => {
  const records = [
    cname('q.test', 'B.test', 50),
    cname('b.test', 'c.test', 70),
    a('C.test', '192.0.2.1', 60),
    a('c.test', '192.0.2.2', 40),
    a('q.test', '192.0.2.66'),
    a('b.test', '192.0.2.67'),
    a('x.test', '192.0.2.68'),
    cname('x.test', 'y.test', 1),
  ]
  fc.assert(
    fc.property(fc.shuffledSubarray(records, { minLength: records.length }), (shuffled) => {
      const { names, addresses } = learned(replyOf('Q.test', shuffled))
      t.deepEqual(names, ['q.test.', 'b.test.', 'c.test.'])
      t.deepEqual(addresses.toSorted(), ['192.0.2.1 50', '192.0.2.2 40'])
    }),
  )
})

test('records of other sections, classes and names teach nothing', (t) => {
  const extra = { type: 'response', questions: [{ type: 'A', name: 'q.test' }], answers: [a('q.test', '192.0.2.1')] } as const
  const reply = encode({
    ...extra,
    answers: [...extra.answers],
    questions: [...extra.questions],
    authorities: [a('q.test', '192.0.2.2')],
    additionals: [a('q.test', '192.0.2.3')],
  })
  t.deepEqual(learned(reply).addresses, ['192.0.2.1 60'])
  t.deepEqual(learned(replyOf('q.test', [{ type: 'A', name: 'q.test', data: '192.0.2.1', ttl: 1, class: 'CH' }])).addresses, [])
})

test('a reply with an error has names and no addresses', (t) => {
  t.deepEqual(learned(replyOf('q.test', [cname('q.test', 'b.test'), a('b.test', '192.0.2.1')], 3)), {
    names: ['q.test.', 'b.test.'],
    addresses: [],
  })
})

test('what is no reply to one question of the Internet teaches nothing', (t) => {
  const nothing = { names: [], addresses: [] }
  const question = rawQuestion(rawName('q'))
  const record = rawRecord(rawName('q'), 1, Buffer.from([192, 0, 2, 1]))
  t.is(learned(rawMessage({ flags: 0x8000, counts: [1, 1, 0, 0] }, question, record)).addresses.length, 1)
  t.deepEqual(learned(rawMessage({ flags: 0, counts: [1, 1, 0, 0] }, question, record)), nothing)
  t.deepEqual(learned(rawMessage({ flags: 0x8000, counts: [0, 1, 0, 0] }, record)), nothing)
  t.deepEqual(learned(rawMessage({ flags: 0x8000, counts: [2, 1, 0, 0] }, question, question, record)), nothing)
  t.deepEqual(learned(rawMessage({ flags: 0x8000, counts: [1, 1, 0, 0] }, rawName('q'), uint16(1, 3), record)), nothing)
  t.deepEqual(learned(rawMessage({ flags: 0x8000, counts: [1, 2, 0, 0] }, question, record)).addresses, [])
  t.deepEqual(learned(Buffer.alloc(3)), nothing)
})

test('a loop ends the chain', (t) => {
  t.deepEqual(learned(replyOf('a.test', [cname('a.test', 'b.test'), cname('b.test', 'a.test')])).names, ['a.test.', 'b.test.'])
  t.deepEqual(learned(replyOf('a.test', [cname('a.test', 'a.test')])).names, ['a.test.'])
  t.deepEqual(learned(replyOf('x.a.test', [dname('a.test', 'a.test')])).names, ['x.a.test.'])
})

test('of two aliases of a name the first counts', (t) => {
  t.deepEqual(learned(replyOf('a.test', [cname('a.test', 'b.test'), cname('a.test', 'c.test')])).names, ['a.test.', 'b.test.'])
})

test('a DNAME stands for the names below its owner, the nearest first', (t) => {
  t.deepEqual(learned(replyOf('x.y.a.test', [dname('test', 'wrong'), dname('a.test', 'b.test', 20), a('x.y.b.test', '192.0.2.1')])), {
    names: ['x.y.a.test.', 'x.y.b.test.', 'x.y.b.wrong.'],
    addresses: [],
  })
  t.deepEqual(learned(replyOf('x.y.a.test', [dname('a.test', 'b.net', 20), a('x.y.b.net', '192.0.2.1')])), {
    names: ['x.y.a.test.', 'x.y.b.net.'],
    addresses: ['192.0.2.1 20'],
  })
  t.deepEqual(learned(replyOf('a.test', [dname('a.test', 'b.net'), a('a.test', '192.0.2.1')])), {
    names: ['a.test.'],
    addresses: ['192.0.2.1 60'],
  })
  t.deepEqual(learned(replyOf('xa.test', [dname('a.test', 'b.net')])).names, ['xa.test.'])
  t.deepEqual(learned(replyOf('x.a', [dname('a', '.'), a('x', '192.0.2.1')])), { names: ['x.a.', 'x.'], addresses: ['192.0.2.1 60'] })
  t.deepEqual(learned(replyOf('x', [dname('.', 'a')])).names.slice(0, 3), ['x.', 'x.a.', 'x.a.a.'])
  t.true(chain.isCut)
})

test('a DNAME that makes a name too long ends the chain', (t) => {
  const long = Array(3).fill('a'.repeat(63)).join('.')
  const question = `${'b'.repeat(62)}.test`
  t.is(learned(replyOf(question, [dname('test', long)])).names.length, 1)
  t.is(learned(replyOf(question.slice(1), [dname('test', long)])).names.length, 2)
})

test('a chain above the maximum is cut and has no addresses', (t) => {
  const names = Array.from({ length: CHAIN_NAME_COUNT_MAX + 1 }, (_, index) => `n${index}.test`)
  const links = names.slice(1).map((name, index) => cname(`n${index}.test`, name))
  t.is(learned(replyOf('n0.test', [...links, a(names.at(-1) ?? '', '192.0.2.1'), a(names.at(-2) ?? '', '192.0.2.2')])).addresses.length, 0)
  t.true(chain.isCut)
  t.deepEqual(
    chain.names,
    names.slice(0, -1).map((name) => `${name}.`),
  )
  t.deepEqual(learned(replyOf('n1.test', [...links.slice(1), a(names.at(-1) ?? '', '192.0.2.1')])).addresses, ['192.0.2.1 60'])
  t.false(chain.isCut)
})

test('of aliases above the maximum nothing is learned', (t) => {
  const others = Array.from({ length: ALIAS_COUNT_MAX }, (_, index) => cname(`n${index}.test`, 'x.test'))
  const records = [cname('q.test', 'b.test'), a('b.test', '192.0.2.1')]
  t.is(learned(replyOf('q.test', [...others.slice(1), ...records])).addresses.length, 1)
  t.is(learned(replyOf('q.test', [...others, ...records])).addresses.length, 0)
  t.true(chain.isCut)
})

test('addresses above the maximum are ignored and counted', (t) => {
  const addresses = Array.from({ length: ADDRESS_COUNT_MAX + 5 }, (_, index) =>
    rawRecord(pointer(12), 1, Buffer.from([10, 0, index >> 8, index & 255])),
  )
  const reply = rawMessage({ flags: 0x8180, counts: [1, addresses.length, 0, 0] }, rawQuestion(rawName('q')), ...addresses)
  t.is(learned(reply).addresses.length, ADDRESS_COUNT_MAX)
  t.is(chain.ignoredAddressCount, 5)
  t.is(chain.addressCount, ADDRESS_COUNT_MAX)
  learned(captured('cname-chain').reply)
  t.is(chain.ignoredAddressCount, 0)
})

test('an address that comes twice is one, with the lower TTL', (t) => {
  const service = Buffer.concat([uint16(1), rawName(), rawParameter(4, Buffer.from([192, 0, 2, 1, 192, 0, 2, 2]))])
  const reply = rawMessage(
    { flags: 0x8180, counts: [1, 3, 0, 0] },
    rawQuestion(rawName('q'), 255),
    rawRecord(pointer(12), 1, Buffer.from([192, 0, 2, 1]), 90),
    rawRecord(pointer(12), 65, service, 80),
    rawRecord(pointer(12), 28, Buffer.from('00000000000000000000ffffc0000202', 'hex'), 95),
  )
  t.deepEqual(learned(reply).addresses, ['192.0.2.1 80', '192.0.2.2 80'])
})

test('a malformed alias is no part of the chain', (t) => {
  const reply = rawMessage(
    { flags: 0x8180, counts: [1, 2, 0, 0] },
    rawQuestion(rawName('q')),
    rawRecord(pointer(12), 5, Buffer.from('\x05ab')),
    rawRecord(pointer(12), 1, Buffer.from([192, 0, 2, 1])),
  )
  t.deepEqual(learned(reply), { names: ['q.'], addresses: ['192.0.2.1 60'] })
})

/** As its definition says, over records in place of bytes. */
function expectedOf(question: string, answers: readonly Answer[]): Learned {
  const names = [question]
  let ttlSeconds = 0x7fffffff
  for (;;) {
    const record = answers.find(({ type, name }) => type === 'CNAME' && name === names.at(-1))
    if (record?.type !== 'CNAME' || names.includes(record.data)) {
      // The TTL of the record that closes a loop counts as well.
      if (record?.type === 'CNAME') ttlSeconds = Math.min(ttlSeconds, record.ttl ?? 0)
      break
    }
    names.push(record.data)
    ttlSeconds = Math.min(ttlSeconds, record.ttl ?? 0)
  }
  const lowest = new Map<string, number>()
  for (const record of answers)
    if (record.type === 'A' && record.name === names.at(-1))
      lowest.set(record.data, Math.min(lowest.get(record.data) ?? ttlSeconds, record.ttl ?? 0))
  return { names: names.map((name) => `${name}.`), addresses: [...lowest].map(([address, ttl]) => `${address} ${ttl}`) }
}

test('random replies teach what the definition says', (t) => {
  const name = fc.constantFrom('a.test', 'b.test', 'c.test', 'd.test')
  const ttl = fc.nat(100)
  const record = fc.oneof(
    fc.tuple(name, fc.constantFrom('192.0.2.1', '192.0.2.2', '192.0.2.3'), ttl).map((values) => a(...values)),
    fc.tuple(name, name, ttl).map((values) => cname(...values)),
  )
  fc.assert(
    fc.property(name, fc.array(record, { maxLength: 10 }), (question, answers) => {
      t.deepEqual(learned(replyOf(question, answers)), expectedOf(question, answers))
    }),
    { numRuns: 1000 },
  )
})

import test from 'ava'
import { decode, encode, type Packet, type Question } from 'dns-packet'
import fc from 'fast-check'
import { rcodeName, typeName } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { wireLengthOf } from '#parsers/dns/wire-name.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { CAPTURED, captured, pointer, rawMessage, rawName, rawOpt, rawParameter, rawQuestion, rawRecord, uint16 } from './messages.ts'

const reader = new MessageReader()

function questions(): string[] {
  const seen: string[] = []
  while (reader.nextQuestion()) seen.push(`${reader.name} ${typeName(reader.type)} ${reader.class}`)
  return seen
}

function addresses(): string[] {
  const seen: string[] = []
  const bytes = Buffer.alloc(16)
  while (reader.nextAddress()) {
    reader.copyAddress(bytes)
    seen.push(bytesToAddress(bytes))
  }
  return seen
}

function records(): string[] {
  const seen: string[] = []
  while (reader.nextRecord()) {
    const { section, name, ttlSeconds, type } = reader
    const target = type === 5 || type === 39 ? [reader.targetName ?? '?'] : type === 65 ? [reader.serviceTargetName ?? '?'] : []
    seen.push([section, name, ttlSeconds, typeName(type), ...target, ...addresses()].join(' '))
  }
  return seen
}

test('captured replies are read as dig reads them', (t) => {
  for (const { name, query, reply } of CAPTURED) {
    t.true(reader.load(query), name)
    const asked = questions()
    const { id } = reader
    t.true(reader.load(reply), name)
    t.deepEqual(questions(), asked, name)
    t.is(reader.id, id)
  }
  t.true(reader.load(captured('cname-chain').reply))
  t.deepEqual(records(), [
    'answer www.example.test. 120 CNAME cdn.example.test.',
    'answer cdn.example.test. 60 CNAME edge.other.test.',
    'answer edge.other.test. 30 A 203.0.113.11',
    'answer edge.other.test. 30 A 203.0.113.10',
    'additional . 0 OPT',
  ])
  t.true(reader.load(captured('https-hints').reply))
  t.deepEqual(records()[0], 'answer web.example.test. 300 HTTPS . 192.0.2.80 192.0.2.81 2001:db8::80')
  t.true(reader.load(captured('https-alias').reply))
  t.deepEqual(records()[0], 'answer alias.example.test. 300 HTTPS svc.other.test.')
  t.true(reader.load(captured('dname').reply))
  t.deepEqual(records().slice(0, 2), [
    'answer moved.example.test. 300 DNAME other.test.',
    'answer host.moved.example.test. 300 CNAME host.other.test.',
  ])
  t.true(reader.load(captured('signed-nxdomain').reply))
  t.deepEqual(
    records().map((record) => record.split(' ')[3]),
    ['SOA', 'RRSIG', 'NSEC', 'RRSIG', 'NSEC', 'RRSIG', 'OPT'],
  )
})

test('flags, rcode and EDNS are told', (t) => {
  t.true(reader.load(captured('cname-chain').query))
  t.false(reader.isReply)
  t.true(reader.isRecursionDesired)
  t.true(reader.isAuthenticData)
  t.true(reader.hasOpt)
  t.is(reader.udpPayloadBytesMax, 1232)
  t.false(reader.isDnssecOk)
  t.true(reader.load(captured('signed').reply))
  t.true(reader.isReply && reader.isAuthoritative && reader.isDnssecOk)
  t.false(reader.isRecursionAvailable)
  t.true(reader.load(captured('truncated').reply))
  t.true(reader.isTruncated && reader.isRecursionAvailable)
  t.false(reader.hasOpt)
  t.is(reader.udpPayloadBytesMax, 512)
  t.true(reader.load(captured('nxdomain').reply))
  t.is(rcodeName(reader.rcode), 'NXDOMAIN')
  t.true(reader.load(rawMessage({ flags: 0x2810, counts: [0, 0, 0, 1] }, rawOpt(100, 0x0102_8000))))
  t.is(reader.opcode, 5)
  t.true(reader.isCheckingDisabled && reader.isDnssecOk)
  t.is(reader.ednsVersion, 2)
  t.is(rcodeName(reader.rcode), 'BADVERS')
  t.is(reader.udpPayloadBytesMax, 512)
  t.true(reader.load(captured('truncated').reply))
  t.is(reader.rcode, 0)
})

test('names are in lower case, and as they were asked where they stand', (t) => {
  const { query } = captured('mixed-case')
  t.true(reader.load(query))
  t.true(reader.nextQuestion())
  t.is(reader.name, 'dual.example.test.')
  t.is(query.toString('latin1', reader.nameOffset, reader.nameOffset + reader.nameLength), '\x04DuAL\x07eXAmple\x04tEsT\0')
})

test('no two names have one text', (t) => {
  const texts = [rawName(), rawName('a', 'b'), rawName('a.b'), rawName('a\\046b'), rawName('*', 'b'), rawName('\xff\0 A_-')].map((name) => {
    reader.load(rawMessage({}, rawQuestion(name)))
    return questions()[0]
  })
  t.deepEqual(texts, ['. A 1', 'a.b. A 1', 'a\\046b. A 1', 'a\\092046b. A 1', '\\042.b. A 1', '\\255\\000\\032a_-. A 1'])
  const { query } = captured('escaped')
  t.true(reader.load(query))
  t.deepEqual(questions(), ['a\\046b\\042\\255.example.test. A 1'])
})

test('the length of a name on the wire is told by its text', (t) => {
  const label = fc.uint8Array({ minLength: 1, maxLength: 63 }).map((bytes) => Buffer.from(bytes).toString('latin1'))
  fc.assert(
    fc.property(fc.array(label, { maxLength: 3 }), (labels) => {
      const name = rawName(...labels)
      reader.load(rawMessage({}, rawQuestion(name)))
      reader.nextQuestion()
      return wireLengthOf(reader.name) === name.length
    }),
  )
  t.pass()
})

test('several questions are read, and pointers between them', (t) => {
  const message = rawMessage({ counts: [3, 0, 0, 0] }, rawQuestion(rawName('a', 'b')), rawQuestion(pointer(14), 28), rawQuestion(rawName()))
  t.true(reader.load(message))
  t.deepEqual(questions(), ['a.b. A 1', 'b. AAAA 1', '. A 1'])
  t.false(reader.nextQuestion())
  reader.rewind()
  t.true(reader.nextQuestion())
  t.false(reader.nextRecord())
})

test('a message may lie anywhere in the bytes', (t) => {
  const { reply } = captured('cname-chain')
  const bytes = Buffer.concat([Buffer.alloc(7, 0xff), reply, Buffer.alloc(5, 0xff)])
  t.true(reader.load(reply))
  const expected = records()
  t.true(reader.load(bytes, 7, reply.length))
  t.deepEqual(records(), expected)
  t.false(reader.load(bytes, 7))
  t.is(reader.fault, 'trailingBytes')
  t.is(reader.faultOffset, 7 + reply.length)
  t.deepEqual(records(), expected)
  for (const [offset, length] of [
    [-1, 20],
    [bytes.length - 5, 12],
    [0, 0],
  ])
    t.false(reader.load(bytes, offset, length) || reader.hasHeader)
})

const QUESTION = rawQuestion(rawName('a', 'b'))
const ADDRESS = rawRecord(pointer(12), 1, Buffer.from([192, 0, 2, 1]))

const FAULTS: readonly (readonly [name: string, fault: string, offset: number, message: Buffer])[] = [
  ['nothing at all', 'noHeader', 0, Buffer.alloc(0)],
  ['a header cut off', 'noHeader', 0, Buffer.alloc(11)],
  ['no question', 'wrongCount', 12, rawMessage({})],
  ['half a name', 'truncated', 12, rawMessage({}, Buffer.from('\x03ab'))],
  ['a question without a class', 'truncated', 12, rawMessage({}, QUESTION.subarray(0, -1))],
  ['one question of two', 'wrongCount', 21, rawMessage({ counts: [2, 0, 0, 0] }, QUESTION)],
  ['one record of two', 'wrongCount', 37, rawMessage({ counts: [1, 1, 1, 0] }, QUESTION, ADDRESS)],
  ['half a record', 'truncated', 21, rawMessage({ counts: [1, 1, 0, 0] }, QUESTION, ADDRESS.subarray(0, 11))],
  ['half of rdata', 'truncated', 21, rawMessage({ counts: [1, 1, 0, 0] }, QUESTION, ADDRESS.subarray(0, -1))],
  ['more than is counted', 'trailingBytes', 21, rawMessage({}, QUESTION, ADDRESS)],
  ['a label of type 01', 'badLabel', 12, rawMessage({}, rawQuestion(Buffer.from([0x41, 0])))],
  ['a label of type 10', 'badLabel', 12, rawMessage({}, rawQuestion(Buffer.from([0x80, 0])))],
  ['a pointer to itself', 'badPointer', 12, rawMessage({}, rawQuestion(pointer(12)))],
  ['a pointer forward', 'badPointer', 12, rawMessage({}, rawQuestion(pointer(14)), rawName())],
  ['a pointer into the header', 'badPointer', 12, rawMessage({}, rawQuestion(pointer(4)))],
  ['a pointer to the labels before it', 'badPointer', 12, rawMessage({}, rawQuestion(Buffer.concat([Buffer.from('\x01a'), pointer(12)])))],
  ['half a pointer', 'truncated', 12, rawMessage({}, Buffer.from([0xc0]))],
  ['a name of 256 octets', 'longName', 12, rawMessage({}, rawQuestion(rawName(...Array(3).fill('a'.repeat(63)), 'a'.repeat(62))))],
  ['OPT twice', 'badOpt', 32, rawMessage({ counts: [1, 0, 0, 2] }, QUESTION, rawOpt(512), rawOpt(512))],
  ['OPT of a name', 'badOpt', 21, rawMessage({ counts: [1, 0, 0, 1] }, QUESTION, rawRecord(rawName('a'), 41, Buffer.alloc(0)))],
  ['half an option', 'badOpt', 21, rawMessage({ counts: [1, 0, 0, 1] }, QUESTION, rawOpt(512, 0, uint16(10, 8, 1)))],
]

for (const [name, fault, offset, message] of FAULTS)
  test(`${name} is ${fault}, and where is told`, (t) => {
    t.false(reader.load(message))
    t.is(reader.fault, fault as typeof reader.fault)
    t.is(reader.faultOffset, offset)
    t.is(reader.hasHeader, fault !== 'noHeader')
    t.is(reader.id, reader.hasHeader ? 0x1234 : 0)
    t.false(reader.nextRecord())
  })

test('the longest name is read, and a name of as many pointers as labels', (t) => {
  const longest = rawName(...Array(3).fill('a'.repeat(63)), 'a'.repeat(61))
  t.is(longest.length, 255)
  t.true(reader.load(rawMessage({}, rawQuestion(longest))))
  // In rdata at 23, a name of one label, and names of one label more than the one before, to which they point.
  const names = Array.from({ length: 127 }, (_, index) =>
    index === 0 ? rawName('a') : Buffer.concat([Buffer.from('\x01a'), pointer(index === 1 ? 23 : 26 + 4 * (index - 2))]),
  )
  const last = 26 + 4 * 125
  t.true(
    reader.load(
      rawMessage({ counts: [0, 2, 0, 0] }, rawRecord(rawName(), 16, Buffer.concat(names)), rawRecord(pointer(last), 1, Buffer.alloc(4))),
    ),
  )
  t.true(reader.nextRecord() && reader.nextRecord())
  t.is(reader.name, 'a.'.repeat(127))
})

test('a chain of more pointers than labels can be is refused', (t) => {
  const pointers = Buffer.concat([
    rawName(),
    ...Array.from({ length: 200 }, (_, index) => pointer(index === 0 ? 23 : 24 + 2 * (index - 1))),
  ])
  const message = (count: number) =>
    rawMessage({ counts: [0, 2, 0, 0] }, rawRecord(rawName(), 16, pointers), rawRecord(pointer(24 + 2 * count), 1, Buffer.alloc(4)))
  t.true(reader.load(message(126)))
  t.false(reader.load(message(127)))
  t.is(reader.fault, 'badPointer')
})

function addressesOf(type: number, rdata: Uint8Array, recordClass = 1): string[] {
  load(rawMessage({ flags: 0x8180, counts: [1, 1, 0, 0] }, QUESTION, rawRecord(pointer(12), type, rdata, 60, recordClass)))
  reader.nextRecord()
  return addresses()
}

function load(message: Uint8Array): void {
  if (!reader.load(message)) throw new Error(reader.fault)
}

test('malformed rdata has no addresses, and the message can be read all the same', (t) => {
  const four = Buffer.from([192, 0, 2, 1])
  t.deepEqual(addressesOf(1, four), ['192.0.2.1'])
  t.deepEqual(addressesOf(1, four, 3), [])
  t.deepEqual(addressesOf(1, four.subarray(1)), [])
  t.deepEqual(addressesOf(28, four), [])
  t.deepEqual(addressesOf(28, Buffer.concat([Buffer.alloc(10), uint16(0xffff), four])), ['192.0.2.1'])
  t.deepEqual(addressesOf(16, four), [])
})

test('hints are read from parameters in order, and from no alias', (t) => {
  const four = Buffer.from([192, 0, 2, 1])
  const sixteen = Buffer.from('20010db8000000000000000000000001', 'hex')
  const service = (priority: number, ...parameters: readonly Buffer[]) => Buffer.concat([uint16(priority), rawName('a'), ...parameters])
  for (const type of [64, 65]) {
    t.deepEqual(addressesOf(type, service(1, rawParameter(4, Buffer.concat([four, four])), rawParameter(6, sixteen))), [
      '192.0.2.1',
      '192.0.2.1',
      '2001:db8::1',
    ])
    t.deepEqual(addressesOf(type, service(1, rawParameter(1, four), rawParameter(6, sixteen), rawParameter(700, four))), ['2001:db8::1'])
    t.deepEqual(addressesOf(type, service(1)), [])
    t.deepEqual(addressesOf(type, service(0, rawParameter(4, four))), [])
    for (const malformed of [
      service(1, rawParameter(6, sixteen), rawParameter(4, four)),
      service(1, rawParameter(4, four), rawParameter(4, four)),
      service(1, rawParameter(4, Buffer.alloc(0))),
      service(1, rawParameter(4, Buffer.alloc(6))),
      service(1, rawParameter(4, four), rawParameter(6, four)),
      service(1, rawParameter(4, four)).subarray(0, -1),
      service(1, rawParameter(4, four), Buffer.alloc(3)),
      uint16(1),
      Buffer.concat([uint16(1), Buffer.from([3, 97])]),
    ]) {
      t.deepEqual(addressesOf(type, malformed), [])
      t.is(reader.serviceTargetName, undefined)
    }
  }
})

test('a target that does not fill its rdata is none', (t) => {
  const targets = [
    rawName('c', 'd'),
    pointer(14),
    Buffer.concat([rawName('c'), Buffer.alloc(1)]),
    Buffer.from('\x03a'),
    pointer(33),
    Buffer.alloc(0),
  ].map((rdata) => {
    t.true(reader.load(rawMessage({ counts: [1, 1, 0, 0] }, QUESTION, rawRecord(pointer(12), 5, rdata))))
    t.true(reader.nextRecord())
    return reader.targetName
  })
  t.deepEqual(targets, ['c.d.', 'b.', undefined, undefined, undefined, undefined])
})

test('a TTL with the highest bit is none', (t) => {
  t.true(
    reader.load(
      rawMessage(
        { counts: [1, 2, 0, 0] },
        QUESTION,
        rawRecord(pointer(12), 1, Buffer.alloc(4), 0x80000001),
        rawRecord(pointer(12), 1, Buffer.alloc(4), 0x7fffffff),
      ),
    ),
  )
  t.true(reader.nextRecord())
  t.is(reader.ttlSeconds, 0)
  t.true(reader.nextRecord())
  t.is(reader.ttlSeconds, 0x7fffffff)
})

const LABEL = fc.stringMatching(/^[A-Za-z0-9_-]{1,20}$/)
const NAME = fc.array(LABEL, { minLength: 1, maxLength: 5 }).map((labels) => labels.join('.'))
const TTL = fc.integer({ min: 0, max: 0x7fffffff })
/** All groups written out: dns-packet misreads some short forms. */
const IPV6 = fc.array(fc.nat(0xffff), { minLength: 8, maxLength: 8 }).map((groups) => groups.map((group) => group.toString(16)).join(':'))
const ANSWER = fc.oneof(
  fc.record({ type: fc.constant('A' as const), name: NAME, ttl: TTL, data: fc.ipV4() }),
  fc.record({ type: fc.constant('AAAA' as const), name: NAME, ttl: TTL, data: IPV6 }),
  fc.record({ type: fc.constant('CNAME' as const), name: NAME, ttl: TTL, data: NAME }),
  fc.record({ type: fc.constant('DNAME' as const), name: NAME, ttl: TTL, data: NAME }),
  fc.record({
    type: fc.constant('TXT' as const),
    name: NAME,
    ttl: TTL,
    data: fc.array(fc.string({ minLength: 1, maxLength: 50 }), { minLength: 1, maxLength: 3 }),
  }),
  fc.record({ type: fc.constant('MX' as const), name: NAME, ttl: TTL, data: fc.record({ preference: fc.nat(0xffff), exchange: NAME }) }),
)
const QUESTION_OF = fc.record({ type: fc.constantFrom('A' as const, 'AAAA' as const, 'TXT' as const, 'SRV' as const), name: NAME })

test('what dns-packet encodes is read', (t) => {
  fc.assert(
    fc.property(
      fc.nat(0xffff),
      fc.nat(0xffff).map((flags) => flags & 0x87b0),
      fc.array(QUESTION_OF, { maxLength: 3 }),
      fc.array(ANSWER, { maxLength: 6 }),
      fc.array(ANSWER, { maxLength: 3 }),
      fc.option(fc.integer({ min: 1, max: 0xffff })),
      (id, flags, asked, answers, authorities, payloadBytesMax) => {
        const opt = {
          type: 'OPT' as const,
          name: '.' as const,
          udpPayloadSize: payloadBytesMax ?? 512,
          flags: 0x8000,
          extendedRcode: 0,
          ednsVersion: 0,
          flag_do: true,
          options: [],
        }
        const packet: Packet = {
          type: 'response',
          id,
          flags: flags & 0x07b0,
          questions: asked as Question[],
          answers,
          authorities,
          additionals: payloadBytesMax === null ? [] : [opt],
        }
        t.true(reader.load(encode(packet)), reader.fault)
        t.is(reader.id, id)
        t.is(reader.flags, 0x8000 | (flags & 0x07b0))
        t.deepEqual(
          questions(),
          asked.map(({ type, name }) => `${name.toLowerCase()}. ${type} 1`),
        )
        t.is(reader.hasOpt, payloadBytesMax !== null)
        t.is(reader.udpPayloadBytesMax, Math.max(512, payloadBytesMax ?? 0))
        t.is(reader.isDnssecOk, payloadBytesMax !== null)
        const expected = [
          ...answers.map((answer) => ['answer', answer] as const),
          ...authorities.map((answer) => ['authority', answer] as const),
        ]
        t.deepEqual(
          records().slice(0, expected.length),
          expected.map(([section, { name, ttl, type, data }]) => {
            const shown =
              type === 'A' || type === 'AAAA'
                ? [bytesToAddress(addressToBytes(data))]
                : type === 'CNAME' || type === 'DNAME'
                  ? [`${data.toLowerCase()}.`]
                  : []
            return [section, `${name.toLowerCase()}.`, ttl, type, ...shown].join(' ')
          }),
        )
      },
    ),
  )
})

test('captured messages are read as dns-packet reads them', (t) => {
  for (const { name, query, reply } of CAPTURED)
    for (const message of [query, reply]) {
      const packet = decode(message)
      const sections = [packet.answers, packet.authorities, packet.additionals]
      t.true(reader.load(message))
      t.is(questions().length, packet.questions?.length ?? 0, name)
      t.is(records().length, sections.flat().length, name)
      reader.rewind()
      for (const { name: owner, type } of sections.flatMap((section) => section ?? [])) {
        t.true(reader.nextRecord())
        t.is(reader.name, owner === '.' ? '.' : `${owner.toLowerCase()}.`)
        t.is(typeName(reader.type), String(type).replace('UNKNOWN_65', 'HTTPS'))
      }
    }
})

import test from 'ava'
import { type DecodedPacket, decode, encode, type OptAnswer } from 'dns-packet'
import fc from 'fast-check'
import { RCODE } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { errorAnswer, lowerUdpPayloadBytes, noDataReply, truncatedReply, writeId } from '#parsers/dns/reply.ts'
import { CAPTURED, captured, rawMessage, rawName, rawOpt, rawQuestion } from './messages.ts'

const reader = new MessageReader()

function load(message: Uint8Array): MessageReader {
  reader.load(message)
  return reader
}

function optOf(packet: DecodedPacket): OptAnswer | undefined {
  return packet.additionals?.find(({ type }) => type === 'OPT') as OptAnswer | undefined
}

test('an error answers the query as it was asked, with our own OPT', (t) => {
  for (const { name, query } of CAPTURED)
    for (const rcode of [RCODE.REFUSED, RCODE.NXDOMAIN, RCODE.SERVFAIL, RCODE.NOTIMP, RCODE.NOERROR] as const) {
      const answer = errorAnswer(load(query), rcode, 1400)
      if (answer === undefined) return t.fail(name)
      const asked = decode(query)
      const said = decode(answer)
      t.is(said.type, 'response')
      t.is(said.id, asked.id)
      t.deepEqual(said.questions, asked.questions)
      t.is(said.flag_rd, asked.flag_rd)
      t.true(said.flag_ra)
      t.false(said.flag_aa || said.flag_tc || said.flag_ad)
      t.deepEqual([said.answers, said.authorities], [[], []])
      t.is(optOf(said)?.udpPayloadSize, optOf(asked) && 1400, name)
      t.is(optOf(said)?.flag_do, optOf(asked)?.flag_do)
      t.true(reader.load(answer))
      t.is(reader.rcode, rcode)
      const questionsEnd = load(query).questionsEnd
      t.deepEqual(answer.subarray(12, questionsEnd), query.subarray(12, questionsEnd))
    }
})

test('of the flags, opcode, RD and CD are kept', (t) => {
  t.is(errorAnswer(load(rawMessage({ flags: 0x7fff & ~0x0040 }, rawQuestion(rawName('a')))), RCODE.REFUSED, 512)?.readUInt16BE(2), 0xf995)
  t.is(errorAnswer(load(rawMessage({ flags: 0 }, rawQuestion(rawName('a')))), RCODE.NXDOMAIN, 512)?.readUInt16BE(2), 0x8083)
})

test('what cannot be read is answered with what of it could be', (t) => {
  const question = rawQuestion(rawName('a'))
  const formerr = (message: Buffer) => errorAnswer(load(message), RCODE.FORMERR, 1232)?.toString('hex')
  t.is(formerr(rawMessage({ flags: 0x0110 })), '123481910000000000000000')
  t.is(formerr(rawMessage({ counts: [2, 0, 0, 0] }, question)), '123481810000000000000000')
  t.is(formerr(rawMessage({}, question, Buffer.alloc(3))), `123481810001000000000000${question.toString('hex')}`)
  t.is(formerr(rawMessage({ counts: [1, 0, 1, 0] }, question)), `123481810001000000000000${question.toString('hex')}`)
  t.is(
    formerr(rawMessage({ counts: [1, 0, 0, 2] }, question, rawOpt(512, 0x8000), rawOpt(512))),
    `123481810001000000000001${question.toString('hex')}00002904d0000080000000`,
  )
  t.is(formerr(rawMessage({}, question).subarray(0, 11)), undefined)
  t.is(formerr(rawMessage({ flags: 0x8000 }, question)), undefined)
})

test('a reply without its records says that there are none', (t) => {
  const { reply } = captured('mixed-case')
  const noData = decode(noDataReply(load(reply)))
  const { questions, id, flag_rd, flag_ra } = decode(reply)
  t.like(noData, {
    type: 'response',
    rcode: 'NOERROR',
    questions,
    id,
    flag_rd,
    flag_ra,
    flag_ad: false,
    answers: [],
    authorities: [],
    additionals: [],
  })
  const signed = decode(noDataReply(load(captured('signed').reply)))
  t.true(signed.flag_aa)
  t.like(optOf(signed), { udpPayloadSize: 1232, flag_do: true, extendedRcode: 0, options: [] })
  t.is(
    noDataReply(load(rawMessage({ flags: 0x87b5, counts: [0, 0, 0, 1] }, rawOpt(512, 0x12008000)))).toString('hex'),
    '123485900000000000000001' + '0000290200' + '00008000' + '0000',
  )
})

test('a reply that is too long is cut to its questions', (t) => {
  const { reply } = captured('cname-chain')
  t.deepEqual(truncatedReply(load(reply), reply.length), reply)
  const cut = decode(Buffer.from(truncatedReply(load(reply), reply.length - 1)))
  const whole = decode(reply)
  t.true(cut.flag_tc)
  t.like(cut, { id: whole.id, questions: whole.questions, answers: [], flag_ra: true })
  t.is(optOf(cut)?.udpPayloadSize, 1232)
  const bad = rawMessage({ flags: 0x8180, counts: [0, 0, 0, 1] }, rawOpt(512, 0x01008000, Buffer.from('0001000161', 'hex')))
  t.is(load(Buffer.from(truncatedReply(load(bad), 20))).rcode, RCODE.BADVERS)
})

test('a reply inside of other bytes is cut and emptied as one alone', (t) => {
  const { reply } = captured('signed')
  const bytes = Buffer.concat([Buffer.alloc(9, 7), reply, Buffer.alloc(9, 7)])
  const alone = noDataReply(load(reply))
  reader.load(bytes, 9, reply.length)
  t.deepEqual(noDataReply(reader), alone)
  t.deepEqual(truncatedReply(reader, reply.length), reply)
})

test('an id is written in place', (t) => {
  const bytes = Buffer.from('aabbccdd', 'hex')
  writeId(bytes, 0x1234)
  t.is(bytes.toString('hex'), '1234ccdd')
  writeId(bytes, 0xfffe, 2)
  t.is(bytes.toString('hex'), '1234fffe')
})

test('dns-packet reads what answers the queries that it makes', (t) => {
  const name = fc.array(fc.stringMatching(/^[A-Za-z0-9_-]{1,30}$/), { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'))
  fc.assert(
    fc.property(
      fc.nat(0xffff),
      fc.array(name, { maxLength: 4 }),
      fc.constantFrom('A', 'AAAA', 'TXT'),
      fc.integer({ min: 512, max: 65535 }),
      (id, names, type, size) => {
        const questions = names.map((asked) => ({ name: asked, type: type as 'A', class: 'IN' as const }))
        const answer = decode(
          errorAnswer(load(encode({ type: 'query', id, questions, flags: 0x0100 })), RCODE.REFUSED, size) ?? Buffer.alloc(0),
        )
        t.like(answer, { id, questions, rcode: 'REFUSED', type: 'response', flag_rd: true, additionals: [] })
      },
    ),
  )
})

test('a query asks for no longer messages than arrive, and nothing else of it changes', (t) => {
  for (const [size, expected] of [
    [512, 512],
    [1232, 1232],
    [1472, 1472],
    [1473, 1472],
    [4096, 1472],
    [65535, 1472],
  ] as const) {
    const opt = (bytes: number) => rawOpt(bytes, 0x8000, Buffer.from([0, 10, 0, 2, 1, 2]))
    const message = (bytes: number) => rawMessage({ counts: [1, 0, 0, 1] }, rawQuestion(rawName('api', 'test')), opt(bytes))
    const query = message(size)
    lowerUdpPayloadBytes(load(query), 1472)
    t.deepEqual(query, message(expected), `${size}`)
  }
  const plain = rawMessage({}, rawQuestion(rawName('api', 'test')))
  const before = Buffer.from(plain)
  lowerUdpPayloadBytes(load(plain), 1472)
  t.deepEqual(plain, before, 'without EDNS')
})

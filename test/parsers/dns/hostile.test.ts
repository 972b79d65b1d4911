/** Messages that are made to break readers: none may throw, take long, or make a reader look at bytes beside the message. */
import test from 'ava'
import fc from 'fast-check'
import { AnswerChain } from '#parsers/dns/answers.ts'
import { RCODE } from '#parsers/dns/codes.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import { errorAnswer, noDataReply, truncatedReply } from '#parsers/dns/reply.ts'
import { CAPTURED, pointer, rawMessage, rawName, rawQuestion, rawRecord, uint16 } from './messages.ts'

const reader = new MessageReader()
const chain = new AnswerChain()
const MARGIN_BYTES = 600
const MESSAGE_BYTES_MAX = 65_535

/** Everything that can be got out of a message, as text. */
function readAll(bytes: Uint8Array, offset: number, length: number): string {
  const seen: unknown[] = [reader.load(bytes, offset, length), reader.fault, reader.questionsEnd - offset]
  if (reader.fault !== undefined) seen.push(reader.faultOffset - offset)
  seen.push(reader.id, reader.flags, reader.rcode, reader.hasOpt, reader.udpPayloadBytesMax, reader.ednsVersion, reader.isDnssecOk)
  while (reader.nextQuestion()) seen.push(reader.name, reader.type, reader.class, reader.nameLength)
  const address = Buffer.alloc(16)
  while (reader.nextRecord()) {
    seen.push(reader.section, reader.name, reader.type, reader.class, reader.ttlSeconds, reader.rdataLength)
    seen.push(reader.targetName, reader.serviceTargetName)
    while (reader.nextAddress()) {
      reader.copyAddress(address)
      seen.push(address.toString('hex'))
    }
  }
  seen.push(chain.read(reader), chain.names, chain.addressCount, chain.ignoredAddressCount, chain.isCut)
  seen.push(Buffer.from(chain.addressBytes.subarray(0, 16 * chain.addressCount)).toString('hex'))
  seen.push(errorAnswer(reader, RCODE.FORMERR, 1232)?.toString('hex'))
  if (reader.fault === undefined || reader.fault === 'trailingBytes')
    seen.push(noDataReply(reader).toString('hex'), Buffer.from(truncatedReply(reader, 512)).toString('hex'))
  return JSON.stringify(seen)
}

/** What is beside the message must make no difference. */
function isReadAlone(message: Uint8Array): boolean {
  const [first, second] = [0, 1].map((fill) => {
    const bytes = Buffer.alloc(message.length + 2 * MARGIN_BYTES, fill)
    bytes.set(message, MARGIN_BYTES)
    return readAll(bytes, MARGIN_BYTES, message.length)
  })
  return first === second && first === readAll(message, 0, message.length)
}

/** Of one read of a message. Generous, because other tests may run; a loop would never come back. */
function durationMs(message: Uint8Array): number {
  const startMs = performance.now()
  readAll(message, 0, message.length)
  return performance.now() - startMs
}

const MESSAGES = CAPTURED.flatMap(({ query, reply }) => [query, reply])

test('a message cut anywhere is a fault, told and answered', (t) => {
  for (const message of MESSAGES)
    for (let length = 0; length < message.length; length += 1) {
      const cut = message.subarray(0, length)
      t.false(reader.load(cut))
      t.is(reader.fault, length < 12 ? 'noHeader' : reader.fault === 'wrongCount' ? 'wrongCount' : 'truncated')
      t.true(isReadAlone(cut))
    }
})

test('bits that flip are read or refused', (t) => {
  for (const message of MESSAGES)
    for (let bit = 0; bit < 8 * message.length; bit += 1) {
      const flipped = Buffer.from(message)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      readAll(flipped, 0, flipped.length)
    }
  fc.assert(
    fc.property(
      fc.constantFrom(...MESSAGES),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 20 }),
      (message, changes) => {
        const changed = Buffer.from(message)
        for (const [offset, value] of changes) changed[offset % changed.length] = value
        return isReadAlone(changed)
      },
    ),
    { numRuns: 3000 },
  )
  t.pass()
})

test('random bytes are read or refused', (t) => {
  const counts = fc.constantFrom([1, 0, 0, 0], [1, 2, 1, 1], [0, 9, 9, 9], [65535, 65535, 65535, 65535]) as fc.Arbitrary<
    [number, number, number, number]
  >
  /** Bytes of which names, pointers and records are often made. */
  const byte = fc.oneof(fc.constantFrom(0, 1, 2, 4, 5, 12, 16, 28, 39, 41, 64, 65, 0xc0, 0xff), fc.nat(255))
  const body = fc.array(byte, { maxLength: 200 }).map((bytes) => Buffer.from(bytes))
  fc.assert(
    fc.property(counts, body, fc.constantFrom(0, 0x8180), (of, bytes, flags) => isReadAlone(rawMessage({ flags, counts: of }, bytes))),
    { numRuns: 5000 },
  )
  fc.assert(fc.property(body, isReadAlone), { numRuns: 1000 })
  t.pass()
})

/** Repeats the parts until the message has as many bytes as one can have. */
function filled(
  counts: (count: number) => readonly [number, number, number, number],
  head: Buffer,
  part: (index: number, offset: number) => Buffer,
): Buffer {
  const parts = [head]
  let length = 12 + head.length
  for (;;) {
    const next = part(parts.length - 1, length)
    if (length + next.length > MESSAGE_BYTES_MAX) break
    parts.push(next)
    length += next.length
  }
  return rawMessage({ flags: 0x8180, counts: counts(parts.length - 1) }, ...parts)
}

const LONGEST = rawName(...Array(3).fill('\xff'.repeat(63)), '\xff'.repeat(61))

const LARGE: readonly (readonly [name: string, message: Buffer])[] = [
  ['counts of nothing', rawMessage({ flags: 0x8180, counts: [65535, 65535, 65535, 65535] }, Buffer.alloc(MESSAGE_BYTES_MAX - 12))],
  ['labels of one octet that never end', rawMessage({}, Buffer.alloc(MESSAGE_BYTES_MAX - 12, 1))],
  [
    'questions that point at one long name',
    filled(
      (count) => [count + 1, 0, 0, 0],
      rawQuestion(LONGEST),
      () => rawQuestion(pointer(12)),
    ),
  ],
  [
    'addresses of one long name',
    filled(
      (count) => [1, count, 0, 0],
      rawQuestion(LONGEST),
      () => rawRecord(pointer(12), 1, Buffer.alloc(4)),
    ),
  ],
  [
    'aliases of names of one label more than those before',
    filled(
      (count) => [1, count, 0, 0],
      rawQuestion(LONGEST),
      (index) => rawRecord(Buffer.concat([Buffer.from([2, 97 + (index % 26), index >> 8]), pointer(12 + 64)]), 5, pointer(12)),
    ),
  ],
  [
    'names of as many pointers as may be',
    filled(
      (count) => [0, count + 1, 0, 0],
      rawRecord(
        rawName(),
        16,
        Buffer.concat([rawName(), ...Array.from({ length: 120 }, (_, index) => pointer(index === 0 ? 23 : 24 + 2 * (index - 1)))]),
      ),
      () => rawRecord(pointer(24 + 2 * 119), 5, pointer(24 + 2 * 119)),
    ),
  ],
  [
    'pointers each to the one before',
    rawMessage({ counts: [0, 1, 0, 0] }, uint16(...Array.from({ length: 8000 }, (_, index) => 0xc00a + 2 * index))),
  ],
  ['options of nothing', rawMessage({ counts: [0, 0, 0, 1] }, rawRecord(rawName(), 41, Buffer.alloc(60_000)))],
  [
    'parameters without end',
    rawMessage(
      { flags: 0x8180, counts: [1, 1, 0, 0] },
      rawQuestion(rawName('q'), 65),
      rawRecord(
        rawName('q'),
        65,
        Buffer.concat([uint16(1), rawName(), uint16(...Array.from({ length: 15_000 }, (_, index) => [index, 0]).flat())]),
      ),
    ),
  ],
]

for (const [name, message] of LARGE)
  test(`${name} cost little`, (t) => {
    t.true(message.length <= MESSAGE_BYTES_MAX)
    const ms = durationMs(message)
    t.log(`${message.length} bytes, ${ms.toFixed(1)} ms, ${reader.fault ?? 'read'}`)
    t.true(ms < 1000)
    t.true(isReadAlone(message))
  })

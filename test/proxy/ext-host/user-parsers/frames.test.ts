import test from 'ava'
import fc from 'fast-check'
import { answer, drop, fail, insert, more, type Op, pass } from '#parsers/contract.ts'
import {
  decodeData,
  decodeOps,
  decodeRecord,
  encodeData,
  encodeFrame,
  encodeOps,
  encodeRecord,
  FRAME_HEADER_BYTES,
  FROM_PARSER,
  FrameError,
  FrameReader,
  TO_PARSER,
} from '#proxy/ext-host/user-parsers/frames.ts'

const OPS: readonly Op[] = [
  pass(5, 'opens'),
  pass(2 ** 40),
  drop(0),
  drop(7, 'closes'),
  insert(Buffer.from('abc'), 'opens'),
  answer(Buffer.from('ERROR\r\n')),
  more(2 ** 33),
]

const payloadOf = (frame: Buffer): Buffer => frame.subarray(FRAME_HEADER_BYTES)

test('ops are decoded as they were encoded', (t) => {
  t.deepEqual(decodeOps(payloadOf(encodeOps(1, OPS)), 'original'), [...OPS])
  t.deepEqual(decodeOps(payloadOf(encodeOps(1, [fail('no')])), 'reply'), [fail('no')])
  t.deepEqual(decodeOps(payloadOf(encodeOps(1, [{ op: 'wait' }])), 'original'), [{ op: 'wait' }])
  t.deepEqual(decodeOps(payloadOf(encodeOps(1, [])), 'original'), [])
  t.deepEqual(decodeOps(payloadOf(encodeOps(1, [answer('text' as never)])), 'original'), [answer(Buffer.from('text'))])
})

const NO_OPS: readonly (readonly [string, unknown, RegExp])[] = [
  ['a promise', Promise.resolve([]), /returns a list of ops, at once/],
  ['nothing', undefined, /returns a list of ops, at once/],
  ['a number', [1], /no op has the name undefined/],
  ['another name', [{ op: 'skip' }], /no op has the name skip/],
  ['no count', [{ op: 'pass' }], /no count of bytes: undefined/],
  ['a negative count', [{ op: 'pass', bytes: -1 }], /no count of bytes: -1/],
  ['half a byte', [{ op: 'drop', bytes: 0.5 }], /no count of bytes: 0.5/],
  ['no data', [{ op: 'answer' }], /data is bytes or a string/],
  ['another turn', [{ op: 'pass', bytes: 1, turn: 'mine' }], /a turn opens or closes: mine/],
  ['an op behind the last', [more(1), pass(1)], /an op behind more, wait or error/],
  ['too much at once', [answer(Buffer.alloc((1 << 20) + 1))], /more than 1048576 bytes at once/],
]

for (const [what, ops, message] of NO_OPS) {
  test(`${what} is no list of ops, and the parser is told`, (t) => {
    t.throws(() => encodeOps(1, ops as readonly Op[]), { instanceOf: TypeError, message })
  })
}

test('what a parser says to people is one short line', (t) => {
  const [said] = decodeOps(payloadOf(encodeOps(1, [fail(`a\u001b[2J\r\nb${'c'.repeat(1000)}`)])), 'original')
  t.deepEqual(said, fail(`a [2J  b${'c'.repeat(248)}`))
})

test('answer and wait of the reply direction are no ops', (t) => {
  for (const op of [answer(Buffer.from('x')), { op: 'wait' } as const])
    t.throws(() => decodeOps(payloadOf(encodeOps(1, [op])), 'reply'), { instanceOf: FrameError })
})

test('whatever a process writes, decoding it gives ops, a record or a FrameError', (t) => {
  const valid = [
    payloadOf(encodeOps(1, OPS)),
    payloadOf(encodeRecord(1, { isAllowed: true, isAudited: false, rule: 'r', fields: { a: 'b' } })),
  ]
  const decoders = [(bytes: Buffer) => decodeOps(bytes, 'original'), (bytes: Buffer) => decodeOps(bytes, 'reply'), decodeRecord]
  const check = (bytes: Buffer): void => {
    for (const decode of decoders) {
      try {
        decode(bytes)
      } catch (error) {
        if (!(error instanceof FrameError)) throw error
      }
    }
  }
  for (const bytes of valid) {
    for (let length = 0; length < bytes.length; length++) check(bytes.subarray(0, length))
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      check(flipped)
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => check(Buffer.from(bytes))))
  t.pass()
})

test('frames come out whole however they are cut', (t) => {
  const frames = [encodeFrame(FROM_PARSER.hello, 0), encodeOps(7, OPS), encodeFrame(TO_PARSER.close, 2 ** 32 - 1)]
  const bytes = Buffer.concat(frames)
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 1, max: bytes.length - 1 })), (cuts) => {
      const reader = new FrameReader()
      const edges = [0, ...cuts.toSorted((a, b) => a - b), bytes.length]
      const seen = edges
        .slice(1)
        .flatMap((end, index) =>
          Array.from(reader.push(bytes.subarray(edges[index], end)), ({ type, number, payload }) => encodeFrame(type, number, payload)),
        )
      t.deepEqual(seen, frames)
    }),
  )
})

test('a frame that says it is too long is refused before it has come', (t) => {
  const header = Buffer.alloc(FRAME_HEADER_BYTES)
  header.writeUInt32LE(0xffff_ffff, 0)
  t.throws(() => [...new FrameReader().push(header)], { instanceOf: FrameError, message: 'a frame of 4294967295 bytes' })
})

test('a call is decoded as it was encoded', (t) => {
  const bytes = Buffer.from('READ a\r\n')
  const frame = encodeData(3, 'reply', true, 9, bytes)
  t.deepEqual(decodeData(payloadOf(frame)), { direction: 'reply', endOfStream: true, rules: 9, bytes })
})

test('what a parser tells is cut to what a flow has room for', (t) => {
  const fields = Object.fromEntries(Array.from({ length: 40 }, (_, index) => [`${'n'.repeat(100)}${index}`, 'v'.repeat(1000)]))
  const many = Object.fromEntries(Array.from({ length: 40 }, (_, index) => [`${index}`, 'v'.repeat(1000)]))
  const told = (of: Record<string, string>) =>
    decodeRecord(payloadOf(encodeRecord(1, { isAllowed: true, isAudited: true, rule: '', fields: of }))).fields
  t.deepEqual(told(fields), { ['n'.repeat(64)]: 'v'.repeat(256) })
  t.is(Object.keys(told(many)).length, 16)
})

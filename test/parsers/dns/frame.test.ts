import test from 'ava'
import fc from 'fast-check'
import { encodeFrame, FrameReader } from '#parsers/dns/frame.ts'
import { CAPTURED } from './messages.ts'

function taken(reader: FrameReader): string[] {
  const messages: string[] = []
  for (let message = reader.next(); message !== undefined; message = reader.next()) messages.push(Buffer.from(message).toString('hex'))
  return messages
}

const STREAM = Buffer.concat(CAPTURED.slice(0, 3).map(({ reply }) => encodeFrame(reply)))
const MESSAGES = CAPTURED.slice(0, 3).map(({ reply }) => reply.toString('hex'))

test('every split of a stream gives the same messages', (t) => {
  for (let split = 0; split <= STREAM.length; split += 1) {
    const reader = new FrameReader()
    reader.push(STREAM.subarray(0, split))
    const first = taken(reader)
    reader.push(STREAM.subarray(split))
    t.deepEqual([...first, ...taken(reader)], MESSAGES)
    t.is(reader.bufferedBytes, 0)
  }
})

test('bytes that come one by one are put together', (t) => {
  const reader = new FrameReader()
  const messages: string[] = []
  for (const [index] of STREAM.entries()) {
    reader.push(STREAM.subarray(index, index + 1))
    messages.push(...taken(reader))
  }
  t.deepEqual(messages, MESSAGES)
})

test('any chunks give the messages, taken at once or late', (t) => {
  const message = fc.uint8Array({ minLength: 1, maxLength: 3000 })
  fc.assert(
    fc.property(
      fc.array(message, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 4000 })),
      fc.boolean(),
      (messages, sizes, isLate) => {
        const stream = Buffer.concat(messages.map(encodeFrame))
        const reader = new FrameReader()
        const found: string[] = []
        let offset = 0
        for (const size of [...sizes, stream.length]) {
          reader.push(stream.subarray(offset, offset + size))
          offset += size
          if (!isLate) found.push(...taken(reader))
        }
        found.push(...taken(reader))
        t.deepEqual(
          found,
          messages.map((bytes) => Buffer.from(bytes).toString('hex')),
        )
        t.is(reader.bufferedBytes, 0)
      },
    ),
  )
})

test('a message in one chunk is a view of it, and the longest is taken', (t) => {
  const reader = new FrameReader()
  const longest = Buffer.alloc(65_535, 7)
  const chunk = encodeFrame(longest)
  reader.push(chunk)
  const message = reader.next()
  t.is(message?.buffer, chunk.buffer)
  t.is(message?.length, 65_535)
  reader.push(chunk.subarray(0, 40_000))
  t.is(reader.next(), undefined)
  t.is(reader.bufferedBytes, 40_000)
  reader.push(chunk.subarray(40_000))
  t.deepEqual(reader.next(), longest)
})

test('an empty frame and one above the maximum are faults that end the stream', (t) => {
  for (const [fault, bytes] of [
    ['emptyFrame', [0, 0]],
    ['longFrame', [0, 101]],
  ] as const)
    for (const isSplit of [false, true]) {
      const reader = new FrameReader(100)
      const stream = Buffer.concat([encodeFrame(Buffer.alloc(100, 1)), Buffer.from(bytes), Buffer.alloc(200, 1)])
      const split = isSplit ? 103 : stream.length
      reader.push(stream.subarray(0, split))
      t.is(reader.next()?.length, 100)
      t.is(reader.next(), undefined)
      reader.push(stream.subarray(split))
      t.is(reader.next(), undefined)
      t.is(reader.fault, fault)
      reader.push(encodeFrame(Buffer.alloc(5)))
      t.is(reader.next(), undefined)
      t.is(reader.bufferedBytes, 0)
    }
})

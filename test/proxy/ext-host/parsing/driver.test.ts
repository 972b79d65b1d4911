import test from 'ava'
import fc from 'fast-check'
import { answer, more, type Parser, pass, type StreamDirection } from '#parsers/contract.ts'
import { type DriverLimits, StreamDriver } from '#proxy/ext-host/parsing/driver.ts'
import { MemoryBudget } from '#proxy/ext-host/parsing/memory-budget.ts'
import { LineParser } from '../../support/line-parser.ts'

class Sink {
  readonly written: Record<StreamDirection, string> = { original: '', reply: '' }
  readonly ended: StreamDirection[] = []
  reason: string | undefined
  wentOn = 0

  write(direction: StreamDirection, data: Uint8Array): void {
    this.written[direction] += Buffer.from(data).toString('latin1')
  }

  end(direction: StreamDirection): void {
    this.ended.push(direction)
  }

  close(reason: string): void {
    this.reason = reason
  }

  goOn(): void {
    this.wentOn++
  }
}

function driverOf(parser: Parser, limits: Partial<DriverLimits> = {}): { driver: StreamDriver; sink: Sink; budget: MemoryBudget } {
  const sink = new Sink()
  const budget = limits.budget ?? new MemoryBudget(1 << 20)
  const driver = new StreamDriver(parser, sink, { bufferBytesMax: 4096, answerBytesMax: 4096, turnsMax: 100, ...limits, budget })
  return { driver, sink, budget }
}

const bytes = (text: string) => Buffer.from(text, 'latin1')
const turn = () => new Promise((resolve) => setImmediate(resolve))

test('what passes passes, and what is denied is answered when its turn comes', (t) => {
  const { driver, sink, budget } = driverOf(new LineParser())
  driver.push('original', bytes('a1\nd2\na3\nd4\nn5\n'))
  t.is(sink.written.original, 'a1\na3\nn5\n')
  t.is(sink.written.reply, '')
  driver.push('reply', bytes('r1'))
  t.is(sink.written.reply, '')
  driver.push('reply', bytes('\nr3\n'))
  t.is(sink.written.reply, 'r1\nno d2\nr3\nno d4\n')
  driver.push('original', bytes('d6\n'))
  t.is(sink.written.reply, 'r1\nno d2\nr3\nno d4\nno d6\n')
  t.is(budget.usedBytes, 0)
})

test('an answer does not come between the parts of one that passes', (t) => {
  const parser: Parser = {
    onData: (direction, data) => (direction === 'reply' ? [pass(6, 'closes')] : [pass(data.length), answer(bytes('!'))]),
  }
  const { driver, sink } = driverOf(parser)
  driver.push('reply', bytes('abc'))
  driver.push('original', bytes('q'))
  t.is(sink.written.reply, 'abc')
  driver.push('reply', bytes('def'))
  t.is(sink.written.reply, 'abcdef!')
})

test('however the bytes come, the same goes out', (t) => {
  const line = fc.tuple(
    fc.constantFrom('a', 'd', 'n', 'r'),
    fc.string({ minLength: 0, maxLength: 12, unit: fc.constantFrom('b', 'c', '7') }),
  )
  fc.assert(
    fc.property(fc.array(line, { maxLength: 12 }), fc.array(fc.nat(40), { maxLength: 20 }), (lines, cuts) => {
      const text = lines.map(([kind, rest]) => `${kind}${rest}\n`).join('')
      const replies = lines.filter(([kind]) => kind === 'a' || kind === 'r').map((_, index) => `reply ${index}\n`)
      const whole = driverOf(new LineParser())
      whole.driver.push('original', bytes(text))
      whole.driver.push('reply', bytes(replies.join('')))
      const cut = driverOf(new LineParser())
      for (const part of cutUp(text, cuts)) cut.driver.push('original', bytes(part))
      for (const part of cutUp(replies.join(''), cuts)) cut.driver.push('reply', bytes(part))
      t.deepEqual(cut.sink.written, whole.sink.written)
      t.is(cut.sink.reason, undefined)
      t.is(cut.budget.usedBytes, 0)
    }),
  )
})

function cutUp(text: string, cuts: readonly number[]): string[] {
  const parts: string[] = []
  let rest = text
  for (const cut of cuts) {
    parts.push(rest.slice(0, cut))
    rest = rest.slice(cut)
  }
  return [...parts, rest].filter((part) => part !== '')
}

test('a parser that takes its time sees what came meanwhile afterwards, and nothing is read until then', async (t) => {
  const { driver, sink, budget } = driverOf(new LineParser(true))
  driver.push('original', bytes('a1\nd2'))
  t.false(driver.wants('original') || driver.wants('reply'))
  driver.push('original', bytes('\na3\n'))
  driver.push('reply', bytes('r1\n'))
  driver.pushEnd('original')
  for (let index = 0; index < 6; index++) await turn()
  t.is(sink.written.original, 'a1\na3\n')
  t.is(sink.written.reply, 'r1\nno d2\n')
  t.deepEqual(sink.ended, ['original'])
  t.true(driver.wants('reply'))
  t.is(budget.usedBytes, 0)
})

test('an end is passed on when what came before it is, each direction by itself', (t) => {
  const { driver, sink } = driverOf(new LineParser())
  driver.push('original', bytes('a1\n'))
  driver.pushEnd('original')
  t.deepEqual(sink.ended, ['original'])
  driver.push('reply', bytes('r1\n'))
  driver.pushEnd('reply')
  t.is(sink.written.reply, 'r1\n')
  t.deepEqual(sink.ended, ['original', 'reply'])
})

test('what is too much closes, and says what it was', (t) => {
  const long = driverOf(new LineParser(), { bufferBytesMax: 8 })
  long.driver.push('original', bytes('a23456789'))
  t.is(long.sink.reason, 'it would take 10 bytes at once')

  const answers = driverOf(new LineParser(), { answerBytesMax: 10 })
  answers.driver.push('original', bytes('a1\nd23\nd45\n'))
  t.is(answers.sink.reason, 'too many answers wait for their turn')

  const memory = driverOf(new LineParser(), { budget: new MemoryBudget(100) })
  memory.driver.push('original', bytes('a1'))
  t.is(memory.sink.reason, 'no memory is left for what has to be held back')

  const turns = driverOf(new LineParser(), { turnsMax: 2 })
  turns.driver.push('original', bytes('a1\na2\n'))
  t.false(turns.driver.wants('original'))
  turns.driver.push('reply', bytes('r1\n'))
  t.true(turns.driver.wants('original'))
})

test('an error, thrown or told, closes the connection, and nothing is written any more', (t) => {
  const told = driverOf(new LineParser())
  told.driver.push('original', bytes('a1\nx\na2\n'))
  t.is(told.sink.written.original, 'a1\n')
  t.is(told.sink.reason, 'no such line')
  told.driver.push('reply', bytes('r\n'))
  t.is(told.sink.written.reply, '')

  const thrown = driverOf({
    onData: () => {
      throw new TypeError('oops')
    },
  })
  thrown.driver.push('original', bytes('a'))
  t.is(thrown.sink.reason, 'the parser failed: oops')
})

test('memory for what is held grows with what comes and not with what is promised', (t) => {
  const parser: Parser = { onData: (_direction, data) => (data.length < 1 << 20 ? [more(1 << 20)] : [pass(data.length)]) }
  const { driver, sink, budget } = driverOf(parser, { bufferBytesMax: 2 << 20, budget: new MemoryBudget(4 << 20) })
  driver.push('original', Buffer.alloc(100))
  t.true(budget.usedBytes <= 4096)
  for (let index = 0; index < 16; index++) driver.push('original', Buffer.alloc(1 << 16))
  t.is(sink.written.original.length, 100 + (1 << 20))
  t.is(budget.usedBytes, 0)
})

test('a share has its own limit, and no more than is left of the whole', (t) => {
  const whole = new MemoryBudget(100)
  const [one, other] = [new MemoryBudget(60, whole), new MemoryBudget(60, whole)]
  t.true(one.take(60))
  t.false(one.take(1))
  t.false(other.take(41))
  t.true(other.take(40))
  t.is(whole.usedBytes, 100)
  one.giveBack(60)
  t.true(other.take(20))
  t.false(other.take(1))
  t.is(whole.usedBytes, 60)
})

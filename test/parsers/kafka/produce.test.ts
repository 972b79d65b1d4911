import test from 'ava'
import { encodeResponse } from '#parsers/kafka/denial.ts'
import { type MessagePlan, planOf } from '#parsers/kafka/schema.ts'
import { answerOf, first, type ParserRun, requestFrame, rulesetOf, runOf } from './support.ts'

const PRODUCE = 0
const METADATA = 3
const VERSION = 13
const HEAD_BYTES = 80
const ORDERS = rulesetOf({ allow: [{ name: 'orders', role: 'produce', topic: 'orders' }] })

/** Topics by their ids, as Produce names them since version 13. */
function produce(ids: readonly number[], correlationId: number, recordBytes = 1 << 20): Buffer {
  const topicData = ids.map((id) => ({
    topicId: Buffer.alloc(16, id),
    partitionData: [{ index: 3, records: Buffer.alloc(recordBytes, 'r') }],
  }))
  return requestFrame(PRODUCE, VERSION, { acks: -1, timeoutMs: 1000, topicData }, { correlationId })
}

/** What the broker answers to the question that the ops ask. */
function tell({ push }: ParserRun, question: Uint8Array, names: Readonly<Record<number, string>>): void {
  const plan = planOf('response', METADATA, 12) as MessagePlan
  const topics = Object.entries(names).map(([id, name]) => ({ name, topicId: Buffer.alloc(16, Number(id)), errorCode: 0 }))
  push('reply', encodeResponse(plan, Buffer.from(question).readInt32BE(8), { topics }))
}

test('what an id stands for is asked once; from then on the beginning of a request is judged, and its records are not waited for', (t) => {
  const run = runOf(ORDERS)
  const frame = produce([1], 5)
  // What it is cannot be told: it is read whole, because it may be denied.
  t.deepEqual(run.push('original', frame.subarray(0, HEAD_BYTES)), [{ op: 'more', bytes: frame.length }])
  const ops = run.push('original', frame)
  t.deepEqual(
    ops.map(({ op }) => op),
    ['insert', 'wait'],
  )
  tell(run, (ops[0] as { data: Uint8Array }).data, { 1: 'orders' })
  t.deepEqual(run.push('original', frame), [{ op: 'pass', bytes: frame.length, turn: 'opens' }])
  const next = produce([1], 6)
  t.deepEqual(run.push('original', next.subarray(0, HEAD_BYTES)), [{ op: 'pass', bytes: next.length, turn: 'opens' }])
  t.deepEqual(
    run.records.map(({ topics, isAllowed, correlationId }) => [topics.join(), isAllowed, correlationId]),
    [
      ['orders', true, 5],
      ['orders', true, 6],
    ],
  )
})

test('an id of a denied topic is denied each time, with the id in the answer', (t) => {
  const run = runOf(ORDERS)
  const ops = run.push('original', produce([2], 5, 10))
  tell(run, (ops[0] as { data: Uint8Array }).data, { 2: 'secret' })
  for (const correlationId of [5, 6]) {
    const frame = produce([2], correlationId, 10)
    const denied = run.push('original', frame)
    t.deepEqual(denied[0], { op: 'drop', bytes: frame.length })
    const { message } = answerOf(denied, PRODUCE, VERSION)
    t.is(first(first(message.values.responses).values.partitionResponses).values.errorCode, 29)
    const answered = denied[1]?.op === 'answer' ? Buffer.from(denied[1].data) : Buffer.alloc(0)
    t.true(answered.includes(Buffer.alloc(16, 2)))
  }
})

test('of several ids, those that are not known are asked for together, and the request is split', (t) => {
  const run = runOf(ORDERS)
  const ops = run.push('original', produce([1, 2], 5, 10))
  const question = (ops[0] as { data: Uint8Array }).data
  t.true(Buffer.from(question).includes(Buffer.alloc(16, 1)) && Buffer.from(question).includes(Buffer.alloc(16, 2)))
  tell(run, question, { 1: 'orders', 2: 'secret' })
  const split = run.push('original', produce([1, 2], 5, 10))
  t.deepEqual(
    split.map(({ op }) => op),
    ['drop', 'insert'],
  )
  t.false(Buffer.from((split[1] as { data: Uint8Array }).data).includes(Buffer.alloc(16, 2)))
})

test('where no rule asks about topics, nobody is asked what an id stands for', (t) => {
  const frame = produce([1], 5)
  const { push } = runOf(rulesetOf({ allow: [{ name: 'all', role: 'produce' }] }))
  t.deepEqual(push('original', frame.subarray(0, HEAD_BYTES)), [{ op: 'pass', bytes: frame.length, turn: 'opens' }])
})

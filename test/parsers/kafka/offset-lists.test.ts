import test from 'ava'
import type { Op } from '#parsers/contract.ts'
import { decodeMessage, type KafkaStruct } from '#parsers/kafka/decode.ts'
import { encodeResponse, responseHeadBytes } from '#parsers/kafka/denial.ts'
import { type MessagePlan, planOf } from '#parsers/kafka/schema.ts'
import { answerOf, first, itemsOf, requestFrame, rulesetOf, runOf } from './support.ts'

const OFFSET_FETCH = 9
const BOOKS = rulesetOf({
  allow: [
    { name: 'orders', role: 'consume', topic: 'orders', group: 'books' },
    { name: 'logs', role: 'consume', topicPrefix: 'log.', group: 'readers' },
  ],
})

function topicsOf(...names: readonly string[]) {
  const partitions = [{ partitionIndex: 0, committedOffset: 5n, metadata: 'm' }]
  return names.map((name) => ({ name, partitions }))
}

/** What the client hears, and whether anything was changed. */
function heard(ops: readonly Op[], answer: Buffer, version: number): KafkaStruct {
  const inserted = ops.find((op) => op.op === 'insert')
  const frame = inserted?.op === 'insert' ? Buffer.from(inserted.data) : answer
  const plan = planOf('response', OFFSET_FETCH, version) as MessagePlan
  if (frame.readInt32BE(0) !== frame.length - 4) throw new Error('the frame lies')
  return decodeMessage(frame, 4 + responseHeadBytes(plan), plan)
}

const namesOf = (struct: KafkaStruct) => itemsOf(struct.values.topics).map(({ values: { name } }) => name)

test('of what a group has committed of all topics, the client hears what it may name', (t) => {
  for (const version of [2, 5, 6, 7]) {
    const { push, records } = runOf(BOOKS)
    const request = requestFrame(OFFSET_FETCH, version, { groupId: 'books', topics: null })
    t.deepEqual(push('original', request), [{ op: 'pass', bytes: request.length, turn: 'opens' }], String(version))
    const response = planOf('response', OFFSET_FETCH, version) as MessagePlan
    const answer = encodeResponse(response, 77, { topics: topicsOf('secret', 'orders', 'log.a') })
    t.is(push('reply', answer.subarray(0, 20))[0]?.op, 'more')
    t.deepEqual(namesOf(heard(push('reply', answer), answer, version)), ['orders'])
    t.like(records, [{ apiKey: 'offsetfetch', isAllowed: true, errorCode: 0 }])
  }
})

test('of several groups each has its own topics', (t) => {
  for (const version of [8, 9]) {
    const { push } = runOf(BOOKS)
    const groups = ['books', 'readers'].map((groupId) => ({ groupId, topics: null }))
    t.is(push('original', requestFrame(OFFSET_FETCH, version, { groups }))[0]?.op, 'pass')
    const all = topicsOf('orders', 'log.a', 'secret', 'log.b')
    const response = planOf('response', OFFSET_FETCH, version) as MessagePlan
    const answer = encodeResponse(response, 77, { groups: groups.map(({ groupId }) => ({ groupId, topics: all })), throttleTimeMs: 9 })
    const { values } = heard(push('reply', answer), answer, version)
    t.deepEqual(itemsOf(values.groups).map(namesOf), [['orders'], ['log.a', 'log.b']])
    t.is(values.throttleTimeMs, 9)
  }
})

test('an answer of visible topics goes on as it is, and so does everything where no rule asks about topics', (t) => {
  const response = planOf('response', OFFSET_FETCH, 9) as MessagePlan
  const answer = encodeResponse(response, 77, { groups: [{ groupId: 'books', topics: topicsOf('orders') }] })
  const request = requestFrame(OFFSET_FETCH, 9, { groups: [{ groupId: 'books', topics: null }] })
  const { push } = runOf(BOOKS)
  push('original', request)
  t.deepEqual(push('reply', answer), [{ op: 'pass', bytes: answer.length, turn: 'closes' }])
  const all = runOf(rulesetOf({ allow: [{ name: 'all', role: 'consume' }] }))
  all.push('original', request)
  t.deepEqual(all.push('reply', answer.subarray(0, 8)), [{ op: 'pass', bytes: answer.length, turn: 'closes' }])
})

test('a group that no rule allows is denied, in its place in the answer, and so is what the answer would name by ids', (t) => {
  for (const version of [8, 9]) {
    const request = requestFrame(OFFSET_FETCH, version, { groups: ['books', 'theirs'].map((groupId) => ({ groupId, topics: null })) })
    const { message } = answerOf(runOf(BOOKS).push('original', request), OFFSET_FETCH, version)
    t.deepEqual(
      itemsOf(message.values.groups).map(({ values: { groupId, errorCode } }) => [groupId, errorCode]),
      [
        ['books', 30],
        ['theirs', 30],
      ],
    )
  }
  const byIds = requestFrame(OFFSET_FETCH, 10, { groups: [{ groupId: 'books', topics: null }] })
  const { message } = answerOf(runOf(BOOKS).push('original', byIds), OFFSET_FETCH, 10)
  t.like(first(message.values.groups).values, { groupId: 'books', errorCode: 29 })
})

test('topics that are named beside a group that asks for all have to be allowed', (t) => {
  const named = (name: string) =>
    requestFrame(OFFSET_FETCH, 9, {
      groups: [
        { groupId: 'books', topics: null },
        { groupId: 'books', topics: [{ name, partitionIndexes: [0] }] },
      ],
    })
  t.is(runOf(BOOKS).push('original', named('orders'))[0]?.op, 'pass')
  t.is(runOf(BOOKS).push('original', named('secret'))[0]?.op, 'drop')
})

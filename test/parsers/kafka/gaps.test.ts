/** What Cilium's parser could not do, as its code has it (proxylib/kafka), one test each; what others show already is named there. */
import test from 'ava'
import type { StreamDirection } from '#parsers/contract.ts'
import { decodeMessage } from '#parsers/kafka/decode.ts'
import { encodeResponse, responseHeadBytes } from '#parsers/kafka/denial.ts'
import { kafkaParser } from '#parsers/kafka/parser.ts'
import { type MessagePlan, planOf, versionsOf } from '#parsers/kafka/schema.ts'
import { StreamDriver } from '#proxy/ext-host/parsing/driver.ts'
import { MemoryBudget } from '#proxy/ext-host/parsing/memory-budget.ts'
import { answerOf, itemsOf, requestFrame, rulesetOf, runOf } from './support.ts'

const PRODUCE = 0
const METADATA = 3
const INIT_PRODUCER_ID = 22
const ORDERS = rulesetOf({
  allow: (['produce', 'consume', 'admin'] as const).map((role) => ({ name: role, role, topic: 'orders' })),
})

function produce(version: number, correlationId: number, ...topics: readonly string[]): Buffer {
  const topicData = topics.map((name) => ({ name, partitionData: [{ index: 0, records: Buffer.from('r') }] }))
  return requestFrame(PRODUCE, version, { acks: -1, topicData }, { correlationId })
}

function opOf(apiKey: number, version: number, values: Parameters<typeof requestFrame>[2]): string | undefined {
  return runOf(ORDERS).push('original', requestFrame(apiKey, version, values))[0]?.op
}

test('flexible versions are read, and a version beyond the table is denied, not misread', (t) => {
  for (const version of [9, 12]) {
    t.is(runOf(ORDERS).push('original', produce(version, 1, 'orders'))[0]?.op, 'pass')
    t.is(runOf(ORDERS).push('original', produce(version, 1, 'secret'))[0]?.op, 'drop')
  }
  const beyond = produce(12, 1, 'orders')
  beyond.writeInt16BE((versionsOf(PRODUCE)?.last ?? 0) + 1, 6)
  t.is(runOf(ORDERS).push('original', beyond)[0]?.op, 'error')
  t.is(runOf(rulesetOf({ allow: [{ name: 'all' }] })).push('original', beyond)[0]?.op, 'pass')
})

test('topics that are named by ids are told (produce.test.ts, and Fetch in parser.test.ts): until then nothing passes', (t) => {
  t.deepEqual(
    runOf(ORDERS)
      .push('original', requestFrame(1, 17, { topics: [{ topicId: Buffer.alloc(16, 1), partitions: [] }] }))
      .map(({ op }) => op),
    ['insert', 'wait'],
  )
})

test('who may produce may do so idempotently and in transactions', (t) => {
  t.is(opOf(INIT_PRODUCER_ID, 5, { transactionalId: null }), 'pass')
  t.is(opOf(INIT_PRODUCER_ID, 5, { transactionalId: 'tx' }), 'pass')
  t.is(opOf(26, 5, { transactionalId: 'tx', committed: true }), 'pass')
  t.is(opOf(25, 4, { transactionalId: 'tx', groupId: 'books' }), 'pass')
  t.is(opOf(28, 4, { transactionalId: 'tx', groupId: 'books', topics: [{ name: 'orders', partitions: [] }] }), 'pass')
})

test('a denial comes in the order of requests, however many are on their way', (t) => {
  const heard: number[] = []
  let rest = Buffer.alloc(0)
  const sink = {
    write(direction: StreamDirection, data: Uint8Array): void {
      if (direction === 'original') return
      rest = Buffer.concat([rest, data])
      for (; rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0); rest = rest.subarray(4 + rest.readInt32BE(0)))
        heard.push(rest.readInt32BE(4))
    },
    end(): void {},
    close(reason: string): void {
      t.fail(reason)
    },
    goOn(): void {},
  }
  const parser = kafkaParser().create({ rules: () => ORDERS, report: () => {} })
  const limits = { bufferBytesMax: 1 << 20, answerBytesMax: 1 << 20, turnsMax: 100, budget: new MemoryBudget(1 << 20) }
  const driver = new StreamDriver(parser, sink, limits)
  const topics = ['secret', 'orders', 'secret', 'secret', 'orders', 'secret']
  driver.push('original', Buffer.concat(topics.map((topic, id) => produce(9, id, topic))))
  t.deepEqual(heard, [0])
  const reply = (id: number) => encodeResponse(planOf('response', PRODUCE, 9) as MessagePlan, id, { responses: [] })
  const [second, fifth] = [reply(1), reply(4)]
  driver.push('reply', second.subarray(0, 5))
  t.deepEqual(heard, [0])
  driver.push('reply', second.subarray(5))
  t.deepEqual(heard, [0, 1, 2, 3])
  driver.push('reply', fifth)
  t.deepEqual(heard, [0, 1, 2, 3, 4, 5])
})

test('a denial is as long as it has to be', (t) => {
  const names = Array.from({ length: 500 }, (_, index) => `secret-${index}`)
  const { message } = answerOf(runOf(ORDERS).push('original', produce(9, 1, ...names)), PRODUCE, 9)
  t.deepEqual(
    itemsOf(message.values.responses).map(({ values: { name } }) => name),
    names,
  )
})

test('a request that waits for no answer gets none', (t) => {
  const frame = requestFrame(PRODUCE, 7, { acks: 0, topicData: [{ name: 'secret', partitionData: [] }] })
  t.deepEqual(runOf(ORDERS).push('original', frame), [{ op: 'drop', bytes: frame.length }])
})

test('whoever asks about all topics is told of those that it may name', (t) => {
  const { push } = runOf(ORDERS)
  t.is(push('original', requestFrame(METADATA, 12, { topics: null }))[0]?.op, 'pass')
  const plan = planOf('response', METADATA, 12) as MessagePlan
  const ops = push('reply', encodeResponse(plan, 77, { topics: ['orders', 'secret'].map((name) => ({ name })) }))
  const told = ops.find((op) => op.op === 'insert')
  const frame = told?.op === 'insert' ? Buffer.from(told.data) : Buffer.alloc(0)
  const { values } = decodeMessage(frame, 4 + responseHeadBytes(plan), plan)
  t.deepEqual(
    itemsOf(values.topics).map(({ values: { name } }) => name),
    ['orders'],
  )
})

test('requests of other kinds about topics are read: who may name the topic may make them', (t) => {
  const kinds: readonly (readonly [apiKey: number, version: number, of: (name: string) => Parameters<typeof requestFrame>[2]])[] = [
    [19, 7, (name) => ({ topics: [{ name, numPartitions: 1, replicationFactor: 1 }] })],
    [20, 5, (name) => ({ topicNames: [name] })],
    [23, 4, (topic) => ({ replicaId: -1, topics: [{ topic, partitions: [] }] })],
    [24, 3, (name) => ({ v3AndBelowTransactionalId: 'tx', v3AndBelowTopics: [{ name, partitions: [0] }] })],
  ]
  for (const [apiKey, version, of] of kinds) {
    t.is(opOf(apiKey, version, of('orders')), 'pass', String(apiKey))
    t.is(opOf(apiKey, version, of('secret')), 'drop', String(apiKey))
  }
})

test('groups, transactional ids, the cluster and beginnings of topics have rules; a deny without a topic names what it is about', (t) => {
  const rules = rulesetOf({
    allow: [
      { name: 'logs', role: 'consume', topicPrefix: 'log.', group: 'books' },
      { name: 'transactions', role: 'produce', transactionalId: 'tx' },
    ],
  })
  const errorOf = (apiKey: number, version: number, values: Parameters<typeof requestFrame>[2]) => {
    const ops = runOf(rules).push('original', requestFrame(apiKey, version, values))
    return ops[0]?.op === 'pass' ? 0 : answerOf(ops, apiKey, version).message.values.errorCode
  }
  t.is(errorOf(12, 3, { groupId: 'books' }), 0)
  t.is(errorOf(12, 3, { groupId: 'theirs' }), 30)
  t.is(errorOf(INIT_PRODUCER_ID, 4, { transactionalId: 'tx' }), 0)
  t.is(errorOf(INIT_PRODUCER_ID, 4, { transactionalId: 'theirs' }), 53)
  t.is(errorOf(16, 4, {}), 31)
  // Of a group and a topic, it is the group that is denied first, as brokers do.
  t.is(errorOf(68, 1, { groupId: 'theirs', subscribedTopicNames: ['log.a'] }), 30)
  t.is(errorOf(68, 1, { groupId: 'books', subscribedTopicNames: ['log.a'] }), 0)
  t.is(errorOf(68, 1, { groupId: 'books', subscribedTopicNames: ['secret'] }), 29)
})

test('a member may leave it to the broker which topics match: what it is given to read is judged when it reads', (t) => {
  const { push } = runOf(rulesetOf({ allow: [{ name: 'orders', role: 'consume', topic: 'orders', group: 'books' }] }))
  const join = requestFrame(68, 1, { groupId: 'books', subscribedTopicNames: null, subscribedTopicRegex: '.*' }, { correlationId: 1 })
  t.is(push('original', join)[0]?.op, 'pass')
  const given = [1, 2].map((id) => ({ topicId: Buffer.alloc(16, id), partitions: [0] }))
  push('reply', encodeResponse(planOf('response', 68, 1) as MessagePlan, 1, { assignment: { topicPartitions: given } }))
  const fetch = requestFrame(
    1,
    17,
    { sessionEpoch: -1, topics: given.map(({ topicId }) => ({ topicId, partitions: [{ partition: 0 }] })) },
    { correlationId: 2 },
  )
  const [asked] = push('original', fetch)
  const question = asked?.op === 'insert' ? Buffer.from(asked.data) : Buffer.alloc(12)
  const names = ['orders', 'secret'].map((name, index) => ({ name, topicId: Buffer.alloc(16, index + 1) }))
  push('reply', encodeResponse(planOf('response', METADATA, 12) as MessagePlan, question.readInt32BE(8), { topics: names }))
  const ops = push('original', fetch)
  t.deepEqual(
    ops.map(({ op }) => op),
    ['drop', 'insert'],
  )
  t.false(Buffer.from((ops[1] as { data: Uint8Array }).data).includes(Buffer.alloc(16, 2)))
})

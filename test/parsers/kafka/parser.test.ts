import test from 'ava'
import fc from 'fast-check'
import type { Op, StreamDirection } from '#parsers/contract.ts'
import { decodeMessage, type KafkaStruct } from '#parsers/kafka/decode.ts'
import { encodeResponse, responseHeadBytes } from '#parsers/kafka/denial.ts'
import type { Encodable } from '#parsers/kafka/encode.ts'
import { kafkaParser } from '#parsers/kafka/parser.ts'
import { knownApiKeys, type MessagePlan, planOf, versionsOf } from '#parsers/kafka/schema.ts'
import { answerOf, first, itemsOf, NAMES, requestFrame, rulesetOf, runOf, sampleOf } from './support.ts'

const PRODUCE = 0
const FETCH = 1
const SASL_HANDSHAKE = 17
const API_VERSIONS = 18
const ORDERS = rulesetOf({
  allow: [
    { name: 'produce-orders', role: 'produce', topic: 'orders' },
    { name: 'consume-orders', role: 'consume', topic: 'orders', group: 'books' },
  ],
})

function produceFrame(
  version: number,
  topics: readonly string[],
  { acks = -1, correlationId = 7, records = 'r'.repeat(100) } = {},
): Buffer {
  const topicData = topics.map((name) => ({ name, partitionData: [{ index: 3, records: Buffer.from(records) }] }))
  return requestFrame(PRODUCE, version, { acks, timeoutMs: 1000, topicData }, { correlationId })
}

test('what is allowed passes as it is, and what is denied is answered topic by topic', (t) => {
  for (let version = 3; version <= 12; version++) {
    const { push, records } = runOf(ORDERS)
    const allowed = produceFrame(version, ['orders'])
    t.deepEqual(push('original', allowed), [{ op: 'pass', bytes: allowed.length, turn: 'opens' }])
    const denied = produceFrame(version, ['secret'], { correlationId: 8 })
    const ops = push('original', denied)
    t.deepEqual(ops[0], { op: 'drop', bytes: denied.length })
    const { correlationId, message } = answerOf(ops, PRODUCE, version)
    t.is(correlationId, 8)
    const topic = first(message.values.responses)
    t.is(topic.values.name, 'secret')
    const partition = first(topic.values.partitionResponses)
    t.deepEqual([partition.values.index, partition.values.errorCode], [3, 29])
    t.deepEqual(
      records.map(({ apiKey, topics, isAllowed, rule, errorCode }) => [apiKey, topics.join(), isAllowed, rule, errorCode]),
      [
        ['produce', 'orders', true, 'produce-orders', 0],
        ['produce', 'secret', false, '', 29],
      ],
    )
  }
})

test('of a request about several topics the allowed ones go on, and the answer has an error for each other one', (t) => {
  const rules = rulesetOf({ allow: (['produce', 'consume', 'admin'] as const).map((role) => ({ name: role, role, topic: 'orders' })) })
  const split: number[] = []
  for (const apiKey of knownApiKeys()) {
    const range = versionsOf(apiKey)
    for (let version = range?.first ?? 0; version <= (range?.last ?? -1); version++) {
      const plan = planOf('request', apiKey, version) as MessagePlan
      const response = planOf('response', apiKey, version) as MessagePlan
      const list = plan.fields.find((field) => field.isArray && field.struct.fields.some(({ entity }) => entity === 'topicName'))
      const answered = response.fields.find((field) => field.isArray && field.struct.fields.some(({ entity }) => entity === 'topicName'))
      if (list === undefined || answered === undefined || apiKey === METADATA || apiKey === DESCRIBE_TOPIC_PARTITIONS) continue
      const about = (fields: MessagePlan['fields'], name: string, topic: string) =>
        (sampleOf({ fields, tagged: new Map(), bytesMin: 0 }, { ...NAMES, topic })[name] as Encodable[])[0] as Encodable
      const values = { ...sampleOf(plan), acks: 1, sessionEpoch: -1, forgottenTopicsData: [] }
      const topics = ['secret', 'orders', 'private'].map((topic) => about(plan.fields, list.name, topic))
      const run = runOf(rules)
      const ops = run.push('original', requestFrame(apiKey, version, { ...values, [list.name]: topics }))
      if (ops[1]?.op !== 'insert') continue
      split.push(apiKey)
      const changed = Buffer.from(ops[1].data)
      t.is(changed.readInt32BE(0), changed.length - 4)
      const body = changed.subarray(14 + 2 + (plan.isFlexible ? 1 : 0))
      const sent = decodeMessage(body, 0, plan)
      t.deepEqual(itemsOf(sent.values[list.name]).map(nameOf), ['orders'], `${apiKey} ${version}`)
      const reply = encodeResponse(response, 77, {
        ...sampleOf(response),
        [answered.name]: [about(response.fields, answered.name, 'orders')],
      })
      const merged = run.push('reply', reply)
      t.deepEqual(
        merged.map(({ op }) => op),
        ['drop', 'insert', 'pass'],
      )
      const [dropped, inserted, passed] = merged as unknown as readonly [{ bytes: number }, { data: Uint8Array }, { bytes: number }]
      t.is(dropped.bytes + passed.bytes, reply.length)
      const whole = Buffer.concat([inserted.data, reply.subarray(dropped.bytes)])
      t.is(whole.readInt32BE(0), whole.length - 4)
      const answer = decodeMessage(whole, 4 + responseHeadBytes(response), response)
      t.deepEqual(itemsOf(answer.values[answered.name]).map(nameOf), ['secret', 'private', 'orders'], `${apiKey} ${version}`)
      t.deepEqual(
        run.records.map(({ topics: named, errorCode }) => `${named.join()} ${errorCode}`),
        ['secret 29', 'orders 0', 'private 29'],
      )
    }
  }
  // Produce, Fetch, ListOffsets, OffsetCommit, OffsetFetch, CreateTopics, TxnOffsetCommit.
  for (const apiKey of [0, 1, 2, 8, 9, 19, 28]) t.true(split.includes(apiKey), String(apiKey))
})

test('a topic without a name goes on with no other one', (t) => {
  const rules = rulesetOf({ allow: (['produce', 'consume', 'admin'] as const).map((role) => ({ name: role, role, topic: 'orders' })) })
  const CREATE_PARTITIONS = 37
  const plan = planOf('request', CREATE_PARTITIONS, 3) as MessagePlan
  const topics = ['orders', ''].map((name) => ({ name, count: 1, assignments: null }))
  const run = runOf(rules)
  const [dropped, inserted] = run.push('original', requestFrame(CREATE_PARTITIONS, 3, { ...sampleOf(plan), topics }))
  t.is(dropped?.op, 'drop')
  const sent = inserted?.op === 'insert' ? decodeMessage(Buffer.from(inserted.data).subarray(17), 0, plan) : undefined
  t.deepEqual(itemsOf(sent?.values.topics).map(nameOf), ['orders'])
  t.deepEqual(
    run.records.map(({ topics: named, errorCode }) => `${named.join()} ${errorCode}`),
    ['orders 0', ' 29'],
  )
})

test('what follows a message goes on with it: brokers do not look at it, and librdkafka leaves some there', (t) => {
  const everything = rulesetOf({ allowAll: true })
  const behind = Buffer.from('000100', 'hex')
  const withMore = (frame: Buffer) => {
    const whole = Buffer.concat([frame, behind])
    whole.writeInt32BE(whole.length - 4, 0)
    return whole
  }
  for (const apiKey of knownApiKeys()) {
    const { last = 0 } = versionsOf(apiKey) ?? {}
    if (apiKey === SASL_HANDSHAKE) continue
    const frame = withMore(requestFrame(apiKey, last, sampleOf(planOf('request', apiKey, last) as MessagePlan)))
    t.like(runOf(everything).push('original', frame).at(-1), { op: 'pass', bytes: frame.length }, String(apiKey))
  }
  const topics = ['secret', 'orders'].map((name) => ({ name }))
  for (const [apiKey, version, values] of [
    [METADATA, 13, { topics }],
    [PRODUCE, 9, { acks: -1, topicData: topics.map((topic) => ({ ...topic, partitionData: [] })) }],
  ] as const) {
    const inserted = runOf(ORDERS).push('original', withMore(requestFrame(apiKey, version, values)))[1]
    const changed = inserted?.op === 'insert' ? Buffer.from(inserted.data) : Buffer.alloc(4)
    t.is(changed.readInt32BE(0), changed.length - 4)
    t.deepEqual(changed.subarray(-3), behind)
    t.false(changed.includes('secret'))
  }
  // As librdkafka asks for all topics, in version 13: no list, and of a longer sign of that three bytes more.
  const asked = Buffer.from('00000019000300' + '0d0000000300077264' + '6b61666b61' + '00' + '00000000' + '000000', 'hex')
  asked.writeInt32BE(asked.length - 4, 0)
  const all = runOf(ORDERS)
  t.like(all.push('original', asked), [{ op: 'pass', bytes: asked.length }])
  t.deepEqual(
    all.records.map(({ isAllowed }) => isAllowed),
    [true],
  )
})

function nameOf({ values: { name, topic, topicName } }: KafkaStruct): unknown {
  return name ?? topic ?? topicName
}

test('a request about several topics is denied as a whole where that is asked for, or where it is one thing', (t) => {
  const parser = kafkaParser('deny').create({ rules: () => ORDERS, report: () => {} })
  for (const topics of [
    ['orders', 'secret'],
    ['secret', 'orders'],
  ]) {
    const ops = parser.onData('original', produceFrame(9, topics), false) as readonly Op[]
    t.deepEqual(
      ops.map(({ op }) => op),
      ['drop', 'answer'],
    )
    t.is(itemsOf(answerOf(ops, PRODUCE, 9).message.values.responses).length, 2)
  }
  t.is(runOf(ORDERS).push('original', produceFrame(9, ['orders', 'orders']))[0]?.op, 'pass')
  const add = (names: readonly string[]) =>
    requestFrame(24, 3, { v3AndBelowTransactionalId: 'tx', v3AndBelowTopics: names.map((name) => ({ name, partitions: [1] })) })
  t.deepEqual(
    runOf(ORDERS)
      .push('original', add(['orders', 'secret']))
      .map(({ op }) => op),
    ['drop', 'answer'],
  )
})

test('whoever waits for no answer gets none', (t) => {
  const { push } = runOf(ORDERS)
  const denied = produceFrame(8, ['secret'], { acks: 0 })
  t.deepEqual(push('original', denied), [{ op: 'drop', bytes: denied.length }])
  const allowed = produceFrame(8, ['orders'], { acks: 0 })
  t.deepEqual(push('original', allowed), [{ op: 'pass', bytes: allowed.length }])
  // So the next answer is that to the next request.
  push('original', produceFrame(8, ['orders'], { correlationId: 9 }))
  const reply = Buffer.from('0000000400000009', 'hex')
  t.deepEqual(push('reply', reply), [{ op: 'pass', bytes: 8, turn: 'closes' }])
})

test('records are not waited for where one topic is produced to', (t) => {
  const frame = produceFrame(9, ['orders'], { records: 'r'.repeat(1 << 20) })
  const { push } = runOf(ORDERS)
  t.deepEqual(push('original', frame.subarray(0, 100)), [{ op: 'pass', bytes: frame.length, turn: 'opens' }])
  const denied = produceFrame(9, ['secret'], { records: 'r'.repeat(1 << 20) })
  t.deepEqual(runOf(ORDERS).push('original', denied.subarray(0, 100)), [{ op: 'more', bytes: denied.length }])
})

test('the error is about what no rule allows', (t) => {
  const fetch = {
    maxWaitMs: 1,
    minBytes: 1,
    topics: [{ topic: 'secret', partitions: [{ partition: 1, fetchOffset: 0n, partitionMaxBytes: 1 }] }],
  }
  const fetched = answerOf(runOf(ORDERS).push('original', requestFrame(FETCH, 11, fetch)), FETCH, 11).message
  t.is(fetched.values.errorCode, 0)
  t.deepEqual([first(first(fetched.values.responses).values.partitions).values.errorCode], [29])
  const joinGroup = answerOf(
    runOf(ORDERS).push('original', requestFrame(11, 5, { groupId: 'others', protocolType: 'consumer' })),
    11,
    5,
  ).message
  t.is(joinGroup.values.errorCode, 30)
  const createTopics = answerOf(
    runOf(ORDERS).push('original', requestFrame(19, 5, { topics: [{ name: 'orders', numPartitions: 1, replicationFactor: 1 }] })),
    19,
    5,
  ).message
  t.is(first(createTopics.values.topics).values.errorCode, 29)
})

test('an answer that is not that to the oldest request closes the connection', (t) => {
  const { push } = runOf(ORDERS)
  t.like(push('reply', Buffer.from('0000000400000001', 'hex')), [{ op: 'error' }])
  push('original', produceFrame(9, ['orders'], { correlationId: 1 }))
  t.like(push('reply', Buffer.from('0000000400000002', 'hex')), [{ op: 'error' }])
})

test('every kind of request passes where everything is allowed, and where only others are, none that names something', (t) => {
  const others = rulesetOf({
    allow: (['produce', 'consume', 'admin'] as const).map((role) => ({
      name: role,
      role,
      topic: 'other',
      group: 'theirs',
      transactionalId: 'xt',
    })),
  })
  for (const apiKey of knownApiKeys()) {
    const range = versionsOf(apiKey)
    for (let version = range?.first ?? 0; version <= (range?.last ?? -1); version++) {
      const plan = planOf('request', apiKey, version) as MessagePlan
      const frame = requestFrame(apiKey, version, { ...sampleOf(plan), ...(apiKey === SASL_HANDSHAKE && { mechanism: 'PLAIN' }) })
      t.is(runOf(rulesetOf({ allowAll: true })).push('original', frame)[0]?.op, 'pass', `${apiKey} ${version}`)
      const [first] = runOf(others).push('original', frame)
      // Of those that ask what topics there are, the question goes on without the topic.
      const isList = apiKey === METADATA || apiKey === DESCRIBE_TOPIC_PARTITIONS
      if (namesAny(plan.fields) && !isList) t.not(first?.op, 'pass', `${apiKey} ${version}`)
    }
  }
})

function namesAny(fields: MessagePlan['fields']): boolean {
  return fields.some(({ entity, struct }) => entity !== undefined || namesAny(struct.fields))
}

const METADATA = 3
const DESCRIBE_TOPIC_PARTITIONS = 75

test('a list of topics goes on at no name that the client may not see', (t) => {
  const plan = planOf('response', DESCRIBE_TOPIC_PARTITIONS, 0) as MessagePlan
  const cursorOf = (names: readonly string[], cursor: string | null, allow = 'orders') => {
    const run = runOf(rulesetOf({ allow: [{ name: 'all', topicPrefix: allow }] }))
    run.push('original', requestFrame(DESCRIBE_TOPIC_PARTITIONS, 0, { topics: [], responsePartitionLimit: 2 }))
    const topics = names.map((name) => ({ name, topicId: Buffer.alloc(16, 5), errorCode: 0 }))
    const nextCursor = cursor === null ? null : { topicName: cursor, partitionIndex: 1 }
    const frame = encodeResponse(plan, 77, { topics, nextCursor })
    const ops = run.push('reply', frame)
    const inserted = ops.find((op) => op.op === 'insert')
    const bytes = inserted?.op === 'insert' ? Buffer.from(inserted.data) : frame
    t.is(bytes.readInt32BE(0), bytes.length - 4)
    const { values } = decodeMessage(bytes, 4 + responseHeadBytes(plan), plan)
    const told = (values.nextCursor as KafkaStruct | null)?.values
    return told === undefined ? undefined : `${told.topicName} ${told.partitionIndex}`
  }
  t.is(cursorOf(['orders'], 'orders2'), 'orders2 1')
  t.is(cursorOf(['a', 'orders'], 'secret'), 'orders- 0')
  t.is(cursorOf(['orders'], 'secret'), 'orders- 0')
  t.is(cursorOf(['orders', 'secret'], 'top'), undefined)
  t.is(cursorOf(['secret'], 'secret'), undefined)
  t.is(cursorOf([], 'secret'), undefined)
  t.is(cursorOf(['orders'], null), undefined)
})

test('what topics there are is told as far as the client may see them', (t) => {
  for (const version of [1, 9, 13]) {
    const plan = planOf('response', METADATA, version) as MessagePlan
    const answer = (names: readonly string[]) => {
      const values = {
        brokers: [{ nodeId: 1, host: 'h', port: 9092 }],
        topics: names.map((name) => ({ name, topicId: Buffer.alloc(16, 5), errorCode: 0 })),
      }
      return encodeResponse(plan, 77, values)
    }
    const namesOf = (ops: readonly Op[]) => {
      const inserted = ops.find((op) => op.op === 'insert')
      const bytes = inserted?.op === 'insert' ? Buffer.from(inserted.data) : undefined
      if (bytes === undefined) return undefined
      t.is(bytes.readInt32BE(0), bytes.length - 4)
      const { values } = decodeMessage(bytes, 4 + responseHeadBytes(plan), plan)
      t.is(itemsOf(values.brokers).length, 1)
      return itemsOf(values.topics).map(({ values: { name, errorCode } }) => `${name} ${errorCode}`)
    }
    const all = runOf(ORDERS)
    t.is(all.push('original', requestFrame(METADATA, version, { topics: null }))[0]?.op, 'pass')
    const whole = answer(['orders', 'secret'])
    t.deepEqual(all.push('reply', whole.subarray(0, 20)), [{ op: 'more', bytes: whole.length }])
    t.deepEqual(namesOf(all.push('reply', whole)), ['orders 0'])

    const named = runOf(ORDERS)
    const ops = named.push('original', requestFrame(METADATA, version, { topics: [{ name: 'secret' }, { name: 'orders' }] }))
    t.deepEqual(
      ops.map(({ op }) => op),
      ['drop', 'insert'],
    )
    t.deepEqual(namesOf(named.push('reply', answer(['orders']))), ['orders 0', 'secret 29'])
    t.deepEqual(
      named.records.map(({ topics, isAllowed, errorCode }) => `${topics.join()} ${isAllowed} ${errorCode}`),
      ['secret false 29', 'orders true 0'],
    )

    const allowed = runOf(ORDERS)
    t.is(allowed.push('original', requestFrame(METADATA, version, { topics: [{ name: 'orders' }] }))[0]?.op, 'pass')
    t.deepEqual(
      allowed.push('reply', answer(['orders'])).map(({ op }) => op),
      ['pass'],
    )
  }
})

test('the broker is asked what an id stands for, on the same connection, and its answer is nobody else’s', (t) => {
  const id = (value: number) => Buffer.alloc(16, value)
  const fetch = (value: number, correlationId: number) =>
    requestFrame(FETCH, 17, { topics: [{ topicId: id(value), partitions: [{ partition: 1, fetchOffset: 0n }] }] }, { correlationId })
  const plan = planOf('response', METADATA, 12) as MessagePlan
  const { push } = runOf(ORDERS)
  const ops = push('original', fetch(1, 40))
  t.deepEqual(
    ops.map(({ op }) => op),
    ['insert', 'wait'],
  )
  const question = Buffer.from((ops[0] as { data: Uint8Array }).data)
  t.is(question.readInt16BE(4), METADATA)
  const told = (topics: readonly { name: string; value: number }[]) =>
    encodeResponse(plan, question.readInt32BE(8), { topics: topics.map(({ name, value }) => ({ name, topicId: id(value), errorCode: 0 })) })
  const answer = told([{ name: 'orders', value: 1 }])
  t.deepEqual(push('reply', answer), [{ op: 'drop', bytes: answer.length, turn: 'closes' }])
  const allowed = fetch(1, 40)
  t.deepEqual(push('original', allowed), [{ op: 'pass', bytes: allowed.length, turn: 'opens' }])

  t.deepEqual(
    push('original', fetch(2, 41)).map(({ op }) => op),
    ['insert', 'wait'],
  )
  push('reply', Buffer.from('0000000400000028', 'hex'))
  // That was the answer to something else.
  t.deepEqual(push('original', fetch(2, 41)), [{ op: 'wait' }])
  push('reply', told([{ name: 'secret', value: 2 }]))
  const denied = push('original', fetch(2, 41))
  const { message } = answerOf(denied, FETCH, 17)
  t.is(first(first(message.values.responses).values.partitions).values.errorCode, 29)
  // What the broker does not know is denied, and asked for again.
  push('original', fetch(3, 42))
  push('reply', told([]))
  t.is(push('original', fetch(3, 42))[0]?.op, 'drop')
  t.deepEqual(
    push('original', fetch(3, 43)).map(({ op }) => op),
    ['insert', 'wait'],
  )
})

test('a session goes on under the rules that it began under, on its own connection, and else has to name its topics again', (t) => {
  const version = 11
  const plan = planOf('response', FETCH, version) as MessagePlan
  const topics = [{ topic: 'orders', partitions: [{ partition: 1, fetchOffset: 0n, partitionMaxBytes: 1 }] }]
  const fetch = (sessionId: number, sessionEpoch: number, correlationId: number) =>
    requestFrame(FETCH, version, { sessionId, sessionEpoch, topics: sessionEpoch === 0 ? topics : [] }, { correlationId })
  let rules = ORDERS
  const parser = kafkaParser().create({ rules: () => rules, report: () => {} })
  const push = (direction: StreamDirection, bytes: Uint8Array) => parser.onData(direction, bytes, false) as readonly Op[]
  const errorOf = (ops: readonly Op[]) => answerOf(ops, FETCH, version).message.values.errorCode

  t.is(errorOf(push('original', fetch(5, 3, 1))), 70)
  t.is(push('original', fetch(0, 0, 2))[0]?.op, 'pass')
  const begun = encodeResponse(plan, 2, { sessionId: 5 })
  t.is(push('reply', begun.subarray(0, 12))[0]?.op, 'more')
  t.is(push('reply', begun)[0]?.op, 'pass')
  t.is(push('original', fetch(5, 1, 3))[0]?.op, 'pass')
  t.is(errorOf(push('original', fetch(6, 1, 4))), 70)
  rules = rulesetOf({ allow: [{ name: 'others', role: 'consume', topic: 'others' }] })
  t.is(errorOf(push('original', fetch(5, 2, 5))), 70)
  // Named again, they are judged.
  const ops = push('original', fetch(0, 0, 6))
  t.is(errorOf(ops), 0)
  t.is(ops[0]?.op, 'drop')
  // Where rules do not ask about topics, sessions are nobody's business.
  rules = rulesetOf({ allow: [{ name: 'all', role: 'consume' }] })
  t.is(push('original', fetch(5, 2, 7))[0]?.op, 'pass')
})

test('what a request names by type and name is found too, and each of several transactions counts', (t) => {
  const admin = rulesetOf({
    allow: [
      { name: 'a', role: 'admin', topic: 'orders' },
      { name: 'p', role: 'produce', transactionalId: 'tx' },
    ],
  })
  const opOf = (apiKey: number, version: number, values: Parameters<typeof requestFrame>[2]) =>
    runOf(admin).push('original', requestFrame(apiKey, version, values))[0]?.op
  const alter = (resourceType: number, resourceName: string) => opOf(44, 1, { resources: [{ resourceType, resourceName, configs: [] }] })
  t.is(alter(2, 'orders'), 'pass')
  t.is(alter(2, 'secret'), 'drop')
  t.is(alter(4, '1'), 'drop')
  t.is(opOf(10, 4, { keyType: 1, coordinatorKeys: ['tx'] }), 'pass')
  const transactions = rulesetOf({ allow: [{ name: 'd', apiKey: 'describetransactions', transactionalId: 'tx' }] })
  const describe = (...transactionalIds: string[]) => runOf(transactions).push('original', requestFrame(65, 0, { transactionalIds }))[0]?.op
  t.deepEqual([describe('tx'), describe('tx', 'other'), describe('other', 'tx')], ['pass', 'drop', 'drop'])
  const group = rulesetOf({ allow: [{ name: 'c', role: 'consume', group: 'books' }] })
  const find = (key: string) => runOf(group).push('original', requestFrame(10, 3, { key, keyType: 0 }))[0]?.op
  t.deepEqual([find('books'), find('others')], ['pass', 'drop'])
})

test('however the bytes are cut, the ops cover the same bytes in the same way', (t) => {
  const frames = Buffer.concat([
    produceFrame(9, ['orders'], { correlationId: 1 }),
    produceFrame(9, ['secret'], { correlationId: 2 }),
    requestFrame(API_VERSIONS, 3, { clientSoftwareName: 'x', clientSoftwareVersion: '1' }),
    produceFrame(7, ['secret', 'private'], { correlationId: 3 }),
  ])
  const coverage = (cuts: readonly number[]): string[] => {
    const { push } = runOf(ORDERS)
    const told: string[] = []
    let held = Buffer.alloc(0)
    let rest = 0
    const feed = (chunk: Buffer): void => {
      const skipped = Math.min(rest, chunk.length)
      rest -= skipped
      held = Buffer.concat([held, chunk.subarray(skipped)])
      if (held.length === 0) return
      for (const op of push('original', held)) {
        if (op.op === 'pass' || op.op === 'drop') {
          told.push(`${op.op} ${op.bytes}`)
          rest = Math.max(0, op.bytes - held.length)
          held = held.subarray(Math.min(op.bytes, held.length))
        } else if (op.op === 'answer') told.push(`answer ${Buffer.from(op.data).toString('hex')}`)
        else if (op.op === 'error') told.push(op.reason)
      }
    }
    let offset = 0
    for (const cut of cuts) {
      feed(frames.subarray(offset, offset + cut))
      offset = Math.min(frames.length, offset + cut)
    }
    feed(frames.subarray(offset))
    return told
  }
  const whole = coverage([])
  t.is(whole.filter((each) => each.startsWith('answer')).length, 2)
  for (let cut = 1; cut < frames.length; cut++) t.deepEqual(coverage([cut]), whole)
  fc.assert(fc.property(fc.array(fc.nat(60), { maxLength: 20 }), (cuts) => t.deepEqual(coverage(cuts), whole)))
})

test('lengths that lie close the connection and take no memory', (t) => {
  const lies: Buffer[] = []
  for (const size of [-1, 0, 3, 0x7fff_ffff, 0x4000_0000]) {
    const frame = Buffer.alloc(32)
    frame.writeInt32BE(size, 0)
    lies.push(frame)
  }
  const long = produceFrame(9, ['orders'])
  long.writeInt16BE(30_000, 12)
  lies.push(long)
  for (const frame of lies) t.like(runOf(ORDERS).push('original', frame), [{ op: 'error' }])
})

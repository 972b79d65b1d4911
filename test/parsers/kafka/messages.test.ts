import test from 'ava'
import fc from 'fast-check'
import { KAFKA_API_KEYS } from '#parsers/kafka/api-keys.ts'
import { decodeMessage, isStruct } from '#parsers/kafka/decode.ts'
import { encodeDenial, responseHeadBytes } from '#parsers/kafka/denial.ts'
import { encodeMessage } from '#parsers/kafka/encode.ts'
import { IncompleteError, KafkaParseError } from '#parsers/kafka/errors.ts'
import { namedIn } from '#parsers/kafka/named.ts'
import { knownApiKeys, type MessagePlan, planOf, versionsOf } from '#parsers/kafka/schema.ts'
import { NAMES, sampleOf } from './support.ts'

function* plans(): Generator<readonly [MessagePlan, MessagePlan]> {
  for (const apiKey of knownApiKeys()) {
    const range = versionsOf(apiKey)
    for (let version = range?.first ?? 0; version <= (range?.last ?? -1); version++) {
      yield [planOf('request', apiKey, version) as MessagePlan, planOf('response', apiKey, version) as MessagePlan]
    }
  }
}

test('every kind of request has a number and a name that policy knows', (t) => {
  const known = new Set([...KAFKA_API_KEYS.values()].map(({ number }) => number))
  t.deepEqual(
    knownApiKeys().filter((key) => !known.has(key)),
    [],
  )
})

test('every message in every version is decoded as it was encoded, and not a byte shorter', (t) => {
  let count = 0
  for (const pair of plans()) {
    for (const plan of pair) {
      const bytes = encodeMessage(plan, sampleOf(plan))
      const message = decodeMessage(bytes, 0, plan)
      t.is(message.end, bytes.length)
      for (let length = 0; length < bytes.length; length++) {
        t.throws(() => decodeMessage(bytes.subarray(0, length), 0, plan), { instanceOf: KafkaParseError })
      }
      count++
    }
  }
  t.true(count > 300)
})

test('what requests name is found wherever it stands', (t) => {
  for (const [plan] of plans()) {
    const kind = [...KAFKA_API_KEYS.values()].find(({ number }) => number === plan.apiKey)
    const { topics, topicIds, groups, transactionalIds } = namedIn(decodeMessage(encodeMessage(plan, sampleOf(plan)), 0, plan), plan)
    // A coordinator is of whatever the key names.
    if (plan.apiKey === 10) continue
    if (topics.length > 0) t.true(topics.every((topic) => topic === NAMES.topic))
    if (groups.length > 0) t.true(groups.every((group) => group === NAMES.group))
    const found = [topics.length + topicIds.length > 0, groups.length > 0, transactionalIds.length > 0]
    // What the definitions mark, policy's own table knows.
    if (found[0]) t.true(kind?.topics, `topics of ${kind?.name} ${plan.version}`)
    if (found[1]) t.true(kind?.groups, `groups of ${kind?.name} ${plan.version}`)
    if (found[2]) t.true(kind?.transactions, `transactions of ${kind?.name} ${plan.version}`)
  }
})

test('a denial of every kind of request can be read as an answer to it, and has the error in it', (t) => {
  const without: string[] = []
  for (const [plan, response] of plans()) {
    const bytes = encodeMessage(plan, sampleOf(plan))
    const message = decodeMessage(bytes, 0, plan)
    for (const kind of ['topic', 'group', 'cluster', 'transactionalId'] as const) {
      const frame = encodeDenial({ plan, message, bytes, correlationId: 5 }, kind)
      if (frame === undefined) {
        without.push(`${plan.apiKey} ${plan.version}`)
        continue
      }
      t.is(frame.readInt32BE(0), frame.length - 4)
      t.is(frame.readInt32BE(4), 5)
      const answer = decodeMessage(frame, 4 + responseHeadBytes(response), response)
      const code = { topic: 29, group: 30, cluster: 31, transactionalId: 53 }[kind]
      t.true(hasCode(answer.values, code), `${kind} of ${plan.apiKey} ${plan.version}`)
    }
  }
  t.deepEqual([...new Set(without.map((each) => each.split(' ')[0]))], [])
})

function hasCode(value: unknown, code: number): boolean {
  if (value === code) return true
  if (typeof value !== 'object' || value === null) return false
  return Object.values(value).some((each) => hasCode(each, code))
}

test('no bytes make a decoder do anything but decode or refuse', (t) => {
  const all = [...plans()].flat()
  fc.assert(
    fc.property(
      fc.nat(all.length - 1),
      fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 4 }),
      fc.uint8Array({ maxLength: 40 }),
      (index, flips, noise) => {
        const plan = all[index] as MessagePlan
        const bytes = encodeMessage(plan, sampleOf(plan))
        for (const [offset, value] of flips) if (offset < bytes.length) bytes[offset] = value
        for (const each of [bytes, Buffer.from(noise)]) {
          try {
            t.true(isStruct(decodeMessage(each, 0, plan)))
          } catch (error) {
            t.true(error instanceof KafkaParseError && !(error instanceof IncompleteError), String(error))
          }
        }
      },
    ),
    { numRuns: 3000 },
  )
})

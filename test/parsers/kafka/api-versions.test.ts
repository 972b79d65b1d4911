import test from 'ava'
import type { Op } from '#parsers/contract.ts'
import { decodeMessage, type KafkaStruct } from '#parsers/kafka/decode.ts'
import { encodeResponse } from '#parsers/kafka/denial.ts'
import type { Encodable } from '#parsers/kafka/encode.ts'
import { knownApiKeys, type MessagePlan, planOf, versionsOf } from '#parsers/kafka/schema.ts'
import { answerOf, itemsOf, requestFrame, rulesetOf, runOf } from './support.ts'

const API_VERSIONS = 18
const UNSUPPORTED_VERSION = 35
const VERSIONS = [0, 1, 2, 3, 4]
/** Its head is always of the first kind: a correlation id. */
const BODY_OFFSET = 8
/** No rule is asked: what a client may do, it has to find out first. */
const NOTHING = rulesetOf({})

function answerFrame(version: number, values: { readonly [name: string]: Encodable }): Buffer {
  return encodeResponse(planOf('response', API_VERSIONS, version) as MessagePlan, 77, values)
}

/** What a broker knows that is just as old as the table. */
function everything(): { apiKey: number; minVersion: number; maxVersion: number }[] {
  return knownApiKeys().map((apiKey) => {
    const { first = 0, last = 0 } = versionsOf(apiKey) ?? {}
    return { apiKey, minVersion: first, maxVersion: last }
  })
}

function ask(version: number, answer: Buffer): readonly Op[] {
  const { push } = runOf(NOTHING)
  const request = requestFrame(API_VERSIONS, version, { clientSoftwareName: 'x', clientSoftwareVersion: '1' })
  if (push('original', request)[0]?.op !== 'pass') throw new Error('the question does not pass')
  if (push('reply', answer.subarray(0, 10))[0]?.op !== 'more') throw new Error('it does not wait for all of the answer')
  return push('reply', answer)
}

function toldTo(version: number, ops: readonly Op[]): KafkaStruct {
  const inserted = ops.find((op) => op.op === 'insert')
  if (inserted?.op !== 'insert' || inserted.turn !== 'closes') throw new Error('nothing was changed')
  const frame = Buffer.from(inserted.data)
  if (frame.readInt32BE(0) !== frame.length - 4 || frame.readInt32BE(4) !== 77) throw new Error('the frame lies')
  return decodeMessage(frame, BODY_OFFSET, planOf('response', API_VERSIONS, version) as MessagePlan)
}

test('an answer with nothing in it that is not known goes on as it is', (t) => {
  for (const version of VERSIONS) {
    const answer = answerFrame(version, { apiKeys: everything(), throttleTimeMs: 3 })
    t.deepEqual(ask(version, answer), [{ op: 'pass', bytes: answer.length, turn: 'closes' }], String(version))
    const older = answerFrame(version, { apiKeys: [{ apiKey: 0, minVersion: 0, maxVersion: 5 }] })
    t.is(ask(version, older)[0]?.op, 'pass')
  }
})

test('of a newer broker clients are told what is known here: no newer versions, and no other kinds of requests', (t) => {
  const fetch = versionsOf(1)?.last ?? 0
  for (const version of VERSIONS) {
    const apiKeys = [
      { apiKey: 0, minVersion: 0, maxVersion: 3 },
      { apiKey: 1, minVersion: 4, maxVersion: fetch + 2 },
      // A version of it is known, and none that the broker still has.
      { apiKey: 12, minVersion: 90, maxVersion: 95 },
      { apiKey: 999, minVersion: 0, maxVersion: 1 },
      { apiKey: API_VERSIONS, minVersion: 0, maxVersion: 9 },
    ]
    const features = version < 3 ? {} : { supportedFeatures: [{ name: 'f', minVersion: 1, maxVersion: 2 }], finalizedFeaturesEpoch: 12n }
    const ops = ask(version, answerFrame(version, { apiKeys, throttleTimeMs: 5, ...features }))
    const { values } = toldTo(version, ops)
    t.deepEqual(
      itemsOf(values.apiKeys).map(({ values: { apiKey, minVersion, maxVersion } }) => [apiKey, minVersion, maxVersion]),
      [
        [0, 0, 3],
        [1, 4, fetch],
        [API_VERSIONS, 0, 4],
      ],
    )
    if (version > 0) t.is(values.throttleTimeMs, 5)
    if (version >= 3) t.is(values.finalizedFeaturesEpoch, 12n)
    // Where only versions are too high, entries stay where they are.
    const same = ask(version, answerFrame(version, { apiKeys: [{ apiKey: 1, minVersion: 4, maxVersion: fetch + 2 }] }))
    t.is(itemsOf(toldTo(version, same).values.apiKeys)[0]?.values.maxVersion, fetch)
  }
})

test('a question in a version that is not known here is answered as a broker does that does not know it', (t) => {
  const frame = Buffer.from(requestFrame(API_VERSIONS, 4, { clientSoftwareName: 'x', clientSoftwareVersion: '1' }))
  frame.writeInt16BE(5, 6)
  const { push, records } = runOf(NOTHING)
  const ops = push('original', frame)
  t.deepEqual(ops[1], { op: 'drop', bytes: frame.length })
  const { correlationId, message } = answerOf(ops, API_VERSIONS, 0)
  t.is(correlationId, 77)
  t.is(message.values.errorCode, UNSUPPORTED_VERSION)
  t.deepEqual(
    itemsOf(message.values.apiKeys).map(({ values: { apiKey, minVersion, maxVersion } }) => [apiKey, minVersion, maxVersion]),
    [[API_VERSIONS, 0, 4]],
  )
  t.like(records, [{ apiKey: 'apiversions', apiVersion: 5, isAllowed: true }])
  // Also when it has not all come yet: nothing is said of what is behind it.
  t.deepEqual(
    runOf(NOTHING)
      .push('original', frame.subarray(0, 20))
      .map(({ op }) => op),
    ['answer', 'drop'],
  )
  // The client asks again, and is understood.
  t.is(push('original', requestFrame(API_VERSIONS, 0, {}))[0]?.op, 'pass')
})

test('an older broker answers a newer question in version 0, which is understood', (t) => {
  const answer = answerFrame(0, { errorCode: UNSUPPORTED_VERSION, apiKeys: [{ apiKey: API_VERSIONS, minVersion: 0, maxVersion: 2 }] })
  for (const version of [3, 4]) t.deepEqual(ask(version, answer), [{ op: 'pass', bytes: answer.length, turn: 'closes' }])
  const newer = answerFrame(0, { errorCode: UNSUPPORTED_VERSION, apiKeys: [{ apiKey: API_VERSIONS, minVersion: 0, maxVersion: 7 }] })
  t.is(itemsOf(toldTo(0, ask(3, newer)).values.apiKeys)[0]?.values.maxVersion, 4)
})

test('an answer that cannot be read closes: nothing of it is guessed', (t) => {
  const answer = answerFrame(3, { apiKeys: everything() })
  answer.writeUInt8(0xff, BODY_OFFSET + 2)
  t.is(ask(3, answer)[0]?.op, 'error')
})

import test from 'ava'
import { encodeResponse } from '#parsers/kafka/denial.ts'
import { type MessagePlan, planOf } from '#parsers/kafka/schema.ts'
import { answerOf, type ParserRun, requestFrame, rulesetOf, runOf } from './support.ts'

const HANDSHAKE = 17
const AUTHENTICATE = 36
const METADATA = 3
const HEARTBEAT = 12
const UNSUPPORTED_MECHANISM = 33
const ORDERS = rulesetOf({ allow: [{ name: 'orders', role: 'produce', topic: 'orders' }] })

function handshake(mechanism: string, version = 0): Buffer {
  return requestFrame(HANDSHAKE, version, { mechanism }, { correlationId: 1 })
}

function handshakeAnswer(errorCode = 0): Buffer {
  return encodeResponse(planOf('response', HANDSHAKE, 0) as MessagePlan, 1, { errorCode, mechanisms: ['PLAIN'] })
}

function token(text: string): Buffer {
  const frame = Buffer.concat([Buffer.alloc(4), Buffer.from(text)])
  frame.writeInt32BE(text.length, 0)
  return frame
}

function passes(frame: Buffer, turn: 'opens' | 'closes') {
  return [{ op: 'pass', bytes: frame.length, turn }]
}

/** Both sides of a handshake that the broker agrees to. */
function shake({ push }: ParserRun, mechanism: string): boolean {
  push('original', handshake(mechanism))
  return push('reply', handshakeAnswer())[0]?.op === 'pass'
}

test('as many tokens as the mechanism has pass, with their answers, and what is behind the last one is a request', (t) => {
  const mechanisms = { PLAIN: 1, 'SCRAM-SHA-256': 2, 'SCRAM-SHA-512': 2, OAUTHBEARER: 1 }
  for (const [mechanism, count] of Object.entries(mechanisms)) {
    const run = runOf(ORDERS)
    t.true(shake(run, mechanism))
    for (let index = 0; index < count; index++) {
      const sent = token(`token ${index}`)
      t.deepEqual(run.push('original', sent), passes(sent, 'opens'), mechanism)
      const answered = token(index === 0 ? '' : 'v=proof')
      t.deepEqual(run.push('reply', answered), passes(answered, 'closes'), mechanism)
    }
    const allowed = requestFrame(METADATA, 9, { topics: [{ name: 'orders' }] })
    t.deepEqual(run.push('original', allowed), passes(allowed, 'opens'))
    const denied = requestFrame(HEARTBEAT, 3, { groupId: 'books' })
    t.is(answerOf(run.push('original', denied), HEARTBEAT, 3).message.values.errorCode, 30)
  }
})

test('a request does not pass as a token, with the tokens or after them', (t) => {
  const request = requestFrame(HEARTBEAT, 3, { groupId: 'books' })
  const together = runOf(ORDERS)
  t.true(shake(together, 'PLAIN'))
  const sent = token('\0me\0secret')
  t.deepEqual(
    together.push('original', Buffer.concat([sent, request])).map(({ op }) => op),
    ['pass', 'drop', 'answer'],
  )
  // Its answer comes in its turn, behind that to the token.
  t.deepEqual(together.push('reply', token('')), passes(token(''), 'closes'))
})

test('what is sent before the broker has answered the handshake waits', (t) => {
  const run = runOf(ORDERS)
  const [hand, sent] = [handshake('SCRAM-SHA-256'), token('n,,n=me,r=nonce')]
  t.deepEqual(run.push('original', Buffer.concat([hand, sent])), [...passes(hand, 'opens'), { op: 'wait' }])
  const answer = handshakeAnswer()
  t.is(run.push('reply', answer.subarray(0, 9))[0]?.op, 'more')
  t.deepEqual(run.push('original', sent), [{ op: 'wait' }])
  t.deepEqual(run.push('reply', answer), passes(answer, 'closes'))
  t.deepEqual(run.push('original', sent), passes(sent, 'opens'))
})

test('a broker that refuses the handshake takes no tokens: what follows are requests', (t) => {
  const run = runOf(ORDERS)
  run.push('original', handshake('PLAIN'))
  const answer = handshakeAnswer(UNSUPPORTED_MECHANISM)
  t.deepEqual(run.push('reply', answer), passes(answer, 'closes'))
  const denied = requestFrame(HEARTBEAT, 3, { groupId: 'books' })
  t.is(run.push('original', denied)[0]?.op, 'drop')
  const again = handshake('SCRAM-SHA-512')
  t.deepEqual(run.push('original', again), passes(again, 'opens'))
})

test('a mechanism whose tokens cannot be counted closes, and one that is no rule’s gets an answer and no tokens', (t) => {
  for (const mechanism of ['GSSAPI', 'plain', '']) {
    t.deepEqual(runOf(ORDERS).push('original', handshake(mechanism)), [
      { op: 'error', reason: 'a handshake of version 0 for a mechanism whose tokens cannot be counted' },
    ])
  }
  const run = runOf(rulesetOf({ allow: [{ name: 'fetches', apiKey: 'fetch' }] }))
  t.is(answerOf(run.push('original', handshake('PLAIN')), HANDSHAKE, 0).message.values.errorCode, 31)
  // As a request, it lies about its client id.
  t.is(run.push('original', token('\0me\0a password that nobody asked for'))[0]?.op, 'error')
})

test('a token that lies about its size closes the connection', (t) => {
  for (const size of [-1, 0x7fff_ffff, (512 << 10) + 1]) {
    const lie = Buffer.alloc(16)
    lie.writeInt32BE(size, 0)
    for (const direction of ['original', 'reply'] as const) {
      const run = runOf(ORDERS)
      t.true(shake(run, 'PLAIN'))
      if (direction === 'reply') run.push('original', token('me'))
      t.deepEqual(run.push(direction, lie), [{ op: 'error', reason: `a token of ${size} bytes` }])
    }
  }
  const run = runOf(ORDERS)
  t.true(shake(run, 'PLAIN'))
  t.deepEqual(run.push('original', Buffer.from([0, 0])), [{ op: 'more', bytes: 4 }])
  // The rest of one that is not there yet passes as it comes.
  const long = token('x'.repeat(1000))
  t.deepEqual(run.push('original', long.subarray(0, 100)), passes(long, 'opens'))
})

test('an answer to a handshake that is none closes', (t) => {
  const run = runOf(ORDERS)
  run.push('original', handshake('PLAIN'))
  t.like(run.push('reply', Buffer.from('0000000400000001', 'hex')), [{ op: 'error' }])
})

test('since version 1 tokens are requests like others', (t) => {
  const run = runOf(ORDERS)
  const hand = handshake('GSSAPI', 1)
  t.deepEqual(run.push('original', hand), passes(hand, 'opens'))
  const sent = requestFrame(AUTHENTICATE, 2, { authBytes: Buffer.from('\0me\0secret') })
  t.deepEqual(run.push('original', sent), passes(sent, 'opens'))
})

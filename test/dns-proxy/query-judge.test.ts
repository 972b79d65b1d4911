import test from 'ava'
import type { OpenQuery } from '#dns-proxy/transactions.ts'
import { FLAG, RCODE, TYPE } from '#parsers/dns/codes.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { pointer, rawMessage, rawName, rawQuestion, rawRecord } from '../parsers/dns/messages.ts'
import { CLIENT, Judging, type JudgingOptions, queryOf, readerOf } from './judging.ts'

const SERVER = '10.0.0.53'
const API = rawName('api', 'test')
const REPLY = FLAG.QR | FLAG.RD | FLAG.RA

function judge(judging: Judging, message: Uint8Array): ReturnType<Judging['judge']['judge']> {
  const reader = readerOf(message)
  const slot = judging.judge.slotAt(judging.slot.mark)
  const client = judging.judge.clientAt(addressToBytes(CLIENT))
  if (slot === undefined || client === undefined) throw new Error('no slot, or no client')
  return judging.judge.judge(reader, reader.fault === undefined, slot, client)
}

/** A query for the name on its way. */
function ask(judging: Judging, message = queryOf('api.test')): OpenQuery {
  const asked = judge(judging, message)
  const client = judging.judge.clientAt(addressToBytes(CLIENT))
  if (typeof asked === 'number' || client === undefined) throw new Error(`not judged: ${asked}`)
  const server = judging.judge.serverAt(addressToBytes(SERVER))
  return { client, clientPort: 4000, server, serverPort: 53, clientId: 1, asked, slotId: 3, startedMs: 0 }
}

const addressRecord = (owner: Uint8Array, address: string, ttl = 60): Buffer =>
  rawRecord(owner, TYPE.A, addressToBytes(address).subarray(12), ttl)

function replyWith(...records: readonly Uint8Array[]): Buffer {
  return rawMessage({ flags: REPLY, counts: [1, records.length, 0, 0] }, rawQuestion(API), ...records)
}

function learnFrom(options: JudgingOptions, reply: Uint8Array): Judging {
  const judging = new Judging({ allowAll: true, ...options })
  judging.judge.learn(readerOf(reply), ask(judging), 5, false)
  return judging
}

test('one question is judged; none, several, or what cannot be read is malformed', (t) => {
  const judging = new Judging({ rules: [{ matchName: 'api.test.' }] })
  t.like(judge(judging, queryOf('api.test')), { isAllowed: true, name: 'api.test.' })
  t.like(judge(judging, queryOf('other.test')), { isAllowed: false, name: 'other.test.' })
  const two = rawMessage({ counts: [2, 0, 0, 0] }, rawQuestion(API), rawQuestion(API))
  t.is(judge(judging, two), RCODE.FORMERR)
  t.is(judge(judging, rawMessage({ counts: [0, 0, 0, 0] })), RCODE.FORMERR)
  t.is(judge(judging, Buffer.concat([queryOf('api.test'), Buffer.from([0])])), RCODE.FORMERR, 'trailing bytes')
  t.is(judge(judging, queryOf('api.test').subarray(0, -1)), RCODE.FORMERR)
  t.like(judging.judge.counts, { received: 6, denied: 1, malformed: 4 })
})

test('other opcodes are not implemented, whether they can be read or not', (t) => {
  const judging = new Judging({ allowAll: true })
  for (const opcode of [1, 2, 4, 5, 6, 15]) {
    t.is(judge(judging, rawMessage({ flags: opcode << 11 }, rawQuestion(API))), RCODE.NOTIMP)
    t.is(judge(judging, rawMessage({ flags: opcode << 11, counts: [9, 9, 9, 9] })), RCODE.NOTIMP)
  }
})

test('an answer repeats the question byte for byte; an error may leave it out', (t) => {
  const judging = new Judging({ allowAll: true })
  const query = ask(judging, queryOf('aPi.tesT'))
  const cased = rawName('aPi', 'tesT')
  const isAnswer = (flags: number, ...parts: readonly Uint8Array[]): boolean =>
    judging.judge.isAnswerTo(readerOf(rawMessage({ flags, counts: [parts.length, 0, 0, 0] }, ...parts)), query)
  t.true(isAnswer(REPLY, rawQuestion(cased)))
  t.false(isAnswer(REPLY, rawQuestion(API)), 'another case')
  t.false(isAnswer(REPLY, rawQuestion(rawName('aPi', 'tesU'))))
  t.false(isAnswer(REPLY, rawQuestion(cased, TYPE.AAAA)))
  t.false(isAnswer(REPLY, Buffer.concat([cased, Buffer.from([0, 1, 0, 3])])), 'another class')
  t.false(isAnswer(REPLY, rawQuestion(cased), rawQuestion(cased)), 'two questions')
  t.false(isAnswer(FLAG.RD, rawQuestion(cased)), 'a query')
  t.false(isAnswer(REPLY | (4 << 11), rawQuestion(cased)), 'another opcode')
  t.true(isAnswer(REPLY | RCODE.SERVFAIL))
  t.false(isAnswer(REPLY))
})

test('bytes behind what a reply counts are let through, and a reply that ends too early is not', (t) => {
  const judging = new Judging({ allowAll: true })
  const query = ask(judging)
  const reply = replyWith(addressRecord(pointer(12), '192.0.2.1'))
  t.true(judging.judge.isAnswerTo(readerOf(Buffer.concat([reply, Buffer.from([1, 2, 3])])), query))
  for (let length = 0; length < reply.length; length++) t.false(judging.judge.isAnswerTo(readerOf(reply.subarray(0, length)), query))
})

test('a trusted server teaches everybody, another one the endpoint that asked', (t) => {
  const reply = replyWith(addressRecord(pointer(12), '192.0.2.1', 30))
  const lesson = { names: ['api.test.'], address: '192.0.2.1', ttlSeconds: 30 }
  t.deepEqual(learnFrom({ trusted: [SERVER] }, reply).lessons, [{ endpointId: 0, ...lesson }])
  t.deepEqual(learnFrom({ trusted: ['10.0.0.54'] }, reply).lessons, [{ endpointId: 7, ...lesson }])
})

test('who is trusted changes for the queries that follow', (t) => {
  const judging = new Judging({ allowAll: true })
  t.false(ask(judging).server.isTrusted)
  judging.judge.setLists([], [SERVER])
  t.true(ask(judging).server.isTrusted)
})

test('all names of a chain are taught, and records beside it are not', (t) => {
  const target = rawName('cdn', 'test')
  const reply = replyWith(
    rawRecord(pointer(12), TYPE.CNAME, target, 10),
    addressRecord(target, '192.0.2.1'),
    addressRecord(rawName('other', 'test'), '192.0.2.2'),
  )
  t.deepEqual(learnFrom({}, reply).lessons, [{ endpointId: 7, names: ['api.test.', 'cdn.test.'], address: '192.0.2.1', ttlSeconds: 10 }])
  t.is(learnFrom({ selected: (name) => name === 'cdn.test.' }, reply).lessons.length, 1)
})

test('addresses that something here has teach nothing, and the flow says so', (t) => {
  const addresses = ['127.0.0.1', '10.0.0.7', '10.96.0.1', '169.254.169.254', '192.0.2.1']
  const options = { endpoints: { 7: [CLIENT], 8: ['10.0.0.7'] }, claimed: ['10.96.0.0/16'] }
  const { lessons, flows } = learnFrom(options, replyWith(...addresses.map((address) => addressRecord(pointer(12), address))))
  t.deepEqual(
    lessons.map(({ address }) => address),
    ['192.0.2.1'],
  )
  t.deepEqual(flows[0]?.notes, [
    '127.0.0.1: an endpoint has it',
    '10.0.0.7: an endpoint has it',
    '10.96.0.1: a node or a service has it',
    '169.254.169.254: not an address of the world',
  ])
  t.deepEqual(flows[0]?.addresses, addresses)
})

test('names that nothing selects teach nothing, and their addresses are no news', (t) => {
  const { lessons, flows } = learnFrom({ selected: () => false }, replyWith(addressRecord(pointer(12), '127.0.0.1')))
  t.deepEqual(lessons, [])
  t.deepEqual(flows[0]?.notes, [])
})

test('a truncated answer teaches what it has, for clients that do not ask again over TCP', (t) => {
  const reply = rawMessage({ flags: REPLY | FLAG.TC, counts: [1, 1, 0, 0] }, rawQuestion(API), addressRecord(pointer(12), '192.0.2.1'))
  t.deepEqual(
    learnFrom({}, reply).lessons.map(({ address }) => address),
    ['192.0.2.1'],
  )
})

test('an endpoint that is gone asks nothing more, and one that follows it at its address does', (t) => {
  const judging = new Judging({})
  const endpoint = (id: number) => ({ id, addresses: [CLIENT], searchDomains: [] }) as never
  judging.judge.changeEndpoints({ gone: [endpoint(7)], come: [] })
  t.is(judging.judge.clientAt(addressToBytes(CLIENT)), undefined)
  judging.judge.changeEndpoints({ gone: [], come: [endpoint(9)] })
  judging.judge.changeEndpoints({ gone: [endpoint(7)], come: [] })
  t.is(judging.judge.clientAt(addressToBytes(CLIENT))?.endpointId, 9)
})

test('queries to a server are limited, and counted when they are never answered', (t) => {
  const judging = new Judging({ allowAll: true, concurrencyLimit: 1 })
  const query = ask(judging)
  t.true(judging.judge.begin(query.client, query.server))
  t.false(judging.judge.begin(query.client, query.server))
  t.false(judging.judge.waitForRoom(query.client, query.server, () => {}))
  t.is(judging.judge.limitCounts.server, 1)
  judging.judge.end(query)
  t.true(judging.judge.begin(query.client, query.server))
  judging.judge.reportTimeout(query, true)
  t.deepEqual(
    [...judging.judge.servers()].map(({ timedOutCount }) => timedOutCount),
    [1],
  )
  t.like(judging.flows[0], { query: 'api.test.', tcp: true, answered: false, notes: ['the server did not answer'] })
})

test('an allowed name with a search domain of the endpoint behind it passes, and what a rule denies does not', (t) => {
  const judging = new Judging({
    rules: [{ matchName: 'api.test.', name: 'one' }, { matchPattern: '*.cdn.test.' }],
    denyRules: [{ matchName: 'bad.cdn.test.' }, { matchName: 'api.test.denied.test.', name: 'denied' }],
    searchDomains: ['ns.svc.cluster.local.', 'svc.cluster.local.', 'denied.test.'],
  })
  const isAllowed = (name: string): boolean => {
    const judged = judge(judging, queryOf(name))
    return typeof judged !== 'number' && judged.isAllowed && judged.name === `${name}.`
  }
  for (const name of [
    'api.test',
    'api.test.ns.svc.cluster.local',
    'API.test.svc.cluster.local'.toLowerCase(),
    'a.cdn.test.svc.cluster.local',
  ])
    t.true(isAllowed(name), name)
  t.like(judge(judging, queryOf('api.test.svc.cluster.local')), { rule: 'one', name: 'api.test.svc.cluster.local.' })
  const others = [
    'svc.cluster.local',
    'other.test.svc.cluster.local',
    'api.testsvc.cluster.local',
    'api.test.cluster.local',
    'api.test.ns.svc.cluster.local.svc.cluster.local.x',
    'bad.cdn.test.svc.cluster.local',
    'api.test.denied.test',
  ]
  for (const name of others) t.false(isAllowed(name), name)
  t.false(isAllowed('a.cdn.test.evil.test'), 'a domain that is not on the list')
  const bare = new Judging({ rules: [{ matchName: 'api.test.' }] })
  t.like(judge(bare, queryOf('api.test.svc.cluster.local')), { isAllowed: false })
})

test('the answer to a name with a search domain teaches that name alone', (t) => {
  const options = { rules: [{ matchName: 'api.test.' }], searchDomains: ['svc.test.'], allowAll: false }
  const judging = new Judging(options)
  const suffixed = rawName('api', 'test', 'svc', 'test')
  const query = ask(judging, queryOf('api.test.svc.test'))
  const reply = rawMessage(
    { flags: REPLY, counts: [1, 1, 0, 0] },
    rawQuestion(suffixed),
    rawRecord(pointer(12), TYPE.A, Buffer.from([192, 0, 2, 1]), 60),
  )
  judging.judge.learn(readerOf(reply), query, 5, false)
  t.deepEqual(
    judging.lessons.map(({ names }) => names),
    [['api.test.svc.test.']],
  )
})

test('addresses of IPv6 are kept from endpoints without one, where that is asked for', (t) => {
  const address = addressToBytes('2001:db8::1')
  const records = [
    rawRecord(pointer(12), TYPE.CNAME, rawName('cdn', 'test'), 60),
    rawRecord(rawName('cdn', 'test'), TYPE.AAAA, address, 60),
  ]
  const replyTo = (type: number, flags = REPLY, ...parts: readonly Uint8Array[]) =>
    rawMessage({ flags, counts: [1, parts.length, 0, 0] }, rawQuestion(API, type), ...parts)
  const replaced = (options: JudgingOptions, type: number, reply: Buffer) => {
    const judging = new Judging({ allowAll: true, ...options })
    return judging.judge.replacementOf(readerOf(reply), ask(judging, queryOf('api.test', { type })))
  }
  const reply = replyTo(TYPE.AAAA, REPLY, ...records)
  t.deepEqual(Buffer.from(replaced({ stripAaaa: true }, TYPE.AAAA, reply) ?? []), replyTo(TYPE.AAAA), 'no such record')
  t.is(replaced({}, TYPE.AAAA, reply), undefined)
  t.is(replaced({ stripAaaa: true, endpoints: { 7: [CLIENT, '2001:db8::7'] } }, TYPE.AAAA, reply), undefined, 'it has one')
  t.is(replaced({ stripAaaa: true }, TYPE.A, replyTo(TYPE.A, REPLY, addressRecord(pointer(12), '192.0.2.1'))), undefined)
  t.is(replaced({ stripAaaa: true }, TYPE.AAAA, replyTo(TYPE.AAAA, REPLY | RCODE.NXDOMAIN)), undefined, 'an error is as good as it is')
})

test('an answer that comes again renews what it taught, without being read, until something else is different', (t) => {
  const judging = new Judging({ allowAll: true, flowMode: 'denied', endpoints: { 7: [CLIENT], 8: ['10.0.0.8'] } })
  const reply = (ttl: number) => readerOf(replyWith(addressRecord(pointer(12), '192.0.2.1', ttl)))
  const answer = (ttl = 60, query = ask(judging)) => judging.judge.learn(reply(ttl), query, 5, false)
  const counts = () => [judging.lessons.length, judging.names.renewedCount]
  answer()
  answer()
  t.deepEqual(counts(), [2, 0], 'a question that is asked twice is worth remembering')
  answer()
  answer()
  t.deepEqual(counts(), [2, 2])
  answer(59)
  t.deepEqual(counts(), [3, 2], 'another answer is read')
  answer(59)
  t.deepEqual(counts(), [3, 3])
  judging.names.areHeld = false
  answer(59)
  t.deepEqual(counts(), [4, 4], 'what was taught is no more')
  judging.names.areHeld = true
  judging.names.selectorsRevision = 2
  answer(59)
  t.deepEqual(counts(), [5, 4], 'other names are selected')
  judging.judge.setLists([], [])
  answer(59)
  t.deepEqual(counts(), [6, 4], 'other addresses may be taught')
  const other = judging.judge.clientAt(addressToBytes('10.0.0.8'))
  if (other === undefined) throw new Error('no client')
  answer(59, { ...ask(judging), client: other })
  t.deepEqual(counts(), [7, 4], 'another endpoint knows nothing of it')
  t.deepEqual(judging.lessons.at(-1)?.endpointId, 8)
})

test('an answer that flows tell of is read each time', (t) => {
  const judging = new Judging({ allowAll: true })
  for (let count = 0; count < 4; count++) {
    judging.judge.learn(readerOf(replyWith(addressRecord(pointer(12), '192.0.2.1', 60))), ask(judging), 5, false)
  }
  t.deepEqual([judging.lessons.length, judging.flows.length, judging.names.renewedCount], [4, 4, 0])
})

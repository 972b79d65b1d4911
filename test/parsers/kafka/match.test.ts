import test from 'ava'
import { apiKeyOfName, isOfRole, KAFKA_API_KEYS } from '#parsers/kafka/api-keys.ts'
import { KafkaMatcher, type KafkaRequest, parseKafkaRequest } from '#parsers/kafka/match.ts'
import type { KafkaRule } from '#parsers/kafka/rules.ts'

function ask(text: string): KafkaRequest {
  const request = parseKafkaRequest(text)
  if (request === undefined) throw new Error(`no request: ${text}`)
  return request
}

function allows(rules: readonly KafkaRule[], text: string): boolean {
  return new KafkaMatcher(rules).allowing(ask(text)) !== undefined
}

function denies(rules: readonly KafkaRule[], text: string): boolean {
  return new KafkaMatcher(rules).denying(ask(text)).length > 0
}

test('the table has every kind of request, numbered without a gap', (t) => {
  t.deepEqual(
    [...KAFKA_API_KEYS.values()].map(({ number }) => number),
    Array.from({ length: 93 }, (_, index) => index),
  )
  t.is(apiKeyOfName('ApiVersions'), 'apiversions')
  t.is(apiKeyOfName('offsets'), 'listoffsets')
  t.is(apiKeyOfName('toString'), undefined)
})

test('roles have Cilium’s kinds of requests, and those that clients need since', (t) => {
  const numbersOf = (role: 'produce' | 'consume') =>
    [...KAFKA_API_KEYS.values()].filter(({ name }) => isOfRole(name, role)).map(({ number }) => number)
  for (const number of [0, 3, 18, 22, 24, 25, 26, 28, 17, 36]) t.true(numbersOf('produce').includes(number), `${number}`)
  for (const number of [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18, 68]) t.true(numbersOf('consume').includes(number), `${number}`)
  t.false(isOfRole('produce', 'consume'))
  t.false(isOfRole('fetch', 'produce'))
  t.false(isOfRole('leaderandisr', 'admin'))
  t.true(isOfRole('createtopics', 'admin'))
})

test('a request is allowed when each of its topics is allowed by some rule', (t) => {
  const rules: KafkaRule[] = [
    { role: 'produce', topic: 'orders' },
    { role: 'produce', topicPrefix: 'dev.' },
    { apiKey: 'fetch', topicPattern: '(a|b)[0-9]' },
  ]
  t.true(allows(rules, 'produce orders'))
  t.true(allows(rules, 'produce orders dev.x'))
  t.false(allows(rules, 'produce orders secret'))
  t.false(allows(rules, 'produce order'))
  t.true(allows(rules, 'consume a1 b2'))
  t.false(allows(rules, 'consume a12'))
  t.deepEqual(new KafkaMatcher(rules).allowing(ask('produce dev.x orders')), rules.slice(0, 2))
})

test('what a request does not name is not asked about, but every topic is', (t) => {
  const rules: KafkaRule[] = [{ role: 'consume', topic: 'orders' }]
  t.true(allows(rules, 'heartbeat g'))
  t.true(allows(rules, 'apiversions'))
  t.false(allows(rules, 'metadata'))
  t.true(allows([{ role: 'consume' }], 'metadata'))
  t.true(allows(rules, 'metadata orders'))
  t.false(allows(rules, 'initproducerid'))
})

test('client and version are exact', (t) => {
  const rules: KafkaRule[] = [{ role: 'produce', clientId: 'shop', apiVersion: 9 }]
  t.true(allows(rules, 'produce a client=shop version=9'))
  t.false(allows(rules, 'produce a client=shop version=8'))
  t.false(allows(rules, 'produce a version=9'))
  t.false(allows(rules, 'produce a client=shop'))
})

test('groups and transactional ids are asked of requests that can name them', (t) => {
  t.true(allows([{ role: 'consume', group: 'g' }], 'joingroup g'))
  t.false(allows([{ role: 'consume', group: 'g' }], 'joingroup h'))
  t.false(allows([{ role: 'consume', group: 'g' }], 'joingroup'))
  t.true(allows([{ role: 'consume', group: 'g' }], 'fetch orders'))
  t.true(allows([{ role: 'consume', group: 'g', topic: 'a' }], 'offsetcommit a group=g'))
  t.false(allows([{ role: 'consume', group: 'g', topic: 'a' }], 'offsetcommit a group=h'))
  t.false(allows([{ role: 'produce', transactionalId: 'x' }], 'produce a'))
  t.true(allows([{ role: 'produce', transactionalId: 'x' }], 'produce a transaction=x'))
  t.true(allows([{ role: 'produce', transactionalId: 'x' }], 'endtxn x'))
})

test('a deny rule denies what has any part that it names, and what may have one', (t) => {
  const rules: KafkaRule[] = [{ topic: 'secret' }]
  t.true(denies(rules, 'produce orders secret'))
  t.false(denies(rules, 'produce orders'))
  t.false(denies(rules, 'heartbeat g'))
  t.true(denies(rules, 'metadata'))
  t.true(denies([{ apiVersion: 3 }], 'produce a'))
  t.false(denies([{ apiVersion: 3 }], 'produce a version=4'))
})

test('a kind of request that no table knows is allowed by rules that ask for nothing only', (t) => {
  const unknown: KafkaRequest = { apiKey: 'shout', topics: [], groups: [] }
  t.is(new KafkaMatcher([{ role: 'produce' }, { topic: 'a' }]).allowing(unknown), undefined)
  t.deepEqual(new KafkaMatcher([{}]).allowing(unknown), [{}])
  t.is(new KafkaMatcher([{ role: 'produce' }, { topic: 'a' }]).denying(unknown).length, 2)
})

test('words that are no request are known', (t) => {
  for (const text of ['', 'shout a', 'produce', 'produce a colour=red', 'produce a version=x', 'apiversions a', 'endtxn a b'])
    t.is(parseKafkaRequest(text), undefined, text)
})

import test from 'ava'
import { TopicCounter } from '#proxy/ext-host/parsing/topic-counter.ts'

const RECORD = { apiKey: 'produce', apiVersion: 9, correlationId: 1, clientId: '', rule: '', isAudited: false, errorCode: 0 }

function counted(counter: TopicCounter): Record<string, string> {
  const rows = counter.report().map(({ apiKey, topic, counts }) => [`${apiKey} ${topic}`, `${counts?.allowed}/${counts?.denied}`])
  return Object.fromEntries(rows) as Record<string, string>
}

test('each topic of a request counts once for its kind', (t) => {
  const counter = new TopicCounter(10)
  counter.count({ ...RECORD, topics: ['a', 'b'], isAllowed: true })
  counter.count({ ...RECORD, topics: ['a'], isAllowed: false })
  counter.count({ ...RECORD, apiKey: 'fetch', topics: ['a'], isAllowed: true })
  t.deepEqual(counted(counter), { 'produce a': '1/1', 'produce b': '1/0', 'fetch a': '1/0' })
})

test('there is room for so many topics, of which those only denied have a quarter; none is lost', (t) => {
  const counter = new TopicCounter(8)
  const count = (topic: string, isAllowed: boolean): void => counter.count({ ...RECORD, topics: [topic], isAllowed })
  for (let index = 0; index < 100; index++) count(`denied-${index}`, false)
  t.deepEqual(counted(counter), { 'produce denied-0': '0/1', 'produce denied-1': '0/1', 'produce ': '0/98' })
  for (let index = 0; index < 100; index++) count(`allowed-${index}`, true)
  const rows = counted(counter)
  t.is(Object.keys(rows).length, 9)
  t.is(rows['produce allowed-5'], '1/0')
  t.is(rows['produce '], '94/98')
})

test('a topic that is allowed in the end leaves its room to others that are denied', (t) => {
  const counter = new TopicCounter(4)
  const count = (topic: string, isAllowed: boolean): void => counter.count({ ...RECORD, topics: [topic], isAllowed })
  count('a', false)
  count('a', true)
  count('a', true)
  count('b', false)
  count('c', false)
  t.deepEqual(counted(counter), { 'produce a': '2/1', 'produce b': '0/1', 'produce ': '0/1' })
})

test('names that no topic has are nobody’s', (t) => {
  const counter = new TopicCounter(10)
  for (const topic of ['\u001b[31mred', 'a b', 'x'.repeat(250), '']) counter.count({ ...RECORD, topics: [topic], isAllowed: true })
  t.deepEqual(counted(counter), { 'produce ': '4/0' })
})

test('with no room at all nothing is counted', (t) => {
  const counter = new TopicCounter(0)
  counter.count({ ...RECORD, topics: ['a'], isAllowed: true })
  t.deepEqual(counter.report(), [])
})

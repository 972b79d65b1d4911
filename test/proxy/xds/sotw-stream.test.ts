import test from 'ava'
import { Snapshot } from '#proxy/xds/snapshot.ts'
import { EXTENSION_CONFIG_TYPE as E, LISTENER_TYPE as L } from '#proxy/xds/type-urls.ts'
import { resource, SotwClient } from '../support/fake-client.ts'

const two = Snapshot.of([resource(L, 'a'), resource(L, 'b')])

function clientOf(snapshot = two) {
  const client = new SotwClient()
  client.stream.onSnapshot(snapshot)
  return client
}

test('listeners come all together, and an acknowledgement is answered with nothing', (t) => {
  const client = clientOf()
  const [response, ...rest] = client.send(L)
  t.is(rest.length, 0)
  t.is(response?.resources.length, 2)
  t.deepEqual(client.acknowledge(response!), [])
  t.deepEqual(
    client.observed.acknowledgedList.map(({ name }) => name),
    ['a', 'b'],
  )
})

test('the same set has the same version on every stream', (t) => {
  const version = (snapshot: Snapshot) => clientOf(snapshot).send(L)[0]?.versionInfo
  t.is(version(two), version(Snapshot.of([resource(L, 'b'), resource(L, 'a')])))
  t.not(version(two), version(two.with({ set: [resource(L, 'a', 'v2')] })))
})

test('a change sends the whole state, a removal leaves out what is gone', (t) => {
  const client = clientOf()
  client.acknowledge(client.send(L)[0]!)
  client.stream.onSnapshot(two.with({ remove: [{ typeUrl: L, name: 'a' }] }))
  const [response] = client.take()
  t.is(response?.resources.length, 1)
  client.acknowledge(response!)
  t.deepEqual(client.observed.acknowledgedList.at(-1), { typeUrl: L, name: 'a', version: undefined })
})

test('a stale nonce is ignored, and the newest counts', (t) => {
  const client = clientOf()
  const [first] = client.send(L)
  client.acknowledge(first!)
  client.stream.onSnapshot(two.with({ set: [resource(L, 'c')] }))
  const [second] = client.take()
  t.deepEqual(client.acknowledge(first!), [])
  t.is(client.observed.ignoredReasons.length, 1)
  client.acknowledge(second!)
  t.deepEqual(client.observed.acknowledgedList.at(-1)?.name, 'c')
})

test('a change that comes while an answer is awaited is sent after it', (t) => {
  const client = clientOf()
  const [first] = client.send(L)
  client.stream.onSnapshot(two.with({ set: [resource(L, 'c')] }))
  t.deepEqual(client.take(), [])
  const [second] = client.acknowledge(first!)
  t.is(second?.resources.length, 3)
})

test('a refusal is told with what was new, and nothing is sent again until something changes', (t) => {
  const client = clientOf()
  client.acknowledge(client.send(L)[0]!)
  client.stream.onSnapshot(two.with({ set: [resource(L, 'a', 'bad')] }))
  const [response] = client.take()
  t.deepEqual(client.refuse(response!), [])
  t.deepEqual(
    client.observed.refusedList[0]?.deliveries.map(({ name }) => name),
    ['a'],
  )
  client.stream.onSnapshot(two.with({ set: [resource(L, 'a', 'good')] }))
  t.is(client.take().length, 1)
})

test('extension configurations come one by one, each after the answer to the one before', (t) => {
  const client = clientOf(Snapshot.of([resource(E, 'x'), resource(E, 'y')]))
  const names = ['x', 'y']
  const [first, ...none] = client.send(E, { resourceNames: names })
  t.is(none.length, 0)
  t.is(first?.resources.length, 1)
  const [second] = client.refuse(first!, names)
  t.is(second?.resources.length, 1)
  t.deepEqual(client.acknowledge(second!, names), [])
  t.deepEqual(
    client.observed.refusedList[0]?.deliveries.map(({ name }) => name),
    ['x'],
  )
  t.deepEqual(
    client.observed.acknowledgedList.map(({ name }) => name),
    ['y'],
  )
})

test('a name that is added is answered, one that does not exist is remembered', (t) => {
  const snapshot = Snapshot.of([resource(E, 'x'), resource(E, 'y')])
  const client = clientOf(snapshot)
  const [first] = client.send(E, { resourceNames: ['x'] })
  const [second] = client.acknowledge(first!, ['x', 'y', 'z'])
  t.is(second?.resources.length, 1)
  t.deepEqual(client.acknowledge(second!, ['x', 'y', 'z']), [])
  client.stream.onSnapshot(snapshot.with({ set: [resource(E, 'z')] }))
  t.is(client.take().length, 1)
})

test('a name that is dropped is told and not sent any more', (t) => {
  const snapshot = Snapshot.of([resource(E, 'x'), resource(E, 'y')])
  const client = clientOf(snapshot)
  let response = client.send(E, { resourceNames: ['x', 'y'] })[0]
  response = client.acknowledge(response!, ['x', 'y'])[0]
  client.acknowledge(response!, ['x'])
  t.deepEqual(client.observed.unsubscribedNames, ['y'])
  client.stream.onSnapshot(snapshot.with({ set: [resource(E, 'y', 'v2')] }))
  t.deepEqual(client.take(), [])
})

test('naming nothing after having named something is nothing, not everything', (t) => {
  const client = clientOf()
  const [first] = client.send(L, { resourceNames: ['a'] })
  t.is(first?.resources.length, 1)
  t.deepEqual(client.acknowledge(first!, []), [])
  client.stream.onSnapshot(two.with({ set: [resource(L, 'c')] }))
  t.deepEqual(client.take(), [])
})

test('* beside names is everything', (t) => {
  const client = clientOf()
  t.is(client.send(L, { resourceNames: ['a', '*'] })[0]?.resources.length, 2)
})

test('nothing is answered before there is a snapshot', (t) => {
  const client = new SotwClient()
  t.deepEqual(client.send(L), [])
  client.stream.onSnapshot(Snapshot.of([]))
  t.is(client.take()[0]?.resources.length, 0)
})

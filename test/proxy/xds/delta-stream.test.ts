import test from 'ava'
import { Snapshot } from '#proxy/xds/snapshot.ts'
import { CLUSTER_TYPE as C, EXTENSION_CONFIG_TYPE as E, LISTENER_TYPE as L } from '#proxy/xds/type-urls.ts'
import { DeltaClient, namesIn, resource, settle } from '../support/fake-client.ts'

const two = Snapshot.of([resource(L, 'a'), resource(L, 'b')])

function wildcardClient(snapshot = two) {
  const client = new DeltaClient()
  client.stream.onSnapshot(snapshot)
  settle(client, client.send(L))
  return client
}

test('a first request that names nothing is for everything, one resource a response', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  const responses = client.send(L)
  t.deepEqual(namesIn(responses), ['a', 'b'])
  t.is(responses.length, 2)
  t.is(new Set(responses.map(({ nonce }) => nonce)).size, 2)
})

test('an explicit * is for everything too', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesSubscribe: ['*'] }))), ['a', 'b'])
})

test('nothing is answered before there is a snapshot, and everything once there is', (t) => {
  const client = new DeltaClient()
  t.deepEqual(client.send(L), [])
  t.deepEqual(client.send(E, { resourceNamesSubscribe: ['x'] }), [])
  client.stream.onSnapshot(two.with({ set: [resource(E, 'x')] }))
  t.deepEqual(namesIn(settle(client)), ['a', 'b', 'x'])
})

test('a wildcard with nothing behind it is answered with nothing, once', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(Snapshot.of([]))
  const [response, ...rest] = client.send(L)
  t.is(rest.length, 0)
  t.deepEqual(namesIn(response === undefined ? [] : [response]), [])
  t.deepEqual(response === undefined ? [] : client.acknowledge(response), [])
})

test('an acknowledgement is answered with nothing, and told once', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  const [first] = client.send(L)
  t.deepEqual(client.acknowledge(first!), [])
  t.deepEqual(
    client.observed.acknowledgedList.map(({ name }) => name),
    ['a'],
  )
  t.deepEqual(client.acknowledge(first!), [])
  t.is(client.observed.acknowledgedList.length, 1)
  t.is(client.observed.ignoredReasons.length, 1)
})

test('only what changed is sent', (t) => {
  const client = wildcardClient()
  client.stream.onSnapshot(two.with({ set: [resource(L, 'b', 'v2'), resource(L, 'a')] }))
  t.deepEqual(namesIn(settle(client)), ['b'])
  client.stream.onSnapshot(two.with({ set: [resource(L, 'b', 'v2')] }))
  t.deepEqual(client.take(), [])
})

test('what is gone is removed, once', (t) => {
  const client = wildcardClient()
  const one = two.with({ remove: [{ typeUrl: L, name: 'a' }] })
  client.stream.onSnapshot(one)
  const removal = client.take()
  t.deepEqual(namesIn(removal), ['-a'])
  client.acknowledge(removal[0]!)
  t.deepEqual(client.observed.acknowledgedList.at(-1), { typeUrl: L, name: 'a', version: undefined })
  client.stream.onSnapshot(one.with({ set: [resource(C, 'x')] }))
  t.deepEqual(client.take(), [])
})

test('a refused resource is not sent again, and its next version is', (t) => {
  const client = wildcardClient()
  const bad = two.with({ set: [resource(L, 'a', 'bad')] })
  client.stream.onSnapshot(bad)
  const [response] = client.take()
  t.deepEqual(client.refuse(response!, 'why'), [])
  t.is(client.observed.refusedList[0]?.reason, 'why')
  t.deepEqual(
    client.observed.refusedList[0]?.deliveries.map(({ name }) => name),
    ['a'],
  )
  client.stream.onSnapshot(bad.with({ set: [resource(L, 'c')] }))
  t.deepEqual(namesIn(settle(client)), ['c'])
  client.stream.onSnapshot(bad.with({ set: [resource(L, 'a', 'good')] }))
  t.true(namesIn(settle(client)).includes('a'))
})

test('a name that is asked for is answered although it was sent already', (t) => {
  const client = wildcardClient()
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesSubscribe: ['a'] }))), ['a'])
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesSubscribe: ['a'] }))), ['a'])
})

test('a name that does not exist is said to be gone, remembered, and sent when it comes', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  t.deepEqual(namesIn(settle(client, client.send(E, { resourceNamesSubscribe: ['x'] }))), ['-x'])
  t.deepEqual(namesIn(settle(client, client.send(E, { resourceNamesSubscribe: ['y'] }))), ['-y'])
  client.stream.onSnapshot(two.with({ set: [resource(E, 'x')] }))
  t.deepEqual(namesIn(settle(client)), ['x'])
  client.stream.onSnapshot(two)
  t.deepEqual(namesIn(settle(client)), ['-x'])
  t.deepEqual(client.send(E), [])
})

test('only named resources are sent to a client that named some', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesSubscribe: ['b'] }))), ['b'])
  client.stream.onSnapshot(two.with({ set: [resource(L, 'a', 'v2'), resource(L, 'c')] }))
  t.deepEqual(client.take(), [])
})

test('names add to a wildcard, and only giving up * ends it', (t) => {
  const client = wildcardClient()
  settle(client, client.send(L, { resourceNamesSubscribe: ['a'] }))
  client.stream.onSnapshot(two.with({ set: [resource(L, 'c')] }))
  t.deepEqual(namesIn(settle(client)), ['c'])
  settle(client, client.send(L, { resourceNamesUnsubscribe: ['*'] }))
  t.deepEqual(client.observed.unsubscribedNames.toSorted(), ['b', 'c'])
  client.stream.onSnapshot(two.with({ set: [resource(L, 'a', 'v2'), resource(L, 'b', 'v2')] }))
  t.deepEqual(namesIn(settle(client)), ['a'])
})

test('a name given up under a wildcard comes again, or its removal', (t) => {
  const client = wildcardClient()
  settle(client, client.send(L, { resourceNamesSubscribe: ['a', 'nothing'] }))
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesUnsubscribe: ['a'] }))), ['a'])
  t.deepEqual(namesIn(settle(client, client.send(L, { resourceNamesUnsubscribe: ['nothing'] }))), ['-nothing'])
})

test('a name given up is not sent any more', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  settle(client, client.send(L, { resourceNamesSubscribe: ['a', 'b'] }))
  t.deepEqual(client.send(L, { resourceNamesUnsubscribe: ['a'] }), [])
  t.deepEqual(client.observed.unsubscribedNames, ['a'])
  client.stream.onSnapshot(Snapshot.of([resource(L, 'a', 'v2'), resource(L, 'b', 'v2')]))
  t.deepEqual(namesIn(settle(client)), ['b'])
})

test('giving up every name is not a wildcard', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  settle(client, client.send(L, { resourceNamesSubscribe: ['a'] }))
  settle(client, client.send(L, { resourceNamesUnsubscribe: ['a'] }))
  t.deepEqual(client.send(L), [])
  client.stream.onSnapshot(two.with({ set: [resource(L, 'c')] }))
  t.deepEqual(client.take(), [])
})

test('a client that comes back is sent only what it does not have, and told what is gone', (t) => {
  const old = wildcardClient()
  const held = Object.fromEntries(old.held.get(L) ?? [])
  const client = new DeltaClient('another seal')
  client.stream.onSnapshot(Snapshot.of([resource(L, 'a'), resource(L, 'c')]))
  const responses = client.send(L, { initialResourceVersions: held })
  t.deepEqual(namesIn(responses).toSorted(), ['-b', 'c'])
  t.deepEqual(
    client.observed.acknowledgedList.map(({ name }) => name),
    ['a', 'b'],
  )
})

test('a client that comes back with named resources is not sent those again', (t) => {
  const client = new DeltaClient()
  const x = resource(E, 'x')
  client.stream.onSnapshot(Snapshot.of([x, resource(E, 'y', 'v2')]))
  const initialResourceVersions = { x: x.version, y: 'old' }
  t.deepEqual(namesIn(settle(client, client.send(E, { resourceNamesSubscribe: ['x', 'y'], initialResourceVersions }))), ['y'])
})

test('versions that a client names later than in its first request of a type count for nothing', (t) => {
  const client = new DeltaClient()
  const x = resource(E, 'x')
  client.stream.onSnapshot(Snapshot.of([x]))
  client.send(E, { resourceNamesSubscribe: ['y'] })
  t.deepEqual(namesIn(client.send(E, { resourceNamesSubscribe: ['x'], initialResourceVersions: { x: x.version } })), ['x'])
})

test('what is used is added before who uses it, and removed after; listeners leave before others come', (t) => {
  const client = new DeltaClient()
  for (const type of [E, L, C]) client.send(type, { resourceNamesSubscribe: ['*'] })
  client.stream.onSnapshot(Snapshot.of([resource(E, 'e'), resource(L, 'l'), resource(C, 'c')]))
  t.deepEqual(namesIn(settle(client)), ['c', 'l', 'e'])
  client.stream.onSnapshot(Snapshot.of([resource(E, 'e2'), resource(L, 'l2'), resource(C, 'c2')]))
  t.deepEqual(namesIn(settle(client)), ['-l', 'c2', 'l2', 'e2', '-e', '-c'])
})

test('a name whose last response is not answered is sent its newest version after that, and only that', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  const [first] = client.send(L)
  for (const content of ['v2', 'v3', 'v4']) client.stream.onSnapshot(two.with({ set: [resource(L, 'a', content)] }))
  t.deepEqual(client.take(), [])
  const next = client.acknowledge(first!)
  t.deepEqual(namesIn(next), ['a'])
  t.is(next[0]?.resources[0]?.version, resource(L, 'a', 'v4').version)
})

test('a nonce of another type or of no response settles nothing', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two.with({ set: [resource(C, 'c')] }))
  const [listener] = client.send(L)
  client.send(C)
  client.send(C, { responseNonce: listener!.nonce })
  client.send(L, { responseNonce: '999' })
  t.deepEqual(client.observed.acknowledgedList, [])
  t.is(client.observed.ignoredReasons.length, 2)
  client.acknowledge(listener!)
  t.is(client.observed.acknowledgedList.length, 1)
})

test('an unknown type is ignored', (t) => {
  const client = new DeltaClient()
  client.stream.onSnapshot(two)
  t.deepEqual(client.send('type.googleapis.com/nothing'), [])
  t.is(client.observed.ignoredReasons.length, 1)
})

test('the client is known from its first message only', (t) => {
  const client = wildcardClient()
  client.send(C)
  t.is(client.observed.connections, 1)
})

test('the same version has other bytes on another stream', (t) => {
  const bytes = (seal: string) => {
    const client = new DeltaClient(seal)
    client.stream.onSnapshot(Snapshot.of([resource(E, 'x')]))
    const [response] = client.send(E)
    return response!.resources[0]!
  }
  t.is(bytes('1').version, bytes('2').version)
  t.notDeepEqual(bytes('1').resource, bytes('2').resource)
})

import test from 'ava'
import { parseWorkloads } from '#agent/workloads/file.ts'
import type { Identity } from '#agent/workloads/identities.ts'
import { NodeAddresses } from '#agent/workloads/node-addresses.ts'
import { addressToBytes } from '#sys/addresses.ts'

const FIRST_ID = 300

/** Everything that node addresses reach, and what they did, in order. */
class World {
  readonly done: string[] = []
  readonly addresses = new Map<string, number>()
  readonly nodes: NodeAddresses
  hostAddresses: readonly string[] = ['10.0.0.1']
  readonly #identities: Identity[] = []

  constructor(name = 'here', matchesPrefixes = false) {
    const { addresses, done } = this
    this.nodes = new NodeAddresses({
      name,
      matchesPrefixes,
      host: { addresses: () => this.hostAddresses.map((text) => ({ bytes: addressToBytes(text) })) as never },
      ipcache: {
        set: (address, source, id) => {
          done.push(`${address} is ${id}`)
          if (source === 'node') addresses.set(address, id)
        },
        delete: (address) => {
          done.push(`${address} is nobody`)
          addresses.delete(address)
        },
      },
      allocator: { allocate: (labels) => this.#allocate(labels) },
      engine: {
        upsertIdentity: ({ id, labels }) => {
          done.push(`${id} has ${[...labels].join(' ')}`)
        },
        removeIdentity: (id) => {
          done.push(`${id} goes`)
        },
      },
      commit: () => {
        done.push('commit')
      },
    })
  }

  /** @returns what was done, in order */
  refresh(rest: string): readonly string[] {
    this.nodes.refresh(parseWorkloads(`apiVersion: headgate.io/v1\n${rest}\n`, 'w.yaml'))
    return this.done.splice(0)
  }

  /** Labels of addresses, as `address label…`. */
  list(): string[] {
    return this.nodes
      .list()
      .map(({ address, labels }) => `${address} ${labels.join(' ')}`)
      .sort()
  }

  #allocate(labels: readonly string[]): Identity {
    const known = this.#identities.find((identity) => identity.labels.join() === labels.join())
    if (known !== undefined) return known
    const identity = { id: FIRST_ID + this.#identities.length, labels }
    this.#identities.push(identity)
    return identity
  }
}

test('addresses of this machine are the host, those of nodes without labels remote nodes', (t) => {
  const world = new World()
  t.deepEqual(world.refresh('nodes: [{name: there, addresses: [10.0.0.2, "fd00:0:0::2"]}]'), [
    '10.0.0.2 is 6',
    'fd00::2 is 6',
    '10.0.0.1 is 1',
  ])
  t.deepEqual(world.list(), ['10.0.0.1 reserved:host', '10.0.0.2 reserved:remote-node', 'fd00::2 reserved:remote-node'])
  t.deepEqual(world.refresh('nodes: [{name: there, addresses: [10.0.0.2]}]'), ['fd00::2 is nobody'])
})

test('nodes with the same labels share an identity, whose rows come before its addresses', (t) => {
  const world = new World()
  const done = world.refresh(`nodes:
  - {name: a, labels: {zone: east, kind: ""}, addresses: [10.0.0.2]}
  - {name: b, labels: {kind: "", zone: east}, addresses: [10.0.0.3]}
  - {name: c, labels: {zone: west}, addresses: [10.0.0.4]}`)
  t.deepEqual(done, [
    '300 has node:kind node:zone=east reserved:remote-node',
    '301 has node:zone=west reserved:remote-node',
    'commit',
    '10.0.0.2 is 300',
    '10.0.0.3 is 300',
    '10.0.0.4 is 301',
    '10.0.0.1 is 1',
  ])
  t.deepEqual(
    world.nodes.identities().map(({ id }) => id),
    [1, 300, 301],
  )
})

test('an identity that no node has any more goes after its addresses', (t) => {
  const world = new World()
  world.refresh('nodes: [{name: a, labels: {zone: east}, addresses: [10.0.0.2]}]')
  t.deepEqual(world.refresh('nodes: [{name: a, labels: {zone: west}, addresses: [10.0.0.2]}]'), [
    '301 has node:zone=west reserved:remote-node',
    'commit',
    '10.0.0.2 is 301',
    '300 goes',
    'commit',
  ])
  t.deepEqual(world.refresh('nodes: [{name: a, labels: {zone: west}, addresses: [10.0.0.2]}]'), [])
  t.deepEqual(world.refresh('nodes: []'), ['10.0.0.2 is nobody', '301 goes', 'commit'])
})

test('labels of this node are on the host, and its addresses in the file are the host’s', (t) => {
  const world = new World()
  const text = 'nodes: [{name: here, labels: {zone: east}, addresses: [10.0.0.1, 192.0.2.1]}]'
  t.deepEqual(world.refresh(text), ['1 has node:zone=east reserved:host', 'commit', '10.0.0.1 is 1', '192.0.2.1 is 1'])
  t.deepEqual(world.nodes.hostLabels, ['node:zone=east', 'reserved:host'])
  // Without addresses too.
  t.deepEqual(new World().refresh('nodes: [{name: here, labels: {zone: east}}]'), [
    '1 has node:zone=east reserved:host',
    'commit',
    '10.0.0.1 is 1',
  ])
  t.deepEqual(world.refresh('nodes: []'), ['1 has reserved:host', 'commit', '192.0.2.1 is nobody'])
})

test('the API server is known by its addresses, on a node with the node’s labels', (t) => {
  const world = new World()
  world.refresh(`nodes: [{name: a, addresses: [10.0.0.2]}, {name: b, labels: {zone: east}, addresses: [10.0.0.3]}]
kubeApiserver: [10.0.0.2, 10.0.0.3, 203.0.113.1]`)
  t.deepEqual(world.list(), [
    '10.0.0.1 reserved:host',
    '10.0.0.2 reserved:kube-apiserver reserved:remote-node',
    '10.0.0.3 node:zone=east reserved:kube-apiserver reserved:remote-node',
    '203.0.113.1 cidr:203.0.113.1/32 reserved:kube-apiserver reserved:world',
  ])
  t.deepEqual(world.refresh('kubeApiserver: [10.0.0.1]').slice(0, 2), ['1 has reserved:host reserved:kube-apiserver', 'commit'])
  t.deepEqual(world.list(), ['10.0.0.1 reserved:host reserved:kube-apiserver'])
})

test('an address that this machine gains or loses changes its owner', (t) => {
  const world = new World()
  world.refresh('nodes: [{name: a, addresses: [10.0.0.2]}]')
  world.hostAddresses = ['10.0.0.1', '10.0.0.2']
  t.deepEqual(world.refresh('nodes: [{name: a, addresses: [10.0.0.2]}]'), ['10.0.0.2 is 1'])
  world.hostAddresses = ['10.0.0.1']
  t.deepEqual(world.refresh('nodes: [{name: a, addresses: [10.0.0.2]}]'), ['10.0.0.2 is 6'])
})

test('with prefixes that match nodes, each address of one is an identity that they cover, and so is this machine', (t) => {
  const world = new World('here', true)
  world.hostAddresses = ['10.0.0.1', '192.0.2.1']
  world.refresh('nodes: [{name: a, labels: {zone: east}, addresses: [10.0.0.2, 10.0.0.3]}]')
  const host = 'cidr:10.0.0.1/32 cidr:192.0.2.1/32 reserved:host'
  t.deepEqual(world.list(), [
    `10.0.0.1 ${host}`,
    '10.0.0.2 cidr:10.0.0.2/32 node:zone=east reserved:remote-node',
    '10.0.0.3 cidr:10.0.0.3/32 node:zone=east reserved:remote-node',
    `192.0.2.1 ${host}`,
  ])
})

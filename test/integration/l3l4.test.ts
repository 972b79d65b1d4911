import { join } from 'node:path'
import test from 'ava'
import { type Machine, ROOT, type Workload } from '../support/machine.ts'
import { policyOf, withMachine } from '../support/running.ts'
import { connectTcp, listenTcp, TcpPeer } from '../support/tcp.ts'

async function opens(machine: Machine, from: Workload, to: string, port: number): Promise<boolean> {
  const connection = connectTcp(machine, from, to, port)
  const opened = await connection.saw('open', 800).then(
    () => true,
    () => false,
  )
  connection.child.kill('SIGKILL')
  return opened
}

const UDP_PEER = join(ROOT, 'test/support/udp-peer.mjs')
const NODE = join(ROOT, 'bin/node')

async function listenUdp(machine: Machine, workload: Workload, port: number): Promise<void> {
  await new TcpPeer(machine.start(workload.netns, [NODE, UDP_PEER, 'listen', String(port)])).saw('listening', 5000)
}

async function asksUdp(machine: Machine, from: Workload, to: string, port: number, localPort = 0): Promise<boolean> {
  return (await machine.run(from.netns, [NODE, UDP_PEER, 'ask', to, String(port), String(localPort)])).code === 0
}

async function pings(machine: Machine, from: Workload, to: string): Promise<boolean> {
  return (await machine.run(from.netns, ['ping', '-n', '-c', '1', '-W', '1', to])).code === 0
}

const ports = (...list: readonly [port: string, protocol?: string, endPort?: number][]): object[] => [
  {
    ports: list.map(([port, protocol, endPort]) => ({
      port,
      ...(protocol === undefined ? {} : { protocol }),
      ...(endPort === undefined ? {} : { endPort }),
    })),
  },
]
const from = (app: string): object[] => [{ matchLabels: { app } }]

test.serial('peers, ports, ranges and protocols are told apart, and deny beats allow', async (t) => {
  await withMachine(async (machine, headgate) => {
    const a = machine.addWorkload('a')
    const b = machine.addWorkload('b')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    for (const port of [80, 81, 90, 95, 99, 443]) await listenTcp(machine, server, port)
    await listenUdp(machine, server, 53)
    await listenUdp(machine, server, 80)
    headgate.start()
    await headgate.apply(
      'server.json',
      policyOf('server', 'server', {
        ingress: [
          { fromEndpoints: from('a') },
          { fromEndpoints: from('b'), toPorts: ports(['90', 'TCP', 97], ['53', 'UDP']) },
          { toPorts: ports(['443', 'TCP']) },
        ],
        ingressDeny: [
          { fromEndpoints: from('a'), toPorts: ports(['81', 'TCP'], ['95', 'TCP', 99]) },
          { fromEndpoints: from('b'), toPorts: ports(['95']) },
        ],
      }),
    )
    const { address } = server
    const tcp = async (who: Workload): Promise<number[]> => {
      const open: number[] = []
      for (const port of [80, 81, 90, 95, 99, 443]) if (await opens(machine, who, address, port)) open.push(port)
      return open
    }
    t.deepEqual(await tcp(a), [80, 90, 443])
    t.deepEqual(await tcp(b), [90, 443])
    t.true(await asksUdp(machine, a, address, 80))
    t.true(await asksUdp(machine, b, address, 53))
    t.false(await asksUdp(machine, b, address, 80))
    t.true(await pings(machine, a, address), 'a rule about peers alone covers ICMP')
    t.false(await pings(machine, b, address))
    t.true((await headgate.dropped('policy-deny-rule')) > 0)
  })
})

test.serial('replies pass without a rule of their own, and only as long as policy supports their connection', async (t) => {
  await withMachine(async (machine, headgate) => {
    const a = machine.addWorkload('a')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await listenUdp(machine, server, 53)
    headgate.start()
    const closed = policyOf('closed', 'a', { ingress: [{}] })
    await headgate.apply('a.json', closed, policyOf('out', 'a', { egress: [{ toEndpoints: from('server') }] }))
    t.true(await asksUdp(machine, a, server.address, 53, 5000))
    t.true(await pings(machine, a, server.address))
    // The entry is still there; the rule behind it is not.
    await headgate.apply('a.json', closed, policyOf('out', 'a', { egress: [{ toEndpoints: from('nobody') }] }))
    t.false(await asksUdp(machine, a, server.address, 53, 5000))
    // Nor may the server start on its own where it only ever answered.
    await headgate.apply('a.json', closed, policyOf('out', 'a', { egress: [{ toEndpoints: from('server') }] }))
    await listenUdp(machine, a, 6000)
    t.false(await asksUdp(machine, server, a.address, 6000))
  })
})

test.serial('the world is told apart by prefix, with exceptions; endpoints are no part of it', async (t) => {
  await withMachine(async (machine, headgate) => {
    const a = machine.addWorkload('a')
    const b = machine.addWorkload('b')
    const near = machine.addNeighbour('near', '10.88.0.1', '10.88.0.2')
    const far = machine.addNeighbour('far', '10.89.0.1', '10.89.0.2')
    machine.inHost(
      'nft',
      'add table ip n; add chain ip n post { type nat hook postrouting priority 100; }; add rule ip n post oifname { "nnear", "nfar" } masquerade',
    )
    machine.writeWorkloads()
    for (const workload of [b, near, far]) await listenTcp(machine, workload, 80)
    headgate.start()
    const reaches = async (): Promise<string[]> => {
      const found: string[] = []
      for (const { name, address } of [b, near, far, { name: 'host', address: '10.88.0.1' }]) {
        if (await opens(machine, a, address, 80)) found.push(name)
      }
      return found
    }
    await listenTcp(machine, { ...a, name: 'host', netns: machine.hostNetns }, 80)
    const egress = async (peers: object): Promise<string[]> => {
      await headgate.apply('a.json', policyOf('a', 'a', { egress: [peers] }))
      return await reaches()
    }
    t.deepEqual(await egress({ toCIDR: ['10.88.0.0/24'] }), ['near'])
    t.deepEqual(await egress({ toCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.88.0.0/16'] }] }), ['far'])
    t.deepEqual(await egress({ toCIDR: ['0.0.0.0/0'] }), ['near', 'far'])
    t.deepEqual(await egress({ toEntities: ['world'] }), ['near', 'far'])
    t.deepEqual(await egress({ toEntities: ['cluster'] }), ['b', 'host'])
    t.deepEqual(await egress({ toEntities: ['host'] }), ['host'])
    t.deepEqual(await egress({ toEntities: ['all'] }), ['b', 'near', 'far', 'host'])
    await headgate.apply('a.json', policyOf('a', 'a', { egress: [{ toEntities: ['all'] }], egressDeny: [{ toCIDR: ['10.89.0.0/24'] }] }))
    t.deepEqual(await reaches(), ['b', 'near', 'host'])
    await headgate.apply('a.json', policyOf('a', 'a', { egressDeny: [{ toCIDR: ['10.89.0.0/24'] }], enableDefaultDeny: { egress: false } }))
    t.deepEqual(await reaches(), ['b', 'near', 'host'])
  })
})

test.serial('allow-localhost always lets the host in whatever policy says', async (t) => {
  await withMachine(async (machine, headgate) => {
    const server = machine.addWorkload('server')
    machine.addNeighbour('near', '10.88.0.1', '10.88.0.2')
    machine.setConfig({ policy: { allowLocalhost: 'always' } })
    machine.writeWorkloads()
    await listenTcp(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{}] }))
    t.true(await opens(machine, { ...server, netns: machine.hostNetns }, server.address, 80))
  })
})

import test, { type ExecutionContext } from 'ava'
import { startLoad } from '../support/load.ts'
import { ip, type Machine, type Workload } from '../support/machine.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

/** Three seconds of allowed and denied requests, each answer checked. */
async function assertLoad(t: ExecutionContext, machine: Machine, client: Workload, server: Workload): Promise<void> {
  const load = await startLoad(machine, client, `http://${server.address}`, 3, 100)
  const result = await load.result
  t.deepEqual([result.failed, result.wronglyAllowed, result.wronglyDenied], [0, 0, 0], result.samples.join('\n'))
  t.true(result.allowed > 150 && result.denied > 50)
}

const INGRESS = rule('ingress', 'client', 80, [{ path: '/allowed.*' }])
const EGRESS = rule('egress', 'server', 80, [{ path: '/.*' }])

test.serial('a host firewall that drops INPUT and FORWARD, without forwarding, does not touch redirected traffic', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    machine.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=0', 'net.ipv4.conf.all.rp_filter=1')
    machine.inHost(
      'nft',
      'add table inet f; add chain inet f input { type filter hook input priority 0; policy drop; }; add chain inet f forward { type filter hook forward priority 0; policy drop; }',
    )
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('all.json', policyOf('server', 'server', INGRESS), policyOf('client', 'client', EGRESS))
    await assertLoad(t, machine, client, server)
  })
})

test.serial('traffic to the world leaves as the workload’s own: masqueraded by the host, under strict rp_filter', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const world = machine.addNeighbour('world', '10.88.0.1', '10.88.0.2')
    machine.writeWorkloads()
    machine.inHost('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1')
    machine.inHost(
      'nft',
      'add table ip n; add chain ip n post { type nat hook postrouting priority 100; }; add rule ip n post oifname "nworld" ip saddr 10.70.0.0/24 masquerade',
    )
    await serve(machine, world, 80)
    headgate.start()
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [
          { toCIDR: ['10.88.0.0/24'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/allowed.*' }] } }] },
        ],
      }),
    )
    const answer = await get(machine, client, `http://${world.address}/allowed`)
    t.is((JSON.parse(answer.body) as { peer: string }).peer, '10.88.0.1')
    await assertLoad(t, machine, client, world)
  })
})

test.serial('a client of the world meets the workload’s ingress rules, and its address is kept', async (t) => {
  await withMachine(async (machine, headgate) => {
    const server = machine.addWorkload('server')
    const world = machine.addNeighbour('world', '10.88.0.1', '10.88.0.2')
    ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply(
      'server.json',
      policyOf('server', 'server', {
        ingress: [
          { fromEntities: ['world'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/allowed.*' }] } }] },
        ],
      }),
    )
    const answer = await get(machine, world, `http://${server.address}/allowed`)
    t.is((JSON.parse(answer.body) as { peer: string }).peer, world.address)
    await assertLoad(t, machine, world, server)
  })
})

test.serial('the host itself meets the workload’s ingress rules', async (t) => {
  await withMachine(async (machine, headgate) => {
    const server = machine.addWorkload('server')
    machine.addNeighbour('world', '10.88.0.1', '10.88.0.2')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    const host: Workload = { name: 'host', netns: machine.hostNetns, address: '10.88.0.1', device: '' }
    await headgate.apply(
      'server.json',
      policyOf('server', 'server', {
        ingress: [
          { fromEntities: ['host'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/allowed.*' }] } }] },
        ],
      }),
    )
    await assertLoad(t, machine, host, server)
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{}] }))
    t.is((await get(machine, host, `http://${server.address}/allowed`)).status, 0)
  })
})

test.serial('workloads on a bridge are judged by both proxies, and so is one side alone', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addBridgedWorkload('client')
    const server = machine.addBridgedWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('all.json', policyOf('server', 'server', INGRESS), policyOf('client', 'client', EGRESS))
    await assertLoad(t, machine, client, server)
    await headgate.apply('all.json', policyOf('server', 'server', INGRESS))
    await assertLoad(t, machine, client, server)
    await headgate.apply('all.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/allowed.*' }])))
    await assertLoad(t, machine, client, server)
  })
})

test.serial('a bridged workload’s traffic to the world takes the way that its own would', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addBridgedWorkload('client')
    const world = machine.addNeighbour('world', '10.88.0.1', '10.88.0.2')
    machine.writeWorkloads()
    machine.inHost(
      'nft',
      'add table ip n; add chain ip n post { type nat hook postrouting priority 100; }; add rule ip n post oifname "nworld" masquerade',
    )
    await serve(machine, world, 80)
    headgate.start()
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [
          { toEntities: ['world'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/allowed.*' }] } }] },
        ],
      }),
    )
    await assertLoad(t, machine, client, world)
  })
})

test.serial('an overlay with a smaller MTU: frag-needed reaches the proxy’s sockets, and large bodies pass', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const node = machine.addNeighbour('node2', '10.99.0.1', '10.99.0.2')
    // A second node with a workload behind it, reached through a tunnel that is narrower than the workloads think.
    machine.inHost(
      'ip',
      'link',
      'add',
      'vx0',
      'mtu',
      '1400',
      'type',
      'vxlan',
      'id',
      '7',
      'remote',
      '10.99.0.2',
      'local',
      '10.99.0.1',
      'dstport',
      '4789',
    )
    machine.inHost('ip', 'link', 'set', 'vx0', 'up')
    machine.inHost('ip', 'addr', 'add', '10.73.0.1/24', 'dev', 'vx0')
    const inside = ['-n', node.netns]
    ip(
      ...inside,
      'link',
      'add',
      'vx0',
      'mtu',
      '1400',
      'type',
      'vxlan',
      'id',
      '7',
      'remote',
      '10.99.0.1',
      'local',
      '10.99.0.2',
      'dstport',
      '4789',
    )
    ip(...inside, 'link', 'set', 'vx0', 'up')
    // The server's own device has the usual MTU: it announces segments that do not fit the tunnel.
    ip(...inside, 'addr', 'add', '10.73.0.2/24', 'dev', 'vx0')
    ip(...inside, 'link', 'add', 'srv', 'type', 'bridge')
    ip(...inside, 'addr', 'add', '10.74.0.2/32', 'dev', 'srv')
    ip(...inside, 'link', 'set', 'srv', 'up')
    ip(...inside, 'route', 'add', '10.70.0.0/24', 'via', '10.73.0.1', 'advmss', '1460')
    machine.inHost('ip', 'route', 'add', '10.74.0.0/24', 'via', '10.73.0.2')
    machine.writeWorkloads()
    await serve(machine, { ...node, address: '10.74.0.2' }, 80)
    headgate.start()
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [
          { toCIDR: ['10.74.0.0/24'], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/allowed.*' }] } }] },
        ],
      }),
    )
    const upload = await machine.run(client.netns, [
      'sh',
      '-c',
      'head -c 3000000 /dev/zero | curl -s -m 10 -o /dev/null -w "%{http_code}" --data-binary @- http://10.74.0.2/allowed',
    ])
    t.is(upload.stdout, '200')
    const sockets = (await machine.run(`${machine.id}-egress`, ['ss', '-Htin', 'dst', '10.74.0.2'])).stdout
    t.regex(sockets, /pmtu:1400/)
    await assertLoad(t, machine, client, { ...node, address: '10.74.0.2' })
  })
})

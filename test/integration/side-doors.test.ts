import { readFileSync } from 'node:fs'
import test from 'ava'
import { BPF_TCX_EGRESS, BPF_TCX_INGRESS } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { attachToDevice, loadProgram } from '../support/bpf-program.ts'
import { ethernet, ipv4Packet, macBytes, sendFrame, TCP_ACK, TCP_PSH, TCP_SYN, tcpFrame } from '../support/frames.ts'
import { ip, Machine, type Workload } from '../support/machine.ts'
import { get, policyOf, Running, rule, serve, withMachine } from '../support/running.ts'
import { connectTcp, listenTcp } from '../support/tcp.ts'

const TCX_PASS = 0

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  readonly server: Workload
  readonly attacker: Workload
}

/** client may GET /allowed of server through both proxies; attacker is under enforcement and may do nothing. */
async function withScene(run: (scene: Scene) => Promise<void>): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    const attacker = machine.addWorkload('attacker')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply(
      'all.json',
      policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])),
      policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])),
      policyOf('attacker', 'attacker', { ingress: [{}], egress: [{}] }),
    )
    await run({ machine, headgate, client, server, attacker })
  })
}

function macOf(netns: string, device: string): string {
  const [link] = JSON.parse(ip('-n', netns, '-j', 'link', 'show', device)) as { address: string }[]
  return link?.address ?? ''
}

/** Counts what a step adds to a drop reason. */
async function dropsOf(headgate: Running, reason: string, step: () => void | Promise<void>): Promise<number> {
  const before = await headgate.dropped(reason)
  await step()
  return (await headgate.dropped(reason)) - before
}

test.serial('a frame with the source address of another workload goes nowhere', async (t) => {
  await withScene(async ({ headgate, machine, client, server, attacker }) => {
    const frame = tcpFrame({
      destinationMac: macOf(machine.hostNetns, attacker.device),
      source: client.address,
      destination: server.address,
      sourcePort: 4444,
      destinationPort: 80,
      flags: TCP_SYN,
    })
    t.is(await dropsOf(headgate, 'spoofed-source', () => sendFrame(attacker.netns, 'eth0', frame)), 1)
  })
})

test.serial('an ARP message in the name of another is dropped', async (t) => {
  await withScene(async ({ headgate, machine, client, attacker }) => {
    const host = macOf(machine.hostNetns, attacker.device)
    const own = macOf(attacker.netns, 'eth0')
    const arp = (sender: string): Buffer =>
      ethernet(
        host,
        own,
        0x0806,
        Buffer.concat([
          Buffer.from([0, 1, 8, 0, 6, 4, 0, 2]),
          macBytes(own),
          Buffer.from(sender.split('.').map(Number)),
          macBytes(host),
          Buffer.from([169, 254, 1, 1]),
        ]),
      )
    t.is(await dropsOf(headgate, 'spoofed-arp', () => sendFrame(attacker.netns, 'eth0', arp(client.address))), 1)
    t.is(await dropsOf(headgate, 'spoofed-arp', () => sendFrame(attacker.netns, 'eth0', arp(attacker.address))), 0)
  })
})

test.serial('marks that a workload sets count for nothing', async (t) => {
  await withScene(async ({ headgate, machine, server, attacker }) => {
    const frame = tcpFrame({
      destinationMac: macOf(machine.hostNetns, attacker.device),
      source: attacker.address,
      destination: server.address,
      sourcePort: 4444,
      destinationPort: 80,
      flags: TCP_SYN,
    })
    for (const mark of [0x48470001, 1, 8, 0x4e200011]) {
      t.is(await dropsOf(headgate, 'policy-denied', () => sendFrame(attacker.netns, 'eth0', frame, mark)), 1)
    }
  })
})

test.serial('frames that somebody on the host writes to the devices of the legs enter no proxy, whatever their mark', async (t) => {
  await withScene(async ({ headgate, machine, client, server }) => {
    const connection = connectTcp(machine, client, server.address, 80, 4001)
    await connection.saw('open')
    const legs = (JSON.parse(machine.inHost('ip', '-j', 'link')) as { ifname: string }[])
      .map(({ ifname }) => ifname)
      .filter((name) => /-(ea|eu|ia|iu)$/.test(name))
    t.is(legs.length, 4)
    for (const leg of legs) {
      for (const mark of [0, 1, 2, 3, 4, 8, (20000 << 16) | (1 << 4) | 1]) {
        const frame = tcpFrame({
          destinationMac: 'ff:ff:ff:ff:ff:ff',
          source: client.address,
          destination: server.address,
          sourcePort: 4001,
          destinationPort: 80,
          flags: TCP_ACK | TCP_PSH,
          payload: Buffer.from('x'),
        })
        t.is(await dropsOf(headgate, 'leg-unexpected', () => sendFrame(machine.hostNetns, leg, frame, mark)), 1, `${leg} ${mark}`)
      }
    }
    t.false(connection.lines.includes('closed'))
  })
})

test.serial('a segment from the host with the tuple of a workload’s redirected connection does not reach the workload', async (t) => {
  await withScene(async ({ headgate, machine, client, server }) => {
    const connection = connectTcp(machine, client, server.address, 80, 4002)
    await connection.saw('open')
    const forged = tcpFrame({
      destinationMac: macOf(client.netns, 'eth0'),
      source: server.address,
      destination: client.address,
      sourcePort: 80,
      destinationPort: 4002,
      flags: 4 | TCP_ACK,
    })
    t.is(await dropsOf(headgate, 'proxied-tuple', () => sendFrame(machine.hostNetns, client.device, forged)), 1)
    t.false(connection.lines.includes('closed'))
  })
})

test.serial('a SYN with the tuple of an open connection does not disturb it', async (t) => {
  await withScene(async ({ machine, client, server }) => {
    const connection = connectTcp(machine, client, server.address, 80, 4003)
    await connection.saw('open')
    const syn = tcpFrame({
      destinationMac: macOf(machine.hostNetns, client.device),
      source: client.address,
      destination: server.address,
      sourcePort: 4003,
      destinationPort: 80,
      flags: TCP_SYN,
      sequence: 77,
    })
    sendFrame(client.netns, 'eth0', syn)
    connection.write('GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n')
    await connection.saw('data HTTP/1.1 200')
    t.pass()
  })
})

test.serial('a slot’s port cannot be dialled, from anywhere, and nothing loops', async (t) => {
  await withScene(async ({ machine, headgate, client, server }) => {
    await headgate.apply(
      'all.json',
      policyOf('client', 'client', {
        egress: [{ toEntities: ['all'], toPorts: [{ ports: [{ port: '1', endPort: 65535, protocol: 'TCP' }], rules: { http: [{}] } }] }],
      }),
    )
    const { slotCount } = await headgate.status()
    t.true(slotCount > 0)
    const hostAddress = '10.71.0.1'
    machine.inHost('ip', 'addr', 'add', `${hostAddress}/32`, 'dev', 'lo')
    for (const port of [20000, 20001, 20002]) {
      for (const address of [hostAddress, '127.0.0.1'])
        t.is((await machine.run(machine.hostNetns, ['curl', '-s', '-m', '1', `http://${address}:${port}/`])).code, 7)
      for (const address of [server.address, hostAddress]) t.not((await get(machine, client, `http://${address}:${port}/`)).status, 200)
    }
    t.is(await headgate.dropped('no-listener'), 0)
  })
})

test.serial('a squatter on a slot’s port gets nobody’s connections while Envoy is down', async (t) => {
  await withScene(async ({ machine, headgate, client, server }) => {
    await headgate.kill('envoy')
    const egress = `${machine.id}-egress`
    const squatters = await Promise.all([20000, 20001, 20002].map((port) => listenTcp(machine, { ...client, netns: egress }, port)))
    t.is((await get(machine, client, `http://${server.address}/allowed`, '-m', '1')).status, 0)
    t.true((await headgate.dropped('wrong-socket')) > 0)
    for (const { lines } of squatters) t.deepEqual(lines, ['listening'])
  })
})

test.serial('a program on the workload’s device that passes all packets for good does not lead past policy', async (t) => {
  const machine = new Machine()
  const headgate = new Running(machine)
  const passer = loadProgram('tc', 'passer', TCX_PASS)
  const links: number[] = []
  try {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    machine.writeWorkloads()
    for (const workload of [client, server]) {
      for (const hook of [BPF_TCX_INGRESS, BPF_TCX_EGRESS]) links.push(attachToDevice(machine, workload, passer, hook))
    }
    await serve(machine, server, 80)
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'nobody', 80)))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'nobody', 80)))
    t.is((await get(machine, server, `http://${client.address}:81/`, '-m', '0.5')).status, 0)
    const drops = await headgate.dropped('policy-denied')
    t.is((await get(machine, client, `http://${server.address}/`, '-m', '0.5')).status, 0)
    t.true((await headgate.dropped('policy-denied')) > drops)
  } finally {
    for (const descriptor of [...links, passer]) close(descriptor)
    headgate.close()
    await machine.dispose()
  }
})

test.serial('an address that goes to another workload inherits nothing', async (t) => {
  await withScene(async ({ machine, headgate, client, server }) => {
    const url = `http://${server.address}/allowed`
    t.is((await get(machine, client, url)).status, 200)
    machine.removeWorkload('client')
    const heir = machine.addWorkload('heir', client.address)
    machine.writeWorkloads()
    await headgate.waitForEndpoint('heir')
    t.is((await get(machine, heir, url)).status, 0)
    const sockets = (await machine.run(`${machine.id}-egress`, ['ss', '-Htn'])).stdout
    t.false(sockets.includes(client.address), sockets)
  })
})

test.serial('an ICMP error carries nothing to anybody but the sender of the packet that it quotes', async (t) => {
  await withScene(async ({ machine, headgate, client, server, attacker }) => {
    const connection = connectTcp(machine, client, server.address, 80, 4004)
    await connection.saw('open')
    // What the client's own connection receives, quoted in a message to somebody else.
    const quoted = ipv4Packet(
      6,
      server.address,
      client.address,
      Buffer.concat([Buffer.from([0, 80, 4004 >>> 8, 4004 & 0xff]), Buffer.alloc(600, 7)]),
    )
    const error = (destination: string): Buffer =>
      ethernet(
        macOf(machine.hostNetns, client.device),
        macOf(client.netns, 'eth0'),
        0x0800,
        ipv4Packet(1, client.address, destination, Buffer.concat([Buffer.from([3, 3, 0, 0, 0, 0, 0, 0]), quoted])),
      )
    t.is(await dropsOf(headgate, 'icmp-unrelated', () => sendFrame(client.netns, 'eth0', error(attacker.address))), 1)
    t.is(await dropsOf(headgate, 'icmp-unrelated', () => sendFrame(client.netns, 'eth0', error(server.address))), 0)
    t.false(connection.lines.includes('closed'))
  })
})

test.serial(
  'what is not plain IPv4, or of a protocol that no rule allows, is dropped under enforcement, each with its reason',
  async (t) => {
    await withScene(async ({ machine, headgate, server, attacker }) => {
      const host = macOf(machine.hostNetns, attacker.device)
      const own = macOf(attacker.netns, 'eth0')
      const send = (type: number, payload: Buffer) => () => sendFrame(attacker.netns, 'eth0', ethernet(host, own, type, payload))
      const packet = (protocol: number, fragment = 0): Buffer =>
        ipv4Packet(protocol, attacker.address, server.address, Buffer.alloc(24), fragment)
      t.is(await dropsOf(headgate, 'fragment', send(0x0800, packet(17, 0x2000))), 1)
      t.is(await dropsOf(headgate, 'fragment', send(0x0800, packet(17, 0x0010))), 1)
      t.is(await dropsOf(headgate, 'policy-denied', send(0x0800, packet(47))), 1)
      t.is(await dropsOf(headgate, 'vlan', send(0x8100, Buffer.alloc(40))), 1)
      t.is(await dropsOf(headgate, 'unknown-ethertype', send(0x88cc, Buffer.alloc(40))), 1)
      t.is(await dropsOf(headgate, 'malformed', send(0x0800, Buffer.from([0x41, 0, 0, 20]))), 1)
      t.true((await dropsOf(headgate, 'ipv6-unsupported', send(0x86dd, Buffer.alloc(60)))) >= 1)
      t.is(await dropsOf(headgate, 'invalid-address', send(0x0800, ipv4Packet(17, attacker.address, '127.0.0.1', Buffer.alloc(24)))), 1)
    })
  },
)

test.serial('the settings of the host are as they were', async (t) => {
  await withScene(async ({ machine }) => {
    t.is(machine.inHost('ip', 'rule').trim().split('\n').length, 3)
    t.is(machine.inHost('cat', '/proc/sys/net/ipv4/conf/all/rp_filter'), machine.initialRpFilter)
    t.false(readFileSync('/proc/net/dev', 'utf8').includes(machine.id))
  })
})

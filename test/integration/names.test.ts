/** Names in policy: what makes queries pass the DNS process, and what a name opens and closes. */
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { dig, startDnsmasq } from '../support/dnsmasq.ts'
import { ip, type Machine, type Workload } from '../support/machine.ts'
import { get, policyOf, type Running, serve, withMachine } from '../support/running.ts'

const WORLD = ['10.88.0.2', '10.88.0.3', '10.88.0.4'] as const
const HTTP = [{ ports: [{ port: '80', protocol: 'TCP' }] }]
const TO_DNS = { toEndpoints: [{ matchLabels: { app: 'dns' } }], toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }] }] }

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  ask(name: string): Promise<string>
  reaches(address: string): Promise<boolean>
}

/** A client, a name server that is a workload, and three servers of the world: api, ads and both.test, which has the addresses of both. */
async function withNames(run: (scene: Scene) => Promise<void>): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    const world = machine.addNeighbour('world', '10.88.0.1', WORLD[0])
    for (const address of WORLD.slice(1)) ip('-n', world.netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
    ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
    machine.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=1')
    await serve(machine, world, 80)
    machine.writeWorkloads()
    const records = [`--host-record=api.test,${WORLD[0]}`, `--host-record=ads.test,${WORLD[1]}`, '--cname=www.ads.test,ads.test']
    await startDnsmasq(machine, dns, ...records)
    headgate.start()
    await run({
      machine,
      headgate,
      client,
      ask: async (name) => (await dig(machine, client, dns.address, name)).rcode,
      reaches: async (address) => (await get(machine, client, `http://${address}/`, '-m', '0.7')).status === 200,
    })
  })
}

test.serial('names need no rule for DNS: queries that policy allows are seen, and teach', async (t) => {
  await withNames(async ({ headgate, ask, reaches }) => {
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', { egress: [TO_DNS, { toFQDNs: [{ matchPattern: 'a*.test' }], toPorts: HTTP }] }),
    )
    t.false(await reaches(WORLD[0]))
    t.is(await ask('api.test'), 'NOERROR')
    t.true(await reaches(WORLD[0]))
    t.false(await reaches(WORLD[1]), 'a name that nobody asked for')
    t.is(await ask('www.ads.test'), 'NOERROR', 'no rule refuses it')
    t.true(await reaches(WORLD[1]), 'an address belongs to every name of its chain')
  })
})

test.serial('a denied name is refused, and its address denied though the world is allowed', async (t) => {
  await withNames(async ({ headgate, ask, reaches }) => {
    const open = { egress: [TO_DNS, { toEntities: ['world'] }] }
    await headgate.apply('client.json', policyOf('client', 'client', open))
    t.true(await reaches(WORLD[1]))
    await headgate.apply('client.json', policyOf('client', 'client', { ...open, egressDeny: [{ toFQDNs: [{ matchName: 'ads.test' }] }] }))
    t.is(await ask('ads.test'), 'REFUSED')
    const flow = await headgate.flowThat(({ dns }) => dns?.query === 'ads.test.')
    t.is(flow.verdict, 'dropped')
    t.like(flow.dns, { type: 'A', rcode: 'REFUSED', addresses: [] })
    t.deepEqual(
      flow.origins.map(({ policy }) => policy),
      ['default/client'],
    )
    t.is(await ask('api.test'), 'NOERROR')
    t.is(await ask('www.ads.test'), 'NOERROR', 'another name')
    t.false(await reaches(WORLD[1]), 'which has the address of the denied one')
    t.true(await reaches(WORLD[0]))
  })
})

test.serial('rules on requests to a name hold for that host, not for others that have its address', async (t) => {
  await withNames(async ({ headgate, machine, client, ask }) => {
    const http = [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ method: 'GET', path: '/.*' }] } }]
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', { egress: [TO_DNS, { toFQDNs: [{ matchName: 'api.test' }], toPorts: http }] }),
    )
    t.is(await ask('api.test'), 'NOERROR')
    const statusOf = async (host: string): Promise<number> =>
      (await get(machine, client, `http://${WORLD[0]}/x`, '-m', '2', '-H', `Host: ${host}`)).status
    t.is(await statusOf('api.test'), 200)
    t.is(await statusOf('API.test:80'), 200)
    t.is(await statusOf('ads.test'), 403)
    t.is(await statusOf('api.test.evil.test'), 403)
    t.is(await statusOf(WORLD[0]), 403, 'the bare address')
  })
})

test.serial('what is learned outlives the agent, the DNS process and another map size', async (t) => {
  await withNames(async ({ headgate, machine, ask, reaches }) => {
    const policy = policyOf('client', 'client', { egress: [TO_DNS, { toFQDNs: [{ matchName: 'api.test' }], toPorts: HTTP }] })
    await headgate.apply('client.json', policy)
    t.is(await ask('api.test'), 'NOERROR')
    await headgate.kill('dns-proxy')
    t.true(await reaches(WORLD[0]), 'the DNS process is dead')
    await headgate.kill('agent')
    t.true(await reaches(WORLD[0]), 'and the agent')
    machine.setConfig({ datapath: { conntrackEntriesMax: 32768, ipcacheEntriesMax: 16384 } })
    headgate.start('agent')
    await headgate.waitForEndpoint('client')
    t.true(await reaches(WORLD[0]), 'another layout of the maps')
    // Nobody waits for the word of a process that is dead.
    headgate.write('client.json', JSON.stringify(policyOf('client', 'client', { egress: [TO_DNS] })))
    for (let tries = 0; tries < 20 && (await reaches(WORLD[0])); tries++) await delay(100)
    t.false(await reaches(WORLD[0]), 'policy took it back while the DNS process is dead')
    headgate.start('dns-proxy')
    await headgate.apply('client.json', policy)
    t.is(await ask('api.test'), 'NOERROR')
    t.true(await reaches(WORLD[0]))
  })
})

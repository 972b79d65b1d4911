/** Names in policy: what makes queries pass the DNS process, and what a name opens and closes. */
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { addWorld, ask, namesPolicy, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { startDnsmasq } from '../support/dnsmasq.ts'
import type { Machine, Workload } from '../support/machine.ts'
import { get, policyOf, type Running, withMachine } from '../support/running.ts'

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  ask(name: string): Promise<string>
  reaches(address: string): Promise<boolean>
}

/** A client, a name server that is a workload, and the world, with api.test and ads.test, which www.ads.test is an alias of. */
async function withNames(run: (scene: Scene) => Promise<void>): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    const records = [`--host-record=api.test,${WORLD[0]}`, `--host-record=ads.test,${WORLD[1]}`, '--cname=www.ads.test,ads.test']
    await startDnsmasq(machine, dns, ...records)
    headgate.start()
    await run({
      machine,
      headgate,
      client,
      ask: async (name) => (await ask(machine, client, dns.address, name)).rcode,
      reaches: (address) => reaches(machine, client, address),
    })
  })
}

test.serial('names need no rule for DNS: queries that policy allows are seen, and teach', async (t) => {
  await withNames(async ({ headgate, ask, reaches }) => {
    await headgate.apply('client.json', namesPolicy('client', [{ matchPattern: 'a*.test' }], toDns()))
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
    const open = { egress: [toDns(), { toEntities: ['world'] }] }
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
      policyOf('client', 'client', { egress: [toDns(), { toFQDNs: [{ matchName: 'api.test' }], toPorts: http }] }),
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

test.serial('an address of two names is asked by the rules of each for its own host', async (t) => {
  await withNames(async ({ headgate, machine, client, ask }) => {
    const to = (name: string, path: string) => ({
      toFQDNs: [{ matchName: name }],
      toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path }] } }],
    })
    const rules = [to('api.test', '/api/.*'), to('ads.test', '/ads/.*'), to('www.ads.test', '/www/.*')]
    await headgate.apply('client.json', policyOf('client', 'client', { egress: [toDns(), ...rules] }))
    const statusOf = async (address: string, host: string, path: string): Promise<number> =>
      (await get(machine, client, `http://${address}${path}`, '-m', '2', '-H', `Host: ${host}`)).status
    for (const name of ['api.test', 'ads.test']) t.is(await ask(name), 'NOERROR')
    t.is(await statusOf(WORLD[1], 'ads.test', '/ads/1'), 200)
    t.is(await statusOf(WORLD[1], 'www.ads.test', '/www/1'), 403, 'nobody asked for that name yet')
    t.is(await ask('www.ads.test'), 'NOERROR')
    t.is(await statusOf(WORLD[1], 'www.ads.test', '/www/1'), 200)
    t.is(await statusOf(WORLD[1], 'ads.test', '/ads/1'), 200)
    t.is(await statusOf(WORLD[1], 'ads.test', '/www/1'), 403, 'what the other name allows')
    t.is(await statusOf(WORLD[1], 'www.ads.test', '/ads/1'), 403)
    t.is(await statusOf(WORLD[1], 'other.test', '/ads/1'), 403)
    t.is(await statusOf(WORLD[0], 'api.test', '/api/1'), 200)
    t.is(await statusOf(WORLD[0], 'ads.test', '/ads/1'), 403, 'an address of one name alone')
  })
})

test.serial('what is learned outlives the agent, the DNS process and another map size', async (t) => {
  await withNames(async ({ headgate, machine, ask, reaches }) => {
    const policy = namesPolicy('client', [{ matchName: 'api.test' }], toDns())
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
    headgate.write('client.json', JSON.stringify(policyOf('client', 'client', { egress: [toDns()] })))
    for (let tries = 0; tries < 20 && (await reaches(WORLD[0])); tries++) await delay(100)
    t.false(await reaches(WORLD[0]), 'policy took it back while the DNS process is dead')
    headgate.start('dns-proxy')
    await headgate.apply('client.json', policy)
    t.is(await ask('api.test'), 'NOERROR')
    t.true(await reaches(WORLD[0]))
  })
})

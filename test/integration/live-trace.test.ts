import test from 'ava'
import { addWorld, ask as askName, HTTP_PORT, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { startDnsmasq } from '../support/dnsmasq.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

const SERVER_POLICY = policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }]))
const STATUS = { allowed: 200, denied: 403 } as const

test.serial('a trace of what the agent has in force says what requests then meet', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const stranger = machine.addWorkload('stranger')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', SERVER_POLICY)
    await headgate.wait()
    const ask = async (from: string, path: string) => {
      const args = ['--from', from, '--to', server.address, '--port', '80', '--http', `GET ${path}`]
      const { stdout, stderr } = await machine.cli('policy', 'trace', '--live', ...args, '-o', 'json')
      t.is(stderr, '')
      return JSON.parse(stdout) as { verdict: keyof typeof STATUS; ingress: { verdict: string; l7: string | null } }
    }
    for (const path of ['/allowed/x', '/other']) {
      const { verdict, ingress } = await ask(client.address, path)
      t.is(ingress.verdict, 'redirected')
      t.is((await get(machine, client, `http://${server.address}${path}`)).status, STATUS[verdict])
    }
    // A connection that is denied has no answer at all.
    t.like(await ask(stranger.address, '/allowed/x'), { verdict: 'denied', ingress: { verdict: 'denied', l7: null } })
    t.is((await get(machine, stranger, `http://${server.address}/allowed/x`)).status, 0)
  })
})

test.serial('a trace to a name says what a client then meets that asks for it and calls', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    await serve(machine, dns, 80)
    const [api, ads, other] = WORLD
    const records = Object.entries({ 'api.test': api, 'ads.test': ads, 'other.test': other, 'own.test': dns.address })
    await startDnsmasq(machine, dns, ...records.map((record) => `--host-record=${record.join()}`), '--cname=www.ads.test,ads.test')
    headgate.start()
    const rules = {
      egress: [
        toDns(),
        { toFQDNs: [{ matchName: 'api.test' }, { matchName: 'own.test' }], toPorts: HTTP_PORT },
        { toCIDR: [`${ads}/32`], toPorts: HTTP_PORT },
      ],
      egressDeny: [{ toFQDNs: [{ matchName: 'ads.test' }] }],
    }
    await headgate.apply('client.json', policyOf('client', 'client', rules))
    const trace = async (name: string, address: string, aliases: readonly string[]) => {
      const args = [
        '--from',
        client.address,
        '--to',
        name,
        '--port',
        '80',
        '--answer',
        address,
        ...aliases.flatMap((alias) => ['--cname', alias]),
      ]
      const { stdout, stderr } = await machine.cli('policy', 'trace', '--live', ...args, '-o', 'json')
      t.is(stderr, '')
      const { query, answers, known } = JSON.parse(stdout) as {
        query: { verdict: string; server: string }
        answers: [{ verdict: string; reason: string }]
        known: { address: string }[]
      }
      return { query: query.verdict, flow: answers[0].verdict, reason: answers[0].reason, known: known.map((each) => each.address) }
    }
    for (const [name, address, aliases, expected] of [
      ['api.test', api, [], { query: 'allowed', flow: 'allowed', reason: '' }],
      ['ads.test', ads, [], { query: 'denied', flow: 'denied', reason: '' }],
      ['www.ads.test', ads, ['ads.test'], { query: 'allowed', flow: 'denied', reason: '' }],
      ['other.test', other, [], { query: 'allowed', flow: 'denied', reason: '' }],
      ['own.test', dns.address, [], { query: 'allowed', flow: 'denied', reason: 'an endpoint has it' }],
    ] as const) {
      t.deepEqual(await trace(name, address, aliases), { ...expected, known: [] }, name)
      t.is((await askName(machine, client, dns.address, name)).rcode, expected.query === 'allowed' ? 'NOERROR' : 'REFUSED', name)
      if (expected.query === 'allowed') t.is(await reaches(machine, client, address), expected.flow === 'allowed', name)
    }
    t.deepEqual((await trace('api.test', api, [])).known, [api])
  })
})

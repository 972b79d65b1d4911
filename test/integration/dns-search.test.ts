/** What resolvers make of names beside asking for them: search domains, addresses of IPv6 where there is none, addresses that a rule denies. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { addWorld, ask, HTTP_PORT, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { C_LIBRARIES, Resolvers } from '../support/resolvers.ts'
import { policyOf, withMachine } from '../support/running.ts'
import { startUnbound } from '../support/unbound.ts'

const [API, DENIED] = WORLD
const SEARCH = ['search ns.svc.test svc.test', 'options ndots:5 timeout:1 attempts:1'] as const

test.serial('resolvers go through their search list to a name that policy allows, and nothing else passes', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hgt-search-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const resolvers = new Resolvers(folder)
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    await startUnbound(machine, dns, `api.test. 60 IN A ${API}`, 'api.test. 60 IN AAAA 2001:db8::1', `cidr.test. 60 IN A ${DENIED}`)
    machine.setConfig({ dns: { searchDomains: ['ns.svc.test', 'SVC.test.'], stripAaaa: true } })
    headgate.start()
    const names = [{ matchName: 'api.test' }, { matchName: 'cidr.test' }]
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [toDns(names), { toFQDNs: names, toPorts: HTTP_PORT }],
        egressDeny: [{ toCIDR: [`${DENIED}/32`] }],
      }),
    )
    for (const library of C_LIBRARIES) {
      const etc = resolvers.etc(`nameserver ${dns.address}`, ...SEARCH)
      t.like(await resolvers.lookUp(machine, client, etc, library, 'api.test'), { code: 'OK', addresses: [API], reached: [API] }, library)
    }
    const rcodeOf = async (name: string) => (await ask(machine, client, dns.address, name)).rcode
    t.is(await rcodeOf('api.test.svc.test'), 'NXDOMAIN', 'the server says so')
    t.is(await rcodeOf('other.test.svc.test'), 'REFUSED')
    t.is(await rcodeOf('api.test.evil.test'), 'REFUSED')

    for (const way of ['+notcp', '+tcp']) {
      const none = await ask(machine, client, dns.address, 'api.test', 'AAAA', way)
      t.deepEqual([none.rcode, none.answers], ['NOERROR', []], way)
      const signed = await ask(machine, client, dns.address, 'api.test', 'AAAA', '+dnssec', way)
      t.deepEqual(signed.answers, ['2001:db8::1'], 'who asks for signatures gets what the server says')
    }

    t.is(await rcodeOf('cidr.test'), 'NOERROR')
    t.false(await reaches(machine, client, DENIED), 'a denied prefix stays denied under a name that is allowed')
    t.true(await reaches(machine, client, API))
  })
})

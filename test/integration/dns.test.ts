/** DNS rules and toFQDNs on the real datapath: a workload's queries pass the DNS process, and what answers teach opens the way. */
import test from 'ava'
import { addWorld, ask, HTTP_PORT, namesPolicy, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { startDnsmasq } from '../support/dnsmasq.ts'
import type { Workload } from '../support/machine.ts'
import { policyOf, withMachine } from '../support/running.ts'
import { connectTcp, listenTcp } from '../support/tcp.ts'
import { startUnbound } from '../support/unbound.ts'

const RECORDS = [`--host-record=api.test,${WORLD[0]}`, `--host-record=other.test,${WORLD[1]}`] as const

test.serial('names that policy allows are answered and lead to their addresses, others are refused and lead nowhere', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    await startDnsmasq(machine, dns, ...RECORDS)
    headgate.start()
    await headgate.apply('client.json', namesPolicy('client', [{ matchName: 'api.test' }], toDns([{ matchName: 'api.test' }])))
    t.false(await reaches(machine, client, WORLD[0]), 'before anybody asked for its name')
    const answer = await ask(machine, client, dns.address, 'api.test')
    t.is(answer.rcode, 'NOERROR', answer.text)
    t.deepEqual(answer.answers, [WORLD[0]])
    t.true(await reaches(machine, client, WORLD[0]))
    const refused = await ask(machine, client, dns.address, 'other.test')
    t.is(refused.rcode, 'REFUSED', refused.text)
    t.false(await reaches(machine, client, WORLD[1]))
  })
})

test.serial('queries over TCP are judged and teach as those over UDP, and answers too large for UDP come over TCP', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    const large = Array.from({ length: 10 }, (_, index) => `--txt-record=large.test,${String(index).repeat(250)}`)
    await startDnsmasq(machine, dns, '--edns-packet-max=4096', ...RECORDS, ...large)
    headgate.start()
    await headgate.apply(
      'client.json',
      namesPolicy('client', [{ matchName: 'api.test' }], toDns([{ matchName: 'api.test' }, { matchName: 'large.test' }])),
    )
    const answer = await ask(machine, client, dns.address, 'api.test', '+tcp')
    t.is(answer.rcode, 'NOERROR', answer.text)
    t.deepEqual(answer.answers, [WORLD[0]])
    t.true(await reaches(machine, client, WORLD[0]))
    const refused = await ask(machine, client, dns.address, 'other.test', '+tcp')
    t.is(refused.rcode, 'REFUSED', refused.text)
    const kept = await ask(machine, client, dns.address, '+tcp', '+keepopen', 'api.test', 'other.test', 'api.test')
    t.is([...kept.text.matchAll(/status: (\w+)/g)].map(([, rcode]) => rcode).join(), 'NOERROR,REFUSED,NOERROR', kept.text)
    const texts = await ask(machine, client, dns.address, 'large.test', 'TXT', '+bufsize=4096')
    t.is(texts.answers.length, 10, 'a server that may send 4096 bytes would send fragments')
    t.regex(texts.text, /\(TCP\)/)
  })
})

test.serial('servers of the world and of other ports, with their own policy, are as any other', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const stranger = machine.addWorkload('stranger')
    const dns = machine.addWorkload('dns')
    const world = await addWorld(machine)
    machine.writeWorkloads()
    await startDnsmasq(machine, dns, '--port=5353', ...RECORDS)
    await startDnsmasq(machine, world, ...RECORDS)
    headgate.start()
    const toWorld = {
      toCIDR: [`${WORLD[0]}/32`],
      toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }], rules: { dns: [{ matchName: 'other.test' }] } }],
    }
    const policyFor = (app: string) =>
      namesPolicy(app, [{ matchPattern: '*.test' }], toDns([{ matchName: 'api.test' }], 'dns', '5353'), toWorld)
    await headgate.apply(
      'policies.json',
      policyFor('client'),
      policyFor('stranger'),
      policyOf('dns', 'dns', {
        ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }], toPorts: [{ ports: [{ port: '5353', protocol: 'ANY' }] }] }],
      }),
    )
    const toWorkload = ['-p', '5353', `@${dns.address}`]
    const rcodes = async (...questions: readonly (readonly [from: Workload, ...question: string[]])[]): Promise<string> =>
      (await Promise.all(questions.map(([from, ...question]) => ask(machine, from, WORLD[0], ...question))))
        .map(({ rcode }) => rcode || 'nothing')
        .join()
    t.is(
      await rcodes(
        [client, ...toWorkload, 'api.test'],
        [client, ...toWorkload, 'other.test'],
        [client, 'api.test'],
        [client, 'other.test'],
        [stranger, ...toWorkload, 'api.test'],
        [stranger, 'other.test'],
      ),
      'NOERROR,REFUSED,REFUSED,NOERROR,nothing,NOERROR',
    )
    t.is(
      await rcodes([client, ...toWorkload, 'api.test', '+tcp'], [client, 'api.test', '+tcp'], [client, 'other.test', '+tcp']),
      'NOERROR,REFUSED,NOERROR',
    )
    t.true(await reaches(machine, client, WORLD[1]))
  })
})

test.serial('a name of a chain opens the address at its end, and addresses of things here open nothing', async (t) => {
  await withMachine(async (machine, headgate) => {
    const byTarget = machine.addWorkload('bytarget')
    const byAlias = machine.addWorkload('byalias')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    const taken = { endpoint: dns.address, loopback: '127.0.0.1', metadata: '169.254.169.254', node: '10.88.0.1' }
    const records = Object.entries(taken).map(([name, address]) => `--host-record=${name}.taken.test,${address}`)
    await startDnsmasq(machine, dns, ...RECORDS, '--cname=www.test,api.test', ...records)
    machine.setConfig({ dns: { tofqdnsDnsRejectResponseCode: 'nameError' } })
    headgate.start()
    const all = toDns([{ matchPattern: '**.test' }])
    await headgate.apply(
      'policies.json',
      namesPolicy('bytarget', [{ matchName: 'api.test' }], all),
      namesPolicy('byalias', [{ matchName: 'www.test' }, { matchPattern: '*.taken.test' }], all),
    )
    t.is((await ask(machine, byAlias, dns.address, 'www.example')).rcode, 'NXDOMAIN', 'as the option says')
    t.is((await ask(machine, byAlias, dns.address, 'www.example', '+tcp')).rcode, 'NXDOMAIN')
    for (const client of [byTarget, byAlias]) {
      t.false(await reaches(machine, client, WORLD[0]))
      t.is((await ask(machine, client, dns.address, 'www.test')).rcode, 'NOERROR')
      t.true(await reaches(machine, client, WORLD[0]), client.name)
    }
    for (const [name, address] of Object.entries(taken)) {
      t.deepEqual((await ask(machine, byAlias, dns.address, `${name}.taken.test`)).answers, [address])
      const flow = await headgate.flowThat((each) => each.dns?.query === `${name}.taken.test.`)
      t.regex(flow.dns?.notes?.join() ?? '', new RegExp(`^${address}: `), name)
    }
  })
})

test.serial('a server that the node trusts teaches everybody, another one whoever asked it', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const quiet = machine.addWorkload('quiet')
    const dns = machine.addWorkload('dns')
    const trusted = machine.addWorkload('trusted')
    await addWorld(machine)
    machine.writeWorkloads({ trusted: { app: 'dns' } })
    await startDnsmasq(machine, dns, ...RECORDS)
    await startDnsmasq(machine, trusted, ...RECORDS)
    machine.setConfig({ dns: { trustedServers: [trusted.address] } })
    headgate.start()
    const policyFor = (app: string) => namesPolicy(app, [{ matchPattern: '*.test' }], toDns([{ matchPattern: '*.test' }]))
    await headgate.apply('policies.json', policyFor('client'), policyFor('quiet'))
    t.is((await ask(machine, client, dns.address, 'api.test')).rcode, 'NOERROR')
    t.true(await reaches(machine, client, WORLD[0]))
    t.false(await reaches(machine, quiet, WORLD[0]))
    t.is((await ask(machine, client, trusted.address, 'other.test')).rcode, 'NOERROR')
    t.true(await reaches(machine, client, WORLD[1]))
    t.true(await reaches(machine, quiet, WORLD[1]))
  })
})

test.serial('what clients and servers say to each other beside addresses passes as it is', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    const texts = Array.from({ length: 12 }, (_, index) => `large.test. 60 IN TXT "${String.fromCharCode(97 + index).repeat(250)}"`)
    const records = [
      `api.test. 60 IN A ${WORLD[0]}`,
      'api.test. 60 IN TYPE65280 \\# 3 010203',
      'api.test. 60 IN MX 10 mail.test.',
      ...texts,
    ]
    await startUnbound(machine, dns, ...records)
    headgate.start()
    await headgate.apply('client.json', namesPolicy('client', [{ matchName: 'api.test' }], toDns([{ matchPattern: '*.test' }])))
    const cased = await ask(machine, client, dns.address, 'aPi.TeSt', '+dnssec', '+nsid', '+cdflag')
    t.regex(cased.text, /^;aPi\.TeSt\.\s+IN\s+A$/m)
    t.regex(cased.text, /^;; flags: qr aa rd ra cd;|^;; flags: .*\bcd\b/m)
    t.regex(cased.text, /EDNS: version: 0, flags: do/)
    t.deepEqual(cased.answers, [WORLD[0]])
    t.true(await reaches(machine, client, WORLD[0]), 'a name is learned in whatever case it was asked for')
    t.deepEqual((await ask(machine, client, dns.address, 'api.test', 'TYPE65280')).answers, ['\\# 3 010203'])
    t.deepEqual((await ask(machine, client, dns.address, 'api.test', 'MX')).answers, ['10 mail.test.'])
    const large = await ask(machine, client, dns.address, 'large.test', 'TXT', '+bufsize=4096')
    t.is(large.answers.length, 12, large.text)
    t.regex(large.text, /\(TCP\)/)
  })
})

test.serial('a killed DNS process takes no connection and no name with it, and comes back by itself', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    const world = await addWorld(machine)
    machine.writeWorkloads()
    await startDnsmasq(machine, dns, ...RECORDS)
    await listenTcp(machine, world, 90)
    headgate.start()
    const names = [{ matchPattern: '*.test' }]
    const egress = [toDns(names), { toFQDNs: names, toPorts: [...HTTP_PORT, { ports: [{ port: '90', protocol: 'TCP' }] }] }]
    await headgate.apply('client.json', policyOf('client', 'client', { egress }))
    t.is((await ask(machine, client, dns.address, 'api.test')).rcode, 'NOERROR')
    const connection = connectTcp(machine, client, WORLD[0], 90)
    await connection.saw('open')
    await headgate.kill('dns-proxy')
    t.true(await reaches(machine, client, WORLD[0]), 'a name that was learned')
    connection.write('still there\n')
    await connection.saw('data still there')
    t.is((await ask(machine, client, dns.address, 'api.test')).rcode, '')
    headgate.start('dns-proxy')
    await t.notThrowsAsync(untilAnswered())
    t.is((await ask(machine, client, dns.address, 'other.test')).rcode, 'NOERROR')
    t.true(await reaches(machine, client, WORLD[1]))
    await headgate.kill('dns-proxy')
    // Nobody waits: that would be for the DNS process as well.
    headgate.write('client.json', JSON.stringify(policyOf('client', 'client', { egress: [toDns(names)] })))
    const deadline = performance.now() + 3000
    while (await reaches(machine, client, WORLD[0])) {
      if (performance.now() > deadline) throw new Error('what policy no longer allows goes on without the DNS process')
    }

    async function untilAnswered(): Promise<void> {
      const deadline = performance.now() + 3000
      while ((await ask(machine, client, dns.address, 'api.test', '+time=1')).rcode !== 'NOERROR')
        if (performance.now() > deadline) throw new Error('queries are not answered after a restart')
    }
  })
})

/** A name server that lies, over the real datapath: what is not the answer to what was asked neither arrives nor teaches. */
import test from 'ava'
import { addWorld, ask, namesPolicy, reaches, startHostileDns, toDns, WORLD } from '../support/dns-scene.ts'
import { ip, type Machine, type Workload } from '../support/machine.ts'
import { withMachine } from '../support/running.ts'

const [GOOD, BAD] = WORLD

async function withHostile(
  run: (machine: Machine, client: Workload, server: string) => Promise<void>,
  config: Record<string, unknown> = {},
): Promise<void> {
  await withMachine(async (machine, headgate) => {
    machine.setConfig(config)
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    ip('-n', dns.netns, 'addr', 'add', '10.70.0.99/32', 'dev', 'eth0')
    await startHostileDns(machine, dns, '10.70.0.99', GOOD, BAD)
    headgate.start()
    await headgate.apply('client.json', namesPolicy('client', [{ matchPattern: '*.test' }], toDns([{ matchPattern: '*.test' }])))
    await run(machine, client, dns.address)
  })
}

test.serial('answers with a wrong id, question or sender are ignored, and the right one behind them is taken', async (t) => {
  await withHostile(async (machine, client, server) => {
    const names = ['wrong-id', 'wrong-name', 'wrong-type', 'wrong-case', 'wrong-port', 'wrong-address', 'not-a-reply', 'broken', 'twice']
    const answers = await Promise.all(names.map((name) => ask(machine, client, server, `${name}.test`)))
    for (const [index, { answers: addresses, text }] of answers.entries()) t.deepEqual(addresses, [GOOD], `${names[index]}: ${text}`)
    t.true(await reaches(machine, client, GOOD))
    t.false(await reaches(machine, client, BAD))
  })
})

test.serial('odd answers pass as they are, and teach what they say of the name', async (t) => {
  await withHostile(async (machine, client, server) => {
    const beside = await ask(machine, client, server, 'beside.test')
    t.deepEqual(beside.answers, [GOOD, BAD], beside.text)
    t.regex((await ask(machine, client, server, 'trailing.test')).text, /extra bytes/)
    t.true(await reaches(machine, client, GOOD))
    t.false(await reaches(machine, client, BAD), 'a record beside the name teaches nothing')
    t.is((await ask(machine, client, server, 'truncated.test', '+ignore')).rcode, 'NOERROR')
    t.true(await reaches(machine, client, BAD), 'some clients take a truncated answer as it is')
    const [large, huge, drip, silent] = await Promise.all([
      ask(machine, client, server, 'large.test'),
      ask(machine, client, server, 'huge.test'),
      ask(machine, client, server, 'drip.test'),
      ask(machine, client, server, 'silent.test'),
    ])
    t.is(large.answers.length, 250)
    t.is(huge.answers.length, 4000)
    t.deepEqual(drip.answers, [GOOD])
    t.is(silent.rcode, '')
  })
})

test.serial('a server that does not answer holds no more queries than its limit, and what is beyond is told so at once', async (t) => {
  const limit = 3
  await withHostile(
    async (machine, client, server) => {
      t.is((await ask(machine, client, server, 'good.test')).rcode, 'NOERROR')
      const silent = Promise.all(Array.from({ length: limit }, () => ask(machine, client, server, 'silent.test')))
      const deadline = performance.now() + 3000
      while ((await ask(machine, client, server, 'good.test')).rcode !== 'SERVFAIL') if (performance.now() > deadline) return t.fail()
      t.is((await ask(machine, client, server, 'good.test', '+tcp')).rcode, 'SERVFAIL')
      t.is((await ask(machine, client, server, 'refused.example')).rcode, 'REFUSED')
      await silent
    },
    { dns: { dnsproxyConcurrencyLimit: limit, dnsproxyConcurrencyProcessingGracePeriodMs: 50 } },
  )
})

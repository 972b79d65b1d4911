/** The DNS process dies, or is asked to end, while queries come all the time. */
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { addWorld, ask, namesPolicy, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { startDnsmasq } from '../support/dnsmasq.ts'
import { Machine, ROOT, type Workload } from '../support/machine.ts'
import { Running } from '../support/running.ts'
import { Supervised } from '../support/supervised.ts'

const RATE = 400
const DEATHS = 3
/** Of one death: a batch of the socket, and what a name server takes its time for. */
const IN_HAND_MAX = 64
const RULES = [{ matchPattern: '*.yes.test' }, { matchName: 'known.test' }]

interface LoadResult {
  readonly sent: number
  readonly answered: number
  readonly refused: number
  readonly wrong: number
  readonly lost: number
  readonly slowestMs: number
  readonly samples: readonly string[]
}

/** @returns what became of the queries, once the load is over */
async function queriesOf(
  machine: Machine,
  from: Workload,
  server: string,
  seconds: number,
  rate: number,
): Promise<{ result: Promise<LoadResult> }> {
  const script = join(ROOT, 'test/support/dns-load.mjs')
  const child = machine.start(from.netns, [join(ROOT, 'bin/node'), script, server, 'test', String(seconds), String(rate)])
  let text = ''
  const started = new Promise<void>((resolve) => {
    child.stdout?.setEncoding('utf8').on('data', (part: string) => {
      text += part
      if (text.startsWith('started')) resolve()
    })
  })
  const result = once(child, 'close').then(() => JSON.parse(text.trim().split('\n').at(-1) ?? '') as LoadResult)
  await started
  return { result }
}

interface Scene {
  readonly machine: Machine
  readonly supervised: Supervised
  readonly client: Workload
  readonly dns: Workload
}

async function withSupervised(t: ExecutionContext, body: (scene: Scene) => Promise<void>): Promise<void> {
  const machine = new Machine()
  const supervised = new Supervised(machine)
  const headgate = new Running(machine)
  try {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    await startDnsmasq(machine, dns, `--address=/test/${WORLD[0]}`, '--local-ttl=600')
    machine.setConfig({ flows: { mode: 'denied' } })
    supervised.start()
    await headgate.apply('client.json', namesPolicy('client', [{ matchName: 'known.test' }], toDns(RULES)))
    t.is((await ask(machine, client, dns.address, 'known.test')).rcode, 'NOERROR')
    await body({ machine, supervised, client, dns })
  } finally {
    headgate.close()
    await machine.dispose()
  }
}

test.serial('queries that come while the DNS process dies again and again wait for the next one', async (t) => {
  await withSupervised(t, async ({ machine, supervised, client, dns }) => {
    const load = await queriesOf(machine, client, dns.address, 12, RATE)
    for (let death = 0; death < DEATHS; death++) {
      await delay(2500)
      await supervised.kill('dns-proxy')
      t.true(await reaches(machine, client, WORLD[0]), 'what is known needs nobody')
    }
    const result = await load.result
    t.log(result)
    t.is(result.sent, 12 * RATE)
    t.is(result.wrong, 0, result.samples.join('\n'))
    // Those that the process had read, or that were on their way to the server, when it was killed.
    t.true(result.lost <= DEATHS * IN_HAND_MAX, result.samples.join('\n'))
    t.is(result.answered + result.refused + result.lost, result.sent)
  })
})

test.serial('no query is lost when the DNS process is asked to end, or the one that runs it dies', async (t) => {
  await withSupervised(t, async ({ machine, supervised, client, dns }) => {
    const load = await queriesOf(machine, client, dns.address, 8, RATE)
    await delay(1500)
    await supervised.end('dns-proxy')
    await delay(1500)
    await supervised.killUp()
    supervised.start()
    await supervised.logged('dns-proxy found running, adopted')
    // The DNS process gives it its socket, which nobody logs.
    await delay(500)
    await supervised.end('dns-proxy')
    const result = await load.result
    t.log(result)
    t.deepEqual([result.wrong, result.lost], [0, 0], result.samples.join('\n'))
    t.is(result.answered + result.refused, 8 * RATE)
  })
})

import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { startLoad } from '../support/load.ts'
import type { Machine, Workload } from '../support/machine.ts'
import { get, type ProcessName, policyOf, type Running, rule, serve, withMachine } from '../support/running.ts'

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  readonly server: Workload
  readonly url: string
}

/** A client whose requests to /allowed pass both proxies, and whose others do not. */
async function withScene(run: (scene: Scene) => Promise<void>): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])))
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])))
    await run({ machine, headgate, client, server, url: `http://${server.address}` })
  })
}

async function killRepeatedly(t: ExecutionContext, name: ProcessName, times: number): Promise<void> {
  await withScene(async ({ machine, headgate, client, url }) => {
    t.is((await get(machine, client, `${url}/allowed`)).status, 200)
    const load = await startLoad(machine, client, url, 120, 150)
    for (let count = 0; count < times; count++) {
      await delay(300 + Math.random() * 900)
      await headgate.kill(name)
      headgate.start(name)
    }
    await delay(1500)
    load.stop()
    const result = await load.result
    t.log(result)
    t.is(result.failed, 0, result.samples.join('\n'))
    t.is(result.wronglyAllowed, 0)
    t.is(result.wronglyDenied, 0)
    t.true(result.allowed > 100 && result.denied > 30)
    await headgate.wait()
  })
}

test.serial('killing the agent again and again fails no request and lets nothing through', (t) => killRepeatedly(t, 'agent', 5))

test.serial('killing the proxy process again and again fails no request and lets nothing through', (t) => killRepeatedly(t, 'proxy', 5))

test.serial('a policy change made while the agent is dead applies when it is back', async (t) => {
  await withScene(async ({ machine, headgate, client, url }) => {
    await headgate.kill('agent')
    headgate.write('server.json', JSON.stringify(policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/other' }]))))
    t.is((await get(machine, client, `${url}/allowed`)).status, 200)
    headgate.start('agent')
    await headgate.wait()
    t.is((await get(machine, client, `${url}/allowed`)).status, 403)
    t.is((await get(machine, client, `${url}/other`)).status, 200)
  })
})

test.serial('Envoy is back within a second of its death, and denied stays denied', async (t) => {
  await withScene(async ({ machine, headgate, client, url }) => {
    t.is((await get(machine, client, `${url}/allowed`)).status, 200)
    const downMs: number[] = []
    // The time is Envoy's own where the machine is quiet; other tests run beside this one, hence the best of three.
    for (let round = 0; round < 3; round++) {
      await headgate.kill('envoy')
      t.is((await get(machine, client, `${url}/denied`, '-m', '0.3')).status, 0)
      const startedAt = performance.now()
      headgate.start('envoy')
      let status = 0
      while (status !== 200 && performance.now() - startedAt < 20_000)
        ({ status } = await get(machine, client, `${url}/allowed`, '-m', '0.2'))
      downMs.push(performance.now() - startedAt)
      t.is(status, 200)
      t.is((await get(machine, client, `${url}/denied`)).status, 403)
    }
    t.log({ downMs })
    t.true(Math.min(...downMs) < 1000, `${downMs} ms`)
  })
})

/** A million requests through both proxies, every answer checked, with the agent's death and changes of policy in their midst. */
import { join } from 'node:path'
import test from 'ava'
import { startNginx } from '../../bench/harness/http.ts'
import { startLoad } from '../support/load.ts'
import { Machine, ROOT, type Workload } from '../support/machine.ts'
import { residentMb } from '../support/memory.ts'
import { get, PROCESSES, type ProcessName, policyOf, Running, rule } from '../support/running.ts'

const REQUEST_COUNT = 1_000_000
const ROUND_SECONDS = 20
const ROUND_COUNT_MAX = 40
/** Beyond what a process has after the first round. */
const GROWTH_MB_MAX: Readonly<Record<ProcessName, number>> = { agent: 40, proxy: 40, 'ext-host': 40, 'dns-proxy': 40, envoy: 30 }

/** Of any process at any time. */
const PEAK_MB_MAX = 256

interface Answers {
  readonly right: number
  readonly wrong: number
  readonly failed: number
  readonly timeouts: number
  readonly sample: string
}

/** One round of wrk on connections of its own. */
async function ask(machine: Machine, from: Workload, url: string, connections: number, status: number, text: string): Promise<Answers> {
  const script = join(ROOT, 'test/support/wrk-check.lua')
  const wrk = ['wrk', '-t1', `-c${connections}`, `-d${ROUND_SECONDS}s`, '--timeout', '10s', '-s', script, url, '--', String(status), text]
  const { stdout, stderr } = await machine.run(from.netns, wrk)
  const found = /^(\d+) (\d+) (\d+) (\d+)(?: (.*))?$/.exec(stdout.trimEnd().split('\n').at(-1)?.trimStart() ?? '')
  if (found === null) throw new Error(`wrk says nothing: ${stdout}${stderr}`)
  const [right = 0, wrong = 0, failed = 0, timeouts = 0] = found.slice(1, 5).map(Number)
  return { right, wrong, failed, timeouts, sample: found[5] ?? '' }
}

test.serial('of a million requests through two hops none fails and none is judged wrongly, and memory is bounded', async (t) => {
  t.timeout(20 * 60_000)
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    machine.setConfig({ flows: {} })
    await startNginx(machine, server, client, '"$request_uri"')
    headgate.start()
    const serverPolicy = (...paths: string[]) =>
      policyOf(
        'server',
        'server',
        rule(
          'ingress',
          'client',
          80,
          ['/allowed.*', ...paths].map((path) => ({ path })),
        ),
      )
    await headgate.apply('server.json', serverPolicy('/before'))
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])))
    const url = `http://${server.address}`
    const statusOf = async (path: string): Promise<number> => (await get(machine, client, `${url}${path}`)).status
    const memoryMb = () =>
      Object.fromEntries(PROCESSES.map((name) => [name, residentMb(headgate.processes.get(name)?.pid ?? 0).rss])) as Record<
        ProcessName,
        number
      >
    t.deepEqual([await statusOf('/before'), await statusOf('/after')], [200, 403])

    const load = await startLoad(machine, client, url, 3600, 50)
    // Its end with the machine is nobody's failure when something else has failed.
    load.result.catch(() => {})
    const totals = { allowed: 0, denied: 0 }
    let memoryBefore = memoryMb()
    let isChanged = false
    const startedMs = performance.now()
    for (let round = 0; round < ROUND_COUNT_MAX && totals.allowed + totals.denied < REQUEST_COUNT; round++) {
      const asking = Promise.all([
        ask(machine, client, `${url}/allowed`, 32, 200, '"/allowed"'),
        ask(machine, client, `${url}/denied`, 8, 403, 'Access denied'),
      ])
      if (!isChanged && totals.allowed + totals.denied > REQUEST_COUNT / 3) {
        await headgate.kill('agent')
        headgate.write('server.json', JSON.stringify(serverPolicy('/after')))
        t.deepEqual([await statusOf('/before'), await statusOf('/after')], [200, 403])
        headgate.start('agent')
        await headgate.wait()
        t.deepEqual([await statusOf('/before'), await statusOf('/after')], [403, 200])
        await headgate.apply('server.json', serverPolicy())
        t.deepEqual([await statusOf('/before'), await statusOf('/after')], [403, 403])
        isChanged = true
      }
      const [allowed, denied] = await asking
      for (const [name, answers] of Object.entries({ allowed, denied })) {
        const { right, sample, ...rest } = answers
        t.deepEqual(rest, { wrong: 0, failed: 0, timeouts: 0 }, `round ${round}, ${name}: ${sample}`)
        totals[name as keyof typeof totals] += right
      }
      if (round === 0) memoryBefore = memoryMb()
    }
    const memoryAfter = memoryMb()
    load.stop()
    const result = await load.result
    t.log({ ...totals, seconds: Math.round((performance.now() - startedMs) / 1000), memoryBefore, memoryAfter, load: result })
    t.true(isChanged)
    t.true(totals.allowed + totals.denied >= REQUEST_COUNT)
    t.deepEqual([result.failed, result.wronglyAllowed, result.wronglyDenied], [0, 0, 0], result.samples.join('\n'))
    for (const name of PROCESSES) t.true(residentMb(headgate.processes.get(name)?.pid ?? 0).peak < PEAK_MB_MAX, name)
    for (const name of PROCESSES) t.true(memoryAfter[name] - memoryBefore[name] < GROWTH_MB_MAX[name], name)
  } finally {
    headgate.close()
    await machine.dispose()
  }
})

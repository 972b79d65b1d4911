import test from 'ava'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

interface Counts {
  readonly allowed: string
  readonly denied: string
  readonly audited: string
  readonly failed: string
}

interface Report {
  readonly source: string
  readonly problem: string
  readonly totals?: Counts
  readonly rules: readonly { readonly rule: string; readonly counts: Counts }[]
}

test.serial('headgate policy counts tells what clients saw, also of requests whose flows nobody took', async (t) => {
  await withMachine(async (machine, headgate) => {
    const web = machine.addWorkload('web')
    const api = machine.addWorkload('api')
    machine.writeWorkloads()
    machine.setConfig({ http: { ruleCounters: true } })
    await serve(machine, api, 80)
    headgate.start()
    await headgate.apply(
      'api.json',
      policyOf('api', 'api', rule('ingress', 'web', 80, [{ path: '/a.*' }, { path: '/b.*', method: 'POST' }])),
    )
    const counted = async (): Promise<Report> => {
      const { reports } = JSON.parse((await machine.cli('policy', 'counts', '-o', 'json')).stdout) as { reports: Report[] }
      return reports.find(({ source }) => source === 'COUNTS_SOURCE_PROXY')!
    }
    /** How many of the requests had which status: one curl, many requests. */
    const ask = async (path: string, count: number, ...options: string[]): Promise<Map<string, number>> => {
      const urls = `http://${api.address}${path}?[1-${count}]`
      const { stdout } = await machine.run(web.netns, ['curl', '-s', '-Z', '-o', '/dev/null', '-w', '%{http_code}\n', ...options, urls])
      return stdout.split('\n').reduce((seen, status) => seen.set(status, (seen.get(status) ?? 0) + 1), new Map<string, number>())
    }
    const before = await counted()
    t.is(before.problem, '')
    t.like(before.totals, { allowed: '0', denied: '0', audited: '0', failed: '0' })

    t.is((await ask('/a', 300)).get('200'), 300)
    t.is((await ask('/b', 200, '-X', 'POST')).get('200'), 200)
    t.is((await ask('/b', 100)).get('403'), 100)
    // Nobody hears of these flows, and the proxy that asked Envoy before is not the one that asks it then.
    await headgate.kill('agent')
    await headgate.kill('proxy')
    t.is((await ask('/c', 500)).get('403'), 500)
    headgate.start('agent')
    headgate.start('proxy')
    await headgate.wait()

    let report = await counted()
    for (let left = 100; report.problem !== '' && left > 0; left--) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      report = await counted()
    }
    t.like(report.totals, { allowed: '500', denied: '600', audited: '0', failed: '0' })
    const rules = report.rules.map(({ rule: name, counts }) => [name.replace(/[0-9a-f]{12}$/, 'digest'), counts.allowed, counts.denied])
    t.deepEqual(rules, [
      ['', '0', '600'],
      ['default/api/ingress/digest', '300', '0'],
      ['default/api/ingress/digest', '200', '0'],
    ])
    const { stdout } = await machine.cli('status')
    t.regex(stdout, /^proxy +500 +600 +0 +0 +20\S+Z$/m)
    t.regex(stdout, /^\d+ flows seen; lost: \d+ in the kernel, \d+ in Envoy, \d+ on the way to the agent$/m)

    // A policy that is gone takes its rules with it, and not what was counted.
    await headgate.apply('api.json', policyOf('api', 'api', rule('ingress', 'web', 80)))
    t.is((await get(machine, web, `http://${api.address}/c`)).status, 200)
    t.like((await counted()).totals, { allowed: '500', denied: '600' })
  })
})

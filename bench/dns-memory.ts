/** dns-memory: what the DNS process's memory does under names that nobody asked for before. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../test/support/machine.ts'
import type { residentMb } from '../test/support/memory.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { machineConditions } from './harness/conditions.ts'

interface Targets {
  readonly growth: number
  readonly namesPerSecond: number
}

interface Measured {
  readonly count: number
  readonly seconds: number
  readonly before: ReturnType<typeof residentMb>
  readonly atOnce: ReturnType<typeof residentMb>
  readonly after: ReturnType<typeof residentMb>
  readonly known: number
  readonly knownMax: number
  readonly journalBytes: number
  readonly wrong: number
}

/** Names a second: ten times what is asked for, so that garbage has no more time than it would have. */
const PACE = 5000

export const dnsMemory: Bench = {
  name: 'dns-memory',
  summary: 'memory of the learning code under 1.8 million fresh names',
  run: async (options) => run(options),
}

function run({ count = 1_800_000 }: Options): Result {
  const conditions = machineConditions()
  const target = targetOf<Targets>('dns-memory')
  const measured = measureNames(count, PACE)
  const growth = rounded(growthOf(measured), 3)
  const namesPerSecond = rounded(count / measured.seconds)
  say(`${count} names at ${namesPerSecond} a second: ${measured.before.rss} MB before, ${measured.after.rss} MB after`)
  const complaints = [
    ...(measured.wrong > 0 ? ['oracle: rows and names differ'] : []),
    ...(growth > target.growth ? [`growth ${growth} over ${target.growth}`] : []),
    ...(namesPerSecond < target.namesPerSecond ? [`${namesPerSecond} names a second under ${target.namesPerSecond}`] : []),
  ]
  return {
    bench: 'dns-memory',
    growth,
    namesPerSecond,
    target,
    pass: complaints.length === 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: { checked: measured.known, wrong: measured.wrong },
    conditions: {
      ...conditions,
      names: count,
      selected: 'every second one',
      ttlSeconds: 30,
      pace: PACE,
      namesPerSecondOfTheirOwnTime: 500,
    },
    rssMb: { before: measured.before, atOnce: measured.atOnce, after: measured.after },
    knownMax: measured.knownMax,
    journalBytes: measured.journalBytes,
  }
}

/** In a process of its own, with the flags that bin/headgate gives the DNS process. */
export function measureNames(count: number, pace: number): Measured {
  const flags = ['--max-semi-space-size=2', '--v8-pool-size=1', '--conditions=headgate-source']
  const script = join(ROOT, 'bench/workloads/learned-names.ts')
  const output = execFileSync(join(ROOT, 'bin/node'), [...flags, script, String(count), String(pace)], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Measured
}

/** Of what the process holds when it has tidied up; what garbage there is at once stands beside it. */
export function growthOf({ before, after }: Measured): number {
  return after.rss / before.rss - 1
}

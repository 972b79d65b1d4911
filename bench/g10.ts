/**
 * g10: one rule that changes among a thousand, with ten thousand identities and 32 endpoints: from the parsed document to the rows in the
 * kernel's maps and the rulesets for the proxy, against resolving and writing everything.
 */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../test/support/machine.ts'
import type { residentMb } from '../test/support/memory.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { machineConditions } from './harness/conditions.ts'
import { median, p99, spread } from './harness/statistics.ts'

interface Targets {
  readonly ratio: number
  readonly p99Ms: number
  readonly agentRssMb: number
}

interface Measured {
  readonly full: readonly number[]
  readonly changeMs: readonly number[]
  readonly parseMs: readonly number[]
  readonly rowsInKernel: number
  readonly rowsWrittenAChange: number
  /** After some seconds without anything to do, and at once. */
  readonly rssMb: ReturnType<typeof residentMb>
  readonly rssAtOnceMb: ReturnType<typeof residentMb>
  readonly oracle: { readonly checked: number; readonly wrong: readonly string[] }
}

export const g10: Bench = {
  name: 'g10',
  summary: 'one rule of a thousand changed, until rows and rulesets are out, against resolving everything',
  run: async (options) => run(options),
}

function run({ pairs = 5, count = 200 }: Options): Result {
  const conditions = machineConditions()
  const target = targetOf<Targets>('g10')
  const measured = measure(pairs, count)
  const { full, changeMs, parseMs, rssMb } = measured
  const ratio = rounded(median(changeMs) / median(full))
  const whole = changeMs.map((ms, index) => ms + (parseMs[index] ?? 0))
  const p99Ms = rounded(p99(whole))
  const wrong = measured.oracle.wrong.length
  say(
    `everything ${rounded(median(full))} ms, one change ${rounded(median(changeMs))} ms, with its parsing p99 ${p99Ms} ms, ${rssMb.rss} MB`,
  )
  const complaints = [
    ...(wrong > 0 || measured.oracle.checked === 0 ? [`oracle: ${wrong} wrong`] : []),
    ...(ratio > target.ratio ? [`ratio ${ratio} over ${target.ratio}`] : []),
    ...(p99Ms > target.p99Ms ? [`p99 ${p99Ms} ms over ${target.p99Ms}`] : []),
    ...(rssMb.rss > target.agentRssMb ? [`${rssMb.rss} MB over ${target.agentRssMb}`] : []),
  ]
  return {
    bench: 'g10',
    a: full.map((ms) => rounded(ms)),
    b: [0.5, 0.9, 0.99, 1].map((share) => rounded([...changeMs].sort((x, y) => x - y)[Math.ceil(share * changeMs.length) - 1] ?? 0)),
    ratio,
    aaSpread: rounded(spread(full), 3),
    p99Ms,
    agentRssMb: rssMb.rss,
    target,
    pass: complaints.length === 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: { checked: measured.oracle.checked, wrong, ...(wrong > 0 ? { samples: measured.oracle.wrong.slice(0, 10) } : {}) },
    conditions: {
      ...conditions,
      identities: 10_000,
      rules: 1_000,
      endpoints: 32,
      changes: changeMs.length,
      unit: 'ms; b is the median, 90, 99 and 100 of a hundred changes',
    },
    rowsInKernel: measured.rowsInKernel,
    rowsWrittenAChange: rounded(measured.rowsWrittenAChange),
    parseMs: { median: rounded(median(parseMs)), p99: rounded(p99(parseMs)) },
    rssMb,
    rssAtOnceMb: measured.rssAtOnceMb,
  }
}

/** In processes of their own, with the flags that bin/headgate gives the agent: memory is measured where nothing else was done. */
function measure(pairs: number, count: number): Measured {
  const pins = `/sys/fs/bpf/headgate-bench-${process.pid}`
  const full = runWorkload('full', pins, String(pairs)) as Pick<Measured, 'full'>
  return { ...(runWorkload('changes', pins, String(count)) as Omit<Measured, 'full'>), ...full }
}

function runWorkload(...args: readonly string[]): unknown {
  const flags = ['--max-semi-space-size=2', '--v8-pool-size=1', '--conditions=headgate-source']
  const script = join(ROOT, 'bench/workloads/policy-engine.ts')
  const output = execFileSync(join(ROOT, 'bin/node'), [...flags, script, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return JSON.parse(output.trim().split('\n').at(-1) ?? '')
}

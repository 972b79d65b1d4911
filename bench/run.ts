/**
 * Runs one bench. Its progress goes to standard error; the last line of standard output is one JSON object, and the exit code is 0
 * only when the bench passes (bench/README.md).
 */
import { parseArgs } from 'node:util'
import { dnsMemory } from './dns-memory.ts'
import { footprint } from './footprint.ts'
import { g1 } from './g1.ts'
import { g2 } from './g2.ts'
import { g4 } from './g4.ts'
import { g5Adguard, g5Coredns } from './g5.ts'
import { g6 } from './g6.ts'
import { g7Consume, g7ExtProc, g7Produce } from './g7.ts'
import { g10 } from './g10.ts'
import { g11 } from './g11.ts'
import { g12 } from './g12.ts'
import { g14 } from './g14.ts'
import { g16 } from './g16.ts'
import { type Bench, type Options, say } from './harness/bench.ts'
import { record } from './harness/record.ts'
import { instructions } from './instructions.ts'
import { restart } from './restart.ts'

const BENCHES: readonly Bench[] = [
  g1,
  g2,
  g4,
  g5Coredns,
  g5Adguard,
  g6,
  g7Consume,
  g7Produce,
  g7ExtProc,
  g10,
  g11,
  g12,
  g14,
  g16,
  instructions,
  restart,
  footprint,
  dnsMemory,
]

const USAGE = `usage: npm run bench -- NAME [--pairs N] [--seconds N] [--count N] [--seed N] [--long] [--record]
       npm run bench -- --list

  --pairs N    pairs of runs, reference and ours (a verdict needs 5)
  --seconds N  length of one run
  --count N    how often a thing that is timed, or killed, is repeated
  --seed N     for benches that choose moments at random
  --long       ten times as many names in g6, twice as many restarts in g16, ten times as many starts in footprint
  --record     append the result to bench/RESULTS.md
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      list: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
      pairs: { type: 'string' },
      seconds: { type: 'string' },
      count: { type: 'string' },
      seed: { type: 'string' },
      long: { type: 'boolean' },
      record: { type: 'boolean' },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  if (values.list) {
    const width = Math.max(...BENCHES.map(({ name }) => name.length))
    for (const { name, summary } of BENCHES) process.stdout.write(`${name.padEnd(width)}  ${summary}\n`)
    return 0
  }
  const bench = BENCHES.find(({ name }) => name === positionals[0])
  if (bench === undefined || positionals.length !== 1) {
    process.stderr.write(positionals[0] === undefined ? USAGE : `no bench ${positionals.join(' ')}; --list names them\n`)
    return 2
  }
  if (process.getuid?.() !== 0) {
    process.stderr.write('benches need root: they make network namespaces and load BPF programs\n')
    return 2
  }
  const options: Options = {
    pairs: countOf('pairs', values.pairs),
    seconds: countOf('seconds', values.seconds),
    count: countOf('count', values.count),
    seed: countOf('seed', values.seed),
    long: values.long === true,
  }
  const result = await bench.run(options)
  if (values.record) record(result)
  say(`${result.bench}: ${result.pass ? 'pass' : 'no pass'}: ${result.verdict}`)
  process.stdout.write(`${JSON.stringify(result)}\n`)
  return result.pass ? 0 : 1
}

function countOf(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} needs a whole number above 0, not ${text}`)
  return value
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
  return 2
})

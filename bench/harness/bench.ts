/** What a bench is, and what it hands back: figures in the shape that the last line of every run has. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../test/support/machine.ts'

export interface Options {
  /** Pairs of runs, reference and ours. */
  readonly pairs: number | undefined
  /** Of one run. */
  readonly seconds: number | undefined
  /** How often a thing that is timed is repeated. */
  readonly count: number | undefined
  readonly seed: number | undefined
  readonly long: boolean
}

/** Answers that were checked in the same run; one that is wrong fails the bench whatever its speed. */
export interface Oracle {
  readonly checked: number
  readonly wrong: number
  readonly samples?: readonly string[]
}

export interface Result {
  readonly bench: string
  /** Reference runs, and ours; absent where a bench compares nothing. */
  readonly a?: readonly number[]
  readonly b?: readonly number[]
  readonly ratio?: number
  readonly aaSpread?: number
  readonly target: unknown
  readonly pass: boolean
  /** Why it does not pass, in words. */
  readonly verdict: string
  readonly oracle: Oracle
  readonly conditions: Readonly<Record<string, unknown>>
  readonly [figure: string]: unknown
}

export interface Bench {
  readonly name: string
  /** One line for --list. */
  readonly summary: string
  run(options: Options): Promise<Result>
}

/** The targets of one bench, from the one place where they stand. */
export function targetOf<T>(bench: string): T {
  const targets = JSON.parse(readFileSync(join(ROOT, 'bench/targets.json'), 'utf8')) as Record<string, T>
  const target = targets[bench]
  if (target === undefined) throw new Error(`bench/targets.json has no target for ${bench}`)
  return target
}

/** Progress is for people: standard error, so that standard output ends in the result. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** Numbers as people read them: three digits that mean something. */
export function rounded(value: number, digits = 4): number {
  return Number.isFinite(value) ? Number(value.toPrecision(digits)) : value
}

export function addOracles(...oracles: readonly Oracle[]): Oracle {
  const samples = oracles.flatMap((oracle) => oracle.samples ?? []).slice(0, 20)
  return {
    checked: oracles.reduce((sum, { checked }) => sum + checked, 0),
    wrong: oracles.reduce((sum, { wrong }) => sum + wrong, 0),
    ...(samples.length > 0 ? { samples } : {}),
  }
}

/** Medians, spreads and the verdict on a ratio. */
import { type Oracle, rounded } from './bench.ts'

/** The value below which a share of the values lies, 0 to 1, interpolated. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** The value that 99 of 100 do not exceed: the second largest of 100, not an interpolation. */
export function p99(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * 0.99) - 1)] ?? Number.NaN
}

/** How far runs of the same thing lie apart: the middle half of them, as a share of their median. */
export function spread(values: readonly number[]): number {
  return (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
}

export interface Comparison {
  readonly a: readonly number[]
  readonly b: readonly number[]
  readonly ratio: number
  readonly aaSpread: number
}

export function compare(a: readonly number[], b: readonly number[]): Comparison {
  return {
    a: a.map((value) => rounded(value)),
    b: b.map((value) => rounded(value)),
    ratio: rounded(median(b) / median(a)),
    aaSpread: rounded(spread(a), 3),
  }
}

/** Above this share of somebody else's work a rate cannot carry a verdict. */
const FOREIGN_SHARE_MAX = 0.1

/**
 * A ratio passes when it reaches its target and nothing was answered wrongly. One that lies nearer to the target than runs of the same
 * thing lie to each other says neither yes nor no, and no ratio passes that was taken beside somebody else's work.
 */
export function judge(
  { ratio, aaSpread, a }: Comparison,
  target: number,
  oracle: Oracle,
  foreign: readonly number[],
): { pass: boolean; verdict: string } {
  if (oracle.wrong > 0 || oracle.checked === 0)
    return { pass: false, verdict: `oracle: ${oracle.wrong} of ${oracle.checked} answers were wrong` }
  const foreignShare = rounded(median(foreign), 2)
  if (foreignShare > FOREIGN_SHARE_MAX) {
    return {
      pass: false,
      verdict: `inconclusive: others took ${foreignShare} of the machine; the ratio was ${ratio}, the target ${target}`,
    }
  }
  if (ratio < target) return { pass: false, verdict: `missed: ${ratio} is below ${target}` }
  if (a.length < 5) return { pass: false, verdict: `inconclusive: ${a.length} pairs are fewer than 5` }
  if (ratio - target < aaSpread * ratio) {
    return { pass: false, verdict: `inconclusive: ${ratio} reaches ${target}, but by less than the A/A spread of ${aaSpread}` }
  }
  return { pass: true, verdict: 'reached' }
}

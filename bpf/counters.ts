/** Reads the per-CPU counters: the numbers that never lie, whatever happens to events. */
import { readFileSync } from 'node:fs'
import { lookupElement } from '#sys/libbpf.ts'
import {
  COUNTERS,
  counterValueCodec,
  DROP_REASON_NAMES,
  eventBudgetCodec,
  REASON_MAX,
  VERDICT_ALLOW,
  VERDICT_AUDIT,
  VERDICT_DENY,
  VERDICT_REDIRECT,
} from './gen/abi.ts'
import { u32Codec } from './map.ts'

export interface Counter {
  /** audited: passed, and policy in audit would have dropped it. */
  readonly verdict: 'denied' | 'allowed' | 'redirected' | 'audited'
  /** Name of the drop reason, `none` when nothing was dropped; for audited the one that it would have been dropped for. */
  readonly reason: string
  readonly direction: 'ingress' | 'egress'
  readonly packets: bigint
  readonly bytes: bigint
}

const VERDICT_NAMES: ReadonlyMap<number, Counter['verdict']> = new Map([
  [VERDICT_DENY, 'denied'],
  [VERDICT_ALLOW, 'allowed'],
  [VERDICT_REDIRECT, 'redirected'],
  [VERDICT_AUDIT, 'audited'],
])

/** CPUs that the kernel keeps values for, which can be more than are there. */
export function possibleCpuCount(): number {
  const text = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim()
  return Number(text.split(/[-,]/).at(-1)) + 1
}

/** All counters that are not zero. */
export function readCounters(countersFd: number): Counter[] {
  const cpus = possibleCpuCount()
  const bytes = Buffer.alloc(counterValueCodec.size * cpus)
  const counters: Counter[] = []
  for (let index = 0; index < COUNTERS; index++) {
    if (!lookupElement(countersFd, u32Codec.encode(index), bytes, 'counters')) continue
    let packets = 0n
    let length = 0n
    for (let cpu = 0; cpu < cpus; cpu++) {
      const value = counterValueCodec.decode(bytes.subarray(cpu * counterValueCodec.size))
      packets += value.packets
      length += value.bytes
    }
    if (packets === 0n) continue
    const reason = index % REASON_MAX
    const rest = Math.floor(index / REASON_MAX)
    const verdict = Math.floor(rest / 2)
    counters.push({
      verdict: VERDICT_NAMES.get(verdict) ?? 'denied',
      reason: DROP_REASON_NAMES.get(reason) ?? String(reason),
      direction: rest % 2 === 0 ? 'ingress' : 'egress',
      packets,
      bytes: length,
    })
  }
  return counters
}

/** Events that had no place since the map was made: over budget, or the ring was full. */
export function readEventsLost(eventBudgetsFd: number): bigint {
  const cpus = possibleCpuCount()
  const bytes = Buffer.alloc(eventBudgetCodec.size * cpus)
  if (!lookupElement(eventBudgetsFd, u32Codec.encode(0), bytes, 'event_budgets')) return 0n
  let total = 0n
  for (let cpu = 0; cpu < cpus; cpu++) total += eventBudgetCodec.decode(bytes.subarray(cpu * eventBudgetCodec.size)).lost
  return total
}

/** Processor time of processes and of cores, from /proc, and where processes may run. */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

/** USER_HZ, which every architecture that Headgate runs on has at 100. */
const TICK_US = 10_000

/** User and system time that a process has used, in microseconds. */
export function processorUs(pid: number): number {
  const fields = afterName(pid)
  return (Number(fields[11]) + Number(fields[12])) * TICK_US
}

export function parentOf(pid: number): number {
  return Number(afterName(pid)[1])
}

/** Fields of /proc/PID/stat from the third on: the second, the name, may hold blanks. */
function afterName(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

export interface CoreTimes {
  readonly busyUs: number
  readonly softirqUs: number
  readonly stolenUs: number
}

/** Of one core since boot. */
export function coreTimes(core: number): CoreTimes {
  const line = readFileSync('/proc/stat', 'utf8')
    .split('\n')
    .find((text) => text.startsWith(`cpu${core} `))
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (line ?? '').split(/\s+/).slice(1).map(Number)
  return {
    busyUs: (user + nice + system + irq + softirq) * TICK_US,
    softirqUs: softirq * TICK_US,
    stolenUs: steal * TICK_US,
  }
}

/**
 * What share of both cores went to processes that are none of a run's: what they were busy with, less what is accounted for. Above a few
 * hundredths somebody else was working on the machine, and the run's rates say little.
 */
export function foreignShare(before: readonly CoreTimes[], after: readonly CoreTimes[], accountedUs: number, wallMs: number): number {
  const busyUs = after.reduce(
    (sum, core, index) => sum + core.busyUs + core.stolenUs - (before[index]?.busyUs ?? 0) - (before[index]?.stolenUs ?? 0),
    0,
  )
  return Math.max(0, (busyUs - accountedUs) / (after.length * wallMs * 1000))
}

export const CORE_UNDER_TEST = 0
export const CORE_OF_CLIENT = 1

/** Binds this process with all its threads, and whatever it starts from now on, to the core of what is under test. */
export function pinThisProcess(): void {
  execFileSync('taskset', ['-a', '-c', '-p', String(CORE_UNDER_TEST), String(process.pid)], { stdio: 'ignore' })
}

/** A command on the client's core. */
export function onClientCore(...command: readonly string[]): string[] {
  return ['taskset', '-c', String(CORE_OF_CLIENT), ...command]
}

/** Children, children's children and so on. */
export function descendantsOf(pid: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const parent = parentOf(Number(name))
      children.set(parent, [...(children.get(parent) ?? []), Number(name)])
    } catch {
      // It ended meanwhile.
    }
  }
  const found: number[] = []
  for (const queue = [pid]; queue.length > 0; ) {
    const next = children.get(queue.shift() as number) ?? []
    found.push(...next)
    queue.push(...next)
  }
  return found
}

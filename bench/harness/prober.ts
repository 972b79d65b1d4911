/** Runs bench/workloads/prober.mjs in a workload, and waits for what it is to see. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type Machine, ROOT, type Workload } from '../../test/support/machine.ts'

export interface Sight {
  /** 0: no answer. */
  readonly status: number
  /** When it was asked, monotonic milliseconds. */
  readonly sentMs: number
}

export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

export class Prober {
  readonly #child: ChildProcess
  readonly #counts = new Map<number, number>()
  readonly #waiters = new Set<(sight: Sight) => void>()

  constructor(machine: Machine, from: Workload, url: string, options: { readonly everyMs: number; readonly timeoutMs: number }) {
    this.#child = machine.start(from.netns, [
      join(ROOT, 'bin/node'),
      join(ROOT, 'bench/workloads/prober.mjs'),
      url,
      String(options.everyMs),
      String(options.timeoutMs),
    ])
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const [status = 0, sentMs = 0] = line.split(' ').map(Number)
      this.#counts.set(status, (this.#counts.get(status) ?? 0) + 1)
      for (const wake of this.#waiters) wake({ status, sentMs })
    })
  }

  /** How often each status was seen; 0 is no answer. */
  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts)
  }

  /** The first question asked after a moment that got a status. @throws Error after the time */
  saw(status: number, afterMs: number, timeoutMs: number): Promise<Sight> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer)
        this.#waiters.delete(wake)
      }
      const wake = (sight: Sight): void => {
        if (sight.status !== status || sight.sentMs < afterMs) return
        end()
        resolve(sight)
      }
      const timer = setTimeout(() => {
        end()
        reject(new Error(`no status ${status} within ${timeoutMs} ms, but: ${JSON.stringify(this.counts)}`))
      }, timeoutMs)
      this.#waiters.add(wake)
    })
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exit
  }
}

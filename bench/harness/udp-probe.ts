/** Runs bench/src/udp-probe.c between two workloads, and waits for what it sees. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Machine, Workload } from '../../test/support/machine.ts'

export type Change = 'pass' | 'block'

interface Line {
  readonly what: Change | 'late'
  readonly port: number
  readonly atMs: number
}

export class UdpProbe {
  readonly #child: ChildProcess
  readonly #lines: Line[] = []
  readonly #waiters = new Set<() => void>()
  #errors = ''

  constructor(machine: Machine, program: string, from: Workload, to: Workload, intervalUs: number, ...ports: readonly number[]) {
    const names = [`/run/netns/${from.netns}`, `/run/netns/${to.netns}`]
    this.#child = machine.start(from.netns, [program, ...names, to.address, String(intervalUs), ...ports.map(String)], { stdin: true })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text
    })
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (text) => {
      const [what, port, ns] = text.split(' ')
      this.#lines.push({ what: what as Line['what'], port: Number(port), atMs: Number(BigInt(ns ?? 0)) / 1e6 })
      for (const wake of this.#waiters) wake()
    })
  }

  /** Packets taken for lost that arrived after all: the figures of this probe are then worth nothing. */
  get lateCount(): number {
    return this.#lines.filter(({ what }) => what === 'late').length
  }

  changesOf(port: number, afterMs: number): readonly Line[] {
    return this.#lines.filter((line) => line.port === port && line.atMs >= afterMs)
  }

  /** When the first packet after a moment was sent that met this fate. @throws Error after the time */
  async saw(what: Change, port: number, afterMs: number, timeoutMs = 5000): Promise<number> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const found = this.#lines.find((line) => line.what === what && line.port === port && line.atMs >= afterMs)
      if (found !== undefined) return found.atMs
      const leftMs = deadline - performance.now()
      if (leftMs <= 0) {
        const seen = this.#lines.map((line) => `${line.what} ${line.port} ${line.atMs}`).join(', ')
        throw new Error(`no "${what} ${port}" after ${afterMs} within ${timeoutMs} ms, but: ${seen} ${this.#errors}`)
      }
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer)
          this.#waiters.delete(done)
          resolve()
        }
        const timer = setTimeout(done, leftMs)
        this.#waiters.add(done)
      })
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.stdin?.end()
    await exit
  }
}

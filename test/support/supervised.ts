/** Headgate as users run it: under `headgate up`, which can be killed and started again, as can each of its processes. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine } from './machine.ts'
import type { ProcessName } from './running.ts'

export class Supervised {
  readonly #machine: Machine
  #up: (ChildProcess & { log: string }) | undefined

  constructor(machine: Machine) {
    this.#machine = machine
  }

  get log(): string {
    return this.#up?.log ?? ''
  }

  get upPid(): number {
    return this.#up?.pid ?? 0
  }

  start(): void {
    this.#up = this.#machine.headgate('up')
  }

  /** Resolves when `up` has logged a text. */
  async logged(text: string, timeoutMs = 10_000): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!this.log.includes(text)) {
      if (performance.now() > deadline) throw new Error(`no "${text}" within ${timeoutMs} ms:\n${this.log}`)
      await delay(5)
    }
  }

  /** @returns undefined before the process was first started */
  pidOf(name: ProcessName): number | undefined {
    try {
      const text = readFileSync(join(this.#machine.folder, 'run/up', `${name}.json`), 'utf8')
      return (JSON.parse(text) as { pid: number }).pid
    } catch {
      return undefined
    }
  }

  async killUp(): Promise<void> {
    const up = this.#up
    if (up === undefined) return
    const exit = once(up, 'exit')
    up.kill('SIGKILL')
    await exit
  }

  /** SIGTERM, and its end with everything that it runs. */
  async stop(): Promise<void> {
    const up = this.#up
    if (up === undefined) return
    const exit = once(up, 'exit')
    up.kill('SIGTERM')
    await exit
  }

  /** `kill -9`; resolves when `up` has started another. */
  kill(name: ProcessName, timeoutMs = 10_000): Promise<void> {
    return this.#signal(name, 'SIGKILL', timeoutMs)
  }

  /** SIGTERM to one process; resolves when `up` has started another. */
  end(name: ProcessName, timeoutMs = 10_000): Promise<void> {
    return this.#signal(name, 'SIGTERM', timeoutMs)
  }

  async #signal(name: ProcessName, signal: NodeJS.Signals, timeoutMs: number): Promise<void> {
    const pid = this.pidOf(name)
    if (pid === undefined) throw new Error(`${name} does not run:\n${this.log}`)
    process.kill(pid, signal)
    const deadline = performance.now() + timeoutMs
    while (this.pidOf(name) === pid) {
      if (performance.now() > deadline) throw new Error(`${name} was not restarted within ${timeoutMs} ms:\n${this.log}`)
      await delay(5)
    }
  }
}

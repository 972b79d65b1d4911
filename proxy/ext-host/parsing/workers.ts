/** Keeps the workers of the relay running, each a process of its own: one that dies takes its own connections with it, and no others. */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Logger } from 'pino'

const RESTART_MS_MIN = 100
const RESTART_MS_MAX = 5000
/** One that lived so long is started again at once. */
const STABLE_MS = 10_000

export class RelayWorkers {
  readonly #command: readonly string[]
  readonly #log: Pick<Logger, 'info' | 'warn'>
  readonly #children = new Map<number, ChildProcess>()
  readonly #timers = new Map<number, NodeJS.Timeout>()
  #isStarted = false
  #isClosed = false

  /** @param command that starts a worker, when its number is added */
  constructor(command: readonly string[], log: Pick<Logger, 'info' | 'warn'>) {
    this.#command = command
    this.#log = log
  }

  /** Starts them, the first time. */
  start(workers: readonly number[]): void {
    if (this.#isStarted) return
    this.#isStarted = true
    for (const worker of workers) this.#start(worker, 0)
  }

  /** Asks all to end and waits for them. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const timer of this.#timers.values()) clearTimeout(timer)
    await Promise.all(
      [...this.#children.values()].map(
        (child) =>
          new Promise<void>((resolve) => {
            child.once('exit', () => resolve())
            child.kill('SIGTERM')
          }),
      ),
    )
  }

  #start(worker: number, failures: number): void {
    const [file = '', ...args] = this.#command
    const startedMs = performance.now()
    // Its end of the pipe tells a worker that this process is no more.
    const child = spawn(file, [...args, String(worker)], { stdio: ['pipe', 'inherit', 'inherit'] })
    this.#children.set(worker, child)
    child.on('error', (error) => this.#log.warn({ worker, err: error }, 'a worker cannot be started'))
    child.stdin?.on('error', () => {})
    child.once('close', (code, signal) => {
      this.#children.delete(worker)
      if (this.#isClosed) return
      const count = performance.now() - startedMs > STABLE_MS ? 0 : failures + 1
      const delayMs = count === 0 ? 0 : Math.min(RESTART_MS_MIN * 2 ** (count - 1), RESTART_MS_MAX)
      this.#log.warn({ worker, code, signal, delayMs }, 'a worker of the relay ended')
      this.#timers.set(
        worker,
        setTimeout(() => this.#start(worker, count), delayMs),
      )
    })
  }
}

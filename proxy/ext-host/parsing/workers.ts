/** Keeps the workers of the relay running, each a process of its own: one that dies takes its own connections with it, and no others. */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { isAnswering } from '#api/unix-socket.ts'
import { WORKER_STDIO, watchWorker } from './lifeline.ts'

const RESTART_MS_MIN = 100
const RESTART_MS_MAX = 5000
/** One that lived so long is started again at once. */
const STABLE_MS = 10_000
/** For one that takes over, before the next one is started. */
const READY_WAIT_MS = 3000
/** For workers without connections to end. */
const END_WAIT_MS = 1000

export interface RelayWorkersOptions {
  /** Starts a worker, when its number is added. */
  readonly command: readonly string[]
  /** Where a worker takes connections. */
  readonly socketOf: (worker: number) => string
  readonly log: Pick<Logger, 'info' | 'warn'>
}

export class RelayWorkers {
  readonly #options: RelayWorkersOptions
  readonly #children = new Map<number, ChildProcess>()
  readonly #timers = new Map<number, NodeJS.Timeout>()
  #isStarted = false
  #isClosed = false

  constructor(options: RelayWorkersOptions) {
    this.#options = options
  }

  /** Starts them, the first time. One by one where workers of an extension host that is gone still serve: each takes over from its own. */
  async start(workers: readonly number[]): Promise<void> {
    if (this.#isStarted) return
    this.#isStarted = true
    for (const worker of workers) {
      const takesOver = await isAnswering(this.#options.socketOf(worker))
      if (this.#isClosed) return
      const ready = this.#start(worker, 0)
      if (takesOver) await Promise.race([ready, delay(READY_WAIT_MS, undefined, { ref: false })])
    }
  }

  /** Leaves them to the extension host that comes next: they serve until its workers do. */
  leave(): void {
    this.#isClosed = true
    for (const timer of this.#timers.values()) clearTimeout(timer)
    for (const child of this.#children.values()) {
      lifelineOf(child).destroy()
      child.unref()
    }
  }

  /** Asks all to end, and waits for those that have nothing left to do; the others end with their connections. */
  async close(): Promise<void> {
    const ends = [...this.#children.values()].map((child) => new Promise<void>((resolve) => child.once('exit', () => resolve())))
    for (const child of this.#children.values()) child.kill('SIGTERM')
    await Promise.race([Promise.all(ends), delay(END_WAIT_MS, undefined, { ref: false })])
    this.leave()
  }

  /** @returns resolves when it takes connections, or has ended */
  #start(worker: number, failures: number): Promise<void> {
    const { command, log } = this.#options
    const [file = '', ...args] = command
    const startedMs = performance.now()
    const child = spawn(file, [...args, String(worker)], { stdio: [...WORKER_STDIO] })
    const ready = Promise.withResolvers<void>()
    this.#children.set(worker, child)
    child.on('error', (error) => log.warn({ worker, err: error }, 'a worker cannot be started'))
    watchWorker(lifelineOf(child), ready.resolve, () => {
      log.warn({ worker, pid: child.pid }, 'a worker of the relay hangs')
      child.kill('SIGKILL')
    })
    child.once('close', (code, signal) => {
      ready.resolve()
      if (this.#isClosed) return
      this.#children.delete(worker)
      const count = performance.now() - startedMs > STABLE_MS ? 0 : failures + 1
      const delayMs = count === 0 ? 0 : Math.min(RESTART_MS_MIN * 2 ** (count - 1), RESTART_MS_MAX)
      log.warn({ worker, code, signal, delayMs }, 'a worker of the relay ended')
      this.#timers.set(
        worker,
        setTimeout(() => this.#start(worker, count), delayMs),
      )
    })
    return ready.promise
  }
}

function lifelineOf(child: ChildProcess): Duplex {
  return child.stdio[3] as Duplex
}

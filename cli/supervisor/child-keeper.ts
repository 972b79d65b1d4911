/**
 * Keeps one child running: adopts the one that lives, starts it when there is none, starts it again when it dies. The first restart
 * is immediate; a child that keeps dying soon after its start waits longer each time.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { processStartTime, watchExit } from '#sys/pidfd.ts'
import { CHILD_MARK, type ChildIdentity, findChild, isAlive, removeRecord, writeRecord } from './child-record.ts'
import { KeptDescriptors } from './kept-descriptors.ts'

export interface ChildSpec {
  /** File name of its record. */
  readonly name: string
  readonly command: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Of everything it is started with: an adopted child with another digest is replaced. */
  readonly digest: string
  /** Between SIGTERM and SIGKILL. */
  readonly stopTimeoutMs: number
  /** Sockets that it asks for are kept for the next one (sys/service-manager.ts). */
  readonly keepsDescriptors?: boolean
}

export interface BackoffPolicy {
  /** A child that lived this long is restarted at once, and its earlier deaths are forgotten. */
  readonly stableAfterMs: number
  /** Wait before the second restart in a row; doubles with each further one. */
  readonly firstDelayMs: number
  readonly delayMaxMs: number
}

export const DEFAULT_BACKOFF: BackoffPolicy = { stableAfterMs: 2000, firstDelayMs: 100, delayMaxMs: 5000 }

export type KeeperEvent =
  | { readonly kind: 'started' | 'adopted' | 'replaced'; readonly pid: number }
  | { readonly kind: 'died'; readonly pid: number; readonly reason: string; readonly restartInMs: number }
  | { readonly kind: 'failed'; readonly reason: string; readonly restartInMs: number }
  | { readonly kind: 'stopped' | 'killed'; readonly pid: number }

/** Delay before the next restart after `deaths` in a row (1: the first). */
export function backoffMs(policy: BackoffPolicy, deaths: number): number {
  return deaths <= 1 ? 0 : Math.min(policy.delayMaxMs, policy.firstDelayMs * 2 ** Math.min(deaths - 2, 30))
}

interface RunningChild {
  readonly identity: ChildIdentity
  /** Resolves with why it ended. */
  readonly exited: Promise<string>
}

export class ChildKeeper {
  readonly spec: ChildSpec
  readonly #folder: string
  readonly #backoff: BackoffPolicy
  readonly #emit: (event: KeeperEvent) => void
  readonly #stopping = new AbortController()
  #child: RunningChild | undefined
  #loop: Promise<void> | undefined
  #descriptors: KeptDescriptors | undefined

  constructor(folder: string, spec: ChildSpec, backoff: BackoffPolicy, emit: (event: KeeperEvent) => void) {
    this.#folder = folder
    this.spec = spec
    this.#backoff = backoff
    this.#emit = emit
  }

  /** The child's pid while it runs. */
  get pid(): number | undefined {
    return this.#child?.identity.pid
  }

  /** To be called before any child is started. @throws RangeError or SystemCallError when sockets cannot be kept for it */
  prepare(): void {
    if (this.spec.keepsDescriptors === true) this.#descriptors = new KeptDescriptors(join(this.#folder, `${this.spec.name}.notify`))
  }

  /** Adopts or starts the child and keeps it until `stop`. */
  start(): void {
    this.#loop = this.#keep()
  }

  /** SIGTERM, a bounded wait, SIGKILL, each to its whole process group; resolves when it is gone. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#terminate()
    await this.#loop
    this.#descriptors?.close()
    removeRecord(this.#folder, this.spec.name)
  }

  /** SIGKILL now, for the impatient. */
  kill(): void {
    if (this.#child !== undefined) signalGroup(this.#child.identity, 'SIGKILL')
  }

  async #keep(): Promise<void> {
    await this.#adopt()
    let deaths = 0
    while (!this.#stopping.signal.aborted) {
      const startedAt = performance.now()
      let failure: string | undefined
      if (this.#child === undefined) failure = await this.#spawn()
      const child = this.#child as RunningChild | undefined
      const reason = child === undefined ? (failure ?? '') : await child.exited
      this.#child = undefined
      if (this.#stopping.signal.aborted) return
      deaths = performance.now() - startedAt >= this.#backoff.stableAfterMs ? 1 : deaths + 1
      const restartInMs = backoffMs(this.#backoff, deaths)
      if (child === undefined) this.#emit({ kind: 'failed', reason, restartInMs })
      else this.#emit({ kind: 'died', pid: child.identity.pid, reason, restartInMs })
      if (restartInMs > 0) await delay(restartInMs, undefined, { signal: this.#stopping.signal }).catch(() => {})
    }
  }

  async #adopt(): Promise<void> {
    const record = findChild(this.#folder, this.spec.name)
    if (record === undefined) return
    const { pid, startTime } = record
    this.#child = { identity: { pid, startTime }, exited: exitOf({ pid, startTime }) }
    if (record.digest === undefined || record.digest === this.spec.digest) {
      writeRecord(this.#folder, { name: this.spec.name, pid, startTime, digest: this.spec.digest })
      this.#emit({ kind: 'adopted', pid })
    } else {
      await this.#terminate()
      this.#child = undefined
      this.#emit({ kind: 'replaced', pid })
    }
  }

  /** @returns why it could not be started */
  async #spawn(): Promise<string | undefined> {
    const { fds, environment, command } = this.#descriptors?.handedTo(this.spec.command) ?? { fds: [], command: this.spec.command }
    const [file = '', ...args] = command
    // A session of its own: signals to this process's terminal or group, and its death, do not reach the child.
    const child = spawn(file, args, {
      detached: true,
      stdio: ['ignore', 2, 2, ...fds],
      env: { ...this.spec.environment, ...environment, [CHILD_MARK]: join(this.#folder, this.spec.name) },
    })
    const exited = new Promise<string>((resolve) => {
      child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : signal))
    })
    const error = await new Promise<Error | undefined>((resolve) => {
      child.once('spawn', () => resolve(undefined))
      child.once('error', resolve)
    })
    if (error !== undefined || child.pid === undefined) return error?.message ?? 'no process'
    // A child that is dead already is a zombie without start time; its exit event follows.
    const identity = { pid: child.pid, startTime: processStartTime(child.pid) ?? '' }
    this.#child = { identity, exited }
    writeRecord(this.#folder, { name: this.spec.name, ...identity, digest: this.spec.digest })
    this.#emit({ kind: 'started', pid: child.pid })
    return undefined
  }

  async #terminate(): Promise<void> {
    const child = this.#child
    if (child === undefined) return
    signalGroup(child.identity, 'SIGTERM')
    const timeout = new AbortController()
    const isGone = await Promise.race([
      child.exited.then(() => true),
      delay(this.spec.stopTimeoutMs, false, { signal: timeout.signal }).catch(() => false),
    ])
    timeout.abort()
    if (!isGone) {
      signalGroup(child.identity, 'SIGKILL')
      await child.exited
    }
    this.#emit({ kind: isGone ? 'stopped' : 'killed', pid: child.identity.pid })
  }
}

/** Of a process that is not our child; its exit code went to whoever reaped it. */
async function exitOf(identity: ChildIdentity): Promise<string> {
  const abandon = new AbortController()
  const watched = watchExit(identity.pid, abandon.signal)
  // The pid may have passed to another process before the watch began; then ours is gone.
  if (!isAlive(identity)) {
    abandon.abort()
    await watched.catch(() => {})
  } else await watched
  return 'gone'
}

/** The child leads a group of its own: what it started goes with it. */
function signalGroup(identity: ChildIdentity, name: NodeJS.Signals): void {
  if (!isAlive(identity)) return
  try {
    process.kill(-identity.pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

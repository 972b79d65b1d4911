/**
 * All children of one `headgate up`. They are independent: each is kept by a keeper of its own, and only the order of stopping
 * (last first) ties them together. Killing the supervisor leaves them running; the next one adopts them.
 */
import type { Logger } from 'pino'
import { type BackoffPolicy, ChildKeeper, type ChildSpec, DEFAULT_BACKOFF, type KeeperEvent } from './child-keeper.ts'

export interface SupervisorOptions {
  /** Folder of the records: paths.run/up. */
  readonly folder: string
  /** In the order of starting. */
  readonly children: readonly ChildSpec[]
  readonly backoff?: BackoffPolicy
  readonly onEvent: (name: string, event: KeeperEvent) => void
}

export class Supervisor {
  readonly #keepers: readonly ChildKeeper[]

  constructor(options: SupervisorOptions) {
    this.#keepers = options.children.map(
      (spec) => new ChildKeeper(options.folder, spec, options.backoff ?? DEFAULT_BACKOFF, (event) => options.onEvent(spec.name, event)),
    )
  }

  /** @throws RangeError or SystemCallError; no child is started then */
  start(): void {
    for (const keeper of this.#keepers) keeper.prepare()
    for (const keeper of this.#keepers) keeper.start()
  }

  /** One after the other, the last started first. */
  async stop(): Promise<void> {
    for (const keeper of this.#keepers.toReversed()) await keeper.stop()
  }

  kill(): void {
    for (const keeper of this.#keepers) keeper.kill()
  }

  pids(): ReadonlyMap<string, number | undefined> {
    return new Map(this.#keepers.map((keeper) => [keeper.spec.name, keeper.pid]))
  }
}

/** What the log says of an event. */
export function logEvent(log: Logger, name: string, event: KeeperEvent): void {
  const { kind, ...facts } = event
  const isBad = kind === 'died' || kind === 'failed' || kind === 'killed'
  const text = {
    started: 'started',
    adopted: 'found running, adopted',
    replaced: 'found running with another configuration, replacing it',
    died: 'died',
    failed: 'could not be started',
    stopped: 'stopped',
    killed: 'did not stop in time, killed',
  }[kind]
  log[isBad ? 'warn' : 'info'](facts, `${name} ${text}`)
}

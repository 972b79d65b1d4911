/**
 * The streams on which processes hear what the agent states (SyncExtHost, SyncRelay, SyncDns), and what each said last of itself. One that
 * holds another revision than the agent's is told everything; from then on it hears each change.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js'

interface Report {
  readonly epoch: bigint
  readonly appliedRevision: bigint
}

export interface FeedEvents<R, U> {
  /** What the agent holds now. */
  readonly revision: () => bigint
  readonly everything: () => U
  /** @param isOurs whether the report is about the agent's own lineage of revisions; of another one, it has applied revision 0 */
  readonly onReport: (report: R, isOurs: boolean) => void
  /** After each report, and when a process went away. */
  readonly onChange: () => void
}

export class FeedStreams<R extends Report, U> {
  readonly #epoch: bigint
  readonly #events: FeedEvents<R, U>
  readonly #reports = new Map<ServerDuplexStream<R, U>, R>()

  constructor(epoch: bigint, events: FeedEvents<R, U>) {
    this.#epoch = epoch
    this.#events = events
  }

  get isConnected(): boolean {
    return this.#reports.size > 0
  }

  /** What each that is connected said last. */
  reports(): R[] {
    return [...this.#reports.values()]
  }

  send(update: U): void {
    for (const stream of this.#reports.keys()) stream.write(update)
  }

  serve(stream: ServerDuplexStream<R, U>): void {
    const gone = (): void => {
      if (this.#reports.delete(stream)) this.#events.onChange()
    }
    stream.on('data', (received: R) => {
      const isOurs = received.epoch === this.#epoch
      const report = isOurs ? received : { ...received, appliedRevision: 0n }
      const isNew = !this.#reports.has(stream)
      this.#reports.set(stream, report)
      if (isNew && report.appliedRevision !== this.#events.revision()) stream.write(this.#events.everything())
      this.#events.onReport(report, isOurs)
      this.#events.onChange()
    })
    stream.on('end', () => {
      gone()
      stream.end()
    })
    stream.on('error', gone)
    stream.on('close', gone)
  }
}

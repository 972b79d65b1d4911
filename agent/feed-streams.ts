/**
 * The streams on which a process hears what the agent states (SyncExtHost, SyncDns), and which revision it said that it has in force. One
 * that holds another revision than the agent's is told everything; from then on it hears each change.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js'

interface Report {
  readonly epoch: bigint
  readonly appliedRevision: bigint
}

/** What is known of a process that connects. */
export interface ConnectedProcess {
  connected: boolean
  appliedRevision: bigint
}

export interface FeedEvents<R, U> {
  /** What the agent holds now. */
  readonly revision: () => bigint
  readonly everything: () => U
  /** @param isOurs whether the report is about the agent's own lineage of revisions */
  readonly onReport: (report: R, isOurs: boolean) => void
  /** After each report, and when the process went away. */
  readonly onChange: () => void
}

export class FeedStreams<R extends Report, U> {
  readonly #epoch: bigint
  readonly #state: ConnectedProcess
  readonly #events: FeedEvents<R, U>
  readonly #streams = new Set<ServerDuplexStream<R, U>>()

  /** @param state kept up to date */
  constructor(epoch: bigint, state: ConnectedProcess, events: FeedEvents<R, U>) {
    this.#epoch = epoch
    this.#state = state
    this.#events = events
  }

  send(update: U): void {
    for (const stream of this.#streams) stream.write(update)
  }

  serve(stream: ServerDuplexStream<R, U>): void {
    const gone = (): void => {
      if (!this.#streams.delete(stream)) return
      this.#state.connected = this.#streams.size > 0
      this.#events.onChange()
    }
    stream.on('data', (report: R) => {
      const isOurs = report.epoch === this.#epoch
      const appliedRevision = isOurs ? report.appliedRevision : 0n
      if (!this.#streams.has(stream)) {
        this.#streams.add(stream)
        if (appliedRevision !== this.#events.revision()) stream.write(this.#events.everything())
      }
      Object.assign(this.#state, { connected: true, appliedRevision })
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

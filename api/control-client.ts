/**
 * A process's end of its stream with the agent (SyncProxy, SyncExtHost). It dials, and dials again for as long as the process lives; what
 * is in force stays so while nobody answers. Reports are sent when something in them changed, so silence means that nothing did.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { clone, equals, type Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import { Control } from './gen/headgate/v1/control_pb.js'
import { createClient, RECONNECT_MS_MAX, RECONNECT_MS_MIN, type ServiceClient } from './grpc.ts'

type Report = Message & { appliedRevision: bigint }

export interface ControlClientOptions<R extends Report, Update> {
  readonly socketPath: string
  readonly signal: AbortSignal
  readonly open: (client: ServiceClient<typeof Control.method>) => ClientDuplexStream<R, Update>
  readonly reportSchema: GenMessage<R>
  /** What to report now; revision 0 asks for a full update. */
  readonly report: () => R
  /** @returns whether it could be applied; if not, a full update is asked for */
  readonly onUpdate: (update: Update) => boolean
  readonly onConnection: (connected: boolean, reason: string) => void
}

export class ControlClient<R extends Report, Update> {
  readonly #options: ControlClientOptions<R, Update>
  readonly #client: ServiceClient<typeof Control.method>
  #stream: ClientDuplexStream<R, Update> | undefined
  #lastReport: R | undefined
  #reportDue = false
  #wantsFull = false

  constructor(options: ControlClientOptions<R, Update>) {
    this.#options = options
    this.#client = createClient(Control, options.socketPath)
  }

  get client(): ServiceClient<typeof Control.method> {
    return this.#client
  }

  /** Runs until the signal. */
  async run(): Promise<void> {
    const { signal } = this.#options
    let pauseMs = RECONNECT_MS_MIN
    while (!signal.aborted) {
      const served = await this.#runStream()
      // Between two streams that brought nothing the pause grows: an agent that refuses us is not to be hammered.
      pauseMs = served ? RECONNECT_MS_MIN : Math.min(pauseMs * 2, RECONNECT_MS_MAX)
      await delay(pauseMs, undefined, { signal }).catch(() => {})
    }
    this.#client.close()
  }

  /** Something in the report may have changed. Several calls in one turn make one report. */
  touch(): void {
    if (this.#reportDue) return
    this.#reportDue = true
    setImmediate(() => {
      this.#reportDue = false
      this.#send(this.#options.report())
    })
  }

  /** @returns whether the agent sent anything */
  #runStream(): Promise<boolean> {
    const { signal, open, onUpdate, onConnection } = this.#options
    return new Promise((resolve) => {
      const stream = open(this.#client)
      let served = false
      const end = (reason: string) => {
        signal.removeEventListener('abort', cancel)
        if (this.#stream !== stream) return
        this.#stream = undefined
        if (served) onConnection(false, reason)
        resolve(served)
      }
      const cancel = () => {
        stream.cancel()
        end('stopping')
      }
      this.#stream = stream
      this.#lastReport = undefined
      signal.addEventListener('abort', cancel, { once: true })
      stream.on('data', (update: Update) => {
        if (!served) onConnection(true, '')
        served = true
        if (onUpdate(update)) return
        // A new stream whose first report holds nothing: the one request for everything that no state of the agent can miss.
        this.#wantsFull = true
        stream.cancel()
        end('an update did not fit')
      })
      stream.on('error', (error) => end(error.message))
      stream.on('end', () => end('the agent closed the stream'))
      const report = clone(this.#options.reportSchema, this.#options.report())
      if (this.#wantsFull) report.appliedRevision = 0n
      this.#send(report, true)
      this.#wantsFull = false
    })
  }

  #send(report: R, always = false): void {
    const stream = this.#stream
    if (stream === undefined) return
    if (!always && this.#lastReport !== undefined && equals(this.#options.reportSchema, report, this.#lastReport)) return
    this.#lastReport = report
    stream.write(report)
  }
}

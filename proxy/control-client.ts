/**
 * The proxy's end of the agent's SyncProxy stream. It dials, and dials again for as long as the process lives; what is in force stays
 * so while nobody answers. Reports are sent when something in them changed, so silence means that nothing did.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { create, equals } from '@bufbuild/protobuf'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import { Control, type ProxyReport, ProxyReportSchema, type ProxyUpdate } from '#api/gen/headgate/v1/control_pb.js'
import { createClient, RECONNECT_MS_MAX, RECONNECT_MS_MIN, type ServiceClient } from '#api/grpc.ts'

export interface ControlClientOptions {
  readonly socketPath: string
  readonly signal: AbortSignal
  /** What to report now; revision 0 asks for a full update. */
  readonly report: () => ProxyReport
  /** @returns whether it could be applied; if not, a full update is asked for */
  readonly onUpdate: (update: ProxyUpdate) => boolean
  readonly onConnection: (connected: boolean, reason: string) => void
}

export class ControlClient {
  readonly #options: ControlClientOptions
  readonly #client: ServiceClient<typeof Control.method>
  #stream: ClientDuplexStream<ProxyReport, ProxyUpdate> | undefined
  #lastReport: ProxyReport | undefined
  #reportDue = false
  #wantsFull = false

  constructor(options: ControlClientOptions) {
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
    const { signal, onUpdate, onConnection } = this.#options
    return new Promise((resolve) => {
      const stream = this.#client.syncProxy()
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
      stream.on('data', (update: ProxyUpdate) => {
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
      const report = this.#options.report()
      this.#send(this.#wantsFull ? create(ProxyReportSchema, { ...report, appliedRevision: 0n }) : report, true)
      this.#wantsFull = false
    })
  }

  #send(report: ProxyReport, always = false): void {
    const stream = this.#stream
    if (stream === undefined) return
    if (!always && this.#lastReport !== undefined && equals(ProxyReportSchema, report, this.#lastReport)) return
    this.#lastReport = report
    stream.write(report)
  }
}

/**
 * Sends flows to the agent. The queue is bounded: what the agent cannot take in time, or while it is away, is counted as lost and the
 * count is sent with the next batch; requests never wait for it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import type { ClientWritableStream } from '@grpc/grpc-js'
import { type Control, type DnsFlow, type FlowBatch, FlowBatchSchema, type HttpFlow, type RelayFlow } from './gen/headgate/v1/control_pb.js'
import { RECONNECT_MS_MAX, type ServiceClient } from './grpc.ts'

const QUEUE_FLOWS_MAX = 16_384
const BATCH_FLOWS_MAX = 512
/** Where flows come all the time, a message for each would cost the agent more than what they tell of. */
const FLUSH_INTERVAL_MS = 25

/** For the agent to take what is there at the end. */
const LAST_BATCH_MS = 200

/** Flows by the field of a batch that they are sent in. */
export interface ReportedFlows {
  readonly http: HttpFlow
  readonly dns: DnsFlow
  readonly relayed: RelayFlow
}

export class FlowReporter<Kind extends keyof ReportedFlows> {
  readonly #kind: Kind
  readonly #client: ServiceClient<typeof Control.method>
  readonly #signal: AbortSignal
  #queue: ReportedFlows[Kind][] = []
  #lost = 0n
  #stream: ClientWritableStream<FlowBatch> | undefined
  #blocked = false
  #flushDue = false
  #flushedMs = Number.NEGATIVE_INFINITY

  constructor(kind: Kind, client: ServiceClient<typeof Control.method>, signal: AbortSignal) {
    this.#kind = kind
    this.#client = client
    this.#signal = signal
  }

  /** Flows dropped and not yet told to the agent. */
  get lost(): bigint {
    return this.#lost
  }

  /** Keeps a stream open until the signal. */
  async run(): Promise<void> {
    while (!this.#signal.aborted) {
      await this.#runStream()
      await delay(RECONNECT_MS_MAX, undefined, { signal: this.#signal }).catch(() => {})
    }
  }

  add(flow: ReportedFlows[Kind]): void {
    if (this.#queue.length >= QUEUE_FLOWS_MAX) {
      this.#lost += 1n
      return
    }
    this.#queue.push(flow)
    if (this.#flushDue || this.#blocked) return
    this.#flushDue = true
    const waitMs = this.#flushedMs + FLUSH_INTERVAL_MS - performance.now()
    if (waitMs <= 0) setImmediate(this.#onDue)
    else setTimeout(this.#onDue, waitMs)
  }

  readonly #onDue = (): void => {
    this.#flushDue = false
    this.#flushedMs = performance.now()
    this.#flush()
  }

  #runStream(): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        this.#signal.removeEventListener('abort', cancel)
        if (this.#stream === stream) this.#stream = undefined
        resolve()
      }
      const stream: ClientWritableStream<FlowBatch> = this.#client.reportFlows(end)
      const cancel = () => {
        this.#flush()
        stream.end()
        setTimeout(() => stream.cancel(), LAST_BATCH_MS).unref()
      }
      this.#signal.addEventListener('abort', cancel, { once: true })
      stream.on('error', end)
      stream.on('drain', () => {
        this.#blocked = false
        this.#flush()
      })
      this.#stream = stream
      this.#blocked = false
      this.#flush()
    })
  }

  #flush(): void {
    while (this.#stream !== undefined && !this.#blocked && this.#queue.length > 0) {
      const flows = this.#queue.slice(0, BATCH_FLOWS_MAX)
      this.#queue = this.#queue.slice(BATCH_FLOWS_MAX)
      const batch = create(FlowBatchSchema, { [this.#kind]: flows, lost: this.#lost })
      this.#lost = 0n
      this.#blocked = !this.#stream.write(batch)
    }
  }
}

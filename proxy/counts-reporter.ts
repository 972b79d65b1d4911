/**
 * Answers the agent when it asks what was counted. The stream stays open and is silent in between; without an agent it is dialled again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import {
  type Control,
  type CountsReport,
  CountsReportSchema,
  type CountsRequest,
  type CountsSource,
} from '#api/gen/headgate/v1/control_pb.js'
import { RECONNECT_MS_MAX, type ServiceClient } from '#api/grpc.ts'

export interface CountsReporterOptions {
  readonly client: ServiceClient<typeof Control.method>
  readonly signal: AbortSignal
  readonly source: CountsSource
  /** Of several that count alike, which one this is. */
  readonly worker?: number
  /** What is counted now; it does not fail. */
  readonly read: (totalsOnly: boolean) => Promise<CountsReport>
}

/** Runs until the signal. */
export async function reportCounts(options: CountsReporterOptions): Promise<void> {
  const { signal } = options
  while (!signal.aborted) {
    await runStream(options)
    await delay(RECONNECT_MS_MAX, undefined, { signal }).catch(() => {})
  }
}

function runStream({ client, signal, source, worker = 0, read }: CountsReporterOptions): Promise<void> {
  return new Promise((resolve) => {
    const stream: ClientDuplexStream<CountsReport, CountsRequest> = client.reportCounts()
    let isOpen = true
    const cancel = () => stream.cancel()
    const end = () => {
      isOpen = false
      signal.removeEventListener('abort', cancel)
      resolve()
    }
    signal.addEventListener('abort', cancel, { once: true })
    // One after the other: answers of the same moment need not be made twice at once.
    let last = Promise.resolve()
    stream.on('data', ({ id, totalsOnly }: CountsRequest) => {
      last = last.then(async () => {
        if (!isOpen) return
        const report = await read(totalsOnly)
        if (isOpen) stream.write(create(CountsReportSchema, { ...report, source, worker, id }))
      })
    })
    // An agent that does not know the call, or is away: there will be another one.
    stream.on('error', end)
    stream.on('end', end)
    stream.write(create(CountsReportSchema, { source, worker }))
  })
}

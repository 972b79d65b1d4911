/**
 * Verdicts on requests, asked of the processes that count them (ReportCounts in api/control.proto). Nothing is kept here: whoever counts
 * can be asked again, and outlives this process. One that does not answer in time, or at all, is a line in the answer and holds up
 * nobody.
 */
import { create } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import {
  type CountsReport,
  CountsReportSchema,
  type CountsRequest,
  CountsRequestSchema,
  CountsSource,
} from '#api/gen/headgate/v1/control_pb.js'

type Call = ServerDuplexStream<CountsReport, CountsRequest>

/** How long a process may think. */
export const COUNTS_TIMEOUT_MS_MAX = 3000

/** Processes that may count; a sender that makes up sources is turned away. */
const SOURCES_MAX = 16

export interface AskOptions {
  /** Processes that have to count or be told of, and whether each is there. */
  readonly expected: readonly { readonly source: CountsSource; readonly connected: boolean }[]
  readonly totalsOnly?: boolean
  readonly timeoutMs?: number
}

export class CountsCollector {
  /** One of each source: each of these processes holds a lock, so a second stream is of a process that took the place of the first. */
  readonly #streams = new Map<CountsSource, CountsStream>()

  /** Takes a call of ReportCounts. */
  accept(call: Call): void {
    let stream: CountsStream | undefined
    const gone = (): void => {
      if (stream === undefined) return
      stream.close()
      if (this.#streams.get(stream.source) === stream) this.#streams.delete(stream.source)
    }
    call.on('data', (report: CountsReport) => {
      if (stream !== undefined) {
        stream.take(report)
        return
      }
      // The first one says who it is.
      const { source } = report
      const before = this.#streams.get(source)
      if (source === CountsSource.UNSPECIFIED || (before === undefined && this.#streams.size >= SOURCES_MAX)) {
        call.end()
        return
      }
      stream = new CountsStream(source, call)
      this.#streams.set(source, stream)
      before?.close()
    })
    call.on('end', () => {
      gone()
      call.end()
    })
    for (const event of ['error', 'close', 'cancelled']) call.on(event, gone)
  }

  /** What everybody has counted, by source; those that do not answer say why. */
  async ask({ expected, totalsOnly = false, timeoutMs = COUNTS_TIMEOUT_MS_MAX }: AskOptions): Promise<CountsReport[]> {
    const sources = [...new Set([...expected.map(({ source }) => source), ...this.#streams.keys()])].sort((a, b) => a - b)
    return await Promise.all(
      sources.map((source) => {
        const stream = this.#streams.get(source)
        if (stream !== undefined) return stream.ask(totalsOnly, timeoutMs)
        // One of another version may be there and know nothing of counting.
        const isThere = expected.some((process) => process.source === source && process.connected)
        return problem(source, isThere ? 'does not count' : 'is not connected')
      }),
    )
  }
}

interface Waiter {
  readonly totalsOnly: boolean
  resolve(report: CountsReport): void
}

/** One question is on its way at a time: a process that is stuck has nothing pile up before it, and many who ask cost it one answer. */
class CountsStream {
  readonly source: CountsSource
  readonly #call: Call
  /** Wait for the answer to the question that was sent, in time or not. */
  #asked: Set<Waiter> | undefined
  /** Came after it was sent: an answer to it may be older than they are. */
  #next = new Set<Waiter>()
  #id = 0n
  #isClosed = false

  constructor(source: CountsSource, call: Call) {
    this.source = source
    this.#call = call
  }

  ask(totalsOnly: boolean, timeoutMs: number): Promise<CountsReport> {
    return new Promise((resolve) => {
      const waiter: Waiter = {
        totalsOnly,
        resolve: (report) => {
          clearTimeout(timer)
          resolve(report)
        },
      }
      const timer = setTimeout(() => {
        this.#asked?.delete(waiter)
        this.#next.delete(waiter)
        resolve(problem(this.source, `does not answer within ${timeoutMs} ms`))
      }, timeoutMs)
      this.#next.add(waiter)
      this.#send()
    })
  }

  take(report: CountsReport): void {
    if (this.#asked === undefined || report.id !== this.#id) return
    const waiters = this.#asked
    this.#asked = undefined
    for (const waiter of waiters) waiter.resolve({ ...report, source: this.source })
    this.#send()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const waiter of [...(this.#asked ?? []), ...this.#next]) waiter.resolve(problem(this.source, 'went away while it was asked'))
    this.#asked = undefined
    this.#next.clear()
    this.#call.end()
  }

  #send(): void {
    if (this.#isClosed || this.#asked !== undefined || this.#next.size === 0) return
    this.#asked = this.#next
    this.#next = new Set()
    this.#id++
    const totalsOnly = [...this.#asked].every((waiter) => waiter.totalsOnly)
    this.#call.write(create(CountsRequestSchema, { id: this.#id, totalsOnly }))
  }
}

function problem(source: CountsSource, what: string): CountsReport {
  return create(CountsReportSchema, { source, problem: what })
}

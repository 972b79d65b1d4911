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

/** Processes that may count; a sender that makes up more is turned away. */
const COUNTERS_MAX = 1024

/** A process that counts. */
export interface Counter {
  readonly source: CountsSource
  /** Of several that count alike, which one. */
  readonly worker?: number
}

export interface AskOptions {
  /** Processes that have to count or be told of, and whether each is there. */
  readonly expected: readonly (Counter & { readonly connected: boolean })[]
  readonly totalsOnly?: boolean
  readonly timeoutMs?: number
}

export class CountsCollector {
  /** One of each: each of these processes holds a lock, so a second stream is of a process that took the place of the first. */
  readonly #streams = new Map<string, CountsStream>()
  readonly #countersMax: number

  constructor(countersMax = COUNTERS_MAX) {
    this.#countersMax = countersMax
  }

  /** Takes a call of ReportCounts. */
  accept(call: Call): void {
    let stream: CountsStream | undefined
    const gone = (): void => {
      if (stream === undefined) return
      stream.close()
      const key = keyOf(stream.counter)
      if (this.#streams.get(key) === stream) this.#streams.delete(key)
    }
    call.on('data', (report: CountsReport) => {
      if (stream !== undefined) {
        stream.take(report)
        return
      }
      // The first one says who it is.
      const { source, worker } = report
      const key = keyOf(report)
      const before = this.#streams.get(key)
      if (source === CountsSource.UNSPECIFIED || (before === undefined && this.#streams.size >= this.#countersMax)) {
        call.end()
        return
      }
      stream = new CountsStream({ source, worker }, call)
      this.#streams.set(key, stream)
      before?.close()
    })
    call.on('end', () => {
      gone()
      call.end()
    })
    for (const event of ['error', 'close', 'cancelled']) call.on(event, gone)
  }

  /** What everybody has counted, by source and worker; those that do not answer say why. */
  async ask({ expected, totalsOnly = false, timeoutMs = COUNTS_TIMEOUT_MS_MAX }: AskOptions): Promise<CountsReport[]> {
    const absent = expected.filter((counter) => !this.#streams.has(keyOf(counter)))
    const reports = await Promise.all([
      ...[...this.#streams.values()].map((stream) => stream.ask(totalsOnly, timeoutMs)),
      // One of another version may be there and know nothing of counting.
      ...absent.map((counter) => problem(counter, counter.connected ? 'does not count' : 'is not connected')),
    ])
    return reports.sort((a, b) => a.source - b.source || a.worker - b.worker)
  }
}

function keyOf({ source, worker = 0 }: Counter): string {
  return `${source}/${worker}`
}

interface Waiter {
  readonly totalsOnly: boolean
  resolve(report: CountsReport): void
}

/** One question is on its way at a time: a process that is stuck has nothing pile up before it, and many who ask cost it one answer. */
class CountsStream {
  readonly counter: Counter
  readonly #call: Call
  /** Wait for the answer to the question that was sent, in time or not. */
  #asked: Set<Waiter> | undefined
  /** Came after it was sent: an answer to it may be older than they are. */
  #next = new Set<Waiter>()
  #id = 0n
  #isClosed = false

  constructor(counter: Counter, call: Call) {
    this.counter = counter
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
        resolve(problem(this.counter, `does not answer within ${timeoutMs} ms`))
      }, timeoutMs)
      this.#next.add(waiter)
      this.#send()
    })
  }

  take(report: CountsReport): void {
    if (this.#asked === undefined || report.id !== this.#id) return
    const waiters = this.#asked
    this.#asked = undefined
    for (const waiter of waiters) waiter.resolve({ ...report, ...this.counter })
    this.#send()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const waiter of [...(this.#asked ?? []), ...this.#next]) waiter.resolve(problem(this.counter, 'went away while it was asked'))
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

function problem({ source, worker = 0 }: Counter, what: string): CountsReport {
  return create(CountsReportSchema, { source, worker, problem: what })
}

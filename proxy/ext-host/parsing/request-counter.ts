/** Counts what a worker decides: by rules, and by topics where requests name any. */
import { type CountsReport, CountsSource } from '#api/gen/headgate/v1/control_pb.js'
import { VerdictCounter } from '../verdict-counter.ts'
import type { RequestRecord } from './flows.ts'
import { TopicCounter } from './topic-counter.ts'

export class RequestCounter {
  readonly #worker: number
  readonly #verdicts = new VerdictCounter(CountsSource.RELAY)
  readonly #topics: TopicCounter
  #failed = 0n

  constructor(worker: number, topicsMax: number) {
    this.#worker = worker
    this.#topics = new TopicCounter(topicsMax)
  }

  count(record: RequestRecord): void {
    this.#verdicts.count(record.rule, record.isAllowed, record.isAudited)
    if ('topics' in record) this.#topics.count(record)
  }

  /** A connection was closed for what came on it. */
  countFailure(): void {
    this.#failed++
  }

  report(totalsOnly: boolean): CountsReport {
    const report = this.#verdicts.report(totalsOnly)
    report.worker = this.#worker
    if (report.totals !== undefined) report.totals.failed = this.#failed
    if (!totalsOnly) report.topics = this.#topics.report()
    return report
  }
}

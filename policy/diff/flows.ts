/** Recorded flows, asked about under two sets of policies. What stands in a record is from outside, so only its known fields are read. */
import { answerQuestion, type Question, QuestionError } from '../trace/question.ts'
import type { Scene } from '../trace/scene.ts'
import type { TraceAnswer } from '../trace/trace-name.ts'

export interface RecordedChange {
  readonly question: Question
  /** How often it was recorded. */
  readonly count: number
  readonly before: string
  readonly after: string
}

export interface RecordedDiff {
  readonly changes: readonly RecordedChange[]
  readonly flowCount: number
  /** Records that are no flows, or that nobody can be asked about. */
  readonly skippedCount: number
}

/** Different flows that are kept apart; more are skipped. */
const QUESTIONS_MAX = 200_000
const QUESTION_LENGTH_MAX = 8192

export class RecordedFlows {
  readonly #endpoints: ReadonlySet<string>
  readonly #questions = new Map<string, { readonly question: Question; count: number }>()
  #flowCount = 0
  #skippedCount = 0

  /** @param endpoints namespace/name of those that are known */
  constructor(endpoints: Iterable<string>) {
    this.#endpoints = new Set(endpoints)
  }

  /** @param record one line of `headgate observe -o json`, parsed; undefined for one that is none */
  add(record: unknown): void {
    const question = this.#questionOf(record)
    const key = JSON.stringify(question) ?? ''
    const known = this.#questions.get(key)
    const isTooMuch = key.length > QUESTION_LENGTH_MAX || (known === undefined && this.#questions.size >= QUESTIONS_MAX)
    if (question === undefined || isTooMuch) {
      this.#skippedCount += 1
      return
    }
    this.#flowCount += 1
    if (known === undefined) this.#questions.set(key, { question, count: 1 })
    else known.count += 1
  }

  diff(before: Scene, after: Scene): RecordedDiff {
    const changes: RecordedChange[] = []
    let skippedCount = this.#skippedCount
    for (const { question, count } of this.#questions.values()) {
      try {
        const [old, now] = [wordOf(answerQuestion(before, question)), wordOf(answerQuestion(after, question))]
        if (old !== now) changes.push({ question, count, before: old, after: now })
      } catch (error) {
        if (!(error instanceof QuestionError)) throw error
        skippedCount += count
      }
    }
    return { changes, flowCount: this.#flowCount, skippedCount }
  }

  #questionOf(record: unknown): Question | undefined {
    const { source, destination, protocol, http } = fieldsOf(record)
    const [from, to] = [this.#partyOf(source), this.#partyOf(destination)]
    const port = portOf(protocol, fieldsOf(destination).port)
    if (from === undefined || to === undefined || port === undefined) return undefined
    if (http === undefined) return { from, to, port }
    const { method, path, authority } = fieldsOf(http)
    if (typeof method !== 'string' || typeof path !== 'string') return undefined
    return { from, to, port, http: { method, path, ...(typeof authority === 'string' && { host: authority }) } }
  }

  #partyOf(peer: unknown): string | undefined {
    const { address, labels, endpoint } = fieldsOf(peer)
    const { namespace, name } = fieldsOf(endpoint)
    const own = `${namespace}/${name}`
    if (this.#endpoints.has(own)) return own
    const texts = Array.isArray(labels) ? labels.filter((label) => typeof label === 'string') : []
    // Of an address outside, the address says more; an endpoint that is gone is known by its labels.
    const isEndpoint = texts.some((label) => label.startsWith('k8s:'))
    if (isEndpoint) return texts.join()
    const reserved = texts.find((label) => /^reserved:(?:host|health|ingress|init|unmanaged)$/.test(label))
    return reserved ?? (typeof address === 'string' ? address : undefined)
  }
}

function portOf(protocol: unknown, port: unknown): string | undefined {
  switch (protocol) {
    case 'TCP':
    case 'UDP':
    case 'SCTP':
      return typeof port === 'number' ? `${port}/${protocol}` : undefined
    case 'ICMPv4':
      return 'icmp'
    case 'ICMPv6':
      return 'icmpv6'
    default:
      return undefined
  }
}

function wordOf({ verdict, audit, egress, ingress }: TraceAnswer): string {
  const isRedirected = egress.verdict === 'redirected' || ingress.verdict === 'redirected'
  const word = verdict === 'allowed' && isRedirected && egress.l7 === null && ingress.l7 === null ? 'redirected' : verdict
  return audit === true ? `${word} in audit` : word
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}

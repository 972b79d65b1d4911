/**
 * A user's parser as one of the parsers of a worker: its process is there while it has connections, and for some time after. When the process
 * ends, all its connections are closed, and the next one starts another; one that keeps ending is started more and more seldom.
 */
import type { Ops, ParserDefinition, StreamDirection } from '#parsers/contract.ts'
import type { HostedConnection, HostedParser } from '../parsing/parser-host.ts'
import type { ParserFacts, UserRecord } from './frames.ts'
import { ParserProcess, type UserParserLimits } from './parser-process.ts'
import type { UserRuleset } from './user-ruleset.ts'

type Connection = HostedConnection<UserRuleset, UserRecord>

export interface UserParserParts {
  readonly name: string
  /** Of its module. */
  readonly path: string
  readonly limits: UserParserLimits
  /** What is known of it changed. */
  readonly onChange: () => void
  readonly onLine: (line: string) => void
}

const RESTART_MS_MIN = 100
const RESTART_MS_MAX = 10_000
/** One that lived so long had no part in what came before. */
const STABLE_MS = 30_000

export class UserParser implements ParserDefinition<UserRuleset, UserRecord> {
  readonly name: string
  readonly bufferBytesMax: number
  readonly #parts: UserParserParts
  readonly #connections = new Map<number, RemoteParser>()
  #lastNumber = 0
  #process: ParserProcess | undefined
  #facts: ParserFacts | undefined
  #problem = ''
  #startedMs = 0
  #failures = 0
  #notBeforeMs = 0
  #idleTimer: NodeJS.Timeout | undefined
  #loading: PromiseWithResolvers<void> | undefined

  constructor(parts: UserParserParts) {
    this.#parts = parts
    this.name = parts.name
    this.bufferBytesMax = parts.limits.bufferBytesMax
  }

  get isServerFirst(): boolean {
    return this.#facts?.isServerFirst ?? false
  }

  /** Why it cannot be used, or did not go on the last time; empty when nothing is wrong. */
  get problem(): string {
    return this.#problem
  }

  /** Keys that its rules may have; undefined when it does not say. */
  get keys(): readonly string[] | undefined {
    return this.#facts?.keys
  }

  /** Of its process. */
  get pid(): number | undefined {
    return this.#process?.pid
  }

  /** Starts it, to see whether that can be done and what it says of itself. Resolves when that is known. */
  async load(): Promise<void> {
    if (this.#facts !== undefined) return
    this.#loading ??= Promise.withResolvers()
    this.#start()
    await this.#loading.promise
  }

  create(connection: Connection): HostedParser {
    const number = this.#nextNumber()
    const process = this.#start()
    if (process === undefined || this.#facts === undefined) {
      const reason = `the parser ${this.name} cannot be used: ${this.#problem || 'it is being loaded'}`
      // Not from within: whoever opens the connection does not have it yet.
      setImmediate(() => connection.fail(reason))
      return { onData: () => [{ op: 'error', reason }] }
    }
    const parser = new RemoteParser(number, connection, process, () => {
      if (this.#connections.delete(number) && this.#process === process) process.close(number)
      this.#rest()
    })
    this.#connections.set(number, parser)
    clearTimeout(this.#idleTimer)
    return parser
  }

  /** With all its connections. */
  close(reason: string): void {
    this.#process?.kill(reason)
  }

  #nextNumber(): number {
    do this.#lastNumber = (this.#lastNumber + 1) >>> 0
    while (this.#connections.has(this.#lastNumber))
    return this.#lastNumber
  }

  #start(): ParserProcess | undefined {
    if (this.#process !== undefined || performance.now() < this.#notBeforeMs) return this.#process
    this.#startedMs = performance.now()
    const { path, limits, onLine, onChange } = this.#parts
    try {
      this.#process = new ParserProcess({
        path,
        limits,
        onLine,
        onLoaded: (facts) => {
          this.#facts = facts
          this.#loading?.resolve()
          this.#rest()
          onChange()
        },
        onEnd: (reason) => this.#onEnd(reason),
      })
    } catch (error) {
      this.#onEnd(`its process cannot be started: ${error instanceof Error ? error.message : String(error)}`)
    }
    return this.#process
  }

  #onEnd(reason: string): void {
    this.#process = undefined
    this.#loading?.resolve()
    clearTimeout(this.#idleTimer)
    if (reason === IDLE) return
    const nowMs = performance.now()
    this.#failures = nowMs - this.#startedMs > STABLE_MS ? 1 : this.#failures + 1
    // After the first time, at once.
    const delayMs = this.#failures === 1 ? 0 : Math.min(RESTART_MS_MIN * 2 ** (this.#failures - 2), RESTART_MS_MAX)
    this.#notBeforeMs = nowMs + delayMs
    this.#problem = reason
    this.#parts.onChange()
    for (const parser of [...this.#connections.values()]) parser.fail(`the parser ${this.name} failed: ${reason}`)
    this.#connections.clear()
  }

  /** Without connections, the process ends after a while. */
  #rest(): void {
    clearTimeout(this.#idleTimer)
    if (this.#connections.size > 0 || this.#process === undefined) return
    this.#idleTimer = setTimeout(() => this.#process?.kill(IDLE), this.#parts.limits.idleSeconds * 1000)
    this.#idleTimer.unref()
  }
}

const IDLE = 'it has no connections'
/** Of what a parser adds of its own, to what it was shown of its connection: more would be memory that nobody asked for. */
const ADDED_BYTES_FREE = 1 << 20
const ADDED_BYTES_FACTOR = 64
/** Calls in a row that come to nothing: what is not covered is shown again at once. */
const IDLE_CALLS_MAX = 16

/** One connection, whose parser is in the process. */
class RemoteParser implements HostedParser {
  readonly #number: number
  readonly #connection: Connection
  readonly #process: ParserProcess
  readonly #onGone: () => void
  #seenBytes = 0
  #addedBytes = 0
  #idleCalls = 0

  constructor(number: number, connection: Connection, process: ParserProcess, onGone: () => void) {
    this.#number = number
    this.#connection = connection
    this.#process = process
    this.#onGone = onGone
  }

  async onData(direction: StreamDirection, bytes: Uint8Array, endOfStream: boolean): Promise<Ops> {
    const rules = this.#connection.rules()
    const ops = await this.#process.call(this.#number, { direction, bytes, endOfStream, rules }, (record) =>
      this.#connection.report({ ...record, rule: rules.nameOf(record.rule) }),
    )
    const reason = this.#problemOf(ops, bytes.length)
    return reason === undefined ? ops : [{ op: 'error', reason }]
  }

  /** The connection is no more. */
  dispose(): void {
    this.#onGone()
  }

  fail(reason: string): void {
    this.#connection.fail(reason)
  }

  #problemOf(ops: Ops, bytes: number): string | undefined {
    let coveredBytes = 0
    let isWaiting = ops.length === 0
    for (const op of ops) {
      if (op.op === 'pass' || op.op === 'drop') coveredBytes += op.bytes
      else if (op.op === 'insert' || op.op === 'answer') this.#addedBytes += op.data.length
      else isWaiting = true
    }
    this.#seenBytes += Math.min(coveredBytes, bytes)
    this.#idleCalls = isWaiting || coveredBytes > 0 ? 0 : this.#idleCalls + 1
    if (this.#idleCalls > IDLE_CALLS_MAX) return 'the parser failed: it comes to nothing'
    return this.#addedBytes > ADDED_BYTES_FREE + ADDED_BYTES_FACTOR * this.#seenBytes
      ? 'the parser failed: it adds more than it may'
      : undefined
  }
}

/**
 * A user's parser as one of the parsers of a worker: its process is there while it has connections, and for some time after. When the process
 * ends, all its connections are closed, and the next one starts another; one that keeps ending is started more and more seldom.
 */
import type { Ops, ParserDefinition, StreamDirection } from '#parsers/contract.ts'
import type { HostedConnection, HostedParser } from '../parsing/hosted-parser.ts'
import type { ParserFacts, UserRecord } from './frames.ts'
import { ParserProcess, type UserParserLimits } from './parser-process.ts'
import type { UserRuleset } from './user-ruleset.ts'

type Connection = HostedConnection<UserRuleset, UserRecord>

export interface UserParserParts {
  readonly name: string
  /** Of its module. */
  readonly path: string
  /** @returns another text for another module @throws Error when what is there cannot be trusted to be the owner's */
  readonly versionOf: (path: string) => string
  readonly limits: UserParserLimits
  /** What is known of it changed. */
  readonly onChange: () => void
  readonly onLine: (line: string) => void
}

/** A process with its connections. */
interface Running {
  readonly process: ParserProcess
  readonly version: string
  readonly startedMs: number
  readonly connections: Map<number, RemoteParser>
  idleTimer?: NodeJS.Timeout
}

const RESTART_MS_MIN = 100
const RESTART_MS_MAX = 10_000
/** One that lived so long had no part in what came before. */
const STABLE_MS = 30_000
const IDLE = 'it has no connections'

export class UserParser implements ParserDefinition<UserRuleset, UserRecord> {
  readonly name: string
  readonly bufferBytesMax: number
  readonly #parts: UserParserParts
  #lastNumber = 0
  /** Of the module as it was when the last connection came. */
  #running: Running | undefined
  #facts: ParserFacts | undefined
  #problem = ''
  #failures = 0
  #notBeforeMs = 0
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
    return this.#running?.process.pid
  }

  /** Starts it, to see whether that can be done and what it says of itself. Resolves when that is known. */
  async load(): Promise<void> {
    this.#loading ??= Promise.withResolvers()
    this.#start()
    await this.#loading.promise
  }

  create(connection: Connection): HostedParser {
    const running = this.#start()
    if (running === undefined) return refusing(connection, `the parser ${this.name} cannot be used: ${this.#problem}`)
    const { connections, process } = running
    const number = this.#nextNumber()
    const parser = new RemoteParser(number, connection, process, () => {
      if (connections.delete(number)) process.close(number)
      this.#rest(running)
    })
    connections.set(number, parser)
    clearTimeout(running.idleTimer)
    return parser
  }

  /** With all its connections. */
  close(reason: string): void {
    this.#running?.process.kill(reason)
  }

  #nextNumber(): number {
    this.#lastNumber = (this.#lastNumber + 1) >>> 0
    return this.#lastNumber
  }

  /** @returns what a new connection is for; undefined when there is nothing now */
  #start(): Running | undefined {
    const nowMs = performance.now()
    try {
      const version = this.#parts.versionOf(this.#parts.path)
      if (this.#running !== undefined && this.#running.version !== version) this.#retire(this.#running)
      if (this.#running === undefined && nowMs >= this.#notBeforeMs) this.#running = this.#run(version, nowMs)
    } catch (error) {
      if (this.#running !== undefined) this.#retire(this.#running)
      this.#onFailure(error instanceof Error ? error.message : String(error), nowMs)
    }
    return this.#running
  }

  #run(version: string, startedMs: number): Running {
    const { path, limits, onLine } = this.#parts
    const running: Running = {
      version,
      startedMs,
      connections: new Map(),
      process: new ParserProcess({
        path,
        limits,
        onLine,
        onLoaded: (facts) => this.#onLoaded(running, facts),
        onEnd: (reason) => this.#onEnd(running, reason),
      }),
    }
    return running
  }

  /** Its connections stay with it; new ones do not come. */
  #retire(running: Running): void {
    this.#running = undefined
    if (running.connections.size === 0) running.process.kill(IDLE)
  }

  #onLoaded(running: Running, facts: ParserFacts): void {
    if (this.#facts === undefined) this.#problem = ''
    // Connections that came before did not know that their server has to be connected to.
    if (facts.isServerFirst && !this.isServerFirst)
      for (const parser of [...running.connections.values()]) parser.fail(`the parser ${this.name} cannot be used: it was being loaded`)
    this.#facts = facts
    this.#loading?.resolve()
    this.#rest(running)
    this.#parts.onChange()
    setTimeout(() => this.#onStable(running), STABLE_MS).unref()
  }

  #onStable(running: Running): void {
    if (this.#running !== running || this.#problem === '') return
    this.#problem = ''
    this.#parts.onChange()
  }

  #onEnd(running: Running, reason: string): void {
    if (this.#running === running) this.#running = undefined
    clearTimeout(running.idleTimer)
    if (reason !== IDLE) this.#onFailure(reason, running.startedMs)
    for (const parser of [...running.connections.values()]) parser.fail(`the parser ${this.name} failed: ${reason}`)
    this.#loading?.resolve()
  }

  #onFailure(reason: string, startedMs: number): void {
    const nowMs = performance.now()
    this.#failures = nowMs - startedMs > STABLE_MS ? 1 : this.#failures + 1
    // After the first time, at once.
    const delayMs = this.#failures === 1 ? 0 : Math.min(RESTART_MS_MIN * 2 ** (this.#failures - 2), RESTART_MS_MAX)
    this.#notBeforeMs = nowMs + delayMs
    this.#loading?.resolve()
    if (this.#problem === reason) return
    this.#problem = reason
    this.#parts.onChange()
  }

  /** Without connections, a process ends after a while, and one that is out of date at once. */
  #rest(running: Running): void {
    clearTimeout(running.idleTimer)
    if (running.connections.size > 0) return
    const restMs = this.#running === running ? this.#parts.limits.idleSeconds * 1000 : 0
    running.idleTimer = setTimeout(() => running.process.kill(IDLE), restMs)
    running.idleTimer.unref()
  }
}

/** Of a connection that cannot be had. It is closed with its first bytes, or when whoever opens it has it. */
function refusing(connection: Connection, reason: string): HostedParser {
  let isTold = false
  setImmediate(() => {
    if (!isTold) connection.fail(reason)
  })
  return {
    onData: () => {
      isTold = true
      return [{ op: 'error', reason }]
    },
    dispose: () => {
      isTold = true
    },
  }
}

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

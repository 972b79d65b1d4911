/**
 * One process of a user's parser, seen from the worker: frames go to it, what calls came to comes back, in the order of the calls. It is killed when
 * it takes too long over a call, or says what is no frame; whatever it ends by, it says why once.
 */
import type { ChildProcess } from 'node:child_process'
import { basename, dirname, extname, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Ops, StreamDirection } from '#parsers/contract.ts'
import { dataBytes, spawnConfined } from '#sys/confined-process.ts'
import {
  decodeOps,
  decodeRecord,
  encodeData,
  encodeFrame,
  FROM_PARSER,
  type Frame,
  FrameError,
  FrameReader,
  lineOf,
  type ParserFacts,
  TO_PARSER,
  type UserRecord,
} from './frames.ts'
import type { UserRuleset } from './user-ruleset.ts'

export interface UserParserLimits {
  /** Of their processes: a folder that has nothing in it. */
  readonly root: string
  readonly callTimeoutMs: number
  readonly memoryMb: number
  readonly bufferBytesMax: number
  readonly idleSeconds: number
}

export interface ParserProcessParts {
  /** Path of the parser's module. */
  readonly path: string
  readonly limits: UserParserLimits
  readonly onLoaded: (facts: ParserFacts) => void
  /** @param reason why it ended, as the end of a sentence about the parser */
  readonly onEnd: (reason: string) => void
  /** A line of its standard error. */
  readonly onLine: (line: string) => void
}

interface Call {
  readonly number: number
  readonly direction: StreamDirection
  readonly onRecord: (record: UserRecord) => void
  readonly resolve: (ops: Ops) => void
  readonly reject: (error: Error) => void
}

/** To start and load; on a busy machine, too. */
const START_TIMEOUT_MS = 10_000
/** The worker itself may have been busy: what has come by now is read first. */
const GRACE_MS = 20
/** Sets of rules that a process has at once; of more, the oldest goes, and comes again when it is asked for. */
const RULESETS_MAX = 256
const LINES_MAX = 100
/** As of a rule (policy/parse-l7.ts). */
const KEYS_MAX = 100
const LINE_LENGTH_MAX = 1000
const MB = 1 << 20
const CHILD = fileURLToPath(new URL(`./child${extname(import.meta.url)}`, import.meta.url))
const RE2 = fileURLToPath(import.meta.resolve('re2js'))
const RE2_FOLDER = dirname(dirname(RE2))
const RE2_MODULE = relative(RE2_FOLDER, RE2)

export class ParserProcess {
  /** What Node itself has of memory before a parser is loaded: mostly what V8 sets aside for code. Asked of the first process. */
  static #ownBytes: number | undefined
  readonly #parts: ParserProcessParts
  #child: ChildProcess
  #reader = new FrameReader()
  /** In the order in which they were made. */
  readonly #calls: Call[] = []
  readonly #rulesets = new Map<UserRuleset, number>()
  #lastRules = 0
  /** What waits for the process to have its limits; undefined from then on. */
  #waiting: Buffer[] | undefined = []
  #isLoaded = false
  #hasEnded = false
  /** When it last said something, or was first asked. */
  #progressMs = performance.now()
  #timer: NodeJS.Timeout | undefined

  constructor(parts: ParserProcessParts) {
    this.#parts = parts
    this.#child = this.#spawn()
    this.#watch(START_TIMEOUT_MS)
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** @returns what the parser makes of the bytes; rejects when its process ends before */
  call(
    number: number,
    input: { readonly direction: StreamDirection; readonly bytes: Uint8Array; readonly endOfStream: boolean; readonly rules: UserRuleset },
    onRecord: (record: UserRecord) => void,
  ): Promise<Ops> {
    const { direction, bytes, endOfStream, rules } = input
    return new Promise((resolve, reject) => {
      if (this.#calls.length === 0) this.#progressMs = performance.now()
      this.#calls.push({ number, direction, onRecord, resolve, reject })
      this.#write(encodeData(number, direction, endOfStream, this.#numberOf(rules), bytes))
      if (this.#isLoaded) this.#watch(this.#parts.limits.callTimeoutMs)
    })
  }

  /** A connection is no more. */
  close(number: number): void {
    this.#write(encodeFrame(TO_PARSER.close, number))
  }

  kill(reason: string): void {
    this.#end(reason)
  }

  #spawn(): ChildProcess {
    const { path, limits } = this.#parts
    const ownBytes = ParserProcess.#ownBytes
    const child = spawnConfined({
      root: limits.root,
      files: { '/node': process.execPath, '/host': dirname(CHILD), '/re2js': RE2_FOLDER, '/parser': dirname(path) },
      command: ['/node', ...nodeFlags(limits), `/host/${basename(CHILD)}`, `/re2js/${RE2_MODULE}`, `/parser/${basename(path)}`],
      ...(ownBytes === undefined ? {} : { dataBytesMax: ownBytes + limits.memoryMb * MB }),
    })
    const endOf = (reason: string) => {
      if (child === this.#child) this.#end(reason)
    }
    child.on('error', (error) => endOf(`its process cannot be started: ${error.message}`))
    child.on('exit', (code, signal) => endOf(`its process ended with ${signal ?? `code ${code}`}`))
    child.stdin?.on('error', () => {})
    child.stdout?.on('data', (chunk: Buffer) => this.#onData(chunk))
    this.#readLines(child)
    return child
  }

  /** Rules of slots are few and change seldom: each set is sent once. */
  #numberOf(rules: UserRuleset): number {
    const known = this.#rulesets.get(rules)
    if (known !== undefined) return known
    const [oldest] = this.#rulesets
    if (oldest !== undefined && this.#rulesets.size >= RULESETS_MAX) {
      this.#rulesets.delete(oldest[0])
      this.#write(encodeFrame(TO_PARSER.forgetRules, oldest[1]))
    }
    const number = ++this.#lastRules
    this.#rulesets.set(rules, number)
    this.#write(encodeFrame(TO_PARSER.rules, number, Buffer.from(rules.json)))
    return number
  }

  #write(frame: Buffer): void {
    if (this.#hasEnded) return
    if (this.#waiting === undefined) this.#child.stdin?.write(frame)
    else this.#waiting.push(frame)
  }

  #onData(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.push(chunk)) {
        if (this.#hasEnded) return
        this.#progressMs = performance.now()
        this.#take(frame)
      }
    } catch (error) {
      if (!(error instanceof FrameError)) throw error
      this.#end(`its process says what is no answer: ${error.message}`)
    }
  }

  #take({ type, number, payload }: Frame): void {
    const [call] = this.#calls
    if (type === FROM_PARSER.hello && this.#waiting !== undefined) this.#load(this.#waiting)
    else if (type === FROM_PARSER.loaded && !this.#isLoaded && this.#waiting === undefined) this.#onLoaded(payload)
    else if (type === FROM_PARSER.unloadable && !this.#isLoaded) this.#end(`it cannot be loaded: ${lineOf(payload)}`)
    else if (!this.#isLoaded || call?.number !== number) throw new FrameError(`a frame of type ${type} that nobody waits for`)
    else if (type === FROM_PARSER.record) call.onRecord(decodeRecord(payload))
    else if (type === FROM_PARSER.ops) {
      const ops = decodeOps(payload, call.direction)
      this.#calls.shift()
      call.resolve(ops)
    } else throw new FrameError(`a frame of type ${type}`)
  }

  /** Nothing of the user's has run yet. The first of all is asked how much memory it has, and another one started that has a limit. */
  #load(waiting: readonly Buffer[]): void {
    if (ParserProcess.#ownBytes === undefined) {
      const first = this.#child
      try {
        ParserProcess.#ownBytes = dataBytes(first.pid ?? 0)
        this.#reader = new FrameReader()
        this.#child = this.#spawn()
        first.kill('SIGKILL')
      } catch (error) {
        this.#end(`its process cannot be started: ${error instanceof Error ? error.message : String(error)}`)
      }
      return
    }
    this.#waiting = undefined
    this.#write(encodeFrame(TO_PARSER.load, 0))
    for (const frame of waiting) this.#write(frame)
  }

  #onLoaded(payload: Buffer): void {
    const facts = factsOf(payload)
    this.#isLoaded = true
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#calls.length > 0) this.#watch(this.#parts.limits.callTimeoutMs)
    this.#parts.onLoaded(facts)
  }

  /** One timer for all calls: they are run one after the other, so something has to be said within the time of one. */
  #watch(timeoutMs: number, waitMs = timeoutMs): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      if (this.#isLoaded && this.#calls.length === 0) return
      const leftMs = this.#progressMs + timeoutMs - performance.now()
      if (leftMs > 0) this.#watch(timeoutMs, leftMs)
      else this.#timer = setTimeout(() => this.#onLate(timeoutMs), GRACE_MS)
    }, waitMs)
  }

  #onLate(timeoutMs: number): void {
    this.#timer = undefined
    if (this.#isLoaded && this.#calls.length === 0) return
    if (performance.now() - this.#progressMs < timeoutMs) this.#watch(timeoutMs)
    else this.#end(this.#isLoaded ? `it took longer than ${timeoutMs} ms over a call` : `it was not loaded within ${START_TIMEOUT_MS} ms`)
  }

  #end(reason: string): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    clearTimeout(this.#timer)
    this.#child.kill('SIGKILL')
    this.#child.stdin?.destroy()
    this.#child.stdout?.destroy()
    this.#parts.onEnd(reason)
    for (const call of this.#calls.splice(0)) call.reject(new Error(reason))
  }

  /** A parser may print; how much of it is kept is up to nobody but us. */
  #readLines({ stderr }: ChildProcess): void {
    let lines = 0
    let rest = ''
    stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (lines >= LINES_MAX) return
      const parts = (rest + text).split('\n')
      rest = (parts.pop() ?? '').slice(-LINE_LENGTH_MAX)
      for (const line of parts) if (line !== '' && lines++ < LINES_MAX) this.#parts.onLine(lineOf(line, LINE_LENGTH_MAX))
    })
  }
}

/** What the process may not by its user and namespaces either: Node says so in its own words. */
function nodeFlags({ memoryMb }: UserParserLimits): string[] {
  return [
    '--permission',
    ...['host', 're2js', 'parser'].map((folder) => `--allow-fs-read=/${folder}/`),
    `--max-old-space-size=${memoryMb}`,
    '--max-semi-space-size=2',
    '--v8-pool-size=1',
    '--disallow-code-generation-from-strings',
    '--no-addons',
    '--no-warnings',
  ]
}

/** @throws FrameError for what is none */
function factsOf(payload: Buffer): ParserFacts {
  let facts: unknown
  try {
    facts = JSON.parse(payload.toString())
  } catch {
    throw new FrameError('facts that are no JSON')
  }
  const { isServerFirst, keys } = (facts ?? {}) as { readonly isServerFirst?: unknown; readonly keys?: unknown }
  return {
    isServerFirst: isServerFirst === true,
    ...(Array.isArray(keys) ? { keys: keys.slice(0, KEYS_MAX).filter((key) => typeof key === 'string') } : {}),
  }
}

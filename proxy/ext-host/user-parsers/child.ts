/**
 * The process that a user's parser runs in: it reads a call, runs it, writes what it came to, and reads the next. Nothing else ever runs: reading
 * blocks, so what a parser leaves for later (timers, promises) does not happen, and all the time that it takes is that of a call.
 *
 * Arguments: URL of re2js, URL of the parser. It is started with Node's permission model and without any rights of its own
 * (parser-process.ts); nothing here keeps a parser from doing what the process may.
 */
import { Console } from 'node:console'
import { readSync, writeSync } from 'node:fs'
import type { Op, StreamDirection } from '#parsers/contract.ts'
import {
  type DataFrame,
  decodeData,
  encodeFrame,
  encodeOps,
  encodeRecord,
  FROM_PARSER,
  FrameReader,
  REASON_LENGTH_MAX,
  TO_PARSER,
  type UserRecord,
} from './frames.ts'
import { type Holds, judge, Patterns, type UserRules } from './judge.ts'

interface UserConnection {
  readonly rules: () => UserRules
  readonly judge: (holds: Holds) => ReturnType<typeof judge>
  readonly matches: (pattern: string, text: string) => boolean
  readonly report: (record: UserRecord) => void
}

interface UserParser {
  onData(direction: StreamDirection, bytes: Buffer, endOfStream: boolean): readonly Op[]
}

interface UserDefinition {
  readonly isServerFirst?: boolean
  readonly keys?: readonly string[]
  create(connection: UserConnection): UserParser
}

const INPUT = 0
const OUTPUT = 1
const READ_BYTES = 256 << 10
const NO_RULES: UserRules = { allowAll: false, allow: [], deny: [] }

class Host {
  readonly #definition: UserDefinition
  readonly #keys: ReadonlySet<string> | undefined
  readonly #patterns: Patterns
  readonly #rules = new Map<number, UserRules>()
  readonly #parsers = new Map<number, UserParser>()
  /** Of the call that runs. */
  #current: UserRules = NO_RULES
  /** What is to be written. */
  readonly output: Buffer[] = []

  constructor(definition: UserDefinition, patterns: Patterns) {
    this.#definition = definition
    this.#keys = definition.keys && new Set(definition.keys)
    this.#patterns = patterns
  }

  take(type: number, number: number, payload: Buffer): void {
    switch (type) {
      case TO_PARSER.rules:
        this.#rules.set(number, JSON.parse(payload.toString()) as UserRules)
        break
      case TO_PARSER.forgetRules:
        this.#rules.delete(number)
        break
      case TO_PARSER.data:
        this.output.push(this.#call(number, decodeData(payload)))
        break
      case TO_PARSER.close:
        this.#parsers.delete(number)
        break
    }
  }

  #call(number: number, { direction, endOfStream, rules, bytes }: DataFrame): Buffer {
    this.#current = this.#rules.get(rules) ?? NO_RULES
    try {
      let parser = this.#parsers.get(number)
      if (parser === undefined) {
        parser = this.#definition.create(this.#connection(number))
        this.#parsers.set(number, parser)
      }
      return encodeOps(number, parser.onData(direction, bytes, endOfStream))
    } catch (error) {
      return encodeOps(number, [{ op: 'error', reason: `the parser failed: ${messageOf(error)}` }])
    }
  }

  #connection(number: number): UserConnection {
    return {
      rules: () => this.#current,
      judge: (holds) => judge(this.#current, holds, this.#keys),
      matches: (pattern, text) => this.#patterns.matches(pattern, text),
      report: (record) => this.output.push(encodeRecord(number, record)),
    }
  }
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? `${error.name}: ${error.message}` : String(error)).slice(0, REASON_LENGTH_MAX)
}

function write(bytes: Buffer): void {
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(OUTPUT, bytes, offset)
}

const [, , re2Url = '', parserUrl = ''] = process.argv
const { RE2JS } = (await import(re2Url)) as typeof import('re2js')
const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
const reader = new FrameReader(Number.POSITIVE_INFINITY)
// Standard output is not the parser's to write to.
globalThis.console = new Console(process.stderr, process.stderr)

function* frames() {
  for (;;) {
    const length = readSync(INPUT, buffer)
    if (length === 0) return
    yield* reader.push(buffer.subarray(0, length))
  }
}

write(encodeFrame(FROM_PARSER.hello, 0))
const incoming = frames()
incoming.next()
let host: Host
try {
  const { default: definition } = (await import(parserUrl)) as { readonly default?: UserDefinition }
  if (typeof definition?.create !== 'function') throw new TypeError('its default export has no create()')
  host = new Host(definition, new Patterns(RE2JS.compile.bind(RE2JS)))
  const { isServerFirst = false, keys } = definition
  write(encodeFrame(FROM_PARSER.loaded, 0, Buffer.from(JSON.stringify({ isServerFirst, keys }))))
} catch (error) {
  write(encodeFrame(FROM_PARSER.unloadable, 0, Buffer.from(messageOf(error))))
  process.exit(1)
}
for (const { type, number, payload } of incoming) {
  host.take(type, number, payload)
  if (host.output.length > 0) write(host.output.length === 1 ? (host.output[0] as Buffer) : Buffer.concat(host.output))
  host.output.length = 0
}

/**
 * Reading a document field by field. A cursor stands on one value and knows its path; what has the wrong type is reported where
 * it stands and read as absent, so that one pass finds every problem. A map's cursor remembers which fields were asked for, and
 * `finish` reports the rest: nothing in a policy is ever silently ignored.
 */
import type { Position, ProblemList } from './problems.ts'
import type { Source, SourceMap, SourceValue } from './source.ts'

/** What all cursors of one file share. */
export interface ReadContext {
  readonly source: Source
  readonly problems: ProblemList
}

const NO_VALUE_HINT = 'give it a value, or remove the field'

export class Cursor {
  readonly context: ReadContext
  readonly value: SourceValue
  readonly path: string
  /** Where the key stands, or the value where there is no key. */
  readonly offset: number

  constructor(context: ReadContext, value: SourceValue, path: string, offset = value.offset) {
    this.context = context
    this.value = value
    this.path = path
    this.offset = offset
  }

  get position(): Position {
    return this.context.source.position(this.offset, this.path)
  }

  get isNull(): boolean {
    return this.value.kind === 'scalar' && this.value.value === null
  }

  error(message: string, hint = ''): void {
    this.context.problems.error(this.position, message, hint)
  }

  warning(message: string, hint = ''): void {
    this.context.problems.warning(this.position, message, hint)
  }

  warningOnce(about: string, message: string, hint: string): void {
    this.context.problems.warningOnce(about, this.position, message, hint)
  }

  string(): string | undefined {
    if (this.value.kind === 'scalar') {
      const { value } = this.value
      if (typeof value === 'string') return value
      if (value === null) {
        this.error('has no value', NO_VALUE_HINT)
        return undefined
      }
      // YAML 1.1 reads 80 as a number and no as false; Kubernetes refuses both where a string belongs.
      this.error(`must be a string, is a ${typeof value} in YAML 1.1: ${value}`, 'put the value in quotes')
      return undefined
    }
    return this.#mistyped('a string')
  }

  boolean(): boolean | undefined {
    if (this.value.kind === 'scalar' && typeof this.value.value === 'boolean') return this.value.value
    return this.#mistyped('true or false')
  }

  integer(min: number, max: number): number | undefined {
    if (this.value.kind === 'scalar' && typeof this.value.value === 'number' && Number.isInteger(this.value.value)) {
      const { value } = this.value
      if (value >= min && value <= max) return value
      this.error(`must be between ${min} and ${max}: ${value}`)
      return undefined
    }
    return this.#mistyped('a whole number without quotes')
  }

  list(): readonly Cursor[] | undefined {
    if (this.value.kind !== 'list') return this.#mistyped('a list')
    return this.value.items.map((item, index) => new Cursor(this.context, item, `${this.path}[${index}]`))
  }

  map(): MapCursor | undefined {
    if (this.value.kind !== 'map') return this.#mistyped('a map')
    return new MapCursor(this.context, this.value, this.path, this.offset)
  }

  #mistyped(expected: string): undefined {
    if (this.isNull) {
      this.error('has no value', NO_VALUE_HINT)
      return undefined
    }
    const { value } = this
    const actual = value.kind === 'scalar' ? `a ${typeof value.value}: ${value.value}` : `a ${value.kind}`
    this.error(`must be ${expected}, is ${actual}`)
    return undefined
  }
}

export class MapCursor extends Cursor {
  readonly #fields: SourceMap['fields']
  readonly #asked = new Set<string>()

  constructor(context: ReadContext, value: SourceMap, path: string, offset?: number) {
    super(context, value, path, offset)
    this.#fields = value.fields
  }

  get isEmpty(): boolean {
    return this.#fields.size === 0
  }

  /** The field's cursor; absent when the map has no such field. */
  get(name: string): Cursor | undefined {
    this.#asked.add(name)
    const field = this.#fields.get(name)
    return field === undefined ? undefined : this.#cursor(name, field.value, field.keyOffset)
  }

  /** Like get, but a field without a value counts as absent, as the API server prunes it. */
  getLenient(name: string): Cursor | undefined {
    const cursor = this.get(name)
    return cursor?.isNull === true ? undefined : cursor
  }

  *entries(): Generator<readonly [string, Cursor]> {
    for (const [name, field] of this.#fields) {
      this.#asked.add(name)
      yield [name, this.#cursor(name, field.value, field.keyOffset)]
    }
  }

  /** Reports every field that nobody asked for; the table says more of those that are known. */
  finish(known: Readonly<Record<string, string>> = {}): void {
    for (const [name, field] of this.#fields) {
      if (this.#asked.has(name)) continue
      const cursor = this.#cursor(name, field.value, field.keyOffset)
      const hint = Object.hasOwn(known, name) ? known[name] : undefined
      if (hint === undefined) cursor.error(`unknown field: ${name}`, this.#similar(name, Object.keys(known)))
      else cursor.error(`not supported: ${name}`, hint)
    }
  }

  #cursor(name: string, value: SourceValue, keyOffset: number): Cursor {
    return new Cursor(this.context, value, this.path === '' ? name : `${this.path}.${name}`, keyOffset)
  }

  #similar(name: string, known: readonly string[]): string {
    const lower = name.toLowerCase()
    for (const candidate of [...this.#asked, ...known]) {
      if (candidate.toLowerCase() === lower || `${candidate.toLowerCase()}s` === lower || candidate.toLowerCase() === `${lower}s`)
        return `write ${candidate}`
    }
    const expected = [...this.#asked].sort().join(', ')
    return expected === '' ? 'remove it' : `fields that can stand here: ${expected}`
  }
}

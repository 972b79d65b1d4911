/**
 * Which HTTP rules a request matches, judged as Envoy judges it (proxy/xds/ruleset.ts compiles the same rules for it): the oracle of
 * tests, and what answers where no Envoy is. Rules are found by the path: exact ones in a map, beginnings in a trie, and only those
 * regular expressions are run whose fixed beginning is that of the path. Patterns run on re2js, which is linear as RE2 is; nothing of a
 * request is ever a pattern.
 */
import { RE2JS } from 're2js'
import { shapeOfPattern } from './pattern-shape.ts'
import type { HeaderMatch, HeaderRule, HttpRule } from './rules.ts'

/** A request as the proxy sees it after it has normalised the path. */
export interface HttpRequest {
  readonly method: string
  /** :path, with its query string. */
  readonly path: string
  /** Host or :authority, with its port if it states one. */
  readonly authority: string
  /** Values by lower-case name, one for each time that the header occurs. */
  readonly headers: ReadonlyMap<string, readonly string[]>
}

type Test = (request: HttpRequest) => boolean

interface Candidate {
  readonly index: number
  /** What its place in the index does not say yet. */
  readonly test: Test
}

interface TrieNode {
  readonly next: Map<number, TrieNode>
  readonly candidates: Candidate[]
}

/** Rules, compiled. An empty list matches nothing, a rule that states nothing matches every request. */
export class HttpMatcher<Rule extends HttpRule = HttpRule> {
  readonly #rules: readonly Rule[]
  readonly #byPath = new Map<string, Candidate[]>()
  readonly #byPrefix: TrieNode = { next: new Map(), candidates: [] }

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[]) {
    this.#rules = rules
    for (const [index, rule] of rules.entries()) this.#file(index, rule)
  }

  /** The rules that match, in their order. */
  matching(request: HttpRequest): Rule[] {
    const found = new Set<number>()
    for (const { index, test } of this.#candidates(request.path)) if (!found.has(index) && test(request)) found.add(index)
    return [...found].sort((a, b) => a - b).flatMap((index) => this.#rules[index] ?? [])
  }

  /** Whether any rule matches. */
  matches(request: HttpRequest): boolean {
    for (const { test } of this.#candidates(request.path)) if (test(request)) return true
    return false
  }

  #file(index: number, rule: Rule): void {
    const rest = compileRest(rule)
    const { path } = rule
    if (path === undefined) {
      this.#byPrefix.candidates.push({ index, test: rest })
      return
    }
    const shape = shapeOfPattern(path)
    if (shape.kind === 'regex') {
      const isPath = compilePattern(path)
      this.#nodeOf(shape.prefix).candidates.push({ index, test: (request) => rest(request) && isPath(request.path) })
      return
    }
    for (const { text, isPrefix } of shape.texts) {
      if (isPrefix) {
        // The dot of a pattern is no end of line.
        this.#nodeOf(text).candidates.push({ index, test: (request) => !request.path.includes('\n', text.length) && rest(request) })
        continue
      }
      const filed = this.#byPath.get(text)
      if (filed === undefined) this.#byPath.set(text, [{ index, test: rest }])
      else filed.push({ index, test: rest })
    }
  }

  #nodeOf(prefix: string): TrieNode {
    let node = this.#byPrefix
    for (let offset = 0; offset < prefix.length; offset++) {
      const code = prefix.charCodeAt(offset)
      let next = node.next.get(code)
      if (next === undefined) {
        next = { next: new Map(), candidates: [] }
        node.next.set(code, next)
      }
      node = next
    }
    return node
  }

  *#candidates(path: string): Generator<Candidate> {
    yield* this.#byPath.get(path) ?? []
    let node: TrieNode | undefined = this.#byPrefix
    for (let offset = 0; node !== undefined; offset++) {
      yield* node.candidates
      node = offset < path.length ? node.next.get(path.charCodeAt(offset)) : undefined
    }
  }
}

/** Everything but the path. */
function compileRest({ method, host, headers, headerMatches = [] }: HttpRule): Test {
  const isMethod = compilePattern(method)
  const isHost = compilePattern(host)
  return (request) =>
    isMethod(request.method) &&
    isHost(request.authority) &&
    headers.every((header) => meetsHeader(header, request.headers.get(header.name))) &&
    headerMatches.every((match) => meetsMatch(match, request.headers.get(match.name)))
}

/** Patterns match the whole value, however they are anchored. */
function compilePattern(pattern: string | undefined): (value: string) => boolean {
  if (pattern === undefined) return () => true
  const shape = shapeOfPattern(pattern)
  if (shape.kind === 'fixed' && shape.texts.every(({ isPrefix }) => !isPrefix)) {
    const texts = new Set(shape.texts.map(({ text }) => text))
    return (value) => texts.has(value)
  }
  const compiled = RE2JS.compile(pattern)
  return (value) => compiled.testExact(value)
}

/** Of a header that occurs several times, one value that is right is enough (Envoy 1.39 and later look at each by itself). */
function meetsHeader({ value }: HeaderRule, values: readonly string[] | undefined): boolean {
  if (values === undefined || values.length === 0) return false
  return value === undefined || values.includes(value)
}

/** A mismatch with an action lets the request through, changed; what a secret holds is not known here, so nothing equals it. */
function meetsMatch({ name, value, secret, mismatch }: HeaderMatch, values: readonly string[] | undefined): boolean {
  if (mismatch !== undefined) return true
  if (secret !== undefined) return false
  return meetsHeader(value === undefined ? { name } : { name, value }, values)
}

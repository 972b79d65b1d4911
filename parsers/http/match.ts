/**
 * Which HTTP rules a request matches, judged as Envoy judges it (proxy/xds/ruleset.ts compiles the same rules for it): the oracle of
 * tests, and what answers where no Envoy is. Rules are found by the path: exact ones in a map, beginnings in a trie, and only those
 * regular expressions are run whose fixed beginning is that of the path. Patterns run on re2js, which is linear as RE2 is; nothing of a
 * request is ever a pattern.
 */
import { RE2JS } from 're2js'
import { deniedHost } from './denied-host.ts'
import { hasPart, joinedValue, type Purpose } from './header-values.ts'
import { shapeOfPattern } from './pattern-shape.ts'
import type { HeaderMatch, HeaderRule, HttpRule } from './rules.ts'

/** What a request is for, as the proxy sees it after it has normalised the path. */
export interface HttpTarget {
  readonly method: string
  /** :path, with its query string; empty for a CONNECT, which has none. */
  readonly path: string
  /** Host or :authority, with its port if it states one. */
  readonly authority: string
}

/** A request as the proxy sees it. */
export interface HttpRequest extends HttpTarget {
  /** Values by lower-case name, one for each time that the header occurs. */
  readonly headers: ReadonlyMap<string, readonly string[]>
}

type Test = (target: HttpTarget) => boolean

interface Candidate {
  readonly index: number
  /** What its place in the index does not say yet. */
  readonly test: Test
}

interface TrieNode {
  readonly next: Map<number, TrieNode>
  readonly candidates: Candidate[]
}

/**
 * Which rules' path, method and host a request meets: what stays the same whatever is done to its headers. An empty list matches
 * nothing, a rule that states nothing matches every request.
 */
export class TargetIndex<Rule extends HttpRule = HttpRule> {
  readonly rules: readonly Rule[]
  readonly #purpose: Purpose
  readonly #byPath = new Map<string, Candidate[]>()
  readonly #byPrefix: TrieNode = { next: new Map(), candidates: [] }

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[], purpose: Purpose) {
    this.rules = rules
    this.#purpose = purpose
    for (const [index, rule] of rules.entries()) this.#file(index, rule)
  }

  /** Indices of the rules that are met, in their order. */
  matching(target: HttpTarget): number[] {
    const found: number[] = []
    const exact = this.#byPath.get(target.path)
    if (exact !== undefined) collect(exact, target, found)
    const { path } = target
    let node: TrieNode | undefined = this.#byPrefix
    for (let offset = 0; node !== undefined; offset++) {
      if (node.candidates.length > 0) collect(node.candidates, target, found)
      node = offset < path.length ? node.next.get(path.charCodeAt(offset)) : undefined
    }
    // A pattern with alternatives is filed several times.
    return found.length > 1 ? found.sort((a, b) => a - b).filter((index, at) => index !== found[at - 1]) : found
  }

  #file(index: number, rule: Rule): void {
    const rest = compileRest(rule, this.#purpose)
    const { path } = rule
    if (path === undefined) {
      this.#byPrefix.candidates.push({ index, test: rest })
      return
    }
    const shape = shapeOfPattern(path)
    if (shape.kind === 'regex') {
      const isPath = compilePattern(path)
      this.#nodeOf(shape.prefix).candidates.push({ index, test: (request) => request.path !== '' && rest(request) && isPath(request.path) })
      return
    }
    for (const { text, isPrefix } of shape.texts) {
      if (isPrefix) {
        // The dot of a pattern is no end of line.
        const isPath = ({ path }: HttpTarget) => path !== '' && !path.includes('\n', text.length)
        this.#nodeOf(text).candidates.push({ index, test: (request) => isPath(request) && rest(request) })
        continue
      }
      if (text === '') continue
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
}

function collect(candidates: readonly Candidate[], target: HttpTarget, found: number[]): void {
  for (const { index, test } of candidates) if (test(target)) found.push(index)
}

/** Rules, compiled, and whether they are to allow or to deny, on which the meaning of their headers depends. */
export class HttpMatcher<Rule extends HttpRule = HttpRule> {
  readonly #index: TargetIndex<Rule>
  readonly #purpose: Purpose

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[], purpose: Purpose) {
    this.#index = new TargetIndex(rules, purpose)
    this.#purpose = purpose
  }

  /** The rules that match, in their order. */
  matching(request: HttpRequest): Rule[] {
    return this.#index.matching(request).flatMap((index) => {
      const rule = this.#index.rules[index]
      return rule !== undefined && this.#meetsHeaders(rule, request) ? [rule] : []
    })
  }

  matches(request: HttpRequest): boolean {
    return this.matching(request).length > 0
  }

  #meetsHeaders({ headers, headerMatches = [] }: Rule, request: HttpRequest): boolean {
    return (
      headers.every((header) => meetsHeader(header, headerValue(request, header.name), this.#purpose)) &&
      headerMatches.every((match) => meetsMatch(match, headerValue(request, match.name), this.#purpose))
    )
  }
}

/** The value that a rule's condition on a header sees. `host` is how policies may call :authority. */
export function headerValue(request: HttpRequest, name: string): string | undefined {
  switch (name) {
    case 'host':
    case ':authority':
      return request.authority
    case ':path':
      return request.path
    case ':method':
      return request.method
    default:
      return joinedValue(request.headers.get(name))
  }
}

/** @param value as headerValue gives it */
export function meetsHeader({ value: wanted }: HeaderRule, value: string | undefined, purpose: Purpose): boolean {
  if (value === undefined) return false
  if (wanted === undefined || value === wanted) return true
  return purpose === 'deny' && hasPart(value, wanted)
}

/** Everything but the path. */
function compileRest(rule: HttpRule, purpose: Purpose): Test {
  const { method, host } = rule
  const isMethod = compilePattern(method)
  const isHost = compilePattern(host !== undefined && purpose === 'deny' ? deniedHost(host) : host)
  const meansTunnels = purpose === 'deny' || method !== undefined || !hasConditions(rule)
  return ({ method, authority }) => (meansTunnels || method !== TUNNEL_METHOD) && isMethod(method) && isHost(authority)
}

/** The requests in a tunnel are judged by nobody, so a rule with conditions means one only when it names the method. */
export const TUNNEL_METHOD = 'CONNECT'

function hasConditions({ path, host, headers, headerMatches = [] }: HttpRule): boolean {
  // What is only done to headers is none.
  const isCondition = ({ mismatch, secret }: HeaderMatch) => mismatch === undefined || secret !== undefined
  return path !== undefined || host !== undefined || headers.length > 0 || headerMatches.some(isCondition)
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

/**
 * A mismatch with an action lets the request through, changed. What a secret holds is not known here: nobody is allowed for having it,
 * and everybody denied.
 */
function meetsMatch({ name, value: wanted, secret, mismatch }: HeaderMatch, value: string | undefined, purpose: Purpose): boolean {
  if (secret !== undefined) return purpose === 'deny' || mismatch !== undefined
  return mismatch !== undefined || meetsHeader(wanted === undefined ? { name } : { name, value: wanted }, value, purpose)
}

/**
 * Which HTTP rules a request matches, judged as Envoy judges it (proxy/xds/ruleset.ts compiles the same rules for it): the oracle of
 * tests, and what answers where no Envoy is. Patterns run on re2js, which is linear as RE2 is; nothing of a request is ever a pattern.
 */
import { RE2JS } from 're2js'
import type { HeaderRule, HttpRule } from './rules.ts'

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

/** Rules, compiled. An empty list matches nothing, a rule that states nothing matches every request. */
export class HttpMatcher<Rule extends HttpRule = HttpRule> {
  readonly #rules: readonly { readonly rule: Rule; readonly matches: (request: HttpRequest) => boolean }[]

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[]) {
    this.#rules = rules.map((rule) => ({ rule, matches: compileRule(rule) }))
  }

  /** The rules that match, in their order; the request is allowed if there is one. */
  matching(request: HttpRequest): Rule[] {
    return this.#rules.filter(({ matches }) => matches(request)).map(({ rule }) => rule)
  }
}

function compileRule({ path, method, host, headers }: HttpRule): (request: HttpRequest) => boolean {
  const isPath = compilePattern(path)
  const isMethod = compilePattern(method)
  const isHost = compilePattern(host)
  return (request) =>
    isMethod(request.method) &&
    isPath(request.path) &&
    isHost(request.authority) &&
    headers.every((header) => meetsHeader(header, request.headers.get(header.name)))
}

/** Patterns match the whole value, however they are anchored. */
function compilePattern(pattern: string | undefined): (value: string) => boolean {
  if (pattern === undefined) return () => true
  const compiled = RE2JS.compile(pattern)
  return (value) => compiled.testExact(value)
}

/** Of a header that occurs several times, one value that is right is enough (Envoy 1.39 and later look at each by itself). */
function meetsHeader({ value }: HeaderRule, values: readonly string[] | undefined): boolean {
  if (values === undefined || values.length === 0) return false
  return value === undefined || values.includes(value)
}

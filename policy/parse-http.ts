/** HTTP rules of a document. Semantics are Cilium's (pkg/envoy/policy/envoy_l7_rules_translator.go), its traps included; those are told of. */
import { type HeaderMatch, type HeaderRule, type HttpRule, MISMATCH_ACTIONS } from '#parsers/http/rules.ts'
import type { Cursor } from './cursor.ts'
import type { HttpRules } from './model.ts'
import { boundedList, type MemberContext } from './parse-context.ts'
import { parseSecret } from './parse-tls.ts'
import { checkPattern } from './pattern.ts'

const HEADERS_MAX = 100

const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
/** Nothing in it means more than itself. A dot is let through: nobody escapes it, and it does no harm. */
const LITERAL_PATH = /^\/[\w./~%!@,;=-]*$/

/** @returns undefined when the list is empty: no L7 rules at all */
export function parseHttpRules(cursor: Cursor, context: MemberContext): HttpRules | undefined {
  const items = boundedList(cursor, 'rules')
  if (items === undefined || items.length === 0) return undefined
  return { kind: 'http', rules: items.flatMap((item) => parseHttpRule(item, context) ?? []) }
}

/** @returns undefined for a rule that no request can match: without it the others deny what they do not allow */
function parseHttpRule(cursor: Cursor, context: MemberContext): HttpRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const rule: { path?: string; method?: string; host?: string } = {}
  for (const name of ['path', 'method', 'host'] as const) {
    const field = map.get(name)
    const pattern = field?.string()
    // As in Cilium, an empty pattern is none.
    if (field === undefined || pattern === undefined || pattern === '') continue
    const problem = checkPattern(pattern, context.options.regexProgramSizeMax)
    if (problem !== undefined) field.error(problem.message, problem.hint)
    else if (name === 'path') warnOfPath(field, pattern)
    rule[name] = pattern
  }
  const headersCursor = map.get('headers')
  const matchesCursor = map.get('headerMatches')
  const headers = ((headersCursor && boundedList(headersCursor, 'headers', HEADERS_MAX)) ?? []).map(parseHeader)
  const matches = ((matchesCursor && boundedList(matchesCursor, 'headers', HEADERS_MAX)) ?? []).map((item) =>
    parseHeaderMatch(item, context),
  )
  map.finish()
  if (headers.includes(undefined) || matches.includes(undefined)) return undefined
  const possible = matches.filter((match) => match !== undefined)
  // Those without an action and without a secret are what `headers` says too.
  const plain = possible.filter(({ mismatch, secret }) => mismatch === undefined && secret === undefined)
  const special = possible.filter((match) => !plain.includes(match))
  return {
    ...rule,
    headers: [...headers.filter((header) => header !== undefined), ...plain],
    ...(special.length === 0 ? {} : { headerMatches: special }),
  }
}

/** @returns undefined when no request can have such a header, or when it could not be read */
function parseHeaderMatch(cursor: Cursor, context: MemberContext): HeaderMatch | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const nameCursor = map.get('name')
  const valueCursor = map.get('value')
  const secretCursor = map.get('secret')
  const mismatchCursor = map.get('mismatch')
  const name = nameCursor?.string()
  // As in Cilium, an empty value is none.
  const value = valueCursor?.string() || undefined
  const secret = secretCursor && parseSecret(secretCursor, context)
  const action = mismatchCursor?.string()
  map.finish()
  if (nameCursor === undefined) map.error('name is needed', 'for example {name: X-Token, value: secret}')
  if (name !== undefined && !HEADER_NAME.test(name)) {
    nameCursor?.error(`not a header name: ${name}`, name.startsWith(':') ? 'use path, method or host' : 'for example X-Token')
    return undefined
  }
  const mismatch = MISMATCH_ACTIONS.find((known) => known === action)
  if (action !== undefined && action !== '' && mismatch === undefined)
    mismatchCursor?.error(`no such action: ${action}`, `one of ${MISMATCH_ACTIONS.join(', ')}, or nothing to fail the rule`)
  if (mismatch !== undefined && context.verdict === 'deny')
    mismatchCursor?.error(`a deny rule changes no request: ${mismatch}`, 'remove mismatch')
  if ((mismatch === 'ADD' || mismatch === 'REPLACE') && value === undefined && secretCursor === undefined)
    map.warning(`without a value there is nothing to write into the header: ${mismatch}`, 'add value or secret')
  if (name === undefined || (secretCursor !== undefined && secret === undefined)) return undefined
  if (value !== undefined && value !== value.trim()) {
    valueCursor?.warning(`no header value begins or ends with a space, so this matches none: "${value}"`, `write "${value.trim()}"`)
    if (mismatch === undefined && secret === undefined) return undefined
  }
  return {
    name: name.toLowerCase(),
    ...(value === undefined ? {} : { value }),
    ...(secret === undefined ? {} : { secret }),
    ...(mismatch === undefined ? {} : { mismatch }),
  }
}

/** Of patterns that are right and surely not meant. */
function warnOfPath(field: Cursor, pattern: string): void {
  const query = /[\w/)\]]\?[\w.~-]+=/.exec(pattern)
  if (query !== null) {
    field.warning(`the question mark makes what stands before it optional: ${pattern}`, 'write \\? for the one before a query string')
  } else if (/\/\*(?:\/|$)/.test(pattern)) {
    field.warning(`the star repeats what stands before it, here the slash: ${pattern}`, 'write .* for whatever follows')
  } else if (!pattern.startsWith('/') && /^[\w-]/.test(pattern)) {
    field.warning(`a path begins with a slash, so this matches none: ${pattern}`, `write /${pattern}`)
  } else if (LITERAL_PATH.test(pattern)) {
    field.warningOnce(
      'literal path',
      `path matches the whole of it, query string included: ${pattern}`,
      `write ${pattern}(\\?.*)? if there may be a query string; said once for this file`,
    )
  }
}

/**
 * `Name: value` is an exact value, `Name` alone asks for presence; the split is at the first space, and only a name before a value
 * sheds its colon. @returns undefined when no request can have such a header
 */
function parseHeader(cursor: Cursor): HeaderRule | undefined {
  const text = cursor.string()
  if (text === undefined) return undefined
  const space = text.indexOf(' ')
  const name = space < 0 ? text : text.slice(0, space).replace(/:+$/, '')
  if (space < 0 && name.includes(':') && !name.startsWith(':')) {
    const [wanted = '', ...value] = name.split(':')
    cursor.warning(
      `without a space this asks for a header of that whole name, which no request has: ${text}`,
      value.join('') === '' ? `write "${wanted}"` : `write "${wanted}: ${value.join(':')}"`,
    )
    return undefined
  }
  if (!HEADER_NAME.test(name)) {
    cursor.error(
      `not a header name: ${name}`,
      name.startsWith(':') ? 'use path, method or host' : 'for example "X-Token: secret" or "X-Token"',
    )
    return undefined
  }
  if (space < 0) return { name: name.toLowerCase() }
  const value = text.slice(space + 1)
  if (value !== value.trim()) {
    cursor.warning(`no header value begins or ends with a space, so this matches none: "${text}"`, `write "${name}: ${value.trim()}"`)
    return undefined
  }
  return { name: name.toLowerCase(), value }
}

/** HTTP rules of a document. Semantics are Cilium's (pkg/envoy/policy/envoy_l7_rules_translator.go), its traps included; those are told of. */
import type { HeaderRule, HttpRule } from '#parsers/http/rules.ts'
import type { Cursor } from './cursor.ts'
import type { HttpRules } from './model.ts'
import { checkPattern } from './pattern.ts'

const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
/** Nothing in it means more than itself. A dot is let through: nobody escapes it, and it does no harm. */
const LITERAL_PATH = /^\/[\w./~%!@,;=-]*$/

/** @param later hints for fields that are known and not supported yet @returns undefined when the list is empty: no L7 rules at all */
export function parseHttpRules(cursor: Cursor, regexProgramSizeMax: number, later: string): HttpRules | undefined {
  const items = cursor.list()
  if (items === undefined || items.length === 0) return undefined
  return { kind: 'http', rules: items.flatMap((item) => parseHttpRule(item, regexProgramSizeMax, later) ?? []) }
}

/** @returns undefined for a rule that no request can match: without it the others deny what they do not allow */
function parseHttpRule(cursor: Cursor, regexProgramSizeMax: number, later: string): HttpRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const rule: { path?: string; method?: string; host?: string } = {}
  for (const name of ['path', 'method', 'host'] as const) {
    const field = map.get(name)
    const pattern = field?.string()
    // As in Cilium, an empty pattern is none.
    if (field === undefined || pattern === undefined || pattern === '') continue
    const problem = checkPattern(pattern, regexProgramSizeMax)
    if (problem !== undefined) field.error(problem.message, problem.hint)
    else if (name === 'path') warnOfPath(field, pattern)
    rule[name] = pattern
  }
  const headers = (map.get('headers')?.list() ?? []).map(parseHeader)
  map.finish({ headerMatches: later })
  const possible = headers.filter((header) => header !== undefined)
  return possible.length === headers.length ? { ...rule, headers: possible } : undefined
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

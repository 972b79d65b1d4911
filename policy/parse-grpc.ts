/**
 * gRPC rules of a document. A call is a request for the path /package.Service/Method, so each rule is read as the HTTP rule that says so:
 * proxies, traces and lint know of HTTP only, and rules of both kinds on one port add up. Content-Type is not asked for, because one
 * server often answers gRPC, gRPC-Web and Connect under one path, and a call in another encoding is a call of the same method.
 */
import type { HttpRule } from '#parsers/http/rules.ts'
import type { Cursor } from './cursor.ts'
import type { HttpRules } from './model.ts'
import { boundedList, boundedString, type MemberContext } from './parse-context.ts'
import { checkPattern } from './pattern.ts'

/** Identifiers of protobuf, joined by dots, with a star for any part of them; of methods, one identifier. */
const SERVICE = /^[A-Za-z_*][\w*]*(?:\.[A-Za-z_*][\w*]*)*$/
const METHOD = /^[A-Za-z_*][\w*]*$/
const CALL = /^\/?([^/]+)\/([^/]+)$/

/** What a star stands for. A name has no question mark: a query string begins there. */
const STAR = '[^/?]'

/** @returns undefined when the list is empty: no L7 rules at all */
export function parseGrpcRules(cursor: Cursor, context: MemberContext): HttpRules | undefined {
  const items = boundedList(cursor, 'rules')
  if (items === undefined || items.length === 0) return undefined
  return { kind: 'http', rules: items.flatMap((item) => parseGrpcRule(item, context) ?? []) }
}

function parseGrpcRule(cursor: Cursor, { verdict, options }: MemberContext): HttpRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const serviceCursor = map.get('service')
  const methodCursor = map.get('method')
  const service = parseName(serviceCursor, SERVICE, 'service', 'for example shop.Cart, shop.* or *')
  const method = parseName(methodCursor, METHOD, 'method', 'for example GetUser, Get* or *')
  map.finish()
  if (serviceCursor === undefined && method !== undefined && method !== '*')
    methodCursor?.warning(`without a service, this is the method of every service: ${method}`, 'name the service, or write service: "*"')
  if ((serviceCursor !== undefined && service === undefined) || (methodCursor !== undefined && method === undefined)) return undefined
  const path = `/${patternOf(service)}/${patternOf(method)}`
  // What denies a call denies it in every form: Connect calls some methods with GET, and servers look no further than the question mark.
  const rule = verdict === 'deny' ? { path: `${path}(\\?.*)?`, headers: [] } : { method: 'POST', path, headers: [] }
  const problem = checkPattern(rule.path, options.regexProgramSizeMax)
  if (problem === undefined) return rule
  map.error(problem.message, problem.hint)
  return undefined
}

function parseName(cursor: Cursor | undefined, form: RegExp, what: 'service' | 'method', example: string): string | undefined {
  const text = boundedString(cursor)
  if (cursor === undefined || text === undefined || form.test(text)) return text
  const [, service, method] = CALL.exec(text) ?? []
  const hint =
    service !== undefined && SERVICE.test(service) && METHOD.test(method ?? '')
      ? `write service: ${service} and method: ${method}`
      : `letters, digits and _${what === 'service' ? ', parts joined by dots' : ''}, * for any of them; ${example}`
  cursor.error(`not the name of a ${what}: ${text}`, hint)
  return undefined
}

/** As RE2; nothing but dots and stars of a name means more than itself. */
function patternOf(name = '*'): string {
  return name === '*' ? `${STAR}+` : name.replaceAll('.', '\\.').replaceAll(/\*+/g, `${STAR}*`)
}

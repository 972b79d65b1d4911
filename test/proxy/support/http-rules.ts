/** Random HTTP rules and requests that have a fair chance to meet, and a naive judge of them: one rule after the other. */
import fc from 'fast-check'
import { RE2JS } from 're2js'

export interface PlainRule {
  readonly name: string
  readonly path?: string
  readonly method?: string
  readonly host?: string
  readonly headers: readonly { readonly name: string; readonly value?: string }[]
}

export interface PlainRequest {
  readonly method: string
  readonly path: string
  readonly authority: string
  /** Lines, as they are sent. */
  readonly headers: readonly (readonly [string, string])[]
}

const SEGMENTS = ['a', 'b', 'api', 'users', 'v1', 'v2', '42', 'x.y'] as const
const segment = fc.constantFrom(...SEGMENTS)
const plainPath = fc.array(segment, { maxLength: 4 }).map((parts) => `/${parts.join('/')}`)
const escaped = (text: string) => text.replaceAll('.', '\\.')

/** Patterns of every shape that the compiler tells apart. */
const pathPattern = fc.oneof(
  plainPath.map(escaped),
  plainPath.map((path) => `^${escaped(path)}$`),
  plainPath.map((path) => `${escaped(path)}/.*`),
  plainPath.map((path) => `${escaped(path)}.*`),
  plainPath.map((path) => `${escaped(path)}(\\?.*)?`),
  fc.array(plainPath, { minLength: 2, maxLength: 12 }).map((paths) => paths.map(escaped).join('|')),
  fc
    .tuple(plainPath, fc.array(segment, { minLength: 1, maxLength: 5 }))
    .map(([path, ends]) => `${escaped(path)}/(${ends.map(escaped).join('|')})`),
  fc.tuple(plainPath, segment).map(([path, end]) => `${escaped(path)}/[^/]+/${escaped(end)}`),
  fc.tuple(plainPath, segment).map(([path, end]) => `${escaped(path)}/[0-9]+/${escaped(end)}(/.*)?`),
  segment.map((end) => `.*/${escaped(end)}`),
  segment.map((end) => `(?i).*/${escaped(end.toUpperCase())}`),
  segment.map((end) => `/.*\\Q/${end}`),
  fc.tuple(segment, segment).map(([first, second]) => `/(?P<one>${escaped(first)})/${escaped(second)}.*`),
  fc.constantFrom('.*', '/.*', '/', '/a+', '/[ab]/.*', '(/a){2,3}', '/\\d+', '/api(/.*)?'),
)
const method = fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'HEAD')
const methodPattern = fc.oneof(method, fc.constantFrom('GET|HEAD', 'P.*', '(?i)get', '[A-Z]+', '(GET|POST|PUT)'))
const host = fc.constantFrom(
  'shop.example',
  'api.shop.example',
  'shop.example:8080',
  'other',
  'Shop.Example',
  'shop.example.',
  'SHOP.example.:80',
)
const hostPattern = fc.oneof(
  fc.constantFrom('shop.example', 'api.shop.example', 'shop.example:8080', 'other').map(escaped),
  fc.constantFrom('.*\\.example', 'shop\\.example(:\\d+)?', '(api\\.)?shop\\..*'),
)
const headerName = fc.constantFrom('x-a', 'x-b', 'x-token')
const headerValue = fc.constantFrom('1', 'true', 'a b', 'a,b', 'x.y', '(z)')
const header = fc.record({ name: headerName, value: headerValue }, { requiredKeys: ['name'] })

export const ruleParts = fc.record(
  {
    path: pathPattern,
    method: methodPattern,
    host: hostPattern,
    headers: fc.array(header, { minLength: 1, maxLength: 2 }),
  },
  { requiredKeys: [] },
)

/** Names in the order of the rules. */
export function rulesOf(parts: readonly Partial<PlainRule>[], prefix = 'r'): PlainRule[] {
  return parts.map((part, index) => ({ headers: [], ...part, name: `${prefix}${String(index).padStart(5, '0')}` }))
}

export const request: fc.Arbitrary<PlainRequest> = fc.record({
  method,
  path: fc
    .tuple(plainPath, fc.constantFrom('', '', '/', '?x=1', '?', '/a', '/42/users', '.html'))
    .map(([path, end]) => (path === '/' && end.startsWith('/') ? end : path + end)),
  authority: host,
  headers: fc.array(fc.tuple(headerName, fc.oneof(headerValue, fc.constantFrom('0', 'b', '1,true', ' 1 ', ''))), { maxLength: 3 }),
})

/** @param verdict a deny rule looks at the parts of a header too */
export function matchesNaively(rule: PlainRule, asked: PlainRequest, verdict: 'allow' | 'deny'): boolean {
  const full = (pattern: string | undefined, value: string) => pattern === undefined || RE2JS.compile(pattern).testExact(value)
  if (!full(rule.path, asked.path) || !full(rule.method, asked.method)) return false
  // A denied host is meant in all spellings.
  const plainHost = asked.authority.toLowerCase().replace(/^.*@/, '')
  const hosts = verdict === 'allow' ? [asked.authority] : [plainHost, plainHost.replace(/:\d*$/, ''), plainHost.replace(/\.?(:\d*)?$/, '')]
  if (!hosts.some((host) => full(rule.host, host))) return false
  return rule.headers.every(({ name, value }) => {
    // Whitespace around a line is not part of it.
    const lines = asked.headers.filter(([key]) => key === name).map(([, text]) => text.trim())
    if (lines.length === 0) return false
    if (value === undefined) return true
    const whole = lines.join(',')
    if (whole === value) return true
    if (verdict === 'allow') return false
    // Every way of cutting the whole at commas.
    const parts = whole.split(',')
    for (let first = 0; first < parts.length; first++)
      for (let last = first + 1; last <= parts.length; last++) if (parts.slice(first, last).join(',').trim() === value) return true
    return false
  })
}

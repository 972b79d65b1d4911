import test from 'ava'
import type { Purpose } from '#parsers/http/header-values.ts'
import { HttpMatcher, type HttpRequest } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'

interface Named extends HttpRule {
  readonly name: string
}

function request({ headers, ...rest }: Partial<Omit<HttpRequest, 'headers'>> & { headers?: Record<string, string[]> } = {}): HttpRequest {
  return { method: 'GET', path: '/', authority: 'shop.example', ...rest, headers: new Map(Object.entries(headers ?? {})) }
}

function matches(
  rule: Omit<HttpRule, 'headers'> & { headers?: HttpRule['headers'] },
  asked: HttpRequest,
  purpose: Purpose = 'allow',
): boolean {
  return new HttpMatcher([{ headers: [], ...rule }], purpose).matching(asked).length > 0
}

test('no rules match nothing, and a rule that states nothing matches everything', (t) => {
  t.deepEqual(new HttpMatcher([], 'allow').matching(request()), [])
  t.true(matches({}, request({ method: 'BREW', path: '*', authority: '' })))
})

test('patterns match the whole value, whatever alternative would do for a part of it', (t) => {
  t.true(matches({ path: '/a|/ab' }, request({ path: '/ab' })))
  t.false(matches({ path: '/a' }, request({ path: '/ab' })))
  t.false(matches({ path: 'a' }, request({ path: '/a' })))
  t.true(matches({ path: '^/a$' }, request({ path: '/a' })))
  t.false(matches({ method: 'GET' }, request({ method: 'get' })))
  t.true(matches({ method: '(?i)get' }, request({ method: 'get' })))
  t.false(matches({ path: '/a' }, request({ path: '/a\n' })))
})

test('a path is matched with its query string, a host with its port', (t) => {
  t.false(matches({ path: '/public' }, request({ path: '/public?x=1' })))
  t.true(matches({ path: '/public(\\?.*)?' }, request({ path: '/public?x=1' })))
  t.false(matches({ host: 'shop\\.example' }, request({ authority: 'shop.example:8080' })))
  t.true(matches({ host: 'shop\\.example(:[0-9]+)?' }, request({ authority: 'shop.example:8080' })))
})

test('everything that a rule states has to match', (t) => {
  const rule = { method: 'GET', path: '/a', headers: [{ name: 'x-a', value: '1' }, { name: 'x-b' }] }
  t.true(matches(rule, request({ path: '/a', headers: { 'x-a': ['1'], 'x-b': ['whatever'] } })))
  t.false(matches(rule, request({ path: '/a', headers: { 'x-a': ['1'] } })))
  t.false(matches(rule, request({ path: '/b', headers: { 'x-a': ['1'], 'x-b': [''] } })))
})

// As Envoy 1.40 joins them for its matcher inputs.
test('an allow rule compares all values of a header as one, joined with commas', (t) => {
  const rule = { headers: [{ name: 'x-k', value: 'true' }] }
  t.true(matches(rule, request({ headers: { 'x-k': ['true'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['true', 'false'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['true', 'true'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['true,false'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['TRUE'] } })))
  t.true(matches({ headers: [{ name: 'x-k', value: 'a,b' }] }, request({ headers: { 'x-k': ['a', 'b'] } })))
})

test('a deny rule looks at each part of a value too', (t) => {
  const rule = { headers: [{ name: 'x-k', value: 'true' }] }
  const denies = (...values: string[]) => matches(rule, request({ headers: { 'x-k': values } }), 'deny')
  for (const values of [['true'], ['true', 'false'], ['false', 'true'], ['a, true ,b'], ['\ttrue'], ['true,'], [',true']])
    t.true(denies(...values), JSON.stringify(values))
  for (const values of [[], ['TRUE'], ['untrue'], ['true false'], ['true;false'], ['a,b']])
    t.false(denies(...values), JSON.stringify(values))
})

test('the host, the path and the method can be called as headers', (t) => {
  for (const [name, value] of [
    ['host', 'shop.example'],
    [':authority', 'shop.example'],
    [':path', '/'],
    [':method', 'GET'],
  ] as const)
    t.true(matches({ headers: [{ name, value }] }, request()), name)
})

// Whoever asks here knows no secret.
test('nobody is allowed for a secret, and everybody denied', (t) => {
  const headerMatches = [{ name: 'x-k', secret: { namespace: 'default', name: 's' } }]
  const asked = request({ headers: { 'x-k': ['true'] } })
  t.false(matches({ headerMatches }, asked))
  t.true(matches({ headerMatches }, asked, 'deny'))
  t.true(matches({ headerMatches: [{ ...headerMatches[0]!, mismatch: 'LOG' }] }, asked))
})

test('a header without a value is present, and has the empty value', (t) => {
  t.true(matches({ headers: [{ name: 'x-k' }] }, request({ headers: { 'x-k': [''] } })))
  t.true(matches({ headers: [{ name: 'x-k', value: '' }] }, request({ headers: { 'x-k': [''] } })))
  t.false(matches({ headers: [{ name: 'x-k', value: '' }] }, request()))
  t.false(matches({ headers: [{ name: 'x-k' }] }, request({ headers: { 'x-k': [] } })))
})

test('all rules that match are told, in their order', (t) => {
  const rules: Named[] = [
    { name: 'a', path: '/a.*', headers: [] },
    { name: 'b', method: 'PUT', headers: [] },
    { name: 'c', headers: [] },
  ]
  t.deepEqual(
    new HttpMatcher(rules, 'allow').matching(request({ path: '/ab' })).map(({ name }) => name),
    ['a', 'c'],
  )
})

test('a pattern that makes other engines backtrack is matched in linear time', (t) => {
  const started = process.cpuUsage().user
  t.false(matches({ path: '/(a+)+b' }, request({ path: `/${'a'.repeat(20_000)}` })))
  t.true(process.cpuUsage().user - started < 5_000_000)
})

import test from 'ava'
import { HttpMatcher, type HttpRequest } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'

interface Named extends HttpRule {
  readonly name: string
}

function request({ headers, ...rest }: Partial<Omit<HttpRequest, 'headers'>> & { headers?: Record<string, string[]> } = {}): HttpRequest {
  return { method: 'GET', path: '/', authority: 'shop.example', ...rest, headers: new Map(Object.entries(headers ?? {})) }
}

function matches(rule: Omit<HttpRule, 'headers'> & { headers?: HttpRule['headers'] }, asked: HttpRequest): boolean {
  return new HttpMatcher([{ headers: [], ...rule }]).matching(asked).length > 0
}

test('no rules match nothing, and a rule that states nothing matches everything', (t) => {
  t.deepEqual(new HttpMatcher([]).matching(request()), [])
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

// As Envoy 1.40 answers for its own HeaderMatcher.
test('of a header that occurs several times one right value is enough, and values are not joined', (t) => {
  const rule = { headers: [{ name: 'x-k', value: 'true' }] }
  t.true(matches(rule, request({ headers: { 'x-k': ['true', 'false'] } })))
  t.true(matches(rule, request({ headers: { 'x-k': ['false', 'true'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['true,true'] } })))
  t.false(matches(rule, request({ headers: { 'x-k': ['TRUE'] } })))
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
    new HttpMatcher(rules).matching(request({ path: '/ab' })).map(({ name }) => name),
    ['a', 'c'],
  )
})

test('a pattern that makes other engines backtrack is matched in linear time', (t) => {
  const started = process.cpuUsage().user
  t.false(matches({ path: '/(a+)+b' }, request({ path: `/${'a'.repeat(20_000)}` })))
  t.true(process.cpuUsage().user - started < 5_000_000)
})

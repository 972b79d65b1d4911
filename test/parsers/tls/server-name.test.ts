import test from 'ava'
import { compileServerName, isServerName, isServerNamePattern, ServerNameMatcher } from '#parsers/tls/server-name.ts'

test('a pattern matches the whole name in any case', (t) => {
  const matches = compileServerName('API.example.com')
  t.deepEqual(['api.EXAMPLE.com', 'api.example.com.', 'xapi.example.com', 'api.example.com.evil', ''].map(matches), [
    true,
    true,
    false,
    false,
    false,
  ])
})

test('stars stand for parts of a label, two in front for whole labels, and one alone for any name that can be', (t) => {
  t.deepEqual(['a.example.com', 'a.b.example.com', 'example.com', '.example.com'].map(compileServerName('*.example.com')), [
    true,
    false,
    false,
    false,
  ])
  t.deepEqual(['api-1.x', 'api.x', 'ap.x'].map(compileServerName('api*.x')), [true, true, false])
  t.deepEqual(['a.x', 'a.b.x', 'x'].map(compileServerName('**.x')), [true, true, false])
  t.deepEqual(['a', 'a.b', '', '.', 'a..b', 'é', 'a b', `${'a'.repeat(64)}.b`, 'a.'.repeat(127).concat('a')].map(compileServerName('*')), [
    true,
    true,
    false,
    false,
    false,
    false,
    false,
    false,
    false,
  ])
})

test('a connection without a name matches no pattern', (t) => {
  const matcher = new ServerNameMatcher(['*', 'a.example'])
  t.deepEqual(matcher.matching('A.example'), ['*', 'a.example'])
  t.deepEqual(matcher.matching(undefined), [])
  t.true(isServerName('a.example'))
  t.false(isServerNamePattern('a b'))
})

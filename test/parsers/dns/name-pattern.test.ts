import test from 'ava'
import fc from 'fast-check'
import { RE2JS } from 're2js'
import { DnsMatcher } from '#parsers/dns/match.ts'
import { compileNamePattern, isMatchName, isMatchPattern, normalizeName } from '#parsers/dns/name-pattern.ts'

function peers(pattern: string, ...names: readonly string[]): boolean[] {
  const matches = compileNamePattern(pattern, 'peers')
  return names.map(matches)
}

test('a star stands for any part of one label, none of it included', (t) => {
  t.deepEqual(peers('*.example.com', 'www.example.com.', 'WWW.Example.COM', '.example.com.', 'example.com', 'a.b.example.com'), [
    true,
    true,
    true,
    false,
    false,
  ])
  t.deepEqual(peers('*example.com', 'subexample.com', 'example.com', 'www.example.com'), [true, true, false])
  t.deepEqual(peers('a*b*c.x', 'abc.x', 'a1b2c.x', 'a1b2c3.x', 'ac.x', 'ab.c.x'), [true, true, false, false, false])
  t.deepEqual(peers('www.*', 'www.com', 'www.', 'www.a.b'), [true, false, false])
})

test('two stars in front are whole labels, one or more, and elsewhere one star', (t) => {
  for (const stars of ['**', '***'])
    t.deepEqual(peers(`${stars}.example.com`, 'a.example.com', 'a.b.example.com', 'example.com', '.example.com', 'a..example.com'), [
      true,
      true,
      false,
      false,
      false,
    ])
  t.deepEqual(peers('a.**.com', 'a.b.com', 'a.b.c.com', 'a..com'), [true, false, true])
  t.deepEqual(peers('**a.com', 'ba.com', 'c.ba.com'), [true, false])
})

test('stars alone are every name, and in rules about queries everything', (t) => {
  for (const pattern of ['*', '**', '*.', '***.']) {
    t.deepEqual(peers(pattern, 'a', 'a.b.example.', '.', 'a..b', 'é.example', 'a b'), [true, true, true, false, false, false], pattern)
    t.true(compileNamePattern(pattern, 'queries')('é b..'), pattern)
  }
})

test('names and patterns that can be none are known', (t) => {
  for (const name of ['example.com', 'example.com.', '_tcp.example', 'xn--e28h.com', 'A']) t.true(isMatchName(name), name)
  for (const name of ['', '.', 'a..b', '.a', 'a b', '*.a', 'a'.repeat(256), 'é']) t.false(isMatchName(name), name)
  for (const pattern of ['*', '**.', '*.a.*', '_http._tcp.*', 'a*b']) t.true(isMatchPattern(pattern), pattern)
  for (const pattern of ['', '..', '%$*.*', '[a]', 'a{2}', '*..a']) t.false(isMatchPattern(pattern), pattern)
})

test('a rule with a name and a pattern matches what either matches', (t) => {
  const rule = { matchName: 'a.example.', matchPattern: '*.b.example.' }
  const matcher = new DnsMatcher([rule, { matchName: 'c.example.' }])
  t.deepEqual(matcher.matching('A.example'), [rule])
  t.deepEqual(matcher.matching('x.b.example.'), [rule])
  t.deepEqual(matcher.matching('c.example'), [{ matchName: 'c.example.' }])
  t.deepEqual(matcher.matching('d.example'), [])
  t.deepEqual(new DnsMatcher([{}]).matching('a'), [])
})

/** As Cilium makes a regular expression of it. */
function compileAsCilium(pattern: string): RE2JS {
  const normal = normalizeName(pattern)
  if (/^\*+\.?$/.test(normal)) return RE2JS.compile('(([-a-zA-Z0-9_]+[.])+)|([.])')
  const open = /^\*{2,}\./.exec(normal)?.[0] ?? ''
  const rest = normal.slice(open.length).replaceAll('.', '[.]').replace(/\*+/g, '[-a-zA-Z0-9_]*')
  return RE2JS.compile(`${open === '' ? '' : '([-a-zA-Z0-9_]+([.][-a-zA-Z0-9_]+){0,})[.]'}${rest}`)
}

test('patterns mean what the regular expressions of Cilium mean', (t) => {
  const label = fc.array(fc.constantFrom('a', 'b', '*', '**', '-'), { minLength: 1, maxLength: 4 }).map((parts) => parts.join(''))
  const pattern = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'))
  const name = fc.array(fc.constantFrom('a', 'b', '-', '.', 'aa', 'é'), { maxLength: 8 }).map((parts) => parts.join(''))
  fc.assert(
    fc.property(pattern, name, (p, n) => compileNamePattern(p, 'peers')(n) === compileAsCilium(p).testExact(normalizeName(n))),
    { numRuns: 5000 },
  )
  t.pass()
})

import test from 'ava'
import fc from 'fast-check'
import { RE2JS } from 're2js'
import { HttpMatcher } from '#parsers/http/match.ts'
import { FIXED_TEXTS_MAX, shapeOfPattern } from '#parsers/http/pattern-shape.ts'

test('fixed texts and their beginnings are told from real expressions', (t) => {
  const fixed = (pattern: string): string[] | undefined => {
    const shape = shapeOfPattern(pattern)
    return shape.kind === 'fixed' ? shape.texts.map(({ text, isPrefix }) => `${text}${isPrefix ? '…' : ''}`) : undefined
  }
  t.deepEqual(fixed('/a'), ['/a'])
  t.deepEqual(fixed('^/a\\.b$'), ['/a.b'])
  t.deepEqual(fixed('/a/.*'), ['/a/…'])
  t.deepEqual(fixed('/a(\\?.*)?'), ['/a', '/a?…'])
  t.deepEqual(fixed('GET|HEAD'), ['GET', 'HEAD'])
  t.deepEqual(fixed('/(?:a|b)s?/x'), ['/a/x', '/as/x', '/b/x', '/bs/x'])
  t.deepEqual(fixed('.*'), ['…'])
  for (const pattern of ['/a.b', '/[ab]', '/a+', '/a{2}', '(?i)get', '/.*/x', '\\d', '/a\\Q.\\E', '^a|b$', '/a*?', '/a??', '(a', 'a)'])
    t.is(shapeOfPattern(pattern).kind, 'regex', pattern)
})

test('a real expression tells how its matches begin', (t) => {
  for (const [pattern, prefix] of [
    ['/v1/[0-9]+', '/v1/'],
    ['^/a\\.b/[x]', '/a.b/'],
    ['/ab*c', '/a'],
    ['/ab+c', '/ab'],
    ['/ab{2}', '/a'],
    ['/a[x]|/b', ''],
    ['/a/(x|y)+', '/a/'],
    ['/a[|]b', '/a'],
    ['/a[]|]b|c', ''],
    ['/a\\Q|\\E', ''],
    ['(?i)/a', ''],
  ] as const)
    t.deepEqual(shapeOfPattern(pattern), { kind: 'regex', prefix }, pattern)
})

test('alternatives are listed while they are few', (t) => {
  const group = '(a|b|c|d)'
  t.is(shapeOfPattern(group.repeat(3)).kind, 'fixed')
  t.true(4 ** 4 > FIXED_TEXTS_MAX)
  t.is(shapeOfPattern(group.repeat(4)).kind, 'regex')
})

const piece = fc.constantFrom(
  'a',
  'b',
  '/',
  '\\.',
  '.',
  '.*',
  '(a|b)',
  '(?:a|/b)?',
  '(',
  ')',
  '|',
  '?',
  '*',
  '+',
  '[ab]',
  '[|]',
  '[^]|]',
  '^',
  '$',
  '\\',
  '{2}',
  '\\?',
  '(\\?.*)?',
  'é',
)
const pattern = fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join(''))
const value = fc.array(fc.constantFrom('a', 'b', '/', '.', '?', '\n', 'é', '\\'), { maxLength: 6 }).map((pieces) => pieces.join(''))

test('a matcher that looks paths up says what RE2 says', (t) => {
  let checked = 0
  fc.assert(
    fc.property(
      fc.array(pattern, { minLength: 1, maxLength: 4 }),
      fc.array(value, { minLength: 20, maxLength: 20 }),
      (patterns, values) => {
        const valid = patterns.filter((text) => {
          try {
            return RE2JS.compile(text) !== undefined
          } catch {
            return false
          }
        })
        const rules = valid.map((path) => ({ path, headers: [] }))
        const matcher = new HttpMatcher(rules, 'allow')
        // Nothing is the path of a tunnel only.
        for (const path of values.filter((value) => value !== '')) {
          const request = { method: 'GET', path, authority: '', headers: new Map() }
          const expected = valid.filter((text) => RE2JS.compile(text).testExact(path))
          const actual = matcher.matching(request).map((rule) => rule.path)
          checked += valid.length
          if (actual.join('\0') !== expected.join('\0')) throw new Error(JSON.stringify({ valid, path, expected, actual }))
        }
      },
    ),
    { numRuns: 500, includeErrorInReport: true },
  )
  t.true(checked > 1_000)
})

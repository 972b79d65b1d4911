import test from 'ava'
import fc from 'fast-check'
import { NameIndex } from '#parsers/dns/name-index.ts'
import { compileName, type NameUse, normalizeName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'

function indexOf(use: NameUse, ...patterns: readonly string[]): NameIndex<string> {
  const index = new NameIndex<string>(use)
  for (const pattern of patterns) index.add({ matchPattern: pattern }, pattern)
  return index
}

test('a name finds its exact rules and the patterns that match it', (t) => {
  const index = indexOf('peers', '*.example.com.', '**.example.com.', 'www*.example.com.', 'www.*.com.', '*.net.', '**.com.')
  index.add({ matchName: 'www.example.com.' }, 'exact')
  const found = (name: string) => index.matching(name).toSorted()
  t.deepEqual(found('www.example.com.'), ['**.com.', '**.example.com.', '*.example.com.', 'exact', 'www*.example.com.', 'www.*.com.'])
  t.deepEqual(found('a.b.example.com.'), ['**.com.', '**.example.com.'])
  t.deepEqual(found('example.com.'), ['**.com.'])
  t.deepEqual(found('.example.com.'), ['*.example.com.'])
  t.deepEqual(found('com.'), [])
  t.deepEqual(found('.'), [])
  t.deepEqual(found('a\\046b.example.com.'), [])
})

test('the narrowest rules of a name are its own, and those for patterns only without any', (t) => {
  const index = new NameIndex<string>('peers')
  index.add({ matchPattern: '*.test.' }, 'pattern')
  t.deepEqual(index.narrowest('a.test.'), ['pattern'])
  index.add({ matchName: 'A.test' }, 'name')
  t.deepEqual(index.narrowest('a.test.'), ['name'])
  t.deepEqual([...index.matching('a.test.')].sort(), ['name', 'pattern'])
  t.deepEqual(index.narrowest('b.test.'), ['pattern'])
  index.remove({ matchName: 'a.test.' }, 'name')
  t.deepEqual(index.narrowest('a.test.'), ['pattern'])
  t.deepEqual(index.narrowest('a.other.'), [])
})

test('stars alone are every name of peers, and every query', (t) => {
  for (const pattern of ['*', '**', '*.', '***.']) {
    const [peers, queries] = [indexOf('peers', pattern), indexOf('queries', pattern)]
    for (const name of ['a.', '.', 'a.b-c._d.']) t.deepEqual(peers.matching(name), [pattern])
    for (const name of ['a..b.', 'a\\046b.', '..']) t.deepEqual(peers.matching(name), [])
    for (const name of ['a.', '.', 'a..b.', 'a\\046b.']) t.deepEqual(queries.matching(name), [pattern])
  }
})

test('a value is found once, by however many rules', (t) => {
  const index = indexOf('peers')
  index.add({ matchName: 'a.test.', matchPattern: '*.test.' }, 'v')
  index.add({ matchPattern: '**.test.' }, 'v')
  index.add({ matchPattern: '**.test.' }, 'w')
  t.deepEqual(index.matching('a.test.').toSorted(), ['v', 'w'])
  for (let value = 0; value < 100; value += 1) index.add({ matchPattern: value % 2 === 0 ? '*.test.' : 'a*.test.' }, `${value % 40}`)
  t.is(index.matching('a.test.').length, 42)
})

test('what is removed is found no more, and a rule that shares a part with it stays', (t) => {
  const index = new NameIndex<string>('peers')
  const rule = { matchName: 'a.test.', matchPattern: '*.b.test.' }
  index.add(rule, 'v')
  index.add({ matchName: 'a.test.' }, 'v')
  index.remove(rule, 'v')
  t.deepEqual(index.matching('a.test.'), ['v'])
  t.deepEqual(index.matching('x.b.test.'), [])
  index.remove({ matchName: 'a.test.' }, 'v')
  t.deepEqual(index.matching('a.test.'), [])
})

test('to remove what is not there changes nothing', (t) => {
  const index = indexOf('peers', '*.a.test.', '**.test.')
  for (const matchPattern of ['*.b.test.', '**.a.test.', 'test.', '*', '**.b.test.']) index.remove({ matchPattern }, '*.a.test.')
  index.remove({ matchPattern: '*.a.test.' }, 'other')
  index.remove({ matchName: 'a.test.' }, '*.a.test.')
  t.deepEqual(index.matching('x.a.test.').toSorted(), ['**.test.', '*.a.test.'])
})

test('a list that was found stays as it was', (t) => {
  const index = indexOf('peers', '*.test.')
  const before = index.matching('a.test.')
  index.add({ matchPattern: '*.test.' }, 'later')
  t.deepEqual(before, ['*.test.'])
  t.deepEqual(index.matching('a.test.'), ['*.test.', 'later'])
})

const LABEL = fc.array(fc.constantFrom('a', 'b', '*', '**', '-'), { minLength: 1, maxLength: 3 }).map((parts) => parts.join(''))
const PATTERN = fc.oneof(
  fc.array(LABEL, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.')),
  fc.constantFrom('*', '**.', '**.a', '**.a.b', '*.a', '*.*'),
)
const NAME = fc
  .array(fc.constantFrom('a', 'b', '-', '.', 'aa', 'a.b', '\\046', 'é'), { maxLength: 7 })
  .map((parts) => normalizeName(parts.join('')))
const RULE: fc.Arbitrary<DnsRule> = fc.oneof(
  PATTERN.map((matchPattern) => ({ matchPattern })),
  NAME.map((matchName) => ({ matchName })),
  fc.record({ matchName: NAME, matchPattern: PATTERN }),
)

test('an index finds the rules that match one by one, whatever is added and removed', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom<NameUse>('peers', 'queries'),
      fc.array(RULE, { maxLength: 20 }),
      fc.array(fc.nat(19), { maxLength: 10 }),
      fc.array(NAME, { minLength: 1, maxLength: 10 }),
      (use, rules, removals, names) => {
        const index = new NameIndex<number>(use)
        const kept = new Map(rules.entries())
        for (const [number, rule] of rules.entries()) index.add(rule, number)
        const check = () => {
          for (const name of names) {
            const expected = [...kept].filter(([, rule]) => compileName(rule, use)(name)).map(([number]) => number)
            t.deepEqual(
              index.matching(name).toSorted((x, y) => x - y),
              expected,
              name,
            )
          }
        }
        check()
        for (const number of removals) {
          const rule = kept.get(number)
          if (rule === undefined) continue
          index.remove(rule, number)
          kept.delete(number)
        }
        check()
        for (const [number, rule] of kept) index.remove(rule, number)
        kept.clear()
        check()
      },
    ),
    { numRuns: 1000 },
  )
})

test('thousands of patterns cost a name little, whatever it is', (t) => {
  const index = new NameIndex<number>('peers')
  for (let number = 0; number < 20_000; number += 1) {
    index.add({ matchPattern: `*.s${number}.example.com.` }, number)
    index.add({ matchPattern: `**.t${number}.example.com.` }, number)
  }
  const names = ['a.s7.example.com.', `${'a.'.repeat(120)}t7.example.com.`, `${'a.'.repeat(126)}`, `${'.'.repeat(250)}example.com.`]
  const startMs = performance.now()
  for (let turn = 0; turn < 1000; turn += 1) for (const name of names) index.matching(name)
  // A walk over the patterns would take minutes.
  t.true(performance.now() - startMs < 5000)
  t.deepEqual(index.matching('a.s7.example.com.'), [7])
})

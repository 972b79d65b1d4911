import test from 'ava'
import fc from 'fast-check'
import { RE2JS } from 're2js'
import { hasPart, partsOfLength } from '#parsers/http/header-values.ts'

const text = fc.array(fc.constantFrom('a', 'b', ',', ' ', '\t', '.'), { maxLength: 12 }).map((characters) => characters.join(''))
const value = fc.oneof(text, fc.constantFrom('', 'a', 'aa', 'a,b', ' a', 'a ', ',', ' ', 'a.'))

// The dot of re2js with (?s) stands for the \C of the real one: any unit.
test('a part of a value is what the expression for Envoy finds', (t) => {
  let found = 0
  fc.assert(
    fc.property(value, fc.array(text, { minLength: 30, maxLength: 30 }), (wanted, joinedValues) => {
      const expression = RE2JS.compile(`(?s)(?:.*,)?[ \\t]*${RE2JS.quote(wanted)}[ \\t]*(?:,.*)?`)
      for (const joined of [...joinedValues, `${wanted},a`, `a , ${wanted}`]) {
        const expected = expression.testExact(joined)
        if (expected) found += 1
        if (hasPart(joined, wanted) !== expected) throw new Error(JSON.stringify({ wanted, joined, expected }))
      }
    }),
    { numRuns: 1000, includeErrorInReport: true },
  )
  t.true(found > 1000)
})

test('parts of the length of a value hold it exactly when it is a part', (t) => {
  fc.assert(
    fc.property(
      value.filter((wanted) => wanted !== '' && wanted.trim() === wanted),
      fc.array(text, { minLength: 30, maxLength: 30 }),
      (wanted, joinedValues) => {
        for (const joined of [...joinedValues, `${wanted},a`, `a , ${wanted}`]) {
          const actual = partsOfLength(joined, wanted.length, wanted.split(',').length - 1).includes(wanted)
          if (actual !== hasPart(joined, wanted)) throw new Error(JSON.stringify({ wanted, joined, actual }))
        }
      },
    ),
    { numRuns: 500, includeErrorInReport: true },
  )
  t.pass()
})

test('a long value that almost matches everywhere takes linear time', (t) => {
  const started = process.cpuUsage().user
  const joined = ' \t'.repeat(100_000)
  for (const wanted of ['', ' ', 'a', `${' '.repeat(50)}a`]) hasPart(joined, wanted)
  hasPart('a '.repeat(100_000), 'a')
  t.true(process.cpuUsage().user - started < 2_000_000)
})

import test from 'ava'
import fc from 'fast-check'
import { RuleSearch } from '#proxy/rule-search.ts'

/** Runs a search against an Envoy that refuses every set with a bad rule in it. */
function run(rules: readonly string[], bad: ReadonlySet<string>, inForce: readonly string[], exactly: boolean) {
  const search = new RuleSearch(rules, new Set(inForce), exactly)
  const tried: (readonly string[])[] = []
  for (let candidate = search.candidate; candidate !== undefined; candidate = search.candidate) {
    tried.push(candidate)
    if (candidate.some((rule) => bad.has(rule))) search.refusedCandidate(`bad: ${candidate.find((rule) => bad.has(rule))}`)
    else search.acceptedCandidate()
  }
  return { search, tried }
}

test('the search ends with every good rule in force and every bad one named with its reason', (t) => {
  const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 4 }), { maxLength: 24 })
  fc.assert(
    fc.property(names, fc.func(fc.boolean()), fc.func(fc.boolean()), fc.boolean(), (rules, isBad, isInForce, exactly) => {
      const bad = new Set(rules.filter((rule) => isBad(rule)))
      const inForce = rules.filter((rule) => !bad.has(rule) && isInForce(rule))
      const { search, tried } = run(rules, bad, inForce, exactly)
      const good = rules.filter((rule) => !bad.has(rule))
      if (search.good.toSorted().join() !== good.toSorted().join()) throw new Error('not every good rule is in force')
      if (
        search.refused
          .map(({ rule }) => rule)
          .toSorted()
          .join() !== [...bad].toSorted().join()
      )
        throw new Error('not every bad rule is named')
      for (const set of tried) if (set.some((rule) => !rules.includes(rule))) throw new Error('a set with a rule that is not wanted')
      const limit = 2 + 2 * (bad.size + 1) * (Math.ceil(Math.log2(rules.length + 1)) + 1)
      if (tried.length > limit) throw new Error(`${tried.length} sets tried for ${rules.length} rules with ${bad.size} bad ones`)
    }),
    { numRuns: 1000 },
  )
  t.pass()
})

test('what is tried first is what old and new policy have in common, unless that is just what is in force', (t) => {
  t.deepEqual(run(['a', 'b', 'c'], new Set(['c']), ['a'], false).tried[0], ['a'])
  t.deepEqual(run(['a', 'b', 'c'], new Set(['c']), [], false).tried[0], [])
  t.notDeepEqual(run(['a', 'b', 'c'], new Set(['c']), ['a'], true).tried[0], ['a'])
})

test('if even what was in force is refused, nothing is taken for granted', (t) => {
  const { search } = run(['a', 'b'], new Set(['a']), ['a', 'b'], false)
  t.deepEqual(search.good, ['b'])
  t.deepEqual(
    search.refused.map(({ rule }) => rule),
    ['a'],
  )
})

import { create } from '@bufbuild/protobuf'
import test from 'ava'
import fc from 'fast-check'
import { type HttpRule, type Ruleset, RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import { leaveOutRefused, searchRuleset, type UsableRuleset } from '#proxy/ruleset-search.ts'

const NAMES = ['a', 'b', 'c', 'd', 'e']
/** A request is the names of the rules that match it. */
const REQUESTS = Array.from({ length: 2 ** NAMES.length }, (_, bits) => new Set(NAMES.filter((_, index) => bits & (1 << index))))

/** Rules with conditions on the method match nothing: that is how a search asks about rules of a shadow. */
const matches = (rules: readonly HttpRule[], request: ReadonlySet<string>) =>
  rules.some(({ name, headers }) => headers.length === 0 && request.has(name))
const allows = (ruleset: Ruleset, request: ReadonlySet<string>) =>
  (ruleset.allowAll || matches(ruleset.http, request)) && !matches(ruleset.httpDeny, request)
const reports = (ruleset: Ruleset, request: ReadonlySet<string>) =>
  allows(ruleset, request) && ruleset.shadow !== undefined && !allows(ruleset.shadow, request)

const rulesOf = ({ allowAll, http, httpDeny }: Ruleset) => [...(allowAll ? [] : http), ...httpDeny]
const namesOf = (rules: readonly HttpRule[]) => rules.map(({ name }) => name).toSorted()

/** Runs a search against an Envoy that refuses every ruleset with a bad rule in it. */
function run(wanted: Ruleset, bad: ReadonlySet<string>, inForce: Ruleset | undefined): { usable: UsableRuleset; tried: Ruleset[] } {
  const search = searchRuleset(wanted, inForce)
  const tried: Ruleset[] = []
  let step = search.next()
  while (!step.done) {
    tried.push(step.value)
    const { shadow } = step.value
    const culprit = [...rulesOf(step.value), ...(shadow === undefined ? [] : rulesOf(shadow))].find(({ name }) => bad.has(name))
    step = search.next(culprit && `bad: ${culprit.name}`)
  }
  return { usable: step.value, tried }
}

const namesArbitrary = fc.subarray(NAMES)
const toRules = (names: readonly string[]) => names.map((name) => ({ name, path: `/${name}` }))
const partArbitrary = fc
  .record({ allowAll: fc.boolean(), http: namesArbitrary, httpDeny: namesArbitrary })
  .map(({ allowAll, http, httpDeny }) => ({ allowAll, http: toRules(http), httpDeny: toRules(httpDeny) }))
const rulesetArbitrary = fc
  .record({ enforced: partArbitrary, shadow: fc.option(partArbitrary, { nil: undefined }) })
  .map(({ enforced, shadow }) => create(RulesetSchema, { ...enforced, ...(shadow === undefined ? {} : { shadow }) }))

test('nothing on the way allows or reports what the policy does not, and the end is what the refused rules leave', (t) => {
  const inForceArbitrary = fc.option(rulesetArbitrary, { nil: undefined })
  fc.assert(
    fc.property(rulesetArbitrary, namesArbitrary, inForceArbitrary, (wanted, badNames, inForce) => {
      const bad = new Set(badNames)
      const badOf = (rules: readonly HttpRule[]) => namesOf(rules.filter(({ name }) => bad.has(name)))
      const { shadow } = wanted
      const all = [...rulesOf(wanted), ...(shadow === undefined ? [] : rulesOf(shadow))]
      // Only such a ruleset is ever searched, and only a good one is in force.
      fc.pre(badOf(all).length > 0)
      fc.pre(inForce === undefined || badOf(rulesOf(inForce)).length === 0)
      const { usable, tried } = run(wanted, bad, inForce)
      for (const ruleset of [...tried, usable.ruleset]) {
        for (const request of REQUESTS) {
          if (allows(ruleset, request) && !allows(wanted, request)) throw new Error('allows more on the way')
          if (reports(ruleset, request) && !reports(wanted, request)) throw new Error('reports more on the way')
        }
      }
      const refused = namesOf(usable.refused.map(({ rule }) => rule))
      const badDeny = badOf(wanted.httpDeny)
      if (badDeny.length > 0) {
        if (refused.join() !== badDeny.join()) throw new Error(`refused ${refused} instead of the deny rules ${badDeny}`)
        if (REQUESTS.some((request) => allows(usable.ruleset, request))) throw new Error('allows something without its deny rule')
        return
      }
      const good = wanted.http.filter(({ name }) => wanted.allowAll || !bad.has(name))
      if (namesOf(usable.ruleset.http).join() !== namesOf(good).join()) throw new Error('not the good allow rules')
      if (namesOf(usable.ruleset.httpDeny).join() !== namesOf(wanted.httpDeny).join()) throw new Error('not all deny rules')
      if (!wanted.allowAll && good.length === 0) return
      const badShadow = shadow === undefined ? [] : badOf(rulesOf(shadow))
      if ((usable.ruleset.shadow === undefined) !== (shadow === undefined || badShadow.length > 0)) throw new Error('not the right shadow')
      const badAllow = wanted.allowAll ? [] : badOf(wanted.http)
      if (refused.join() !== [...badAllow, ...badShadow].toSorted().join()) throw new Error(`refused ${refused}`)
      const known = leaveOutRefused(wanted, ({ name }) => (bad.has(name) ? 'bad' : undefined))
      for (const request of REQUESTS) {
        if (allows(known.ruleset, request) !== allows(usable.ruleset, request)) throw new Error('what is known leaves something else')
        if (reports(known.ruleset, request) !== reports(usable.ruleset, request)) throw new Error('what is known reports something else')
      }
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

test('a shadow alone is asked about first, and the enforced rules stay whole while its bad rule is looked for', (t) => {
  const wanted = create(RulesetSchema, { http: toRules(['a', 'b']), httpDeny: toRules(['c']), shadow: { http: toRules(['a', 'd', 'e']) } })
  const { tried, usable } = run(wanted, new Set(['d']), undefined)
  for (const ruleset of [...tried, usable.ruleset]) {
    t.deepEqual(namesOf(ruleset.http), ['a', 'b'])
    t.deepEqual(namesOf(ruleset.httpDeny), ['c'])
  }
})

test('after a refused deny rule everything is denied by the third try', (t) => {
  const wanted = create(RulesetSchema, { http: toRules(['a', 'b']), httpDeny: toRules(['c', 'd', 'e']) })
  const { tried } = run(wanted, new Set(['e']), create(RulesetSchema, { http: toRules(['a']) }))
  t.deepEqual(
    tried.slice(0, 3).map(({ http, httpDeny }) => [...namesOf(http), ...namesOf(httpDeny)]),
    [['a', 'c', 'd', 'e'], ['c', 'd', 'e'], []],
  )
})

/**
 * What to do with a ruleset that Envoy refuses, or that holds a rule it is known to refuse. An allow rule is left out: its requests are
 * denied. A deny rule cannot be left out, so nothing is allowed any more. A shadow is dropped: it enforces nothing, and part of it would
 * report what the policies do not say.
 *
 * A refusal does not say which rule it is about, so it is searched for with one ruleset after the other. Whatever is in force on the way
 * allows no more than the policy, and reports no more.
 */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { HeaderRuleSchema, type HttpRule, HttpRuleSchema, type Ruleset, RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import { type Refused, RuleSearch } from './rule-search.ts'
import { rulesetDigest } from './xds/resources.ts'

export interface UsableRuleset {
  /** What is left to be in force. */
  readonly ruleset: Ruleset
  /** The rules because of which it is less than what is wanted. */
  readonly refused: readonly Refused<HttpRule>[]
}

/** Yields rulesets to try; takes why Envoy refused one, or undefined when it is in force. */
export type RulesetSearch = Generator<Ruleset, UsableRuleset, string | undefined>

/** No method has this name. */
const NEVER = create(HeaderRuleSchema, { name: ':method', value: 'of no request' })

/** Digest by which a rule is remembered that is refused wherever it stands. */
export function ruleDigest(rule: HttpRule): string {
  return rulesetDigest(create(RulesetSchema, { http: [rule] }))
}

/** @param reasonOf why Envoy refuses a rule; undefined when nothing is known against it */
export function leaveOutRefused(wanted: Ruleset, reasonOf: (rule: HttpRule) => string | undefined): UsableRuleset {
  const refusedOf = (rules: readonly HttpRule[]) =>
    rules.flatMap((rule) => {
      const reason = reasonOf(rule)
      return reason === undefined ? [] : [{ rule, reason }]
    })
  const deny = refusedOf(wanted.httpDeny)
  if (deny.length > 0) return { ruleset: create(RulesetSchema), refused: deny }
  const allow = wanted.allowAll ? [] : refusedOf(wanted.http)
  const shadow = wanted.shadow === undefined ? [] : refusedOf(rulesOfShadow(wanted.shadow))
  if (allow.length + shadow.length === 0) return { ruleset: wanted, refused: [] }
  const bad = new Set(allow.map(({ rule }) => rule))
  const http = wanted.http.filter((rule) => !bad.has(rule))
  const ruleset = changed(wanted, { http, ...(shadow.length === 0 ? {} : { shadow: undefined }) })
  return { ruleset, refused: [...allow, ...shadow] }
}

/**
 * @param refused the ruleset that Envoy refused, as a whole
 * @param inForce what it has in force instead; undefined when that is not known
 */
export function* searchRuleset(refused: Ruleset, inForce: Ruleset | undefined): RulesetSearch {
  const { shadow } = refused
  const enforced = changed(refused, { shadow: undefined })
  if (shadow === undefined) return yield* searchEnforced(enforced, inForce)
  if ((yield enforced) === undefined) return yield* searchShadow({ ruleset: enforced, refused: [] }, shadow)
  const usable = yield* searchEnforced(enforced, inForce)
  if (isDenyAll(usable.ruleset)) return usable
  const ruleset = changed(usable.ruleset, { shadow })
  if ((yield ruleset) === undefined) return { ...usable, ruleset }
  return yield* searchShadow(usable, shadow)
}

function* searchEnforced(refused: Ruleset, inForce: Ruleset | undefined): RulesetSearch {
  const { allowAll, http, httpDeny } = refused
  const namesInForce = new Set(inForce?.http.map(({ name }) => name))
  let kept = allowAll ? [] : http.filter(({ name }) => namesInForce.has(name))
  let narrowed = inForce !== undefined && rulesetDigest(inForce) === rulesetDigest(changed(refused, { allowAll: false, http: kept }))
  if (httpDeny.length > 0) {
    if (!narrowed && (yield changed(refused, { allowAll: false, http: kept })) !== undefined) {
      kept = []
      if ((yield changed(refused, { allowAll: false, http: kept })) !== undefined) return yield* searchDeny(httpDeny)
    }
    narrowed = true
  }
  // There is nothing to leave out.
  if (allowAll) return { ruleset: refused, refused: [] }
  const search = new RuleSearch(http, new Set(kept), narrowed)
  yield* run(search, (rules) => changed(refused, { http: [...rules] }))
  return { ruleset: changed(refused, { http: [...search.good] }), refused: search.refused }
}

/** Only to name the rules: without allow rules, every part of the deny rules denies everything. */
function* searchDeny(httpDeny: readonly HttpRule[]): RulesetSearch {
  const search = new RuleSearch(httpDeny, new Set(), false)
  yield* run(search, (rules) => create(RulesetSchema, { httpDeny: [...rules] }))
  return { ruleset: create(RulesetSchema), refused: search.refused }
}

/** Only to name the rules: they stand in a shadow that no request can meet. */
function* searchShadow({ ruleset, refused }: UsableRuleset, shadow: Ruleset): RulesetSearch {
  const search = new RuleSearch(rulesOfShadow(shadow), new Set(), true)
  yield* run(search, (rules) => {
    const httpDeny = rules.map((rule) => create(HttpRuleSchema, { ...rule, headers: [...rule.headers, NEVER] }))
    return changed(ruleset, { shadow: { allowAll: true, httpDeny } })
  })
  return { ruleset, refused: [...refused, ...search.refused] }
}

function* run(
  search: RuleSearch<HttpRule>,
  rulesetOf: (rules: readonly HttpRule[]) => Ruleset,
): Generator<Ruleset, void, string | undefined> {
  for (let rules = search.candidate; rules !== undefined; rules = search.candidate) {
    const reason = yield rulesetOf(rules)
    if (reason === undefined) search.acceptedCandidate()
    else search.refusedCandidate(reason)
  }
}

function rulesOfShadow(shadow: Ruleset): HttpRule[] {
  return shadow.allowAll ? shadow.httpDeny : [...shadow.http, ...shadow.httpDeny]
}

function isDenyAll({ allowAll, http }: Ruleset): boolean {
  return !allowAll && http.length === 0
}

/** A message that is given away is not changed any more (api/digest.ts), so each is a new one. */
function changed({ allowAll, http, httpDeny, shadow }: Ruleset, change: MessageInitShape<typeof RulesetSchema>): Ruleset {
  return create(RulesetSchema, { allowAll, http, httpDeny, ...(shadow === undefined ? {} : { shadow }), ...change })
}

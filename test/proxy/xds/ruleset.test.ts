import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import test from 'ava'
import { RBAC_Action } from '#api/gen/envoy/config/rbac/v3/rbac_pb.js'
import { RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import { RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import { compileRuleset } from '#proxy/xds/ruleset.ts'
import { verdictOf } from '#proxy/xds/verdict.ts'

const compile = (ruleset: MessageInitShape<typeof RulesetSchema>, seal = 's') => compileRuleset(create(RulesetSchema, ruleset), seal)
const namesOf = (policies: Readonly<Record<string, unknown>> | undefined) => Object.keys(policies ?? {})
const a = { name: 'a', path: '/a' }
const b = { name: 'b', method: 'GET' }

test('without deny rules and shadow there is one engine, which allows', (t) => {
  const { rules, shadowRules, shadowRulesStatPrefix } = compile({ http: [b, a] })
  t.is(rules?.action, RBAC_Action.ALLOW)
  t.deepEqual(namesOf(rules?.policies), ['a', 'b'])
  t.is(shadowRules, undefined)
  t.is(shadowRulesStatPrefix, 's')
  t.deepEqual(namesOf(compile({ allowAll: true }).rules?.policies), ['*'])
})

test('with deny rules the engine denies, by them before the lack of a rule', (t) => {
  const { rules, shadowRules } = compile({ http: [a], httpDeny: [b] })
  t.is(rules?.action, RBAC_Action.DENY)
  t.deepEqual(namesOf(rules?.policies).toSorted(), ['deny/b', 'none'])
  t.deepEqual(namesOf(shadowRules?.policies).toSorted(), ['rule/a', '~s'])
  const open = compile({ allowAll: true, httpDeny: [b] })
  t.deepEqual(namesOf(open.rules?.policies), ['deny/b'])
  t.is(open.shadowRules, undefined)
  t.is(compile({ httpDeny: [b] }).rules?.policies.none?.permissions[0]?.rule.case, 'any')
})

test('a shadow never changes what is enforced, and is told before the rule', (t) => {
  for (const enforced of [{ http: [a] }, { allowAll: true }, { http: [a], httpDeny: [b] }]) {
    t.deepEqual(compile({ ...enforced, shadow: { http: [b] } }).rules, compile(enforced).rules)
  }
  const { shadowRules } = compile({ http: [a], httpDeny: [b], shadow: { http: [b], httpDeny: [a] } })
  t.deepEqual(namesOf(shadowRules?.policies).toSorted(), ['audit-deny/a', 'audit-none', 'rule/a', '~s'])
  t.deepEqual(namesOf(compile({ http: [a], shadow: {} }).shadowRules?.policies).toSorted(), ['audit-none', '~s'])
  t.deepEqual(namesOf(compile({ http: [a], shadow: { allowAll: true, httpDeny: [a] } }).shadowRules?.policies), ['audit-deny/a', '~s'])
})

test('the same rules have the same bytes in any order, and another seal other bytes', (t) => {
  const bytes = (...args: Parameters<typeof compile>) => Buffer.from(toBinary(RBACSchema, compile(...args))).toString('hex')
  const pair = { http: [a, b], httpDeny: [a, b], shadow: { http: [a, b], httpDeny: [a, b] } }
  const turned = { http: [b, a], httpDeny: [b, a], shadow: { http: [b, a], httpDeny: [b, a] } }
  t.is(bytes(pair), bytes(turned))
  for (const ruleset of [pair, { http: [a] }, { allowAll: true, httpDeny: [b] }, { allowAll: true, shadow: { allowAll: true } }]) {
    t.not(bytes(ruleset, 'one'), bytes(ruleset, 'two'))
  }
})

test('a verdict tells the rule that decided, and no request is allowed without one', (t) => {
  const verdict = (result: string, policy = '', reported = '') =>
    verdictOf({ enforced_engine_result: result, enforced_effective_policy_id: policy, shadow_effective_policy_id: reported })
  t.deepEqual(verdictOf(undefined), { allowed: false, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', '*'), { allowed: true, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', 'a'), { allowed: true, audit: false, rule: 'a' })
  t.deepEqual(verdict('allowed', '', 'rule/a'), { allowed: true, audit: false, rule: 'a' })
  t.deepEqual(verdict('allowed', 'a', 'audit-deny/b'), { allowed: true, audit: true, rule: 'b' })
  t.deepEqual(verdict('allowed', 'a', 'audit-none'), { allowed: true, audit: true, rule: '' })
  t.deepEqual(verdict('denied', 'deny/b', 'audit-none'), { allowed: false, audit: false, rule: 'b' })
  t.deepEqual(verdict('denied', 'none', 'rule/a'), { allowed: false, audit: false, rule: '' })
})

test('patterns that are a few plain texts are compared as texts, all others as expressions', (t) => {
  const formOf = (path: string) => {
    const rule = compile({ http: [{ name: 'a', path }] }).rules?.policies['a']?.permissions[0]?.rule
    if (rule?.case === 'orRules') return `or ${rule.value.rules.length}`
    const value = rule?.case === 'header' ? rule.value.headerMatchSpecifier : undefined
    return value?.case === 'stringMatch' ? (value.value.matchPattern.case ?? '') : ''
  }
  t.is(formOf('/a'), 'exact')
  t.is(formOf('^/a\\.b$'), 'exact')
  t.is(formOf('/a|/b'), 'or 2')
  t.is(formOf('/(a|b|c|d)(e|f)'), 'or 8')
  for (const pattern of ['/(a|b|c)(d|e|f)', '/a/.*', '/a.', '/[a]', 'a?', '(?i)/a']) t.is(formOf(pattern), 'safeRegex', pattern)
})

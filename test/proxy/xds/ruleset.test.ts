import { create, fromBinary, type MessageInitShape } from '@bufbuild/protobuf'
import test from 'ava'
import { ActionSchema, RBAC_Action } from '#api/gen/envoy/config/rbac/v3/rbac_pb.js'
import { FilterChainConfigSchema } from '#api/gen/envoy/extensions/filters/http/filter_chain/v3/filter_chain_pb.js'
import { type RBAC, RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import { MismatchAction, RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { Matcher, Matcher_OnMatch } from '#api/gen/xds/type/matcher/v3/matcher_pb.js'
import { compileRuleset, RULESET_TYPE_URLS } from '#proxy/xds/ruleset.ts'
import { verdictOf } from '#proxy/xds/verdict.ts'

type Rules = MessageInitShape<typeof RulesetSchema>
const EXT_HOST = { key: 'k', timeoutMs: 1500 }

const compileAny = (ruleset: Rules, seal = 's', extHost?: typeof EXT_HOST) =>
  compileRuleset(create(RulesetSchema, ruleset), { seal, ruleCounters: true, extHost })

function compile(ruleset: Rules, seal?: string): RBAC {
  const { typeUrl, value } = compileAny(ruleset, seal)
  if (typeUrl !== RULESET_TYPE_URLS[0]) throw new Error(typeUrl)
  return fromBinary(RBACSchema, value)
}

/** Names of the actions in the order in which the tree is walked, a minus before what denies. */
function actionsOf(matcher: Matcher | undefined): string[] {
  const names: string[] = []
  const visit = ({ onMatch }: Matcher_OnMatch) => {
    if (onMatch.case === 'matcher') walk(onMatch.value)
    if (onMatch.case !== 'action') return
    const { name, action } = fromBinary(ActionSchema, onMatch.value.typedConfig?.value ?? new Uint8Array())
    names.push(`${action === RBAC_Action.DENY ? '-' : ''}${name}`)
  }
  const walk = ({ matcherType, onNoMatch }: Matcher) => {
    if (matcherType.case === 'matcherList') for (const { onMatch } of matcherType.value.matchers) if (onMatch) visit(onMatch)
    if (matcherType.case === 'matcherTree') {
      const { treeType } = matcherType.value
      const isMap = treeType.case === 'exactMatchMap' || treeType.case === 'prefixMatchMap'
      if (isMap) for (const each of Object.values(treeType.value.map)) visit(each)
    }
    if (onNoMatch) visit(onNoMatch)
  }
  if (matcher) walk(matcher)
  return names
}

const a = { name: 'a', path: '/a' }
const b = { name: 'b', method: 'GET' }

test('allow rules come before the denial, and without conditions everything is allowed', (t) => {
  t.deepEqual(actionsOf(compile({ http: [b, a] }).matcher), ['a', 'b', '-none'])
  t.deepEqual(actionsOf(compile({ allowAll: true, http: [a] }).matcher), ['*'])
  t.deepEqual(actionsOf(compile({}).matcher), ['-none'])
  t.deepEqual(actionsOf(compile({ http: [{ name: 'any' }, a] }).matcher), ['any'])
  t.is(compile({ http: [a] }).shadowMatcher, undefined)
})

test('deny rules come first, and before them what no expression can look at', (t) => {
  t.deepEqual(actionsOf(compile({ http: [a], httpDeny: [b] }).matcher), ['-invalid', '-deny/b', '-none', 'a', '-none'])
  t.deepEqual(actionsOf(compile({ allowAll: true, httpDeny: [{ name: 'h', headers: [{ name: 'x', value: 'y' }] }] }).matcher), [
    '-deny/h',
    '-none',
    '*',
  ])
})

test('where rules deny, a tunnel needs a rule that names its method', (t) => {
  const tunnel = { name: 'c', method: 'CONNECT' }
  t.deepEqual(actionsOf(compile({ http: [a, tunnel], httpDeny: [{ name: 'd', path: '/x' }] }).matcher), [
    '-invalid',
    '-deny/d',
    'c',
    '-none',
    'a',
    'c',
    '-none',
  ])
})

test('a shadow never changes what is enforced', (t) => {
  for (const enforced of [{ http: [a] }, { allowAll: true }, { http: [a], httpDeny: [b] }]) {
    t.deepEqual(compile({ ...enforced, shadow: { http: [b] } }).matcher, compile(enforced).matcher)
  }
  t.deepEqual(actionsOf(compile({ http: [a], shadow: { http: [b], httpDeny: [a] } }).shadowMatcher), ['-audit-deny/a', 'ok', '-audit-none'])
  t.deepEqual(actionsOf(compile({ http: [a], shadow: {} }).shadowMatcher), ['-audit-none'])
  t.deepEqual(actionsOf(compile({ http: [a], shadow: { allowAll: true, httpDeny: [a] } }).shadowMatcher), ['-audit-deny/a', 'ok'])
})

test('the same rules have the same bytes in any order, and another seal other bytes', (t) => {
  const bytes = (ruleset: Rules, seal?: string) => Buffer.from(compileAny(ruleset, seal ?? 's').value).toString('hex')
  const pair = { http: [a, b], httpDeny: [a, b], shadow: { http: [a, b], httpDeny: [a, b] } }
  const turned = { http: [b, a], httpDeny: [b, a], shadow: { http: [b, a], httpDeny: [b, a] } }
  t.is(bytes(pair), bytes(turned))
  for (const ruleset of [pair, { http: [a] }, { allowAll: true, httpDeny: [b] }, { allowAll: true, shadow: { allowAll: true } }]) {
    t.not(bytes(ruleset, 'one'), bytes(ruleset, 'two'))
  }
})

test('rules with header actions make a chain of filters: the rules, then one filter a rule', (t) => {
  const replace = { name: 'x', value: 'v', mismatch: MismatchAction.REPLACE }
  const changing = { ...a, headerMatches: [replace] }
  const chain = (ruleset: Rules, extHost?: typeof EXT_HOST) => {
    const { typeUrl, value } = compileAny(ruleset, 's', extHost)
    t.is(typeUrl, RULESET_TYPE_URLS[1] ?? '')
    return (fromBinary(FilterChainConfigSchema, value).defaultFilterChain?.filters ?? []).map(
      ({ name, typedConfig }) => `${name} ${(typedConfig?.typeUrl ?? '').split('.').at(-1)}`,
    )
  }
  t.deepEqual(chain({ http: [changing, b] }), ['rules RBAC', 'where ExtensionWithMatcher'])
  t.deepEqual(chain({ http: [{ name: 'any', headerMatches: [replace] }] }), ['rules RBAC', 'where ExtensionWithMatcher'])
  t.deepEqual(chain({ http: [changing] }, EXT_HOST), ['rules RBAC', 'where ExtensionWithMatcher'])
  // Every request is meant.
  t.deepEqual(chain({ http: [{ name: 'any', headerMatches: [replace] }] }, EXT_HOST), ['rules RBAC', 'ext-host ExternalProcessor'])
})

test('without an extension host an allow rule on a secret allows nothing, and a deny rule denies whatever the header is', (t) => {
  const asking = { ...a, headerMatches: [{ name: 'x', secret: { namespace: 'n', name: 's' } }] }
  t.deepEqual(actionsOf(compile({ http: [asking, b] }).matcher), ['b', '-none'])
  t.deepEqual(actionsOf(compile({ allowAll: true, httpDeny: [asking] }).matcher), ['-invalid', '-deny/a', '-none', '*'])
})

test('an action of another version is a condition: it changes nothing, and fails the rule where the header is not as wanted', (t) => {
  const unknown = { ...a, headerMatches: [{ name: 'x', value: 'v', mismatch: 99 as MismatchAction }] }
  const plain = { ...a, headers: [{ name: 'x', value: 'v' }] }
  t.deepEqual(compile({ http: [unknown] }).matcher, compile({ http: [plain] }).matcher)
})

test('no secret and nothing of the extension host is in what Envoy is told, but the key of the ruleset', (t) => {
  const secret = { namespace: 'shop', name: 'token' }
  const rule = { ...a, headerMatches: [{ name: 'x-token', value: 'fallback-value', secret }] }
  const { value } = compileAny({ http: [rule] }, 's', EXT_HOST)
  t.false(Buffer.from(value).includes('fallback-value'))
  t.true(Buffer.from(value).includes('x-headgate-ruleset'))
})

test('a verdict tells the rule that decided, and no request is allowed without one', (t) => {
  const verdict = (result: string, policy = '', reported = '', extHost?: Record<string, string>) =>
    verdictOf({ enforced_engine_result: result, enforced_effective_policy_id: policy, shadow_effective_policy_id: reported }, extHost)
  t.deepEqual(verdictOf(undefined, undefined), { allowed: false, failed: false, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', '*'), { allowed: true, failed: false, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', 'a'), { allowed: true, failed: false, audit: false, rule: 'a' })
  t.deepEqual(verdict('allowed', 'a', 'ok'), { allowed: true, failed: false, audit: false, rule: 'a' })
  t.deepEqual(verdict('allowed', 'a', 'audit-deny/b'), { allowed: true, failed: false, audit: true, rule: 'b' })
  t.deepEqual(verdict('allowed', 'a', 'audit-none'), { allowed: true, failed: false, audit: true, rule: '' })
  t.deepEqual(verdict('denied', 'deny/b', 'audit-none'), { allowed: false, failed: false, audit: false, rule: 'b' })
  t.deepEqual(verdict('denied', 'none', 'ok'), { allowed: false, failed: false, audit: false, rule: '' })
  t.deepEqual(verdict('denied', 'invalid'), { allowed: false, failed: false, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', 'ext-host'), { allowed: false, failed: true, audit: false, rule: '' })
  t.deepEqual(verdict('allowed', 'ext-host', '', { result: 'allowed', rule: 'r' }), {
    allowed: true,
    failed: false,
    audit: false,
    rule: 'r',
  })
  t.true(verdict('allowed', 'ext-host', 'audit-none', { result: 'something else' }).failed)
  t.deepEqual(verdict('allowed', 'ext-host', '', { result: 'denied', rule: 'd' }), {
    allowed: false,
    failed: false,
    audit: false,
    rule: 'd',
  })
})

/**
 * Compiles a ruleset to the configuration of Envoy's RBAC filter. One policy a rule, tried one after the other: plain, and slow with
 * hundreds of rules. The seam is `compileRuleset`: a faster form only has to keep its meaning, its policy names and its determinism.
 *
 * Semantics are Cilium's (pkg/envoy/policy/envoy_l7_rules_translator.go): path, method and host are RE2 patterns that match the whole
 * of :path with its query, :method and :authority with its port; headers are exact or only have to be there. What matches no rule is
 * denied, so a rule that is left out denies what it would have allowed.
 */
import { create } from '@bufbuild/protobuf'
import {
  type Permission,
  PermissionSchema,
  type Policy,
  PolicySchema,
  PrincipalSchema,
  RBAC_Action,
  RBACSchema as RulesSchema,
} from '#api/gen/envoy/config/rbac/v3/rbac_pb.js'
import { type HeaderMatcher, HeaderMatcherSchema } from '#api/gen/envoy/config/route/v3/route_components_pb.js'
import { type RBAC, RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import { RegexMatcherSchema } from '#api/gen/envoy/type/matcher/v3/regex_pb.js'
import { StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import type { HttpRule, Ruleset } from '#api/gen/headgate/v1/control_pb.js'

/** What Envoy calls the rule of a ruleset without L7 conditions. It is nobody's name: such a request has rules of L3 and L4 behind it. */
export const ALLOW_ALL_RULE = '*'

/** @param seal makes otherwise equal configurations differ (resource.ts); it names counters that nothing counts */
export function compileRuleset(ruleset: Ruleset, seal: string): RBAC {
  return create(RBACSchema, {
    rules: create(RulesSchema, { action: RBAC_Action.ALLOW, policies: compilePolicies(ruleset) }),
    shadowRulesStatPrefix: seal,
  })
}

/** Denies everything: what a listener does until its ruleset arrives. */
export function denyAll(): RBAC {
  return create(RBACSchema, { rules: create(RulesSchema, { action: RBAC_Action.ALLOW }) })
}

function compilePolicies(ruleset: Ruleset): Record<string, Policy> {
  if (ruleset.allowAll) return { [ALLOW_ALL_RULE]: policyOf([]) }
  const policies: Record<string, Policy> = {}
  // Sorted, so that the same rules have the same bytes.
  for (const rule of [...ruleset.http].sort((a, b) => (a.name < b.name ? -1 : 1))) policies[rule.name] = policyOf(headersOf(rule))
  return policies
}

/** @param headers all have to match; none: everything matches */
function policyOf(headers: readonly HeaderMatcher[]): Policy {
  return create(PolicySchema, {
    permissions: [permissionOf(headers)],
    principals: [create(PrincipalSchema, { identifier: { case: 'any', value: true } })],
  })
}

function permissionOf(headers: readonly HeaderMatcher[]): Permission {
  const rules = headers.map((value) => create(PermissionSchema, { rule: { case: 'header', value } }))
  if (rules.length === 1) return rules[0]!
  if (rules.length === 0) return create(PermissionSchema, { rule: { case: 'any', value: true } })
  return create(PermissionSchema, { rule: { case: 'andRules', value: { rules } } })
}

function headersOf(rule: HttpRule): HeaderMatcher[] {
  const matchers: HeaderMatcher[] = []
  // The cheapest and the most selective first: all have to match.
  if (rule.method !== undefined) matchers.push(patternOf(':method', rule.method))
  if (rule.path !== undefined) matchers.push(patternOf(':path', rule.path))
  if (rule.host !== undefined) matchers.push(patternOf(':authority', rule.host))
  for (const { name, value } of rule.headers) matchers.push(value === undefined ? presenceOf(name) : exactOf(name, value))
  return matchers
}

function patternOf(name: string, regex: string): HeaderMatcher {
  const safeRegex = create(RegexMatcherSchema, { regex })
  const value = create(StringMatcherSchema, { matchPattern: { case: 'safeRegex', value: safeRegex } })
  return create(HeaderMatcherSchema, { name, headerMatchSpecifier: { case: 'stringMatch', value } })
}

function exactOf(name: string, exact: string): HeaderMatcher {
  const value = create(StringMatcherSchema, { matchPattern: { case: 'exact', value: exact } })
  return create(HeaderMatcherSchema, { name, headerMatchSpecifier: { case: 'stringMatch', value } })
}

function presenceOf(name: string): HeaderMatcher {
  return create(HeaderMatcherSchema, { name, headerMatchSpecifier: { case: 'presentMatch', value: true } })
}

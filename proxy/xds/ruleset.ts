/**
 * Compiles a ruleset to the configuration of Envoy's RBAC filter. One policy a rule, tried one after the other: plain, and slow with
 * hundreds of rules. The seam is `compileRuleset`: a faster form only has to keep its meaning, its policy names and its determinism.
 *
 * Semantics are Cilium's (pkg/envoy/policy/envoy_l7_rules_translator.go): path, method and host are RE2 patterns that match the whole
 * of :path with its query, :method and :authority with its port; headers are exact or only have to be there. What matches no rule is
 * denied, so a rule that is left out denies what it would have allowed.
 *
 * A filter has two engines, each with one action for all its policies; together they hold everything, so that an edit is never seen
 * half. Without deny rules the enforced one allows; with them it denies what they match and what no allow rule matches. The other one
 * only reports: what the shadow denies, and the allow rule that matches where the enforced one cannot tell. The filter's other form, with
 * an action per match (`matcher`), is no way: it joins the values of a header that comes twice, so a client could slip past a deny.
 */
import { create } from '@bufbuild/protobuf'
import {
  type Permission,
  PermissionSchema,
  type Policy,
  PolicySchema,
  PrincipalSchema,
  RBAC_Action,
  type RBAC as Rules,
  RBACSchema as RulesSchema,
} from '#api/gen/envoy/config/rbac/v3/rbac_pb.js'
import { type HeaderMatcher, HeaderMatcherSchema } from '#api/gen/envoy/config/route/v3/route_components_pb.js'
import { type RBAC, RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import { RegexMatcherSchema } from '#api/gen/envoy/type/matcher/v3/regex_pb.js'
import { StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import type { HttpRule, Ruleset } from '#api/gen/headgate/v1/control_pb.js'
import { shapeOfPattern } from '#parsers/http/pattern-shape.ts'
import { ALLOW_ALL_RULE, AUDIT_DENY_PREFIX, AUDIT_NONE, DENY_NONE, DENY_PREFIX, NAMED_PREFIX } from './verdict.ts'

/** More alternatives than these are one expression: a configuration of that length costs more than it saves. */
const PLAIN_TEXTS_MAX = 8

const ANYTHING = create(PermissionSchema, { rule: { case: 'any', value: true } })
const ANYBODY = [create(PrincipalSchema, { identifier: { case: 'any', value: true } })]

type Policies = Record<string, Policy>

/** @param seal makes otherwise equal configurations differ (resource.ts) */
export function compileRuleset(ruleset: Ruleset, seal: string): RBAC {
  const rules = compileEnforced(ruleset)
  const reported = compileReported(ruleset)
  // It names counters that nothing counts.
  if (Object.keys(reported).length === 0) return create(RBACSchema, { rules, shadowRulesStatPrefix: seal })
  // The name of the counters would be that of the metadata too, so the seal is a policy that matches nothing, the last of all.
  const policies = { ...reported, [`~${seal}`]: policyOf(not(ANYTHING)) }
  return create(RBACSchema, { rules, shadowRules: create(RulesSchema, { action: RBAC_Action.DENY, policies }) })
}

/** Denies everything: what a listener does until its ruleset arrives. */
export function denyAll(): RBAC {
  return create(RBACSchema, { rules: create(RulesSchema, { action: RBAC_Action.ALLOW }) })
}

function compileEnforced({ allowAll, http, httpDeny }: Ruleset): Rules {
  if (httpDeny.length > 0) return create(RulesSchema, { action: RBAC_Action.DENY, policies: compileDeny(allowAll, http, httpDeny) })
  const policies = allowAll ? { [ALLOW_ALL_RULE]: policyOf(ANYTHING) } : policiesOf('', http)
  return create(RulesSchema, { action: RBAC_Action.ALLOW, policies })
}

function compileDeny(allowAll: boolean, http: readonly HttpRule[], httpDeny: readonly HttpRule[]): Policies {
  const policies = policiesOf(DENY_PREFIX, httpDeny)
  if (!allowAll) policies[DENY_NONE] = policyOf(noneOf(http))
  return policies
}

function compileReported({ allowAll, http, httpDeny, shadow }: Ruleset): Policies {
  const policies: Policies = {}
  if (shadow !== undefined) {
    Object.assign(policies, policiesOf(AUDIT_DENY_PREFIX, shadow.httpDeny))
    if (!shadow.allowAll) policies[AUDIT_NONE] = policyOf(noneOf(shadow.http))
  }
  if (httpDeny.length > 0 && !allowAll) Object.assign(policies, policiesOf(NAMED_PREFIX, http))
  return policies
}

function policiesOf(prefix: string, rules: readonly HttpRule[]): Policies {
  const policies: Policies = {}
  for (const rule of sorted(rules)) policies[prefix + rule.name] = policyOf(permissionOf(rule))
  return policies
}

/** So that the same rules have the same bytes. */
function sorted(rules: readonly HttpRule[]): HttpRule[] {
  return [...rules].sort((a, b) => (a.name < b.name ? -1 : 1))
}

function policyOf(permission: Permission): Policy {
  return create(PolicySchema, { permissions: [permission], principals: ANYBODY })
}

function noneOf(rules: readonly HttpRule[]): Permission {
  if (rules.length === 0) return ANYTHING
  const permissions = sorted(rules).map(permissionOf)
  return not(create(PermissionSchema, { rule: { case: 'orRules', value: { rules: permissions } } }))
}

function not(value: Permission): Permission {
  return create(PermissionSchema, { rule: { case: 'notRule', value } })
}

/** All conditions of the rule have to hold; without any, everything matches. */
function permissionOf(rule: HttpRule): Permission {
  const conditions = conditionsOf(rule)
  if (conditions.length === 1) return conditions[0]!
  if (conditions.length === 0) return ANYTHING
  return create(PermissionSchema, { rule: { case: 'andRules', value: { rules: conditions } } })
}

function conditionsOf(rule: HttpRule): Permission[] {
  const conditions: Permission[] = []
  // The cheapest and the most selective first: all have to hold.
  if (rule.method !== undefined) conditions.push(patternCondition(':method', rule.method))
  if (rule.path !== undefined) conditions.push(patternCondition(':path', rule.path))
  if (rule.host !== undefined) conditions.push(patternCondition(':authority', rule.host))
  for (const { name, value } of rule.headers)
    conditions.push(headerCondition(value === undefined ? presenceOf(name) : exactOf(name, value)))
  return conditions
}

/** Most patterns are a few plain texts, which need no regular expression to be compared. What begins like one does: a dot is no byte. */
function patternCondition(name: string, pattern: string): Permission {
  const shape = shapeOfPattern(pattern)
  const texts = shape.kind === 'fixed' ? shape.texts : []
  if (texts.length === 0 || texts.length > PLAIN_TEXTS_MAX || texts.some(({ text, isPrefix }) => isPrefix || text === ''))
    return headerCondition(patternOf(name, pattern))
  const conditions = texts.map(({ text }) => headerCondition(exactOf(name, text)))
  return conditions.length === 1 ? conditions[0]! : create(PermissionSchema, { rule: { case: 'orRules', value: { rules: conditions } } })
}

function headerCondition(value: HeaderMatcher): Permission {
  return create(PermissionSchema, { rule: { case: 'header', value } })
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

/**
 * Compiles a ruleset to what Envoy runs for a request: an RBAC filter whose rules are a tree (rule-tree.ts), so that a thousand rules
 * cost what ten cost. What matches no rule is denied, so a rule that is left out denies what it would have allowed.
 *
 * A filter has two engines; together they hold everything, so that an edit is never seen half. The enforced one knows the deny rules,
 * behind them the allow rules, and behind those the denial. The shadow only reports what the policies in audit would make of it. Rules
 * that change headers, or that only the extension host can judge, make the filter a chain of several, which is replaced as one too.
 */

import { create } from '@bufbuild/protobuf'
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { type Any, AnySchema } from '@bufbuild/protobuf/wkt'
import { TypedExtensionConfigSchema } from '#api/gen/envoy/config/core/v3/extension_pb.js'
import { RBAC_Action } from '#api/gen/envoy/config/rbac/v3/rbac_pb.js'
import { FilterChainConfigSchema, FilterChainSchema } from '#api/gen/envoy/extensions/filters/http/filter_chain/v3/filter_chain_pb.js'
import { RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import type { HttpRule, Ruleset } from '#api/gen/headgate/v1/control_pb.js'
import { asksSecret, candidatesTree, type ExtHostFilter, extHostFilter, needsJudgement } from './ext-host-filter.ts'
import { headerSteps } from './header-steps.ts'
import { ANY_VALUE, allOf, encodeMatcher, type Field, holds, not, orElse, type Tree } from './matcher.ts'
import { packAny } from './resource.ts'
import { HOST, inNameOrder, METHOD, PATH, termsOf } from './rule-terms.ts'
import { treeOf } from './rule-tree.ts'
import {
  ALLOW_ALL_RULE,
  AUDIT_DENY_PREFIX,
  AUDIT_NONE,
  DENY_INVALID,
  DENY_NONE,
  DENY_PREFIX,
  EXT_HOST_RULE,
  SHADOW_ALLOWED,
} from './verdict.ts'

/** How a filter that is compiled here can be configured; a listener accepts these and no others. */
export const RULESET_TYPE_URLS = [RBACSchema, FilterChainConfigSchema].map(({ typeName }) => `type.googleapis.com/${typeName}`)

/** Grows with each change to what is compiled from the same rules. */
export const COMPILER_VERSION = 2

/** What is left where no rule has matched. */
type Verdict = { readonly name: string; readonly allowed: boolean }

export interface CompileOptions {
  /** Makes otherwise equal configurations differ (resource.ts). */
  readonly seal: string
  /** Whether Envoy counts the verdicts of each rule by itself, and not only all of them. */
  readonly ruleCounters: boolean
  /** Not undefined when some of the requests are judged by the extension host. */
  readonly extHost: ExtHostFilter | undefined
}

/** The configuration of the filter that judges a slot's requests: one of RULESET_TYPE_URLS. */
export function compileRuleset(ruleset: Ruleset, { seal, ruleCounters, extHost }: CompileOptions): Any {
  // Without somebody to compare a secret, nobody has it.
  const http = extHost === undefined ? ruleset.http.filter((rule) => !asksSecret(rule)) : ruleset.http
  const enforced = enforcedTree(ruleset.allowAll, http, ruleset.httpDeny, extHost !== undefined)
  const rbac = encodeRbac(enforced, ruleset.shadow && shadowTree(ruleset.shadow), { seal, ruleCounters })
  const further = extHost === undefined ? headerSteps(http) : extHostFilter(ruleset, extHost)
  if (further.length === 0) return rbac
  const filters = [create(TypedExtensionConfigSchema, { name: 'rules', typedConfig: rbac }), ...further]
  const chain = create(FilterChainConfigSchema, { defaultFilterChain: create(FilterChainSchema, { filters }) })
  return packAny(FilterChainConfigSchema, chain)
}

/** Denies everything: what a listener does until its ruleset arrives. */
export function denyAll(): Any {
  return encodeRbac({ kind: 'leaf', action: { name: DENY_NONE, allowed: false } }, undefined, { seal: '', ruleCounters: false })
}

function enforcedTree(allowAll: boolean, http: readonly HttpRule[], httpDeny: readonly HttpRule[], isHelped: boolean): Tree<Verdict> {
  const deny = ruleTree(
    httpDeny.filter((rule) => !isHelped || !needsJudgement(rule)),
    'deny',
    ({ name }) => ({ name: DENY_PREFIX + name, allowed: false }),
  )
  // Whoever may be meant by these is judged again, behind this filter; its verdict counts.
  const helped = isHelped ? candidatesTree(http, httpDeny, EXT_HOST) : undefined
  const allow = allowAll ? undefined : ruleTree(http, 'allow', ({ name }) => ({ name, allowed: true }))
  const last: Verdict = allowAll ? { name: ALLOW_ALL_RULE, allowed: true } : { name: DENY_NONE, allowed: false }
  return inOrder([invalid(httpDeny), deny, helped, tunnels(http, httpDeny), allow], last)
}

/** Where rules deny, who allows everything does not mean tunnels, in which nobody would look for what is denied. */
function tunnels(http: readonly HttpRule[], httpDeny: readonly HttpRule[]): Tree<Verdict> | undefined {
  if (httpDeny.length === 0) return undefined
  const meant = ruleTree(
    http.filter(({ method }) => method !== undefined),
    'allow',
    ({ name }) => ({ name, allowed: true }),
  )
  const onMatch = inOrder([meant], { name: DENY_NONE, allowed: false })
  return { kind: 'exact', field: METHOD, branches: new Map([['CONNECT', onMatch]]) }
}

const EXT_HOST: Verdict = { name: EXT_HOST_RULE, allowed: true }

function shadowTree({ allowAll, http, httpDeny }: Ruleset): Tree<Verdict> {
  const allowed: Verdict = { name: SHADOW_ALLOWED, allowed: true }
  const deny = ruleTree(httpDeny, 'deny', ({ name }) => ({ name: AUDIT_DENY_PREFIX + name, allowed: false }))
  const allow = allowAll ? undefined : ruleTree(http, 'allow', () => allowed)
  return inOrder([deny, allow], allowAll ? allowed : { name: AUDIT_NONE, allowed: false })
}

function inOrder(trees: readonly (Tree<Verdict> | undefined)[], last: Verdict): Tree<Verdict> {
  const end: Tree<Verdict> = { kind: 'leaf', action: last }
  return trees.reduceRight<Tree<Verdict>>((rest, tree) => orElse(tree, rest) ?? rest, end)
}

/** Rules in the order of their names, so that the same ones have the same bytes. */
function ruleTree(rules: readonly HttpRule[], verdict: 'allow' | 'deny', actionOf: (rule: HttpRule) => Verdict): Tree<Verdict> | undefined {
  return treeOf(inNameOrder(rules).map((rule) => ({ terms: termsOf(rule, verdict), action: actionOf(rule) })))
}

/** No expression matches bytes that are no UTF-8: a request that has them would walk past the deny rules that look at its field. */
function invalid(httpDeny: readonly HttpRule[]): Tree<Verdict> | undefined {
  const looksAt: readonly (readonly [Field, keyof HttpRule])[] = [
    [PATH, 'path'],
    [METHOD, 'method'],
    [HOST, 'host'],
  ]
  const fields = looksAt.filter(([, part]) => httpDeny.some((rule) => rule[part] !== undefined)).map(([field]) => field)
  if (fields.length === 0) return undefined
  const onMatch: Tree<Verdict> = { kind: 'leaf', action: { name: DENY_INVALID, allowed: false } }
  const branches = fields.map((field) => ({
    predicate: allOf([holds(field, ANY_VALUE), not(holds(field, { kind: 'regex', pattern: '(?s).*' }))]),
    onMatch,
  }))
  return { kind: 'list', branches }
}

const RBAC_ACTION_TYPE = 'type.googleapis.com/envoy.config.rbac.v3.Action'
/** Fields of envoy.extensions.filters.http.rbac.v3.RBAC. */
const MATCHER_FIELD = RBACSchema.field.matcher.number
const SHADOW_MATCHER_FIELD = RBACSchema.field.shadowMatcher.number
const PER_RULE_STATS_FIELD = RBACSchema.field.trackPerRuleStats.number

function encodeRbac(
  enforced: Tree<Verdict>,
  shadow: Tree<Verdict> | undefined,
  { seal, ruleCounters }: Pick<CompileOptions, 'seal' | 'ruleCounters'>,
): Any {
  // The seal is part of a name that nothing reads.
  const encodeAction = ({ name, allowed }: Verdict) => ({
    name: `verdict${seal}`,
    typeUrl: RBAC_ACTION_TYPE,
    value: new BinaryWriter()
      .tag(1, WireType.LengthDelimited)
      .string(name)
      .tag(2, WireType.Varint)
      .int32(allowed ? RBAC_Action.ALLOW : RBAC_Action.DENY)
      .finish(),
  })
  const writer = new BinaryWriter().tag(MATCHER_FIELD, WireType.LengthDelimited).bytes(encodeMatcher(enforced, encodeAction))
  if (shadow !== undefined) writer.tag(SHADOW_MATCHER_FIELD, WireType.LengthDelimited).bytes(encodeMatcher(shadow, encodeAction))
  if (ruleCounters) writer.tag(PER_RULE_STATS_FIELD, WireType.Varint).bool(true)
  return create(AnySchema, { typeUrl: `type.googleapis.com/${RBACSchema.typeName}`, value: writer.finish() })
}

/** Which rulesets Envoy cannot run by itself, and who does. */
import type { HttpRule } from '#parsers/http/rules.ts'
import { httpRules, type ResolvedRuleset } from '#policy/resolved.ts'

/**
 * Each allow rule that acts on headers is filters of its own in Envoy, asked one after the other on every request. Beyond as many as
 * these, one question to the extension host costs less.
 */
export const NATIVE_ACTION_RULES_MAX = 16

/** Whether connections have to be parsed by the relay. */
export function isRelayed({ kind }: Pick<ResolvedRuleset, 'kind'>): boolean {
  return kind === 'kafka' || kind === 'parser'
}

/** Whether the extension host has to judge for a slot: a rule of it asks for a secret, or too many act on headers. */
export function needsExtHost({ kind, allow, deny }: Pick<ResolvedRuleset, 'kind' | 'allow' | 'deny'>): boolean {
  if (kind !== 'http') return false
  const allowed = httpRules(allow)
  if ([...allowed, ...httpRules(deny)].some(({ rule }) => asksSecret(rule))) return true
  return allowed.filter(({ rule }) => hasAction(rule)).length > NATIVE_ACTION_RULES_MAX
}

function asksSecret({ headerMatches = [] }: HttpRule): boolean {
  return headerMatches.some(({ secret }) => secret !== undefined)
}

function hasAction({ headerMatches = [] }: HttpRule): boolean {
  return headerMatches.some(({ mismatch }) => mismatch !== undefined)
}

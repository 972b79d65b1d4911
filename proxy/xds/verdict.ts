/**
 * How a verdict is told: the RBAC filter leaves the names of the policies that decided in the request's metadata, where its own rules
 * (ruleset.ts), the filters of the access log and its reader find them.
 */

/** Namespace and keys of the metadata. It is written when both engines of a filter have judged. */
export const RBAC_METADATA = 'envoy.filters.http.rbac'
export const RBAC_RESULT = 'enforced_engine_result'
export const RBAC_POLICY = 'enforced_effective_policy_id'
export const RBAC_SHADOW_POLICY = 'shadow_effective_policy_id'
export const RBAC_DENIED = 'denied'
export const RBAC_ALLOWED = 'allowed'

/** What Envoy calls the rule of a ruleset without L7 conditions. It is nobody's name: such a request has rules of L3 and L4 behind it. */
export const ALLOW_ALL_RULE = '*'

// Of the policies that match, an engine tells the first, in the order of their names.

/** Of the enforced engine when it denies: a rule comes before the lack of one, for which Envoy has the same word. */
export const DENY_PREFIX = 'deny/'
export const DENY_NONE = 'none'
/** Of the shadow engine: what the shadow denies comes before the rule that is only to be named. */
export const AUDIT_PREFIX = 'audit-'
export const AUDIT_DENY_PREFIX = `${AUDIT_PREFIX}deny/`
export const AUDIT_NONE = `${AUDIT_PREFIX}none`
export const NAMED_PREFIX = 'rule/'

export interface Verdict {
  readonly allowed: boolean
  /** Allowed, and the shadow ruleset would have denied it. */
  readonly audit: boolean
  /** The rule that allowed it, denied it, or would have denied it with audit; empty when none did. */
  readonly rule: string
}

/** @param metadata of the namespace; undefined when the request ended before its rules saw it, which is no allow */
export function verdictOf(metadata: Readonly<Record<string, unknown>> | undefined): Verdict {
  const allowed = metadata?.[RBAC_RESULT] === RBAC_ALLOWED
  const policy = textOf(metadata?.[RBAC_POLICY])
  if (!allowed) return { allowed, audit: false, rule: after(DENY_PREFIX, policy) }
  const reported = textOf(metadata?.[RBAC_SHADOW_POLICY])
  if (reported.startsWith(AUDIT_PREFIX)) return { allowed, audit: true, rule: after(AUDIT_DENY_PREFIX, reported) }
  return { allowed, audit: false, rule: policy === ALLOW_ALL_RULE ? '' : policy || after(NAMED_PREFIX, reported) }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function after(prefix: string, text: string): string {
  return text.startsWith(prefix) ? text.slice(prefix.length) : ''
}

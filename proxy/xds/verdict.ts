/**
 * How a verdict is told: the RBAC filter leaves the names of the policies that decided in the request's metadata, where its own rules
 * (ruleset.ts), the filters of the access log and its reader find them.
 */
import { METADATA_FIELDS, RESULT_ALLOWED, RESULT_DENIED } from '../ext-host/contract.ts'

/** Namespace and keys of the metadata. It is written when both engines of a filter have judged. */
export const RBAC_METADATA = 'envoy.filters.http.rbac'
export const RBAC_RESULT = 'enforced_engine_result'
export const RBAC_POLICY = 'enforced_effective_policy_id'
export const RBAC_SHADOW_POLICY = 'shadow_effective_policy_id'
export const RBAC_DENIED = 'denied'
export const RBAC_ALLOWED = 'allowed'

/** What Envoy calls the rule of a ruleset without L7 conditions. It is nobody's name: such a request has rules of L3 and L4 behind it. */
export const ALLOW_ALL_RULE = '*'

/** Of the enforced engine when it denies. */
export const DENY_PREFIX = 'deny/'
export const DENY_NONE = 'none'
/** A field that deny rules look at is no UTF-8. */
export const DENY_INVALID = 'invalid'
/** Of the enforced engine when the extension host has the last word. */
export const EXT_HOST_RULE = 'ext-host'

/** Of the shadow engine: what the policies in audit would deny, and everything else. */
export const AUDIT_PREFIX = 'audit-'
export const AUDIT_DENY_PREFIX = `${AUDIT_PREFIX}deny/`
export const AUDIT_NONE = `${AUDIT_PREFIX}none`
export const SHADOW_ALLOWED = 'ok'

export interface Verdict {
  readonly allowed: boolean
  /** Allowed, and the shadow ruleset would have denied it. */
  readonly audit: boolean
  /** The rule that allowed it, denied it, or would have denied it with audit; empty when none did. */
  readonly rule: string
  /** Neither allowed nor denied: the extension host had the last word and said nothing. */
  readonly failed: boolean
}

const DENIED = { allowed: false, audit: false, failed: false } as const

type Metadata = Readonly<Record<string, unknown>>

/**
 * @param rules metadata of the rules; undefined when the request ended before they saw it, which is no allow
 * @param extHost metadata of the extension host; undefined when it was not asked, or did not answer
 */
export function verdictOf(rules: Metadata | undefined, extHost: Metadata | undefined): Verdict {
  const policy = textOf(rules?.[RBAC_POLICY])
  if (rules?.[RBAC_RESULT] !== RBAC_ALLOWED) return { ...DENIED, rule: ruleAfter(DENY_PREFIX, policy) }
  const rule = policy === EXT_HOST_RULE ? textOf(extHost?.[METADATA_FIELDS.rule]) : policy
  if (policy === EXT_HOST_RULE && extHost?.[METADATA_FIELDS.result] !== RESULT_ALLOWED) {
    return { ...DENIED, rule, failed: extHost?.[METADATA_FIELDS.result] !== RESULT_DENIED }
  }
  const reported = textOf(rules[RBAC_SHADOW_POLICY])
  if (reported.startsWith(AUDIT_PREFIX)) return { allowed: true, failed: false, audit: true, rule: ruleAfter(AUDIT_DENY_PREFIX, reported) }
  return { allowed: true, failed: false, audit: false, rule: rule === ALLOW_ALL_RULE ? '' : rule }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

/** The rule that an action is named after; empty when it is named after none. */
export function ruleAfter(prefix: string, text: string): string {
  return text.startsWith(prefix) ? text.slice(prefix.length) : ''
}

/**
 * Errors of policy/. They tell of mistakes in the calling program; what is wrong with a policy document is never thrown but
 * returned as a Problem (problems.ts), so that a user sees all of it at once.
 */

export const POLICY_ERROR_CODES = ['unknown-identity', 'identity-in-use', 'unknown-subject', 'bad-identity'] as const
export type PolicyErrorCode = (typeof POLICY_ERROR_CODES)[number]

/** A call that the engine's state does not allow. */
export class PolicyError extends Error {
  readonly code: PolicyErrorCode
  readonly identity: number

  constructor(code: PolicyErrorCode, message: string, identity: number, options?: ErrorOptions) {
    super(message, options)
    this.name = 'PolicyError'
    this.code = code
    this.identity = identity
  }
}

/**
 * An HTTP rule as policy states it and as Envoy enforces it. Patterns are RE2 and match the whole value:
 * `path` against :path with its query string, `host` against :authority with its port (Cilium's semantics).
 */

export interface HeaderRule {
  /** Lower-case header name. */
  readonly name: string
  /** Exact value; absent: the header has to be present. */
  readonly value?: string
}

/** What to do about a request whose header is not as wanted, instead of failing the rule. */
export const MISMATCH_ACTIONS = ['LOG', 'ADD', 'DELETE', 'REPLACE'] as const
export type MismatchAction = (typeof MISMATCH_ACTIONS)[number]

/** A condition on a header that is more than a HeaderRule: its value is a secret, or a mismatch changes the request. */
export interface HeaderMatch {
  /** Lower-case header name. */
  readonly name: string
  /** Exact value; with a secret, what holds while that cannot be found. Without either, the header has to be present. */
  readonly value?: string
  readonly secret?: { readonly namespace: string; readonly name: string }
  /** Absent: the rule does not match. */
  readonly mismatch?: MismatchAction
}

export interface HttpRule {
  readonly path?: string
  readonly method?: string
  readonly host?: string
  /** All have to match. */
  readonly headers: readonly HeaderRule[]
  /** All have to match, or have an action; absent when there are none. */
  readonly headerMatches?: readonly HeaderMatch[]
}

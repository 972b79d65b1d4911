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

export interface HttpRule {
  readonly path?: string
  readonly method?: string
  readonly host?: string
  /** All have to match. */
  readonly headers: readonly HeaderRule[]
}

/**
 * Patterns of server names (`serverNames`): as patterns of DNS names, but without a trailing dot, and `*` alone is any name that a
 * ClientHello can state. The whole name has to match, in any case (Cilium's proxy: RE2 full match of the same pattern).
 */
import { compileLabels, isMatchAll, isMatchPattern } from '#parsers/dns/name-pattern.ts'

/** Labels of RFC 1123, and underscores, which are seen in the wild. */
const LABEL = /^[-a-z0-9_]{1,63}$/
const NAME_LENGTH_MAX = 253

/** Whether the text can be a pattern of server names. */
export function isServerNamePattern(text: string): boolean {
  return isMatchPattern(text)
}

/** Lower-case, without a trailing dot. */
export function normalizeServerName(name: string): string {
  const lower = name.toLowerCase()
  return lower.endsWith('.') ? lower.slice(0, -1) : lower
}

/** Whether a ClientHello can state it (RFC 6066 3), in normal form. */
export function isServerName(name: string): boolean {
  return name.length <= NAME_LENGTH_MAX && name.split('.').every((label) => LABEL.test(label))
}

/** Compiles a pattern into a test of server names; what is no such name never matches. */
export function compileServerName(pattern: string): (name: string) => boolean {
  const normal = normalizeServerName(pattern)
  if (isMatchAll(normal)) return (name) => isServerName(normalizeServerName(name))
  const matches = compileLabels(normal.split('.'), (name) => `${normalizeServerName(name)}.`)
  return (name) => isServerName(normalizeServerName(name)) && matches(name)
}

/** Patterns, compiled. */
export class ServerNameMatcher {
  readonly #patterns: readonly { readonly pattern: string; readonly matches: (name: string) => boolean }[]

  constructor(patterns: readonly string[]) {
    this.#patterns = patterns.map((pattern) => ({ pattern, matches: compileServerName(pattern) }))
  }

  /** The patterns that match, in their order. @param name undefined when the connection states none, or is not TLS: then none does */
  matching(name: string | undefined): string[] {
    return name === undefined ? [] : this.#patterns.filter(({ matches }) => matches(name)).map(({ pattern }) => pattern)
  }
}

/**
 * Paths as clients send them and in the form in which rules judge them. Asked of Envoy (test/proxy/transparency.test.ts) and of our own
 * idea of it (test/policy/trace.test.ts), so that the two cannot come to differ.
 */

export const NORMALIZED_PATHS = [
  ['/a', '/a'],
  ['//a', '/a'],
  ['/x/../a', '/a'],
  ['/./a', '/a'],
  ['/%61', '/a'],
  ['/x/%2e%2e/a', '/a'],
  ['/b//c?d//e/../f', '/b/c?d//e/../f'],
  ['/b\\c?', '/b/c?'],
] as const

/** Sent back to be asked for in the other form. */
export const REDIRECTED_PATH = ['/b%2fc?x', '/b/c?x'] as const

/** Answered with 400 before any rule. */
export const REFUSED_PATHS = ['/a%00', '/a#b'] as const

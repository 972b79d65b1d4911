/** Compiled HTTP rules, kept for as long as the rules themselves: questions come by the thousand. */
import { HttpMatcher } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'

const matchers = new WeakMap<readonly HttpRule[], HttpMatcher>()

export function matcherOf(rules: readonly HttpRule[]): HttpMatcher {
  let matcher = matchers.get(rules)
  if (matcher === undefined) {
    matcher = new HttpMatcher(rules)
    matchers.set(rules, matcher)
  }
  return matcher
}

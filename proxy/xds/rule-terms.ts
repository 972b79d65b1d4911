/**
 * What an HTTP rule asks of a request, as Envoy is asked it. Semantics are Cilium's (pkg/envoy/policy/envoy_l7_rules_translator.go):
 * path, method and host are RE2 patterns that match the whole of :path with its query, :method and :authority with its port; headers are
 * exact or only have to be there.
 *
 * Several lines of a header are one value, joined with commas. An allow rule compares the whole of it: whoever adds a second line does
 * not get in. A deny rule looks at its parts too: whoever adds one does not get out.
 */
import type { HeaderMatch, HttpRule } from '#api/gen/headgate/v1/control_pb.js'
import { actionWord } from '#api/mismatch-actions.ts'
import { deniedHost } from '#parsers/http/denied-host.ts'
import type { Field } from './matcher.ts'
import { type Term, termsOfPattern } from './rule-tree.ts'

export const PATH: Field = ':path'
export const METHOD: Field = ':method'
export const HOST: Field = ':authority'

export type Verdict = 'allow' | 'deny'

/** Of conditions on headers that let the rule hold whatever is in them, and of those on secrets, nothing is asked here. */
export function termsOf(rule: HttpRule, verdict: Verdict): Term[] {
  const terms: Term[] = []
  if (rule.method !== undefined) terms.push(...termsOfPattern(METHOD, rule.method))
  // A request without a path meets no rule on paths: CONNECT has none.
  else if (verdict === 'allow' && rule.path === undefined && hasConditions(rule)) terms.push(NO_TUNNEL)
  if (rule.path !== undefined) terms.push(...termsOfPattern(PATH, rule.path))
  if (rule.host !== undefined) terms.push(...termsOfPattern(HOST, verdict === 'deny' ? deniedHost(rule.host) : rule.host))
  const conditions = [...rule.headers, ...rule.headerMatches.filter(isPlainCondition)]
  for (const { name, value } of conditions) terms.push(headerTerm(name, value, verdict))
  return terms
}

/** So that the same rules are compiled to the same bytes, and act in the same order. */
export function inNameOrder(rules: readonly HttpRule[]): HttpRule[] {
  return [...rules].sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Anything but a tunnel. */
export const NO_TUNNEL: Term = { kind: 'other', field: METHOD, text: 'CONNECT' }

/** Beside path and method. What is only done to headers is no condition. */
function hasConditions({ host, headers, headerMatches }: HttpRule): boolean {
  const isCondition = ({ mismatch, secret }: HeaderMatch) => actionWord(mismatch) === undefined || secret !== undefined
  return host !== undefined || headers.length > 0 || headerMatches.some(isCondition)
}

/** What can be told of a rule before the extension host judges it: it knows tunnels itself. */
export function candidateTermsOf(rule: HttpRule, verdict: Verdict): Term[] {
  return termsOf(rule, verdict).filter((term) => term !== NO_TUNNEL)
}

function isPlainCondition({ secret, mismatch }: HeaderMatch): boolean {
  return secret === undefined && actionWord(mismatch) === undefined
}

/** Conditions that change the request, or note something, instead of failing the rule. An action that is not known here fails it. */
export function actionsOf(rule: HttpRule): readonly HeaderMatch[] {
  return rule.headerMatches.filter(({ mismatch }) => actionWord(mismatch) !== undefined)
}

function headerTerm(field: Field, value: string | undefined, verdict: Verdict): Term {
  if (value === undefined || value === '') return { kind: 'present', field }
  const quoted = quote(value)
  if (verdict === 'deny') return { kind: 'regex', field, pattern: `(?s)(?:\\C*,)?[ \\t]*${quoted}[ \\t]*(?:,\\C*)?`, prefix: '' }
  return { kind: 'texts', field, texts: [value], pattern: quoted }
}

/** A text as an expression of RE2 that matches it and nothing else. */
export function quote(text: string): string {
  return text.replaceAll(/[!-/:-@[-`{-~]/g, '\\$&')
}

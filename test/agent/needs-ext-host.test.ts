import test from 'ava'
import { NATIVE_ACTION_RULES_MAX, needsExtHost } from '#agent/datapath/needs-ext-host.ts'
import type { HeaderMatch, HttpRule } from '#parsers/http/rules.ts'
import type { NamedRule, RulesetKind } from '#policy/resolved.ts'

function rules(count: number, ...headerMatches: HeaderMatch[]): NamedRule<HttpRule>[] {
  return Array.from({ length: count }, (_, index) => ({ name: `r${index}`, rule: { headers: [], headerMatches } }))
}

function isNeeded(allow: NamedRule<HttpRule>[], deny: NamedRule<HttpRule>[] = [], kind: RulesetKind = 'http'): boolean {
  return needsExtHost({ kind, allow, deny })
}

const SECRET: HeaderMatch = { name: 'x-a', secret: { namespace: 'n', name: 's' } }
const ACTION: HeaderMatch = { name: 'x-a', value: 'v', mismatch: 'REPLACE' }

test('secrets are judged by the extension host, whoever asks for them', (t) => {
  t.true(isNeeded(rules(1, SECRET)))
  t.true(isNeeded([], rules(1, SECRET)))
  t.true(isNeeded(rules(1, { ...SECRET, mismatch: 'LOG' })))
})

test('a few rules that act on headers are Envoy’s own', (t) => {
  t.false(isNeeded([]))
  t.false(isNeeded(rules(1000)))
  t.false(isNeeded(rules(NATIVE_ACTION_RULES_MAX, ACTION)))
  t.true(isNeeded(rules(NATIVE_ACTION_RULES_MAX + 1, ACTION)))
  t.false(isNeeded(rules(1), rules(NATIVE_ACTION_RULES_MAX + 1, { name: 'x-a', value: 'v' })))
})

test('what is no HTTP needs none', (t) => {
  t.false(isNeeded(rules(1, SECRET), [], 'kafka'))
})

/** Rules that say nothing because of others: denied wholly, repeated, or with L7 rules beside a rule without. */
import type { PolicyRule, PortRule } from '../model.ts'
import { type Findings, placeOf } from './findings.ts'
import { coversPeers } from './peers.ts'
import { type FiledRule, nameOf, type RuleIndex } from './rule-index.ts'
import { coversPorts, coversTraffic, isPlain } from './traffic.ts'

export function findMootRules(index: RuleIndex, findings: Findings): void {
  // fromRequires of any deny rule takes some away from all of them.
  const narrowed = new Set(index.rules.flatMap(({ rule }) => (rule.requires.length > 0 && rule.verdict === 'deny' ? [rule.direction] : [])))
  for (const filed of index.rules) {
    const { rule } = filed
    if (rule.peers.kind === 'none') continue
    const denying = narrowed.has(rule.direction) ? undefined : coveringOf(index, filed, 'deny')
    if (rule.verdict === 'deny') {
      if (denying !== undefined) sayRedundant(filed, denying, findings)
    } else if (denying !== undefined) {
      const message = `nothing is left of this rule: ${nameOf(denying)} denies all of it (${placeOf(denying.rule.at)})`
      findings.add('policy/denied-rule', 'warning', rule.at, message, 'a deny rule wins over every allow rule; remove one of the two')
    } else findMootAllow(index, filed, findings)
  }
}

function findMootAllow(index: RuleIndex, filed: FiledRule, findings: Findings): void {
  const useless = uselessPorts(index, filed)
  for (const [port, by] of useless) {
    const message = `these rules have no effect: ${nameOf(by)} allows the same traffic without any (${placeOf(by.rule.at)})`
    findings.add('policy/l7-useless', 'warning', port.at, message, 'remove the port from the other rule, or the rules here')
  }
  const covering = useless.size > 0 ? undefined : coveringOf(index, filed, 'allow')
  // What it has beside ports takes effect on what others allow, too: requests are seen, TLS is opened.
  if (covering !== undefined && (hasPortsOnly(filed.rule) || isTwin(covering.rule, filed.rule))) sayRedundant(filed, covering, findings)
}

function hasPortsOnly({ traffic }: PolicyRule): boolean {
  return traffic.kind !== 'ports' || traffic.rules.every(isPlain)
}

function sayRedundant({ rule }: FiledRule, covering: FiledRule, findings: Findings): void {
  const what = isTwin(covering.rule, rule) ? 'says the same' : 'covers all of it'
  findings.add('policy/redundant-rule', 'warning', rule.at, `moot: ${nameOf(covering)} ${what} (${placeOf(covering.rule.at)})`, 'remove it')
}

function coveringOf(index: RuleIndex, filed: FiledRule, verdict: PolicyRule['verdict']): FiledRule | undefined {
  for (const other of index.holdingForAll(filed, verdict)) {
    if (other === filed || isNamesake(other, filed)) continue
    if (covers(other.rule, filed.rule) && !isLaterTwin(other, filed)) return other
  }
  return undefined
}

/** Members of toPorts that a rule without conditions makes useless. */
function uselessPorts(index: RuleIndex, filed: FiledRule): ReadonlyMap<PortRule, FiledRule> {
  const useless = new Map<PortRule, FiledRule>()
  const ports = filteredPorts(filed.rule)
  if (ports.length === 0) return useless
  for (const other of index.holdingForAll(filed, 'allow')) {
    if (isNamesake(other, filed) || !coversPeers(other.rule.peers, filed.rule.peers)) continue
    for (const port of ports) if (!useless.has(port) && coversPorts(other.rule.traffic, port)) useless.set(port, other)
    if (useless.size === ports.length) break
  }
  return useless
}

/** Of two documents with one name, that is what has to be told. */
function isNamesake(a: FiledRule, b: FiledRule): boolean {
  if (a.policy === b.policy) return false
  return a.policy.kind === b.policy.kind && a.policy.name === b.policy.name && a.policy.namespace === b.policy.namespace
}

/** The other leaves nothing of this rule, or nothing to say. */
function covers(outer: PolicyRule, inner: PolicyRule): boolean {
  if (outer.verdict === 'allow' && inner.verdict === 'deny') return false
  if (!coversPeers(outer.peers, inner.peers)) return false
  return coversTraffic(outer.traffic, inner.traffic) || isTwin(outer, inner)
}

function isTwin(a: PolicyRule, b: PolicyRule): boolean {
  return a.verdict === b.verdict && contentOf(a) === contentOf(b)
}

/** Of rules that make one another moot, only the later ones are told of. */
function isLaterTwin(other: FiledRule, filed: FiledRule): boolean {
  return other.rule.verdict === filed.rule.verdict && other.serial > filed.serial && coversBack(filed, other)
}

/** This rule makes the other one moot in turn, where both have the same subjects. */
function coversBack(filed: FiledRule, other: FiledRule): boolean {
  return subjectOf(filed) === subjectOf(other) && covers(filed.rule, other.rule)
}

/** Members of toPorts that do nothing but narrow what is allowed. */
function filteredPorts({ traffic }: PolicyRule): readonly PortRule[] {
  if (traffic.kind !== 'ports') return []
  return traffic.rules.filter(
    (port) =>
      !isPlain(port) && port.terminatingTls === undefined && port.listener === undefined && !isForSight(port) && !changesHeaders(port),
  )
}

/** What others allow is changed by it all the same. */
function changesHeaders({ l7 }: PortRule): boolean {
  return l7?.kind === 'http' && l7.rules.some(({ headerMatches = [] }) => headerMatches.some(({ mismatch }) => mismatch !== undefined))
}

/** Those that let every request through are there to be seen in flows. */
function isForSight({ l7, serverNames }: PortRule): boolean {
  const rules: readonly object[] = l7?.rules ?? []
  return serverNames === undefined && rules.some((rule) => Object.values(rule).every((value) => Array.isArray(value) && value.length === 0))
}

const contents = new WeakMap<object, string>()

/** What it says, wherever it stands. */
function contentOf(rule: PolicyRule): string {
  return memo(rule, () =>
    JSON.stringify([rule.peers, rule.requires, rule.traffic], (key, value: unknown) => (key === 'at' ? undefined : value)),
  )
}

function subjectOf({ spec }: FiledRule): string {
  return memo(spec, () => JSON.stringify(spec.subject.selector))
}

function memo(key: object, make: () => string): string {
  let content = contents.get(key)
  if (content === undefined) {
    content = make()
    contents.set(key, content)
  }
  return content
}

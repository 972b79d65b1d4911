/**
 * What of resolved policy cannot be enforced yet, and what holds instead: traffic of such a class is denied. What rules do not restrict
 * is allowed all the same. Each kind that becomes enforceable is taken out here.
 */
import type { HttpRule } from '#parsers/http/rules.ts'
import { documentName, type Policy } from '#policy/model.ts'
import {
  ANY_PROTOCOL,
  httpRules,
  type NamedRule,
  type PeerClass,
  type PolicyRow,
  policyOfRule,
  type ResolvedGroup,
  type ResolvedRuleset,
} from '#policy/resolved.ts'
import { isRelayed } from './needs-ext-host.ts'

/** Something that a policy asks for and that is denied instead. */
export interface Gap {
  /** By documentName. */
  readonly policy: string
  /** As a sentence: kafka rules are not enforced yet. */
  readonly what: string
  /** Traffic that is denied for it: 9092/TCP. */
  readonly traffic: readonly string[]
}

export interface Enforceable {
  /** The group itself where all of it can be enforced. */
  readonly group: ResolvedGroup
  readonly gaps: readonly Gap[]
}

/** What becomes of a class: rules behind a slot, or the verdict of its rows. */
type Outcome = { readonly ruleset: ResolvedRuleset } | { readonly verdict: 'allow' | 'deny' }

const PORT_BITS = 16
const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map([
  [6, 'TCP'],
  [17, 'UDP'],
  [132, 'SCTP'],
])

/** The group as its rows and slots can have it. */
export function enforceable(group: ResolvedGroup): Enforceable {
  const outcomes = new Map<string, Outcome>()
  for (const [key, { ruleset }] of group.classes) {
    const outcome = outcomeOf(ruleset)
    if (!('ruleset' in outcome) || outcome.ruleset !== ruleset) outcomes.set(key, outcome)
  }
  if (outcomes.size === 0) return { group, gaps: [] }
  const classes = new Map<string, PeerClass>()
  const rows = new Map(group.rows)
  const gaps: Gap[] = []
  for (const [key, peerClass] of group.classes) {
    const outcome = outcomes.get(key) ?? { ruleset: peerClass.ruleset }
    const own = [...peerClass.rows].map((rowKey) => group.rows.get(rowKey)).filter((row) => row !== undefined)
    if ('ruleset' in outcome) {
      classes.set(key, { ...peerClass, ruleset: outcome.ruleset })
      continue
    }
    const isAudited = outcome.verdict === 'allow' && peerClass.ruleset.shadow === 'deny-all'
    for (const rowKey of peerClass.rows) {
      const row = group.rows.get(rowKey)
      if (row !== undefined) rows.set(rowKey, withoutSlot(row, outcome.verdict, isAudited))
    }
    if (outcome.verdict === 'deny') gaps.push(...gapsOfClass(peerClass.ruleset, own))
  }
  return { group: { ...group, rows, classes }, gaps }
}

function withoutSlot({ classKey: _classKey, ...row }: PolicyRow, verdict: 'allow' | 'deny', audit: boolean): PolicyRow {
  return { ...row, verdict, audit, explicitDeny: false }
}

function outcomeOf(ruleset: ResolvedRuleset): Outcome {
  const { kind, allowAll, deny, serverNames, terminatingTls, originatingTls } = ruleset
  const isIntercepted = terminatingTls !== undefined || originatingTls !== undefined
  if ((kind === 'http' || kind === 'dns' || isRelayed(ruleset)) && serverNames.length === 0 && !isIntercepted)
    return { ruleset: withShadow(ruleset) }
  const isOpen = allowAll && deny.length === 0 && !isIntercepted && kind !== 'listener' && kind !== 'conflict'
  return { verdict: isOpen ? 'allow' : 'deny' }
}

/** A shadow reports only: it changes no header, and asks for no secret. */
function withShadow(ruleset: ResolvedRuleset): ResolvedRuleset {
  const { shadow, ...rest } = ruleset
  if (shadow === undefined || shadow === 'deny-all') return ruleset
  if (shadow.kind !== ruleset.kind || shadow.parser !== ruleset.parser || !('ruleset' in outcomeOf(shadow))) return rest
  if (shadow.kind !== 'http') return ruleset
  const allow = replaced(shadow.allow, withoutHeaderMatches)
  const deny = replaced(shadow.deny, (rule) => (asksSecret(rule) ? undefined : withoutHeaderMatches(rule)))
  return allow === shadow.allow && deny === shadow.deny ? ruleset : { ...rest, shadow: { ...shadow, allow, deny } }
}

/** @returns the list itself when nothing in it is another */
function replaced(rules: readonly NamedRule[], replace: (rule: HttpRule) => HttpRule | undefined): readonly NamedRule[] {
  if (httpRules(rules).every(({ rule }) => rule.headerMatches === undefined)) return rules
  return httpRules(rules).flatMap(({ name, rule }) => {
    const instead = rule.headerMatches === undefined ? rule : replace(rule)
    return instead === undefined ? [] : [{ name, rule: instead }]
  })
}

/** Those with an action hold in any case. One on a secret is taken to hold: better a denial that is not reported than a false one. */
function withoutHeaderMatches({ headerMatches: _headerMatches, ...rest }: HttpRule): HttpRule {
  return rest
}

function asksSecret({ headerMatches = [] }: HttpRule): boolean {
  return headerMatches.some(({ secret }) => secret !== undefined)
}

function gapsOfClass(ruleset: ResolvedRuleset, rows: readonly PolicyRow[]): Gap[] {
  const named = policiesOf([...ruleset.allow, ...ruleset.deny].map(({ name }) => name))
  const policies = named.length > 0 ? named : policiesOf(rows.flatMap(({ origins }) => origins))
  const traffic = [...new Set(rows.map(trafficOf))]
  return policies.map((policy) => ({ policy, what: whatOf(ruleset), traffic }))
}

function policiesOf(rules: readonly string[]): string[] {
  return [...new Set(rules.map((rule) => policyOfRule(rule)).filter((policy) => policy !== undefined))]
}

function whatOf({ kind, serverNames, conflict }: ResolvedRuleset): string {
  switch (kind) {
    case 'http':
    case 'tls':
      return `${serverNames.length > 0 ? 'rules on server names are' : 'TLS interception is'} not enforced yet`
    case 'listener':
      return 'a redirect to a listener is not enforced yet'
    case 'conflict':
      return `${conflict} cannot hold together`
    default:
      return `${kind} rules are not enforced yet`
  }
}

function trafficOf({ protocol, port, portPrefixLength }: PolicyRow): string {
  if (protocol === ANY_PROTOCOL) return 'all protocols'
  const name = PROTOCOL_NAMES.get(protocol) ?? `protocol ${protocol}`
  const last = port + 2 ** (PORT_BITS - portPrefixLength) - 1
  if (portPrefixLength === 0) return name
  return last === port ? `${port}/${name}` : `${port}-${last}/${name}`
}

/** What a policy asks for that no row tells of. */
export function policyWarnings(policy: Policy): string[] {
  const name = documentName(policy)
  const warnings: string[] = []
  if (policy.specs.some(({ subject }) => subject.kind === 'nodes')) warnings.push(`policy ${name}: policy for nodes is not enforced yet`)
  return warnings
}

const TRAFFIC_SHOWN_MAX = 3

/** One line for each policy and kind of what it asks for. */
export function gapWarnings(gaps: Iterable<Gap>): string[] {
  const byText = new Map<string, Set<string>>()
  for (const { policy, what, traffic } of gaps) {
    const text = `policy ${policy}: ${what}`
    const all = byText.get(text) ?? new Set()
    for (const each of traffic) all.add(each)
    byText.set(text, all)
  }
  return [...byText].map(([text, traffic]) => {
    const shown = [...traffic].slice(0, TRAFFIC_SHOWN_MAX).join(', ')
    const rest = traffic.size > TRAFFIC_SHOWN_MAX ? `, and ${traffic.size - TRAFFIC_SHOWN_MAX} more` : ''
    return `${text}: traffic to ${shown}${rest} is denied`
  })
}

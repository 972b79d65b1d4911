/**
 * The verdict on one flow, and why: both sides are judged by the rows that the kernel would have and by the rulesets that proxies would
 * run, and every rule that selects a side says what it makes of the flow.
 */
import { withoutDomain } from '#parsers/dns/name-pattern.ts'
import type { HeaderNote, SecretLookup } from '#parsers/http/judge.ts'
import { blockStart } from '../blocks.ts'
import type { CompiledSpec } from '../compile.ts'
import type { L7Kind, LabelSelector, PolicyRule } from '../model.ts'
import type { Position } from '../problems.ts'
import {
  ANY_IDENTITY,
  ANY_PROTOCOL,
  type Direction,
  type NamedRule,
  type PolicyRow,
  type ResolvedGroup,
  type ResolvedRuleset,
  rowKey,
} from '../resolved.ts'
import { explainRule } from './explain.ts'
import { judgeHttp } from './http-ruleset.ts'
import { isServerNameAllowed, matchingRules } from './matchers.ts'
import { notEnforced, notReported } from './not-enforced.ts'
import type { Party, Scene } from './scene.ts'
import { rowPortOf, type TracedTraffic } from './traffic.ts'

export interface TraceQuery {
  readonly from: Party
  readonly to: Party
  readonly traffic: TracedTraffic
}

export interface TracedRule {
  /** documentName */
  readonly policy: string
  readonly rule: string
  readonly at: Position
  readonly action: 'allow' | 'deny'
  readonly matched: boolean
  readonly reason: string
  /** Of a policy that only reports; else absent. */
  readonly audit?: true
}

export interface TracedSide {
  readonly verdict: 'allowed' | 'denied' | 'redirected'
  /** Of the request, where the connection is redirected and a request was asked about. */
  readonly l7: 'allowed' | 'denied' | null
  readonly reason: string
  /** Allowed, and reported: without audit it would be denied. Else absent. */
  readonly audit?: true
  readonly matched: readonly TracedRule[]
  readonly unmatched: readonly TracedRule[]
  /** Headers of the request that are not as its rules want them, and what these do about it; absent when there are none. */
  readonly headers?: readonly HeaderNote[]
  /** Where a node of this version does something else; absent when there is nothing to say. */
  readonly notes?: readonly string[]
}

/** The verdict on one flow. */
export interface TracedFlow {
  readonly verdict: 'allowed' | 'denied'
  /** Of either side. */
  readonly audit?: true
  readonly egress: TracedSide
  readonly ingress: TracedSide
}

export type Judgement = Omit<TracedSide, 'matched' | 'unmatched'>

export function trace(scene: Scene, { from, to, traffic }: TraceQuery): TracedFlow {
  const egress = traceSide(scene, 'egress', from, to, traffic)
  const ingress = traceSide(scene, 'ingress', to, from, traffic)
  const isAllowed = ![egress, ingress].some(isDenied)
  const isAudit = isAllowed && (egress.audit === true || ingress.audit === true)
  return { verdict: isAllowed ? 'allowed' : 'denied', ...(isAudit && { audit: true }), egress, ingress }
}

/** The verdict alone: what `trace` says without a word of why. */
export function judge(scene: Scene, query: TraceQuery): TracedFlow['verdict'] {
  return Object.values(judgeSides(scene, query)).some(isDenied) ? 'denied' : 'allowed'
}

/** The verdicts of the sides that policies judge. */
export function judgeSides(scene: Scene, { from, to, traffic }: TraceQuery): Partial<Readonly<Record<Direction, Judgement>>> {
  return {
    ...(from.subject !== undefined && { egress: judgeSide(scene, 'egress', from, to, traffic) }),
    ...(to.subject !== undefined && { ingress: judgeSide(scene, 'ingress', to, from, traffic) }),
  }
}

export function isDenied({ verdict, l7 }: Pick<Judgement, 'verdict' | 'l7'>): boolean {
  return verdict === 'denied' || l7 === 'denied'
}

function traceSide(scene: Scene, direction: Direction, subject: Party, peer: Party, traffic: TracedTraffic): TracedSide {
  if (subject.subject === undefined) {
    const reason = `${subject.name} is no endpoint: no policy judges its side`
    return { verdict: 'allowed', l7: null, reason, matched: [], unmatched: [] }
  }
  const rules = rulesOf(scene, direction, subject, peer, traffic)
  const judgement = judgeSide(scene, direction, subject, peer, traffic)
  const notes = notesOf(subject, peer, rules, judgement)
  const [matched, unmatched] = [rules.filter((rule) => rule.matched), rules.filter((rule) => !rule.matched)]
  return { ...judgement, matched: matched.map(told), unmatched: unmatched.map(told), ...(notes.length > 0 && { notes }) }
}

function judgeSide(scene: Scene, direction: Direction, subject: Party, peer: Party, traffic: TracedTraffic): Judgement {
  const isLocalhost =
    scene.allowLocalhost && direction === 'ingress' && subject.subject?.kind === 'endpoints' && peer.labels.has('reserved', 'host')
  if (isLocalhost) return { verdict: 'allowed', l7: null, reason: 'this host may always reach its endpoints (policy.allowLocalhost)' }
  const group = scene.groupOf(subject)
  if (!group.enforced[direction]) return { verdict: 'allowed', l7: null, reason: `no policy restricts its ${direction}` }
  const found = rowOf(group, direction, { ...peer, severalNames: scene.severalNames }, traffic)
  const { row, byName, isUndecided = false, beatsDeny = false } = found
  const whom = byName ? 'a name that it is known by' : 'it'
  if (row === undefined || (row.verdict === 'deny' && !row.explicitDeny))
    return { verdict: 'denied', l7: null, reason: 'no rule allows it' }
  if (row.verdict === 'deny')
    return { verdict: 'denied', l7: null, reason: byName ? `a deny rule is about ${whom}` : 'a deny rule matches' }
  if (row.verdict === 'allow') {
    return row.audit
      ? { verdict: 'allowed', l7: null, reason: 'it is only reported: policies in audit deny it', audit: true }
      : { verdict: 'allowed', l7: null, reason: `a rule allows ${whom}${beatsDeny ? ', which beats the deny of another' : ''}` }
  }
  const ruleset = group.classes.get(row.classKey ?? '')?.ruleset
  if (ruleset === undefined) return { verdict: 'denied', l7: null, reason: 'no rule allows it' }
  const judgement = judgeRequest(ruleset, traffic, scene.secretOf)
  const bare = judgement.l7 === 'denied' ? judgeWithoutDomain(ruleset, traffic, subject.searchDomains, scene.secretOf) : undefined
  if (bare !== undefined) return bare
  return isUndecided ? { ...judgement, notes: [...(judgement.notes ?? []), UNDECIDED] } : judgement
}

/** As the DNS process judges a name that no rule denies: it may be an allowed one with a search domain behind it. */
function judgeWithoutDomain(
  ruleset: ResolvedRuleset,
  traffic: TracedTraffic,
  searchDomains: readonly string[],
  secretOf: SecretLookup,
): Judgement | undefined {
  const { request } = traffic
  if (request?.kind !== 'dns' || ruleset.kind !== 'dns') return undefined
  if (matchingRules('dns', ruleset.deny, request, 'deny', secretOf) !== undefined) return undefined
  for (const domain of searchDomains) {
    const name = withoutDomain(request.name, domain)
    if (name === undefined) continue
    const judgement = judgeRequest(ruleset, { ...traffic, request: { kind: 'dns', name } }, secretOf)
    if (judgement.l7 === 'allowed') return { ...judgement, reason: `${judgement.reason}, without the search domain ${domain.slice(0, -1)}` }
  }
  return undefined
}

const UNDECIDED = 'selectors of its names lead to different rules on requests: a node takes those of one of them'

function judgeRequest(ruleset: ResolvedRuleset, traffic: TracedTraffic, secretOf: SecretLookup): Judgement {
  const { unknownSecrets = [], ...said } = judgeRuleset(ruleset, traffic, secretOf)
  const gap = notEnforced(ruleset)
  const notes = [
    ...(gap === undefined ? [] : [gap]),
    ...unknownSecrets.map((name) => `what the secret ${name} holds is not known here (--secrets): judged as where it cannot be read`),
  ]
  const result: Judgement = { verdict: 'redirected', ...said, ...(notes.length > 0 && { notes }) }
  const { shadow } = ruleset
  if (shadow === undefined || said.l7 === 'denied') return result
  const isReported = shadow === 'deny-all' || judgeRuleset(shadow, traffic, secretOf).l7 === 'denied'
  if (!isReported) return result
  const unreported = shadow === 'deny-all' ? undefined : notReported(shadow)
  const told = unreported === undefined ? {} : { notes: [...notes, unreported] }
  return { ...result, reason: 'it is only reported: policies in audit deny it', audit: true, ...told }
}

const KIND_NAMES = { http: 'HTTP', dns: 'DNS', kafka: 'Kafka', cassandra: 'Cassandra' } as const

interface RulesetAnswer extends Pick<Judgement, 'l7' | 'reason' | 'headers'> {
  /** NAMESPACE/NAME */
  readonly unknownSecrets?: readonly string[]
}

function judgeRuleset(ruleset: ResolvedRuleset, traffic: TracedTraffic, secretOf: SecretLookup): RulesetAnswer {
  const { request } = traffic
  if (ruleset.kind !== 'http' || request?.kind !== 'http')
    return judgeRules(ruleset, traffic, (rules, purpose) => {
      return request !== undefined && matchingRules(ruleset.kind as L7Kind, rules, request, purpose, secretOf) !== undefined
    })
  const { verdict, headers, unknownSecrets } = judgeHttp(ruleset, request.request, secretOf)
  const answer = judgeRules(ruleset, traffic, (_rules, purpose) => verdict === (purpose === 'deny' ? 'denied by a rule' : 'allowed'))
  return { ...answer, ...(answer.l7 === 'allowed' && headers.length > 0 && { headers }), unknownSecrets }
}

/** @param isMet whether the rules for a purpose hold for the request */
function judgeRules(
  { kind, parser, allow, deny, allowAll, serverNames, listener, conflict }: ResolvedRuleset,
  { request, serverName }: TracedTraffic,
  isMet: (rules: readonly NamedRule[], purpose: PolicyRule['verdict']) => boolean,
): RulesetAnswer {
  if (kind === 'conflict') return { l7: 'denied', reason: `its rules cannot hold together: ${conflict}` }
  const isRead = kind !== 'tls' && kind !== 'listener' && kind !== 'parser'
  if (isRead && isMet(deny, 'deny')) return { l7: 'denied', reason: `a deny rule matches the request` }
  if (allowAll && (request !== undefined || serverName !== undefined)) {
    return { l7: 'allowed', reason: deny.length > 0 ? 'no deny rule matches it, and a rule allows the rest' : 'a rule allows all requests' }
  }
  const isStated = serverName !== undefined || request !== undefined
  if (!allowAll && serverNames.length > 0 && isStated && !isServerNameAllowed(serverNames, serverName)) {
    const reason = serverName === undefined ? 'rules ask for a server name, and none is stated (--sni)' : `no rule allows this server name`
    return { l7: 'denied', reason }
  }
  if (kind === 'listener') return { l7: null, reason: `the listener ${listener?.name ?? ''} decides` }
  if (kind === 'parser') return { l7: null, reason: `rules of the parser ${parser} decide each request` }
  if (kind === 'tls')
    return serverName === undefined ? { l7: null, reason: 'rules on TLS decide' } : { l7: 'allowed', reason: 'its server name is allowed' }
  const name = KIND_NAMES[kind]
  if (request === undefined) return { l7: null, reason: `${name} rules decide each request` }
  if (request.kind !== kind)
    return { l7: 'denied', reason: `${name} rules stand there, which no request of ${KIND_NAMES[request.kind]} meets` }
  return isMet(allow, 'allow')
    ? { l7: 'allowed', reason: `${kind === 'http' ? 'an' : 'a'} ${name} rule allows it` }
    : { l7: 'denied', reason: `no ${name} rule allows it` }
}

/** As the kernel looks it up: the peer's longest match, and only without one that of any peer. */
export function findRow(group: ResolvedGroup, direction: Direction, peer: number, protocol: number, port: number): PolicyRow | undefined {
  const rowFor = (identity: number) => longestRow(group, direction, identity, protocol, port)
  return rowFor(peer) ?? rowFor(ANY_IDENTITY)
}

function longestRow(group: ResolvedGroup, direction: Direction, identity: number, protocol: number, port: number): PolicyRow | undefined {
  for (let portPrefixLength = 16; portPrefixLength >= 0; portPrefixLength--) {
    const start = blockStart(port, portPrefixLength)
    const row = group.rows.get(rowKey({ direction, identity, protocol, port: start, portPrefixLength }))
    if (row !== undefined) return row
  }
  return group.rows.get(rowKey({ direction, identity, protocol: ANY_PROTOCOL, port: 0, portPrefixLength: 0 }))
}

interface FoundRow {
  readonly row: PolicyRow | undefined
  /** It is of a selector of names. */
  readonly byName: boolean
  /** Another one has other rules on requests: which is taken depends on numbers that a node gives. */
  readonly isUndecided?: boolean
  /** A deny rule is about another of the names. */
  readonly beatsDeny?: boolean
}

const NAME_DENY_RANK = 1
const REDIRECT_RANK = 3

/** As in bpf/src/policy.h. */
function rankOf({ classes }: ResolvedGroup, row: PolicyRow | undefined): number {
  if (row?.verdict === 'allow') return row.audit ? 2 : 5
  if (row?.verdict === 'redirect') return classes.get(row.classKey ?? '')?.ruleset.allowAll === true ? 4 : REDIRECT_RANK
  return row?.explicitDeny === true ? NAME_DENY_RANK : 0
}

/**
 * As the kernel judges an address with names (bpf/src/policy.h): what a rule denies of the address itself is final; what is allowed it, only
 * a deny of a name takes back, and that only while no other name is allowed.
 */
function rowOf(
  group: ResolvedGroup,
  direction: Direction,
  { identity, selectors = [], severalNames }: Pick<Party, 'identity' | 'selectors'> & Pick<Scene, 'severalNames'>,
  traffic: TracedTraffic,
): FoundRow {
  const { protocol } = traffic
  const port = rowPortOf(traffic)
  const own = findRow(group, direction, identity, protocol, port)
  const isFinal = direction === 'ingress' || (own?.verdict === 'deny' && own.explicitDeny)
  if (isFinal) return { row: own, byName: false }
  const rows = selectors.flatMap((selector) => longestRow(group, direction, selector, protocol, port) ?? [])
  const rank = Math.max(0, ...rows.map((each) => rankOf(group, each)))
  if (rank !== NAME_DENY_RANK && rank <= rankOf(group, own)) return { row: own, byName: false }
  const [row, ...others] = rows.filter((each) => rankOf(group, each) === rank)
  const beatsDeny = rank > NAME_DENY_RANK && rows.some((each) => rankOf(group, each) === NAME_DENY_RANK)
  if (rank !== REDIRECT_RANK || others.every(({ classKey }) => classKey === row?.classKey)) return { row, byName: true, beatsDeny }
  const shared = severalNames === undefined ? undefined : longestRow(group, direction, severalNames, protocol, port)
  return shared?.verdict === 'redirect' ? { row: shared, byName: true } : { row, byName: true, isUndecided: true }
}

interface ExplainedRule extends TracedRule {
  readonly isByName: boolean
}

/** Every rule of the direction whose policy selects the subject, in the order of files. */
function rulesOf(scene: Scene, direction: Direction, subject: Party, peer: Party, traffic: TracedTraffic): ExplainedRule[] {
  const specs = scene.specsOf(subject)
  const namedPorts = direction === 'ingress' ? subject.namedPorts : scene.namedPortsOf(peer)
  const required = { allow: requiresOf(specs, direction, 'allow'), deny: requiresOf(specs, direction, 'deny') }
  return specs.flatMap(({ policy, audit, rules }) =>
    rules
      .filter((entry) => entry.direction === direction)
      .map(({ rule, compiled }) => {
        const { clusterName, resolve, secretOf, observesQueries } = scene
        const context = { clusterName, resolve, secretOf, observesQueries, namedPorts, requires: required[rule.verdict] }
        const { isMatch, reason } = explainRule(rule, peer, traffic, context)
        const isByName = rule.peers.kind === 'members' && rule.peers.members.every(({ kind }) => kind === 'fqdn')
        const told = { policy, rule: compiled.name, at: rule.at, action: rule.verdict, matched: isMatch, reason, isByName }
        return audit ? { ...told, audit: true } : told
      }),
  )
}

function requiresOf(specs: readonly CompiledSpec[], direction: Direction, verdict: PolicyRule['verdict']): readonly LabelSelector[] {
  return specs.flatMap(({ rules }) =>
    rules.flatMap(({ rule }) => (rule.direction === direction && rule.verdict === verdict ? rule.requires : [])),
  )
}

function told({ isByName: _isByName, ...rule }: ExplainedRule): TracedRule {
  return rule
}

function notesOf(subject: Party, peer: Party, rules: readonly ExplainedRule[], { verdict, notes = [] }: Judgement): readonly string[] {
  if (subject.subject?.kind === 'nodes')
    return rules.length === 0 ? [] : ['policy for nodes is not enforced by this version: a node lets this traffic through']
  if (verdict === 'denied') {
    const mayHaveName =
      peer.selectors === undefined && peer.prefixes.length > 0 && rules.some(({ isByName, action }) => isByName && action === 'allow')
    return mayHaveName ? ['which names an address has is not known here: ask about the name'] : []
  }
  return notes
}

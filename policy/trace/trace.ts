/**
 * The verdict on one flow, and why: both sides are judged by the rows that the kernel would have and by the rulesets that Envoy would
 * run, and every rule that selects a side says what it makes of the flow.
 */
import { blockStart } from '../blocks.ts'
import { PROTOCOL_NUMBERS } from '../compile.ts'
import type { Position } from '../problems.ts'
import { ANY_IDENTITY, ANY_PROTOCOL, type Direction, type PolicyRow, type ResolvedGroup, rowKey } from '../resolved.ts'
import { selects } from '../selector.ts'
import { explainRule, type TracedTraffic } from './explain.ts'
import { matcherOf } from './matchers.ts'
import type { Party, Scene } from './scene.ts'

export interface TraceQuery {
  readonly from: Party
  readonly to: Party
  readonly traffic: TracedTraffic
}

export interface TracedRule {
  /** namespace/name */
  readonly policy: string
  readonly rule: string
  readonly at: Position
  readonly action: 'allow' | 'deny'
  readonly matched: boolean
  readonly reason: string
}

export interface TracedSide {
  readonly verdict: 'allowed' | 'denied' | 'redirected'
  /** Of the request, where the connection is redirected and a request was asked about. */
  readonly l7: 'allowed' | 'denied' | null
  readonly reason: string
  readonly matched: readonly TracedRule[]
  readonly unmatched: readonly TracedRule[]
}

export interface TraceAnswer {
  readonly verdict: 'allowed' | 'denied'
  readonly egress: TracedSide
  readonly ingress: TracedSide
}

const NUMBERS = { ...PROTOCOL_NUMBERS, ICMP: 1 }
/** Row port of an ICMP echo request: its type in the upper byte. */
const ICMP_ECHO_PORT = 8 << 8

export function trace(scene: Scene, { from, to, traffic }: TraceQuery): TraceAnswer {
  const egress = traceSide(scene, 'egress', from, to, traffic)
  const ingress = traceSide(scene, 'ingress', to, from, traffic)
  const isAllowed = [egress, ingress].every(({ verdict, l7 }) => verdict !== 'denied' && l7 !== 'denied')
  return { verdict: isAllowed ? 'allowed' : 'denied', egress, ingress }
}

function traceSide(scene: Scene, direction: Direction, subject: Party, peer: Party, traffic: TracedTraffic): TracedSide {
  if (!subject.isSubject) {
    return { verdict: 'allowed', l7: null, reason: `${subject.name} is no endpoint: no policy judges its side`, matched: [], unmatched: [] }
  }
  const rules = rulesOf(scene, direction, subject, peer, traffic)
  const judgement = judgeSide(scene.groupOf(subject), direction, peer, traffic)
  return { ...judgement, matched: rules.filter(({ matched }) => matched), unmatched: rules.filter(({ matched }) => !matched) }
}

function judgeSide(
  group: ResolvedGroup,
  direction: Direction,
  peer: Party,
  { protocol, port, http }: TracedTraffic,
): Pick<TracedSide, 'verdict' | 'l7' | 'reason'> {
  if (!group.enforced[direction]) return { verdict: 'allowed', l7: null, reason: `no policy restricts its ${direction}` }
  const rowPort = protocol === 'ICMP' ? ICMP_ECHO_PORT : port
  const row = findRow(group, direction, peer.identity, NUMBERS[protocol], rowPort)
  if (row === undefined || (row.verdict === 'deny' && !row.explicitDeny))
    return { verdict: 'denied', l7: null, reason: 'no rule allows it' }
  if (row.verdict === 'deny') return { verdict: 'denied', l7: null, reason: 'a deny rule matches' }
  if (row.verdict === 'allow') return { verdict: 'allowed', l7: null, reason: 'a rule allows it' }
  const ruleset = group.classes.get(row.classKey ?? '')?.ruleset
  if (http === undefined) return { verdict: 'redirected', l7: null, reason: 'HTTP rules decide each request' }
  const isAllowed = ruleset !== undefined && (ruleset.allowAll || matcherOf(ruleset.http).matching(http).length > 0)
  return {
    verdict: 'redirected',
    l7: isAllowed ? 'allowed' : 'denied',
    reason: isAllowed ? 'an HTTP rule allows it' : 'no HTTP rule allows it',
  }
}

/** As the kernel looks it up: the peer's longest match, and only without one that of any peer. */
function findRow(group: ResolvedGroup, direction: Direction, peer: number, protocol: number, port: number): PolicyRow | undefined {
  for (const identity of [peer, ANY_IDENTITY]) {
    for (let portPrefixLength = 16; portPrefixLength >= 0; portPrefixLength--) {
      const start = blockStart(port, portPrefixLength)
      const row = group.rows.get(rowKey({ direction, identity, protocol, port: start, portPrefixLength }))
      if (row !== undefined) return row
    }
    const row = group.rows.get(rowKey({ direction, identity, protocol: ANY_PROTOCOL, port: 0, portPrefixLength: 0 }))
    if (row !== undefined) return row
  }
  return undefined
}

/** Every rule of the direction whose policy selects the subject, in the order of files. */
function rulesOf(scene: Scene, direction: Direction, subject: Party, peer: Party, traffic: TracedTraffic): TracedRule[] {
  return scene.specs
    .filter(({ spec }) => selects(spec.subject.selector, subject.labels))
    .flatMap(({ policy, rules }) =>
      rules
        .filter((entry) => entry.direction === direction)
        .map(({ rule, compiled }) => {
          const { isMatch, reason } = explainRule(rule, peer, traffic, scene.clusterName)
          return { policy, rule: compiled.name, at: rule.at, action: rule.verdict, matched: isMatch, reason }
        }),
    )
}

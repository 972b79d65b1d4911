/**
 * L7 parts that cannot hold together: two kinds of rules on one port, two certificates, two listeners. Cilium finds these when the first
 * endpoint has both; here the traffic is denied then (policy/rulesets.ts, which says what a conflict is).
 */
import type { PortRule } from '../model.ts'
import { type L7Shape, l7PartOf, mergeRulesets } from '../rulesets.ts'
import { type Findings, placeOf } from './findings.ts'
import { mayShare, surelyShare } from './peers.ts'
import { type FiledRule, nameOf, type RuleIndex } from './rule-index.ts'
import { implies } from './selectors.ts'
import { sharedPorts } from './traffic.ts'

interface Shaped {
  readonly port: PortRule
  readonly shape: L7Shape
}

export function findConflicts(index: RuleIndex, findings: Findings): void {
  const shaped = new Map<FiledRule, readonly Shaped[]>()
  for (const filed of index.rules) {
    const ports = shapesOf(filed)
    if (ports.length > 0) shaped.set(filed, ports)
  }
  const keys = new Set([...shaped.values()].flatMap((ports) => ports.map(({ shape }) => shape.key)))
  // Where every L7 part is of one shape, as in most folders, there is nothing to compare.
  if (keys.size < 2) return
  const conflictOf = memoizedConflict()
  for (const [filed, ports] of shaped) {
    for (const other of index.perhapsHolding(filed)) {
      if (other.serial < filed.serial) continue
      const others = shaped.get(other)
      if (others === undefined || !mayShare(filed.rule.peers, other.rule.peers)) continue
      compare([filed, ports], [other, others], conflictOf, findings)
    }
  }
}

function compare(
  [filed, ports]: readonly [FiledRule, readonly Shaped[]],
  [other, others]: readonly [FiledRule, readonly Shaped[]],
  conflictOf: (a: L7Shape, b: L7Shape) => string,
  findings: Findings,
): void {
  for (const [index, one] of ports.entries()) {
    for (const two of filed === other ? others.slice(index + 1) : others) {
      const conflict = conflictOf(one.shape, two.shape)
      const where = conflict === '' ? undefined : sharedPorts(one.port, two.port)
      if (where === undefined) continue
      const subjects = [filed.spec.subject.selector, other.spec.subject.selector] as const
      const isSure =
        (implies(subjects[0], subjects[1]) || implies(subjects[1], subjects[0])) && surelyShare(filed.rule.peers, other.rule.peers)
      const message = `${isSure ? '' : 'may conflict, for endpoints that both select: '}${conflict}, ${where}: here and in ${nameOf(other)} (${placeOf(two.port.at)})`
      findings.add('policy/conflict', isSure ? 'error' : 'warning', one.port.at, message, 'such traffic is denied; make the two agree')
    }
  }
}

function shapesOf({ rule }: FiledRule): Shaped[] {
  if (rule.traffic.kind !== 'ports' || rule.peers.kind === 'none') return []
  return rule.traffic.rules.flatMap((port) => {
    const part = l7PartOf(port, () => '')
    return part === undefined ? [] : [{ port, shape: part.shape }]
  })
}

function memoizedConflict(): (a: L7Shape, b: L7Shape) => string {
  const known = new Map<string, string>()
  return (a, b) => {
    if (a.key === b.key) return ''
    const key = `${a.key} ${b.key}`
    let conflict = known.get(key)
    if (conflict === undefined) {
      conflict = mergeRulesets({ shapes: [a, b], denyShapes: [], allow: [], deny: [], hasPlain: false }).conflict
      known.set(key, conflict)
    }
    return conflict
  }
}

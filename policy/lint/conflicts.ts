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

/** Pairs of rules that conflict; far more than anybody is shown. */
const PAIRS_MAX = 20_000

/** What it costs to hold two shapes against one another, in comparisons of rules. */
const SHAPES_COST = 4

interface Shaped {
  readonly port: PortRule
  readonly shape: L7Shape
}

export function findConflicts(index: RuleIndex, findings: Findings): void {
  const shaped = new Map<FiledRule, readonly Shaped[]>()
  const byShape = new Map<string, { readonly shape: L7Shape; readonly rules: Set<FiledRule> }>()
  for (const filed of index.rules) {
    const ports = shapesOf(filed)
    if (ports.length > 0) shaped.set(filed, ports)
    for (const { shape } of ports) {
      const key = keyOf(shape)
      const alike = byShape.get(key) ?? { shape, rules: new Set() }
      byShape.set(key, alike)
      alike.rules.add(filed)
    }
  }
  const said = new Set<string>()
  // Most folders have one shape, or shapes that get on: then no rules are compared at all.
  const shapes = [...byShape.values()]
  for (const [number, one] of shapes.entries()) {
    for (const other of shapes.slice(number + 1)) {
      if (said.size > PAIRS_MAX || !index.spend(SHAPES_COST)) return
      if (mergedConflict(one.shape, other.shape) === '') continue
      const others = index.only([...other.rules])
      for (const filed of one.rules) {
        for (const against of others.perhapsHolding(filed)) {
          const [first, second] = filed.serial <= against.serial ? [filed, against] : [against, filed]
          const pair = `${first.serial} ${second.serial}`
          if (said.has(pair) || !mayShare(first.rule.peers, second.rule.peers)) continue
          said.add(pair)
          compare([first, shaped.get(first) ?? []], [second, shaped.get(second) ?? []], findings)
        }
      }
    }
  }
}

/** Equal for shapes that conflict with the same others: which names they have does not matter. */
function keyOf({ kind, parser, serverNames, terminatingTls, originatingTls, listener }: L7Shape): string {
  return JSON.stringify([kind, parser, serverNames.length > 0, terminatingTls, originatingTls, listener])
}

function compare(
  [filed, ports]: readonly [FiledRule, readonly Shaped[]],
  [other, others]: readonly [FiledRule, readonly Shaped[]],
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

function conflictOf(a: L7Shape, b: L7Shape): string {
  return keyOf(a) === keyOf(b) ? '' : mergedConflict(a, b)
}

function mergedConflict(a: L7Shape, b: L7Shape): string {
  return mergeRulesets({ shapes: [a, b], denyShapes: [], allow: [], deny: [], hasPlain: false }).conflict
}

/**
 * From the rules that hold for one peer to rows. Rules name blocks of (protocol, port prefix), which either lie inside one another or
 * are apart; each block that a rule names gets the verdict of every rule whose block covers it, so a longest match never hides a
 * rule. A block that says what the block around it says already is left out: policy maps are small and repeated for every peer.
 */
import type { PortProtocolName } from './model.ts'
import { ANY_PROTOCOL, type NamedRule, type ResolvedRuleset, type RowVerdict } from './resolved.ts'
import { type L7Part, type L7Shape, mergeRulesets } from './rulesets.ts'

const PORT_LAST = 65535
const PORT_BITS = 16

/** A part of all traffic: everything (ANY_PROTOCOL, length 0), a protocol (length 0), or a power of two of its ports. */
export interface TrafficBlock {
  readonly protocol: number
  readonly port: number
  readonly portPrefixLength: number
}

/** A rule as far as verdicts need it. */
export interface CompiledRule {
  readonly name: string
  /** observe: allows nothing and denies nothing; what is allowed without L7 rules is seen by the proxy that its L7 part names. */
  readonly verdict: 'allow' | 'deny' | 'observe'
  readonly traffic: readonly (TrafficBlock & { readonly l7: L7Part | undefined })[]
  /** Ports that have a name only: whoever knows what it stands for adds them to `traffic`. */
  readonly named: readonly { readonly name: string; readonly protocol: PortProtocolName; readonly l7: L7Part | undefined }[]
  /** Holds for every peer, known or not. */
  readonly isForAnyPeer: boolean
}

/** Who counts a rule: what is enforced, what would be if policies in audit were, or both. */
export type RuleScope = 'both' | 'enforced' | 'audit'

export interface ScopedRule {
  readonly rule: CompiledRule
  readonly scope: RuleScope
}

/** A row without its peer. */
export interface Block extends TrafficBlock {
  readonly verdict: RowVerdict
  readonly explicitDeny: boolean
  readonly audit: boolean
  readonly ruleset: ResolvedRuleset | undefined
  readonly origins: readonly string[]
}

interface Piece {
  readonly rule: CompiledRule
  readonly l7: L7Part | undefined
}

/**
 * What rules that cover the same block say together. Lists are sorted and each entry is there once; a list is that of the cell around
 * where nothing comes to it, so that thousands of blocks inside one that thousands of rules name stay cheap.
 */
interface Cover {
  /** Names of deny rules without L7 part. */
  readonly denies: readonly string[]
  readonly allows: readonly string[]
  /** Names of deny rules with one. */
  readonly l7Denies: readonly string[]
  readonly shapes: readonly L7Shape[]
  readonly denyShapes: readonly L7Shape[]
  /** Of rules that only observe. */
  readonly observed: readonly L7Shape[]
  readonly allow: readonly NamedRule[]
  readonly deny: readonly NamedRule[]
  readonly hasPlain: boolean
}

const NO_COVER: Cover = {
  denies: [],
  allows: [],
  l7Denies: [],
  shapes: [],
  denyShapes: [],
  observed: [],
  allow: [],
  deny: [],
  hasPlain: false,
}

interface Cell {
  readonly block: TrafficBlock
  readonly own: (Piece & { readonly scope: RuleScope })[]
  /** Of own pieces and those of every cell around this one. */
  cover: Cover
  /** The same with the policies in audit; the same object where there are none. */
  auditCover: Cover
  outcome: Outcome | undefined
  /** Whether the peer's own rows decide here, not those for any peer. */
  isPresent: boolean
}

type Outcome = Pick<Block, 'verdict' | 'explicitDeny' | 'audit' | 'ruleset' | 'origins'>

/**
 * @param onlyWithSpecific leave out what the rows for any peer decide: where no rule covers a block that is about this peer alone,
 * the peer has no row around the block either, and the reader falls back to those rows.
 */
export function compileBlocks(rules: readonly ScopedRule[], onlyWithSpecific: boolean): Block[] {
  const cells = new Map<number, Cell>()
  for (const { rule, scope } of rules) {
    for (const { protocol, port, portPrefixLength, l7 } of rule.traffic) {
      const key = cellKey(protocol, port, portPrefixLength)
      let cell = cells.get(key)
      if (cell === undefined) {
        const block = { protocol, port, portPrefixLength }
        cell = { block, own: [], cover: NO_COVER, auditCover: NO_COVER, outcome: undefined, isPresent: false }
        cells.set(key, cell)
      }
      cell.own.push({ rule, l7, scope })
    }
  }
  const isAudited = rules.some(({ scope }) => scope !== 'both')
  const blocks: Block[] = []
  // Keys sort wide before narrow, so a cell finds the one around it finished.
  for (const [, cell] of [...cells].sort(([a], [b]) => a - b)) {
    const around = cellAround(cells, cell.block)
    cell.cover = coverOf(around?.cover ?? NO_COVER, isAudited ? cell.own.filter(({ scope }) => scope !== 'audit') : cell.own)
    cell.auditCover = isAudited
      ? coverOf(
          around?.auditCover ?? NO_COVER,
          cell.own.filter(({ scope }) => scope !== 'enforced'),
        )
      : cell.cover
    cell.isPresent = !onlyWithSpecific || around?.isPresent === true || cell.own.some(({ rule }) => !rule.isForAnyPeer)
    if (!cell.isPresent) continue
    const outcome = outcomeOf(cell.cover)
    cell.outcome = isAudited ? withAudit(outcome, outcomeOf(cell.auditCover)) : outcome
    if (around?.outcome !== undefined && sameOutcome(around.outcome, cell.outcome)) continue
    blocks.push({ ...cell.block, ...cell.outcome })
  }
  return blocks
}

function cellKey(protocol: number, port: number, portPrefixLength: number): number {
  return (protocol * 32 + portPrefixLength) * (PORT_LAST + 1) + port
}

function cellAround(cells: ReadonlyMap<number, Cell>, { protocol, port, portPrefixLength }: TrafficBlock): Cell | undefined {
  if (protocol === ANY_PROTOCOL) return undefined
  for (let length = portPrefixLength - 1; length >= 0; length--) {
    const cell = cells.get(cellKey(protocol, blockStart(port, length), length))
    if (cell !== undefined) return cell
  }
  return cells.get(cellKey(ANY_PROTOCOL, 0, 0))
}

/** First port of the block of a length that a port lies in. */
export function blockStart(port: number, portPrefixLength: number): number {
  return port & (PORT_LAST << (PORT_BITS - portPrefixLength)) & PORT_LAST
}

/** Minimal prefixes of a range of ports. */
export function portPrefixes(first: number, last: number): { port: number; portPrefixLength: number }[] {
  const prefixes: { port: number; portPrefixLength: number }[] = []
  let port = first
  while (port <= last) {
    let size = port === 0 ? PORT_LAST + 1 : port & -port
    while (port + size - 1 > last) size >>>= 1
    prefixes.push({ port, portPrefixLength: PORT_BITS - Math.log2(size) })
    port += size
  }
  return prefixes
}

function coverOf(around: Cover, own: readonly Piece[]): Cover {
  if (own.length === 0) return around
  const byVerdict = (verdict: CompiledRule['verdict'], isL7: boolean) =>
    own.filter(({ rule, l7 }) => rule.verdict === verdict && (l7 !== undefined) === isL7)
  const namesOf = (pieces: readonly Piece[]) => pieces.map(({ rule }) => rule.name)
  const shapesOf = (pieces: readonly Piece[]) => pieces.flatMap(({ l7 }) => l7?.shape ?? [])
  const rulesOf = (pieces: readonly Piece[]) => pieces.flatMap(({ l7 }) => l7?.rules ?? [])
  const plain = byVerdict('allow', false)
  const allowing = byVerdict('allow', true)
  const denying = byVerdict('deny', true)
  const itself = (name: string) => name
  const keyOfShape = ({ key }: L7Shape) => key
  const nameOfRule = ({ name }: NamedRule) => name
  return {
    denies: withAdded(around.denies, namesOf(byVerdict('deny', false)), itself),
    allows: withAdded(around.allows, [...namesOf(plain), ...namesOf(allowing)], itself),
    l7Denies: withAdded(around.l7Denies, namesOf(denying), itself),
    shapes: withAdded(around.shapes, shapesOf(allowing), keyOfShape),
    denyShapes: withAdded(around.denyShapes, shapesOf(denying), keyOfShape),
    observed: withAdded(around.observed, shapesOf(byVerdict('observe', true)), keyOfShape),
    allow: withAdded(around.allow, rulesOf(allowing), nameOfRule),
    deny: withAdded(around.deny, rulesOf(denying), nameOfRule),
    hasPlain: around.hasPlain || plain.length > 0,
  }
}

/** A sorted list with more in it, by their keys; the list itself where all are in it. */
function withAdded<T>(sorted: readonly T[], added: readonly T[], keyOf: (item: T) => string): readonly T[] {
  let result: T[] | undefined
  for (const item of added) {
    const list: readonly T[] = result ?? sorted
    const key = keyOf(item)
    let low = 0
    let high = list.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (keyOf(list[middle]!) < key) low = middle + 1
      else high = middle
    }
    if (low < list.length && keyOf(list[low]!) === key) continue
    result ??= [...sorted]
    result.splice(low, 0, item)
  }
  return result ?? sorted
}

/**
 * Deny over L7 over plain allow; the L7 rules of all that match add up, and a plain allow among them allows every request. A deny with L7
 * rules takes its requests out of what is allowed; where nothing is, there is nothing to take out. What only observes adds nothing where
 * L7 rules are.
 */
function outcomeOf(cover: Cover): Outcome {
  const { denies, allows, l7Denies, shapes, observed, hasPlain } = cover
  if (denies.length > 0) return { verdict: 'deny', explicitDeny: true, audit: false, ruleset: undefined, origins: denies }
  if (!hasPlain && shapes.length === 0) return { verdict: 'deny', explicitDeny: false, audit: false, ruleset: undefined, origins: [] }
  if (shapes.length === 0 && l7Denies.length === 0) {
    if (observed.length === 0) return { verdict: 'allow', explicitDeny: false, audit: false, ruleset: undefined, origins: allows }
    const ruleset = mergeRulesets({ ...cover, shapes: observed })
    return { verdict: 'redirect', explicitDeny: false, audit: false, ruleset, origins: allows }
  }
  const origins = withAdded(allows, l7Denies, (name) => name)
  return { verdict: 'redirect', explicitDeny: false, audit: false, ruleset: mergeRulesets(cover), origins }
}

/**
 * What is enforced, with what the policies in audit would make of it on top. They never change what passes: they only have it reported
 * (allow), or have the requests that pass judged again (redirect).
 */
function withAudit(enforced: Outcome, audited: Outcome): Outcome {
  if (enforced.verdict === 'deny' || sameVerdict(enforced, audited)) return enforced
  const origins = withAdded(enforced.origins, audited.origins, (name) => name)
  const wouldDeny = audited.verdict === 'deny' || audited.ruleset?.kind === 'conflict'
  if (enforced.verdict === 'redirect') {
    const shadow = wouldDeny ? 'deny-all' : audited.ruleset
    return { ...enforced, origins, ruleset: { ...enforced.ruleset!, ...(shadow && { shadow }) } }
  }
  if (wouldDeny || audited.ruleset === undefined) return { ...enforced, audit: true, origins }
  const { kind, parser } = audited.ruleset
  const passing = { kind, parser, allowAll: true, allow: [], deny: [], serverNames: [], conflict: '' }
  return { ...audited, origins, ruleset: { ...passing, shadow: audited.ruleset } }
}

function sameVerdict(a: Outcome, b: Outcome): boolean {
  return a.verdict === b.verdict && a.audit === b.audit && sameRuleset(a.ruleset, b.ruleset)
}

/** Origins name the rules, and with them what they allow. */
function sameOutcome(a: Outcome, b: Outcome): boolean {
  return sameVerdict(a, b) && a.explicitDeny === b.explicitDeny && sameNames(a.origins, b.origins)
}

function sameRuleset(a: ResolvedRuleset | undefined, b: ResolvedRuleset | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  if (a.kind !== b.kind || a.parser !== b.parser || a.allowAll !== b.allowAll || a.conflict !== b.conflict) return false
  if (!sameNames(a.serverNames, b.serverNames) || !sameRules(a.allow, b.allow) || !sameRules(a.deny, b.deny)) return false
  if (contextsOf(a) !== contextsOf(b)) return false
  if (typeof a.shadow === 'object' && typeof b.shadow === 'object') return sameRuleset(a.shadow, b.shadow)
  return a.shadow === b.shadow
}

function contextsOf({ terminatingTls, originatingTls, listener }: ResolvedRuleset): string {
  return terminatingTls || originatingTls || listener ? JSON.stringify([terminatingTls, originatingTls, listener]) : ''
}

function sameRules(a: readonly NamedRule[], b: readonly NamedRule[]): boolean {
  return a === b || (a.length === b.length && a.every(({ name }, index) => name === b[index]?.name))
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((name, index) => name === b[index]))
}

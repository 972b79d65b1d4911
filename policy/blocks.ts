/**
 * From the rules that hold for one peer to rows. Rules name blocks of (protocol, port prefix), which either lie inside one another or
 * are apart; each block that a rule names gets the verdict of every rule whose block covers it, so a longest match never hides a
 * rule. A block that says what the block around it says already is left out: policy maps are small and repeated for every peer.
 */
import { ANY_PROTOCOL, type NamedHttpRule, type ResolvedRuleset, type RowVerdict } from './resolved.ts'

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
  readonly verdict: 'allow' | 'deny'
  readonly traffic: readonly (TrafficBlock & { readonly http: readonly NamedHttpRule[] | undefined })[]
  /** Holds for every peer, known or not. */
  readonly isForAnyPeer: boolean
}

/** A row without its peer. */
export interface Block extends TrafficBlock {
  readonly verdict: RowVerdict
  readonly explicitDeny: boolean
  readonly ruleset: ResolvedRuleset | undefined
  readonly origins: readonly string[]
}

interface Piece {
  readonly rule: CompiledRule
  readonly http: readonly NamedHttpRule[] | undefined
}

/**
 * What rules that cover the same block say together. Names are sorted and each there once; a list is that of the cell around where
 * nothing comes to it, so that thousands of blocks inside one that thousands of rules name stay cheap.
 */
interface Cover {
  readonly denies: readonly string[]
  readonly allows: readonly string[]
  readonly http: readonly NamedHttpRule[]
  /** A rule with L7 conditions is among them, though it may have no HTTP rule. */
  readonly hasL7: boolean
  /** A rule without is. */
  readonly hasPlain: boolean
}

const NO_COVER: Cover = { denies: [], allows: [], http: [], hasL7: false, hasPlain: false }

interface Cell {
  readonly block: TrafficBlock
  readonly own: Piece[]
  /** Of own pieces and those of every cell around this one. */
  cover: Cover
  outcome: Outcome | undefined
  /** Whether the peer's own rows decide here, not those for any peer. */
  isPresent: boolean
}

type Outcome = Pick<Block, 'verdict' | 'explicitDeny' | 'ruleset' | 'origins'>

/**
 * @param onlyWithSpecific leave out what the rows for any peer decide: where no rule covers a block that is about this peer alone,
 * the peer has no row around the block either, and the reader falls back to those rows.
 */
export function compileBlocks(rules: readonly CompiledRule[], onlyWithSpecific: boolean): Block[] {
  const cells = new Map<number, Cell>()
  for (const rule of rules) {
    for (const { protocol, port, portPrefixLength, http } of rule.traffic) {
      const key = cellKey(protocol, port, portPrefixLength)
      let cell = cells.get(key)
      if (cell === undefined) {
        cell = { block: { protocol, port, portPrefixLength }, own: [], cover: NO_COVER, outcome: undefined, isPresent: false }
        cells.set(key, cell)
      }
      cell.own.push({ rule, http })
    }
  }
  const blocks: Block[] = []
  // Keys sort wide before narrow, so a cell finds the one around it finished.
  for (const [, cell] of [...cells].sort(([a], [b]) => a - b)) {
    const around = cellAround(cells, cell.block)
    cell.cover = coverOf(around?.cover ?? NO_COVER, cell.own)
    cell.isPresent = !onlyWithSpecific || around?.isPresent === true || cell.own.some(({ rule }) => !rule.isForAnyPeer)
    if (!cell.isPresent) continue
    cell.outcome = outcomeOf(cell.cover)
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
  const denies = own.filter(({ rule }) => rule.verdict === 'deny').map(({ rule }) => rule.name)
  const allowing = own.filter(({ rule }) => rule.verdict === 'allow')
  const names = allowing.map(({ rule }) => rule.name)
  const http = allowing.flatMap((piece) => piece.http ?? [])
  return {
    denies: withAdded(around.denies, denies, (name) => name),
    allows: withAdded(around.allows, names, (name) => name),
    http: withAdded(around.http, http, ({ name }) => name),
    hasL7: around.hasL7 || allowing.some((piece) => piece.http !== undefined),
    hasPlain: around.hasPlain || allowing.some((piece) => piece.http === undefined),
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

/** Deny over L7 over plain allow; the L7 rules of all that match add up, and a plain allow among them allows every request. */
function outcomeOf({ denies, allows, http, hasL7, hasPlain }: Cover): Outcome {
  if (denies.length > 0) return { verdict: 'deny', explicitDeny: true, ruleset: undefined, origins: denies }
  if (!hasL7) return { verdict: 'allow', explicitDeny: false, ruleset: undefined, origins: allows }
  return { verdict: 'redirect', explicitDeny: false, ruleset: { allowAll: hasPlain, http }, origins: allows }
}

/** Origins name the rules, and with them what they allow. */
function sameOutcome(a: Outcome, b: Outcome): boolean {
  return a.verdict === b.verdict && sameNames(a.origins, b.origins) && sameRuleset(a.ruleset, b.ruleset)
}

function sameRuleset(a: ResolvedRuleset | undefined, b: ResolvedRuleset | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  if (a.allowAll !== b.allowAll || a.http.length !== b.http.length) return false
  return a.http === b.http || a.http.every(({ name }, index) => name === b.http[index]?.name)
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((name, index) => name === b[index]))
}

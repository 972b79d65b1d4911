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

interface Cell {
  readonly block: TrafficBlock
  readonly own: Piece[]
  /** Own pieces and those of every cell around this one. */
  covering: readonly Piece[]
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
        cell = { block: { protocol, port, portPrefixLength }, own: [], covering: [], outcome: undefined, isPresent: false }
        cells.set(key, cell)
      }
      cell.own.push({ rule, http })
    }
  }
  const blocks: Block[] = []
  // Keys sort wide before narrow, so a cell finds the one around it finished.
  for (const [, cell] of [...cells].sort(([a], [b]) => a - b)) {
    const around = cellAround(cells, cell.block)
    cell.covering = around === undefined ? cell.own : [...around.covering, ...cell.own]
    cell.isPresent = !onlyWithSpecific || around?.isPresent === true || cell.own.some(({ rule }) => !rule.isForAnyPeer)
    if (!cell.isPresent) continue
    cell.outcome = outcomeOf(cell.covering)
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

/** Deny over L7 over plain allow; the L7 rules of all that match add up, and a plain allow among them allows every request. */
function outcomeOf(covering: readonly Piece[]): Outcome {
  const denies = covering.filter(({ rule }) => rule.verdict === 'deny')
  if (denies.length > 0) return { verdict: 'deny', explicitDeny: true, ruleset: undefined, origins: namesOf(denies) }
  const origins = namesOf(covering)
  if (covering.every(({ http }) => http === undefined)) return { verdict: 'allow', explicitDeny: false, ruleset: undefined, origins }
  const http = new Map(covering.flatMap((piece) => (piece.http ?? []).map((rule) => [rule.name, rule] as const)))
  const ruleset = {
    allowAll: covering.some((piece) => piece.http === undefined),
    http: [...http.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
  }
  return { verdict: 'redirect', explicitDeny: false, ruleset, origins }
}

function namesOf(pieces: readonly Piece[]): string[] {
  return [...new Set(pieces.map(({ rule }) => rule.name))].sort()
}

/** Origins name the rules, and with them what they allow. */
function sameOutcome(a: Outcome, b: Outcome): boolean {
  return a.verdict === b.verdict && sameNames(a.origins, b.origins) && sameRuleset(a.ruleset, b.ruleset)
}

function sameRuleset(a: ResolvedRuleset | undefined, b: ResolvedRuleset | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.allowAll === b.allowAll && a.http.length === b.http.length && a.http.every(({ name }, index) => name === b.http[index]?.name)
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, index) => name === b[index])
}

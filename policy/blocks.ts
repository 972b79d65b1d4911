/**
 * From the rules that hold for one peer to rows: the port space of each protocol is cut where any rule begins or ends, each piece gets
 * the verdict of everything that covers it, and pieces become prefixes. So every row is complete, and a longest match never hides a rule.
 */
import { ANY_PROTOCOL, type NamedHttpRule, type ResolvedRuleset, type RowVerdict } from './resolved.ts'

export const PROTOCOL_NUMBERS = { TCP: 6, UDP: 17, SCTP: 132 } as const
const ALL_PORTS_LAST = 65535

/** Traffic of one rule toward one peer. */
export interface CompiledTraffic {
  /** IP protocol; ANY_PROTOCOL for a rule about peers only. */
  readonly protocol: number
  readonly first: number
  readonly last: number
}

/** A rule as far as verdicts need it. */
export interface CompiledRule {
  readonly name: string
  readonly verdict: 'allow' | 'deny'
  readonly traffic: readonly (CompiledTraffic & { readonly http: readonly NamedHttpRule[] | undefined })[]
  /** Holds for every peer, known or not. */
  readonly isForAnyPeer: boolean
}

/** A row without its peer. */
export interface Block {
  readonly protocol: number
  readonly port: number
  readonly portPrefixLength: number
  readonly verdict: RowVerdict
  readonly explicitDeny: boolean
  readonly ruleset: ResolvedRuleset | undefined
  readonly origins: readonly string[]
}

interface Piece {
  readonly rule: CompiledRule
  readonly http: readonly NamedHttpRule[] | undefined
}

/** @param onlyWithSpecific leave out what the rows for any peer say already */
export function compileBlocks(rules: readonly CompiledRule[], onlyWithSpecific: boolean): Block[] {
  const blocks: Block[] = []
  const everything: Piece[] = []
  const byProtocol = new Map<number, (CompiledTraffic & Piece)[]>()
  for (const rule of rules) {
    for (const { protocol, first, last, http } of rule.traffic) {
      if (protocol === ANY_PROTOCOL) {
        everything.push({ rule, http })
        continue
      }
      const list = byProtocol.get(protocol)
      const piece = { protocol, first, last, rule, http }
      if (list === undefined) byProtocol.set(protocol, [piece])
      else list.push(piece)
    }
  }
  // A peer's own row for everything would hide the rows for any peer: then all of them are needed here too.
  const skipShared = onlyWithSpecific && !everything.some(({ rule }) => !rule.isForAnyPeer)
  const isNeeded = (covering: readonly Piece[]): boolean =>
    covering.length > 0 && (!skipShared || covering.some(({ rule }) => !rule.isForAnyPeer))

  if (isNeeded(everything)) blocks.push({ protocol: ANY_PROTOCOL, port: 0, portPrefixLength: 0, ...verdictOf(everything) })
  for (const [protocol, pieces] of byProtocol) {
    for (const { first, last, covering } of segmentsOf(pieces)) {
      const all = [...everything, ...covering]
      if (covering.length === 0 || !isNeeded(all)) continue
      const verdict = verdictOf(all)
      for (const prefix of portPrefixes(first, last)) blocks.push({ protocol, ...prefix, ...verdict })
    }
  }
  return blocks
}

/** Cuts the port space at every border; neighbours with the same rules are one segment. */
function segmentsOf(pieces: readonly (CompiledTraffic & Piece)[]): { first: number; last: number; covering: readonly Piece[] }[] {
  const borders = new Set<number>([0])
  for (const { first, last } of pieces) {
    borders.add(first)
    if (last < ALL_PORTS_LAST) borders.add(last + 1)
  }
  const starts = [...borders].sort((a, b) => a - b)
  const segments: { first: number; last: number; covering: readonly Piece[] }[] = []
  for (const [index, first] of starts.entries()) {
    const last = (starts[index + 1] ?? ALL_PORTS_LAST + 1) - 1
    const covering = pieces.filter((piece) => piece.first <= first && piece.last >= last)
    const previous = segments.at(-1)
    const same =
      previous !== undefined &&
      previous.covering.length === covering.length &&
      previous.covering.every((piece, at) => piece === covering[at])
    if (same) previous.last = last
    else segments.push({ first, last, covering })
  }
  return segments
}

/** Minimal prefixes of a range of ports. */
export function portPrefixes(first: number, last: number): { port: number; portPrefixLength: number }[] {
  const prefixes: { port: number; portPrefixLength: number }[] = []
  let port = first
  while (port <= last) {
    let size = port === 0 ? ALL_PORTS_LAST + 1 : port & -port
    while (port + size - 1 > last) size >>>= 1
    prefixes.push({ port, portPrefixLength: 16 - Math.log2(size) })
    port += size
  }
  return prefixes
}

/** Deny over L7 over plain allow; the L7 rules of all that match add up, and a plain allow among them allows every request. */
function verdictOf(covering: readonly Piece[]): Pick<Block, 'verdict' | 'explicitDeny' | 'ruleset' | 'origins'> {
  const denies = covering.filter(({ rule }) => rule.verdict === 'deny')
  if (denies.length > 0) return { verdict: 'deny', explicitDeny: true, ruleset: undefined, origins: namesOf(denies) }
  const http = new Map<string, NamedHttpRule>()
  let hasL7 = false
  let allowAll = false
  for (const piece of covering) {
    if (piece.http === undefined) allowAll = true
    else hasL7 = true
    for (const rule of piece.http ?? []) http.set(rule.name, rule)
  }
  if (!hasL7) return { verdict: 'allow', explicitDeny: false, ruleset: undefined, origins: namesOf(covering) }
  const ruleset = { allowAll, http: [...http.values()].sort((a, b) => (a.name < b.name ? -1 : 1)) }
  return { verdict: 'redirect', explicitDeny: false, ruleset, origins: namesOf(covering) }
}

function namesOf(pieces: readonly Piece[]): string[] {
  return [...new Set(pieces.map(({ rule }) => rule.name))].sort()
}

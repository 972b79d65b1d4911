/**
 * What the policy of one endpoint says about one peer over all traffic: outcomes along the ports of each protocol. Peers about whom a
 * group's rows say the same share a profile, and equal profiles have equal numbers, so most pairs are compared by two numbers.
 */
import { ANY_IDENTITY, ANY_PROTOCOL, type Direction, type PolicyRow, type ResolvedGroup } from '../resolved.ts'
import type { Party, Scene } from '../trace/scene.ts'
import { findRow } from '../trace/trace.ts'
import type { Outcome, Outcomes } from './outcomes.ts'

/** One outcome for a range of ports; of ICMP, types stand in the upper byte. */
export interface Segment {
  readonly first: number
  readonly outcome: Outcome
}

export interface Profile {
  /** Equal numbers say the same. */
  readonly number: number
  /** By protocol, ascending, each from its first port to before the next one. */
  readonly segments: ReadonlyMap<number, readonly Segment[]>
}

/** Stands for all protocols that nobody names. */
export const OTHER_PROTOCOL = 255
const PORT_LAST = 65535
const ALWAYS_ASKED = [6, 17, 132, 1, 58, OTHER_PROTOCOL]

/** Numbers profiles of both sets of policies. */
export class ProfileNumbers {
  readonly outcomes: Outcomes
  readonly #byKey = new Map<string, Profile>()

  constructor(outcomes: Outcomes) {
    this.outcomes = outcomes
  }

  of(segments: ReadonlyMap<number, readonly Segment[]>): Profile {
    const key = [...segments]
      .map(([protocol, list]) => `${protocol}:${list.map(({ first, outcome }) => `${first}=${outcome.number}`)}`)
      .join(' ')
    let profile = this.#byKey.get(key)
    if (profile === undefined) {
      profile = { number: this.#byKey.size, segments }
      this.#byKey.set(key, profile)
    }
    return profile
  }
}

/** Every protocol that rows of these scenes' groups name, and those that are always asked about. */
export function protocolsOf(groups: Iterable<ResolvedGroup>): readonly number[] {
  const protocols = new Set(ALWAYS_ASKED)
  for (const { rows } of groups) for (const { protocol } of rows.values()) if (protocol !== ANY_PROTOCOL) protocols.add(protocol)
  return [...protocols].sort((a, b) => a - b)
}

type RowsByPeer = ReadonlyMap<number, readonly PolicyRow[]>

/** Profiles of one direction of a group. */
interface Known {
  readonly byPeer: Map<number, Profile>
  /** By the peer's own rows, as text. */
  readonly byRows: Map<string, Profile>
}

/** Profiles of one set of policies. */
export class Profiles {
  readonly #scene: Scene
  readonly #numbers: ProfileNumbers
  readonly #protocols: readonly number[]
  readonly #rows = new Map<ResolvedGroup, Readonly<Record<Direction, RowsByPeer>>>()
  readonly #known = new Map<ResolvedGroup, Readonly<Record<Direction, Known>>>()
  readonly #everything: Profile

  constructor(scene: Scene, numbers: ProfileNumbers, protocols: readonly number[]) {
    this.#scene = scene
    this.#numbers = numbers
    this.#protocols = protocols
    this.#everything = numbers.of(new Map(protocols.map((protocol) => [protocol, [{ first: 0, outcome: numbers.outcomes.allowed }]])))
  }

  /** What the subject's policy says of traffic with the peer; everything is allowed where none judges it. */
  of(direction: Direction, subject: Party, peer: Party): Profile {
    if (subject.subject === undefined) return this.#everything
    const isHost = peer.labels.has('reserved', 'host') && subject.subject.kind === 'endpoints'
    if (direction === 'ingress' && isHost && this.#scene.allowLocalhost) return this.#everything
    const group = this.#scene.groupOf(subject)
    if (!group.enforced[direction]) return this.#everything
    const rows = this.#rowsOf(group)[direction]
    // A peer without rows of its own is any peer.
    const identity = rows.has(peer.identity) ? peer.identity : ANY_IDENTITY
    const { byPeer, byRows } = this.#knownOf(group)[direction]
    let profile = byPeer.get(identity)
    if (profile !== undefined) return profile
    const own = identity === ANY_IDENTITY ? [] : (rows.get(identity) ?? [])
    const key = own.map(textOf).join()
    profile = byRows.get(key) ?? this.#compute(group, direction, identity, [...own, ...(rows.get(ANY_IDENTITY) ?? [])])
    byRows.set(key, profile)
    byPeer.set(identity, profile)
    return profile
  }

  #compute(group: ResolvedGroup, direction: Direction, identity: number, rows: readonly PolicyRow[]): Profile {
    const { outcomes } = this.#numbers
    const segments = new Map<number, readonly Segment[]>()
    for (const protocol of this.#protocols) {
      const list: Segment[] = []
      for (const first of cutsOf(rows, protocol)) {
        const row = findRow(group, direction, identity, protocol, first)
        const outcome = outcomes.ofRow(row, row?.classKey === undefined ? undefined : group.classes.get(row.classKey)?.ruleset)
        if (list.at(-1)?.outcome !== outcome) list.push({ first, outcome })
      }
      segments.set(protocol, list)
    }
    return this.#numbers.of(segments)
  }

  #rowsOf(group: ResolvedGroup): Readonly<Record<Direction, RowsByPeer>> {
    let sides = this.#rows.get(group)
    if (sides === undefined) {
      const filed = { ingress: new Map<number, PolicyRow[]>(), egress: new Map<number, PolicyRow[]>() }
      for (const row of group.rows.values()) {
        const others = filed[row.direction].get(row.identity)
        if (others === undefined) filed[row.direction].set(row.identity, [row])
        else others.push(row)
      }
      sides = filed
      this.#rows.set(group, sides)
    }
    return sides
  }

  #knownOf(group: ResolvedGroup): Readonly<Record<Direction, Known>> {
    let known = this.#known.get(group)
    if (known === undefined) {
      known = { ingress: { byPeer: new Map(), byRows: new Map() }, egress: { byPeer: new Map(), byRows: new Map() } }
      this.#known.set(group, known)
    }
    return known
  }
}

/** First ports of the stretches in which no row begins or ends. */
function cutsOf(rows: readonly PolicyRow[], protocol: number): number[] {
  const cuts = new Set([0])
  for (const row of rows) {
    if (row.protocol !== protocol) continue
    cuts.add(row.port)
    const next = row.port + (1 << (16 - row.portPrefixLength))
    if (next <= PORT_LAST) cuts.add(next)
  }
  return [...cuts].sort((a, b) => a - b)
}

function textOf({ protocol, port, portPrefixLength, verdict, audit, classKey = '' }: PolicyRow): string {
  return `${protocol}/${port}/${portPrefixLength}/${verdict}/${audit}/${classKey}`
}

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

/** What the policy of one party says in one direction. */
export interface Side {
  /** Of traffic with a peer. */
  of(peer: Party): Profile
}

/** Sides of one set of policies. */
export class Sides {
  readonly #scene: Scene
  readonly #numbers: ProfileNumbers
  readonly #protocols: readonly number[]
  readonly #known = new Map<string, Side>()
  readonly #everything: Profile
  /** Equal for all parties that nothing restricts. */
  readonly #open: Side

  constructor(scene: Scene, numbers: ProfileNumbers, protocols: readonly number[], open: Side) {
    this.#scene = scene
    this.#numbers = numbers
    this.#protocols = protocols
    this.#everything = everythingOf(numbers, protocols)
    this.#open = open
  }

  of(direction: Direction, party: Party): Side {
    if (party.subject === undefined) return this.#open
    const group = this.#scene.groupOf(party)
    if (!group.enforced[direction]) return this.#open
    const { kind } = party.subject
    const key = `${direction} ${kind} ${group.group}`
    let side = this.#known.get(key)
    if (side === undefined) {
      const hostPasses = this.#scene.allowLocalhost && direction === 'ingress' && kind === 'endpoints'
      side = new GroupSide(group, direction, this.#numbers, this.#protocols, hostPasses ? this.#everything : undefined)
      this.#known.set(key, side)
    }
    return side
  }
}

/** The side of whoever nothing restricts. */
export function openSide(numbers: ProfileNumbers, protocols: readonly number[]): Side {
  const everything = everythingOf(numbers, protocols)
  return { of: () => everything }
}

function everythingOf(numbers: ProfileNumbers, protocols: readonly number[]): Profile {
  const { allowed } = numbers.outcomes
  return numbers.of(new Map(protocols.map((protocol) => [protocol, [{ first: 0, outcome: allowed }]])))
}

class GroupSide implements Side {
  readonly #group: ResolvedGroup
  readonly #direction: Direction
  readonly #numbers: ProfileNumbers
  readonly #protocols: readonly number[]
  readonly #ofHost: Profile | undefined
  readonly #rows = new Map<number, PolicyRow[]>()
  readonly #byPeer = new Map<number, Profile>()
  /** By the peer's own rows, as text. */
  readonly #byRows = new Map<string, Profile>()

  /** @param ofHost what holds for this machine, whatever rows say */
  constructor(
    group: ResolvedGroup,
    direction: Direction,
    numbers: ProfileNumbers,
    protocols: readonly number[],
    ofHost: Profile | undefined,
  ) {
    this.#group = group
    this.#direction = direction
    this.#numbers = numbers
    this.#protocols = protocols
    this.#ofHost = ofHost
    for (const row of group.rows.values()) {
      if (row.direction !== direction) continue
      const others = this.#rows.get(row.identity)
      if (others === undefined) this.#rows.set(row.identity, [row])
      else others.push(row)
    }
  }

  of(peer: Party): Profile {
    if (this.#ofHost !== undefined && peer.labels.has('reserved', 'host')) return this.#ofHost
    // A peer without rows of its own is any peer.
    const identity = this.#rows.has(peer.identity) ? peer.identity : ANY_IDENTITY
    let profile = this.#byPeer.get(identity)
    if (profile !== undefined) return profile
    const own = identity === ANY_IDENTITY ? [] : (this.#rows.get(identity) ?? [])
    const key = own.map(textOf).join()
    profile = this.#byRows.get(key) ?? this.#compute(identity, [...own, ...(this.#rows.get(ANY_IDENTITY) ?? [])])
    this.#byRows.set(key, profile)
    this.#byPeer.set(identity, profile)
    return profile
  }

  #compute(identity: number, rows: readonly PolicyRow[]): Profile {
    const { outcomes } = this.#numbers
    const segments = new Map<number, readonly Segment[]>()
    for (const protocol of this.#protocols) {
      const list: Segment[] = []
      for (const first of cutsOf(rows, protocol)) {
        const row = findRow(this.#group, this.#direction, identity, protocol, first)
        const outcome = outcomes.ofRow(row, row?.classKey === undefined ? undefined : this.#group.classes.get(row.classKey)?.ruleset)
        if (list.at(-1)?.outcome !== outcome) list.push({ first, outcome })
      }
      segments.set(protocol, list)
    }
    return this.#numbers.of(segments)
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

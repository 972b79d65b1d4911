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

/** Profiles of one set of policies. */
export class Profiles {
  readonly #scene: Scene
  readonly #numbers: ProfileNumbers
  readonly #protocols: readonly number[]
  readonly #rows = new Map<ResolvedGroup, Readonly<Record<Direction, RowsByPeer>>>()
  readonly #known = new Map<ResolvedGroup, Readonly<Record<Direction, Map<string, Profile>>>>()
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
    const own = rows.get(peer.identity) ?? []
    const key = own.map(textOf).join()
    const known = this.#knownOf(group)[direction]
    let profile = known.get(key)
    if (profile === undefined) {
      profile = this.#compute(group, direction, peer.identity, [...own, ...(rows.get(ANY_IDENTITY) ?? [])])
      known.set(key, profile)
    }
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

  #knownOf(group: ResolvedGroup): Readonly<Record<Direction, Map<string, Profile>>> {
    let known = this.#known.get(group)
    if (known === undefined) {
      known = { ingress: new Map(), egress: new Map() }
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

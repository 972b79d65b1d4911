/**
 * Slots: which listener stands for which peer class. A slot outlives changes of the rules in it, so that connections stay where they
 * are: new classes of a group are matched to the group's old slots by how many rows they share. A port comes back with another
 * generation, and only after nothing points at it any more. Everything is on disk before it is used.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { z } from 'zod'
import {
  MARK_EGRESS_ACCEPTED,
  MARK_EGRESS_UPSTREAM,
  MARK_GENERATION_SHIFT,
  MARK_INGRESS_ACCEPTED,
  MARK_INGRESS_UPSTREAM,
  MARK_PORT_SHIFT,
} from '#bpf/gen/abi.ts'
import type { Direction, NamedRule, PeerClass, ResolvedGroup, ResolvedRuleset } from '#policy/resolved.ts'
import { AgentError } from '../errors.ts'
import { StateFile } from '../state-file.ts'

/** A listener of Envoy and the rules behind it. */
export interface Slot {
  readonly id: number
  readonly generation: number
  readonly direction: Direction
  readonly port: number
  /** Of the endpoints whose peers it serves. */
  readonly group: number
  classKey: string
  ruleset: ResolvedRuleset
}

/** Which slot each class of a group has, and what moved. */
export interface SlotAssignment {
  readonly byClass: ReadonlyMap<string, Slot>
  /** Slots that no class of the group has any more. */
  readonly orphans: readonly Slot[]
  /** Slots that are new, or whose rules changed. */
  readonly changed: readonly Slot[]
}

/** Of a slot whose rules are not known yet: it allows nothing. */
export const UNKNOWN_RULES: ResolvedRuleset = {
  kind: 'http',
  parser: '',
  allowAll: false,
  allow: [],
  deny: [],
  serverNames: [],
  conflict: '',
}

const GENERATION_MAX = 4095
const REVISION_BITS_OF_A_START = 32n

const fileSchema = z.strictObject({
  version: z.literal(1),
  /** Lineage of slots and revisions: a proxy that knows another one starts over. Decimal. */
  epoch: z.string(),
  slots: z.array(
    z.strictObject({
      id: z.int(),
      generation: z.int(),
      direction: z.enum(['ingress', 'egress']),
      group: z.int(),
      classKey: z.string(),
      members: z.array(z.string()),
    }),
  ),
  /** Last generation of ids that are free, oldest first. */
  free: z.array(z.strictObject({ id: z.int(), generation: z.int() })),
  nextId: z.int(),
  /** How often an agent has started with this state: revisions of different starts must not meet, whatever the clock says. */
  starts: z.int().min(0),
})

export class SlotAllocator {
  readonly epoch: bigint
  readonly #file: StateFile<z.infer<typeof fileSchema>>
  readonly #firstPort: number
  readonly #slotsMax: number
  readonly #slots = new Map<number, Slot>()
  readonly #byGroup = new Map<number, Set<Slot>>()
  /** By group: which slot each row leads to, for matching. */
  readonly #slotOfRow = new Map<number, Map<string, number>>()
  readonly #free: { id: number; generation: number }[] = []
  #nextId = 1
  #starts = 1
  /** What is on disk names the slots that there are. */
  #isSaved = false
  /** It also says what they are for now: after a restart that only helps to find them again. */
  #isFresh = false

  constructor(stateFolder: string, firstPort: number, slotsMax: number) {
    this.#file = new StateFile(join(stateFolder, 'agent/slots.json'), fileSchema)
    this.#firstPort = firstPort
    this.#slotsMax = slotsMax
    const state = this.#file.read()
    this.epoch = state === undefined ? randomBytes(8).readBigUInt64LE(0) >> 1n : BigInt(state.epoch)
    if (state === undefined) {
      this.save()
      return
    }
    this.#starts = state.starts + 1
    this.#nextId = state.nextId
    this.#free.push(...state.free)
    for (const { id, generation, direction, group, classKey, members } of state.slots) {
      this.#add({ id, generation, direction, group, classKey, port: this.#portOf(id), ruleset: UNKNOWN_RULES })
      for (const key of members) this.#rowsOf(group).set(key, id)
    }
    this.save()
  }

  /** Where the revisions of this start begin: above all of the starts before. */
  get firstRevision(): bigint {
    return BigInt(this.#starts) << REVISION_BITS_OF_A_START
  }

  get slots(): ReadonlyMap<number, Slot> {
    return this.#slots
  }

  /**
   * Gives every class of a group a slot: the one with the same class key, else the one that shares most rows, else a new one.
   * @param changedRows keys of rows that are not as they were the last time
   * @throws AgentError HG-2009 when no slot is left; nothing is changed then
   */
  assign(group: ResolvedGroup, changedRows: Iterable<string>): SlotAssignment {
    const own = this.ofGroup(group.group)
    const slotOfRow = this.#rowsOf(group.group)
    const matched = matchSlots(group, own, slotOfRow)
    const missing = [...group.classes.keys()].filter((key) => !matched.has(key))
    if (this.#slots.size + missing.length > this.#slotsMax) {
      throw new AgentError('HG-2009', `${missing.length} more slots are needed and datapath.slotsMax is ${this.#slotsMax}`)
    }
    const changed: Slot[] = []
    for (const key of missing) {
      const peerClass = group.classes.get(key)
      if (peerClass !== undefined) matched.set(key, this.#allocate(group.group, peerClass))
    }
    for (const [key, slot] of matched) {
      const peerClass = group.classes.get(key)
      if (peerClass === undefined) continue
      // The key is a digest of the rules: where it is the same, they are, once they are known.
      if (slot.classKey === key && slot.ruleset !== UNKNOWN_RULES) continue
      const isNew = missing.includes(key)
      if (isNew || !sameRuleset(slot.ruleset, peerClass.ruleset)) changed.push(slot)
      if (slot.classKey !== key) this.#isFresh = false
      slot.classKey = key
      slot.ruleset = peerClass.ruleset
    }
    for (const key of changedRows) {
      const classKey = group.rows.get(key)?.classKey
      const slot = classKey === undefined ? undefined : matched.get(classKey)
      if (slot === undefined) slotOfRow.delete(key)
      else slotOfRow.set(key, slot.id)
    }
    const kept = new Set([...matched.values()].map((slot) => slot.id))
    return { byClass: matched, orphans: own.filter((slot) => !kept.has(slot.id)), changed }
  }

  /** The slot whose listener has this port, if it is of this generation. */
  at(port: number, generation: number): Slot | undefined {
    const slot = this.#slots.get(port - this.#firstPort + 1)
    return slot?.generation === generation ? slot : undefined
  }

  ofGroup(group: number): Slot[] {
    return [...(this.#byGroup.get(group) ?? [])]
  }

  /** Gives a slot back, once no row and no listener has it. */
  release(slot: Slot): void {
    if (!this.#slots.delete(slot.id)) return
    const others = this.#byGroup.get(slot.group)
    others?.delete(slot)
    if (others?.size === 0) this.#byGroup.delete(slot.group)
    // One that is still on disk after a crash has no group then, and goes again.
    this.#isFresh = false
    const slotOfRow = this.#slotOfRow.get(slot.group)
    for (const [key, id] of slotOfRow ?? []) if (id === slot.id) slotOfRow?.delete(key)
    if (slotOfRow?.size === 0) this.#slotOfRow.delete(slot.group)
    this.#free.push({ id: slot.id, generation: slot.generation })
  }

  /** Writes the state where slots came; to be called before a new slot is told to anybody. */
  save(): void {
    if (!this.#isSaved) this.#write()
  }

  /** Writes also what the slots are for; to be called when nothing else is to be done. */
  refresh(): void {
    if (!this.#isSaved || !this.#isFresh) this.#write()
  }

  #write(): void {
    const members = new Map<number, string[]>()
    for (const slotOfRow of this.#slotOfRow.values()) {
      for (const [key, id] of slotOfRow) {
        const keys = members.get(id)
        if (keys === undefined) members.set(id, [key])
        else keys.push(key)
      }
    }
    this.#file.write({
      version: 1,
      epoch: this.epoch.toString(),
      starts: this.#starts,
      nextId: this.#nextId,
      free: this.#free,
      slots: [...this.#slots.values()].map(({ id, generation, direction, group, classKey }) => ({
        id,
        generation,
        direction,
        group,
        classKey,
        members: members.get(id) ?? [],
      })),
    })
    this.#isSaved = true
    this.#isFresh = true
  }

  #rowsOf(group: number): Map<string, number> {
    const rows = this.#slotOfRow.get(group) ?? new Map<string, number>()
    this.#slotOfRow.set(group, rows)
    return rows
  }

  #allocate(group: number, peerClass: PeerClass): Slot {
    // Fresh ids first: a port that was in use rests as long as it can.
    const reused = this.#nextId <= this.#slotsMax ? undefined : this.#free.shift()
    const id = reused?.id ?? this.#nextId++
    const generation = reused === undefined ? 1 : (reused.generation % GENERATION_MAX) + 1
    const slot = {
      id,
      generation,
      direction: peerClass.direction,
      port: this.#portOf(id),
      group,
      classKey: '',
      ruleset: UNKNOWN_RULES,
    }
    this.#add(slot)
    this.#isSaved = false
    return slot
  }

  #add(slot: Slot): void {
    this.#slots.set(slot.id, slot)
    const others = this.#byGroup.get(slot.group)
    if (others === undefined) this.#byGroup.set(slot.group, new Set([slot]))
    else others.add(slot)
  }

  #portOf(id: number): number {
    return this.#firstPort + id - 1
  }
}

/** SO_MARK of a slot's listener and of the connections that it accepts. */
export function slotMark(slot: Pick<Slot, 'direction' | 'generation' | 'port'>): number {
  const legClass = slot.direction === 'egress' ? MARK_EGRESS_ACCEPTED : MARK_INGRESS_ACCEPTED
  return (legClass | (slot.generation << MARK_GENERATION_SHIFT) | (slot.port << MARK_PORT_SHIFT)) >>> 0
}

/** SO_MARK of upstream sockets. */
export function upstreamMark(direction: Direction): number {
  return direction === 'egress' ? MARK_EGRESS_UPSTREAM : MARK_INGRESS_UPSTREAM
}

/**
 * Whether everything that `narrow` allows, `wide` allows too: by content of the rules, so names may differ. What is only reported does
 * not count.
 */
export function isSuperset(wide: ResolvedRuleset, narrow: ResolvedRuleset): boolean {
  const [outer, inner] = [contentOf(wide), contentOf(narrow)]
  if (outer.frame !== inner.frame || !includesAll(inner.deny, outer.deny)) return false
  if (wide.allowAll) return true
  return !narrow.allowAll && includesAll(outer.allow, inner.allow)
}

function includesAll(all: ReadonlySet<string>, some: ReadonlySet<string>): boolean {
  for (const each of some) if (!all.has(each)) return false
  return true
}

interface RulesetContent {
  /** What decides beside the rules. */
  readonly frame: string
  readonly allow: ReadonlySet<string>
  readonly deny: ReadonlySet<string>
}

/** Each slot is compared with many others. */
const contents = new WeakMap<ResolvedRuleset, RulesetContent>()

function contentOf(ruleset: ResolvedRuleset): RulesetContent {
  const known = contents.get(ruleset)
  if (known !== undefined) return known
  const { kind, parser, serverNames, terminatingTls, originatingTls, listener, conflict } = ruleset
  const textsOf = (rules: readonly NamedRule[]) => new Set(rules.map(({ rule }) => textOf(rule)))
  const content = {
    frame: textOf({ kind, parser, serverNames, terminatingTls, originatingTls, listener, conflict }),
    allow: textsOf(ruleset.allow),
    deny: textsOf(ruleset.deny),
  }
  contents.set(ruleset, content)
  return content
}

/** Equal for equal plain data, in whatever order its fields were set. */
function textOf(content: object): string {
  return JSON.stringify(content, (_key, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  )
}

/** Equal in names and in content: names are digests, and an edit must reach Envoy whatever they collide with. */
export function sameRuleset(a: ResolvedRuleset, b: ResolvedRuleset): boolean {
  return a === b || textOf(a) === textOf(b)
}

function matchSlots(group: ResolvedGroup, own: readonly Slot[], slotOfRow: ReadonlyMap<string, number>): Map<string, Slot> {
  const matched = new Map<string, Slot>()
  const taken = new Set<number>()
  for (const slot of own) {
    if (!group.classes.has(slot.classKey) || matched.has(slot.classKey)) continue
    matched.set(slot.classKey, slot)
    taken.add(slot.id)
  }
  const candidates: { key: string; slot: Slot; shared: number }[] = []
  for (const [key, peerClass] of group.classes) {
    if (matched.has(key)) continue
    const sharedBySlot = new Map<number, number>()
    for (const row of peerClass.rows) {
      const id = slotOfRow.get(row)
      if (id !== undefined) sharedBySlot.set(id, (sharedBySlot.get(id) ?? 0) + 1)
    }
    for (const slot of own) {
      const shared = sharedBySlot.get(slot.id) ?? 0
      if (shared > 0 && !taken.has(slot.id) && slot.direction === peerClass.direction) candidates.push({ key, slot, shared })
    }
  }
  candidates.sort((a, b) => b.shared - a.shared || a.slot.id - b.slot.id)
  for (const { key, slot } of candidates) {
    if (matched.has(key) || taken.has(slot.id)) continue
    matched.set(key, slot)
    taken.add(slot.id)
  }
  return matched
}

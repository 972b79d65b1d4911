/**
 * From resolved policy to the kernel: gives classes their slots, tells the proxy, writes the rows as soon as the slots allow, and has
 * the endpoints' connections judged again. Tightening is in the kernel when `apply` returns, but for what was allowed and now goes
 * through a proxy: that waits for the listener, 500 ms at most.
 */
import { createHash } from 'node:crypto'
import { type PolicyValue, policyKeyCodec, policyValueCodec } from '#bpf/gen/abi.ts'
import type { Kernel } from '#bpf/kernel.ts'
import { policyRowsMap } from '#bpf/maps.ts'
import type { Direction, PolicyDelta, ResolvedGroup, ResolvedRuleset } from '#policy/resolved.ts'
import { BPF_F_NO_PREALLOC, BPF_MAP_TYPE_LPM_TRIE, createMap, mapFdById } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import type { ControlServer } from '../control-server.ts'
import { AgentError } from '../errors.ts'
import type { EndpointRows } from './endpoint-rows.ts'
import { GroupRows, type SlotReadiness, type WantedRow } from './group-rows.ts'
import { isSuperset, type Slot, type SlotAllocator } from './slots.ts'

/** How long a row that allows may wait for the listener that it is to be sent to. */
export const LISTENER_WAIT_MS = 500

const COOKIES_MAX = 65536
const ENFORCED: Record<Direction, boolean> = { ingress: true, egress: true }

interface Group {
  readonly rows: GroupRows
  enforced: Record<Direction, boolean>
  pending: boolean
  /** Rows are not waiting for their listener any longer. */
  forced: boolean
  timer: NodeJS.Timeout | undefined
  /** Why its newest policy is not in force, or empty. */
  problem: string
}

/** A policy that could not be put in force. */
export interface SyncProblem {
  readonly identity: number
  readonly message: string
}

export class PolicySync {
  readonly #kernel: Kernel
  readonly #slots: SlotAllocator
  readonly #control: ControlServer
  readonly #endpoints: EndpointRows
  readonly #rowsMax: number
  readonly #groups = new Map<number, Group>()
  readonly #origins = new Map<number, readonly string[]>()
  /** Slots that no class has any more, until no row points at them. */
  readonly #retiring = new Set<Slot>()
  readonly #onWritten: (identities: readonly number[]) => void
  readonly #waiters: (() => void)[] = []

  /** @param onWritten rows of these identities changed in the kernel: open connections may have lost their ground */
  constructor(
    kernel: Kernel,
    slots: SlotAllocator,
    control: ControlServer,
    endpoints: EndpointRows,
    rowsMax: number,
    onWritten: (identities: readonly number[]) => void,
  ) {
    this.#kernel = kernel
    this.#slots = slots
    this.#control = control
    this.#endpoints = endpoints
    this.#rowsMax = rowsMax
    this.#onWritten = onWritten
  }

  /** Rule names behind a row's cookie. */
  originsOf(cookie: number): readonly string[] {
    return this.#origins.get(cookie) ?? []
  }

  /** What the kernel would answer for a packet of an identity's endpoint; undefined for an identity without endpoints. */
  lookup(identity: number, direction: Direction, peer: number, protocol: number, port: number): PolicyValue | undefined {
    return this.#groups.get(identity)?.rows.lookup(direction, peer, protocol, port)
  }

  /** Whether a connection of one slot may stay where its row says another. */
  mayStay(from: { port: number; generation: number }, to: { port: number; generation: number }): boolean {
    if (from.port === to.port && from.generation === to.generation) return true
    const pair = { fromPort: from.port, fromGeneration: from.generation, toPort: to.port, toGeneration: to.generation }
    return this.#kernel.maps.slotPairs.get(pair) !== undefined
  }

  enforcedOf(identity: number): Readonly<Record<Direction, boolean>> {
    return this.#groups.get(identity)?.enforced ?? ENFORCED
  }

  get problems(): SyncProblem[] {
    return [...this.#groups].flatMap(([identity, { problem }]) => (problem === '' ? [] : [{ identity, message: problem }]))
  }

  /** How many rows each group has in the kernel. */
  get rowCounts(): number[] {
    return [...this.#groups.values()].map(({ rows }) => rows.size)
  }

  get isPending(): boolean {
    return this.#retiring.size > 0 || [...this.#groups.values()].some(({ pending }) => pending)
  }

  /** Resolves when nothing waits any more. */
  settled(): Promise<void> {
    if (!this.isPending) return Promise.resolve()
    return new Promise((resolve) => this.#waiters.push(resolve))
  }

  apply(delta: PolicyDelta): void {
    const changedSlots = new Map<number, Slot>()
    const stepped: number[] = []
    for (const resolved of delta.changed) {
      try {
        for (const slot of this.#plan(resolved)) changedSlots.set(slot.id, slot)
        stepped.push(resolved.identity)
      } catch (error) {
        if (!(error instanceof AgentError)) throw error
        // What was in force stays; a group that never had a policy denies everything.
        this.#group(resolved.identity).problem = error.message
      }
    }
    if (delta.changed.length > 0) this.#slots.save()
    this.#dropStalePairs([...changedSlots.values()])
    this.#control.update([...changedSlots.values()], [])
    for (const identity of stepped) this.#step(identity)
    for (const identity of delta.removed) this.#remove(identity)
    this.#retire()
    this.#onWritten([...stepped, ...delta.removed])
  }

  /** To be called when the proxy has reported. */
  onProxyReport(): void {
    const stepped: number[] = []
    for (const [identity, group] of this.#groups) {
      if (group.pending && this.#step(identity)) stepped.push(identity)
    }
    this.#retire()
    if (stepped.length > 0) this.#onWritten(stepped)
  }

  /** Groups in the kernel that nobody claims, after a start. */
  reconcile(): void {
    for (const identity of this.#kernel.maps.policyGroups.keys()) {
      if (!this.#groups.has(identity)) this.#kernel.maps.policyGroups.delete(identity)
    }
    // Slots of groups that are no more: their rows went above.
    for (const slot of this.#slots.slots.values()) if (!this.#groups.has(slot.group)) this.#retiring.add(slot)
    this.#retire()
  }

  stop(): void {
    for (const group of this.#groups.values()) {
      clearTimeout(group.timer)
      close(group.rows.map.fd)
    }
  }

  /** Assigns slots and sets what is wanted. @returns slots to tell the proxy @throws AgentError when it cannot be done */
  #plan(resolved: ResolvedGroup): readonly Slot[] {
    if (resolved.rows.size > this.#rowsMax) {
      throw new AgentError('HG-2008', `${resolved.rows.size} rows are needed and policy.mapEntriesMax is ${this.#rowsMax}`)
    }
    const before = new Map<string, { slot: Slot; ruleset: ResolvedRuleset }>()
    for (const slot of this.#slots.slots.values()) {
      if (slot.group === resolved.identity) before.set(`${slot.port}/${slot.generation}`, { slot, ruleset: slot.ruleset })
    }
    const { byClass, orphans, changed } = this.#slots.assign(resolved)
    const group = this.#group(resolved.identity)
    const wanted = new Map<string, WantedRow>()
    for (const [key, row] of resolved.rows) {
      const slot = row.classKey === undefined ? undefined : byClass.get(row.classKey)
      wanted.set(key, { row, cookie: this.#cookieOf(row.origins), slot })
    }
    this.#pairSlots(group, before, [...byClass.values()])
    group.rows.setWanted(wanted)
    group.enforced = { ...resolved.enforced }
    group.problem = ''
    group.forced = false
    clearTimeout(group.timer)
    group.timer = undefined
    for (const slot of orphans) this.#retiring.add(slot)
    return changed
  }

  /** Connections of a slot may stay when their row moves to one that allows at least as much. */
  #pairSlots(group: Group, before: ReadonlyMap<string, { slot: Slot; ruleset: ResolvedRuleset }>, after: readonly Slot[]): void {
    for (const { port, generation } of group.rows.pointedAt()) {
      const old = before.get(`${port}/${generation}`)
      if (old === undefined) continue
      for (const slot of after) {
        if (slot === old.slot || slot.direction !== old.slot.direction || !isSuperset(slot.ruleset, old.ruleset)) continue
        this.#kernel.maps.slotPairs.set(
          { fromPort: old.slot.port, fromGeneration: old.slot.generation, toPort: slot.port, toGeneration: slot.generation },
          1,
        )
      }
    }
  }

  /** A slot whose rules changed may not allow any more what made it a refuge for another's connections. */
  #dropStalePairs(changed: readonly Slot[]): void {
    if (changed.length === 0) return
    const { slotPairs } = this.#kernel.maps
    const bySocket = new Map([...this.#slots.slots.values()].map((slot) => [`${slot.port}/${slot.generation}`, slot]))
    const names = new Set(changed.map(({ port, generation }) => `${port}/${generation}`))
    for (const pair of slotPairs.keys()) {
      const fromName = `${pair.fromPort}/${pair.fromGeneration}`
      const toName = `${pair.toPort}/${pair.toGeneration}`
      if (!names.has(fromName) && !names.has(toName)) continue
      const from = bySocket.get(fromName)
      const to = bySocket.get(toName)
      if (from === undefined || to === undefined || !isSuperset(to.ruleset, from.ruleset)) slotPairs.delete(pair)
    }
  }

  /** @returns whether the kernel changed */
  #step(identity: number): boolean {
    const group = this.#group(identity)
    const wasPending = group.pending
    const { pending, changed } = group.rows.step((port, generation) => this.#readiness(port, generation), group.forced)
    group.pending = pending
    group.rows.setEnforced(group.enforced)
    this.#endpoints.bump(identity, group.enforced)
    if (pending && !group.forced && group.timer === undefined) {
      group.timer = setTimeout(() => {
        group.timer = undefined
        group.forced = true
        if (this.#step(identity)) this.#onWritten([identity])
      }, LISTENER_WAIT_MS)
    }
    if (!pending) {
      clearTimeout(group.timer)
      group.timer = undefined
      if (wasPending) this.#notify()
    }
    return changed
  }

  #remove(identity: number): void {
    const group = this.#groups.get(identity)
    if (group === undefined) return
    clearTimeout(group.timer)
    this.#groups.delete(identity)
    this.#kernel.maps.policyGroups.delete(identity)
    close(group.rows.map.fd)
    for (const slot of this.#slots.orphansOf(identity)) this.#retiring.add(slot)
    this.#notify()
  }

  /** Takes slots down that no row points at any more: rows first, then the listener. */
  #retire(): void {
    if (this.#retiring.size === 0) return
    const pointedAt = new Set<string>()
    for (const group of this.#groups.values()) {
      for (const { port, generation } of group.rows.pointedAt()) pointedAt.add(`${port}/${generation}`)
    }
    const gone = [...this.#retiring].filter((slot) => !pointedAt.has(`${slot.port}/${slot.generation}`))
    if (gone.length === 0) return
    for (const slot of gone) {
      this.#retiring.delete(slot)
      this.#slots.release(slot)
    }
    this.#forgetPairs(gone)
    this.#slots.save()
    this.#control.update([], gone)
    this.#notify()
  }

  /** Connections of a slot end with it, and its number may come back with other rules. */
  #forgetPairs(gone: readonly Slot[]): void {
    const { slotPairs } = this.#kernel.maps
    const names = new Set(gone.map(({ port, generation }) => `${port}/${generation}`))
    for (const pair of slotPairs.keys()) {
      if (names.has(`${pair.fromPort}/${pair.fromGeneration}`) || names.has(`${pair.toPort}/${pair.toGeneration}`)) slotPairs.delete(pair)
    }
  }

  #readiness(port: number, generation: number): SlotReadiness {
    for (const slot of this.#slots.slots.values()) {
      if (slot.port !== port || slot.generation !== generation) continue
      if (this.#control.isApplied(slot.id, generation)) return 'ready'
      return this.#control.isListening(slot.id, generation) ? 'listening' : 'absent'
    }
    return 'absent'
  }

  #group(identity: number): Group {
    const known = this.#groups.get(identity)
    if (known !== undefined) return known
    const { fd, isNew } = this.#openRows(identity)
    const group: Group = {
      // A group that the kernel does not have starts from deny; what an earlier agent left is in force as its endpoints' flags say.
      rows: new GroupRows(policyRowsMap(fd), isNew ? { ...ENFORCED } : this.#endpoints.enforcedInKernel(identity)),
      enforced: { ...ENFORCED },
      pending: false,
      forced: false,
      timer: undefined,
      problem: '',
    }
    this.#groups.set(identity, group)
    return group
  }

  #openRows(identity: number): { fd: number; isNew: boolean } {
    const id = this.#kernel.maps.policyGroups.get(identity)
    const existing = id === undefined ? undefined : mapFdById(id)
    if (existing !== undefined) return { fd: existing, isNew: false }
    // For the rows of a policy and those of the one that replaces it; what is not used takes no memory.
    const size = this.#rowsMax * 2
    const fd = createMap(BPF_MAP_TYPE_LPM_TRIE, 'policy_rows', policyKeyCodec.size, policyValueCodec.size, size, BPF_F_NO_PREALLOC)
    this.#kernel.maps.policyGroups.set(identity, fd)
    return { fd, isNew: true }
  }

  #cookieOf(origins: readonly string[]): number {
    if (origins.length === 0) return 0
    const text = origins.join('\n')
    let cookie = createHash('sha256').update(text).digest().readUInt32LE(0) || 1
    while (this.#origins.has(cookie) && this.#origins.get(cookie)?.join('\n') !== text) cookie = (cookie + 1) >>> 0 || 1
    // The newest stay longest: those in use are set again with every change of their group.
    this.#origins.delete(cookie)
    this.#origins.set(cookie, origins)
    if (this.#origins.size > COOKIES_MAX) {
      const oldest = this.#origins.keys().next().value
      if (oldest !== undefined) this.#origins.delete(oldest)
    }
    return cookie
  }

  #notify(): void {
    if (this.isPending) return
    for (const resolve of this.#waiters.splice(0)) resolve()
  }
}

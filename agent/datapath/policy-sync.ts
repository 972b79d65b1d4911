/**
 * From resolved policy to the kernel: gives classes their slots, tells the proxy, writes the rows as soon as the slots allow, and has
 * the endpoints' connections judged again. Tightening is in the kernel when `apply` returns, but for what was allowed and now goes
 * through a proxy: that waits for the listener, 500 ms at most.
 */
import { type PolicyValue, policyKeyCodec, policyValueCodec } from '#bpf/gen/abi.ts'
import type { Kernel } from '#bpf/kernel.ts'
import { policyRowsMap } from '#bpf/maps.ts'
import type { Direction, PolicyDelta, ResolvedGroup, ResolvedRuleset } from '#policy/resolved.ts'
import { BPF_F_NO_PREALLOC, BPF_MAP_TYPE_LPM_TRIE, createMap, mapFdById } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import type { ControlServer } from '../control-server.ts'
import { AgentError } from '../errors.ts'
import { Cookies } from './cookies.ts'
import type { EndpointRows, Enforcement } from './endpoint-rows.ts'
import { GroupRows, type LookedUpPeer, type SlotReadiness, slotText } from './group-rows.ts'
import { isSuperset, type Slot, type SlotAllocator, UNKNOWN_RULES } from './slots.ts'

/** How long a row that allows may wait for the listener that it is to be sent to. */
export const LISTENER_WAIT_MS = 500

const ENFORCED: Enforcement = { ingress: true, egress: true, onlyAudit: false }

interface Group {
  readonly rows: GroupRows
  /** As planned last. */
  resolved: ResolvedGroup
  enforcement: Enforcement
  /** What changed since it was planned last is not known: every row is looked at. */
  isUnplanned: boolean
  pending: boolean
  /** Rows are not waiting for their listener any longer. */
  forced: boolean
  timer: NodeJS.Timeout | undefined
  /** Why its newest policy is not in force, or empty. */
  problem: string
}

/** What the sync asks of the agent. */
export interface PolicySyncContext {
  /** Rows of these groups changed in the kernel: open connections may have lost their ground. */
  onWritten(groups: readonly number[]): void
  /** Whether all policies that restrict a group's endpoints are in audit. */
  isOnlyAudited(group: ResolvedGroup): boolean
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
  readonly #cookies = new Cookies()
  /** Slots that no class has any more, until no row points at them. */
  readonly #retiring = new Set<Slot>()
  readonly #context: PolicySyncContext
  readonly #waiters: (() => void)[] = []

  constructor(
    kernel: Kernel,
    slots: SlotAllocator,
    control: ControlServer,
    endpoints: EndpointRows,
    rowsMax: number,
    context: PolicySyncContext,
  ) {
    this.#kernel = kernel
    this.#slots = slots
    this.#control = control
    this.#endpoints = endpoints
    this.#rowsMax = rowsMax
    this.#context = context
  }

  /** Rule names behind a row's cookie. */
  originsOf(cookie: number): readonly string[] {
    return this.#cookies.originsOf(cookie)
  }

  /** What the kernel would answer for a packet of a group's endpoint; undefined for a group without endpoints. */
  lookup(group: number, direction: Direction, peer: LookedUpPeer, protocol: number, port: number): PolicyValue | undefined {
    return this.#groups.get(group)?.rows.lookup(direction, peer, protocol, port)
  }

  /** Whether a connection of one slot may stay where its row says another. */
  mayStay(from: { port: number; generation: number }, to: { port: number; generation: number }): boolean {
    if (from.port === to.port && from.generation === to.generation) return true
    const pair = { fromPort: from.port, fromGeneration: from.generation, toPort: to.port, toGeneration: to.generation }
    return this.#kernel.maps.slotPairs.get(pair) !== undefined
  }

  enforcementOf(group: number): Enforcement {
    return this.#groups.get(group)?.enforcement ?? ENFORCED
  }

  get problems(): SyncProblem[] {
    return [...this.#groups.values()].flatMap(({ resolved, problem }) =>
      problem === '' ? [] : [{ identity: resolved.identity, message: problem }],
    )
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

  /** @param delta a group that is both changed and removed came back: it is told whole */
  apply(delta: PolicyDelta): void {
    const changedSlots = new Map<number, Slot>()
    const stepped: number[] = []
    const changed = new Set(delta.changed.map(({ group }) => group))
    for (const number of delta.removed) {
      const group = changed.has(number) ? this.#groups.get(number) : undefined
      if (group !== undefined) group.isUnplanned = true
    }
    for (const resolved of delta.changed) {
      try {
        for (const slot of this.#plan(resolved)) changedSlots.set(slot.id, slot)
        stepped.push(resolved.group)
      } catch (error) {
        if (!(error instanceof AgentError)) throw error
        // What was in force stays; a group that never had a policy denies everything.
        const group = this.#group(resolved)
        group.problem = error.message
        group.isUnplanned = true
      }
    }
    if (delta.changed.length > 0) this.#slots.save()
    this.#dropStalePairs([...changedSlots.values()])
    this.#control.update([...changedSlots.values()], [])
    for (const group of stepped) this.#step(group)
    for (const group of delta.removed) if (!changed.has(group)) this.#remove(group)
    this.#retire()
    this.#context.onWritten([...stepped, ...delta.removed])
  }

  /** Which policies are in audit changed, though perhaps no row did. */
  recheckAudit(): void {
    for (const [number, group] of this.#groups) {
      const onlyAudit = this.#context.isOnlyAudited(group.resolved)
      if (group.isUnplanned || onlyAudit === group.enforcement.onlyAudit) continue
      group.enforcement = { ...group.enforcement, onlyAudit }
      this.#endpoints.bump(number, group.enforcement)
    }
  }

  /** To be called when whoever has the listeners has reported. */
  onListenersReport(): void {
    const stepped: number[] = []
    for (const [number, group] of this.#groups) {
      if (group.pending && this.#step(number)) stepped.push(number)
    }
    this.#retire()
    if (stepped.length > 0) this.#context.onWritten(stepped)
  }

  /** Groups in the kernel that nobody claims, after a start. */
  reconcile(): void {
    for (const group of this.#kernel.maps.policyGroups.keys()) {
      if (!this.#groups.has(group)) this.#kernel.maps.policyGroups.delete(group)
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
    const group = this.#group(resolved)
    const changedRows = group.isUnplanned ? new Set([...group.rows.wantedKeys(), ...resolved.rows.keys()]) : resolved.changedRows
    const before = new Map<string, { slot: Slot; ruleset: ResolvedRuleset }>()
    for (const slot of this.#slots.ofGroup(resolved.group)) before.set(slotText(slot), { slot, ruleset: slot.ruleset })
    const { byClass, orphans, changed } = this.#slots.assign(resolved, changedRows)
    const left = new Set<string>()
    const entered = new Set<Slot>()
    for (const key of changedRows) {
      const row = resolved.rows.get(key)
      const slot = row?.classKey === undefined ? undefined : byClass.get(row.classKey)
      const old = group.rows.wanted(key)
      if (slot !== undefined) entered.add(slot)
      for (const text of [group.rows.pointerOf(key), old?.slot && slotText(old.slot)]) if (text !== undefined) left.add(text)
      group.rows.want(key, row && { row, cookie: this.#cookies.use(row.origins), slot, allowsAll: slot?.ruleset.allowAll === true })
      if (old !== undefined) this.#cookies.release(old.cookie)
    }
    this.#pairSlots(group, before, [...byClass.values()], { left, entered })
    group.resolved = resolved
    group.enforcement = { ...resolved.enforced, onlyAudit: this.#context.isOnlyAudited(resolved) }
    group.isUnplanned = false
    group.problem = ''
    group.forced = false
    clearTimeout(group.timer)
    group.timer = undefined
    // One may have come back before it was gone.
    for (const slot of byClass.values()) this.#retiring.delete(slot)
    for (const slot of orphans) this.#retiring.add(slot)
    return changed
  }

  /**
   * Connections of a slot may stay when they move to one that allows at least as much. They move only where rows do: away from a slot
   * that a changed row pointed at, to whatever covers them now, or from whatever covered them to one that a changed row points at.
   */
  #pairSlots(
    group: Group,
    before: ReadonlyMap<string, { slot: Slot; ruleset: ResolvedRuleset }>,
    after: readonly Slot[],
    { left, entered }: { readonly left: ReadonlySet<string>; readonly entered: ReadonlySet<Slot> },
  ): void {
    for (const text of group.rows.pointedAt()) {
      const old = before.get(text)
      // What its rules were is not known after a start: then nothing allows as much.
      if (old === undefined || old.ruleset === UNKNOWN_RULES) continue
      for (const slot of left.has(text) ? after : entered) {
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
    const isChanged = new Set(changed)
    for (const pair of slotPairs.keys()) {
      const from = this.#slots.at(pair.fromPort, pair.fromGeneration)
      const to = this.#slots.at(pair.toPort, pair.toGeneration)
      if (from !== undefined && to !== undefined && !isChanged.has(from) && !isChanged.has(to)) continue
      if (from === undefined || to === undefined || !isSuperset(to.ruleset, from.ruleset)) slotPairs.delete(pair)
    }
  }

  /** @returns whether the kernel changed */
  #step(number: number): boolean {
    const group = this.#groups.get(number)
    if (group === undefined) return false
    const wasPending = group.pending
    const { pending, changed } = group.rows.step((port, generation) => this.#readiness(port, generation), group.forced)
    group.pending = pending
    group.rows.setEnforced(group.enforcement)
    this.#endpoints.bump(number, group.enforcement)
    if (pending && !group.forced && group.timer === undefined) {
      group.timer = setTimeout(() => {
        group.timer = undefined
        group.forced = true
        if (this.#step(number)) this.#context.onWritten([number])
      }, LISTENER_WAIT_MS)
    }
    if (!pending) {
      clearTimeout(group.timer)
      group.timer = undefined
      if (wasPending) this.#notify()
    }
    return changed
  }

  #remove(number: number): void {
    const group = this.#groups.get(number)
    if (group === undefined) return
    clearTimeout(group.timer)
    this.#groups.delete(number)
    this.#kernel.maps.policyGroups.delete(number)
    close(group.rows.map.fd)
    for (const key of group.rows.wantedKeys()) this.#cookies.release(group.rows.wanted(key)?.cookie ?? 0)
    for (const slot of this.#slots.ofGroup(number)) this.#retiring.add(slot)
    this.#notify()
  }

  /** Takes slots down that no row points at any more: rows first, then the listener. */
  #retire(): void {
    if (this.#retiring.size === 0) return
    const pointedAt = new Set<string>()
    for (const group of this.#groups.values()) for (const text of group.rows.pointedAt()) pointedAt.add(text)
    const gone = [...this.#retiring].filter((slot) => !pointedAt.has(slotText(slot)))
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
    const names = new Set(gone.map(slotText))
    for (const pair of slotPairs.keys()) {
      const from = slotText({ port: pair.fromPort, generation: pair.fromGeneration })
      const to = slotText({ port: pair.toPort, generation: pair.toGeneration })
      if (names.has(from) || names.has(to)) slotPairs.delete(pair)
    }
  }

  #readiness(port: number, generation: number): SlotReadiness {
    const slot = this.#slots.at(port, generation)
    if (slot === undefined) return 'absent'
    if (this.#control.isApplied(slot.id, generation)) return 'ready'
    return this.#control.isListening(slot.id, generation) ? 'listening' : 'absent'
  }

  #group(resolved: ResolvedGroup): Group {
    const { group: number } = resolved
    const known = this.#groups.get(number)
    if (known !== undefined) return known
    const { fd, isNew } = this.#openRows(number)
    const group: Group = {
      // A group that the kernel does not have starts from deny; what an earlier agent left is in force as its endpoints' flags say.
      rows: new GroupRows(policyRowsMap(fd), isNew ? ENFORCED : this.#endpoints.enforcedInKernel(number)),
      resolved,
      enforcement: ENFORCED,
      isUnplanned: true,
      pending: false,
      forced: false,
      timer: undefined,
      problem: '',
    }
    this.#groups.set(number, group)
    return group
  }

  #openRows(group: number): { fd: number; isNew: boolean } {
    const id = this.#kernel.maps.policyGroups.get(group)
    const existing = id === undefined ? undefined : mapFdById(id)
    if (existing !== undefined) return { fd: existing, isNew: false }
    // For the rows of a policy and those of the one that replaces it; what is not used takes no memory.
    const size = this.#rowsMax * 2
    const fd = createMap(BPF_MAP_TYPE_LPM_TRIE, 'policy_rows', policyKeyCodec.size, policyValueCodec.size, size, BPF_F_NO_PREALLOC)
    this.#kernel.maps.policyGroups.set(group, fd)
    return { fd, isNew: true }
  }

  #notify(): void {
    if (this.isPending) return
    for (const resolve of this.#waiters.splice(0)) resolve()
  }
}

/**
 * From the slots that are wanted to what Envoy has in force. Each slot is a listener and a ruleset; the rollout makes the snapshot,
 * follows what Envoy acknowledges and refuses, and answers which revision is in force.
 *
 * A refused ruleset is repaired at once (ruleset-search.ts): what was in force before may be wider than the new policy. The rules that
 * Envoy refuses are found, taken out with what must not stand without them, and reported. A refused listener is tried again after a
 * while, since its port may come free. Nothing here waits for anything but Envoy's answers.
 */
import { create } from '@bufbuild/protobuf'
import {
  type HttpRule,
  type RefusedRule,
  RefusedRuleSchema,
  type Ruleset,
  RulesetSchema,
  type Slot,
} from '#api/gen/headgate/v1/control_pb.js'
import type { Refusals } from './refusals.ts'
import { leaveOutRefused, type RulesetSearch, ruleDigest, searchRuleset, type UsableRuleset } from './ruleset-search.ts'
import { slotName } from './slot-name.ts'
import type { SlotChange } from './slot-store.ts'
import type { Resource } from './xds/resource.ts'
import { clusterResources, listenerResource, type ResourceSettings, rulesetDigest, rulesetResource } from './xds/resources.ts'
import type { XdsObserver } from './xds/server.ts'
import { Snapshot, type SnapshotChange } from './xds/snapshot.ts'
import type { ClientNode, Delivery } from './xds/stream.ts'
import { CLUSTER_TYPE, EXTENSION_CONFIG_TYPE, LISTENER_TYPE, type TypeUrl } from './xds/type-urls.ts'

const LISTENER_RETRY_MS_MIN = 500
const LISTENER_RETRY_MS_MAX = 30_000

/** How far Envoy has followed. */
export interface RolloutStatus {
  /** Newest revision that is wholly in force, refusals aside; 0 before there is one. */
  readonly epoch: bigint
  readonly appliedRevision: bigint
  readonly listening: readonly Pick<Slot, 'id' | 'generation'>[]
  readonly refused: readonly RefusedRule[]
  readonly connected: boolean
  readonly envoyVersion: string
}

type RuleReport = Pick<RefusedRule, 'rule' | 'reason'>

interface SlotState {
  readonly slot: Slot
  readonly name: string
  listener: Resource
  listening: boolean
  /** Its revision was reported as in force without it, so it may not be used before its rules are there too. */
  late: boolean
  listenerRefusal: { readonly reason: string; readonly attempt: number; readonly timer: NodeJS.Timeout } | undefined
  /** The ruleset that Envoy is being given: the slot's, or a part of it. Undefined when Envoy refuses even to deny everything. */
  rules: { readonly resource: Resource; readonly ruleset: Ruleset } | undefined
  rulesInForce: boolean
  search: RulesetSearch | undefined
  refusedRules: readonly RuleReport[]
  /** What this client is known to have in force; undefined when that is not known. */
  inForce: Ruleset | undefined
  /** The revision before the oldest one of this slot that is not in force yet; undefined when all of them are. */
  settledUntil: bigint | undefined
}

export interface RolloutOptions {
  readonly settings: ResourceSettings
  readonly refusals: Refusals
  readonly publish: (snapshot: Snapshot) => void
  /** Something that status() tells may have changed. */
  readonly onProgress: () => void
  readonly onRefusal: (refusal: { readonly slotId: number; readonly rules: readonly string[]; readonly reason: string }) => void
  readonly onIgnored: (reason: string) => void
}

export class Rollout implements XdsObserver {
  readonly #options: RolloutOptions
  readonly #slots = new Map<string, SlotState>()
  readonly #nameById = new Map<number, string>()
  /** Listeners that are gone from the snapshot and that Envoy has not confirmed -> the revision before their removal. */
  readonly #leaving = new Map<string, bigint>()
  /** Slots that are gone and whose rules stay until Envoy lets go of them: open connections of a draining listener are judged by them. */
  readonly #retired = new Set<string>()
  #snapshot: Snapshot
  #published = false
  #epoch = 0n
  #revision = 0n
  #appliedMax = 0n
  #connected = false
  #envoyVersion = ''

  constructor(options: RolloutOptions) {
    this.#options = options
    this.#snapshot = Snapshot.of(clusterResources(options.settings))
  }

  /** Brings in what changed since the last time. The first call makes the snapshot known: it must hold a complete epoch. */
  apply({ epoch, revision, changed, removedIds }: SlotChange): void {
    if (epoch !== this.#epoch) this.#beginEpoch(epoch)
    const before = this.#revision
    this.#revision = revision
    const set: Resource[] = []
    const remove: { typeUrl: TypeUrl; name: string }[] = []
    const drop = (id: number) => {
      const name = this.#nameById.get(id)
      if (name === undefined) return
      remove.push({ typeUrl: LISTENER_TYPE, name })
      this.#leave(id, name, before)
    }
    for (const id of removedIds) drop(id)
    for (const slot of changed) {
      const name = slotName(slot)
      if (this.#nameById.get(slot.id) !== name) drop(slot.id)
      const known = this.#slots.get(name)
      this.#nameById.set(slot.id, name)
      this.#retired.delete(name)
      this.#leaving.delete(name)
      set.push(...this.#begin(slot, known, before))
      if (slot.relayed && known?.rules !== undefined) remove.push({ typeUrl: EXTENSION_CONFIG_TYPE, name })
    }
    this.#published = true
    this.#publish({ set, remove })
    this.#options.onProgress()
  }

  status(): RolloutStatus {
    const states = [...this.#slots.values()]
    return {
      epoch: this.#epoch,
      appliedRevision: this.#appliedRevision(states),
      listening: states.filter(isListening).map((state) => state.slot),
      refused: states.flatMap(refusedOf),
      connected: this.#connected,
      envoyVersion: this.#envoyVersion,
    }
  }

  /** Ends the timers. */
  close(): void {
    for (const state of this.#slots.values()) clearTimeout(state.listenerRefusal?.timer)
  }

  connected(node: ClientNode): void {
    this.#connected = true
    this.#envoyVersion = node.version
    if (this.#options.refusals.useVersion(node.version)) {
      for (const state of this.#slots.values()) this.#resetRules(state)
    }
    // A client that comes back says itself what it still has.
    for (const state of this.#slots.values()) {
      state.listening = false
      state.rulesInForce = state.slot.relayed
      state.inForce = undefined
      state.settledUntil ??= this.#revision
    }
    this.#leaving.clear()
    const remove = [...this.#retired].map((name) => ({ typeUrl: EXTENSION_CONFIG_TYPE, name }) as const)
    this.#retired.clear()
    this.#publish({ remove })
    this.#options.onProgress()
  }

  disconnected(): void {
    this.#connected = false
    this.#options.onProgress()
  }

  acknowledged({ typeUrl, name, version }: Delivery): void {
    const state = this.#slots.get(name)
    if (typeUrl === LISTENER_TYPE && version === undefined) this.#leaving.delete(name)
    // It came back with a listener that is gone: the removal is on its way.
    else if (typeUrl === LISTENER_TYPE && state === undefined) this.#leaving.set(name, this.#appliedMax)
    if (state !== undefined && typeUrl === LISTENER_TYPE && version === state.listener.version) {
      state.listening = true
      clearTimeout(state.listenerRefusal?.timer)
      state.listenerRefusal = undefined
    }
    if (state !== undefined && typeUrl === EXTENSION_CONFIG_TYPE) this.#acknowledgedRules(state, version)
    if (state !== undefined) this.#settle(state)
    this.#options.onProgress()
  }

  refused(deliveries: readonly Delivery[], reason: string): void {
    for (const { typeUrl, name, version } of deliveries) {
      const state = this.#slots.get(name)
      if (typeUrl === CLUSTER_TYPE || state === undefined) this.#options.onIgnored(`refused ${name}: ${reason}`)
      else if (typeUrl === LISTENER_TYPE && version === state.listener.version) this.#refusedListener(state, reason)
      else if (typeUrl === EXTENSION_CONFIG_TYPE) this.#refusedRules(state, version, reason)
      if (state !== undefined) this.#settle(state)
    }
    this.#options.onProgress()
  }

  unsubscribed(typeUrl: TypeUrl, name: string): void {
    if (typeUrl !== EXTENSION_CONFIG_TYPE || !this.#retired.delete(name)) return
    this.#publish({ remove: [{ typeUrl, name }] })
  }

  ignored(reason: string): void {
    this.#options.onIgnored(reason)
  }

  /** Revisions of another epoch say nothing about this one's. */
  #beginEpoch(epoch: bigint): void {
    this.#epoch = epoch
    this.#revision = 0n
    this.#appliedMax = 0n
    for (const state of this.#slots.values()) if (state.settledUntil !== undefined) state.settledUntil = 0n
    for (const name of this.#leaving.keys()) this.#leaving.set(name, 0n)
  }

  #publish(change: SnapshotChange): void {
    this.#snapshot = this.#snapshot.with(change)
    if (this.#published) this.#options.publish(this.#snapshot)
  }

  /** @returns the resources of a slot that is new or changed */
  #begin(slot: Slot, known: SlotState | undefined, before: bigint): Resource[] {
    clearTimeout(known?.listenerRefusal?.timer)
    const listener = listenerResource(slot, this.#options.settings)
    const listening = known?.listening === true && known.listener.version === listener.version
    const state: SlotState = {
      slot,
      name: slotName(slot),
      listener,
      listening,
      late: false,
      listenerRefusal: undefined,
      rules: undefined,
      rulesInForce: false,
      search: undefined,
      refusedRules: [],
      inForce: known?.inForce,
      settledUntil: known?.settledUntil ?? before,
    }
    this.#slots.set(state.name, state)
    this.#wantRules(state)
    if (known?.rulesInForce && known.rules?.resource.version === state.rules?.resource.version) state.rulesInForce = true
    this.#settle(state)
    return state.rules === undefined ? [listener] : [listener, state.rules.resource]
  }

  #leave(id: number, name: string, before: bigint): void {
    clearTimeout(this.#slots.get(name)?.listenerRefusal?.timer)
    this.#slots.delete(name)
    this.#nameById.delete(id)
    this.#retired.add(name)
    this.#leaving.set(name, before)
  }

  /** Chooses what to send of a slot's rules: all of them, less what known refusals cost. */
  #wantRules(state: SlotState): void {
    state.search = undefined
    if (state.slot.relayed) {
      // They are the relay's.
      state.refusedRules = []
      state.rulesInForce = true
      return
    }
    const { refusals } = this.#options
    const wanted = state.slot.ruleset ?? create(RulesetSchema)
    const { ruleset, refused } =
      refusals.size === 0 ? { ruleset: wanted, refused: [] } : leaveOutRefused(wanted, (rule) => refusals.reasonOf(ruleDigest(rule)))
    state.refusedRules = reportOf(refused)
    state.rules = { ruleset, resource: rulesetResource(state.slot, ruleset, this.#options.settings) }
    if (refusals.reasonOf(rulesetDigest(ruleset)) !== undefined) this.#startSearch(state, ruleset)
  }

  #resetRules(state: SlotState): void {
    this.#wantRules(state)
    if (state.rules !== undefined) this.#publish({ set: [state.rules.resource] })
  }

  #acknowledgedRules(state: SlotState, version: string | undefined): void {
    if (state.rules === undefined) {
      // Envoy is on the listener's own default, which denies everything.
      if (version === undefined) state.rulesInForce = true
      return
    }
    if (version !== state.rules.resource.version) {
      // Something older is in force, and with it rules that nothing here remembers.
      state.inForce = undefined
      return
    }
    state.rulesInForce = true
    state.inForce = state.rules.ruleset
    if (state.search !== undefined) this.#continueSearch(state, state.search, state.search.next(undefined))
  }

  #refusedRules(state: SlotState, version: string | undefined, reason: string): void {
    if (state.rules === undefined || version !== state.rules.resource.version) {
      this.#options.onIgnored(`refused an older ruleset of ${state.name}: ${reason}`)
      return
    }
    const { ruleset } = state.rules
    this.#options.refusals.remember([rulesetDigest(ruleset)], reason)
    this.#options.onRefusal({ slotId: state.slot.id, rules: rulesOf(ruleset).map(({ name }) => name), reason })
    state.rulesInForce = false
    if (state.search === undefined) this.#startSearch(state, ruleset)
    else this.#continueSearch(state, state.search, state.search.next(reason))
  }

  #startSearch(state: SlotState, refused: Ruleset): void {
    state.search = searchRuleset(refused, state.inForce)
    this.#continueSearch(state, state.search, state.search.next())
  }

  /** Goes on to the next ruleset that has not been refused before, or ends the search with what is usable. */
  #continueSearch(state: SlotState, search: RulesetSearch, first: IteratorResult<Ruleset, UsableRuleset>): void {
    const { refusals } = this.#options
    let step = first
    while (!step.done) {
      const reason = refusals.reasonOf(rulesetDigest(step.value))
      if (reason === undefined && this.#offer(state, step.value)) return
      step = search.next(reason)
    }
    const { ruleset, refused } = step.value
    state.search = undefined
    for (const { rule, reason } of refused) this.#rememberRule(ruleDigest(rule), reason)
    state.refusedRules = uniqueRules([...state.refusedRules, ...reportOf(refused)])
    const reason = refusals.reasonOf(rulesetDigest(ruleset))
    if (reason === undefined) {
      this.#offer(state, ruleset)
      return
    }
    // Not even this is taken: without a configuration of its own the listener denies everything.
    state.refusedRules = [...state.refusedRules, { rule: '', reason }]
    state.rules = undefined
    state.rulesInForce = false
    this.#publish({ remove: [{ typeUrl: EXTENSION_CONFIG_TYPE, name: state.name }] })
  }

  /** @returns whether Envoy has to answer; it need not when it has this in force already */
  #offer(state: SlotState, ruleset: Ruleset): boolean {
    const resource = rulesetResource(state.slot, ruleset, this.#options.settings)
    if (resource.version === state.rules?.resource.version && state.rulesInForce) return false
    state.rules = { ruleset, resource }
    state.rulesInForce = false
    // Before the slot's first snapshot the caller publishes.
    if (this.#snapshot.get(LISTENER_TYPE, state.name) !== undefined) this.#publish({ set: [resource] })
    return true
  }

  /** A rule that stood alone when it was refused is refused in every ruleset. */
  #rememberRule(digest: string, reason: string): void {
    if (this.#options.refusals.reasonOf(digest) === undefined) this.#options.refusals.remember([digest], reason)
  }

  #refusedListener(state: SlotState, reason: string): void {
    const attempt = (state.listenerRefusal?.attempt ?? 0) + 1
    const delayMs = Math.min(LISTENER_RETRY_MS_MIN * 2 ** (attempt - 1), LISTENER_RETRY_MS_MAX)
    this.#options.onRefusal({ slotId: state.slot.id, rules: [], reason })
    const timer = setTimeout(() => {
      state.listener = listenerResource(state.slot, this.#options.settings, attempt)
      this.#publish({ set: [state.listener] })
    }, delayMs)
    timer.unref()
    state.listening = false
    state.late = true
    state.listenerRefusal = { reason, attempt, timer }
  }

  #settle(state: SlotState): void {
    const rulesSettled = state.rulesInForce && state.search === undefined
    if ((state.listening && rulesSettled) || state.listenerRefusal !== undefined) state.settledUntil = undefined
  }

  #appliedRevision(states: readonly SlotState[]): bigint {
    let applied = this.#revision
    for (const { settledUntil } of states) if (settledUntil !== undefined && settledUntil < applied) applied = settledUntil
    for (const before of this.#leaving.values()) if (before < applied) applied = before
    // What was in force once stays so: an Envoy that starts again denies until it has everything.
    if (applied > this.#appliedMax) this.#appliedMax = applied
    return this.#appliedMax
  }
}

function isListening({ listening, late, rulesInForce }: SlotState): boolean {
  return listening && (rulesInForce || !late)
}

function rulesOf({ http, httpDeny, shadow }: Ruleset): HttpRule[] {
  return [...http, ...httpDeny, ...(shadow === undefined ? [] : rulesOf(shadow))]
}

/** A rule that stands in several parts of a ruleset is told once. */
function reportOf(refused: UsableRuleset['refused']): RuleReport[] {
  return uniqueRules(refused.map(({ rule, reason }) => ({ rule: rule.name, reason })))
}

function uniqueRules(reports: readonly RuleReport[]): RuleReport[] {
  return [...new Map(reports.map((report) => [report.rule, report])).values()]
}

function refusedOf({ slot, listenerRefusal, refusedRules }: SlotState): RefusedRule[] {
  const all = [...(listenerRefusal === undefined ? [] : [{ rule: '', reason: listenerRefusal.reason }]), ...refusedRules]
  return all.map(({ rule, reason }) => create(RefusedRuleSchema, { slotId: slot.id, rule, reason }))
}

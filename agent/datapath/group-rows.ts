/**
 * The policy map of one group: what is in the kernel, what is wanted, and the way from one to the other. Each row is complete in
 * itself, so rows can be written one by one; the order makes sure that no packet meets a verdict wider than both the old and the new
 * policy give. A redirect is written when its slot can take it:
 *
 *   from deny  → when the listener and the rules are acknowledged; until then a deny row holds the place
 *   from allow → when the listener is there, or when `force` says that waiting is over (the listener's default denies all)
 *
 * Rows are looked at when they change and while they wait, not with every change of another.
 */
import {
  DIRECTION_EGRESS,
  DIRECTION_INGRESS,
  IDENTITY_SEVERAL_NAMES,
  POLICY_ALLOWS_ALL,
  POLICY_AUDIT,
  POLICY_EXPLICIT_DENY,
  POLICY_PREFIX_L3,
  POLICY_PREFIX_PROTOCOL,
  type PolicyKey,
  type PolicyValue,
  VERDICT_ALLOW,
  VERDICT_DENY,
  VERDICT_REDIRECT,
} from '#bpf/gen/abi.ts'
import type { PolicyRowsMap } from '#bpf/maps.ts'
import { blockStart } from '#policy/blocks.ts'
import { ANY_IDENTITY, type Direction, type PolicyRow, rowKey } from '#policy/resolved.ts'

const PORT_BITS = 16

/** A row as the kernel is to have it. */
export interface WantedRow {
  readonly row: PolicyRow
  readonly cookie: number
  /** With verdict redirect. */
  readonly slot: { readonly port: number; readonly generation: number } | undefined
  /** The slot lets through what no rule denies. */
  readonly allowsAll?: boolean
}

/** How far a slot is. */
export type SlotReadiness = 'absent' | 'listening' | 'ready'

interface AppliedRow {
  readonly key: PolicyKey
  readonly value: PolicyValue
}

/** Who is asked about: the identity of an address, and the selectors whose names it is known by. */
export interface LookedUpPeer {
  readonly identity: number
  readonly selectors: readonly number[]
}

const NAME_DENY_RANK = 1
const REDIRECT_RANK = 3

/** As in bpf/src/policy.h. */
function rankOf({ verdict, flags }: PolicyValue): number {
  if (verdict === VERDICT_ALLOW) return (flags & POLICY_AUDIT) === 0 ? 5 : 2
  if (verdict === VERDICT_REDIRECT) return (flags & POLICY_ALLOWS_ALL) === 0 ? REDIRECT_RANK : 4
  return (flags & POLICY_EXPLICIT_DENY) === 0 ? 0 : NAME_DENY_RANK
}

export class GroupRows {
  readonly #map: PolicyRowsMap
  /** What the kernel has and what it is to have, by rowKey. */
  readonly #applied = new Map<string, AppliedRow>()
  readonly #wanted = new Map<string, WantedRow>()
  /** Rows of which these two may differ. */
  #stale = new Set<string>()
  /** How many rows in the kernel point at each slot, by port and generation. */
  readonly #pointers = new Map<string, number>()
  /** Directions in which packets are judged; elsewhere everything is allowed. */
  #enforced: Readonly<Record<Direction, boolean>>

  /** @param enforced what packets meet now: for a group that is new, both true, so that nothing counts as allowed before */
  constructor(map: PolicyRowsMap, enforced: Readonly<Record<Direction, boolean>>) {
    this.#map = map
    this.#enforced = enforced
    // Rows that an earlier agent wrote stay until they are replaced: traffic goes on.
    for (const key of map.keys()) {
      const value = map.get(key)
      if (value === undefined) continue
      this.#note(keyText(key), { key, value })
      this.#stale.add(keyText(key))
    }
  }

  get map(): PolicyRowsMap {
    return this.#map
  }

  get size(): number {
    return this.#applied.size
  }

  /** Keys of the rows that are wanted. */
  wantedKeys(): IterableIterator<string> {
    return this.#wanted.keys()
  }

  wanted(key: string): WantedRow | undefined {
    return this.#wanted.get(key)
  }

  /** Slot that a row in the kernel points at, as port/generation; undefined for none. */
  pointerOf(key: string): string | undefined {
    const value = this.#applied.get(key)?.value
    return value?.verdict === VERDICT_REDIRECT ? slotText({ port: value.slotPort, generation: value.slotGeneration }) : undefined
  }

  /** @param wanted undefined: no such row */
  want(key: string, wanted: WantedRow | undefined): void {
    if (wanted === undefined) this.#wanted.delete(key)
    else this.#wanted.set(key, wanted)
    this.#stale.add(key)
  }

  /** To be called when the endpoints' flags have been written. */
  setEnforced(enforced: Readonly<Record<Direction, boolean>>): void {
    this.#enforced = enforced
  }

  /** Slots that a row in the kernel points at, as port/generation. */
  pointedAt(): IterableIterator<string> {
    return this.#pointers.keys()
  }

  /**
   * Brings the kernel as close to the wanted rows as the slots allow.
   * @param force rows that were allowed do not wait for their listener any longer
   * @returns whether rows are still waiting, and whether anything was written
   */
  step(readiness: (port: number, generation: number) => SlotReadiness, force: boolean): { pending: boolean; changed: boolean } {
    const upserts: [string, AppliedRow][] = []
    const removals: [string, AppliedRow][] = []
    const waiting = new Set<string>()
    for (const text of this.#stale) {
      const wanted = this.#wanted.get(text)
      const applied = this.#applied.get(text)
      if (wanted === undefined) {
        if (applied !== undefined) removals.push([text, applied])
        continue
      }
      const key = keyOf(wanted.row)
      const { value, waits } = this.#valueFor(key, wanted, readiness, force)
      if (waits) waiting.add(text)
      if (!sameValue(applied?.value, value)) upserts.push([text, { key, value }])
    }
    this.#write(upserts, removals)
    this.#stale = waiting
    return { pending: waiting.size > 0, changed: upserts.length > 0 || removals.length > 0 }
  }

  /**
   * What the kernel would answer for a packet (bpf/src/policy.h): the longest row of the peer, else of any peer, and on top of it those of
   * the selectors whose names its address is known by.
   */
  lookup(direction: Direction, { identity, selectors }: LookedUpPeer, protocol: number, port: number): PolicyValue {
    if (!this.#enforced[direction]) return ALLOW
    const number = direction === 'ingress' ? DIRECTION_INGRESS : DIRECTION_EGRESS
    const rowOf = (peer: number) => this.#longest({ direction: number, identity: peer, protocol, port }, PORT_BITS)?.value
    const own = rowOf(identity) ?? rowOf(ANY_IDENTITY) ?? DENY
    if (own.verdict === VERDICT_DENY && (own.flags & POLICY_EXPLICIT_DENY) !== 0) return own
    let best = DENY
    let hasSeveralSlots = false
    for (const selector of selectors) {
      const row = rowOf(selector)
      if (row === undefined) continue
      if (rankOf(row) === REDIRECT_RANK && rankOf(best) === REDIRECT_RANK && !isSameSlot(row, best)) hasSeveralSlots = true
      if (rankOf(row) > rankOf(best)) best = row
    }
    const rank = rankOf(best)
    const shared = hasSeveralSlots && rank === REDIRECT_RANK ? rowOf(IDENTITY_SEVERAL_NAMES) : undefined
    if (shared?.verdict === VERDICT_REDIRECT) best = shared
    return rank === NAME_DENY_RANK || rank > rankOf(own) ? best : own
  }

  #valueFor(
    key: PolicyKey,
    wanted: WantedRow,
    readiness: (port: number, generation: number) => SlotReadiness,
    force: boolean,
  ): { value: PolicyValue; waits: boolean } {
    const value = encodeRow(wanted)
    if (value.verdict !== VERDICT_REDIRECT) return { value, waits: false }
    const now = this.#effective(key)
    if (now.verdict === VERDICT_REDIRECT && isSameSlot(now, value)) {
      return { value, waits: false }
    }
    const ready = readiness(value.slotPort, value.slotGeneration)
    if (ready === 'ready') return { value, waits: false }
    if (now.verdict === VERDICT_DENY)
      return { value: { ...value, verdict: VERDICT_DENY, flags: 0, slotPort: 0, slotGeneration: 0 }, waits: true }
    if (ready === 'listening' || force) return { value, waits: false }
    return { value: { ...now, cookie: value.cookie }, waits: true }
  }

  /** What packets of a key meet now. */
  #effective(key: PolicyKey): PolicyValue {
    const direction: Direction = key.direction === DIRECTION_INGRESS ? 'ingress' : 'egress'
    if (!this.#enforced[direction]) return ALLOW
    for (const identity of key.identity === ANY_IDENTITY ? [ANY_IDENTITY] : [key.identity, ANY_IDENTITY]) {
      const row = this.#longest({ ...key, identity }, key.prefixLength - POLICY_PREFIX_PROTOCOL)
      if (row !== undefined) return row.value
    }
    return DENY
  }

  /** The longest row of one peer around a block of ports. @param bits significant ones of the port */
  #longest({ direction, identity, protocol, port }: Omit<PolicyKey, 'prefixLength'>, bits: number): AppliedRow | undefined {
    for (let length = protocol === 0 ? -1 : bits; length >= 0; length--) {
      const prefixLength = POLICY_PREFIX_PROTOCOL + length
      const row = this.#applied.get(keyText({ direction, identity, protocol, port: blockStart(port, length), prefixLength }))
      if (row !== undefined) return row
    }
    return this.#applied.get(keyText({ direction, identity, protocol: 0, port: 0, prefixLength: POLICY_PREFIX_L3 }))
  }

  /**
   * Every packet meets what it met before until it meets what it is to meet. New rows come with the narrow ones first: whatever a new row
   * covers wrongly is covered by a narrower new row already. Then old ones go with the wide ones first: none shows through for having lost
   * the one that hid it.
   */
  #write(upserts: [string, AppliedRow][], removals: [string, AppliedRow][]): void {
    upserts.sort(([, a], [, b]) => narrowFirst(a, b))
    for (const [text, row] of upserts) {
      this.#map.set(row.key, row.value)
      this.#note(text, row)
    }
    removals.sort(([, a], [, b]) => narrowFirst(b, a))
    for (const [text, row] of removals) {
      this.#map.delete(row.key)
      this.#note(text, undefined)
    }
  }

  #note(text: string, row: AppliedRow | undefined): void {
    this.#countPointer(this.#applied.get(text), -1)
    this.#countPointer(row, 1)
    if (row === undefined) this.#applied.delete(text)
    else this.#applied.set(text, row)
  }

  #countPointer(row: AppliedRow | undefined, step: 1 | -1): void {
    if (row?.value.verdict !== VERDICT_REDIRECT) return
    const slot = slotText({ port: row.value.slotPort, generation: row.value.slotGeneration })
    const count = (this.#pointers.get(slot) ?? 0) + step
    if (count > 0) this.#pointers.set(slot, count)
    else this.#pointers.delete(slot)
  }
}

/** A slot as rows point at it. */
export function slotText({ port, generation }: { readonly port: number; readonly generation: number }): string {
  return `${port}/${generation}`
}

const ALLOW: PolicyValue = { verdict: VERDICT_ALLOW, flags: 0, slotPort: 0, slotGeneration: 0, precedence: 0, cookie: 0 }
const DENY: PolicyValue = { ...ALLOW, verdict: VERDICT_DENY }

function keyOf(row: PolicyRow): PolicyKey {
  const prefixLength = row.protocol === 0 ? POLICY_PREFIX_L3 : POLICY_PREFIX_PROTOCOL + row.portPrefixLength
  return {
    prefixLength,
    identity: row.identity,
    direction: row.direction === 'ingress' ? DIRECTION_INGRESS : DIRECTION_EGRESS,
    protocol: row.protocol,
    port: row.port,
  }
}

function encodeRow({ row, cookie, slot, allowsAll = false }: WantedRow): PolicyValue {
  return {
    verdict: row.verdict === 'deny' ? VERDICT_DENY : row.verdict === 'allow' ? VERDICT_ALLOW : VERDICT_REDIRECT,
    flags: (row.explicitDeny ? POLICY_EXPLICIT_DENY : 0) | (row.audit ? POLICY_AUDIT : 0) | (allowsAll ? POLICY_ALLOWS_ALL : 0),
    slotPort: slot?.port ?? 0,
    slotGeneration: slot?.generation ?? 0,
    precedence: 0,
    cookie,
  }
}

function isSameSlot(a: PolicyValue, b: PolicyValue): boolean {
  return a.slotPort === b.slotPort && a.slotGeneration === b.slotGeneration
}

/** 1 for rows that hold for any peer. */
function reach(key: PolicyKey): number {
  return key.identity === ANY_IDENTITY ? 1 : 0
}

/** Orders rows so that each comes before those that it hides. */
function narrowFirst(a: AppliedRow, b: AppliedRow): number {
  return reach(a.key) - reach(b.key) || b.key.prefixLength - a.key.prefixLength
}

/** rowKey of the row that a key is of. */
function keyText({ direction, identity, protocol, port, prefixLength }: PolicyKey): string {
  return rowKey({
    direction: direction === DIRECTION_INGRESS ? 'ingress' : 'egress',
    identity,
    protocol,
    port,
    portPrefixLength: Math.max(0, prefixLength - POLICY_PREFIX_PROTOCOL),
  })
}

function sameValue(a: PolicyValue | undefined, b: PolicyValue): boolean {
  return a !== undefined && a.verdict === b.verdict && a.flags === b.flags && isSameSlot(a, b) && a.cookie === b.cookie
}

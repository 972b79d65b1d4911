/**
 * The addresses that names of selectors are known to have, and their rows in the kernel. Only names that a selector matches are kept, so
 * what clients ask for beside them costs nothing. An address is forgotten when the answers for all of its names have run out and no
 * connection to it is left.
 */
import type { NameSelector } from '#api/gen/headgate/v1/control_pb.js'
import { ctKeyCodec, LEARNED_SELECTORS_MAX, type LearnedKey, type LearnedValue } from '#bpf/gen/abi.ts'
import type { KernelMaps } from '#bpf/maps.ts'
import { NameIndex } from '#parsers/dns/name-index.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { SystemCallError } from '#sys/errors.ts'
import type { ItemChanges } from './desired-state.ts'

export interface LearnedNamesSettings {
  /** Seconds for which an address is known at least. */
  readonly minTtlSeconds: number
  /** Addresses of one name; of more, those go that run out first. */
  readonly addressesOfNameMax: number
}

type Maps = Pick<KernelMaps, 'learnedAddresses' | 'learnedState' | 'conntrack'>

/** What is known of one address, to everybody or to one endpoint. */
interface Known {
  readonly key: LearnedKey
  readonly text: string
  /** When the newest answer for each name runs out, in milliseconds of the process's clock. */
  readonly names: Map<string, number>
  /** Selectors in the kernel, sorted. */
  selectors: readonly number[]
}

const ADDRESS_BYTES = 16
const REMOTE_OFFSET = ctKeyCodec.layout.fields.find(({ name }) => name === 'remote')?.offset ?? 0
const ENDPOINT_OFFSET = ctKeyCodec.layout.fields.find(({ name }) => name === 'endpointId')?.offset ?? 0

/** What came of learning an address. */
export type Lesson = 'learned' | 'not selected' | 'no room'

export class LearnedNames {
  readonly #maps: Maps
  readonly #settings: LearnedNamesSettings
  readonly #index = new NameIndex<number>('peers')
  readonly #known = new Map<string, Known>()
  readonly #byName = new Map<string, Set<Known>>()

  constructor(maps: Maps, settings: LearnedNamesSettings) {
    this.#maps = maps
    this.#settings = settings
    this.#adoptRows()
  }

  /** Addresses that are known. */
  get size(): number {
    return this.#known.size
  }

  /** Whether a name is one that an answer is to be learned for. */
  isSelected(name: string): boolean {
    return this.#index.matching(name).length > 0
  }

  /** @param selectors that are no more, and that are new: names are matched anew, rows written anew */
  changeSelectors({ gone, come }: ItemChanges<NameSelector>): void {
    for (const selector of gone) this.#index.remove(ruleOf(selector), selector.id)
    for (const selector of come) this.#index.add(ruleOf(selector), selector.id)
    if (gone.length === 0 && come.length === 0) return
    const lost = new Set(gone.map(({ id }) => id))
    for (const known of [...this.#known.values()]) {
      for (const name of known.names.keys()) if (!this.isSelected(name)) this.#forgetName(known, name)
      // Rows of an earlier process whose names are not known keep the selectors that there still are.
      if (known.names.size > 0) this.#write(known, this.#selectorsOf(known))
      else
        this.#write(
          known,
          known.selectors.filter((id) => !lost.has(id)),
        )
    }
  }

  /**
   * Learns an address of a chain of names. When it returns, the kernel knows.
   * @param endpointId 0: for everybody @param address 16 bytes, copied
   */
  learn(endpointId: number, names: readonly string[], address: Uint8Array, ttlSeconds: number, nowMs: number): Lesson {
    const expiresMs = nowMs + Math.max(ttlSeconds, this.#settings.minTtlSeconds) * 1000
    let known: Known | undefined
    let isNew = false
    for (const name of names) {
      if (!this.isSelected(name)) continue
      known ??= this.#at(endpointId, address)
      const before = known.names.get(name)
      if (before === undefined) {
        isNew = true
        this.#rememberName(known, name)
      }
      if (before === undefined || before < expiresMs) known.names.set(name, expiresMs)
      this.#limit(name)
    }
    if (known === undefined) return 'not selected'
    if (!isNew) return 'learned'
    return this.#write(known, this.#selectorsOf(known)) ? 'learned' : 'no room'
  }

  /** Forgets what has run out and is not in use. @returns how many addresses */
  expire(nowMs: number): number {
    const stale = [...this.#known.values()].filter(({ names }) => [...names.values()].every((expiresMs) => expiresMs < nowMs))
    if (stale.length === 0) return 0
    const inUse = this.#inUse()
    let count = 0
    for (const known of stale) {
      const address = textOf(0, known.key.address)
      if (inUse.has(known.key.endpointId === 0 ? address : known.text)) continue
      for (const name of [...known.names.keys()]) this.#forgetName(known, name)
      this.#write(known, [])
      count += 1
    }
    return count
  }

  /** What an earlier process left: in force until policy or the end of its connections says otherwise. */
  #adoptRows(): void {
    for (const key of this.#maps.learnedAddresses.keys()) {
      const selectors = this.#maps.learnedAddresses.get(key)?.selectors ?? []
      const ids = selectors.map(({ identity }) => identity).filter((id) => id !== 0)
      const text = textOf(key.endpointId, key.address)
      this.#known.set(text, { key: { ...key, address: Buffer.from(key.address) }, text, names: new Map(), selectors: ids })
    }
  }

  #at(endpointId: number, address: Uint8Array): Known {
    const text = textOf(endpointId, address)
    const before = this.#known.get(text)
    if (before !== undefined) return before
    const known: Known = { key: { endpointId, address: Buffer.from(address) }, text, names: new Map(), selectors: [] }
    this.#known.set(text, known)
    return known
  }

  #rememberName(known: Known, name: string): void {
    const of = this.#byName.get(name)
    if (of === undefined) this.#byName.set(name, new Set([known]))
    else of.add(known)
  }

  #forgetName(known: Known, name: string): void {
    known.names.delete(name)
    const of = this.#byName.get(name)
    of?.delete(known)
    if (of?.size === 0) this.#byName.delete(name)
  }

  /** A name has so many addresses at most: the one goes whose answer runs out first. */
  #limit(name: string): void {
    const of = this.#byName.get(name)
    if (of === undefined || of.size <= this.#settings.addressesOfNameMax) return
    let first: Known | undefined
    for (const known of of) if (first === undefined || (known.names.get(name) ?? 0) < (first.names.get(name) ?? 0)) first = known
    if (first === undefined) return
    this.#forgetName(first, name)
    this.#write(first, this.#selectorsOf(first))
  }

  #selectorsOf({ names }: Known): readonly number[] {
    const ids = new Set<number>()
    for (const name of names.keys()) for (const id of this.#index.matching(name)) ids.add(id)
    return [...ids].sort((a, b) => a - b).slice(0, LEARNED_SELECTORS_MAX)
  }

  /** Brings the kernel's row to the selectors. @returns whether there was room */
  #write(known: Known, selectors: readonly number[]): boolean {
    if (selectors.length === 0) {
      this.#known.delete(known.text)
      if (known.selectors.length === 0) return true
      this.#maps.learnedAddresses.delete(known.key)
    } else {
      if (selectors.join() === known.selectors.join()) return true
      try {
        this.#maps.learnedAddresses.set(known.key, rowOf(selectors))
      } catch (error) {
        if (!(error instanceof SystemCallError) || (error.code !== 'E2BIG' && error.code !== 'ENOSPC')) throw error
        for (const name of [...known.names.keys()]) this.#forgetName(known, name)
        this.#known.delete(known.text)
        return false
      }
    }
    const isLess = known.selectors.some((id) => !selectors.includes(id))
    known.selectors = selectors
    // Connections that it let through are judged again.
    if (isLess) this.#bump()
    return true
  }

  #bump(): void {
    const { revision = 0 } = this.#maps.learnedState.get(0) ?? {}
    this.#maps.learnedState.set(0, { revision: (revision + 1) >>> 0 })
  }

  /** Remote addresses of tracked connections, for everybody and by endpoint. */
  #inUse(): ReadonlySet<string> {
    const inUse = new Set<string>()
    for (const { keys, count } of this.#maps.conntrack.rawBatches()) {
      for (let index = 0; index < count; index++) {
        const key = keys.subarray(index * ctKeyCodec.size, (index + 1) * ctKeyCodec.size)
        const address = key.subarray(REMOTE_OFFSET, REMOTE_OFFSET + ADDRESS_BYTES)
        inUse.add(textOf(0, address))
        inUse.add(textOf(key.readUInt32LE(ENDPOINT_OFFSET), address))
      }
    }
    return inUse
  }
}

function ruleOf({ matchName, matchPattern }: NameSelector): DnsRule {
  return { ...(matchName === undefined ? {} : { matchName }), ...(matchPattern === undefined ? {} : { matchPattern }) }
}

function textOf(endpointId: number, address: Uint8Array): string {
  return `${endpointId}/${Buffer.from(address.buffer, address.byteOffset, ADDRESS_BYTES).toString('latin1')}`
}

function rowOf(selectors: readonly number[]): LearnedValue {
  return { selectors: Array.from({ length: LEARNED_SELECTORS_MAX }, (_, index) => ({ identity: selectors[index] ?? 0 })) }
}

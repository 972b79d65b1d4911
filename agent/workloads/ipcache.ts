/**
 * Address → identity, merged by source: endpoint over node over CIDR. What an address already is is never hidden by a weaker source.
 * Keeps the kernel's map equal to the merge, entry by entry.
 */
import { IPCACHE_PREFIX, type IpcacheKey, type IpcacheValue } from '#bpf/gen/abi.ts'
import type { BpfMap } from '#bpf/map.ts'
import { parsePrefix } from '#sys/addresses.ts'

/** Weakest first. */
export const IPCACHE_SOURCES = ['cidr', 'node', 'endpoint'] as const
export type IpcacheSource = (typeof IPCACHE_SOURCES)[number]

export class Ipcache {
  readonly #map: BpfMap<IpcacheKey, IpcacheValue>
  readonly #onChange: () => void
  /** By canonical prefix text; a slot per source. */
  readonly #entries = new Map<string, Map<IpcacheSource, number>>()
  /** What the kernel has. */
  readonly #written = new Map<string, IpcacheValue>()
  /** Prefix lengths in use, each with the number of its prefixes: few, so that a look-up tries few. */
  readonly #lengths = new Map<number, number>()

  /** @param onChange called after each write: tracked connections have to be judged again */
  constructor(map: BpfMap<IpcacheKey, IpcacheValue>, onChange: () => void) {
    this.#map = map
    this.#onChange = onChange
    for (const key of map.keys()) {
      const value = map.get(key)
      if (value === undefined) continue
      this.#written.set(textOf(key), value)
      this.#countLength(key.prefixLength, 1)
    }
  }

  get size(): number {
    return this.#written.size
  }

  /** @param prefix address or address/bits */
  set(prefix: string, source: IpcacheSource, identity: number): void {
    const key = canonical(prefix)
    const sources = this.#entries.get(key) ?? new Map<IpcacheSource, number>()
    sources.set(source, identity)
    this.#entries.set(key, sources)
    this.#sync(key)
  }

  delete(prefix: string, source: IpcacheSource): void {
    const key = canonical(prefix)
    const sources = this.#entries.get(key)
    if (sources?.delete(source) !== true) return
    if (sources.size === 0) this.#entries.delete(key)
    this.#sync(key)
  }

  /** Identity by longest prefix, as the kernel would find it. */
  lookup(address: string): number | undefined {
    return this.#longest(address)?.identity
  }

  /** Whether an address is an endpoint's or a node's, and no name makes anything else of it. */
  isClaimed(address: string): boolean {
    const value = this.#longest(address)
    return value !== undefined && (value.flags & IPCACHE_PREFIX) === 0
  }

  /** After a start: removes what an earlier agent wrote and nothing claims any more. */
  reconcile(): void {
    for (const key of [...this.#written.keys()]) if (!this.#entries.has(key)) this.#sync(key)
  }

  #longest(address: string): IpcacheValue | undefined {
    const { bytes } = parsePrefix(address)
    for (const length of [...this.#lengths.keys()].sort((a, b) => b - a)) {
      const value = this.#written.get(prefixText(bytes, length))
      if (value !== undefined) return value
    }
    return undefined
  }

  #sync(key: string): void {
    const wanted = strongestOf(this.#entries.get(key))
    const written = this.#written.get(key)
    if (wanted?.identity === written?.identity && wanted?.flags === written?.flags) return
    const [hex = '', length] = key.split('/')
    const mapKey = { prefixLength: Number(length), address: Buffer.from(hex, 'hex') }
    if (wanted === undefined) {
      this.#map.delete(mapKey)
      this.#written.delete(key)
      this.#countLength(mapKey.prefixLength, -1)
    } else {
      this.#map.set(mapKey, wanted)
      if (written === undefined) this.#countLength(mapKey.prefixLength, 1)
      this.#written.set(key, wanted)
    }
    this.#onChange()
  }

  #countLength(length: number, step: 1 | -1): void {
    const count = (this.#lengths.get(length) ?? 0) + step
    if (count === 0) this.#lengths.delete(length)
    else this.#lengths.set(length, count)
  }
}

function strongestOf(sources: ReadonlyMap<IpcacheSource, number> | undefined): IpcacheValue | undefined {
  for (const source of [...IPCACHE_SOURCES].reverse()) {
    const identity = sources?.get(source)
    if (identity !== undefined) return { identity, flags: source === 'cidr' ? IPCACHE_PREFIX : 0 }
  }
  return undefined
}

function canonical(prefix: string): string {
  const { bytes, length } = parsePrefix(prefix)
  return `${bytes.toString('hex')}/${length}`
}

function prefixText(bytes: Buffer, length: number): string {
  const masked = Buffer.from(bytes)
  for (let index = 0; index < 16; index++) {
    const kept = Math.min(8, Math.max(0, length - index * 8))
    masked[index] = (masked[index] ?? 0) & (0xff00 >> kept) & 0xff
  }
  return `${masked.toString('hex')}/${length}`
}

function textOf(key: IpcacheKey): string {
  return `${Buffer.from(key.address).toString('hex')}/${key.prefixLength}`
}

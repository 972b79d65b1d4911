/** Typed access to one BPF map by its file descriptor. Calls are synchronous system calls of about a microsecond each. */

import { BPF_ANY, deleteElement, lookupBatch, lookupElement, nextKey, objectInfo, updateBatch, updateElement } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'

/** How a key or a value becomes bytes. */
export interface Codec<T> {
  readonly size: number
  /** @param bytes of `size` bytes, to be written over and returned; new ones unless given */
  encode(value: T, bytes?: Buffer): Buffer
  decode(bytes: Buffer): T
}

/** A 32-bit integer. */
export const u32Codec: Codec<number> = {
  size: 4,
  encode(value, bytes = Buffer.alloc(4)) {
    bytes.writeUInt32LE(value)
    return bytes
  },
  decode: (bytes) => bytes.readUInt32LE(0),
}

/** A single byte. */
export const u8Codec: Codec<number> = {
  size: 1,
  encode(value, bytes = Buffer.alloc(1)) {
    bytes.writeUInt8(value)
    return bytes
  },
  decode: (bytes) => bytes.readUInt8(0),
}

/** The 16 bytes of struct address, bare. */
export const addressBytesCodec: Codec<Uint8Array> = {
  size: 16,
  encode(value, bytes = Buffer.alloc(16)) {
    if (value.length !== 16) throw new RangeError(`an address has 16 bytes, not ${value.length}`)
    bytes.set(value)
    return bytes
  },
  decode: (bytes) => Buffer.from(bytes.subarray(0, 16)),
}

const BATCH_COUNT = 4096

/** A hash, LRU, LPM or array map. The descriptor is its owner's: close() is for maps that nobody else holds. */
export class BpfMap<K, V> {
  readonly name: string
  readonly fd: number
  readonly #key: Codec<K>
  readonly #value: Codec<V>
  /** Of the call that is being made. */
  readonly #keyBytes: Buffer
  readonly #valueBytes: Buffer

  constructor(name: string, fd: number, key: Codec<K>, value: Codec<V>) {
    this.name = name
    this.fd = fd
    this.#key = key
    this.#value = value
    this.#keyBytes = Buffer.alloc(key.size)
    this.#valueBytes = Buffer.alloc(value.size)
  }

  get(key: K): V | undefined {
    const bytes = this.#valueBytes
    return lookupElement(this.fd, this.#key.encode(key, this.#keyBytes), bytes, this.name) ? this.#value.decode(bytes) : undefined
  }

  /** @throws SystemCallError E2BIG or ENOSPC when the map is full */
  set(key: K, value: V, flags = BPF_ANY): void {
    updateElement(this.fd, this.#key.encode(key, this.#keyBytes), this.#value.encode(value, this.#valueBytes), flags, this.name)
  }

  /** @returns whether it was there */
  delete(key: K): boolean {
    return deleteElement(this.fd, this.#key.encode(key, this.#keyBytes), this.name)
  }

  /** Writes many entries with one call. Not for LPM tries on old kernels. */
  setMany(entries: readonly (readonly [K, V])[]): void {
    if (entries.length === 0) return
    const keys = Buffer.concat(entries.map(([key]) => this.#key.encode(key)))
    const values = Buffer.concat(entries.map(([, value]) => this.#value.encode(value)))
    updateBatch(this.fd, keys, values, entries.length, this.name)
  }

  /**
   * All entries of a hash map, undecoded, a batch at a time; the buffers are used again. Entries that change meanwhile may be missed or seen twice.
   * @param batchCount what one call, and so one turn of whoever takes turns, reads
   */
  *rawBatches(batchCount = BATCH_COUNT): Generator<{ readonly keys: Buffer; readonly values: Buffer; readonly count: number }> {
    const keys = Buffer.alloc(this.#key.size * batchCount)
    const values = Buffer.alloc(this.#value.size * batchCount)
    const cursor = Buffer.alloc(64)
    for (let first = true; ; first = false) {
      const { count, more } = lookupBatch(this.fd, cursor, first, keys, values, batchCount, this.name)
      yield { keys, values, count }
      if (!more) return
    }
  }

  /** Entries of a hash map: the kernel keeps no count, so it walks all of them. */
  count(): number {
    let total = 0
    for (const { count } of this.rawBatches()) total += count
    return total
  }

  /** All keys, one call each; for any kind of map. */
  keys(): K[] {
    const keys: K[] = []
    let key: Buffer | null = null
    for (;;) {
      const next = Buffer.alloc(this.#key.size)
      if (!nextKey(this.fd, key, next, this.name)) return keys
      keys.push(this.#key.decode(next))
      key = next
    }
  }

  maxEntries(): number {
    // struct bpf_map_info: type, id, key size, value size, max_entries
    return objectInfo(this.fd, 20).readUInt32LE(16)
  }

  close(): void {
    close(this.fd)
  }
}

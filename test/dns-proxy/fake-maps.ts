/** The maps that learning uses, in memory: what a test believes of the kernel, it sees here. */
import { ctKeyCodec, type LearnedKey, type LearnedState, type LearnedValue, learnedKeyCodec, learnedValueCodec } from '#bpf/gen/abi.ts'
import type { Codec } from '#bpf/map.ts'
import type { KernelMaps } from '#bpf/maps.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'

const E2BIG = 7
const BATCH_COUNT = 256

class FakeMap<K, V> {
  readonly rows = new Map<string, Buffer>()
  readonly #key: Codec<K>
  readonly #value: Codec<V>
  readonly #entriesMax: number
  writeCount = 0

  constructor(key: Codec<K>, value: Codec<V>, entriesMax: number) {
    this.#key = key
    this.#value = value
    this.#entriesMax = entriesMax
  }

  get(key: K): V | undefined {
    const bytes = this.rows.get(this.#textOf(key))
    return bytes && this.#value.decode(bytes)
  }

  set(key: K, value: V): void {
    const text = this.#textOf(key)
    if (!this.rows.has(text) && this.rows.size >= this.#entriesMax) throw new SystemCallError('bpf', E2BIG, 'fake')
    this.writeCount++
    this.rows.set(text, this.#value.encode(value))
  }

  delete(key: K): boolean {
    this.writeCount++
    return this.rows.delete(this.#textOf(key))
  }

  keys(): K[] {
    return [...this.rows.keys()].map((text) => this.#key.decode(Buffer.from(text, 'latin1')))
  }

  *rawBatches(): Generator<{ readonly keys: Buffer; readonly values: Buffer; readonly count: number }> {
    const rows = [...this.rows]
    for (let first = 0; first < rows.length || first === 0; first += BATCH_COUNT) {
      const batch = rows.slice(first, first + BATCH_COUNT)
      yield {
        keys: Buffer.concat(batch.map(([text]) => Buffer.from(text, 'latin1'))),
        values: Buffer.concat(batch.map(([, value]) => value)),
        count: batch.length,
      }
    }
  }

  #textOf(key: K): string {
    return this.#key.encode(key).toString('latin1')
  }
}

const stateCodec: Codec<LearnedState> = {
  size: 8,
  encode: ({ revision }) => Buffer.from(Uint32Array.of(revision, 0).buffer),
  decode: (bytes) => ({ revision: bytes.readUInt32LE(0) }),
}
const indexCodec: Codec<number> = {
  size: 4,
  encode: (index) => Buffer.from(Uint32Array.of(index).buffer),
  decode: (bytes) => bytes.readUInt32LE(0),
}
const anyCodec: Codec<Buffer> = { size: 0, encode: (bytes) => bytes, decode: (bytes) => bytes }

export class FakeMaps {
  readonly learned: FakeMap<LearnedKey, LearnedValue>
  readonly #state = new FakeMap<number, LearnedState>(indexCodec, stateCodec, 1)
  readonly #conntrack = new FakeMap<Parameters<typeof ctKeyCodec.encode>[0], Buffer>(ctKeyCodec, anyCodec, 1_000_000)

  constructor(entriesMax = 131_072) {
    this.learned = new FakeMap(learnedKeyCodec, learnedValueCodec, entriesMax)
  }

  /** As LearnedNames takes them. */
  get maps(): Pick<KernelMaps, 'learnedAddresses' | 'learnedState' | 'conntrack'> {
    return { learnedAddresses: this.learned, learnedState: this.#state, conntrack: this.#conntrack } as unknown as KernelMaps
  }

  get revision(): number {
    return this.#state.get(0)?.revision ?? 0
  }

  /** Selectors of each row, by ADDRESS or ENDPOINT/ADDRESS. */
  rows(): Record<string, number[]> {
    const entries = this.learned.keys().map((key) => {
      const selectors = (this.learned.get(key)?.selectors ?? []).map(({ identity }) => identity).filter((id) => id !== 0)
      return [`${key.endpointId === 0 ? '' : `${key.endpointId}/`}${bytesToAddress(key.address)}`, selectors] as const
    })
    return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  put(address: string, selectors: readonly number[], endpointId = 0): void {
    this.learned.set(
      { address: addressToBytes(address), endpointId },
      { selectors: Array.from({ length: 8 }, (_, index) => ({ identity: selectors[index] ?? 0 })) },
    )
  }

  connect(address: string, endpointId = 1): void {
    this.#conntrack.set(connectionOf(address, endpointId), Buffer.alloc(32))
  }

  disconnect(address: string, endpointId = 1): void {
    this.#conntrack.delete(connectionOf(address, endpointId))
  }
}

function connectionOf(address: string, endpointId: number): Parameters<typeof ctKeyCodec.encode>[0] {
  return {
    local: addressToBytes('10.0.0.1'),
    remote: addressToBytes(address),
    localPort: 40000,
    remotePort: 80,
    protocol: 6,
    side: 0,
    endpointId,
  }
}

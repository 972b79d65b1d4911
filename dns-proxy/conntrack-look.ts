/**
 * One look at the tracked connections for the sake of some addresses: which of them does a connection still have? The map is read a batch
 * at a time, so that queries are answered between batches; what connects meanwhile may be missed, which is why one look decides nothing.
 */
import { ctKeyCodec } from '#bpf/gen/abi.ts'
import type { KernelMaps } from '#bpf/maps.ts'

export interface LookedFor {
  /** 0: a connection of any endpoint counts. */
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Buffer
}

const ADDRESS_BYTES = 16
/** Some 0.7 ms. */
const BATCH_COUNT = 1024
/** The last four bytes differ most, of IPv4 and of IPv6. */
const TAIL_OFFSET = 12
const REMOTE_OFFSET = offsetOf('remote')
const ENDPOINT_OFFSET = offsetOf('endpointId')

export class ConntrackLook<Candidate extends LookedFor> {
  /** Of the candidates, those that have connections; complete when step() has said so. */
  readonly seen = new Set<Candidate>()
  readonly #candidates: readonly Candidate[]
  #judgedCount = 0
  readonly #byTail = new Map<number, Candidate[]>()
  readonly #batches: ReturnType<KernelMaps['conntrack']['rawBatches']>

  constructor(conntrack: Pick<KernelMaps['conntrack'], 'rawBatches'>, candidates: readonly Candidate[]) {
    this.#candidates = candidates
    this.#batches = conntrack.rawBatches(BATCH_COUNT)
    for (const candidate of candidates) {
      const tail = candidate.address.readUInt32LE(TAIL_OFFSET)
      const same = this.#byTail.get(tail)
      if (same === undefined) this.#byTail.set(tail, [candidate])
      else same.push(candidate)
    }
  }

  /** Whether takeJudged has not given all. */
  get hasMore(): boolean {
    return this.#judgedCount < this.#candidates.length
  }

  /** The next so many candidates, for whoever decides about them when everything is read. */
  takeJudged(countMax: number): readonly Candidate[] {
    const candidates = this.#candidates.slice(this.#judgedCount, this.#judgedCount + countMax)
    this.#judgedCount += candidates.length
    return candidates
  }

  /** Reads one batch. @returns whether that was the last */
  step(): boolean {
    const { value, done } = this.#batches.next()
    if (done || value === undefined) return true
    const { keys, count } = value
    for (let index = 0; index < count; index++) {
      const offset = index * ctKeyCodec.size
      const same = this.#byTail.get(keys.readUInt32LE(offset + REMOTE_OFFSET + TAIL_OFFSET))
      if (same === undefined) continue
      for (const candidate of same) {
        if (this.seen.has(candidate)) continue
        const { address, endpointId } = candidate
        if (endpointId !== 0 && keys.readUInt32LE(offset + ENDPOINT_OFFSET) !== endpointId) continue
        const remoteOffset = offset + REMOTE_OFFSET
        if (address.compare(keys, remoteOffset, remoteOffset + ADDRESS_BYTES) === 0) this.seen.add(candidate)
      }
    }
    return false
  }
}

function offsetOf(name: string): number {
  const field = ctKeyCodec.layout.fields.find((each) => each.name === name)
  if (field === undefined) throw new TypeError(`no field of struct ct_key: ${name}`)
  return field.offset
}

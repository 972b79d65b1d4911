/**
 * One look at the tracked connections for the sake of some addresses: which of them does a connection still have? It goes on in small steps, so
 * that queries are answered in between; what connects meanwhile may be missed, which is why one look decides nothing.
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
/** In a map that is nearly empty the kernel walks most of the table for a batch: of this many, some 0.3 ms in one of half a million. */
const BATCH_COUNT = 64
/** The last four bytes differ most, of IPv4 and of IPv6. */
const TAIL_OFFSET = 12
const REMOTE_OFFSET = offsetOf('remote')
const ENDPOINT_OFFSET = offsetOf('endpointId')

export class ConntrackLook<Candidate extends LookedFor> {
  /** Of the candidates, those that have connections; complete when step() has said so. */
  readonly seen = new Set<Candidate>()
  readonly #candidates: Candidate[] = []
  #judgedCount = 0
  readonly #byTail = new Map<number, { readonly candidate: Candidate; readonly address: Buffer }[]>()
  readonly #steps: Generator<void>

  /** @param all may change while they are read @param isMeant which of them are the candidates */
  constructor(
    conntrack: Pick<KernelMaps['conntrack'], 'rawBatches'>,
    all: Iterable<Candidate>,
    isMeant: (candidate: Candidate) => boolean,
  ) {
    this.#steps = this.#run(conntrack, all, isMeant)
  }

  /** Whether takeJudged has not given all. */
  get hasMore(): boolean {
    return this.#judgedCount < this.#candidates.length
  }

  /** The next candidate, for whoever decides about them when everything is read. */
  takeJudged(): Candidate | undefined {
    const candidate = this.#candidates[this.#judgedCount]
    if (candidate !== undefined) this.#judgedCount += 1
    return candidate
  }

  /** @param hasTime asked after each part @returns whether everything is read */
  step(hasTime: () => boolean = () => true): boolean {
    do {
      if (this.#steps.next().done) return true
    } while (hasTime())
    return false
  }

  *#run(conntrack: Pick<KernelMaps['conntrack'], 'rawBatches'>, all: Iterable<Candidate>, isMeant: (candidate: Candidate) => boolean) {
    for (const candidate of all) {
      if (isMeant(candidate)) this.#add(candidate)
      yield
    }
    if (this.#candidates.length === 0) return
    for (const { keys, count } of conntrack.rawBatches(BATCH_COUNT)) {
      this.#read(keys, count)
      yield
    }
  }

  #add(candidate: Candidate): void {
    this.#candidates.push(candidate)
    const { address } = candidate
    const tail = address.readUInt32LE(TAIL_OFFSET)
    const same = this.#byTail.get(tail)
    if (same === undefined) this.#byTail.set(tail, [{ candidate, address }])
    else same.push({ candidate, address })
  }

  #read(keys: Buffer, count: number): void {
    for (let index = 0; index < count; index++) {
      const offset = index * ctKeyCodec.size
      const same = this.#byTail.get(keys.readUInt32LE(offset + REMOTE_OFFSET + TAIL_OFFSET))
      if (same === undefined) continue
      for (const { candidate, address } of same) {
        if (this.seen.has(candidate)) continue
        const { endpointId } = candidate
        if (endpointId !== 0 && keys.readUInt32LE(offset + ENDPOINT_OFFSET) !== endpointId) continue
        const remoteOffset = offset + REMOTE_OFFSET
        if (address.compare(keys, remoteOffset, remoteOffset + ADDRESS_BYTES) === 0) this.seen.add(candidate)
      }
    }
  }
}

function offsetOf(name: string): number {
  const field = ctKeyCodec.layout.fields.find((each) => each.name === name)
  if (field === undefined) throw new TypeError(`no field of struct ct_key: ${name}`)
  return field.offset
}

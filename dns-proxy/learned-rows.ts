/** The kernel's rows of learned addresses, which this process alone writes, and the word to its programs that some row says less. */
import { LEARNED_SELECTORS_MAX, learnedKeyCodec, learnedValueCodec } from '#bpf/gen/abi.ts'
import type { KernelMaps } from '#bpf/maps.ts'
import { SystemCallError } from '#sys/errors.ts'

/** Where a row is: its key. */
export interface RowPlace {
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Uint8Array
}

interface RowSelector {
  identity: number
}

/** What there is no room for has these errnos, by the kind of map. */
const NO_ROOM: ReadonlySet<string> = new Set(['E2BIG', 'ENOSPC'])

export class LearnedRows {
  readonly #maps: Pick<KernelMaps, 'learnedAddresses' | 'learnedState'>
  /** Some row lost a selector, and connections were not told yet. */
  #isLess = false
  /** Written again for each row. */
  readonly #row: { readonly selectors: readonly RowSelector[] } = {
    selectors: Array.from({ length: LEARNED_SELECTORS_MAX }, () => ({ identity: 0 })),
  }

  constructor(maps: Pick<KernelMaps, 'learnedAddresses' | 'learnedState'>) {
    this.#maps = maps
  }

  /** What an earlier process left. */
  *read(): Generator<RowPlace & { readonly selectors: readonly number[] }> {
    for (const { keys, values, count } of this.#maps.learnedAddresses.rawBatches()) {
      for (let index = 0; index < count; index++) {
        const { endpointId, address } = learnedKeyCodec.decode(keys.subarray(index * learnedKeyCodec.size))
        const { selectors } = learnedValueCodec.decode(values.subarray(index * learnedValueCodec.size))
        yield { endpointId, address, selectors: selectors.map(({ identity }) => identity).filter((id) => id !== 0) }
      }
    }
  }

  /**
   * @param selectors sorted; at most LEARNED_SELECTORS_MAX @param before what the row says so far; empty: there is none
   * @returns whether there was room
   */
  write(place: RowPlace, selectors: readonly number[], before: readonly number[]): boolean {
    if (selectors.length === 0) {
      if (before.length > 0) this.#maps.learnedAddresses.delete(place)
    } else if (!isSame(selectors, before)) {
      try {
        const row = this.#row
        for (let index = 0; index < LEARNED_SELECTORS_MAX; index++) (row.selectors[index] as RowSelector).identity = selectors[index] ?? 0
        this.#maps.learnedAddresses.set(place, row)
      } catch (error) {
        if (error instanceof SystemCallError && NO_ROOM.has(error.code)) return false
        throw error
      }
    }
    this.#isLess ||= before.length > 0 && before.some((id) => !selectors.includes(id))
    return true
  }

  /** Has connections judged again that a row let through which says less now. */
  tellLess(): void {
    if (!this.#isLess) return
    this.#isLess = false
    const { revision = 0 } = this.#maps.learnedState.get(0) ?? {}
    this.#maps.learnedState.set(0, { revision: (revision + 1) >>> 0 })
  }
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id, index) => id === b[index])
}

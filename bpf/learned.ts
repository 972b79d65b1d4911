/** Addresses that DNS answers taught, as the kernel looks them up (bpf/src/abi.h, learned_addresses). */
import type { LearnedKey, LearnedValue } from './gen/abi.ts'
import type { BpfMap } from './map.ts'

/** Selectors that an address stands for to an endpoint: what everybody knows of it, then what only that endpoint was told. */
export function selectorsOf(map: BpfMap<LearnedKey, LearnedValue>, address: Uint8Array, endpointId: number): number[] {
  return [0, endpointId].flatMap((scope) => {
    const selectors = map.get({ address, endpointId: scope })?.selectors ?? []
    const end = selectors.findIndex(({ identity }) => identity === 0)
    return (end < 0 ? selectors : selectors.slice(0, end)).map(({ identity }) => identity)
  })
}

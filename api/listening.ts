/** Slots that listen, as ProxyReport and DnsReport list them. A slot of another generation is another one. */
const GENERATION_BITS = 12

/** @returns id << 12 | generation, as an unsigned number of 32 bits */
export function listeningNumber(id: number, generation: number): number {
  return ((id << GENERATION_BITS) | generation) >>> 0
}

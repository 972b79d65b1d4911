/** Memory of several connections of a worker together, for one purpose. */
export class MemoryBudget {
  readonly bytesMax: number
  readonly #whole: MemoryBudget | undefined
  #usedBytes = 0

  /** @param whole what this is a share of: what is taken here is taken there too */
  constructor(bytesMax: number, whole?: MemoryBudget) {
    this.bytesMax = bytesMax
    this.#whole = whole
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  /** @returns whether there was so much left */
  take(bytes: number): boolean {
    if (this.#usedBytes + bytes > this.bytesMax || this.#whole?.take(bytes) === false) return false
    this.#usedBytes += bytes
    return true
  }

  giveBack(bytes: number): void {
    this.#usedBytes -= bytes
    this.#whole?.giveBack(bytes)
  }
}

/**
 * What runs out first, first: a binary heap whose items know their place, so that one which lasts longer, or goes before its time, costs a
 * few steps, and nothing dead is left in it.
 */

export interface Expiring {
  /** Changed through the heap alone while it is in one. */
  expiresMs: number
  /** Place in the heap; -1 when it is in none. */
  heapIndex: number
}

export class ExpiryHeap<Item extends Expiring> {
  readonly #items: Item[] = []

  /** Adds an item, or gives one that is here another time. */
  set(item: Item, expiresMs: number): void {
    item.expiresMs = expiresMs
    if (item.heapIndex < 0) item.heapIndex = this.#items.push(item) - 1
    this.#settle(item)
  }

  /** Without effect on an item that is not here. */
  remove(item: Item): void {
    const { heapIndex } = item
    if (heapIndex < 0) return
    item.heapIndex = -1
    const last = this.#items.pop() as Item
    if (last === item) return
    this.#put(last, heapIndex)
    this.#settle(last)
  }

  /** When the first item runs out; Infinity when there is none. */
  get firstMs(): number {
    return this.#items[0]?.expiresMs ?? Number.POSITIVE_INFINITY
  }

  /** Takes the first item that has run out, if there is one. */
  takeExpired(nowMs: number): Item | undefined {
    const first = this.#items[0]
    if (first === undefined || first.expiresMs > nowMs) return undefined
    this.remove(first)
    return first
  }

  #put(item: Item, index: number): void {
    this.#items[index] = item
    item.heapIndex = index
  }

  #settle(item: Item): void {
    let index = item.heapIndex
    for (; index > 0; ) {
      const parentIndex = (index - 1) >> 1
      const parent = this.#items[parentIndex] as Item
      if (parent.expiresMs <= item.expiresMs) break
      this.#put(parent, index)
      index = parentIndex
    }
    for (;;) {
      const leftIndex = 2 * index + 1
      const left = this.#items[leftIndex]
      if (left === undefined) break
      const right = this.#items[leftIndex + 1]
      const child = right !== undefined && right.expiresMs < left.expiresMs ? right : left
      if (child.expiresMs >= item.expiresMs) break
      const childIndex = child.heapIndex
      this.#put(child, index)
      index = childIndex
    }
    this.#put(item, index)
  }
}

/**
 * The last flows of this node, and those who follow them. A ring of fixed size: the oldest go first. A follower that is too slow loses
 * flows of its own, counted, and never holds up the others.
 */
import type { Flow } from './flow.ts'

export type FlowListener = (flow: Flow) => void

export class FlowRing {
  readonly #flows: (Flow | undefined)[]
  readonly #listeners = new Set<FlowListener>()
  #next = 0
  #seen = 0
  #lost = 0

  /** @param size flows kept */
  constructor(size: number) {
    this.#flows = new Array<Flow | undefined>(size).fill(undefined)
  }

  /** Flows ever added. */
  get seen(): number {
    return this.#seen
  }

  /** Flows that never arrived: dropped by the kernel's ring, Envoy or the proxy. */
  get lost(): number {
    return this.#lost
  }

  add(flow: Flow): void {
    this.#flows[this.#next] = flow
    this.#next = (this.#next + 1) % this.#flows.length
    this.#seen++
    for (const listener of this.#listeners) listener(flow)
  }

  addLost(count: number): void {
    this.#lost += count
  }

  /** Oldest first. @param count at most so many of the newest; 0: all */
  last(count: number, matches: (flow: Flow) => boolean): Flow[] {
    const ordered = [...this.#flows.slice(this.#next), ...this.#flows.slice(0, this.#next)]
    const found = ordered.filter((flow): flow is Flow => flow !== undefined && matches(flow))
    return count === 0 ? found : found.slice(-count)
  }

  /** @returns a function that ends it */
  follow(listener: FlowListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

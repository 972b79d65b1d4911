/**
 * Numbers that stand for the origins of rows: the kernel keeps a number with each row and connection, flows show the rules behind it.
 * A number is made from what it stands for, so that rows which an earlier agent wrote mean the same. Those of no row any more are
 * remembered for a while: connections and events outlive rows.
 */
import { createHash } from 'node:crypto'

const SPENT_MAX = 65536

interface Entry {
  readonly origins: readonly string[]
  readonly text: string
  /** Rows that have it. */
  rowCount: number
}

export class Cookies {
  readonly #inUse = new Map<number, Entry>()
  /** Least recently used first. */
  readonly #spent = new Map<number, readonly string[]>()
  /** Rows of one block share their list. */
  readonly #known = new WeakMap<readonly string[], number>()

  /** For one row more. @returns 0 for no origins */
  use(origins: readonly string[]): number {
    if (origins.length === 0) return 0
    const known = this.#known.get(origins)
    const entry = known === undefined ? undefined : this.#inUse.get(known)
    if (known !== undefined && entry?.origins === origins) {
      entry.rowCount++
      return known
    }
    const text = origins.join('\n')
    let cookie = createHash('sha256').update(text).digest().readUInt32LE(0) || 1
    while (this.#isTaken(cookie, text)) cookie = (cookie + 1) >>> 0 || 1
    this.#known.set(origins, cookie)
    const same = this.#inUse.get(cookie)
    if (same === undefined) this.#inUse.set(cookie, { origins, text, rowCount: 1 })
    else same.rowCount++
    this.#spent.delete(cookie)
    return cookie
  }

  /** For one row less. */
  release(cookie: number): void {
    const entry = this.#inUse.get(cookie)
    if (entry === undefined) return
    entry.rowCount--
    if (entry.rowCount > 0) return
    this.#inUse.delete(cookie)
    this.#spent.set(cookie, entry.origins)
    if (this.#spent.size <= SPENT_MAX) return
    const oldest = this.#spent.keys().next().value
    if (oldest !== undefined) this.#spent.delete(oldest)
  }

  originsOf(cookie: number): readonly string[] {
    return this.#inUse.get(cookie)?.origins ?? this.#spent.get(cookie) ?? []
  }

  #isTaken(cookie: number, text: string): boolean {
    const entry = this.#inUse.get(cookie)
    return entry !== undefined && entry.text !== text
  }
}

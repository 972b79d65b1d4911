/**
 * Queries on their way: by the upstream port that they left from and the id that they were given there. Both are random, so that
 * whoever cannot see the query has 2^16 times the number of ports to guess; who answered is checked besides.
 */
import { randomInt } from 'node:crypto'
import type { QueryVerdict } from './slot-rules.ts'

/** A query that was let go, by whichever transport, and that has no answer yet. */
export interface OpenQuery {
  readonly clientAddress: Uint8Array
  readonly clientPort: number
  readonly serverAddress: Uint8Array
  readonly serverPort: number
  /** As the client gave it. */
  readonly clientId: number
  readonly name: string
  readonly type: number
  /** The question as it was sent, one character a byte: an answer has to repeat it in the same case. */
  readonly question: string
  readonly slotId: number
  readonly endpointId: number
  readonly verdict: QueryVerdict
  readonly startedMs: number
}

/** One over UDP. */
export interface Transaction extends OpenQuery {
  /** Index of the upstream socket. */
  readonly socket: number
  readonly id: number
}

const ID_COUNT = 65536
const TRIES_MAX = 64

export class Transactions {
  readonly #bySocket: readonly Map<number, Transaction>[]
  readonly #countMax: number
  #count = 0

  /** @param countMax queries that may be on their way at once */
  constructor(socketCount: number, countMax: number) {
    this.#bySocket = Array.from({ length: socketCount }, () => new Map<number, Transaction>())
    this.#countMax = countMax
  }

  get count(): number {
    return this.#count
  }

  /** @returns undefined when too many are on their way */
  open(query: OpenQuery): Transaction | undefined {
    if (this.#count >= this.#countMax) return undefined
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const drawn = randomInt(this.#bySocket.length * ID_COUNT)
      const socket = Math.floor(drawn / ID_COUNT)
      const id = drawn % ID_COUNT
      const open = this.#bySocket[socket]
      if (open === undefined || open.has(id)) continue
      const transaction = { ...query, socket, id }
      open.set(id, transaction)
      this.#count += 1
      return transaction
    }
    return undefined
  }

  find(socket: number, id: number): Transaction | undefined {
    return this.#bySocket[socket]?.get(id)
  }

  close({ socket, id }: Transaction): void {
    if (this.#bySocket[socket]?.delete(id)) this.#count -= 1
  }

  /** Ends those that began before a moment. Maps keep the order of insertion, so it looks at no more than one that is younger a socket. */
  *expire(startedBeforeMs: number): Generator<Transaction> {
    for (const open of this.#bySocket) {
      for (const transaction of open.values()) {
        if (transaction.startedMs >= startedBeforeMs) break
        this.close(transaction)
        yield transaction
      }
    }
  }
}

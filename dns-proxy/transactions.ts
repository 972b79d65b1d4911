/**
 * Queries on their way over UDP: by the upstream port that they left from and the id that they were given there. Both are random, so that
 * whoever cannot see the query has 2^16 times the number of ports to guess; who answered, whom, and what was asked are checked besides.
 *
 * Each port is a socket and so a call into the kernel for what leaves together; a batch therefore draws a few ports, and its queries share
 * them. Seen from one query nothing changes: its port is any of all, its id any of 2^16, and both are new with the next batch. What is
 * lost is against somebody who sees a query of the same batch, sent to a server of his own: one of the ports of that moment is known to him,
 * for a moment that he cannot choose, and the id, the server, the client and the case of the name are to be guessed all the same.
 */
import type { Client, DnsServer } from './query-limits.ts'
import { randomId, randomIndex } from './random-numbers.ts'
import type { JudgedQuestion } from './slot-rules.ts'

/** A query that was let go, by whichever transport, and that has no answer yet. */
export interface OpenQuery {
  readonly client: Client
  readonly clientPort: number
  readonly server: DnsServer
  readonly serverPort: number
  /** As the client gave it. */
  readonly clientId: number
  readonly asked: JudgedQuestion
  readonly slotId: number
  readonly startedMs: number
}

/** One over UDP. */
export interface Transaction extends OpenQuery {
  /** Index of the upstream socket. Both are drawn when it is opened. */
  socket: number
  id: number
}

const ID_BITS = 16
const TRIES_MAX = 64
const QUERIES_OF_PORT = 16

export class Transactions {
  /** By socket and id, in the order in which they began. */
  readonly #open = new Map<number, Transaction>()
  readonly #socketCount: number
  /** Drawn for the current batch. */
  readonly #drawn: number[] = []

  constructor(socketCount: number) {
    this.#socketCount = socketCount
    this.draw(1)
  }

  get count(): number {
    return this.#open.size
  }

  /** Draws the ports for queries that leave together. */
  draw(queryCount: number): void {
    this.#drawn.length = 0
    for (let count = 0; count < queryCount; count += QUERIES_OF_PORT) this.#drawn.push(randomIndex(this.#socketCount))
  }

  /** Gives a query its socket and id. @returns false when no free id could be found */
  open(transaction: Transaction): boolean {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const socket = this.#drawn[randomIndex(this.#drawn.length)] as number
      const id = randomId()
      const key = (socket << ID_BITS) | id
      if (this.#open.has(key)) continue
      transaction.socket = socket
      transaction.id = id
      this.#open.set(key, transaction)
      return true
    }
    return false
  }

  find(socket: number, id: number): Transaction | undefined {
    return this.#open.get((socket << ID_BITS) | id)
  }

  close({ socket, id }: Transaction): void {
    this.#open.delete((socket << ID_BITS) | id)
  }

  /** Ends those that began before a moment, the oldest first; it looks at no more than one that is younger. */
  *expire(startedBeforeMs: number): Generator<Transaction> {
    for (const transaction of this.#open.values()) {
      if (transaction.startedMs >= startedBeforeMs) return
      this.close(transaction)
      yield transaction
    }
  }
}

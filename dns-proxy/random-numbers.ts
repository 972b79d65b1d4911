/** Random numbers that cannot be foretold, drawn by the thousand: a call into OpenSSL for each would cost more than the rest of a query. */
import { randomFillSync } from 'node:crypto'

const POOL_COUNT = 2048
const TWO_TO_32 = 2 ** 32

const pool = new Uint32Array(POOL_COUNT)
let nextIndex = POOL_COUNT

/** 32 bits. */
function randomWord(): number {
  if (nextIndex === POOL_COUNT) {
    randomFillSync(pool)
    nextIndex = 0
  }
  const word = pool[nextIndex] as number
  // What was used stays nowhere.
  pool[nextIndex++] = 0
  return word
}

/** A message's id. */
export function randomId(): number {
  return randomWord() & 0xffff
}

/** @param count few of 2^32, so that none is likelier than others by more than that share @returns 0 to count - 1 */
export function randomIndex(count: number): number {
  return Math.floor((randomWord() / TWO_TO_32) * count)
}

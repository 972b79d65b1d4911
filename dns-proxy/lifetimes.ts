/** Lets what is learned run out in time: a step each second, and looks at conntrack that take turns with queries. */
import type { LearnedNames } from './learned-names.ts'

const STEP_MS = 1000
/** From the end of a look to the next: connections of half a second are seen by one of two. */
const LOOK_INTERVAL_MS = 5000
/** A full map takes half a second: looks are to cost a twentieth of the time at most. */
const LOOK_PAUSE_FACTOR = 20

export class Lifetimes {
  readonly #names: LearnedNames
  readonly #timer: NodeJS.Timeout
  #isLooking = false
  #nextLookMs = 0
  #isClosed = false

  constructor(names: LearnedNames) {
    this.#names = names
    this.#timer = setInterval(() => this.#step(), STEP_MS)
  }

  close(): void {
    this.#isClosed = true
    clearInterval(this.#timer)
  }

  #step(): void {
    if (this.#isClosed) return
    const nowMs = performance.now()
    if (!this.#names.expire(nowMs)) {
      setImmediate(() => this.#step())
      return
    }
    if (this.#isLooking || nowMs < this.#nextLookMs) return
    const look = this.#names.beginLook(nowMs)
    if (look === undefined) return
    this.#isLooking = true
    let costMs = 0
    const read = (): void => {
      if (this.#isClosed) return
      const startedMs = performance.now()
      const isComplete = look.step()
      costMs += performance.now() - startedMs
      setImmediate(isComplete ? judge : read)
    }
    const judge = (): void => {
      if (this.#isClosed) return
      if (!this.#names.endLook(look, nowMs)) {
        setImmediate(judge)
        return
      }
      this.#isLooking = false
      this.#nextLookMs = performance.now() + Math.max(LOOK_INTERVAL_MS, costMs * LOOK_PAUSE_FACTOR)
    }
    setImmediate(read)
  }
}

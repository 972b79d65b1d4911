/**
 * Lets what is learned run out in time, and looks at conntrack for what has. All of it goes in slices between queries: whoever waits for an
 * answer waits no longer than one of them.
 */
import type { LearnedNames } from './learned-names.ts'

/** Between two looks at what has run out; longer while nothing does. */
const STEP_MS_MIN = 25
const STEP_MS_MAX = 1000
const SLICE_MS = 0.3
/** From the end of a look to the next: connections of half a second are seen by one of two. */
const LOOK_INTERVAL_MS = 5000
/** A full map takes half a second: looks are to cost a twentieth of the time at most. */
const LOOK_PAUSE_FACTOR = 20

export class Lifetimes {
  readonly #names: LearnedNames
  #timer: NodeJS.Timeout | undefined
  #isLooking = false
  #nextLookMs = 0
  #isClosed = false

  constructor(names: LearnedNames) {
    this.#names = names
    this.#wait()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  #wait(): void {
    const untilNextMs = this.#names.nextExpiryMs - performance.now()
    this.#timer = setTimeout(() => this.#expire(), Math.min(STEP_MS_MAX, Math.max(STEP_MS_MIN, untilNextMs)))
  }

  #expire(): void {
    const nowMs = performance.now()
    this.#inSlices(
      (hasTime) => this.#names.expire(nowMs, hasTime),
      () => {
        this.#look()
        this.#wait()
      },
    )
  }

  #look(): void {
    const nowMs = performance.now()
    if (this.#isLooking || nowMs < this.#nextLookMs) return
    const look = this.#names.beginLook(nowMs)
    if (look === undefined) return
    this.#isLooking = true
    let costMs = 0
    const read = (hasTime: () => boolean): boolean => {
      const startedMs = performance.now()
      const isComplete = look.step(hasTime)
      costMs += performance.now() - startedMs
      return isComplete
    }
    const end = (): void => {
      this.#isLooking = false
      this.#nextLookMs = performance.now() + Math.max(LOOK_INTERVAL_MS, costMs * LOOK_PAUSE_FACTOR)
    }
    this.#inSlices(read, () => this.#inSlices((hasTime) => this.#names.endLook(look, nowMs, hasTime), end))
  }

  /** @param work goes on until it has no time, and says whether it is done */
  #inSlices(work: (hasTime: () => boolean) => boolean, then: () => void): void {
    if (this.#isClosed) return
    const untilMs = performance.now() + SLICE_MS
    if (work(() => performance.now() < untilMs)) then()
    else setImmediate(() => this.#inSlices(work, then))
  }
}

/** Work that can wait until a burst of changes is over, and that is to be done once after it. */

export class QuietTime {
  readonly #timer: NodeJS.Timeout
  #isDue = false

  /** @param afterMs without a change @param work must not take longer than a change of policy may wait */
  constructor(afterMs: number, work: () => void) {
    this.#timer = setTimeout(() => {
      if (!this.#isDue) return
      this.#isDue = false
      work()
    }, afterMs).unref()
  }

  /** Something changed. */
  touch(): void {
    this.#isDue = true
    this.#timer.refresh()
  }

  stop(): void {
    this.#isDue = false
    clearTimeout(this.#timer)
  }
}

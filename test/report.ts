/**
 * Reads AVA's TAP as it streams: counts, prints a line of progress per test and every failure in full. AVA's own
 * reporters end in no fixed closing line, and its TAP counts a crashed test process as no test at all; here it is a failure.
 */

export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export class TapReader {
  readonly #print: (text: string) => void
  readonly #failures: string[][] = []
  #current: string[] | undefined
  #passed = 0
  #failed = 0
  #skipped = 0
  #declaredFailed = 0

  /** @param print gets text with its line ends */
  constructor(print: (text: string) => void) {
    this.#print = print
  }

  /** Takes one line without its line end. */
  line(line: string): void {
    const result = /^(not ok|ok) \d+(?: - (.*))?$/.exec(line)
    if (result !== null) {
      this.#current = undefined
      this.#result(result[1] === 'ok', result[2] ?? '')
      return
    }
    const declared = /^# fail (\d+)$/.exec(line)
    if (declared !== null) this.#declaredFailed = Number(declared[1])
    // What a test logged comes before its diagnostics, as a comment.
    if (/^(TAP version|\d+\.\.\d+|# (tests|pass|skip|todo|fail) )/.test(line)) this.#current = undefined
    else if (this.#current !== undefined) {
      this.#current.push(line)
      this.#print(`${line}\n`)
    } else if (line.trim() !== '' && !line.startsWith('  ')) this.#print(`${line}\n`)
  }

  /** @param exitCode of AVA; undefined when a signal ended it */
  end(exitCode: number | undefined): Totals {
    // A test process that was killed is one "not ok" in the stream but more in AVA's count.
    let failed = Math.max(this.#failed, this.#declaredFailed)
    if (this.#passed + failed === 0) {
      this.#print('not ok: no test ran\n')
      failed = 1
    } else if (exitCode !== 0 && failed === 0) {
      this.#print(`not ok: the test runner ended with ${exitCode === undefined ? 'a signal' : `exit code ${exitCode}`}\n`)
      failed = 1
    }
    return { passed: this.#passed, failed, skipped: this.#skipped }
  }

  /** Every failure again, for the end of a long run: title and diagnostics. */
  failures(): readonly (readonly string[])[] {
    return this.#failures
  }

  #result(ok: boolean, text: string): void {
    const skipped = / # (SKIP|TODO)\b.*$/.exec(text)
    const title = skipped === null ? text : text.slice(0, skipped.index)
    if (!ok) {
      this.#failed += 1
      this.#current = [title]
      this.#failures.push(this.#current)
      this.#print(`  ✘ ${title}\n`)
    } else if (skipped !== null) {
      this.#skipped += 1
      this.#print(`  - ${title} (${skipped[1] === 'SKIP' ? 'skipped' : 'to do'})\n`)
    } else {
      this.#passed += 1
      this.#print(`  ✔ ${title}\n`)
    }
  }
}

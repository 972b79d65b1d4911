/**
 * What is wrong with a policy file, as its author is told: every problem at once, each with its place and what to write instead.
 * The list is bounded, because a file of a few megabytes can hold a problem on every line and nobody reads the ten-thousandth.
 */

/** Where a node of a document stands. Lines and columns count from 1. */
export interface Position {
  readonly file: string
  readonly line: number
  readonly column: number
  /** Path inside the document: spec.ingress[0].toPorts[0].ports[0].port; empty for the document itself. */
  readonly path: string
}

export const SEVERITIES = ['error', 'warning'] as const
export type Severity = (typeof SEVERITIES)[number]

/** One problem of a file; the same fields as Problem in api/local.proto. */
export interface Problem extends Position {
  readonly severity: Severity
  readonly message: string
  /** What to write instead; empty when the message says it. */
  readonly hint: string
}

export const PROBLEM_COUNT_MAX = 200
/** Messages end in the value that is wrong, which can be as long as the file. */
export const PROBLEM_TEXT_LENGTH_MAX = 400

/** Collects the problems of one file; errors beyond the maximum are counted, not kept. */
export class ProblemList {
  readonly #problems: Problem[] = []
  #omittedCount = 0
  #errorCount = 0
  readonly #said = new Set<string>()

  get errorCount(): number {
    return this.#errorCount
  }

  add(severity: Severity, at: Position, message: string, hint = ''): void {
    if (severity === 'error') this.#errorCount += 1
    if (this.#problems.length >= PROBLEM_COUNT_MAX) {
      this.#omittedCount += 1
      return
    }
    const { file, line, column, path } = at
    this.#problems.push({ severity, file, line, column, path: clip(path), message: clip(message), hint: clip(hint) })
  }

  error(at: Position, message: string, hint = ''): void {
    this.add('error', at, message, hint)
  }

  warning(at: Position, message: string, hint = ''): void {
    this.add('warning', at, message, hint)
  }

  /** For what is worth saying of a file, not of each place in it. @param about what must not be said twice */
  warningOnce(about: string, at: Position, message: string, hint: string): void {
    if (!this.#said.has(about)) this.warning(at, message, hint)
    this.#said.add(about)
  }

  /** In the order of the file, with a last entry that counts what was left out. */
  toArray(): readonly Problem[] {
    const sorted = [...this.#problems].sort((a, b) => a.line - b.line || a.column - b.column)
    const last = sorted.at(-1)
    if (this.#omittedCount > 0 && last !== undefined) {
      // Errors may be among those left out, so the closing entry must not read as less than they are.
      const severity = this.#errorCount > 0 ? 'error' : 'warning'
      sorted.push({ ...last, severity, path: '', message: `more problems are not shown: ${this.#omittedCount}`, hint: '' })
    }
    return sorted
  }
}

function clip(text: string): string {
  return text.length <= PROBLEM_TEXT_LENGTH_MAX ? text : `${text.slice(0, PROBLEM_TEXT_LENGTH_MAX)}…`
}

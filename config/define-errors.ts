/**
 * Error codes (HG-…): each folder's errors.ts declares its own with cause and next step, and docs/errors.md is made from them
 * (`npm run docs`). The table travels with the error, so that the command line can say what to do without knowing every folder.
 */

export interface ErrorEntry {
  /** What must have happened, one sentence. */
  readonly cause: string
  /** What the reader should do now, one sentence in the imperative. */
  readonly next: string
}

export type ErrorCode = `HG-${number}`

/**
 * The codes of one area. Ranges: 1xxx configuration and command line, 2xxx agent, 3xxx policy, 4xxx kernel and datapath,
 * 5xxx proxy, Envoy and the sockets between processes.
 */
export class ErrorTable<Code extends ErrorCode = ErrorCode> {
  readonly area: string
  readonly entries: Readonly<Record<Code, ErrorEntry>>

  constructor(area: string, entries: Readonly<Record<Code, ErrorEntry>>) {
    this.area = area
    this.entries = Object.freeze(entries)
  }
}

/** Declares the codes of one area, to be exported from its folder's errors.ts. */
export function defineErrors<const Code extends ErrorCode>(area: string, entries: Readonly<Record<Code, ErrorEntry>>): ErrorTable<Code> {
  return new ErrorTable(area, entries)
}

/** The codes of a table: `class PolicyError extends HeadgateError<CodeOf<typeof POLICY_ERRORS>>`. */
export type CodeOf<Table> = Table extends ErrorTable<infer Code> ? Code : never

/** An error with a documented code; folders subclass it. */
export class HeadgateError<Code extends ErrorCode = ErrorCode> extends Error {
  override readonly name: string = 'HeadgateError'
  readonly code: Code
  /** The table's next step. */
  readonly next: string

  /** @param message lower case, no full stop, ends in the offending value; never a payload, never a secret */
  constructor(table: ErrorTable<Code>, code: Code, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.next = table.entries[code].next
  }
}

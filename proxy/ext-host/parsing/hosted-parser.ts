/** What the host and a parser that runs elsewhere need of each other beside the contract. */
import type { Parser, ParserConnection } from '#parsers/contract.ts'

export interface HostedConnection<Rules, Record> extends ParserConnection<Rules, Record> {
  /** Closes it, outside of a call. */
  readonly fail: (reason: string) => void
}

export interface HostedParser extends Parser {
  /** The connection is gone. */
  dispose?(): void
}

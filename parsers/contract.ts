/**
 * The contract of every protocol parser, built in or a user's: bytes of one direction in, what becomes of them out. A parser knows its
 * protocol and nothing else: whoever runs it (proxy/ext-host/driver.ts) owns transport, buffers, limits and the order of answers.
 *
 * A connection has one parser for both directions, which is never called while a call of it is not done. What a parser throws closes its own
 * connection.
 */

/** original: what the side that connected sends. reply: what the side that it connected to sends. */
export const STREAM_DIRECTIONS = ['original', 'reply'] as const
export type StreamDirection = (typeof STREAM_DIRECTIONS)[number]

/**
 * What becomes of bytes. Ops are carried out in their order; each goes on where the one before it ended.
 *
 * Turns keep answers in the order of requests, for protocols whose servers answer so. A request opens a turn and its answer closes it; an `answer`
 * of the parser's own goes out when all turns that were opened before it are closed, and not between two parts of what passes. A parser
 * of a protocol without that order opens none: then an answer goes out as soon as nothing is half passed.
 */
export type Op =
  /**
   * Nothing can be said before there are so many bytes that no op has covered. The last op of a list; a list without it is followed by the
   * next call as soon as there is anything, which may be at once.
   */
  | { readonly op: 'more'; readonly bytes: number }
  /** They go on as they are. Of more than there are, the rest goes on as it comes and is not shown to the parser. */
  | { readonly op: 'pass'; readonly bytes: number; readonly turn?: Turn }
  /** They do not go on. Of more than there are, the rest is dropped as it comes. */
  | { readonly op: 'drop'; readonly bytes: number; readonly turn?: Turn }
  /** These go on in this place. The data is the driver's from then on. */
  | { readonly op: 'insert'; readonly data: Uint8Array; readonly turn?: Turn }
  /** Of the original direction only: these go back, in their turn, in place of an answer of the other side. */
  | { readonly op: 'answer'; readonly data: Uint8Array }
  /**
   * Of the original direction only: what is left can be judged when the other side has said something. The last op of a list; the next call is
   * after ops of the reply direction.
   */
  | { readonly op: 'wait' }
  /** The connection is closed, both ways, and a flow says why. The last op of a list. */
  | { readonly op: 'error'; readonly reason: string }

/** opens: of the original direction, the other side will answer it. closes: of the reply direction, that answer is complete with this. */
export type Turn = 'opens' | 'closes'

export type Ops = readonly Op[]

export interface Parser {
  /**
   * @param bytes what there is of this direction and no op has covered, a view that is true for this call only; may be empty at the end
   * @param endOfStream nothing comes after these bytes. What is left of them when the parser asks for more is dropped
   * @returns at once where that is possible; meanwhile nothing more is read of this connection
   */
  onData(direction: StreamDirection, bytes: Uint8Array, endOfStream: boolean): Ops | Promise<Ops>
}

/** What a parser has to do with the world. */
export interface ParserConnection<Rules, Record> {
  /** Those in force now: to be asked for each request. */
  readonly rules: () => Rules
  /** Tells of a verdict, or of what went wrong. */
  readonly report: (record: Record) => void
}

export interface ParserDefinition<Rules, Record> {
  /** As policy names it: kafka, cassandra, or what `l7proto` says. */
  readonly name: string
  /** The other side may speak first, so it is connected to before the first byte. Else it is connected to with the first byte that goes on. */
  readonly isServerFirst: boolean
  /** What a parser may ask to have at once, in bytes; asking for more is an error. */
  readonly bufferBytesMax: number
  create(connection: ParserConnection<Rules, Record>): Parser
}

export function more(bytes: number): Op {
  return { op: 'more', bytes }
}

export function pass(bytes: number, turn?: Turn): Op {
  return turn === undefined ? { op: 'pass', bytes } : { op: 'pass', bytes, turn }
}

export function drop(bytes: number, turn?: Turn): Op {
  return turn === undefined ? { op: 'drop', bytes } : { op: 'drop', bytes, turn }
}

export function insert(data: Uint8Array, turn?: Turn): Op {
  return turn === undefined ? { op: 'insert', data } : { op: 'insert', data, turn }
}

export function answer(data: Uint8Array): Op {
  return { op: 'answer', data }
}

export function fail(reason: string): Op {
  return { op: 'error', reason }
}

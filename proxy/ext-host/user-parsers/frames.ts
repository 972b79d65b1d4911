/**
 * What a worker and the process of a user's parser say to one another, over two pipes. Both read what the other wrote in order, and each call is
 * answered before the next is read. The worker is trusted by the other side and does not trust it: what it decodes is checked, and whoever
 * sends what is no frame is killed.
 *
 *   frame   { payload length: u32, type: u8, number of the connection: u32, payload }      all numbers are little endian
 *   data    { direction: u8, end of stream: u8, number of the rules: u32, bytes }
 *   ops     { kind: u8, fields of the kind }…
 *   record  { allowed: u8, audited: u8, rule: text, fields: u8, { name: text, value: text }… }      text { length: u16, UTF-8 }
 *
 * This module is loaded on both sides, and imports nothing that the other side may not read.
 */
import type { Op, StreamDirection, Turn } from '#parsers/contract.ts'

export const FRAME_HEADER_BYTES = 9

/** Of worker to parser. */
export const TO_PARSER = {
  /** To load the parser, which may take from now on no more than it was given. */
  load: 0,
  /** JSON, under the number of the rules. */
  rules: 1,
  forgetRules: 2,
  data: 3,
  close: 4,
} as const

/** Of parser to worker. */
export const FROM_PARSER = {
  /** It runs, and has loaded nothing of the user's yet. */
  hello: 0,
  /** JSON: ParserFacts. */
  loaded: 1,
  /** Text: why it cannot be loaded. */
  unloadable: 2,
  record: 3,
  /** What a call came to. */
  ops: 4,
} as const

/** What a parser says of itself. */
export interface ParserFacts {
  readonly isServerFirst: boolean
  /** Those that its rules may have; absent: any. */
  readonly keys?: readonly string[]
}

/** What a parser tells of a request. */
export interface UserRecord {
  readonly isAllowed: boolean
  readonly isAudited: boolean
  /** Name of the rule that decided; empty when none matched. */
  readonly rule: string
  readonly fields: Readonly<Record<string, string>>
}

/** Of what the process of a parser says: bytes of its own that go on or back, at most 1 MiB a call, and some room. */
export const ADDED_BYTES_MAX = 1 << 20
const FRAME_BYTES_MAX = ADDED_BYTES_MAX + (256 << 10)
export const RECORD_FIELDS_MAX = 16
export const RECORD_NAME_LENGTH_MAX = 64
export const RECORD_VALUE_LENGTH_MAX = 256
export const REASON_LENGTH_MAX = 256
const TEXT_BYTES_MAX = 4096

/** What the other side says to people, as one line of theirs. */
export function lineOf(text: string | Buffer, lengthMax = REASON_LENGTH_MAX): string {
  return text
    .toString()
    .slice(0, lengthMax)
    .replaceAll(/\p{Cc}/gu, ' ')
}

/** Something that is no frame, or one that cannot be at that point. */
export class FrameError extends Error {
  override readonly name = 'FrameError'
}

export interface Frame {
  readonly type: number
  readonly number: number
  /** A view of what was pushed, true until the next push. */
  readonly payload: Buffer
}

export function encodeFrame(type: number, number: number, ...parts: readonly Uint8Array[]): Buffer {
  let length = 0
  for (const part of parts) length += part.length
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + length)
  frame.writeUInt32LE(length, 0)
  frame[4] = type
  frame.writeUInt32LE(number, 5)
  let offset = FRAME_HEADER_BYTES
  for (const part of parts) {
    frame.set(part, offset)
    offset += part.length
  }
  return frame
}

/** Cuts what comes into frames. */
export class FrameReader {
  readonly #payloadBytesMax: number
  #rest: Buffer = Buffer.alloc(0)

  constructor(payloadBytesMax = FRAME_BYTES_MAX) {
    this.#payloadBytesMax = payloadBytesMax
  }

  /** @throws FrameError for a frame that is too long */
  *push(chunk: Buffer): Generator<Frame> {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    let offset = 0
    while (bytes.length - offset >= FRAME_HEADER_BYTES) {
      const length = bytes.readUInt32LE(offset)
      if (length > this.#payloadBytesMax) throw new FrameError(`a frame of ${length} bytes`)
      const end = offset + FRAME_HEADER_BYTES + length
      if (bytes.length < end) break
      yield {
        type: bytes[offset + 4] as number,
        number: bytes.readUInt32LE(offset + 5),
        payload: bytes.subarray(offset + FRAME_HEADER_BYTES, end),
      }
      offset = end
    }
    // A copy: the chunk may be written over.
    this.#rest = Buffer.from(bytes.subarray(offset))
  }
}

const DATA_HEADER_BYTES = 6

export interface DataFrame {
  readonly direction: StreamDirection
  readonly endOfStream: boolean
  readonly rules: number
  readonly bytes: Buffer
}

export function encodeData(number: number, direction: StreamDirection, endOfStream: boolean, rules: number, bytes: Uint8Array): Buffer {
  const header = Buffer.allocUnsafe(DATA_HEADER_BYTES)
  header[0] = direction === 'reply' ? 1 : 0
  header[1] = endOfStream ? 1 : 0
  header.writeUInt32LE(rules, 2)
  return encodeFrame(TO_PARSER.data, number, header, bytes)
}

export function decodeData(payload: Buffer): DataFrame {
  return {
    direction: payload[0] === 1 ? 'reply' : 'original',
    endOfStream: payload[1] === 1,
    rules: payload.readUInt32LE(2),
    bytes: payload.subarray(DATA_HEADER_BYTES),
  }
}

const OP_KINDS = ['more', 'pass', 'drop', 'insert', 'answer', 'wait', 'error'] as const satisfies readonly Op['op'][]
const TURNS = [undefined, 'opens', 'closes'] as const satisfies readonly (Turn | undefined)[]
/** Room for any count of bytes that is a whole number exactly. */
const COUNT_BYTES = 6
const COUNT_MAX = 2 ** (8 * COUNT_BYTES) - 1

/**
 * What a call came to. An op's data may be a string, in UTF-8.
 * @throws TypeError for what is no list of ops: it is what a user's code returned
 */
export function encodeOps(number: number, ops: readonly Op[]): Buffer {
  if (!Array.isArray(ops)) throw new TypeError('onData returns a list of ops, at once')
  let isLast = false
  const parts = ops.map((op) => {
    if (isLast) throw new TypeError('an op behind more, wait or error')
    isLast = op.op === 'more' || op.op === 'wait' || op.op === 'error'
    return encodeOp(op)
  })
  return encodeFrame(FROM_PARSER.ops, number, ...parts)
}

function encodeOp(op: Op): Buffer {
  switch (op.op) {
    case 'more':
      return encodeCount(op.op, undefined, op.bytes)
    case 'pass':
    case 'drop':
      return encodeCount(op.op, op.turn, op.bytes)
    case 'insert':
      return encodeBytes(op.op, op.turn, op.data)
    case 'answer':
      return encodeBytes(op.op, undefined, op.data)
    case 'wait':
      return Buffer.from([OP_KINDS.indexOf(op.op), 0])
    case 'error':
      return encodeBytes(op.op, undefined, String(op.reason).slice(0, REASON_LENGTH_MAX))
    default:
      throw new TypeError(`no op has the name ${String((op as { readonly op?: unknown } | undefined)?.op)}`)
  }
}

function encodeHead(kind: Op['op'], turn: Turn | undefined, bodyBytes: number): Buffer {
  const at = TURNS.indexOf(turn)
  if (at < 0) throw new TypeError(`a turn opens or closes: ${turn}`)
  const bytes = Buffer.allocUnsafe(2 + bodyBytes)
  bytes[0] = OP_KINDS.indexOf(kind)
  bytes[1] = at
  return bytes
}

function encodeCount(kind: Op['op'], turn: Turn | undefined, count: number): Buffer {
  if (!Number.isInteger(count) || count < 0 || count > COUNT_MAX) throw new TypeError(`no count of bytes: ${count}`)
  const bytes = encodeHead(kind, turn, COUNT_BYTES)
  bytes.writeUIntLE(count, 2, COUNT_BYTES)
  return bytes
}

function encodeBytes(kind: Op['op'], turn: Turn | undefined, data: Uint8Array | string): Buffer {
  if (typeof data !== 'string' && !(data instanceof Uint8Array)) throw new TypeError('data is bytes or a string')
  const encoded = typeof data === 'string' ? Buffer.from(data) : data
  if (encoded.length > ADDED_BYTES_MAX) throw new TypeError(`more than ${ADDED_BYTES_MAX} bytes at once: ${encoded.length}`)
  const bytes = encodeHead(kind, turn, 4 + encoded.length)
  bytes.writeUInt32LE(encoded.length, 2)
  bytes.set(encoded, 6)
  return bytes
}

/** @throws FrameError for what is no list of ops of that direction */
export function decodeOps(payload: Buffer, direction: StreamDirection): Op[] {
  const cursor = new FrameCursor(payload)
  const ops: Op[] = []
  while (cursor.hasMore) {
    const last = ops.at(-1)?.op
    if (last === 'more' || last === 'wait' || last === 'error') throw new FrameError(`an op behind ${last}`)
    ops.push(decodeOp(cursor, direction))
  }
  return ops
}

function decodeOp(cursor: FrameCursor, direction: StreamDirection): Op {
  const kind = OP_KINDS[cursor.u8()]
  const turnNumber = cursor.u8()
  if (kind === undefined || turnNumber >= TURNS.length) throw new FrameError('no op')
  const turn = TURNS[turnNumber]
  const turned = turn === undefined ? {} : { turn }
  if ((kind === 'answer' || kind === 'wait') && direction !== 'original') throw new FrameError(`${kind} is of the original direction only`)
  switch (kind) {
    case 'more':
      return { op: kind, bytes: cursor.count() }
    case 'pass':
    case 'drop':
      return { op: kind, bytes: cursor.count(), ...turned }
    case 'insert':
      return { op: kind, data: cursor.data(), ...turned }
    case 'answer':
      return { op: kind, data: cursor.data() }
    case 'wait':
      return { op: kind }
    case 'error':
      return { op: kind, reason: lineOf(cursor.data()) }
  }
}

/** @throws TypeError for what a user's code calls a record */
export function encodeRecord(number: number, { isAllowed, isAudited, rule, fields }: UserRecord): Buffer {
  const entries = Object.entries(fields ?? {}).slice(0, RECORD_FIELDS_MAX)
  return encodeFrame(
    FROM_PARSER.record,
    number,
    Buffer.from([isAllowed ? 1 : 0, isAudited ? 1 : 0]),
    encodeText(rule),
    Buffer.from([entries.length]),
    ...entries.flatMap(([name, value]) => [
      encodeText(name.slice(0, RECORD_NAME_LENGTH_MAX)),
      encodeText(String(value).slice(0, RECORD_VALUE_LENGTH_MAX)),
    ]),
  )
}

function encodeText(text: string): Buffer {
  const length = Buffer.byteLength(text)
  if (length > TEXT_BYTES_MAX) throw new TypeError(`a text of ${length} bytes`)
  const bytes = Buffer.allocUnsafe(2 + length)
  bytes.writeUInt16LE(length, 0)
  bytes.write(text, 2)
  return bytes
}

/** @throws FrameError */
export function decodeRecord(payload: Buffer): UserRecord {
  const cursor = new FrameCursor(payload)
  const isAllowed = cursor.u8() === 1
  const isAudited = cursor.u8() === 1
  const rule = cursor.text(TEXT_BYTES_MAX)
  const count = cursor.u8()
  if (count > RECORD_FIELDS_MAX) throw new FrameError(`a record of ${count} fields`)
  const fields = Array.from({ length: count }, () => [cursor.text(RECORD_NAME_LENGTH_MAX), cursor.text(RECORD_VALUE_LENGTH_MAX)] as const)
  if (cursor.hasMore) throw new FrameError('something behind a record')
  return { isAllowed, isAudited, rule, fields: Object.fromEntries(fields) }
}

class FrameCursor {
  readonly #bytes: Buffer
  #offset = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get hasMore(): boolean {
    return this.#offset < this.#bytes.length
  }

  u8(): number {
    return this.#take(1)[0] as number
  }

  count(): number {
    return this.#take(COUNT_BYTES).readUIntLE(0, COUNT_BYTES)
  }

  /** A copy: it is kept for longer than the frame. */
  data(): Buffer {
    return Buffer.from(this.#take(this.#take(4).readUInt32LE(0)))
  }

  text(lengthMax: number): string {
    const text = this.#take(this.#take(2).readUInt16LE(0)).toString()
    if (text.length > lengthMax) throw new FrameError(`a text of ${text.length} characters`)
    return text
  }

  #take(length: number): Buffer {
    const end = this.#offset + length
    if (end > this.#bytes.length) throw new FrameError('a frame that ends too early')
    const taken = this.#bytes.subarray(this.#offset, end)
    this.#offset = end
    return taken
  }
}

/**
 * Messages over TCP: each after its length in two octets (RFC 1035 4.2.2, RFC 7766 8). A message that came in one chunk is a view of that chunk;
 * one that came in several is copied once, into memory that grows with what has come and not with what the length promises.
 */

export const LENGTH_BYTES = 2

const MESSAGE_BYTES_MAX = 0xffff
/** What a message that is not whole gets at first: most are shorter. */
const PARTIAL_BYTES_MIN = 512

const NOTHING = new Uint8Array()

/** - `emptyFrame`: a length of 0, which no message has - `longFrame`: a length above the maximum. Nothing after either can be read */
export type FrameFault = 'emptyFrame' | 'longFrame'

/** Takes messages out of a stream: push what comes, then take with next() until there is nothing. */
export class FrameReader {
  fault: FrameFault | undefined

  readonly #messageBytesMax: number
  #chunk: Uint8Array = NOTHING
  #offset = 0
  /** The beginning of a frame whose chunks are gone, its length included. */
  #partial: Buffer | undefined
  #partialLength = 0

  /** @param messageBytesMax longer messages are a fault */
  constructor(messageBytesMax: number = MESSAGE_BYTES_MAX) {
    this.#messageBytesMax = messageBytesMax
  }

  /** How much is held that next() has not given. */
  get bufferedBytes(): number {
    return this.#partialLength + this.#chunk.length - this.#offset
  }

  /** Takes the next bytes of the stream. What was pushed before and not taken stays, at the price of a copy. */
  push(chunk: Uint8Array): void {
    if (this.fault !== undefined) return
    this.#chunk = this.#offset === this.#chunk.length ? chunk : Buffer.concat([this.#chunk.subarray(this.#offset), chunk])
    this.#offset = 0
  }

  /** @returns the next whole message, maybe a view of what was pushed; undefined if there is none yet, or a fault */
  next(): Uint8Array | undefined {
    if (this.fault !== undefined) return undefined
    if (this.#partial !== undefined) return this.#nextOfPartial(this.#partial)
    const available = this.#chunk.length - this.#offset
    if (available < LENGTH_BYTES) return this.#keepPartial()
    const length = this.#checkedLength(this.#chunk, this.#offset)
    if (length === 0) return undefined
    if (available < LENGTH_BYTES + length) return this.#keepPartial()
    const offset = this.#offset + LENGTH_BYTES
    this.#offset = offset + length
    return this.#chunk.subarray(offset, this.#offset)
  }

  #nextOfPartial(partial: Buffer): Uint8Array | undefined {
    if (this.#partialLength < LENGTH_BYTES && !this.#fill(partial, LENGTH_BYTES)) return undefined
    const length = this.#checkedLength(partial, 0)
    if (length === 0) return undefined
    const frameLength = LENGTH_BYTES + length
    const needed = Math.min(frameLength, this.#partialLength + this.#chunk.length - this.#offset)
    const target =
      needed <= partial.length ? partial : grown(partial, this.#partialLength, Math.min(frameLength, Math.max(needed, 2 * partial.length)))
    this.#partial = target
    if (!this.#fill(target, frameLength)) return undefined
    this.#partial = undefined
    this.#partialLength = 0
    return target.subarray(LENGTH_BYTES, frameLength)
  }

  /** Copies from the chunk until the partial frame has so many bytes. @returns whether it has */
  #fill(target: Buffer, length: number): boolean {
    const count = Math.min(length - this.#partialLength, this.#chunk.length - this.#offset)
    target.set(this.#chunk.subarray(this.#offset, this.#offset + count), this.#partialLength)
    this.#offset += count
    this.#partialLength += count
    if (this.#offset === this.#chunk.length) {
      this.#chunk = NOTHING
      this.#offset = 0
    }
    return this.#partialLength === length
  }

  /** Copies the rest of the chunk, which is less than a frame, so that the chunk can go. */
  #keepPartial(): undefined {
    const rest = this.#chunk.subarray(this.#offset)
    this.#chunk = NOTHING
    this.#offset = 0
    if (rest.length === 0) return
    this.#partial = Buffer.allocUnsafeSlow(Math.max(PARTIAL_BYTES_MIN, rest.length))
    this.#partial.set(rest)
    this.#partialLength = rest.length
  }

  /** @returns 0 for a length that is a fault */
  #checkedLength(bytes: Uint8Array, offset: number): number {
    const length = ((bytes[offset] as number) << 8) | (bytes[offset + 1] as number)
    if (length > 0 && length <= this.#messageBytesMax) return length
    this.fault = length === 0 ? 'emptyFrame' : 'longFrame'
    this.#chunk = NOTHING
    this.#offset = 0
    this.#partial = undefined
    this.#partialLength = 0
    return 0
  }
}

/** A message with its length before it. @param message of 1 to 65,535 bytes */
export function encodeFrame(message: Uint8Array): Buffer {
  const output = Buffer.allocUnsafe(LENGTH_BYTES + message.length)
  output.writeUInt16BE(message.length, 0)
  output.set(message, LENGTH_BYTES)
  return output
}

function grown(bytes: Buffer, usedLength: number, length: number): Buffer {
  const output = Buffer.allocUnsafeSlow(length)
  output.set(bytes.subarray(0, usedLength))
  return output
}

/** Reads protobuf messages in place, for services that are asked too often for anything else. */

/** A message that this program does not understand, or that has no place where it stands. */
export class MessageError extends Error {
  override readonly name = 'MessageError'
}

export const VARINT = 0
const FIXED64 = 1
export const LENGTH_DELIMITED = 2
const FIXED32 = 5
const UINT32_MAX = 0xffff_ffff

/** A position in a message, and the end of the part of it that is being read. */
export class ProtobufCursor {
  at = 0
  end: number
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.end = bytes.length
  }

  /** Lengths, tags and small numbers: 32 bits. Whatever is larger is the largest of these, which is no length and no tag. */
  varint(): number {
    let value = 0
    let isLarge = false
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.at >= this.end) throw new MessageError('the message ends inside of a number')
      const byte = this.#bytes[this.at++] ?? 0
      if (shift < 28) value |= (byte & 0x7f) << shift
      else if (shift === 28) value |= (byte & 0x0f) << 28
      if (shift >= 28 && (byte & 0x7f) > (shift === 28 ? 0x0f : 0)) isLarge = true
      if (byte < 0x80) return isLarge ? UINT32_MAX : value >>> 0
    }
    throw new MessageError('a number that does not end')
  }

  text(tag: number): string {
    const end = this.#endOf(tag)
    const text = this.#bytes.toString('utf8', this.at, end)
    this.at = end
    return text
  }

  /** @returns a view */
  bytes(tag: number): Buffer {
    const end = this.#endOf(tag)
    const bytes = this.#bytes.subarray(this.at, end)
    this.at = end
    return bytes
  }

  message<T>(tag: number, decode: (cursor: ProtobufCursor) => T): T {
    const outer = this.end
    this.end = this.#endOf(tag)
    const value = decode(this)
    this.at = this.end
    this.end = outer
    return value
  }

  skip(tag: number): void {
    if (tag >>> 3 === 0) throw new MessageError('a field without number')
    switch (tag & 7) {
      case VARINT:
        this.varint()
        return
      case FIXED64:
        this.#advance(8)
        return
      case LENGTH_DELIMITED:
        this.at = this.#endOf(tag)
        return
      case FIXED32:
        this.#advance(4)
        return
      default:
        throw new MessageError('a field of unknown type')
    }
  }

  #advance(length: number): void {
    if (length > this.end - this.at) throw new MessageError('a field is longer than its message')
    this.at += length
  }

  #endOf(tag: number): number {
    if ((tag & 7) !== LENGTH_DELIMITED) throw new MessageError('a field of another type')
    const length = this.varint()
    if (length > this.end - this.at) throw new MessageError('a field is longer than its message')
    return this.at + length
  }
}

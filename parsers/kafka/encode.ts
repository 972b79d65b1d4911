/** Encodes messages after their plan. What is not said is what Kafka's definitions say it is then. */
import type { FieldPlan, MessagePlan, StructPlan } from './schema.ts'

/** What is to be written: structs as objects by the names of fields, bytes as they are. */
export type Encodable =
  | number
  | bigint
  | boolean
  | string
  | null
  | Uint8Array
  | readonly Encodable[]
  | { readonly [name: string]: Encodable }

const CAPACITY_MIN = 256

/** Grows as it is written to. */
class Writer {
  readonly isFlexible: boolean
  #bytes = Buffer.alloc(CAPACITY_MIN)
  #length = 0

  constructor(isFlexible: boolean) {
    this.isFlexible = isFlexible
  }

  get length(): number {
    return this.#length
  }

  take(): Buffer {
    return this.#bytes.subarray(0, this.#length)
  }

  /** @returns where the bytes are that were made room for */
  #room(length: number): number {
    const offset = this.#length
    this.#length += length
    if (this.#length > this.#bytes.length) {
      const bytes = Buffer.alloc(Math.max(this.#length, 2 * this.#bytes.length))
      this.#bytes.copy(bytes)
      this.#bytes = bytes
    }
    return offset
  }

  int8(value: number): void {
    const offset = this.#room(1)
    this.#bytes.writeInt8(value, offset)
  }

  int16(value: number): void {
    const offset = this.#room(2)
    this.#bytes.writeInt16BE((value << 16) >> 16, offset)
  }

  int32(value: number): void {
    const offset = this.#room(4)
    this.#bytes.writeInt32BE(value | 0, offset)
  }

  int64(value: bigint): void {
    const offset = this.#room(8)
    this.#bytes.writeBigInt64BE(value, offset)
  }

  float64(value: number): void {
    const offset = this.#room(8)
    this.#bytes.writeDoubleBE(value, offset)
  }

  varint(value: number): void {
    let rest = value
    while (rest >= 0x80) {
      this.#byte((rest % 0x80) | 0x80)
      rest = Math.floor(rest / 0x80)
    }
    this.#byte(rest)
  }

  bytes(value: Uint8Array): void {
    const offset = this.#room(value.length)
    this.#bytes.set(value, offset)
  }

  /** @param length -1: null */
  stringLength(length: number): void {
    if (this.isFlexible) this.varint(length + 1)
    else this.int16(length)
  }

  /** @param length -1: null */
  longLength(length: number): void {
    if (this.isFlexible) this.varint(length + 1)
    else this.int32(length)
  }

  #byte(value: number): void {
    const offset = this.#room(1)
    this.#bytes[offset] = value
  }
}

/** @throws TypeError for a value that is not of its field's type */
export function encodeMessage(plan: MessagePlan, values: { readonly [name: string]: Encodable }): Buffer {
  const writer = new Writer(plan.isFlexible)
  encodeStruct(writer, plan, values)
  return writer.take()
}

/** Items of a list, each by itself. */
export function encodeStructs(plan: StructPlan, items: readonly { readonly [name: string]: Encodable }[], isFlexible: boolean): Buffer[] {
  return items.map((values) => {
    const writer = new Writer(isFlexible)
    encodeStruct(writer, plan, values)
    return writer.take()
  })
}

/** The count of a list. */
export function encodeCount(count: number, isFlexible: boolean): Buffer {
  const writer = new Writer(isFlexible)
  writer.longLength(count)
  return writer.take()
}

function encodeStruct(writer: Writer, { fields, tagged }: StructPlan, values: { readonly [name: string]: Encodable }): void {
  for (const field of fields) encodeField(writer, field, values[field.name])
  if (!writer.isFlexible) return
  const present = [...tagged].filter(([, { name }]) => values[name] !== undefined)
  writer.varint(present.length)
  for (const [tag, field] of present) {
    const inner = new Writer(true)
    encodeField(inner, field, values[field.name])
    writer.varint(tag)
    writer.varint(inner.length)
    writer.bytes(inner.take())
  }
}

function encodeField(writer: Writer, field: FieldPlan, value: Encodable | undefined): void {
  if (field.isArray) {
    if (value === null && field.isNullable) {
      writer.longLength(-1)
      return
    }
    const items = Array.isArray(value) ? (value as readonly Encodable[]) : []
    writer.longLength(items.length)
    for (const item of items) {
      if (field.type === 'struct') encodeStruct(writer, field.struct, objectOf(field, item))
      else encodeScalar(writer, field, item)
    }
    return
  }
  if (field.type === 'struct') {
    if (field.isNullable) writer.int8(value === undefined || value === null ? -1 : 1)
    if (field.isNullable && (value === undefined || value === null)) return
    encodeStruct(writer, field.struct, objectOf(field, value ?? {}))
    return
  }
  // Null is something that is said, where it can be.
  encodeScalar(writer, field, value === undefined || (value === null && !field.isNullable) ? field.fallback : value)
}

function objectOf({ name }: FieldPlan, value: Encodable): { readonly [name: string]: Encodable } {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array)
    throw new TypeError(`${name} is a struct`)
  return value as { readonly [name: string]: Encodable }
}

const NO_BYTES = new Uint8Array()
const NO_UUID = new Uint8Array(16)

function encodeScalar(writer: Writer, { type, name, isNullable }: FieldPlan, value: Encodable): void {
  switch (type) {
    case 'bool':
      writer.int8(value === true ? 1 : 0)
      return
    case 'int8':
      writer.int8(Number(value))
      return
    case 'int16':
    case 'uint16':
      writer.int16(Number(value))
      return
    case 'int32':
    case 'uint32':
      writer.int32(Number(value))
      return
    case 'int64':
      writer.int64(BigInt(value as number | bigint))
      return
    case 'float64':
      writer.float64(Number(value))
      return
    case 'uuid':
      writer.bytes(value instanceof Uint8Array ? value : NO_UUID)
      return
    case 'string': {
      if (value === null && isNullable) {
        writer.stringLength(-1)
        return
      }
      if (value !== null && typeof value !== 'string') throw new TypeError(`${name} is text`)
      const bytes = Buffer.from(value ?? '')
      writer.stringLength(bytes.length)
      writer.bytes(bytes)
      return
    }
    default: {
      if (value === null && isNullable) {
        writer.longLength(-1)
        return
      }
      const bytes = value instanceof Uint8Array ? value : NO_BYTES
      writer.longLength(bytes.length)
      writer.bytes(bytes)
    }
  }
}

/**
 * Decodes whole messages after their plan. What is large or stands for nothing here (records, bytes, ids) is told as the place where it is. Every
 * length and count is held against what is there before anything is made of it. Source: kafka.apache.org, protocol, and KIP-482 for
 * flexible versions.
 */
import { IncompleteError, KafkaParseError } from './errors.ts'
import type { FieldPlan, MessagePlan, StructPlan } from './schema.ts'

/** Of one message: as many things as no client asks for at once. */
const VALUES_MAX = 1_000_000
const VARINT_BYTES_MAX = 5

/** Where something is in the message. */
export interface Place {
  readonly start: number
  readonly end: number
}

export interface KafkaStruct extends Place {
  readonly values: Readonly<Record<string, KafkaValue>>
}

/** From its count, which is at `start`, to its end. */
export interface KafkaArray extends Place {
  readonly items: readonly KafkaValue[]
}

export type KafkaValue = number | bigint | boolean | string | null | Place | KafkaStruct | KafkaArray

/**
 * @param bytes of which the message begins at the offset and must end where they end
 * @throws KafkaParseError
 */
export function decodeMessage(bytes: Buffer, offset: number, plan: MessagePlan): KafkaStruct {
  const message = decodeLeadingMessage(bytes, offset, plan)
  if (message.end !== bytes.length) throw new KafkaParseError(`${bytes.length - message.end} bytes behind a message`)
  return message
}

/**
 * @param bytes in which the message begins at the offset, and something may follow it: brokers do not look at that, and librdkafka leaves three bytes
 * there when it asks for all topics
 * @throws KafkaParseError
 */
export function decodeLeadingMessage(bytes: Buffer, offset: number, plan: MessagePlan): KafkaStruct {
  return decodeStruct(new Cursor(bytes, offset, plan.isFlexible), plan)
}

export function isStruct(value: KafkaValue | undefined): value is KafkaStruct {
  return typeof value === 'object' && value !== null && 'values' in value
}

export function isArray(value: KafkaValue | undefined): value is KafkaArray {
  return typeof value === 'object' && value !== null && 'items' in value
}

/** Reads forward, never beyond the end. */
export class Cursor {
  readonly bytes: Buffer
  readonly isFlexible: boolean
  /** Of the message, which may not all be there yet. */
  readonly end: number
  offset: number
  valueCount = 0

  constructor(bytes: Buffer, offset: number, isFlexible: boolean, end = bytes.length) {
    this.bytes = bytes
    this.offset = offset
    this.isFlexible = isFlexible
    this.end = end
  }

  get left(): number {
    return this.end - this.offset
  }

  /** @returns the offset before @throws IncompleteError where bytes of the message have not come */
  skip(length: number): number {
    if (length < 0 || length > this.left) throw new KafkaParseError(`${length} bytes where ${this.left} are left`)
    const { offset } = this
    if (offset + length > this.bytes.length) throw new IncompleteError(offset + length)
    this.offset += length
    return offset
  }

  int8(): number {
    return this.bytes.readInt8(this.skip(1))
  }

  int16(): number {
    return this.bytes.readInt16BE(this.skip(2))
  }

  int32(): number {
    return this.bytes.readInt32BE(this.skip(4))
  }

  /** Unsigned, of 32 bits. */
  varint(): number {
    let value = 0
    for (let index = 0; index < VARINT_BYTES_MAX; index++) {
      const byte = this.bytes[this.skip(1)] as number
      value += (byte & 0x7f) * 2 ** (7 * index)
      if (byte < 0x80) {
        if (value > 0xffff_ffff) break
        return value
      }
    }
    throw new KafkaParseError('a varint of more than 32 bits')
  }

  /** -1: null */
  stringLength(): number {
    return this.isFlexible ? this.varint() - 1 : this.int16()
  }

  /** -1: null */
  longLength(): number {
    return this.isFlexible ? this.varint() - 1 : this.int32()
  }

  /** @returns undefined for null */
  string(): string | undefined {
    const length = this.stringLength()
    if (length < 0) return undefined
    const start = this.skip(length)
    return this.bytes.toString('utf8', start, this.offset)
  }
}

/** Fields by tags that mean nothing here. */
export function skipTagged(cursor: Cursor): void {
  for (let count = cursor.varint(); count > 0; count--) {
    cursor.varint()
    cursor.skip(cursor.varint())
  }
}

function decodeStruct(cursor: Cursor, plan: StructPlan): KafkaStruct {
  const start = cursor.offset
  const values: Record<string, KafkaValue> = {}
  for (const field of plan.fields) values[field.name] = decodeField(cursor, field)
  if (cursor.isFlexible) decodeTagged(cursor, plan, values)
  return { start, end: cursor.offset, values }
}

function decodeTagged(cursor: Cursor, { tagged }: StructPlan, values: Record<string, KafkaValue>): void {
  const count = cursor.varint()
  let before = -1
  for (let index = 0; index < count; index++) {
    const tag = cursor.varint()
    if (tag <= before) throw new KafkaParseError(`tag ${tag} after tag ${before}`)
    before = tag
    const length = cursor.varint()
    const start = cursor.skip(length)
    const field = tagged.get(tag)
    if (field === undefined) continue
    const end = cursor.offset
    cursor.offset = start
    values[field.name] = decodeField(cursor, field)
    if (cursor.offset !== end) throw new KafkaParseError(`a tagged field of ${length} bytes that has ${cursor.offset - start}`)
  }
}

function decodeField(cursor: Cursor, field: FieldPlan): KafkaValue {
  if (++cursor.valueCount > VALUES_MAX) throw new KafkaParseError(`a message of more than ${VALUES_MAX} values`)
  if (field.isArray) return decodeArray(cursor, field)
  if (field.type === 'struct') {
    // Only a struct that may be null has a sign of it.
    if (field.isNullable && cursor.int8() < 0) return null
    return decodeStruct(cursor, field.struct)
  }
  return decodeScalar(cursor, field)
}

function decodeArray(cursor: Cursor, field: FieldPlan): KafkaValue {
  const start = cursor.offset
  const count = cursor.longLength()
  if (count < 0) {
    if (!field.isNullable) throw new KafkaParseError(`no ${field.name}`)
    return null
  }
  const { struct, type } = field
  const bytesMin = type === 'struct' ? struct.bytesMin : 1
  if (count * Math.max(1, bytesMin) > cursor.left) throw new KafkaParseError(`${count} ${field.name} in ${cursor.left} bytes`)
  const item = { ...field, isArray: false, isNullable: false }
  const items: KafkaValue[] = []
  for (let index = 0; index < count; index++) {
    if (++cursor.valueCount > VALUES_MAX) throw new KafkaParseError(`a message of more than ${VALUES_MAX} values`)
    items.push(type === 'struct' ? decodeStruct(cursor, struct) : decodeScalar(cursor, item))
  }
  return { start, end: cursor.offset, items }
}

function decodeScalar(cursor: Cursor, { type, isNullable, name }: FieldPlan): KafkaValue {
  switch (type) {
    case 'bool':
      return cursor.int8() !== 0
    case 'int8':
      return cursor.int8()
    case 'int16':
      return cursor.int16()
    case 'uint16':
      return cursor.int16() & 0xffff
    case 'int32':
      return cursor.int32()
    case 'uint32':
      return cursor.int32() >>> 0
    case 'int64':
      return cursor.bytes.readBigInt64BE(cursor.skip(8))
    case 'float64':
      return cursor.bytes.readDoubleBE(cursor.skip(8))
    case 'uuid': {
      const start = cursor.skip(16)
      return { start, end: start + 16 }
    }
    case 'string': {
      const text = cursor.string()
      if (text === undefined && !isNullable) throw new KafkaParseError(`no ${name}`)
      return text ?? null
    }
    default: {
      const length = cursor.longLength()
      if (length < 0) {
        if (!isNullable) throw new KafkaParseError(`no ${name}`)
        return null
      }
      const start = cursor.skip(length)
      return { start, end: cursor.offset }
    }
  }
}

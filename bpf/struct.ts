/**
 * Codec between plain objects and the structs of bpf/src/abi.h. Layouts are tables made from BTF (bpf/generate.ts), so an offset is
 * never written by hand. Integers marked `be` are in network order on the wire of the map, and plain numbers here.
 */

export type FieldKind = 'u8' | 'u16' | 'u32' | 'u64' | 'be16' | 'be32' | 'bytes' | 'struct' | 'array'

export interface Field {
  /** camelCase */
  readonly name: string
  readonly offset: number
  readonly kind: FieldKind
  /** Bytes of the whole field. */
  readonly length: number
  /** Of kind struct, and of arrays of structs. */
  readonly layout?: StructLayout
}

export interface StructLayout {
  readonly name: string
  readonly size: number
  readonly fields: readonly Field[]
}

/**
 * Encodes and decodes one struct. A field that is left out is zero; numbers must fit, or Buffer throws a RangeError.
 * @public used by the generated bpf/gen/abi.ts
 */
export class StructCodec<T extends object> {
  readonly layout: StructLayout
  readonly size: number

  constructor(layout: StructLayout) {
    this.layout = layout
    this.size = layout.size
  }

  /** @param bytes of `size` bytes, to be written over and returned; new ones unless given */
  encode(value: T, bytes?: Buffer): Buffer {
    const target = bytes?.fill(0) ?? Buffer.alloc(this.size)
    encodeInto(target, 0, this.layout, value as Record<string, unknown>)
    return target
  }

  /** Byte fields are copies, so the input may be reused. @throws RangeError when `bytes` is too short */
  decode(bytes: Buffer): T {
    if (bytes.length < this.size) throw new RangeError(`${this.layout.name} needs ${this.size} bytes, not ${bytes.length}`)
    return decodeFrom(bytes, 0, this.layout) as T
  }
}

function encodeInto(bytes: Buffer, base: number, layout: StructLayout, value: Record<string, unknown>): void {
  for (const field of layout.fields) {
    const item = value[field.name]
    if (item === undefined) continue
    const at = base + field.offset
    switch (field.kind) {
      case 'u8':
        bytes.writeUInt8(item as number, at)
        break
      case 'u16':
        bytes.writeUInt16LE(item as number, at)
        break
      case 'u32':
        bytes.writeUInt32LE(item as number, at)
        break
      case 'u64':
        bytes.writeBigUInt64LE(item as bigint, at)
        break
      case 'be16':
        bytes.writeUInt16BE(item as number, at)
        break
      case 'be32':
        bytes.writeUInt32BE(item as number, at)
        break
      case 'bytes': {
        const source = item as Uint8Array
        if (source.length !== field.length)
          throw new RangeError(`${layout.name}.${field.name} takes ${field.length} bytes, not ${source.length}`)
        bytes.set(source, at)
        break
      }
      case 'struct':
        if (field.layout) encodeInto(bytes, at, field.layout, item as Record<string, unknown>)
        break
      case 'array': {
        const items = item as readonly Record<string, unknown>[]
        const element = field.layout
        if (element === undefined) break
        if (items.length * element.size > field.length) throw new RangeError(`${layout.name}.${field.name} takes no ${items.length} items`)
        for (let index = 0; index < items.length; index++) {
          encodeInto(bytes, at + index * element.size, element, items[index] as Record<string, unknown>)
        }
        break
      }
    }
  }
}

function decodeFrom(bytes: Buffer, base: number, layout: StructLayout): Record<string, unknown> {
  const value: Record<string, unknown> = {}
  for (const field of layout.fields) {
    const at = base + field.offset
    switch (field.kind) {
      case 'u8':
        value[field.name] = bytes.readUInt8(at)
        break
      case 'u16':
        value[field.name] = bytes.readUInt16LE(at)
        break
      case 'u32':
        value[field.name] = bytes.readUInt32LE(at)
        break
      case 'u64':
        value[field.name] = bytes.readBigUInt64LE(at)
        break
      case 'be16':
        value[field.name] = bytes.readUInt16BE(at)
        break
      case 'be32':
        value[field.name] = bytes.readUInt32BE(at)
        break
      case 'bytes':
        value[field.name] = Buffer.from(bytes.subarray(at, at + field.length))
        break
      case 'struct':
        if (field.layout) value[field.name] = decodeFrom(bytes, at, field.layout)
        break
      case 'array': {
        const element = field.layout
        if (element === undefined) break
        const items: Record<string, unknown>[] = []
        for (let offset = 0; offset < field.length; offset += element.size) items.push(decodeFrom(bytes, at + offset, element))
        value[field.name] = items
        break
      }
    }
  }
  return value
}

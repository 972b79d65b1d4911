/**
 * Reads the type information (BTF) of a compiled object: as much of the format as the ABI's structs, enums and integers need.
 * Source: Linux, Documentation/bpf/btf.rst. Input is our own compiler's output, but every offset is checked all the same.
 */

const BTF_MAGIC = 0xeb9f
const KIND_INT = 1
const KIND_POINTER = 2
const KIND_ARRAY = 3
const KIND_STRUCT = 4
const KIND_UNION = 5
const KIND_ENUM = 6
const KIND_FORWARD = 7
const KIND_TYPEDEF = 8
const KIND_VOLATILE = 9
const KIND_CONST = 10
const KIND_RESTRICT = 11
const KIND_FUNCTION = 12
const KIND_FUNCTION_PROTOTYPE = 13
const KIND_VARIABLE = 14
const KIND_DATA_SECTION = 15
const KIND_FLOAT = 16
const KIND_DECLARATION_TAG = 17
const KIND_TYPE_TAG = 18
const KIND_ENUM64 = 19

export type BtfType =
  | { readonly kind: 'int'; readonly name: string; readonly size: number }
  | { readonly kind: 'array'; readonly element: number; readonly count: number }
  | { readonly kind: 'struct'; readonly name: string; readonly size: number; readonly members: readonly BtfMember[] }
  | { readonly kind: 'enum'; readonly name: string; readonly values: ReadonlyMap<string, number> }
  | { readonly kind: 'alias'; readonly name: string; readonly target: number }
  | { readonly kind: 'other' }

export interface BtfMember {
  readonly name: string
  readonly type: number
  readonly offset: number
}

/** Finds a section of a 64-bit little-endian ELF file. @throws RangeError when the file is not one, or has no such section */
export function elfSection(file: Buffer, wanted: string): Buffer {
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46) throw new RangeError('not an ELF file')
  const sectionsOffset = Number(file.readBigUInt64LE(40))
  const entryBytes = file.readUInt16LE(58)
  const count = file.readUInt16LE(60)
  const namesIndex = file.readUInt16LE(62)
  const section = (index: number): { name: number; offset: number; size: number } => {
    const at = sectionsOffset + index * entryBytes
    return {
      name: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 24)),
      size: Number(file.readBigUInt64LE(at + 32)),
    }
  }
  const names = section(namesIndex)
  for (let index = 0; index < count; index++) {
    const { name, offset, size } = section(index)
    const start = names.offset + name
    if (file.toString('utf8', start, file.indexOf(0, start)) === wanted) return file.subarray(offset, offset + size)
  }
  throw new RangeError(`no section ${wanted}`)
}

/** All types by id; id 0 is void. */
export function decodeBtf(btf: Buffer): readonly BtfType[] {
  if (btf.readUInt16LE(0) !== BTF_MAGIC) throw new RangeError('not BTF')
  const headerBytes = btf.readUInt32LE(4)
  const typesStart = headerBytes + btf.readUInt32LE(8)
  const typesEnd = typesStart + btf.readUInt32LE(12)
  const stringsStart = headerBytes + btf.readUInt32LE(16)
  const string = (offset: number): string => btf.toString('utf8', stringsStart + offset, btf.indexOf(0, stringsStart + offset))

  const types: BtfType[] = [{ kind: 'other' }]
  let at = typesStart
  while (at < typesEnd) {
    const name = string(btf.readUInt32LE(at))
    const info = btf.readUInt32LE(at + 4)
    const sizeOrType = btf.readUInt32LE(at + 8)
    const count = info & 0xffff
    const kind = (info >>> 24) & 0x1f
    const extra = at + 12
    switch (kind) {
      case KIND_INT:
        types.push({ kind: 'int', name, size: sizeOrType })
        at = extra + 4
        break
      case KIND_ARRAY:
        types.push({ kind: 'array', element: btf.readUInt32LE(extra), count: btf.readUInt32LE(extra + 8) })
        at = extra + 12
        break
      case KIND_STRUCT:
      case KIND_UNION: {
        const members: BtfMember[] = []
        for (let index = 0; index < count; index++) {
          const member = extra + index * 12
          const bits = btf.readUInt32LE(member + 8)
          if (bits % 8 !== 0) throw new RangeError(`bit field in struct ${name}`)
          members.push({ name: string(btf.readUInt32LE(member)), type: btf.readUInt32LE(member + 4), offset: bits / 8 })
        }
        types.push(kind === KIND_STRUCT ? { kind: 'struct', name, size: sizeOrType, members } : { kind: 'other' })
        at = extra + count * 12
        break
      }
      case KIND_ENUM: {
        const values = new Map<string, number>()
        for (let index = 0; index < count; index++) {
          values.set(string(btf.readUInt32LE(extra + index * 8)), btf.readInt32LE(extra + index * 8 + 4))
        }
        types.push({ kind: 'enum', name, values })
        at = extra + count * 8
        break
      }
      case KIND_TYPEDEF:
      case KIND_VOLATILE:
      case KIND_CONST:
      case KIND_RESTRICT:
      case KIND_TYPE_TAG:
        types.push({ kind: 'alias', name, target: sizeOrType })
        at = extra
        break
      case KIND_POINTER:
      case KIND_FORWARD:
      case KIND_FUNCTION:
      case KIND_FLOAT:
        types.push({ kind: 'other' })
        at = extra
        break
      case KIND_FUNCTION_PROTOTYPE:
        types.push({ kind: 'other' })
        at = extra + count * 8
        break
      case KIND_VARIABLE:
      case KIND_DECLARATION_TAG:
        types.push({ kind: 'other' })
        at = extra + 4
        break
      case KIND_DATA_SECTION:
      case KIND_ENUM64:
        types.push({ kind: 'other' })
        at = extra + count * 12
        break
      default:
        throw new RangeError(`unknown BTF kind ${kind}`)
    }
  }
  return types
}

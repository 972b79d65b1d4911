/**
 * Writes bpf/gen/abi.ts from the BTF of bpf/src/abi-types.c: constants, interfaces and codecs of the kernel ABI, and a digest of all
 * layouts, which names the folder that maps are pinned in. Run by bpf/build.sh: `generate.ts OBJECT OUTPUT`.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { type BtfType, decodeBtf, elfSection } from './btf.ts'
import type { Field, StructLayout } from './struct.ts'

const [objectPath, outputPath] = process.argv.slice(2)
if (objectPath === undefined || outputPath === undefined) throw new Error('usage: generate.ts OBJECT OUTPUT')

const types = decodeBtf(elfSection(readFileSync(objectPath), '.BTF'))

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function pascalCase(name: string): string {
  const camel = camelCase(name)
  return camel.charAt(0).toUpperCase() + camel.slice(1)
}

/** Follows typedefs; remembers whether one of them said network order. */
function resolve(id: number): { type: BtfType; bigEndian: boolean } {
  let type = types[id]
  let bigEndian = false
  while (type?.kind === 'alias') {
    if (type.name.startsWith('__be')) bigEndian = true
    type = types[type.target]
  }
  if (type === undefined) throw new RangeError(`no type ${id}`)
  return { type, bigEndian }
}

/** A struct that only wraps a byte array (struct address) reads as those bytes. */
function isByteWrapper(type: BtfType): boolean {
  const only = type.kind === 'struct' && type.members.length === 1 ? type.members[0] : undefined
  if (only === undefined) return false
  const inner = resolve(only.type).type
  return inner.kind === 'array' && intSize(resolve(inner.element).type) === 1
}

function intSize(type: BtfType): number {
  return type.kind === 'int' ? type.size : type.kind === 'enum' ? 4 : 0
}

const bytesLayout = (name: string, size: number): StructLayout => ({
  name,
  size,
  fields: [{ name: 'bytes', offset: 0, kind: 'bytes', length: size }],
})

function fieldOf(struct: string, name: string, typeId: number, offset: number): Field {
  const { type, bigEndian } = resolve(typeId)
  const where = `${struct}.${name}`
  if (type.kind === 'struct') {
    if (isByteWrapper(type)) return { name: camelCase(name), offset, kind: 'bytes', length: type.size }
    return { name: camelCase(name), offset, kind: 'struct', length: type.size, layout: layoutOf(type) }
  }
  if (type.kind === 'array') {
    const element = resolve(type.element).type
    if (intSize(element) === 1) return { name: camelCase(name), offset, kind: 'bytes', length: type.count }
    if (element.kind !== 'struct') throw new RangeError(`array of ${element.kind} in ${where}`)
    const layout = isByteWrapper(element) ? bytesLayout(element.name, element.size) : layoutOf(element)
    return { name: camelCase(name), offset, kind: 'array', length: type.count * layout.size, layout }
  }
  const length = intSize(type)
  if (length === 0) throw new RangeError(`cannot lay out ${where}`)
  const kind = `${bigEndian ? 'be' : 'u'}${length * 8}` as Field['kind']
  return { name: camelCase(name), offset, kind, length }
}

function layoutOf(type: Extract<BtfType, { kind: 'struct' }>): StructLayout {
  let end = 0
  const fields: Field[] = []
  for (const member of type.members) {
    const field = fieldOf(type.name, member.name, member.type, member.offset)
    if (field.offset !== end) throw new RangeError(`${type.name} has padding without a name before ${member.name}`)
    end = field.offset + field.length
    if (!/^pad\d*$/.test(member.name)) fields.push(field)
  }
  if (end !== type.size) throw new RangeError(`${type.name} has padding without a name at its end`)
  return { name: type.name, size: type.size, fields }
}

function fieldType(field: Field): string {
  switch (field.kind) {
    case 'u64':
      return 'bigint'
    case 'bytes':
      return 'Uint8Array'
    case 'struct':
      return pascalCase(field.layout?.name ?? '')
    case 'array':
      return `readonly ${pascalCase(field.layout?.name ?? '')}[]`
    default:
      return 'number'
  }
}

const structs = new Map<string, StructLayout>()
const lines: string[] = [
  '// Made by bpf/generate.ts from bpf/src/abi.h. Not to be edited.',
  "import { StructCodec } from '../struct.ts'",
  '',
]

for (const type of types) {
  if (type.kind === 'enum' && type.name !== '') {
    lines.push(`/** enum ${type.name} */`)
    for (const [name, value] of type.values) lines.push(`export const ${name} = ${value >>> 0}`)
    lines.push('')
  }
  if (type.kind === 'struct' && type.name !== '') {
    structs.set(type.name, isByteWrapper(type) ? bytesLayout(type.name, type.size) : layoutOf(type))
  }
}
const reasons = types.find((type) => type.kind === 'enum' && type.name === 'drop_reason')
if (reasons?.kind === 'enum') {
  lines.push(
    '/** Names of the drop reasons as flows and counters show them. */',
    'export const DROP_REASON_NAMES: ReadonlyMap<number, string> = new Map([',
  )
  for (const [name, value] of reasons.values) {
    if (name !== 'REASON_MAX') lines.push(`  [${value}, '${name.replace('REASON_', '').toLowerCase().replaceAll('_', '-')}'],`)
  }
  lines.push('])', '')
}
for (const [name, layout] of structs) {
  lines.push(`/** struct ${name}, ${layout.size} bytes */`, `export interface ${pascalCase(name)} {`)
  for (const field of layout.fields) lines.push(`  readonly ${field.name}: ${fieldType(field)}`)
  lines.push('}', `export const ${camelCase(name)}Codec = new StructCodec<${pascalCase(name)}>(${JSON.stringify(layout)})`, '')
}
const digest = createHash('sha256')
  .update(JSON.stringify([...structs.values()]))
  .digest('hex')
  .slice(0, 16)
lines.push('/** Of all layouts: names the folder that maps are pinned in. */', `export const LAYOUT_DIGEST = '${digest}'`, '')
mkdirSync(dirname(outputPath), { recursive: true })
writeFileSync(outputPath, lines.join('\n'))

/**
 * The layout of each message in each of its versions, from the table of messages.ts. A message is parsed when it is first asked for, and a version
 * of it is a plan that decoder and encoder follow without asking for versions again.
 */
import { KAFKA_MESSAGES } from './messages.ts'

export type MessageKind = 'request' | 'response'

const SCALARS = ['bool', 'int8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'float64', 'string', 'bytes', 'records', 'uuid'] as const
export type ScalarType = (typeof SCALARS)[number]

/** What a field names, as far as policy asks for it. */
export type EntityType = 'topicName' | 'topicId' | 'groupId' | 'transactionalId'

/** A field as it is in one version. */
export interface FieldPlan {
  readonly name: string
  readonly type: ScalarType | 'struct'
  readonly isArray: boolean
  readonly isNullable: boolean
  readonly entity: EntityType | undefined
  /** What it is when nothing is said. */
  readonly fallback: number | bigint | boolean | string | null
  /** Of a struct, and of the structs in an array; else empty. */
  readonly struct: StructPlan
}

export interface StructPlan {
  /** In their order on the wire. */
  readonly fields: readonly FieldPlan[]
  /** By their tags, ascending. */
  readonly tagged: ReadonlyMap<number, FieldPlan>
  /** Fewest bytes that one takes: counts are held against it. */
  readonly bytesMin: number
}

export interface MessagePlan extends StructPlan {
  readonly apiKey: number
  readonly version: number
  /** Lengths are varints, and tagged fields may follow. */
  readonly isFlexible: boolean
}

export interface VersionRange {
  readonly first: number
  /** Infinity: all that follow. */
  readonly last: number
}

interface Field {
  readonly name: string
  readonly type: FieldPlan['type']
  readonly isArray: boolean
  readonly versions: VersionRange
  readonly nullable: VersionRange | undefined
  readonly tag: { readonly number: number; readonly versions: VersionRange } | undefined
  readonly entity: EntityType | undefined
  readonly fallback: string | undefined
  readonly fields: Field[]
}

interface Message {
  readonly name: string
  readonly versions: VersionRange
  readonly flexible: VersionRange | undefined
  readonly fields: readonly Field[]
}

/** The text of each message, by its kind and key. */
const texts: ReadonlyMap<string, string> = new Map(
  KAFKA_MESSAGES.trim()
    .split('\n\n')
    .map((text) => {
      const [apiKey, kind] = text.split(' ', 2)
      return [`${kind} ${apiKey}`, text] as const
    }),
)
const messages = new Map<string, Message>()
const plans = new Map<string, MessagePlan>()
const NO_STRUCT: StructPlan = { fields: [], tagged: new Map(), bytesMin: 0 }

/** @returns the versions that the table has; undefined for a key that it does not have */
export function versionsOf(apiKey: number): VersionRange | undefined {
  return messageOf('request', apiKey)?.versions
}

/** @returns undefined for a key or a version that the table does not have */
export function planOf(kind: MessageKind, apiKey: number, version: number): MessagePlan | undefined {
  const key = `${kind} ${apiKey} ${version}`
  const known = plans.get(key)
  if (known !== undefined) return known
  const message = messageOf(kind, apiKey)
  if (message === undefined || !isIn(version, message.versions)) return undefined
  const isFlexible = message.flexible !== undefined && isIn(version, message.flexible)
  const plan = { apiKey, version, isFlexible, ...structPlan(message.fields, version, isFlexible) }
  plans.set(key, plan)
  return plan
}

/** Whether a field names topics, as a field or a list. */
export function isTopic({ entity }: FieldPlan): boolean {
  return entity === 'topicName' || entity === 'topicId'
}

/** Keys that the table has. */
export function knownApiKeys(): number[] {
  return [...texts.keys()].filter((key) => key.startsWith('request ')).map((key) => Number(key.slice('request '.length)))
}

function messageOf(kind: MessageKind, apiKey: number): Message | undefined {
  const key = `${kind} ${apiKey}`
  const known = messages.get(key)
  if (known !== undefined) return known
  const text = texts.get(key)
  if (text === undefined) return undefined
  const message = parseMessage(text)
  messages.set(key, message)
  return message
}

function parseMessage(text: string): Message {
  const [head = '', ...lines] = text.split('\n')
  const [, , name = '', versions = '', flexible = ''] = head.split(' ')
  const fields: Field[] = []
  /** The lists that the next line may go on, by depth. */
  const open = [fields]
  for (const line of lines) {
    const words = line.trimStart()
    const depth = line.length - words.length - 1
    const field = parseField(words)
    ;(open[depth] as Field[]).push(field)
    open[depth + 1] = field.fields
  }
  return { name, versions: parseRange(versions), flexible: flexible === 'none' ? undefined : parseRange(flexible), fields }
}

function parseField(line: string): Field {
  const [name = '', typeText = '', versions = '', ...rest] = line.split(' ')
  const isArray = typeText.startsWith('[]')
  const item = isArray ? typeText.slice(2) : typeText
  const wordOf = (mark: string) => rest.find((word) => word.startsWith(mark))?.slice(1)
  const nullable = wordOf('?')
  const [tag, taggedIn] = wordOf('#')?.split(':') ?? []
  return {
    name,
    type: item === '{}' ? 'struct' : scalarOf(item),
    isArray,
    versions: parseRange(versions),
    nullable: nullable === undefined ? undefined : parseRange(nullable),
    tag: tag === undefined || taggedIn === undefined ? undefined : { number: Number(tag), versions: parseRange(taggedIn) },
    entity: entityOf(name, item, wordOf('@')),
    fallback: wordOf('='),
    fields: [],
  }
}

function scalarOf(text: string): ScalarType {
  const scalar = SCALARS.find((each) => each === text)
  if (scalar === undefined) throw new TypeError(`no type of Kafka: ${text}`)
  return scalar
}

/** The definitions mark names, and not the ids that stand for topics. */
function entityOf(name: string, type: string, marked: string | undefined): EntityType | undefined {
  if (type === 'uuid' && /^topicIds?$/i.test(name)) return 'topicId'
  return marked === 'topicName' || marked === 'groupId' || marked === 'transactionalId' ? marked : undefined
}

/** `3`, `3-7` or `3+` */
function parseRange(text: string): VersionRange {
  const [first, last] = text.split('-').map((part) => Number(part.replace('+', ''))) as [number, number?]
  return { first, last: text.endsWith('+') ? Number.POSITIVE_INFINITY : (last ?? first) }
}

function isIn(version: number, { first, last }: VersionRange): boolean {
  return version >= first && version <= last
}

function structPlan(fields: readonly Field[], version: number, isFlexible: boolean): StructPlan {
  const plain: FieldPlan[] = []
  const tagged: [number, FieldPlan][] = []
  for (const field of fields) {
    if (!isIn(version, field.versions)) continue
    const plan = fieldPlan(field, version, isFlexible)
    if (field.tag !== undefined && isIn(version, field.tag.versions)) tagged.push([field.tag.number, plan])
    else plain.push(plan)
  }
  const bytesMin = plain.reduce((sum, field) => sum + bytesMinOf(field, isFlexible), isFlexible ? 1 : 0)
  return { fields: plain, tagged: new Map(tagged.sort(([a], [b]) => a - b)), bytesMin }
}

function fieldPlan({ name, type, isArray, nullable, entity, fallback, fields }: Field, version: number, isFlexible: boolean): FieldPlan {
  return {
    name,
    type,
    isArray,
    isNullable: nullable !== undefined && isIn(version, nullable),
    entity,
    fallback: isArray || type === 'struct' ? null : fallbackOf(type, fallback),
    struct: type === 'struct' ? structPlan(fields, version, isFlexible) : NO_STRUCT,
  }
}

function fallbackOf(type: ScalarType, text: string | undefined): FieldPlan['fallback'] {
  if (text === 'null') return null
  switch (type) {
    case 'bool':
      return text === 'true'
    case 'int64':
      return BigInt(text ?? 0)
    case 'string':
      return text ?? ''
    case 'bytes':
    case 'records':
    case 'uuid':
      return null
    default:
      return Number(text ?? 0)
  }
}

const SCALAR_BYTES: Readonly<Partial<Record<ScalarType, number>>> = {
  bool: 1,
  int8: 1,
  int16: 2,
  uint16: 2,
  int32: 4,
  uint32: 4,
  int64: 8,
  float64: 8,
  uuid: 16,
}

function bytesMinOf({ type, isArray, isNullable, struct }: FieldPlan, isFlexible: boolean): number {
  if (isArray) return isFlexible ? 1 : 4
  if (type === 'struct') return isNullable ? 1 : struct.bytesMin
  if (type === 'string') return isFlexible ? 1 : 2
  if (type === 'bytes' || type === 'records') return isFlexible ? 1 : 4
  return SCALAR_BYTES[type] ?? 0
}

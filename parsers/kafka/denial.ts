/**
 * The answer that a broker gives to a request that it does not authorize: the response of that kind and version, with an error for each thing that
 * the request names. Which list of a response is about which list of its request follows from what they name, with the exceptions in SOURCES.
 */
import { API_KEYS } from './api-keys.ts'
import { isArray, isStruct, type KafkaArray, type KafkaStruct, type KafkaValue, type Place } from './decode.ts'
import { type Encodable, encodeMessage } from './encode.ts'
import { SIZE_BYTES } from './frame.ts'
import { type FieldPlan, isTopic, type MessagePlan, planOf, type StructPlan } from './schema.ts'

/** Numbers of errors, as org.apache.kafka.common.protocol.Errors has them. */
export const ERROR_CODES = {
  topic: 29,
  group: 30,
  cluster: 31,
  transactionalId: 53,
} as const
export type DeniedKind = keyof typeof ERROR_CODES

export const CORRELATION_BYTES = 4

/** Lists of responses that are about a list of the request that names things in another way, by key: response.request. */
const SOURCES: ReadonlyMap<number, readonly [list: string, source: string, key: string]> = new Map([
  [10, ['coordinators', 'coordinatorKeys', 'key']],
  [30, ['results', 'creations', '']],
  [31, ['filterResults', 'filters', '']],
  [65, ['transactionStates', 'transactionalIds', 'transactionalId']],
])

const PARTITION_NAMES = new Set(['index', 'partitionIndex', 'partition', 'partitionId'])

export interface DeniedRequest {
  readonly plan: MessagePlan
  readonly message: KafkaStruct
  /** That places are in. */
  readonly bytes: Buffer
  readonly correlationId: number
}

/** @returns a frame; undefined when no response of that kind has a place for an error */
export function encodeDenial({ plan, message, bytes, correlationId }: DeniedRequest, kind: DeniedKind): Buffer | undefined {
  const response = planOf('response', plan.apiKey, plan.version)
  if (response === undefined || !hasError(response)) return undefined
  const code = ERROR_CODES[kind]
  const context = { apiKey: plan.apiKey, bytes, code, isBelow: kind !== 'topic' || !hasErrorBelow(response) }
  const isPlaced = (each: Record<string, Encodable>) => hasCode(each, code)
  const below = valuesOf(response, plan, message, context)
  // Where it is with the topics, and none was named, it is with what they would stand in.
  const values = isPlaced(below) ? below : valuesOf(response, plan, message, { ...context, isBelow: true })
  return encodeResponse(response, correlationId, isPlaced(values) ? values : { ...values, ...someError(response, code) })
}

/** The items of a list of the response for those of a request, each with its error. */
export function deniedItems({ plan, message, bytes }: DeniedRequest, list: FieldPlan): { readonly [name: string]: Encodable }[] {
  const context = { apiKey: plan.apiKey, bytes, code: ERROR_CODES.topic, isBelow: true }
  return itemsOf(list, plan, message, context) as { readonly [name: string]: Encodable }[]
}

/** @param values by the names of fields */
export function encodeResponse(plan: MessagePlan, correlationId: number, values: { readonly [name: string]: Encodable }): Buffer {
  const body = encodeMessage(plan, values)
  const head = responseHeadBytes(plan)
  const frame = Buffer.alloc(SIZE_BYTES + head + body.length)
  frame.writeInt32BE(head + body.length, 0)
  frame.writeInt32BE(correlationId, SIZE_BYTES)
  body.copy(frame, SIZE_BYTES + head)
  return frame
}

/** Of the header behind the size: the correlation id, and in flexible versions no tagged fields; that of ApiVersions is of the first kind always. */
export function responseHeadBytes({ apiKey, isFlexible }: MessagePlan): number {
  return isFlexible && apiKey !== API_KEYS.API_VERSIONS ? CORRELATION_BYTES + 1 : CORRELATION_BYTES
}

function hasCode(value: Encodable, code: number): boolean {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value === code
  return Object.values(value).some((each) => hasCode(each as Encodable, code))
}

/** Of a response whose lists are about something else than the request: one item, for the error's sake. */
function someError({ fields }: StructPlan, code: number): Record<string, Encodable> {
  const own = fields.find(isErrorField)
  if (own !== undefined) return { [own.name]: code }
  const list = fields.find(({ struct }) => hasError(struct))
  return list === undefined ? {} : { [list.name]: [someError(list.struct, code)] }
}

interface Context {
  readonly apiKey: number
  readonly bytes: Buffer
  readonly code: number
  /** Errors have their place at this depth: those of topics are with the topics, if there is one. */
  readonly isBelow: boolean
}

function isErrorField({ name, type, isArray: isList }: FieldPlan): boolean {
  return type === 'int16' && !isList && (name === 'errorCode' || name.endsWith('ErrorCode'))
}

function hasError(plan: StructPlan): boolean {
  return plan.fields.some((field) => isErrorField(field) || (field.type === 'struct' && hasError(field.struct)))
}

/** A list of topics. */
export function isAboutTopics({ isArray: isList, struct }: FieldPlan): boolean {
  return isList && struct.fields.some(isTopic)
}

function hasErrorBelow({ fields }: StructPlan): boolean {
  return fields.some((field) => (isAboutTopics(field) ? hasError(field.struct) : hasErrorBelow(field.struct)))
}

function valuesOf(response: StructPlan, request: StructPlan, message: KafkaStruct, context: Context): Record<string, Encodable> {
  const values: Record<string, Encodable> = {}
  for (const field of response.fields) {
    if (isErrorField(field)) values[field.name] = context.isBelow ? context.code : 0
    else if (field.isArray && field.type === 'struct') values[field.name] = itemsOf(field, request, message, context)
    else {
      const value = keyOf(field, request, message)
      if (value !== undefined && value !== null) values[field.name] = encodable(value, context.bytes)
    }
  }
  return values
}

function itemsOf(field: FieldPlan, request: StructPlan, message: KafkaStruct, context: Context): Encodable[] {
  const [list, sourceName, key] = SOURCES.get(context.apiKey) ?? []
  const source = request.fields.find((candidate) => (list === field.name ? candidate.name === sourceName : isSource(candidate, field)))
  if (source === undefined) return nestedItemsOf(field, request, message, context)
  const array = message.values[source.name]
  if (!isArray(array)) return []
  const inner = isAboutTopics(field) ? { ...context, isBelow: true } : context
  return (array as KafkaArray).items.map((item) => {
    if (isStruct(item)) return valuesOf(field.struct, source.struct, item, inner)
    const name =
      key || (field.struct.fields.find((candidate) => isSameKey(candidate, source)) ?? field.struct.fields.find(isPartition))?.name
    const alone: KafkaStruct = { start: 0, end: 0, values: {} }
    return { ...valuesOf(field.struct, NOTHING, alone, inner), ...(name === undefined ? {} : { [name]: encodable(item, context.bytes) }) }
  })
}

/** A list of the response about lists that stand in a list of the request. */
function nestedItemsOf(field: FieldPlan, request: StructPlan, message: KafkaStruct, context: Context): Encodable[] {
  return request.fields.flatMap((outer) => {
    const array = message.values[outer.name]
    if (!isArray(array) || !outer.struct.fields.some((candidate) => isSource(candidate, field))) return []
    return array.items.flatMap((item) => (isStruct(item) ? itemsOf(field, outer.struct, item, context) : []))
  })
}

const NOTHING: StructPlan = { fields: [], tagged: new Map(), bytesMin: 0 }

function isPartition({ name, type }: FieldPlan): boolean {
  return type === 'int32' && PARTITION_NAMES.has(name)
}

function isSameKey(a: FieldPlan, b: FieldPlan): boolean {
  return a.entity !== undefined && a.entity === b.entity
}

/** Whether the items of a list of the request are what those of a list of the response are about. */
function isSource(source: FieldPlan, list: FieldPlan): boolean {
  if (!source.isArray) return false
  const keys = list.struct.fields
  if (source.type !== 'struct') {
    if (source.entity !== undefined) return keys.some((key) => isSameKey(key, source))
    return source.type === 'int32' && keys.some(isPartition)
  }
  const fields = source.struct.fields
  return (
    keys.some((key) => fields.some((field) => isSameKey(key, field))) ||
    (keys.some(isPartition) && fields.some(isPartition)) ||
    keys.some((key) => !key.isArray && fields.some((field) => !field.isArray && field.name === key.name))
  )
}

function keyOf(field: FieldPlan, request: StructPlan, { values }: KafkaStruct): KafkaValue | undefined {
  if (field.isArray || field.type === 'struct') return undefined
  const same = request.fields.find(
    (each) =>
      !each.isArray &&
      (isSameKey(each, field) || (isPartition(each) && isPartition(field)) || (each.name === field.name && each.type === field.type)),
  )
  return same && values[same.name]
}

/** Keys are scalars: what is a place is an id. */
function encodable(value: KafkaValue, bytes: Buffer): Encodable {
  if (typeof value !== 'object' || value === null) return value
  const { start, end } = value as Place
  return bytes.subarray(start, end)
}

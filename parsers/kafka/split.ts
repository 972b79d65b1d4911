/**
 * Requests that name topics of which some are allowed: those go on, and the others get their errors in the answer. The answer itself, which may be
 * many megabytes of records, is not taken apart: errors are put before what the broker says, and all else passes.
 */
import { Cursor, isArray, isStruct, type KafkaStruct, type KafkaValue } from './decode.ts'
import { type DeniedRequest, deniedItems, isAboutTopics, responseHeadBytes } from './denial.ts'
import { encodeCount, encodeStructs } from './encode.ts'
import { KafkaParseError } from './errors.ts'
import { SIZE_BYTES } from './frame.ts'
import { replaceItems } from './rewrite.ts'
import { type FieldPlan, type MessagePlan, planOf, type ScalarType, type StructPlan } from './schema.ts'

/** What precedes a list of topics in answers; anything else, and a request is not split. */
const FIXED_BYTES: Readonly<Partial<Record<ScalarType | 'struct', number>>> = { bool: 1, int8: 1, int16: 2, int32: 4, int64: 8 }

export interface SplitRequest {
  /** What goes on in its place. */
  readonly changed: Buffer
  /** Of the answer: how many entries, and their bytes. */
  readonly deniedCount: number
  readonly entries: readonly Buffer[]
}

/**
 * @param isAllowed asked of each topic that the request names, by its struct and what is in that
 * @returns undefined for a request that is denied or allowed as a whole
 */
export function splitTopics(
  request: DeniedRequest,
  frameBytes: number,
  isAllowed: (topic: KafkaStruct, plan: StructPlan) => boolean,
): SplitRequest | undefined {
  const { plan, message, bytes } = request
  const [list, ...others] = plan.fields.filter(isAboutTopics)
  const response = planOf('response', plan.apiKey, plan.version)
  const answered = response?.fields.find(isAboutTopics)
  const array = list && message.values[list.name]
  if (
    list === undefined ||
    response === undefined ||
    answered === undefined ||
    !isArray(array) ||
    listOffset(response, answered) === undefined
  )
    return undefined
  const isAnyDenied = ({ name, struct }: FieldPlan) => itemsOf(message.values[name]).some((item) => !isAllowed(item, struct))
  if (others.some(isAnyDenied)) return undefined
  const items = itemsOf(array)
  const kept = items.filter((item) => isAllowed(item, list.struct))
  if (kept.length === 0 || kept.length === items.length) return undefined
  const denied = items.filter((item) => !kept.includes(item))
  const rest: KafkaStruct = { ...message, values: { ...message.values, [list.name]: { ...array, items: denied } } }
  const entries = encodeStructs(answered.struct, deniedItems({ ...request, message: rest }, answered), plan.isFlexible)
  const changed = replaceItems(bytes.subarray(0, frameBytes), array, kept, [], plan.isFlexible)
  return { changed, deniedCount: denied.length, entries }
}

/**
 * What takes the place of the beginning of an answer.
 * @param bytes of the answer, as far as they have come @returns how many of them it stands for
 * @throws IncompleteError, KafkaParseError
 */
export function prependEntries(
  bytes: Buffer,
  frameBytes: number,
  request: MessagePlan,
  { deniedCount, entries }: SplitRequest,
): { readonly head: Buffer; readonly covered: number } {
  const plan = planOf('response', request.apiKey, request.version) as MessagePlan
  const list = plan.fields.find(isAboutTopics)
  const offset = list && listOffset(plan, list)
  if (offset === undefined) throw new KafkaParseError('an answer without a list of topics')
  const cursor = new Cursor(bytes, offset, plan.isFlexible, frameBytes)
  const count = cursor.longLength()
  const head = Buffer.concat([bytes.subarray(0, offset), encodeCount(Math.max(0, count) + deniedCount, plan.isFlexible), ...entries])
  head.writeInt32BE(frameBytes - SIZE_BYTES + head.length - cursor.offset, 0)
  return { head, covered: cursor.offset }
}

/** @returns where the list begins in every answer; undefined where that depends on what is before it */
function listOffset(plan: MessagePlan, list: FieldPlan): number | undefined {
  let offset = SIZE_BYTES + responseHeadBytes(plan)
  for (const field of plan.fields) {
    if (field === list) return offset
    const length = field.isArray ? undefined : FIXED_BYTES[field.type]
    if (length === undefined) return undefined
    offset += length
  }
  return undefined
}

function itemsOf(value: KafkaValue | undefined): KafkaStruct[] {
  return isArray(value) ? value.items.filter(isStruct) : []
}

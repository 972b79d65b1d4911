/** Requests of every kind and version, made after their plans, and the parser run on them. */
import type { Op, StreamDirection } from '#parsers/contract.ts'
import { decodeMessage, isArray, isStruct, type KafkaStruct, type KafkaValue } from '#parsers/kafka/decode.ts'
import { responseHeadBytes } from '#parsers/kafka/denial.ts'
import { type Encodable, encodeMessage } from '#parsers/kafka/encode.ts'
import { type KafkaRules, KafkaRuleset } from '#parsers/kafka/judge.ts'
import { type KafkaRecord, kafkaParser } from '#parsers/kafka/parser.ts'
import { type FieldPlan, type MessagePlan, planOf, type StructPlan } from '#parsers/kafka/schema.ts'

export interface Names {
  readonly topic: string
  readonly group: string
  readonly transactionalId: string
}

export const NAMES: Names = { topic: 'orders', group: 'books', transactionalId: 'tx' }

/** A value for each field, lists with one item, and the names where names are. */
export function sampleOf(plan: StructPlan, names: Names = NAMES): { readonly [name: string]: Encodable } {
  return Object.fromEntries(plan.fields.map((field) => [field.name, sampleField(field, names)]))
}

function sampleField(field: FieldPlan, names: Names): Encodable {
  const one = field.type === 'struct' ? sampleOf(field.struct, names) : sampleScalar(field, names)
  return field.isArray ? [one] : one
}

function sampleScalar({ type, entity, name }: FieldPlan, names: Names): Encodable {
  if (entity === 'topicName') return names.topic
  if (entity === 'groupId') return names.group
  if (entity === 'transactionalId') return names.transactionalId
  switch (type) {
    case 'bool':
      return true
    case 'int64':
      return 7n
    case 'string':
      return name
    case 'bytes':
    case 'records':
      return Buffer.from('some bytes')
    case 'uuid':
      return Buffer.alloc(16, 1)
    default:
      return 1
  }
}

export function requestFrame(
  apiKey: number,
  version: number,
  values: { readonly [name: string]: Encodable },
  head: { correlationId?: number; clientId?: string } = {},
): Buffer {
  const plan = planOf('request', apiKey, version) as MessagePlan
  const { correlationId = 77, clientId = 'me' } = head
  const id = Buffer.from(clientId)
  const fixed = Buffer.alloc(14)
  fixed.writeInt16BE(apiKey, 4)
  fixed.writeInt16BE(version, 6)
  fixed.writeInt32BE(correlationId, 8)
  fixed.writeInt16BE(id.length, 12)
  const frame = Buffer.concat([fixed, id, ...(plan.isFlexible ? [Buffer.alloc(1)] : []), encodeMessage(plan, values)])
  frame.writeInt32BE(frame.length - 4, 0)
  return frame
}

export function rulesetOf(rules: Partial<KafkaRules>): KafkaRuleset {
  return new KafkaRuleset({ allowAll: false, allow: [], deny: [], ...rules })
}

export interface ParserRun {
  readonly push: (direction: StreamDirection, bytes: Uint8Array) => readonly Op[]
  readonly records: KafkaRecord[]
}

export function runOf(ruleset: KafkaRuleset): ParserRun {
  const records: KafkaRecord[] = []
  const parser = kafkaParser().create({ rules: () => ruleset, report: (record) => records.push(record) })
  return { push: (direction, bytes) => parser.onData(direction, bytes, false) as readonly Op[], records }
}

/** What the answer of a denial says. */
export function answerOf(
  ops: readonly Op[],
  apiKey: number,
  version: number,
): { readonly correlationId: number; readonly message: KafkaStruct } {
  const op = ops.find((each) => each.op === 'answer')
  if (op?.op !== 'answer') throw new Error(`no answer in ${JSON.stringify(ops)}`)
  const frame = Buffer.from(op.data)
  const plan = planOf('response', apiKey, version) as MessagePlan
  return { correlationId: frame.readInt32BE(4), message: decodeMessage(frame, 4 + responseHeadBytes(plan), plan) }
}

export function itemsOf(value: KafkaValue | undefined): KafkaStruct[] {
  return isArray(value) ? value.items.filter(isStruct) : []
}

export function first(value: KafkaValue | undefined): KafkaStruct {
  const [item] = itemsOf(value)
  if (item === undefined) throw new Error('no such item')
  return item
}

/** What the relay tells the agent of requests and connections. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { type RelayFlow, RelayFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { Config } from '#config/schema.ts'
import type { KafkaRecord } from '#parsers/kafka/parser.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import type { UserRecord } from '../user-parsers/frames.ts'
import type { FailedConnection, ParsedConnection } from './parser-host.ts'

const MS_TO_NS = 1_000_000n
/** A flow is a line to people: of more topics, the first. */
const TOPICS_MAX = 32

export type RequestRecord = KafkaRecord | UserRecord

/** What is denied, or would be, is always told of; of the rest, as much as is asked for. */
export function isReported({ isAllowed, isAudited }: RequestRecord, { mode, sampleRate }: Config['flows']): boolean {
  return mode === 'all' || !isAllowed || isAudited || (mode === 'sampled' && Math.random() < sampleRate)
}

export function requestFlow(connection: ParsedConnection, record: RequestRecord): RelayFlow {
  const { isAllowed: allowed, rule, isAudited: audit } = record
  return create(RelayFlowSchema, { ...sidesOf(connection), allowed, rule, audit, request: requestOf(record) })
}

function requestOf(record: RequestRecord): NonNullable<MessageInitShape<typeof RelayFlowSchema>['request']> {
  if ('fields' in record) {
    const fields = Object.entries(record.fields).map(([key, value]) => ({ key, value }))
    return { case: 'parsed', value: { fields } }
  }
  const { apiKey, apiVersion, correlationId, clientId, topics, errorCode } = record
  return { case: 'kafka', value: { apiKey, apiVersion, correlationId, clientId, topics: topics.slice(0, TOPICS_MAX), errorCode } }
}

export function closedFlow(connection: FailedConnection, reason: string): RelayFlow {
  return create(RelayFlowSchema, { ...sidesOf(connection), closed: reason })
}

function sidesOf({ slot, source, sourcePort, destination, destinationPort }: FailedConnection) {
  return {
    timeNs: BigInt(Date.now()) * MS_TO_NS,
    slotId: slot.id,
    sourceAddress: bytesToAddress(source),
    sourcePort,
    destinationAddress: bytesToAddress(destination),
    destinationPort,
    parser: slot.definition.name,
  }
}

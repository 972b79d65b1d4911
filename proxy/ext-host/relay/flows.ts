/** What the relay tells the agent of requests and connections. */
import { create } from '@bufbuild/protobuf'
import { type RelayFlow, RelayFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { KafkaRecord } from '#parsers/kafka/parser.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import type { RelayedConnection } from './server.ts'

const MS_TO_NS = 1_000_000n
/** A flow is a line to people: of more topics, the first. */
const TOPICS_MAX = 32

export function requestFlow(connection: RelayedConnection, record: KafkaRecord): RelayFlow {
  const { apiKey, apiVersion, correlationId, clientId, topics, errorCode, isAllowed: allowed, rule, isAudited: audit } = record
  return create(RelayFlowSchema, {
    ...sidesOf(connection),
    allowed,
    rule,
    audit,
    request: { case: 'kafka', value: { apiKey, apiVersion, correlationId, clientId, topics: topics.slice(0, TOPICS_MAX), errorCode } },
  })
}

export function closedFlow(connection: RelayedConnection, reason: string): RelayFlow {
  return create(RelayFlowSchema, { ...sidesOf(connection), closed: reason })
}

function sidesOf({ slot, source, sourcePort, destination, destinationPort }: RelayedConnection) {
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

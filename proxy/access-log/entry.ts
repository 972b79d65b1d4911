/** One entry of Envoy's access log as a flow. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { Duration, Timestamp } from '@bufbuild/protobuf/wkt'
import type { Address } from '#api/gen/envoy/config/core/v3/address_pb.js'
import { RequestMethod } from '#api/gen/envoy/config/core/v3/base_pb.js'
import { type HTTPAccessLogEntry, HTTPAccessLogEntry_HTTPVersion } from '#api/gen/envoy/data/accesslog/v3/accesslog_pb.js'
import { type HeaderNoteSchema, type HttpFlow, HttpFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import { actionNumber, parseActionWord } from '#api/mismatch-actions.ts'
import { METADATA_FIELDS, METADATA_NAMESPACE } from '../ext-host/contract.ts'
import { parseSlotName } from '../slot-name.ts'
import { RBAC_METADATA, verdictOf } from '../xds/verdict.ts'

const NANOS = 1_000_000_000n

const PROTOCOLS: Readonly<Record<number, string>> = {
  [HTTPAccessLogEntry_HTTPVersion.HTTP10]: 'HTTP/1.0',
  [HTTPAccessLogEntry_HTTPVersion.HTTP11]: 'HTTP/1.1',
  [HTTPAccessLogEntry_HTTPVersion.HTTP2]: 'HTTP/2',
  [HTTPAccessLogEntry_HTTPVersion.HTTP3]: 'HTTP/3',
}

/** @returns the flow; slot id 0 when the request ended before it could be told apart, as malformed ones do */
export function flowOf(entry: HTTPAccessLogEntry): HttpFlow {
  const common = entry.commonProperties
  const request = entry.request
  const { [RBAC_METADATA]: rules, [METADATA_NAMESPACE]: extHost } = common?.metadata?.filterMetadata ?? {}
  const { allowed, audit, rule, failed } = verdictOf(rules, extHost)
  // The address of the socket, not one that a header claims.
  const source = socketOf(common?.downstreamDirectRemoteAddress)
  const destination = socketOf(common?.downstreamLocalAddress)
  return create(HttpFlowSchema, {
    timeNs: nanosOfTimestamp(common?.startTime),
    slotId: parseSlotName(common?.routeName ?? '')?.id ?? 0,
    sourceAddress: source.address,
    sourcePort: source.port,
    destinationAddress: destination.address,
    destinationPort: destination.port,
    method: methodOf(request?.requestMethod, request?.requestHeaders),
    scheme: request?.scheme ?? '',
    authority: request?.authority ?? '',
    path: request?.path ?? '',
    protocol: PROTOCOLS[entry.protocolVersion] ?? '',
    status: entry.response?.responseCode ?? 0,
    allowed,
    audit,
    rule,
    failed,
    details: entry.response?.responseCodeDetails ?? '',
    durationNs: nanosOf(common?.timeToLastDownstreamTxByte ?? common?.duration),
    headerNotes: notesOf(extHost?.[METADATA_FIELDS.headers]),
  })
}

function notesOf(headers: unknown): MessageInitShape<typeof HeaderNoteSchema>[] {
  if (typeof headers !== 'object' || headers === null) return []
  return Object.entries(headers).flatMap(([name, text]) => {
    const word = parseActionWord(text)
    return word === undefined ? [] : [{ name, action: actionNumber(word) }]
  })
}

function methodOf(method: RequestMethod | undefined, headers: Readonly<Record<string, string>> | undefined): string {
  if (method === undefined || method === RequestMethod.METHOD_UNSPECIFIED) return headers?.[':method'] ?? ''
  return RequestMethod[method] ?? ''
}

function socketOf(address: Address | undefined): { address: string; port: number } {
  if (address?.address.case !== 'socketAddress') return { address: '', port: 0 }
  const { address: text, portSpecifier } = address.address.value
  return { address: text, port: portSpecifier.case === 'portValue' ? portSpecifier.value : 0 }
}

function nanosOf(duration: Duration | undefined): bigint {
  return duration === undefined ? 0n : duration.seconds * NANOS + BigInt(duration.nanos)
}

function nanosOfTimestamp(time: Timestamp | undefined): bigint {
  return time === undefined ? 0n : time.seconds * NANOS + BigInt(time.nanos)
}

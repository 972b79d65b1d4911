/**
 * Which requests Envoy reports, and how. All slots log over one stream a worker: the logger is shared as long as its configuration is
 * the same, so the slot is told by the route's name instead of the log's. Delivery is best effort: with nobody there to take them,
 * Envoy drops entries beyond its buffer.
 */
import { create } from '@bufbuild/protobuf'
import {
  type AccessLog,
  type AccessLogFilter,
  AccessLogFilterSchema,
  AccessLogSchema,
  AndFilterSchema,
  MetadataFilterSchema,
  OrFilterSchema,
  RuntimeFilterSchema,
} from '#api/gen/envoy/config/accesslog/v3/accesslog_pb.js'
import { ApiVersion } from '#api/gen/envoy/config/core/v3/config_source_pb.js'
import { GrpcServiceSchema } from '#api/gen/envoy/config/core/v3/grpc_service_pb.js'
import { CommonGrpcAccessLogConfigSchema, HttpGrpcAccessLogConfigSchema } from '#api/gen/envoy/extensions/access_loggers/grpc/v3/als_pb.js'
import { MetadataMatcherSchema } from '#api/gen/envoy/type/matcher/v3/metadata_pb.js'
import type { StringMatcher } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import { FractionalPercent_DenominatorType, FractionalPercentSchema } from '#api/gen/envoy/type/v3/percent_pb.js'
import { HEADGATE_CLUSTER } from '../envoy/bootstrap.ts'
import { METADATA_FIELDS, METADATA_NAMESPACE, RESULT_ALLOWED, RESULT_DENIED } from '../ext-host/contract.ts'
import { packAny } from '../xds/resource.ts'
import {
  AUDIT_PREFIX,
  EXT_HOST_RULE,
  RBAC_ALLOWED,
  RBAC_DENIED,
  RBAC_METADATA,
  RBAC_POLICY,
  RBAC_RESULT,
  RBAC_SHADOW_POLICY,
  SHADOW_ALLOWED,
} from '../xds/verdict.ts'

/** A stored entry leaves after this at the latest: a denial is to be seen at once, and what policy in audit would deny. */
export const FLUSH_MS = 50
/** A sample is no news; each delivery wakes two processes. */
const SAMPLES_FLUSH_MS = 1000
/** What Envoy keeps for a reader that is away, a worker. */
const BUFFER_BYTES = 64 * 1024

export interface AccessLogSettings {
  readonly mode: 'all' | 'sampled' | 'denied'
  /** Share of allowed requests that are reported with mode sampled, 0 to 1. */
  readonly sampleRate: number
}

/** @returns several when some requests are more urgent than others: what is flushed at its own pace is a stream of its own to Envoy */
export function accessLogOf({ mode, sampleRate }: AccessLogSettings): AccessLog[] {
  if (mode === 'all') return [logOf(FLUSH_MS)]
  const urgent = logOf(FLUSH_MS, urgentFilter())
  if (mode === 'denied' || sampleRate === 0) return [urgent]
  return [urgent, logOf(SAMPLES_FLUSH_MS, sampledFilter(sampleRate))]
}

function logOf(flushMs: number, filter?: AccessLogFilter): AccessLog {
  const config = create(HttpGrpcAccessLogConfigSchema, {
    commonConfig: create(CommonGrpcAccessLogConfigSchema, {
      logName: 'headgate',
      transportApiVersion: ApiVersion.V3,
      grpcService: create(GrpcServiceSchema, { targetSpecifier: { case: 'envoyGrpc', value: { clusterName: HEADGATE_CLUSTER } } }),
      bufferFlushInterval: { seconds: BigInt(Math.floor(flushMs / 1000)), nanos: (flushMs % 1000) * 1_000_000 },
      bufferSizeBytes: BUFFER_BYTES,
    }),
  })
  return create(AccessLogSchema, {
    name: 'envoy.access_loggers.http_grpc',
    configType: { case: 'typedConfig', value: packAny(HttpGrpcAccessLogConfigSchema, config) },
    ...(filter === undefined ? {} : { filter }),
  })
}

/**
 * Matches requests that the rules denied, those that never came before the rules, such as malformed ones, and those that are passed and
 * that the shadow denies.
 */
function urgentFilter(): AccessLogFilter {
  const filters = [
    metadataFilter(RBAC_RESULT, exactly(RBAC_DENIED), { absent: true }),
    metadataFilter(RBAC_SHADOW_POLICY, { case: 'prefix', value: AUDIT_PREFIX }),
    // Denied by the extension host, which was to answer, or not answered at all.
    allOf([metadataFilter(RBAC_POLICY, exactly(EXT_HOST_RULE)), extHostFilter(exactly(RESULT_DENIED), { absent: true })]),
  ]
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'orFilter', value: create(OrFilterSchema, { filters }) } })
}

/** Matches a share of the requests that the rules allowed and that are not urgent. */
function sampledFilter(sampleRate: number): AccessLogFilter {
  const percentSampled = create(FractionalPercentSchema, {
    numerator: Math.round(sampleRate * 1_000_000),
    denominator: FractionalPercent_DenominatorType.MILLION,
  })
  const sampled = create(AccessLogFilterSchema, {
    filterSpecifier: {
      case: 'runtimeFilter',
      value: create(RuntimeFilterSchema, { runtimeKey: 'headgate.sample_rate', percentSampled, useIndependentRandomness: true }),
    },
  })
  // The cheaper one first: it lets few through.
  const filters = [
    sampled,
    metadataFilter(RBAC_RESULT, exactly(RBAC_ALLOWED)),
    extHostFilter(exactly(RESULT_ALLOWED), { absent: true }),
    // Envoy's filter knows no "not": what the shadow tells is an audit or that there is none.
    metadataFilter(RBAC_SHADOW_POLICY, exactly(SHADOW_ALLOWED), { absent: true }),
  ]
  return allOf(filters)
}

function allOf(filters: AccessLogFilter[]): AccessLogFilter {
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'andFilter', value: create(AndFilterSchema, { filters }) } })
}

function extHostFilter(matchPattern: StringMatcher['matchPattern'], options?: { absent: boolean }): AccessLogFilter {
  return metadataFilter(METADATA_FIELDS.result, matchPattern, { ...options, namespace: METADATA_NAMESPACE })
}

/** @param absent whether a request matches without a value there */
function metadataFilter(
  key: string,
  matchPattern: StringMatcher['matchPattern'],
  { absent = false, namespace = RBAC_METADATA } = {},
): AccessLogFilter {
  const matcher = create(MetadataMatcherSchema, {
    filter: namespace,
    path: [{ segment: { case: 'key', value: key } }],
    value: { matchPattern: { case: 'stringMatch', value: { matchPattern } } },
  })
  const value = create(MetadataFilterSchema, { matcher, matchIfKeyNotFound: absent })
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'metadataFilter', value } })
}

function exactly(value: string): StringMatcher['matchPattern'] {
  return { case: 'exact', value }
}

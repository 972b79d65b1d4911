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
  RuntimeFilterSchema,
} from '#api/gen/envoy/config/accesslog/v3/accesslog_pb.js'
import { ApiVersion } from '#api/gen/envoy/config/core/v3/config_source_pb.js'
import { GrpcServiceSchema } from '#api/gen/envoy/config/core/v3/grpc_service_pb.js'
import { CommonGrpcAccessLogConfigSchema, HttpGrpcAccessLogConfigSchema } from '#api/gen/envoy/extensions/access_loggers/grpc/v3/als_pb.js'
import { MetadataMatcherSchema } from '#api/gen/envoy/type/matcher/v3/metadata_pb.js'
import { FractionalPercent_DenominatorType, FractionalPercentSchema } from '#api/gen/envoy/type/v3/percent_pb.js'
import { HEADGATE_CLUSTER } from '../envoy/bootstrap.ts'
import { packAny } from '../xds/resource.ts'

/** Namespace and keys of the metadata in which the RBAC filter leaves its verdict. */
export const RBAC_METADATA = 'envoy.filters.http.rbac'
export const RBAC_RESULT = 'enforced_engine_result'
export const RBAC_POLICY = 'enforced_effective_policy_id'
const RBAC_DENIED = 'denied'
export const RBAC_ALLOWED = 'allowed'

/** A stored entry leaves after this at the latest: a denial is to be seen at once. */
const FLUSH_MS = 50
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
  const notAllowed = logOf(FLUSH_MS, notAllowedFilter())
  if (mode === 'denied' || sampleRate === 0) return [notAllowed]
  return [notAllowed, logOf(SAMPLES_FLUSH_MS, sampledFilter(sampleRate))]
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

/** Matches requests that the rules denied, and those that never came before the rules, such as malformed ones. */
function notAllowedFilter(): AccessLogFilter {
  return verdictFilter(RBAC_DENIED, true)
}

/** Matches a share of the requests that the rules allowed. */
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
  const filters = [sampled, verdictFilter(RBAC_ALLOWED, false)]
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'andFilter', value: create(AndFilterSchema, { filters }) } })
}

/** @param elseMatch whether a request matches that has no verdict */
function verdictFilter(verdict: string, elseMatch: boolean): AccessLogFilter {
  const matcher = create(MetadataMatcherSchema, {
    filter: RBAC_METADATA,
    path: [{ segment: { case: 'key', value: RBAC_RESULT } }],
    value: { matchPattern: { case: 'stringMatch', value: { matchPattern: { case: 'exact', value: verdict } } } },
  })
  const value = create(MetadataFilterSchema, { matcher, matchIfKeyNotFound: elseMatch })
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'metadataFilter', value } })
}

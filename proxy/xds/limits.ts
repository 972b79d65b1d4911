/** Envoy's own limits on what goes to one cluster are those of a proxy at the edge: a thousand at a time. */
import { create } from '@bufbuild/protobuf'
import { CircuitBreakers_ThresholdsSchema, CircuitBreakersSchema } from '#api/gen/envoy/config/cluster/v3/circuit_breaker_pb.js'
import { RoutingPriority } from '#api/gen/envoy/config/core/v3/base_pb.js'

const UNLIMITED = 0xffffffff

export function withoutLimits() {
  const thresholds = [RoutingPriority.DEFAULT, RoutingPriority.HIGH].map((priority) =>
    create(CircuitBreakers_ThresholdsSchema, {
      priority,
      maxConnections: UNLIMITED,
      maxPendingRequests: UNLIMITED,
      maxRequests: UNLIMITED,
      maxRetries: UNLIMITED,
    }),
  )
  return create(CircuitBreakersSchema, { thresholds })
}

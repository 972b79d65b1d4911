/** Clusters of processes beside Envoy, by the UNIX sockets that they listen on. */
import { create } from '@bufbuild/protobuf'
import { type Cluster, Cluster_DiscoveryType, Cluster_LbPolicy, ClusterSchema } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { OutlierDetectionSchema } from '#api/gen/envoy/config/cluster/v3/outlier_detection_pb.js'
import { AddressSchema } from '#api/gen/envoy/config/core/v3/address_pb.js'
import { ClusterLoadAssignmentSchema } from '#api/gen/envoy/config/endpoint/v3/endpoint_pb.js'
import { HttpProtocolOptionsSchema } from '#api/gen/envoy/extensions/upstreams/http/v3/http_protocol_options_pb.js'
import { withoutLimits } from './limits.ts'
import { packAny } from './resource.ts'

const CONNECT_TIMEOUT = { seconds: 1n }

/** A process that is gone is not asked again for so long. */
const EJECTION = { seconds: 0n, nanos: 500_000_000 }
const EJECTION_MAX = { seconds: 1n }

/**
 * What the sockets carry is up to the filter. One process after the other has its turn: by least requests, one that is gone would be the first
 * choice. Where it cannot be connected to it is left out for a while; what it answers is no reason.
 */
export function pipeCluster(name: string, sockets: readonly string[]): Cluster {
  const endpoints = sockets.map((path) => {
    const address = create(AddressSchema, { address: { case: 'pipe', value: { path } } })
    return { hostIdentifier: { case: 'endpoint' as const, value: { address } } }
  })
  return create(ClusterSchema, {
    name,
    connectTimeout: CONNECT_TIMEOUT,
    // Envoy's own limits would refuse the 1,025th request or connection at a time.
    circuitBreakers: withoutLimits(),
    lbPolicy: Cluster_LbPolicy.ROUND_ROBIN,
    ...(sockets.length > 1 ? { outlierDetection: unreachableOnly() } : {}),
    clusterDiscoveryType: { case: 'type', value: Cluster_DiscoveryType.STATIC },
    loadAssignment: create(ClusterLoadAssignmentSchema, { clusterName: name, endpoints: [{ lbEndpoints: endpoints }] }),
  })
}

/** Services of gRPC: streams on few connections. */
export function grpcPipeCluster(name: string, sockets: readonly string[]): Cluster {
  const protocol = create(HttpProtocolOptionsSchema, {
    upstreamProtocolOptions: {
      case: 'explicitHttpConfig',
      value: { protocolConfig: { case: 'http2ProtocolOptions', value: {} } },
    },
  })
  return {
    ...pipeCluster(name, sockets),
    typedExtensionProtocolOptions: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': packAny(HttpProtocolOptionsSchema, protocol),
    },
  }
}

function unreachableOnly() {
  return create(OutlierDetectionSchema, {
    splitExternalLocalOriginErrors: true,
    consecutiveLocalOriginFailure: 1,
    enforcingConsecutiveLocalOriginFailure: 100,
    enforcingConsecutive5xx: 0,
    enforcingConsecutiveGatewayFailure: 0,
    enforcingSuccessRate: 0,
    enforcingLocalOriginSuccessRate: 0,
    interval: EJECTION,
    baseEjectionTime: EJECTION,
    maxEjectionTime: EJECTION_MAX,
    // When none is left, Envoy tries them all.
    maxEjectionPercent: 100,
  })
}

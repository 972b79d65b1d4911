/**
 * The other way to parsers than the relay (l7Transport: ext-proc): Envoy connects to the server itself, and what the connection carries goes to
 * a worker and back, both ways, on a gRPC stream that names the slot and the addresses.
 */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { Cluster } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { GrpcServiceSchema } from '#api/gen/envoy/config/core/v3/grpc_service_pb.js'
import { type Filter, FilterSchema } from '#api/gen/envoy/config/listener/v3/listener_components_pb.js'
import {
  NetworkExternalProcessorSchema,
  ProcessingMode_DataSendMode,
} from '#api/gen/envoy/extensions/filters/network/ext_proc/v3/network_ext_proc_pb.js'
import { TcpBandwidthLimitSchema } from '#api/gen/envoy/extensions/filters/network/tcp_bandwidth_limit/v3/tcp_bandwidth_limit_pb.js'
import { TcpProxySchema } from '#api/gen/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy_pb.js'
import { DESTINATION_METADATA, SLOT_METADATA, SOURCE_METADATA } from '../ext-host/contract.ts'
import { grpcPipeCluster } from './pipe-cluster.ts'
import { packAny } from './resource.ts'

const NETWORK_EXT_PROC_CLUSTER = 'network-ext-proc'

/** Workers answer every message when they have read it: one that does not is stuck, and its connections are closed. */
const MESSAGE_TIMEOUT = { seconds: 10n }
const ZERO = { seconds: 0n }

/** @param serverCluster leads where the client wanted to go @param connectionKbps KiB a second and direction, of each connection */
export function networkExtProcFilters(slotName: string, serverCluster: string, connectionKbps: number): Filter[] {
  const processor = create(NetworkExternalProcessorSchema, {
    statPrefix: NETWORK_EXT_PROC_CLUSTER,
    grpcService: create(GrpcServiceSchema, {
      targetSpecifier: { case: 'envoyGrpc', value: { clusterName: NETWORK_EXT_PROC_CLUSTER } },
      initialMetadata: [
        { key: SLOT_METADATA, value: slotName },
        { key: SOURCE_METADATA, value: '%DOWNSTREAM_REMOTE_ADDRESS%' },
        { key: DESTINATION_METADATA, value: '%DOWNSTREAM_LOCAL_ADDRESS%' },
      ],
    }),
    failureModeAllow: false,
    processingMode: {
      processRead: ProcessingMode_DataSendMode.STREAMED,
      processWrite: ProcessingMode_DataSendMode.STREAMED,
    },
    messageTimeout: MESSAGE_TIMEOUT,
  })
  const proxy = create(TcpProxySchema, {
    statPrefix: NETWORK_EXT_PROC_CLUSTER,
    clusterSpecifier: { case: 'cluster', value: serverCluster },
    idleTimeout: ZERO,
  })
  return [
    bandwidthLimit({ readLimitKbps: BigInt(connectionKbps) }),
    create(FilterSchema, {
      name: 'envoy.filters.network.ext_proc',
      configType: { case: 'typedConfig', value: packAny(NetworkExternalProcessorSchema, processor) },
    }),
    bandwidthLimit({ writeLimitKbps: BigInt(connectionKbps) }),
    create(FilterSchema, {
      name: 'envoy.filters.network.tcp_proxy',
      configType: { case: 'typedConfig', value: packAny(TcpProxySchema, proxy) },
    }),
  ]
}

/** Envoy reads on whatever is still to be answered: without a limit its memory is. Each stands where its direction comes before the filter. */
function bandwidthLimit(limits: MessageInitShape<typeof TcpBandwidthLimitSchema>): Filter {
  const limit = create(TcpBandwidthLimitSchema, { statPrefix: NETWORK_EXT_PROC_CLUSTER, ...limits })
  return create(FilterSchema, {
    name: 'envoy.filters.network.tcp_bandwidth_limit',
    configType: { case: 'typedConfig', value: packAny(TcpBandwidthLimitSchema, limit) },
  })
}

/** @param sockets of the workers */
export function networkExtProcCluster(sockets: readonly string[]): Cluster {
  return grpcPipeCluster(NETWORK_EXT_PROC_CLUSTER, sockets)
}

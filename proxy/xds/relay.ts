/**
 * How Envoy hands a connection to the relay: a copy of bytes over a UNIX socket, with a PROXY header before them that says who connected to whom
 * and by which slot. Envoy reads none of it, so the slot's rules are not here.
 */
import { create } from '@bufbuild/protobuf'
import type { Cluster } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { TransportSocketSchema } from '#api/gen/envoy/config/core/v3/base_pb.js'
import {
  ProxyProtocolConfig_Version,
  ProxyProtocolConfigSchema,
  ProxyProtocolPassThroughTLVs_PassTLVsMatchType,
  ProxyProtocolPassThroughTLVsSchema,
  TlvEntrySchema,
} from '#api/gen/envoy/config/core/v3/proxy_protocol_pb.js'
import { type Filter, FilterSchema } from '#api/gen/envoy/config/listener/v3/listener_components_pb.js'
import { TcpProxySchema } from '#api/gen/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy_pb.js'
import { ProxyProtocolUpstreamTransportSchema } from '#api/gen/envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol_pb.js'
import { RawBufferSchema } from '#api/gen/envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer_pb.js'
import { SLOT_VALUE_TYPE } from '../ext-host/contract.ts'
import { pipeCluster } from './pipe-cluster.ts'
import { packAny } from './resource.ts'

const RELAY_CLUSTER = 'relay'

/** A worker that is being started again takes no connection: the next one does. */
const CONNECT_ATTEMPTS = 5
const ZERO = { seconds: 0n }

export function relayFilter(slotName: string): Filter {
  const proxy = create(TcpProxySchema, {
    statPrefix: RELAY_CLUSTER,
    clusterSpecifier: { case: 'cluster', value: RELAY_CLUSTER },
    maxConnectAttempts: CONNECT_ATTEMPTS,
    // How long a connection may be quiet is between client and server, and keepalive tells of those that are gone.
    idleTimeout: ZERO,
    proxyProtocolTlvs: [create(TlvEntrySchema, { type: SLOT_VALUE_TYPE, value: Buffer.from(slotName) })],
  })
  return create(FilterSchema, {
    name: 'envoy.filters.network.tcp_proxy',
    configType: { case: 'typedConfig', value: packAny(TcpProxySchema, proxy) },
  })
}

/** @param sockets of the workers */
export function relayCluster(sockets: readonly string[]): Cluster {
  const transport = create(ProxyProtocolUpstreamTransportSchema, {
    config: create(ProxyProtocolConfigSchema, {
      version: ProxyProtocolConfig_Version.V2,
      // Those that the filter adds are passed through too.
      passThroughTlvs: create(ProxyProtocolPassThroughTLVsSchema, {
        matchType: ProxyProtocolPassThroughTLVs_PassTLVsMatchType.INCLUDE_ALL,
      }),
    }),
    transportSocket: create(TransportSocketSchema, {
      name: 'envoy.transport_sockets.raw_buffer',
      configType: { case: 'typedConfig', value: packAny(RawBufferSchema, create(RawBufferSchema)) },
    }),
  })
  return {
    ...pipeCluster(RELAY_CLUSTER, sockets),
    transportSocket: create(TransportSocketSchema, {
      name: 'envoy.transport_sockets.upstream_proxy_protocol',
      configType: { case: 'typedConfig', value: packAny(ProxyProtocolUpstreamTransportSchema, transport) },
    }),
  }
}

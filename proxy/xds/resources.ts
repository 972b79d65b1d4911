/**
 * What one slot is to Envoy: a listener that is bound at once and denies everything, and an extension configuration that holds its
 * rules and is edited in place. Names hold the generation, so that nothing of a slot's former life is ever taken for its present one.
 *
 * The cluster of the requests is one for all: it sends a request where the client wanted to go. Everything that would make the proxy visible to
 * client or server is switched off (transparency.ts).
 */
import { createHash } from 'node:crypto'
import { create, toBinary } from '@bufbuild/protobuf'
import {
  type Cluster,
  Cluster_DiscoveryType,
  Cluster_LbPolicy,
  ClusterSchema,
  UpstreamConnectionOptionsSchema,
} from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { type Address, AddressSchema, SocketAddressSchema, TcpKeepaliveSchema } from '#api/gen/envoy/config/core/v3/address_pb.js'
import {
  AggregatedConfigSourceSchema,
  ApiVersion,
  ConfigSourceSchema,
  ExtensionConfigSourceSchema,
} from '#api/gen/envoy/config/core/v3/config_source_pb.js'
import { TypedExtensionConfigSchema } from '#api/gen/envoy/config/core/v3/extension_pb.js'
import { HttpProtocolOptionsSchema } from '#api/gen/envoy/config/core/v3/protocol_pb.js'
import { SocketOption_SocketState, SocketOptionSchema } from '#api/gen/envoy/config/core/v3/socket_option_pb.js'
import { ClusterLoadAssignmentSchema } from '#api/gen/envoy/config/endpoint/v3/endpoint_pb.js'
import {
  type Filter,
  FilterChainSchema,
  FilterSchema,
  type ListenerFilter,
  ListenerFilterSchema,
} from '#api/gen/envoy/config/listener/v3/listener_components_pb.js'
import { type Listener, ListenerSchema } from '#api/gen/envoy/config/listener/v3/listener_pb.js'
import { OriginalDstSchema } from '#api/gen/envoy/extensions/filters/listener/original_dst/v3/original_dst_pb.js'
import { OriginalSrcSchema } from '#api/gen/envoy/extensions/filters/listener/original_src/v3/original_src_pb.js'
import {
  HttpConnectionManagerSchema,
  HttpFilterSchema,
} from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import {
  HttpProtocolOptions_UseDownstreamHttpConfigSchema,
  HttpProtocolOptionsSchema as UpstreamHttpProtocolOptionsSchema,
} from '#api/gen/envoy/extensions/upstreams/http/v3/http_protocol_options_pb.js'
import { Direction, type Ruleset, RulesetSchema, type Slot } from '#api/gen/headgate/v1/control_pb.js'
import type { Config } from '#config/schema.ts'
import { type AccessLogSettings, accessLogOf } from '../access-log/config.ts'
import { slotName } from '../slot-name.ts'
import type { DeniedAnswer } from './denied-answer.ts'
import { EXT_HOST_CLUSTER } from './ext-host-filter.ts'
import { withoutLimits } from './limits.ts'
import { networkExtProcCluster, networkExtProcFilters } from './network-ext-proc.ts'
import { grpcPipeCluster } from './pipe-cluster.ts'
import { relayCluster, relayFilter } from './relay.ts'
import { createResource, createSealedResource, packAny, type Resource } from './resource.ts'
import { COMPILER_VERSION, compileRuleset, denyAll, RULESET_TYPE_URLS } from './ruleset.ts'
import {
  connectionManagerOptions,
  downstreamHttp1,
  downstreamHttp2,
  requestFiltersAround,
  routesOf,
  upstreamHttp1,
  upstreamHttp2,
} from './transparency.ts'
import { CLUSTER_TYPE, EXTENSION_CONFIG_TYPE, LISTENER_TYPE } from './type-urls.ts'

export interface ResourceSettings {
  /** Path of the network namespace that ingress listeners live in. Undefined: Envoy's own, as egress listeners. */
  readonly ingressNetns: string | undefined
  /** What a denied request is answered with. */
  readonly denied: DeniedAnswer
  readonly accessLog: AccessLogSettings
  readonly ruleCounters: boolean
  /** Where the extension host answers, and how long a request waits for it. */
  readonly extHostSocket: string
  readonly extHostTimeoutMs: number
  /** How connections come to parsers, and where their workers take them. */
  readonly l7Transport: L7Transport
  readonly relaySockets: readonly string[]
  /** Of a connection by network ext_proc: KiB a second and direction. */
  readonly extProcKbps: number
  /** Send every request to this address instead of where the client wanted to go. For tests without a redirecting kernel. */
  readonly upstream?: { readonly address: string; readonly port: number }
}

export type L7Transport = Config['l7Transport']

export const CLUSTER_NAME = 'original-destination'

const CONNECT_TIMEOUT_SECONDS = 5n
/** A pooled upstream connection that carries nothing is closed after this; the workloads' own limits are mostly shorter. */
const UPSTREAM_IDLE_SECONDS = 60n
const SOL_SOCKET = 1n
const SO_MARK = 36n
const SO_KEEPALIVE = 9n

/** The rules of a slot. @param ruleset those that are to be in force, which may be fewer than the slot's */
export function rulesetResource(slot: Slot, ruleset: Ruleset, { extHostTimeoutMs, ruleCounters }: ResourceSettings): Resource {
  const name = slotName(slot)
  const extHost = slot.extHostKey === '' ? undefined : { key: slot.extHostKey, timeoutMs: extHostTimeoutMs }
  const identity = createHash('sha256')
    .update(JSON.stringify([COMPILER_VERSION, name, extHost, ruleCounters]))
    .update(toBinary(RulesetSchema, ruleset))
    .digest()
  return createSealedResource(EXTENSION_CONFIG_TYPE, name, TypedExtensionConfigSchema, identity, (seal) =>
    create(TypedExtensionConfigSchema, { name, typedConfig: compileRuleset(ruleset, { seal, ruleCounters, extHost }) }),
  )
}

/** Identifies what Envoy would judge, whichever slot it is for: a ruleset refused once is refused everywhere. */
export function rulesetDigest(ruleset: Ruleset): string {
  return createHash('sha256').update(`${COMPILER_VERSION} `).update(toBinary(RulesetSchema, ruleset)).digest('hex')
}

/** @param attempt grows when a listener that Envoy refused is to be tried again: the same bytes would not be looked at */
export function listenerResource(slot: Slot, settings: ResourceSettings, attempt = 0): Resource {
  const name = slotName(slot)
  return createResource(LISTENER_TYPE, name, ListenerSchema, listenerOf(name, slot, settings, attempt))
}

/** Where requests go, who is asked about some of them, and who parses what is no HTTP. */
export function clusterResources(settings: ResourceSettings): Resource[] {
  const { extHostSocket, l7Transport, relaySockets } = settings
  const parsers = l7Transport === 'relay' ? relayCluster(relaySockets) : networkExtProcCluster(relaySockets)
  return [clusterOf(settings), grpcPipeCluster(EXT_HOST_CLUSTER, [extHostSocket]), parsers].map((cluster) =>
    createResource(CLUSTER_TYPE, cluster.name, ClusterSchema, cluster),
  )
}

function listenerOf(name: string, slot: Slot, settings: ResourceSettings, attempt: number): Listener {
  const isHandedOver = slot.relayed && settings.l7Transport === 'relay'
  const networkNamespaceFilepath = slot.direction === Direction.INGRESS ? (settings.ingressNetns ?? '') : ''
  return create(ListenerSchema, {
    name,
    // Counters of all slots together: a counter a slot costs memory that nobody reads.
    statPrefix: 'slots',
    address: socketAddress('127.0.0.1', slot.port, networkNamespaceFilepath),
    transparent: true,
    socketOptions: [intOption(SO_MARK, slot.mark), intOption(SO_KEEPALIVE, 1)],
    // The relay connects to servers itself.
    listenerFilters: isHandedOver ? [originalDestination()] : [originalDestination(), originalSource(slot)],
    filterChains: [create(FilterChainSchema, { filters: filtersOf(name, slot, settings) })],
    ...(attempt === 0 ? {} : { metadata: { filterMetadata: { headgate: { attempt } } } }),
  })
}

function filtersOf(name: string, slot: Slot, settings: ResourceSettings): Filter[] {
  if (!slot.relayed) return [connectionManagerFilter(name, settings)]
  return settings.l7Transport === 'relay' ? [relayFilter(name)] : networkExtProcFilters(name, CLUSTER_NAME, settings.extProcKbps)
}

function originalDestination(): ListenerFilter {
  return create(ListenerFilterSchema, {
    name: 'envoy.filters.listener.original_dst',
    configType: { case: 'typedConfig', value: packAny(OriginalDstSchema, create(OriginalDstSchema)) },
  })
}

/** What Envoy itself connects with. */
function originalSource({ upstreamMark }: Slot): ListenerFilter {
  return create(ListenerFilterSchema, {
    name: 'envoy.filters.listener.original_src',
    configType: { case: 'typedConfig', value: packAny(OriginalSrcSchema, create(OriginalSrcSchema, { mark: upstreamMark })) },
  })
}

function connectionManagerFilter(name: string, settings: ResourceSettings): Filter {
  return create(FilterSchema, {
    name: 'envoy.filters.network.http_connection_manager',
    configType: { case: 'typedConfig', value: packAny(HttpConnectionManagerSchema, connectionManager(name, settings)) },
  })
}

function connectionManager(name: string, settings: ResourceSettings) {
  const rules = create(HttpFilterSchema, {
    name,
    configType: {
      case: 'configDiscovery',
      value: create(ExtensionConfigSourceSchema, {
        configSource: create(ConfigSourceSchema, {
          resourceApiVersion: ApiVersion.V3,
          configSourceSpecifier: { case: 'ads', value: create(AggregatedConfigSourceSchema) },
        }),
        defaultConfig: denyAll(),
        // Without it the listener would wait for the rules, and with it Envoy's readiness; denying meanwhile is what is wanted.
        applyDefaultConfigWithoutWarming: true,
        typeUrls: [...RULESET_TYPE_URLS],
      }),
    },
  })
  return create(HttpConnectionManagerSchema, {
    ...connectionManagerOptions(settings.denied),
    httpProtocolOptions: downstreamHttp1(),
    http2ProtocolOptions: downstreamHttp2(),
    routeSpecifier: { case: 'routeConfig', value: routesOf(name, CLUSTER_NAME) },
    httpFilters: requestFiltersAround(rules),
    accessLog: accessLogOf(settings.accessLog),
  })
}

function clusterOf(settings: ResourceSettings): Cluster {
  const protocol = create(UpstreamHttpProtocolOptionsSchema, {
    commonHttpProtocolOptions: create(HttpProtocolOptionsSchema, { idleTimeout: { seconds: UPSTREAM_IDLE_SECONDS } }),
    upstreamProtocolOptions: {
      case: 'useDownstreamProtocolConfig',
      value: create(HttpProtocolOptions_UseDownstreamHttpConfigSchema, {
        httpProtocolOptions: upstreamHttp1(),
        http2ProtocolOptions: upstreamHttp2(),
      }),
    },
  })
  return create(ClusterSchema, {
    name: CLUSTER_NAME,
    connectTimeout: { seconds: CONNECT_TIMEOUT_SECONDS },
    circuitBreakers: withoutLimits(),
    upstreamConnectionOptions: create(UpstreamConnectionOptionsSchema, { tcpKeepalive: create(TcpKeepaliveSchema) }),
    typedExtensionProtocolOptions: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': packAny(UpstreamHttpProtocolOptionsSchema, protocol),
    },
    ...destinationOf(settings.upstream),
  })
}

function destinationOf(upstream: ResourceSettings['upstream']) {
  if (upstream === undefined) {
    return {
      clusterDiscoveryType: { case: 'type', value: Cluster_DiscoveryType.ORIGINAL_DST },
      lbPolicy: Cluster_LbPolicy.CLUSTER_PROVIDED,
      // Hosts that nobody asks for any more are forgotten.
      cleanupInterval: { seconds: 5n },
    } as const
  }
  return staticEndpoint(CLUSTER_NAME, socketAddress(upstream.address, upstream.port))
}

function staticEndpoint(clusterName: string, address: Address) {
  return {
    clusterDiscoveryType: { case: 'type', value: Cluster_DiscoveryType.STATIC },
    loadAssignment: create(ClusterLoadAssignmentSchema, {
      clusterName,
      endpoints: [{ lbEndpoints: [{ hostIdentifier: { case: 'endpoint', value: { address } } }] }],
    }),
  } as const
}

function socketAddress(address: string, portValue: number, networkNamespaceFilepath = ''): Address {
  const value = create(SocketAddressSchema, { address, portSpecifier: { case: 'portValue', value: portValue }, networkNamespaceFilepath })
  return create(AddressSchema, { address: { case: 'socketAddress', value } })
}

/** Set before bind(2): sockets that the listener accepts inherit it. */
function intOption(name: bigint, value: number) {
  return create(SocketOptionSchema, {
    level: SOL_SOCKET,
    name,
    value: { case: 'intValue', value: BigInt(value) },
    state: SocketOption_SocketState.STATE_PREBIND,
  })
}

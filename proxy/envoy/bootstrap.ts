/** What Envoy is started with: where to ask for everything else. */
import { create, createRegistry, toJsonString } from '@bufbuild/protobuf'
import { type Bootstrap, BootstrapSchema } from '#api/gen/envoy/config/bootstrap/v3/bootstrap_pb.js'
import { type Cluster, Cluster_DiscoveryType, ClusterSchema } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { type Address, AddressSchema } from '#api/gen/envoy/config/core/v3/address_pb.js'
import {
  AggregatedConfigSourceSchema,
  ApiConfigSource_ApiType,
  ApiConfigSourceSchema,
  ApiVersion,
  ConfigSourceSchema,
} from '#api/gen/envoy/config/core/v3/config_source_pb.js'
import { GrpcServiceSchema } from '#api/gen/envoy/config/core/v3/grpc_service_pb.js'
import { Http2ProtocolOptionsSchema } from '#api/gen/envoy/config/core/v3/protocol_pb.js'
import { ClusterLoadAssignmentSchema } from '#api/gen/envoy/config/endpoint/v3/endpoint_pb.js'
import { HttpProtocolOptionsSchema } from '#api/gen/envoy/extensions/upstreams/http/v3/http_protocol_options_pb.js'
import { StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import { HEADGATE_CLUSTER } from '../access-log/config.ts'
import { packAny } from '../xds/resource.ts'

export interface BootstrapSettings {
  readonly nodeId: string
  readonly xdsSocket: string
  readonly adminSocket: string
}

const ADMIN_MODE = 0o600
/** Envoy's own limit is 100, which one long path exceeds; patterns are bounded where policy is validated, one by one. */
const RE2_PROGRAM_SIZE_MAX = 100_000_000
const RECONNECT_MS_MIN = 100
const RECONNECT_MS_MAX = 1000

/** Counters worth their memory: none of one slot, which would be thousands. */
const STATS_PREFIXES = [
  'server.',
  'listener_manager.',
  'cluster_manager.',
  'control_plane.',
  'access_logs.',
  'http.slots.downstream_',
  'cluster.',
]

export function bootstrapOf(settings: BootstrapSettings): Bootstrap {
  const ads = create(ConfigSourceSchema, {
    resourceApiVersion: ApiVersion.V3,
    configSourceSpecifier: { case: 'ads', value: create(AggregatedConfigSourceSchema) },
  })
  return create(BootstrapSchema, {
    node: { id: settings.nodeId, cluster: 'headgate' },
    admin: { address: pipe(settings.adminSocket, ADMIN_MODE) },
    dynamicResources: {
      ldsConfig: ads,
      cdsConfig: ads,
      adsConfig: create(ApiConfigSourceSchema, {
        apiType: ApiConfigSource_ApiType.DELTA_GRPC,
        transportApiVersion: ApiVersion.V3,
        setNodeOnFirstMessageOnly: true,
        grpcServices: [
          create(GrpcServiceSchema, {
            targetSpecifier: {
              case: 'envoyGrpc',
              value: {
                clusterName: HEADGATE_CLUSTER,
                retryPolicy: {
                  retryBackOff: { baseInterval: milliseconds(RECONNECT_MS_MIN), maxInterval: milliseconds(RECONNECT_MS_MAX) },
                },
              },
            },
          }),
        ],
      }),
    },
    staticResources: { clusters: [headgateCluster(settings.xdsSocket)] },
    layeredRuntime: {
      layers: [
        {
          name: 'headgate',
          layerSpecifier: {
            case: 'staticLayer',
            value: {
              're2.max_program_size.error_level': RE2_PROGRAM_SIZE_MAX,
              're2.max_program_size.warn_level': RE2_PROGRAM_SIZE_MAX,
            },
          },
        },
      ],
    },
    statsConfig: {
      statsMatcher: {
        statsMatcher: {
          case: 'inclusionList',
          value: {
            patterns: STATS_PREFIXES.map((value) => create(StringMatcherSchema, { matchPattern: { case: 'prefix', value } })),
          },
        },
      },
    },
  })
}

/** The bootstrap as Envoy reads it from a file ending in .json. */
export function encodeBootstrap(bootstrap: Bootstrap): string {
  return toJsonString(BootstrapSchema, bootstrap, { registry: createRegistry(HttpProtocolOptionsSchema), prettySpaces: 2 })
}

function headgateCluster(socket: string): Cluster {
  const protocol = create(HttpProtocolOptionsSchema, {
    upstreamProtocolOptions: {
      case: 'explicitHttpConfig',
      value: { protocolConfig: { case: 'http2ProtocolOptions', value: create(Http2ProtocolOptionsSchema) } },
    },
  })
  return create(ClusterSchema, {
    name: HEADGATE_CLUSTER,
    clusterDiscoveryType: { case: 'type', value: Cluster_DiscoveryType.STATIC },
    connectTimeout: { seconds: 1n },
    typedExtensionProtocolOptions: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': packAny(HttpProtocolOptionsSchema, protocol),
    },
    loadAssignment: create(ClusterLoadAssignmentSchema, {
      clusterName: HEADGATE_CLUSTER,
      endpoints: [{ lbEndpoints: [{ hostIdentifier: { case: 'endpoint', value: { address: pipe(socket) } } }] }],
    }),
  })
}

function pipe(path: string, mode = 0): Address {
  return create(AddressSchema, { address: { case: 'pipe', value: { path, mode } } })
}

function milliseconds(ms: number) {
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1_000_000 }
}

/**
 * What Envoy is started with: where to ask for everything else. Plain JSON rather than messages, because the launcher is what a
 * killed Envoy waits for, and loading Envoy's whole schema takes longer than all else that it does; a test reads it by the schema.
 */

export interface BootstrapSettings {
  readonly nodeId: string
  readonly xdsSocket: string
  readonly adminSocket: string
}

/** Name of the cluster that leads to the proxy process. */
export const HEADGATE_CLUSTER = 'headgate'

const ADMIN_MODE = 0o600
/** Envoy's own limit is 100, which one long path exceeds; patterns are bounded where policy is validated, one by one. */
const RE2_PROGRAM_SIZE_MAX = 100_000_000
const RECONNECT_INTERVAL_MIN = '0.1s'
const RECONNECT_INTERVAL_MAX = '1s'

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

/** envoy.config.bootstrap.v3.Bootstrap as JSON. */
export function bootstrapOf({ nodeId, xdsSocket, adminSocket }: BootstrapSettings) {
  const ads = { ads: {}, resourceApiVersion: 'V3' }
  return {
    node: { id: nodeId, cluster: 'headgate' },
    admin: { address: { pipe: { path: adminSocket, mode: ADMIN_MODE } } },
    dynamicResources: {
      ldsConfig: ads,
      cdsConfig: ads,
      adsConfig: {
        apiType: 'DELTA_GRPC',
        transportApiVersion: 'V3',
        setNodeOnFirstMessageOnly: true,
        grpcServices: [
          {
            envoyGrpc: {
              clusterName: HEADGATE_CLUSTER,
              retryPolicy: { retryBackOff: { baseInterval: RECONNECT_INTERVAL_MIN, maxInterval: RECONNECT_INTERVAL_MAX } },
            },
          },
        ],
      },
    },
    staticResources: { clusters: [headgateCluster(xdsSocket)] },
    layeredRuntime: {
      layers: [
        {
          name: 'headgate',
          staticLayer: {
            're2.max_program_size.error_level': RE2_PROGRAM_SIZE_MAX,
            're2.max_program_size.warn_level': RE2_PROGRAM_SIZE_MAX,
          },
        },
      ],
    },
    statsConfig: { statsMatcher: { inclusionList: { patterns: STATS_PREFIXES.map((prefix) => ({ prefix })) } } },
  }
}

function headgateCluster(path: string) {
  return {
    name: HEADGATE_CLUSTER,
    type: 'STATIC',
    connectTimeout: '1s',
    typedExtensionProtocolOptions: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
        explicitHttpConfig: { http2ProtocolOptions: {} },
      },
    },
    loadAssignment: { clusterName: HEADGATE_CLUSTER, endpoints: [{ lbEndpoints: [{ endpoint: { address: { pipe: { path } } } }] }] },
  }
}

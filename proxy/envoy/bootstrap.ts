/**
 * What Envoy is started with: where to ask for everything else. Plain JSON rather than messages, because the launcher is what a
 * killed Envoy waits for, and loading Envoy's whole schema takes longer than all else that it does; a test reads it by the schema.
 */

export interface BootstrapSettings {
  readonly nodeId: string
  readonly xdsSocket: string
  readonly adminSocket: string
  /** See CLOSE_THROUGH_FILTERS. */
  readonly closesThroughFilters: boolean
}

/** Name of the cluster that leads to the proxy process. */
export const HEADGATE_CLUSTER = 'headgate'

const ADMIN_MODE = 0o600
/** Envoy's own limit is 100, which one long path exceeds; patterns are bounded where policy is validated, one by one. */
const RE2_PROGRAM_SIZE_MAX = 100_000_000
const RECONNECT_INTERVAL_MIN = '0.1s'
const RECONNECT_INTERVAL_MAX = '1s'

/** What the connection managers of all slots call themselves in statistics: counted is all of them together. */
export const SLOTS_STAT_PREFIX = 'slots'
/** Statistics of the filters that judge (../verdict-counts.ts reads them). */
export const RULES_STATS = `http.${SLOTS_STAT_PREFIX}.rbac.`
export const EXT_HOST_STATS = `http.${SLOTS_STAT_PREFIX}.ext_proc.`
export const ACCESS_LOG_STATS = 'access_logs.grpc_access_log.'

/**
 * Counters worth their memory: none of one slot, which would be thousands. Each rule has one from its first request on, of some 410
 * bytes, until the last slot is gone that had the rule when it was hit: one that was edited out of a slot is still told of.
 */
const STATS_PREFIXES = [
  'server.',
  'listener_manager.',
  'cluster_manager.',
  'control_plane.',
  ACCESS_LOG_STATS,
  `http.${SLOTS_STAT_PREFIX}.downstream_`,
  // Without the dot: by a prefix that ends with one, Envoy does not find names that it puts together as it goes, as those of rules.
  RULES_STATS.slice(0, -1),
  EXT_HOST_STATS,
  'cluster.',
]

/** envoy.config.bootstrap.v3.Bootstrap as JSON. */
export function bootstrapOf({ nodeId, xdsSocket, adminSocket, closesThroughFilters }: BootstrapSettings) {
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
    staticResources: { clusters: [headgateCluster(xdsSocket)], listeners: [statsKeeper()] },
    layeredRuntime: {
      layers: [
        {
          name: 'headgate',
          staticLayer: {
            're2.max_program_size.error_level': RE2_PROGRAM_SIZE_MAX,
            're2.max_program_size.warn_level': RE2_PROGRAM_SIZE_MAX,
            ...(closesThroughFilters ? { [CLOSE_THROUGH_FILTERS]: true } : {}),
          },
        },
      ],
    },
    statsConfig: { statsMatcher: { inclusionList: { patterns: STATS_PREFIXES.map((prefix) => ({ prefix })) } } },
  }
}

/**
 * A connection that ends waits for filters that are not done with what was on it. Without it network ext_proc loses what a server says before it
 * closes; Envoy has it off.
 */
export const CLOSE_THROUGH_FILTERS = 'envoy.reloadable_features.connection_close_through_filter_manager'

const STATS_KEEPER = 'stats-keeper'
/** A day; it has nothing to flush. */
const NEVER = '86400s'

/**
 * Envoy forgets a counter with the last listener that uses it: without any slot for a moment, all totals would begin again at 0. This
 * listener, which has no socket, uses the same ones and stays.
 */
function statsKeeper() {
  const typed = (name: string, config: object) => ({ name, typedConfig: { '@type': `type.googleapis.com/${name}`, ...config } })
  const grpcService = { envoyGrpc: { clusterName: HEADGATE_CLUSTER } }
  const extensions = 'envoy.extensions'
  const manager = typed(`${extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager`, {
    statPrefix: SLOTS_STAT_PREFIX,
    routeConfig: { name: STATS_KEEPER },
    httpFilters: [
      typed(`${extensions}.filters.http.rbac.v3.RBAC`, {}),
      typed(`${extensions}.filters.http.ext_proc.v3.ExternalProcessor`, { grpcService }),
      typed(`${extensions}.filters.http.router.v3.Router`, {}),
    ],
    accessLog: [
      typed(`${extensions}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig`, {
        commonConfig: { logName: STATS_KEEPER, transportApiVersion: 'V3', grpcService, bufferFlushInterval: NEVER },
      }),
    ],
  })
  return {
    name: STATS_KEEPER,
    address: { socketAddress: { address: '127.0.0.1', portValue: 0 } },
    bindToPort: false,
    filterChains: [{ filters: [manager] }],
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

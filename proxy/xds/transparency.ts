/**
 * What keeps the proxy out of sight: client and server see each other's requests and responses as they were sent. Envoy's defaults
 * are those of an edge proxy, so most of this is switching them off; what has no switch is undone by filters around the rules.
 */
import { create } from '@bufbuild/protobuf'
import { HeaderMutationSchema as MutationSchema } from '#api/gen/envoy/config/common/mutation_rules/v3/mutation_rules_pb.js'
import { HeaderValueOption_HeaderAppendAction, HeaderValueOptionSchema, HeaderValueSchema } from '#api/gen/envoy/config/core/v3/base_pb.js'
import { TypedExtensionConfigSchema } from '#api/gen/envoy/config/core/v3/extension_pb.js'
import {
  Http1ProtocolOptions_HeaderKeyFormatSchema,
  Http1ProtocolOptionsSchema,
  Http2ProtocolOptionsSchema,
  HttpProtocolOptionsSchema,
} from '#api/gen/envoy/config/core/v3/protocol_pb.js'
import {
  type HeaderMatcher,
  HeaderMatcherSchema,
  type RouteAction_UpgradeConfig,
  RouteAction_UpgradeConfigSchema,
  RouteActionSchema,
  type RouteMatch,
  RouteMatch_ConnectMatcherSchema,
  RouteMatchSchema,
  RouteSchema,
  VirtualHostSchema,
} from '#api/gen/envoy/config/route/v3/route_components_pb.js'
import { RouteConfigurationSchema } from '#api/gen/envoy/config/route/v3/route_pb.js'
import { HeaderMutationSchema, MutationsSchema } from '#api/gen/envoy/extensions/filters/http/header_mutation/v3/header_mutation_pb.js'
import { RouterSchema } from '#api/gen/envoy/extensions/filters/http/router/v3/router_pb.js'
import {
  type HttpConnectionManager,
  HttpConnectionManager_CodecType,
  HttpConnectionManager_PathWithEscapedSlashesAction,
  HttpConnectionManager_ServerHeaderTransformation,
  HttpConnectionManager_UpgradeConfigSchema,
  type HttpFilter,
  HttpFilterSchema,
} from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import { HeaderMutationSchema as EarlyHeaderMutationSchema } from '#api/gen/envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation_pb.js'
import { PreserveCaseFormatterConfigSchema } from '#api/gen/envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case_pb.js'
import { RegexMatcherSchema } from '#api/gen/envoy/type/matcher/v3/regex_pb.js'
import { StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import { type DeniedAnswer, deniedAnswers } from './denied-answer.ts'
import { packAny } from './resource.ts'

const ZERO = { seconds: 0n }
/** What may follow a request on its connection; the tunnel is judged once, by its first request. */
const WEBSOCKET = 'websocket'
const CONNECT = 'CONNECT'
const UPGRADES = [WEBSOCKET, CONNECT]
/**
 * Envoy resolves `..;x` as servers do that know parameters of segments, but unescapes dots after that: `%2e%2e;` arrives as what they
 * would resolve and the rules did not. It matches the path without its query.
 */
const DOTS_WITH_PARAMETERS = '.*/\\.\\.?;.*'
const BAD_REQUEST = 400
const HEADERS_COUNT_MAX = 1000
const HEADERS_KIB_MAX = 96
/**
 * What a sender may send before it is read on the other side is kept by Envoy, and by its own choice that is 256 MiB a stream. These
 * still fill 300 Mbit/s at 100 ms.
 */
const HTTP2_OPTIONS = { allowConnect: true, initialStreamWindowSize: 4 * 1024 * 1024, initialConnectionWindowSize: 16 * 1024 * 1024 }

/** The client's own X-Forwarded-Proto waits here while Envoy has its own in place. */
const SAVED_FORWARDED_PROTO = 'x-headgate-saved-forwarded-proto'

/** Everything of the connection manager that is the same for all slots. */
export function connectionManagerOptions(denied: DeniedAnswer) {
  return {
    statPrefix: 'slots',
    codecType: HttpConnectionManager_CodecType.AUTO,
    commonHttpProtocolOptions: create(HttpProtocolOptionsSchema, { maxHeadersCount: HEADERS_COUNT_MAX }),
    maxRequestHeadersKb: HEADERS_KIB_MAX,
    // No header of its own, and none of the client's honoured.
    serverHeaderTransformation: HttpConnectionManager_ServerHeaderTransformation.PASS_THROUGH,
    generateRequestId: false,
    preserveExternalRequestId: true,
    useRemoteAddress: false,
    skipXffAppend: true,
    earlyHeaderMutationExtensions: [
      create(TypedExtensionConfigSchema, {
        name: 'envoy.http.early_header_mutation.header_mutation',
        typedConfig: packAny(
          EarlyHeaderMutationSchema,
          create(EarlyHeaderMutationSchema, {
            mutations: [
              removeHeader(SAVED_FORWARDED_PROTO),
              setHeader(SAVED_FORWARDED_PROTO, '%REQ(x-forwarded-proto)%'),
              removeHeader('x-forwarded-proto'),
            ],
          }),
        ),
      }),
    ],
    // How long a request may take is between client and server.
    streamIdleTimeout: ZERO,
    requestTimeout: ZERO,
    // Paths are judged in the form in which a server would understand them, as Cilium has it (http-normalize-path).
    normalizePath: true,
    mergeSlashes: true,
    pathWithEscapedSlashesAction: HttpConnectionManager_PathWithEscapedSlashesAction.UNESCAPE_AND_REDIRECT,
    // An Expect: 100-continue is for the server to answer; Envoy's own 100 would come before the verdict.
    proxy100Continue: true,
    upgradeConfigs: UPGRADES.map((upgradeType) => create(HttpConnectionManager_UpgradeConfigSchema, { upgradeType })),
    localReplyConfig: deniedAnswers(denied),
  } satisfies Partial<HttpConnectionManager> | Record<string, unknown>
}

/**
 * Everything goes one way, except what servers may read in another way than the rules did. The routes' name is the slot's: that is how
 * an access log entry tells which slot it belongs to.
 */
export function routesOf(name: string, cluster: string) {
  // A CONNECT has no path for the others to match.
  const connect = { case: 'connectMatcher', value: create(RouteMatch_ConnectMatcherSchema) } as const
  const everything = { case: 'prefix', value: '' } as const
  const routes = [
    ...[connect, everything].map((pathSpecifier) => create(RouteMatchSchema, { pathSpecifier, headers: [severalHosts()] })),
    create(RouteMatchSchema, { pathSpecifier: { case: 'safeRegex', value: create(RegexMatcherSchema, { regex: DOTS_WITH_PARAMETERS }) } }),
  ].map((match) => create(RouteSchema, { name, match, action: { case: 'directResponse', value: { status: BAD_REQUEST } } }))
  routes.push(routeTo(connect, [upgrade(CONNECT)]), routeTo(everything, [upgrade(WEBSOCKET), upgrade(CONNECT, false)]))
  return create(RouteConfigurationSchema, {
    name,
    virtualHosts: [create(VirtualHostSchema, { name, domains: ['*'], routes })],
  })

  function routeTo(pathSpecifier: RouteMatch['pathSpecifier'], upgradeConfigs: RouteAction_UpgradeConfig[]) {
    const value = create(RouteActionSchema, {
      clusterSpecifier: { case: 'cluster', value: cluster },
      timeout: ZERO,
      idleTimeout: ZERO,
      upgradeConfigs,
    })
    return create(RouteSchema, { name, match: create(RouteMatchSchema, { pathSpecifier }), action: { case: 'route', value } })
  }
}

/** Only the method is a CONNECT: as the value of an Upgrade header it would open a tunnel that no rule speaks of. */
function upgrade(upgradeType: string, enabled = true): RouteAction_UpgradeConfig {
  return create(RouteAction_UpgradeConfigSchema, { upgradeType, enabled })
}

/** Two Host lines, which Envoy joins: servers take the first, the last or neither, rules see both (RFC 9112, 3.2: answered with 400). */
function severalHosts(): HeaderMatcher {
  const value = create(StringMatcherSchema, { matchPattern: { case: 'contains', value: ',' } })
  return create(HeaderMatcherSchema, { name: ':authority', headerMatchSpecifier: { case: 'stringMatch', value } })
}

/**
 * Fields that are no trailers (RFC 9110, 6.5.1). Rules judge headers, and some servers take trailers for such: what decides about length,
 * way, client or content comes before the body or not at all.
 */
const NEVER_TRAILERS = [
  'authorization',
  'connection',
  'content-encoding',
  'content-length',
  'content-range',
  'content-type',
  'cookie',
  'expect',
  'forwarded',
  'host',
  'keep-alive',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
]

/** The filters of a request: it is given back its own headers, for rules may ask for them, then the rules judge it, then it is sent on. */
export function requestFiltersAround(rules: HttpFilter): HttpFilter[] {
  const restore = create(HeaderMutationSchema, {
    mutations: create(MutationsSchema, {
      requestMutations: [
        removeHeader('x-forwarded-proto'),
        setHeader('x-forwarded-proto', `%REQ(${SAVED_FORWARDED_PROTO})%`),
        removeHeader(SAVED_FORWARDED_PROTO),
      ],
      requestTrailersMutations: NEVER_TRAILERS.map(removeHeader),
    }),
  })
  return [
    create(HttpFilterSchema, {
      name: 'envoy.filters.http.header_mutation',
      configType: { case: 'typedConfig', value: packAny(HeaderMutationSchema, restore) },
    }),
    rules,
    create(HttpFilterSchema, {
      name: 'envoy.filters.http.router',
      configType: { case: 'typedConfig', value: packAny(RouterSchema, create(RouterSchema, { suppressEnvoyHeaders: true })) },
    }),
  ]
}

export function downstreamHttp1() {
  return create(Http1ProtocolOptionsSchema, {
    acceptHttp10: true,
    enableTrailers: true,
    headerKeyFormat: preserveCase(),
  })
}

export function upstreamHttp1() {
  return create(Http1ProtocolOptionsSchema, { enableTrailers: true, headerKeyFormat: preserveCase() })
}

export function downstreamHttp2() {
  // A client may carry the requests of many: one that is malformed ends itself, not the connection.
  return create(Http2ProtocolOptionsSchema, { ...HTTP2_OPTIONS, overrideStreamErrorOnInvalidHttpMessage: true })
}

export function upstreamHttp2() {
  return create(Http2ProtocolOptionsSchema, HTTP2_OPTIONS)
}

/** Some old clients and servers care how a header's name is written. */
function preserveCase() {
  return create(Http1ProtocolOptions_HeaderKeyFormatSchema, {
    headerFormat: {
      case: 'statefulFormatter',
      value: create(TypedExtensionConfigSchema, {
        name: 'envoy.http.stateful_header_formatters.preserve_case',
        typedConfig: packAny(PreserveCaseFormatterConfigSchema, create(PreserveCaseFormatterConfigSchema, { forwardReasonPhrase: true })),
      }),
    },
  })
}

/** An empty value sets nothing. */
function setHeader(key: string, value: string) {
  return create(MutationSchema, {
    action: {
      case: 'append',
      value: create(HeaderValueOptionSchema, {
        header: create(HeaderValueSchema, { key, value }),
        appendAction: HeaderValueOption_HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        keepEmptyValue: false,
      }),
    },
  })
}

function removeHeader(name: string) {
  return create(MutationSchema, { action: { case: 'remove', value: name } })
}

/**
 * The filter that asks the extension host about requests that a rule may be meant for which only it can judge: values of headers that
 * are secrets, or more changes of headers than are worth a filter each. It is the last of its chain, because it waits.
 *
 * Whatever goes wrong refuses the request. The one exception is Envoy's: a stream that the server ends well before it has answered is
 * taken for an allow, so the extension host never ends one.
 */
import { create } from '@bufbuild/protobuf'
import { type TypedExtensionConfig, TypedExtensionConfigSchema } from '#api/gen/envoy/config/core/v3/extension_pb.js'
import { GrpcServiceSchema } from '#api/gen/envoy/config/core/v3/grpc_service_pb.js'
import {
  ExternalProcessor_RouteCacheAction,
  ExternalProcessorSchema,
} from '#api/gen/envoy/extensions/filters/http/ext_proc/v3/ext_proc_pb.js'
import {
  ProcessingMode_BodySendMode,
  ProcessingMode_HeaderSendMode,
  ProcessingModeSchema,
} from '#api/gen/envoy/extensions/filters/http/ext_proc/v3/processing_mode_pb.js'
import { StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'
import { StatusCode } from '#api/gen/envoy/type/v3/http_status_pb.js'
import type { HttpRule, Ruleset } from '#api/gen/headgate/v1/control_pb.js'
import { METADATA_NAMESPACE, RULESET_METADATA } from '../ext-host/contract.ts'
import { filtersWhere } from './header-steps.ts'
import type { Tree } from './matcher.ts'
import { packAny } from './resource.ts'
import { actionsOf, candidateTermsOf, HOST, METHOD, PATH } from './rule-terms.ts'
import { treeOf } from './rule-tree.ts'

export const EXT_HOST_CLUSTER = 'ext-host'

export interface ExtHostFilter {
  /** Slot.ext_host_key */
  readonly key: string
  readonly timeoutMs: number
}

/** Whether a rule of such a slot is left to the extension host. */
export function needsJudgement(rule: HttpRule): boolean {
  return actionsOf(rule).length > 0 || asksSecret(rule)
}

export function asksSecret({ headerMatches }: HttpRule): boolean {
  return headerMatches.some(({ secret }) => secret !== undefined)
}

/** Leads requests to an action that a rule of the extension host may be meant for; undefined when there is no such rule. */
export function candidatesTree<Action>(http: readonly HttpRule[], httpDeny: readonly HttpRule[], action: Action): Tree<Action> | undefined {
  return treeOf([
    ...http.filter(needsJudgement).map((rule) => ({ terms: candidateTermsOf(rule, 'allow'), action })),
    ...httpDeny.filter(needsJudgement).map((rule) => ({ terms: candidateTermsOf(rule, 'deny'), action })),
  ])
}

/** @returns no filter when no rule needs it */
export function extHostFilter({ http, httpDeny }: Ruleset, { key, timeoutMs }: ExtHostFilter): TypedExtensionConfig[] {
  const filter = create(TypedExtensionConfigSchema, {
    name: 'ext-host',
    typedConfig: packAny(ExternalProcessorSchema, processorOf([...http, ...httpDeny], key, timeoutMs)),
  })
  const tree = candidatesTree(http, httpDeny, [filter])
  if (tree === undefined) return []
  // Every request is meant: there is nothing to choose.
  return [tree.kind === 'leaf' ? filter : filtersWhere(tree)]
}

function processorOf(rules: readonly HttpRule[], key: string, timeoutMs: number) {
  const names = new Set<string>([METHOD])
  for (const { path, host, headers, headerMatches } of rules) {
    if (path !== undefined) names.add(PATH)
    if (host !== undefined) names.add(HOST)
    for (const { name } of [...headers, ...headerMatches]) names.add(name === 'host' ? HOST : name)
  }
  return create(ExternalProcessorSchema, {
    grpcService: create(GrpcServiceSchema, {
      targetSpecifier: { case: 'envoyGrpc', value: { clusterName: EXT_HOST_CLUSTER } },
      initialMetadata: [{ key: RULESET_METADATA, value: key }],
    }),
    failureModeAllow: false,
    statusOnError: { code: StatusCode.ServiceUnavailable },
    processingMode: create(ProcessingModeSchema, {
      requestHeaderMode: ProcessingMode_HeaderSendMode.SEND,
      responseHeaderMode: ProcessingMode_HeaderSendMode.SKIP,
      requestBodyMode: ProcessingMode_BodySendMode.NONE,
      responseBodyMode: ProcessingMode_BodySendMode.NONE,
      requestTrailerMode: ProcessingMode_HeaderSendMode.SKIP,
      responseTrailerMode: ProcessingMode_HeaderSendMode.SKIP,
    }),
    messageTimeout: { seconds: BigInt(Math.floor(timeoutMs / 1000)), nanos: (timeoutMs % 1000) * 1_000_000 },
    forwardRules: { allowedHeaders: { patterns: [...names].sort().map(exactly) } },
    metadataOptions: { receivingNamespaces: { untyped: [METADATA_NAMESPACE] } },
    // What a rule may change of a request is the parser's to say; where it goes does not hang on its headers.
    mutationRules: { allowAllRouting: true, allowEnvoy: true },
    // Every request goes the same way, and the rules have judged it by the headers that it came with.
    routeCacheAction: ExternalProcessor_RouteCacheAction.RETAIN,
  })
}

function exactly(value: string) {
  return create(StringMatcherSchema, { matchPattern: { case: 'exact', value } })
}

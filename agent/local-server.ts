/** The agent's side of api/local.proto: translates between messages and the agent, and errors to gRPC statuses with their code. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { Metadata, type ServerWritableStream, type sendUnaryData, status } from '@grpc/grpc-js'
import type { CountsReport } from '#api/gen/headgate/v1/control_pb.js'
import {
  type Endpoint,
  EndpointSchema,
  type EndpointSpec as EndpointSpecMessage,
  ExportPolicyResponseSchema,
  GetCountsResponseSchema,
  type Identity,
  ListEndpointsResponseSchema,
  ListIdentitiesResponseSchema,
  type ListPoliciesResponse,
  Local,
  type ObserveRequest,
  type ObserveResponse,
  ObserveResponseSchema,
  type Status,
  type WaitPolicyResponse,
} from '#api/gen/headgate/v1/local_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { HeadgateError } from '#config/define-errors.ts'
import { filterProblem, matchesFilter } from '#flows/filter.ts'
import type { FlowRing } from '#flows/ring.ts'
import { AgentError } from './errors.ts'
import type { EndpointEntry } from './workloads/endpoints.ts'
import { type EndpointSpec, endpointSpecSchema, namedPortsOf } from './workloads/file.ts'

/** What the server asks of the agent. */
export interface LocalBackend {
  readonly flows: FlowRing
  addEndpoint(spec: EndpointSpec): EndpointEntry
  removeEndpoint(namespace: string, name: string): EndpointEntry
  listEndpoints(): EndpointEntry[]
  enforcedOf(entry: EndpointEntry): { readonly ingress: boolean; readonly egress: boolean }
  searchDomainsOf(entry: EndpointEntry): readonly string[]
  identities(): Identity[]
  status(): Status
  policies(): ListPoliciesResponse
  waitPolicy(rescan: boolean): Promise<WaitPolicyResponse>
  counts(options: { readonly totalsOnly: boolean; readonly timeoutMs: number }): Promise<CountsReport[]>
  /** All but the endpoints. */
  exportPolicy(): MessageInitShape<typeof ExportPolicyResponseSchema>
}

/** Flows that may wait for one follower; beyond it they are lost to it, counted. */
const FOLLOWER_QUEUE_MAX = 4096

export async function serveLocal(path: string, group: string, backend: LocalBackend): Promise<() => void> {
  const server = createServer()
  const unary =
    <I, O>(run: (request: I) => O | Promise<O>) =>
    (call: { request: I }, callback: sendUnaryData<O>): void => {
      Promise.resolve()
        .then(() => run(call.request))
        .then(
          (response) => callback(null, response),
          (error: unknown) => callback(serviceError(error)),
        )
    }
  const describe = (entry: EndpointEntry): Endpoint => ({
    ...endpointMessage(entry, backend.enforcedOf(entry)),
    searchDomains: [...backend.searchDomainsOf(entry)],
  })
  addService(server, Local, {
    getStatus: unary(() => backend.status()),
    addEndpoint: unary(({ spec }) => describe(backend.addEndpoint(specOf(spec)))),
    removeEndpoint: unary(({ namespace, name }) => describe(backend.removeEndpoint(namespace || 'default', name))),
    listEndpoints: unary(() => create(ListEndpointsResponseSchema, { endpoints: backend.listEndpoints().map(describe) })),
    listIdentities: unary(() => create(ListIdentitiesResponseSchema, { identities: backend.identities() })),
    listPolicies: unary(() => backend.policies()),
    waitPolicy: unary(({ rescan }) => backend.waitPolicy(rescan)),
    exportPolicy: unary(() =>
      create(ExportPolicyResponseSchema, { ...backend.exportPolicy(), endpoints: backend.listEndpoints().map(describe) }),
    ),
    getCounts: unary(async (request) => create(GetCountsResponseSchema, { reports: await backend.counts(request) })),
    observe: (call) => observe(call, backend.flows),
  })
  await listenOnSocket(server, path, { mode: 0o660, group })
  return () => closeServer(server, path)
}

function observe(call: ServerWritableStream<ObserveRequest, ObserveResponse>, flows: FlowRing): void {
  const filter = call.request
  const problem = filterProblem(filter)
  if (problem !== undefined) {
    call.emit('error', { code: status.INVALID_ARGUMENT, details: problem })
    return
  }
  const send = (flow: unknown): boolean =>
    call.write(create(ObserveResponseSchema, { response: { case: 'flowJson', value: JSON.stringify(flow) } }))
  for (const flow of flows.last(filter.last, (flow) => matchesFilter(flow, filter))) send(flow)
  if (!filter.follow) {
    call.end()
    return
  }
  let waiting = 0
  let lost = 0n
  const stop = flows.follow((flow) => {
    if (!matchesFilter(flow, filter)) return
    if (waiting >= FOLLOWER_QUEUE_MAX) {
      lost++
      return
    }
    if (!send(flow)) waiting++
  })
  call.on('drain', () => {
    waiting = 0
    if (lost === 0n) return
    call.write(create(ObserveResponseSchema, { response: { case: 'lost', value: lost } }))
    lost = 0n
  })
  for (const event of ['cancelled', 'close', 'error']) call.on(event, stop)
}

function specOf(message: EndpointSpecMessage | undefined): EndpointSpec {
  const result = endpointSpecSchema.safeParse({
    name: message?.name,
    namespace: message?.namespace || 'default',
    labels: message?.labels ?? {},
    ...(message?.serviceAccount ? { serviceAccount: message.serviceAccount } : {}),
    ...(message?.attachment.case === 'netns' ? { netns: message.attachment.value } : {}),
    ...(message?.attachment.case === 'interface' ? { interface: message.attachment.value } : {}),
    ipv4: message?.ipv4 ?? [],
    ipv6: message?.ipv6 ?? [],
    ...(message?.audit ? { audit: true } : {}),
    ...(message?.searchDomains.length ? { searchDomains: message.searchDomains } : {}),
    ports: Object.fromEntries((message?.ports ?? []).map(({ name, port, protocol }) => [name, `${port}/${protocol}`])),
  })
  if (result.success) return result.data
  const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'endpoint'}: ${issue.message}`)
  throw new AgentError('HG-2001', problems.join('\n'))
}

function endpointMessage(entry: EndpointEntry, enforced: { readonly ingress: boolean; readonly egress: boolean }): Endpoint {
  const { spec, attachment } = entry
  return create(EndpointSchema, {
    id: entry.id,
    spec: {
      name: spec.name,
      namespace: spec.namespace,
      labels: spec.labels,
      serviceAccount: spec.serviceAccount ?? '',
      attachment: spec.netns === undefined ? { case: 'interface', value: spec.interface ?? '' } : { case: 'netns', value: spec.netns },
      ipv4: attachment?.addresses.filter((address) => !address.includes(':')) ?? spec.ipv4,
      ipv6: attachment?.addresses.filter((address) => address.includes(':')) ?? spec.ipv6,
      ports: namedPortsOf(spec),
      audit: spec.audit,
      searchDomains: spec.searchDomains ?? [],
    },
    identity: entry.identity.id,
    labels: [...entry.identity.labels],
    state: entry.state,
    reason: entry.reason,
    hostInterface: attachment?.hostLink.name ?? '',
    hostInterfaceIndex: attachment?.hostLink.index ?? 0,
    ingressEnforced: enforced.ingress,
    egressEnforced: enforced.egress,
    origin: entry.origin,
    addresses: attachment === undefined ? [...spec.ipv4, ...spec.ipv6] : [...attachment.addresses],
  })
}

/** Our own errors keep their code and next step; anything else is a bug and says so. */
function serviceError(error: unknown): { code: status; details: string; metadata: Metadata } {
  const metadata = new Metadata()
  if (error instanceof HeadgateError) {
    metadata.set('headgate-error', error.code)
    metadata.set('headgate-next', error.next)
    const code = error.code === 'HG-2004' ? status.NOT_FOUND : error.code === 'HG-2003' ? status.ALREADY_EXISTS : status.FAILED_PRECONDITION
    return { code, details: error.message, metadata }
  }
  return { code: status.INTERNAL, details: error instanceof Error ? error.message : String(error), metadata }
}

/** An agent's local socket with canned answers, for what subcommands do with them. */
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { Metadata, type StatusObject } from '@grpc/grpc-js'
import type { ExecutionContext } from 'ava'
import { CountsReportSchema, CountsSource } from '#api/gen/headgate/v1/control_pb.js'
import {
  EndpointSchema,
  ExportPolicyResponseSchema,
  GetCountsResponseSchema,
  ListEndpointsResponseSchema,
  ListIdentitiesResponseSchema,
  ListPoliciesResponseSchema,
  Local,
  type ObserveRequest,
  ObserveResponseSchema,
  StatusSchema,
  WaitPolicyResponseSchema,
} from '#api/gen/headgate/v1/local_pb.js'
import { addService, closeServer, createServer, listenOnSocket, type ServiceHandlers } from '#api/grpc.ts'

type Handlers = ServiceHandlers<typeof Local.method>

export const WEB = create(EndpointSchema, {
  id: 7,
  identity: 1001,
  labels: ['k8s:app=web'],
  state: 'ready',
  hostInterface: 'veth7',
  hostInterfaceIndex: 12,
  ingressEnforced: true,
  origin: 'api',
  spec: { name: 'web', namespace: 'default', ipv4: ['10.0.0.7'], attachment: { case: 'netns', value: 'web' } },
})

export function refusal(code: number, details: string, errorCode?: string): Partial<StatusObject> {
  const metadata = new Metadata()
  if (errorCode !== undefined) metadata.set('headgate-error', errorCode)
  return { code, details, metadata }
}

/** Serves paths.run/local.sock until the test ends; `overrides` replace single answers. */
export async function serveFakeAgent(
  t: ExecutionContext,
  run: string,
  overrides: Partial<Handlers> = {},
): Promise<{ observed: ObserveRequest[]; close(): void }> {
  const observed: ObserveRequest[] = []
  const server = createServer()
  const handlers: Partial<Handlers> = {
    getStatus: (_call, reply) => reply(null, create(StatusSchema, { version: '0.1.0', pid: 42, revision: 9n, kernelRelease: '6.6.0' })),
    addEndpoint: (_call, reply) => reply(null, WEB),
    removeEndpoint: (_call, reply) => reply(null, WEB),
    listEndpoints: (_call, reply) => reply(null, create(ListEndpointsResponseSchema, { endpoints: [WEB] })),
    listIdentities: (_call, reply) =>
      reply(null, create(ListIdentitiesResponseSchema, { identities: [{ id: 1001, labels: ['k8s:app=web'], endpointCount: 1 }] })),
    listPolicies: (_call, reply) => reply(null, create(ListPoliciesResponseSchema, { revision: 9n })),
    exportPolicy: (_call, reply) => reply(null, create(ExportPolicyResponseSchema, EXPORTED)),
    getCounts: (call, reply) =>
      reply(
        null,
        create(GetCountsResponseSchema, { reports: call.request.totalsOnly ? COUNTS.map((report) => ({ ...report, rules: [] })) : COUNTS }),
      ),
    waitPolicy: (_call, reply) => reply(null, create(WaitPolicyResponseSchema, { revision: 9n })),
    observe: (call) => {
      observed.push(call.request)
      call.write(create(ObserveResponseSchema, { response: { case: 'lost', value: 3n } }))
      call.write(create(ObserveResponseSchema, { response: { case: 'flowJson', value: JSON.stringify(FLOW) } }))
      if (!call.request.follow) call.end()
    },
    ...overrides,
  }
  addService(server, Local, handlers)
  const path = join(run, 'local.sock')
  await listenOnSocket(server, path, { mode: 0o600 })
  const close = () => closeServer(server, path)
  t.teardown(close)
  return { observed, close }
}

const SINCE_NS = 1_767_323_045_678_000_000n

/** Of a proxy that counts, and of an extension host that does not answer. */
export const COUNTS = [
  create(CountsReportSchema, {
    source: CountsSource.PROXY,
    sinceNs: SINCE_NS,
    totals: { allowed: 12n, denied: 3n, audited: 2n, failed: 1n },
    rules: [
      { rule: 'default/web/ingress/0123456789ab', counts: { allowed: 12n } },
      { rule: '', counts: { denied: 3n, audited: 2n } },
    ],
    flowsLost: 7n,
  }),
  create(CountsReportSchema, { source: CountsSource.EXT_HOST, problem: 'does not answer within 500 ms' }),
]

/** What an agent without policies exports. */
export const EXPORTED = {
  revision: 9n,
  endpoints: [WEB],
  cluster: 'default',
  dialect: 'extended',
  enforcement: 'default',
  regexProgramSizeMax: 10_000,
  l7Proxy: true,
}

const FLOW = {
  time: '2026-01-02T03:04:05.678Z',
  kind: 'http',
  verdict: 'dropped',
  reason: 'policy_denied',
  where: 'envoy',
  direction: 'ingress',
  source: {
    address: '10.0.0.8',
    port: 4000,
    identity: 1002,
    labels: ['k8s:app=cli'],
    endpoint: { id: 8, namespace: 'default', name: 'cli' },
  },
  destination: { address: '10.0.0.7', port: 80, identity: 1001, labels: [], endpoint: { id: 7, namespace: 'default', name: 'web' } },
  protocol: 'TCP',
  http: { method: 'GET', scheme: 'http', authority: 'web', path: '/\u001b[31madmin', protocol: 'HTTP/1.1', status: 403, durationMs: 1 },
  origins: [{ policy: 'default/web', rule: 'default/web/ingress/x/0' }],
  node: 'n1',
}

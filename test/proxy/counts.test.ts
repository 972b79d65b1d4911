import { Agent } from 'node:http'
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import test from 'ava'
import {
  ExternalProcessor,
  type ProcessingRequest,
  ProcessingResponseSchema,
} from '#api/gen/envoy/service/ext_proc/v3/external_processor_pb.js'
import { type CountsReport, CountsSource } from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { HttpJudge } from '#parsers/http/judge.ts'
import { FLUSH_MS } from '#proxy/access-log/config.ts'
import { type GrpcServer, serveGrpc } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { httpService } from '#proxy/ext-host/http/http-service.ts'
import { Answers } from '#proxy/ext-host/http/processing.ts'
import { proxyPaths } from '#proxy/paths.ts'
import { echoServer, get } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18098
const CONCURRENCY = 32
const EXT_HOST_TIMEOUT_MS = 300
const SECRET = 'sesame'
const stack = new Stack({
  upstreamPort: UPSTREAM_PORT,
  config: { flows: { mode: 'denied' }, http: { extHostTimeoutMs: EXT_HOST_TIMEOUT_MS, ruleCounters: true } },
})
const keepAlive = new Agent({ keepAlive: true, maxSockets: CONCURRENCY })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
  await stack.agent.applied(stack.agent.change([FIRST, SECOND]))
})
test.after.always(async () => {
  keepAlive.destroy()
  await stack.close()
})

const RULE_A = 'shop/api.v1/ingress/0123456789ab'
const RULE_B = 'shop/b/egress/0123456789ac'
const RULE_DENY = 'deny/shop.x/egress/0123456789ad'
const RULE_AUDIT = 'shop/audit/egress/0123456789ae'
const RULE_SECRET = 'shop/secret.y/egress/0123456789af'

const FIRST = slotOf(1, {
  http: [{ name: RULE_A, path: '/a.*' }],
  httpDeny: [{ name: RULE_DENY, path: '/a/no' }],
  shadow: { allowAll: true, httpDeny: [{ name: RULE_AUDIT, path: '/a/audit' }] },
})
const SECOND = slotOf(2, {
  http: [
    { name: RULE_A, path: '/a.*' },
    { name: RULE_B, path: '/b' },
  ],
})
const OPEN = slotOf(3, { allowAll: true })

/** The one source's report, when it has answered. */
async function counts(source = CountsSource.PROXY, totalsOnly = false): Promise<CountsReport> {
  for (let left = 100; ; left--) {
    const [report] = (await stack.agent.counts.ask({ expected: [{ source, connected: true }], totalsOnly })).filter(
      (each) => each.source === source,
    )
    if (report !== undefined && report.problem === '') return report
    if (left === 0) throw new Error(report?.problem)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** As numbers: allowed, denied, audited, failed. */
function numbers({ totals }: CountsReport): number[] {
  return [totals?.allowed, totals?.denied, totals?.audited, totals?.failed].map(Number)
}

function rulesOf({ rules }: CountsReport): Record<string, number[]> {
  return Object.fromEntries(rules.map(({ rule, counts: its }) => [rule, [its?.allowed, its?.denied, its?.audited].map(Number)]))
}

function differences(after: number[], before: number[]): number[] {
  return after.map((value, index) => value - (before[index] ?? 0))
}

/** Asks each of these so many times, mixed, and counts what came back. */
async function load(
  requests: readonly (readonly [port: number, path: string, count: number, key?: string])[],
): Promise<Map<number, number>> {
  const left = requests.map(([port, path, count, key]) => ({ port, path, count, key }))
  const statuses = new Map<number, number>()
  let next = 0
  const work = async () => {
    for (;;) {
      const open = left.filter(({ count }) => count > 0)
      const request = open[next++ % Math.max(1, open.length)]
      if (request === undefined) return
      request.count--
      const headers = request.key === undefined ? {} : { 'x-key': request.key }
      const { status } = await get(request.port, request.path, { agent: keepAlive, headers })
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, work))
  return statuses
}

test.serial('before the first request everything is zero, since Envoy started', async (t) => {
  const report = await counts()
  t.deepEqual(numbers(report), [0, 0, 0, 0])
  t.deepEqual(report.rules, [])
  const ageMs = Date.now() - Number(report.sinceNs / 1_000_000n)
  t.true(ageMs >= 0 && ageMs < 60_000, String(ageMs))
})

test.serial('after thousands of requests at once through two slots every verdict is counted, by the rule that took it', async (t) => {
  const statuses = await load([
    [20001, '/a', 700],
    [20001, '/a/no', 400],
    [20001, '/a/audit', 300],
    [20001, '/none', 200],
    [20002, '/a', 600],
    [20002, '/b', 500],
    [20002, '/none', 100],
  ])
  t.deepEqual([statuses.get(200), statuses.get(403)], [2100, 700])
  const report = await counts()
  t.deepEqual(numbers(report), [2100, 700, 300, 0])
  t.deepEqual(rulesOf(report), {
    [RULE_A]: [1600, 0, 0],
    [RULE_B]: [500, 0, 0],
    [RULE_DENY]: [0, 400, 0],
    [RULE_AUDIT]: [0, 0, 300],
    '': [0, 300, 0],
  })
  t.is(report.rules[0]?.rule, RULE_A)
  t.deepEqual((await counts(CountsSource.PROXY, true)).rules, [])
})

test.serial('what the shadow denies is counted also where the request is denied anyway', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(3, { http: [{ name: RULE_B, path: '/b' }], shadow: {} })]))
  const before = numbers(await counts())
  t.deepEqual(
    [
      ...(await load([
        [20003, '/b', 5],
        [20003, '/none', 7],
      ])),
    ].sort(),
    [
      [200, 5],
      [403, 7],
    ],
  )
  t.deepEqual(differences(numbers(await counts()), before), [5, 7, 12, 0])
  t.deepEqual(rulesOf(await counts())[''], [0, 307, 12])
})

test.serial('requests of a ruleset that allows everything have no rule', async (t) => {
  await stack.agent.applied(stack.agent.change([OPEN]))
  await load([[20003, '/x', 50]])
  t.deepEqual(rulesOf(await counts())[''], [50, 307, 12])
})

test.serial('counts are exact while nobody takes flows, and every flow that was lost is counted', async (t) => {
  // What each worker of Envoy still holds of earlier tests leaves within its flush interval, and nothing tells when both have.
  await new Promise((resolve) => setTimeout(resolve, 20 * FLUSH_MS))
  const { flowsLost: lostBefore } = await counts()
  t.is(lostBefore, 0n)
  const before = numbers(await counts())
  stack.agent.stop()
  await stack.kill(stack.proxy)
  await load([[20001, `/none/${'x'.repeat(1000)}`, 3000]])
  stack.startProxy()
  await stack.agent.start()
  const report = await counts()
  t.deepEqual(differences(numbers(report), before), [0, 3000, 0, 0])
  t.is(report.flowsLost - lostBefore, 3000n)
})

test.serial('the totals survive the last slot, and rules are forgotten with their last slot', async (t) => {
  const before = await counts()
  await stack.agent.applied(stack.agent.change([], [1, 2, 3]))
  for (let left = 200; (await counts()).rules.length > 0 && left > 0; left--) await new Promise((resolve) => setTimeout(resolve, 50))
  const between = await counts()
  t.deepEqual(between.rules, [])
  t.deepEqual([numbers(between), between.flowsLost], [numbers(before), before.flowsLost])
  await stack.agent.applied(stack.agent.change([FIRST, SECOND, OPEN].map((slot) => ({ ...slot, generation: 2 }))))
  await load([[20001, '/a', 10]])
  const after = await counts()
  t.deepEqual(differences(numbers(after), numbers(before)), [10, 0, 0, 0])
  t.deepEqual(rulesOf(after), { [RULE_A]: [10, 0, 0] })
})

test.serial('names of rules come back as they were, whatever is in them', async (t) => {
  const names = [
    'a.b/c.d/egress/0',
    '..//.',
    'x/y:z/egress/1',
    'deny/x/egress/2',
    'audit-deny/x/egress/3',
    'é/ü"\\/egress/4',
    'a b/\t/egress/5',
    '*/x/egress/6',
    'x/.allowed',
    'x/p.denied',
  ]
  await stack.agent.applied(
    stack.agent.change([
      slotOf(4, {
        http: names.map((name, index) => ({ name, path: `/n${index}` })),
        httpDeny: names.map((name, index) => ({ name, path: `/d${index}` })),
      }),
    ]),
  )
  await load(
    names.flatMap(
      (_, index) =>
        [
          [20004, `/n${index}`, index + 1],
          [20004, `/d${index}`, index + 2],
        ] as const,
    ),
  )
  const rules = rulesOf(await counts())
  for (const [index, name] of names.entries()) t.deepEqual(rules[name], [index + 1, index + 2, 0], name)
})

const judged = slotOf(
  5,
  {
    http: [
      { name: RULE_B, path: '/b' },
      { name: RULE_SECRET, path: '/key.*', headerMatches: [{ name: 'x-key', secret: { namespace: 'n', name: 's' } }] },
    ],
  },
  { extHostKey: 'k' },
)

async function extHost(): Promise<GrpcServer> {
  const rule = {
    name: RULE_SECRET,
    rule: { path: '/key', headers: [], headerMatches: [{ name: 'x-key', secret: { namespace: 'n', name: 's' } }] },
  }
  const judge = new HttpJudge({ allowAll: false, allow: [{ name: rule.name, ...rule.rule }], deny: [] }, () => SECRET)
  const answers = new Answers()
  return await serveGrpc(proxyPaths(stack.config).extHost, {
    methods: [httpService({ rulesetOf: (key) => (key === 'k' ? { judge, needs: { path: true, host: false }, answers } : undefined) })],
    onError: () => {},
  })
}

test.serial('what the extension host judges is not counted twice, and what it does not answer is told apart', async (t) => {
  await stack.agent.applied(stack.agent.change([judged]))
  const before = numbers(await counts())
  const server = await extHost()
  t.deepEqual(
    [
      ...(await load([
        [20005, '/key', 300, SECRET],
        [20005, '/key', 200, 'wrong'],
        [20005, '/b', 100],
      ])),
    ].sort(),
    [
      [200, 400],
      [403, 200],
    ],
  )
  t.deepEqual(differences(numbers(await counts()), before), [100, 0, 0, 0])
  // It dies under load.
  const running = load([[20005, '/key', 3000, SECRET]])
  await new Promise((resolve) => setTimeout(resolve, 300))
  await server.close()
  const statuses = await running
  t.log([...statuses])
  t.true((statuses.get(503) ?? 0) > 0)
  t.like(await stack.agent.flow(({ status }) => status === 503), { allowed: false, failed: true })
  t.like(await stack.agent.flow(({ details }) => details === 'headgate_denied'), { allowed: false, failed: false })
  t.deepEqual(differences(numbers(await counts()), before), [100, 0, 0, 3000 - (statuses.get(200) ?? 0)])
})

/** Answers as the end of the path says. */
async function strangeExtHost(): Promise<() => void> {
  const server = createServer()
  const path = proxyPaths(stack.config).extHost
  const answer = (response: MessageInitShape<typeof ProcessingResponseSchema>['response']) =>
    create(ProcessingResponseSchema, { ...(response === undefined ? {} : { response }) })
  addService(server, ExternalProcessor, {
    process: (call) => {
      call.on('error', () => {})
      call.on('data', ({ request }: ProcessingRequest) => {
        const headers = request.case === 'requestHeaders' ? (request.value.headers?.headers ?? []) : []
        const asked = Buffer.from(headers.find(({ key }) => key === ':path')?.rawValue ?? []).toString()
        const allow = () => call.write(answer({ case: 'requestHeaders', value: {} }))
        if (asked.endsWith('/allow')) allow()
        else if (asked.endsWith('/late')) setTimeout(allow, 2 * EXT_HOST_TIMEOUT_MS)
        else if (asked.endsWith('/other')) call.write(answer({ case: 'responseHeaders', value: {} }))
        else if (asked.endsWith('/nothing')) call.write(answer(undefined))
        else if (asked.endsWith('/broken')) call.emit('error', { code: 14, details: 'no' })
      })
    },
  })
  await listenOnSocket(server, path, { mode: 0o600 })
  return () => closeServer(server, path)
}

test.serial('each request that the extension host does not answer, in whatever way, is one failure', async (t) => {
  const close = await strangeExtHost()
  await stack.agent.applied(stack.agent.change([judged]))
  for (let left = 100; (await get(20005, '/key/allow')).status !== 200 && left > 0; left--)
    await new Promise((resolve) => setTimeout(resolve, 50))
  for (const [path, failures] of [
    ['allow', 0],
    ['silent', 1],
    ['late', 1],
    ['other', 1],
    ['nothing', 1],
    ['broken', 1],
  ] as const) {
    const before = numbers(await counts())
    const { status } = await get(20005, `/key/${path}`)
    t.is(status >= 500, failures === 1, `${path}: ${status}`)
    t.deepEqual(differences(numbers(await counts()), before), [0, 0, 0, failures], path)
  }
  close()
})

test.serial('counts go on when the proxy is killed, and begin again with Envoy', async (t) => {
  const before = await counts()
  await stack.kill(stack.proxy)
  await load([[20002, '/b', 100]])
  stack.startProxy()
  const after = await counts()
  t.deepEqual(differences(numbers(after), numbers(before)), [100, 0, 0, 0])
  t.is(after.sinceNs, before.sinceNs)

  await stack.kill(stack.envoy)
  const [dead] = await stack.agent.counts.ask({ expected: [] })
  t.is(dead?.problem, 'Envoy does not answer: it does not run')
  stack.startEnvoy()
  await stack.agent.report(({ envoyConnected, listening }) => envoyConnected && listening.length === 5)
  const again = await counts()
  t.deepEqual(numbers(again), [0, 0, 0, 0])
  t.true(again.sinceNs > after.sinceNs)
})

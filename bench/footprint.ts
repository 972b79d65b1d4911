/**
 * footprint: how long until Headgate enforces, after its start, after a workload came and after a policy file changed, and what its
 * processes hold in memory while nothing happens.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { AddEndpointRequestSchema, type Endpoint, EndpointSpecSchema, RemoveEndpointRequestSchema } from '#api/gen/headgate/v1/local_pb.js'
import type { Machine, Workload } from '../test/support/machine.ts'
import { residentMb } from '../test/support/memory.ts'
import { policyOf, type Running, rule, serve } from '../test/support/running.ts'
import { Supervised } from '../test/support/supervised.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { compile } from './harness/compile.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { monotonicMs, Prober } from './harness/prober.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { median, p99 } from './harness/statistics.ts'
import { UdpProbe } from './harness/udp-probe.ts'

const OPEN_PORT = 7001
const DENIED_PORT = 7002
const PROBE_EVERY_US = 500
const HTTP_PROBE_EVERY_MS = 5
const IDLE_MS = 10_000

interface Targets {
  readonly upMs: number
  readonly agentRssMb: number
  readonly proxyRssMb: number
  readonly endpointAddedMs: number
  readonly policyChangedMs: number
}

interface Times {
  readonly count: number
  readonly median: number
  readonly p99: number
  readonly max: number
}

export const footprint: Bench = {
  name: 'footprint',
  summary: 'up to first verdict, memory while idle, workload added and policy file changed until enforced',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { count = 100 } = options
  const upCount = options.count ?? (options.long ? 100 : 10)
  const program = compile('udp-probe')
  const errors: string[] = []

  const ups: { kernelMs: number; l7Ms: number }[] = []
  for (let time = 0; time < upCount; time++) {
    const up = await timeUp(stage, program)
    ups.push(up)
    say(`up ${time + 1}/${upCount}: first drop after ${Math.round(up.kernelMs)} ms, first 403 after ${Math.round(up.l7Ms)} ms`)
  }
  const scene = await createScene(stage)
  const rss = await measureMemory(scene)
  const added = await timeEndpoints(scene, program, count, errors)
  const l3l4 = await timeKernelPolicy(scene, program, count, errors)
  const l7 = await timeHttpPolicy(scene, count)
  const afterwards = memoryOf(scene.supervised)
  await scene.supervised.stop()

  const upTimes = timesOf(ups.map(({ l7Ms }) => l7Ms))
  const target = targetOf<Targets>('footprint')
  const policyChangedMs = Math.max(l3l4.times.p99, l7.times.p99)
  const figures: Record<keyof Targets, number> = {
    upMs: upTimes.p99,
    agentRssMb: rss['agent']?.rss ?? Number.NaN,
    proxyRssMb: rss['proxy']?.rss ?? Number.NaN,
    endpointAddedMs: added.times.p99,
    policyChangedMs,
  }
  const complaints = (Object.keys(figures) as (keyof Targets)[]).flatMap((name) =>
    figures[name] <= target[name] ? [] : [`${name} ${figures[name]} over ${target[name]}`],
  )
  const checked = added.checked + l3l4.checked + l7.checked
  const isWrong = errors.length > 0 || checked === 0
  return {
    bench: 'footprint',
    ...figures,
    target,
    pass: complaints.length === 0 && !isWrong,
    verdict: isWrong ? `oracle: ${errors.length} wrong` : complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: { checked, wrong: errors.length, ...(errors.length > 0 ? { samples: errors.slice(0, 10) } : {}) },
    conditions: {
      ...conditions,
      pinned: 'nothing: all cores are for everybody',
      times: `p99 of ${count}; of ${upCount} for up`,
      idleSeconds: IDLE_MS / 1000,
    },
    up: { l7: upTimes, kernel: timesOf(ups.map(({ kernelMs }) => kernelMs)) },
    rssMb: rss,
    rssAfterwardsMb: afterwards,
    endpointAdded: added.times,
    policyChanged: { l3l4: l3l4.times, http: l7.times },
  }
}

function timesOf(values: readonly number[]): Times {
  return {
    count: values.length,
    median: rounded(median(values)),
    p99: rounded(p99(values)),
    max: rounded(Math.max(...values)),
  }
}

const SERVER_POLICY = policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }]))

/** From the start of `headgate up` on a machine that has never seen it. */
async function timeUp(stage: Stage, program: string): Promise<{ kernelMs: number; l7Ms: number }> {
  const machine = stage.machine()
  const headgate = stage.headgateOn(machine)
  const supervised = new Supervised(machine)
  const client = machine.addWorkload('client')
  const server = machine.addWorkload('server')
  machine.writeWorkloads()
  machine.setConfig(DEFAULTS)
  await serve(machine, server, 80)
  headgate.write('server.json', JSON.stringify(SERVER_POLICY))
  const udp = new UdpProbe(machine, program, client, server, 1000, DENIED_PORT)
  const http = new Prober(machine, client, `http://${server.address}/denied`, { everyMs: 20, timeoutMs: 2000 })
  await Promise.all([udp.saw('pass', DENIED_PORT, 0), http.saw(200, 0, 5000)])
  const startedMs = monotonicMs()
  supervised.start()
  const [dropMs, denied] = await Promise.all([udp.saw('block', DENIED_PORT, startedMs, 30_000), http.saw(403, startedMs, 30_000)])
  await Promise.all([udp.stop(), http.stop()])
  await supervised.stop()
  headgate.close()
  await machine.dispose()
  return { kernelMs: dropMs - startedMs, l7Ms: denied.sentMs - startedMs }
}

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly supervised: Supervised
  readonly client: Workload
  readonly server: Workload
}

async function createScene(stage: Stage): Promise<Scene> {
  const machine = stage.machine()
  const headgate = stage.headgateOn(machine)
  const supervised = new Supervised(machine)
  const client = machine.addWorkload('client')
  const server = machine.addWorkload('server')
  machine.writeWorkloads()
  machine.setConfig(DEFAULTS)
  await serve(machine, server, 80)
  headgate.write('server.json', JSON.stringify(SERVER_POLICY))
  headgate.write('newcomers.json', JSON.stringify(newcomersPolicy()))
  supervised.start()
  await headgate.wait()
  return { machine, headgate, supervised, client, server }
}

/** New workloads may send to one port of the server only. */
function newcomersPolicy(): Record<string, unknown> {
  return {
    ...policyOf('newcomers', '', {}),
    spec: {
      endpointSelector: { matchLabels: { role: 'newcomer' } },
      egress: [{ toEndpoints: [{ matchLabels: { app: 'server' } }], toPorts: [{ ports: [{ port: String(OPEN_PORT), protocol: 'UDP' }] }] }],
    },
  }
}

/** The server's own ingress would drop what newcomers send: it is opened to all UDP for them. */
const SERVER_OPEN_POLICY = policyOf('server-udp', 'server', {
  ingress: [{ toPorts: [{ ports: [{ port: '1', endPort: 65535, protocol: 'UDP' }] }] }],
})

async function measureMemory({ supervised }: Scene): Promise<ReturnType<typeof memoryOf>> {
  say(`idle for ${IDLE_MS / 1000} s`)
  await delay(IDLE_MS)
  const memory = memoryOf(supervised)
  say(`memory: ${JSON.stringify(memory)}`)
  return memory
}

function memoryOf(supervised: Supervised): Record<string, ReturnType<typeof residentMb>> {
  const pids = {
    agent: supervised.pidOf('agent'),
    proxy: supervised.pidOf('proxy'),
    envoy: supervised.pidOf('envoy'),
    up: supervised.upPid,
  }
  return Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, residentMb(pid ?? 0)]))
}

/** From the call that adds a workload until its packets are judged. Every second one has labels of its own, and so a new identity. */
async function timeEndpoints(
  { machine, headgate, server }: Scene,
  program: string,
  count: number,
  errors: string[],
): Promise<{ times: Times; checked: number }> {
  await headgate.apply('server-udp.json', SERVER_OPEN_POLICY)
  const values: number[] = []
  for (let index = 0; index < count; index++) {
    const name = `new${index}`
    const workload = machine.addWorkload(name)
    const probe = new UdpProbe(machine, program, workload, server, PROBE_EVERY_US, OPEN_PORT, DENIED_PORT)
    await Promise.all([probe.saw('pass', OPEN_PORT, 0), probe.saw('pass', DENIED_PORT, 0)])
    const labels: Record<string, string> = { role: 'newcomer', ...(index % 2 === 0 ? { serial: String(index) } : {}) }
    const startedMs = monotonicMs()
    const answered = addEndpoint(headgate, workload, labels)
    const blockedMs = await probe.saw('block', DENIED_PORT, startedMs)
    await answered
    values.push(blockedMs - startedMs)
    await delay(20)
    if (probe.changesOf(OPEN_PORT, startedMs).at(-1)?.what === 'block') errors.push(`${name}: the allowed port is blocked`)
    if (probe.changesOf(DENIED_PORT, blockedMs).at(-1)?.what !== 'block') errors.push(`${name}: the denied port is open again`)
    if (probe.lateCount > 0) errors.push(`${name}: ${probe.lateCount} packets were late, not dropped`)
    await probe.stop()
    await removeEndpoint(headgate, name)
    machine.removeWorkload(name)
  }
  const times = timesOf(values)
  say(`workload added: ${JSON.stringify(times)}`)
  return { times, checked: count * 2 }
}

function addEndpoint(headgate: Running, workload: Workload, labels: Record<string, string>): Promise<Endpoint> {
  const spec = create(EndpointSpecSchema, {
    name: workload.name,
    namespace: 'default',
    labels,
    attachment: { case: 'netns', value: workload.netns },
    ipv4: [workload.address],
  })
  return new Promise((resolve, reject) => {
    headgate.local.addEndpoint(create(AddEndpointRequestSchema, { spec }), (error, endpoint) =>
      error || endpoint === undefined ? reject(error) : resolve(endpoint),
    )
  })
}

function removeEndpoint(headgate: Running, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    headgate.local.removeEndpoint(create(RemoveEndpointRequestSchema, { namespace: 'default', name }), (error) =>
      error ? reject(error) : resolve(),
    )
  })
}

/** From the rename of a policy file until packets of a flow that is under way, or was denied, feel it. */
async function timeKernelPolicy(
  { machine, headgate, client, server }: Scene,
  program: string,
  count: number,
  errors: string[],
): Promise<{ times: Times; checked: number }> {
  const policy = (port: number): string =>
    JSON.stringify(
      policyOf('server-udp', 'server', {
        ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }], toPorts: [{ ports: [{ port: String(port), protocol: 'UDP' }] }] }],
      }),
    )
  headgate.write('server-udp.json', policy(OPEN_PORT))
  await headgate.wait()
  const probe = new UdpProbe(machine, program, client, server, PROBE_EVERY_US, OPEN_PORT, DENIED_PORT)
  await Promise.all([probe.saw('pass', OPEN_PORT, 0), probe.saw('block', DENIED_PORT, 0)])
  const values: number[] = []
  let [open, denied] = [OPEN_PORT, DENIED_PORT]
  for (let index = 0; index < count; index++) {
    await delay(30 + (index % 7) * 10)
    ;[open, denied] = [denied, open]
    const startedMs = monotonicMs()
    headgate.write('server-udp.json', policy(open))
    const changes = await Promise.all([probe.saw('pass', open, startedMs), probe.saw('block', denied, startedMs)])
    values.push(Math.max(...changes) - startedMs)
  }
  if (probe.lateCount > 0) errors.push(`${probe.lateCount} packets were late, not dropped`)
  await probe.stop()
  const times = timesOf(values)
  say(`policy file changed, L3/L4: ${JSON.stringify(times)}`)
  return { times, checked: count * 2 }
}

/** From the rename of a policy file until a request is judged by the new rules. */
async function timeHttpPolicy({ machine, headgate, client, server }: Scene, count: number): Promise<{ times: Times; checked: number }> {
  const prober = new Prober(machine, client, `http://${server.address}/toggled`, { everyMs: HTTP_PROBE_EVERY_MS, timeoutMs: 2000 })
  await prober.saw(403, 0, 5000)
  const values: number[] = []
  for (let index = 0; index < count; index++) {
    await delay(30 + (index % 7) * 10)
    const isAllowed = index % 2 === 0
    const path = isAllowed ? '/(allowed|toggled).*' : '/allowed.*'
    const startedMs = monotonicMs()
    headgate.write('server.json', JSON.stringify(policyOf('server', 'server', rule('ingress', 'client', 80, [{ path }]))))
    const seen = await prober.saw(isAllowed ? 200 : 403, startedMs, 5000)
    values.push(seen.sentMs - startedMs)
  }
  await prober.stop()
  const times = timesOf(values)
  say(`policy file changed, HTTP: ${JSON.stringify(times)}`)
  return { times, checked: count }
}

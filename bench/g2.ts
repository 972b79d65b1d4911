/**
 * g2: what is left of requests per second when they pass the redirect and Envoy's HTTP rules. The reference is the same pair of
 * workloads on a machine of the same make on which Headgate never ran.
 */
import { configSchema } from '#config/schema.ts'
import type { Machine, Workload } from '../test/support/machine.ts'
import { policyOf, type Running, rule } from '../test/support/running.ts'
import { BARE_PORTS, startBareEnvoy } from './harness/bare-envoy.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { BODY_BYTES, Checker, runWrk, startNginx } from './harness/http.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, pinThisProcess, processorUs } from './harness/processor.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { compare, judge, median } from './harness/statistics.ts'

type FlowsMode = 'all' | 'sampled' | 'denied'
const HOPS = ['oneHop', 'twoHops'] as const
type Hops = (typeof HOPS)[number]
const ALLOWED_PATH = '/allowed'
const DENIED_PATH = '/denied'

/** One way to the server. */
interface Way {
  readonly name: string
  readonly machine: Machine
  readonly client: Workload
  readonly url: string
  readonly isEnforced: boolean
  readonly checker: Checker
  /** Whose processor time counts, by name. */
  readonly pids: Readonly<Record<string, number>>
}

interface Run {
  readonly requestsPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
  /** Processor time of each process for one request, and of both cores together, softirqs included. */
  readonly cpuUsPerRequest: Readonly<Record<string, number>>
  /** Of everything between client and server, the server too. */
  readonly servedUsPerRequest: number
  readonly foreignShare: number
  readonly oracle: Oracle
}

export const g2: Bench = {
  name: 'g2',
  summary: 'requests/s through redirect and HTTP rules, against direct (one hop and two, flows all and default)',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { pairs = 5, seconds = 5 } = options
  const defaultMode = configSchema.parse({}).flows.mode
  const modes = [...new Set<FlowsMode>([defaultMode, 'all', 'denied'])]
  pinThisProcess()
  say('setting up machines')
  const { direct, bareHttp, bareTcp } = await waysWithoutHeadgate(stage)
  const ours = new Map<string, Way>([bareHttp, bareTcp].map((way) => [way.name, way]))
  for (const mode of modes) for (const way of await enforcedWays(stage, mode)) ours.set(way.name, way)
  for (const way of [direct, ...ours.values()]) await runOnce(way, 1)

  const directRuns: Run[] = []
  const runs = new Map<string, Run[]>([...ours.keys()].map((name) => [name, []]))
  const references = new Map<string, Run[]>([...ours.keys()].map((name) => [name, []]))
  for (let pair = 0; pair < pairs; pair++) {
    for (const [name, way] of ours) {
      const reference = await runOnce(direct, seconds)
      const run = await runOnce(way, seconds)
      directRuns.push(reference)
      references.get(name)?.push(reference)
      runs.get(name)?.push(run)
      say(`pair ${pair + 1}/${pairs} ${name}: direct ${reference.requestsPerSecond}/s, through ${run.requestsPerSecond}/s`)
    }
  }

  const throughput = (list: readonly Run[]): number[] => list.map(({ requestsPerSecond }) => requestsPerSecond)
  const variants = Object.fromEntries(
    [...runs].map(([name, list]) => [
      name,
      {
        ...compare(throughput(references.get(name) ?? []), throughput(list)),
        cpuRatio: rounded(servedUs(directRuns) / servedUs(list), 3),
        ...summaryOf(list),
      },
    ]),
  )
  const verdictName = wayName('oneHop', defaultMode)
  const comparison = compare(throughput(references.get(verdictName) ?? []), throughput(runs.get(verdictName) ?? []))
  const oracle = addOracles(...[...directRuns, ...[...runs.values()].flat()].map((run) => run.oracle))
  const foreign = [...directRuns, ...(runs.get(verdictName) ?? [])].map((entry) => entry.foreignShare)
  const target = targetOf<number>('g2')
  const bareRuns = throughput(runs.get(bareHttp.name) ?? [])
  return {
    bench: 'g2',
    ...comparison,
    target,
    ...judge(comparison, target, oracle, foreign),
    cpuRatio: rounded(servedUs(directRuns) / servedUs(runs.get(verdictName) ?? []), 3),
    // What is ours to lose: the same Envoy without redirect, rules, log and everything that hides it.
    ofBareEnvoy: rounded(median(throughput(runs.get(verdictName) ?? [])) / median(bareRuns)),
    oracle,
    conditions: {
      ...conditions,
      pairs,
      seconds,
      verdictOn: `${verdictName} (one hop, the default flows mode)`,
      flowsDefault: defaultMode,
      server: `nginx, 1 worker, ${BODY_BYTES} bytes from memory, core ${CORE_UNDER_TEST}`,
      client: `wrk -t1 -c64 keep-alive, core ${CORE_OF_CLIENT}`,
      underTest: `agent, proxy, envoy (concurrency 1), core ${CORE_UNDER_TEST}`,
      direct: 'the same veths and namespaces on a machine where Headgate does not run',
    },
    direct: summaryOf(directRuns),
    variants,
  }
}

function wayName(hops: Hops, mode: FlowsMode): string {
  return `${hops}.${mode}`
}

/** Processor time that one request costs on the way and at the server: its inverse ratio is the retention that a busy machine cannot blur. */
function servedUs(runs: readonly Run[]): number {
  return median(runs.map((entry) => entry.servedUsPerRequest))
}

function summaryOf(runs: readonly Run[]): Record<string, unknown> {
  const names = Object.keys(runs[0]?.cpuUsPerRequest ?? {})
  return {
    p50Us: rounded(median(runs.map(({ p50Us }) => p50Us))),
    p99Us: rounded(median(runs.map(({ p99Us }) => p99Us))),
    foreignShare: rounded(median(runs.map((entry) => entry.foreignShare)), 2),
    cpuUsPerRequest: Object.fromEntries(
      names.map((name) => [name, rounded(median(runs.map(({ cpuUsPerRequest }) => cpuUsPerRequest[name] ?? 0)), 3)]),
    ),
  }
}

/** The reference, and on its machine the floors: stock Envoy that judges nothing, dialled by its address. */
async function waysWithoutHeadgate(stage: Stage): Promise<Record<'direct' | 'bareHttp' | 'bareTcp', Way>> {
  const machine = stage.machine()
  const client = machine.addWorkload('client')
  const server = machine.addWorkload('server')
  const nginx = await startNginx(machine, server, client)
  const checker = await Checker.start(machine, client)
  const envoy = await startBareEnvoy(machine, server, client)
  const url = `http://${server.address}`
  const direct = { name: 'direct', machine, client, url, isEnforced: false, checker, pids: { nginx } }
  const bare = (name: string, port: number): Way => ({ ...direct, name, url: `${url}:${port}`, pids: { nginx, envoy } })
  return { direct, bareHttp: bare('bareEnvoy', BARE_PORTS.http), bareTcp: bare('bareTcpProxy', BARE_PORTS.tcp) }
}

/** One machine with Headgate, and on it a way with one hop and one with two. */
async function enforcedWays(stage: Stage, mode: FlowsMode): Promise<Way[]> {
  const machine = stage.machine()
  const client = machine.addWorkload('client')
  const near = machine.addWorkload('near')
  const far = machine.addWorkload('far')
  const nginx = { near: await startNginx(machine, near, client), far: await startNginx(machine, far, client) }
  machine.writeWorkloads()
  machine.setConfig({ ...DEFAULTS, flows: { mode }, envoy: { concurrency: 1 } })
  const headgate = stage.headgateOn(machine)
  headgate.start()
  const http = [{ method: 'GET', path: `${ALLOWED_PATH}.*` }]
  await headgate.apply('far.json', policyOf('far', 'far', rule('ingress', 'client', 80, http)))
  await headgate.apply(
    'client.json',
    policyOf('near', 'client', rule('egress', 'near', 80, http)),
    policyOf('far-of-client', 'client', rule('egress', 'far', 80, http)),
  )
  const checker = await Checker.start(machine, client)
  const processes = pidsOf(headgate)
  return HOPS.map((hops) => ({
    name: wayName(hops, mode),
    machine,
    client,
    url: `http://${(hops === 'oneHop' ? near : far).address}`,
    isEnforced: true,
    checker,
    pids: { ...processes, nginx: hops === 'oneHop' ? nginx.near : nginx.far },
  }))
}

function pidsOf(headgate: Running): Record<string, number> {
  return Object.fromEntries([...headgate.processes].map(([name, child]) => [name, child.pid ?? 0]))
}

async function runOnce(way: Way, seconds: number): Promise<Run> {
  const expectations = {
    [ALLOWED_PATH]: `body:${BODY_BYTES}`,
    [DENIED_PATH]: way.isEnforced ? 'denied' : `body:${BODY_BYTES}`,
  }
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  way.checker.begin(way.url, expectations)
  const before = Object.entries(way.pids).map(([name, pid]) => [name, processorUs(pid)] as const)
  const coresBefore = cores.map(coreTimes)
  const startedMs = performance.now()
  const result = await runWrk(way.machine, way.client, `${way.url}${ALLOWED_PATH}`, seconds)
  const wallMs = performance.now() - startedMs
  const coresAfter = cores.map(coreTimes)
  const cpuUsPerRequest: Record<string, number> = {}
  for (const [name, us] of before) cpuUsPerRequest[name] = (processorUs(way.pids[name] as number) - us) / result.requests
  const servedUsPerRequest = Object.values(cpuUsPerRequest).reduce((sum, us) => sum + us, 0)
  const accountedUs = servedUsPerRequest * result.requests + result.processorUs
  cpuUsPerRequest['wrk'] = result.processorUs / result.requests
  for (const [index, core] of cores.entries()) {
    cpuUsPerRequest[`core${core}`] = ((coresAfter[index]?.busyUs ?? 0) - (coresBefore[index]?.busyUs ?? 0)) / result.requests
  }
  const checked = await way.checker.end()
  const oracle = {
    checked: checked.checked + result.requests,
    wrong: checked.wrong + result.wrong + (way.isEnforced && checked.denied === 0 ? 1 : 0),
    samples: (checked.samples ?? []).map((text) => `${way.name} ${text}`),
  }
  return {
    requestsPerSecond: Math.round(result.requestsPerSecond),
    p50Us: result.p50Us,
    p99Us: result.p99Us,
    cpuUsPerRequest,
    servedUsPerRequest,
    foreignShare: foreignShare(coresBefore, coresAfter, accountedUs, wallMs),
    oracle,
  }
}

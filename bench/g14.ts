/**
 * g14: TCP between two workloads whose policies have 16,384 rows each, against the same pair without a row, Headgate running on both
 * machines. No HTTP rules: what is measured is the kernel's part. Beside it, both against a pair where Headgate never ran.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine, Workload } from '../test/support/machine.ts'
import { policyOf } from '../test/support/running.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { compile } from './harness/compile.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, onClientCore, pinThisProcess, processorUs } from './harness/processor.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { type Comparison, compare, judge, median } from './harness/statistics.ts'

const MEASURES = {
  rr1: { mode: 'rr', connections: 1 },
  rr32: { mode: 'rr', connections: 32 },
  connect: { mode: 'crr', connections: 1 },
} as const
type Measure = keyof typeof MEASURES
const MEASURE_NAMES = Object.keys(MEASURES) as Measure[]

/** 128 peers times 128 ports: one row each. The peer that is measured is one of them, its ports lie in the middle. */
const PEERS = 128
const PORTS = 128
const ROWS = PEERS * PORTS
const PORTS_PER_RULE = 40
/** Odd ports only: neighbours would be merged into one row. */
const ALL_PORTS = Array.from({ length: PORTS }, (_, index) => 7001 + 2 * index)
const MEASURED_PORTS = ALL_PORTS.slice(60, 64)
const DENIED_PORT = 7100

interface Way {
  readonly name: 'bare' | 'none' | 'enforced'
  readonly machine: Machine
  readonly client: Workload
  readonly server: Workload
  readonly pids: Readonly<Record<string, number>>
  /** From the first policy file's rename until both are in force; of enforced only. */
  readonly policyAppliedMs?: number
}

interface Run {
  readonly perSecond: number
  readonly p50Us: number
  readonly p99Us: number
  readonly cpuUsPerOperation: Readonly<Record<string, number>>
  readonly foreignShare: number
  readonly oracle: Oracle
}

export const g14: Bench = {
  name: 'g14',
  summary: 'TCP request/response and connect rate under 16,384 policy rows, against none',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { pairs = 5, seconds = 4 } = options
  pinThisProcess()
  say('setting up machines')
  const program = compile('tcp-rr')
  const bare = await way(stage, 'bare', program)
  const none = await way(stage, 'none', program)
  const enforced = await way(stage, 'enforced', program)
  const ways = [bare, none, enforced]
  for (const entry of ways) for (const measure of MEASURE_NAMES) await runOnce(entry, measure, program, 0.5)

  const runs = new Map<string, Run[]>()
  for (let pair = 0; pair < pairs; pair++) {
    for (const measure of MEASURE_NAMES) {
      for (const entry of ways) {
        const result = await runOnce(entry, measure, program, seconds)
        const key = `${measure}.${entry.name}`
        runs.set(key, [...(runs.get(key) ?? []), result])
        say(`pair ${pair + 1}/${pairs} ${key}: ${result.perSecond}/s`)
      }
    }
  }

  const of = (measure: Measure, name: Way['name']): Run[] => runs.get(`${measure}.${name}`) ?? []
  const throughput = (list: readonly Run[]): number[] => list.map(({ perSecond }) => perSecond)
  const measures = Object.fromEntries(
    MEASURE_NAMES.map((measure) => [
      measure,
      {
        enforcedToBare: compare(throughput(of(measure, 'bare')), throughput(of(measure, 'enforced'))),
        noneToBare: compare(throughput(of(measure, 'bare')), throughput(of(measure, 'none'))),
        enforcedToNone: compare(throughput(of(measure, 'none')), throughput(of(measure, 'enforced'))),
        cpuRatio: rounded(cost(of(measure, 'bare')) / cost(of(measure, 'enforced')), 3),
        ...Object.fromEntries((['bare', 'none', 'enforced'] as const).map((name) => [name, summaryOf(of(measure, name))])),
      },
    ]),
  )
  const comparisons = MEASURE_NAMES.map((measure) => ({
    measure,
    comparison: (measures[measure] as { enforcedToNone: Comparison }).enforcedToNone,
  }))
  const worst = comparisons.reduce((low, entry) => (entry.comparison.ratio < low.comparison.ratio ? entry : low))
  const oracle = addOracles(...[...runs.values()].flat().map((entry) => entry.oracle))
  const foreign = [...runs.values()].flat().map((entry) => entry.foreignShare)
  const target = targetOf<number>('g14')
  const verdicts = comparisons.map(({ comparison }) => judge(comparison, target, oracle, foreign))
  const worstVerdict = judge(worst.comparison, target, oracle, foreign)
  const pass = verdicts.every((entry) => entry.pass)
  return {
    bench: 'g14',
    ...worst.comparison,
    target,
    pass,
    verdict: worstVerdict.pass && !pass ? (verdicts.find((entry) => !entry.pass)?.verdict ?? '') : worstVerdict.verdict,
    oracle,
    conditions: {
      ...conditions,
      pairs,
      seconds,
      verdictOn: `${worst.measure} (the worst of ${MEASURE_NAMES.join(', ')})`,
      rows: `${ROWS} in the client's group (egress) and ${ROWS} in the server's (ingress): ${PEERS} peers, ${PORTS} ports each`,
      bare: 'the same veths and namespaces on a machine where Headgate does not run',
      none: 'Headgate runs, no policy',
      server: `epoll, one thread, core ${CORE_UNDER_TEST}`,
      client: `the same program, 1 byte each way, core ${CORE_OF_CLIENT}`,
    },
    // What Headgate costs altogether, beside what the rows cost.
    ofBare: Object.fromEntries(
      MEASURE_NAMES.map((measure) => [measure, (measures[measure] as { enforcedToBare: Comparison }).enforcedToBare.ratio]),
    ),
    policyAppliedMs: enforced.policyAppliedMs,
    measures,
  }
}

/** Processor time of client, server and agent for one operation: what a busy machine cannot blur. */
function cost(runs: readonly Run[]): number {
  return median(runs.map(({ cpuUsPerOperation: { client = 0, server = 0, agent = 0 } }) => client + server + agent))
}

function summaryOf(runs: readonly Run[]): Record<string, unknown> {
  const names = Object.keys(runs[0]?.cpuUsPerOperation ?? {})
  return {
    p50Us: median(runs.map(({ p50Us }) => p50Us)),
    p99Us: median(runs.map(({ p99Us }) => p99Us)),
    foreignShare: rounded(median(runs.map((entry) => entry.foreignShare)), 2),
    cpuUsPerOperation: Object.fromEntries(
      names.map((name) => [name, rounded(median(runs.map(({ cpuUsPerOperation }) => cpuUsPerOperation[name] ?? 0)), 3)]),
    ),
  }
}

async function way(stage: Stage, name: Way['name'], program: string): Promise<Way> {
  const machine = stage.machine()
  const client = machine.addWorkload('client')
  const server = machine.addWorkload('server')
  for (const { netns } of [client, server]) widenPorts(machine, netns)
  const child = machine.start(server.netns, [program, 'server', ...[...MEASURED_PORTS, DENIED_PORT].map(String)])
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve())
    child.once('exit', () => reject(new Error('the server ended')))
  })
  const pids = { server: child.pid ?? 0 }
  if (name === 'bare') return { name, machine, client, server, pids }
  machine.writeWorkloads()
  machine.setConfig(DEFAULTS)
  const headgate = stage.headgateOn(machine)
  headgate.start()
  await headgate.wait()
  await headgate.waitForEndpoint('client')
  await headgate.waitForEndpoint('server')
  const agent = headgate.processes.get('agent')?.pid ?? 0
  const result: Way = { name, machine, client, server, pids: { ...pids, agent } }
  if (name === 'none') return result
  const startedMs = performance.now()
  await headgate.apply('client.json', bigPolicy('client', 'egress', 'server'))
  const response = await headgate.apply('server.json', bigPolicy('server', 'ingress', 'client'))
  const policyAppliedMs = Math.round(performance.now() - startedMs)
  if (response.refused.length > 0) throw new Error(`refused: ${response.refused[0]?.reason}`)
  const { warnings, refusedPolicies } = await headgate.status()
  if (refusedPolicies.length > 0) throw new Error(`refused: ${JSON.stringify(refusedPolicies[0]?.problems)}`)
  for (const warning of warnings) say(`status: ${warning}`)
  await delay(500)
  return { ...result, policyAppliedMs }
}

/** Connections come and go too fast for the usual range of local ports and for a minute's rest of each. */
function widenPorts(machine: Machine, netns: string): void {
  machine.inHost(
    'nsenter',
    `--net=/run/netns/${netns}`,
    'sysctl',
    '-qw',
    'net.ipv4.ip_local_port_range=10000 65535',
    'net.ipv4.tcp_tw_reuse=1',
  )
}

/** PEERS times PORTS rows: the other workload, and prefixes of the world. */
function bigPolicy(app: string, direction: 'ingress' | 'egress', peer: string): Record<string, unknown> {
  const side = direction === 'ingress' ? 'from' : 'to'
  const toPorts = Array.from({ length: Math.ceil(PORTS / PORTS_PER_RULE) }, (_, index) => ({
    ports: ALL_PORTS.slice(index * PORTS_PER_RULE, (index + 1) * PORTS_PER_RULE).map((port) => ({ port: String(port), protocol: 'TCP' })),
  }))
  const prefixes = Array.from({ length: PEERS - 1 }, (_, index) => `198.18.${index}.0/24`)
  return policyOf(app, app, {
    [direction]: [
      { [`${side}CIDR`]: prefixes, toPorts },
      { [`${side}Endpoints`]: [{ matchLabels: { app: peer } }], toPorts },
    ],
  })
}

interface ClientReport {
  readonly operations: number
  readonly seconds: number
  readonly p50Us: number
  readonly p99Us: number
  readonly wrong: number
  readonly failed: number
  readonly error: string
  readonly probes: number
  readonly probesWrong: number
  readonly processorUs: number
}

async function runOnce(way: Way, measure: Measure, program: string, seconds: number): Promise<Run> {
  const { mode, connections } = MEASURES[measure]
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  const before = Object.entries(way.pids).map(([name, pid]) => [name, processorUs(pid)] as const)
  const coresBefore = cores.map(coreTimes)
  const startedMs = performance.now()
  const { code, stdout, stderr } = await way.machine.run(
    way.client.netns,
    onClientCore(
      program,
      'client',
      mode,
      way.server.address,
      String(seconds),
      String(connections),
      MEASURED_PORTS.join(','),
      String(DENIED_PORT),
      way.name === 'enforced' ? 'denied' : 'open',
    ),
  )
  if (code !== 0) throw new Error(`${way.name} ${measure}: ${stderr}`)
  const wallMs = performance.now() - startedMs
  const coresAfter = cores.map(coreTimes)
  const report = JSON.parse(stdout) as ClientReport
  const cpu: Record<string, number> = { client: report.processorUs / report.operations }
  for (const [name, us] of before) cpu[name] = (processorUs(way.pids[name] as number) - us) / report.operations
  const accountedUs = Object.values(cpu).reduce((sum, us) => sum + us, 0) * report.operations
  for (const [index, core] of cores.entries()) {
    cpu[`core${core}`] = ((coresAfter[index]?.busyUs ?? 0) - (coresBefore[index]?.busyUs ?? 0)) / report.operations
  }
  const wrong = report.wrong + report.failed + report.probesWrong
  return {
    perSecond: Math.round(report.operations / report.seconds),
    p50Us: report.p50Us,
    p99Us: report.p99Us,
    cpuUsPerOperation: cpu,
    foreignShare: foreignShare(coresBefore, coresAfter, accountedUs, wallMs),
    oracle: {
      checked: report.operations + report.probes,
      wrong,
      ...(wrong > 0 ? { samples: [`${way.name} ${measure}: ${JSON.stringify(report)}`] } : {}),
    },
  }
}

/**
 * g1: what a thousand HTTP rules cost Envoy. The reference is the same listener of the same Envoy without the filter that judges; ours
 * have ten rules, a thousand, and a thousand expressions that begin alike.
 */

import type { Machine, Workload } from '../test/support/machine.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { machineConditions } from './harness/conditions.ts'
import { BODY_BYTES, Checker, runWrk, startNginx } from './harness/http.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, pinThisProcess, processorUs } from './harness/processor.ts'
import { type SlotsEnvoy, startSlotsEnvoy } from './harness/slots-envoy.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { compare, judge, median } from './harness/statistics.ts'
import { DENIED_PATH, mixedRules, PATHS, regexRules } from './workloads/http-rules.ts'

const WAYS = ['none', 'any', 'ten', 'thousand', 'regexes'] as const
type Way = (typeof WAYS)[number]
const PORTS: Readonly<Record<Way, number>> = { none: 21_001, ten: 21_002, thousand: 21_003, regexes: 21_004, any: 21_005 }

interface Targets {
  readonly ratio: number
  readonly p99: number
  readonly growth: number
  readonly regexes: number
}

interface Run {
  readonly requestsPerSecond: number
  readonly p99Us: number
  readonly envoyUs: number
  readonly foreignShare: number
  readonly oracle: Oracle
}

interface Scene {
  readonly machine: Machine
  readonly server: Workload
  readonly envoy: SlotsEnvoy
  readonly nginx: number
  readonly checker: Checker
}

export const g1: Bench = {
  name: 'g1',
  summary: 'requests/s through Envoy with 1,000 HTTP rules, against the same Envoy without any',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  // Many short runs: on machines that others share, what disturbs lasts for seconds.
  const { pairs = 25, seconds = 1 } = options
  pinThisProcess()
  const machine = stage.machine()
  const server = machine.addWorkload('server')
  const nginx = await startNginx(machine, server, server)
  const envoy = await startSlotsEnvoy(machine, server, [
    { port: PORTS.none, ruleset: undefined },
    { port: PORTS.ten, ruleset: { http: mixedRules(10) } },
    { port: PORTS.thousand, ruleset: { http: mixedRules(1000) } },
    { port: PORTS.regexes, ruleset: { http: regexRules(1000) } },
    { port: PORTS.any, ruleset: { allowAll: true } },
  ])
  const scene: Scene = { machine, server, envoy, nginx, checker: await Checker.start(machine, server) }
  for (const way of WAYS) await runOnce(scene, way, 1)
  const runs: Record<Way, Run[]> = { none: [], any: [], ten: [], thousand: [], regexes: [] }
  for (let pair = 0; pair < pairs; pair++) {
    // In turns, each time beginning with another: what wakes up slowly is nobody's disadvantage.
    for (const offset of WAYS.keys()) {
      const way = WAYS[(offset + pair) % WAYS.length] as Way
      runs[way].push(await runOnce(scene, way, seconds))
    }
    say(`pair ${pair + 1}/${pairs}: ${WAYS.map((way) => `${way} ${runs[way].at(-1)?.requestsPerSecond}/s`).join(', ')}`)
  }

  const rates = (way: Way) => runs[way].map(({ requestsPerSecond }) => requestsPerSecond)
  const envoyUs = (way: Way) => median(runs[way].map((entry) => entry.envoyUs))
  const p99Us = (way: Way) => median(runs[way].map((entry) => entry.p99Us))
  const comparison = compare(rates('none'), rates('thousand'))
  const oracle = addOracles(...WAYS.flatMap((way) => runs[way].map((entry) => entry.oracle)))
  const foreign = WAYS.flatMap((way) => runs[way].map((entry) => entry.foreignShare))
  const target = targetOf<Targets>('g1')
  const figures = {
    p99: rounded(p99Us('thousand') / p99Us('none')),
    growth: rounded(1 - median(rates('thousand')) / median(rates('ten'))),
    regexes: rounded(median(rates('regexes')) / median(rates('none'))),
  }
  const verdict = judge(comparison, target.ratio, oracle, foreign)
  const missed = [
    ...(figures.p99 > target.p99 ? [`p99 ${figures.p99} is above ${target.p99}`] : []),
    ...(figures.growth > target.growth ? [`from ten rules to a thousand it is ${figures.growth} less, at most ${target.growth}`] : []),
    ...(figures.regexes < target.regexes ? [`regexes ${figures.regexes} is below ${target.regexes}`] : []),
  ]
  return {
    bench: 'g1',
    ...comparison,
    target,
    ...(verdict.pass && missed.length > 0 ? { pass: false, verdict: `missed: ${missed.join(', ')}` } : verdict),
    ...(missed.length > 0 ? { missed } : {}),
    ...figures,
    // What rules cost a filter that is there in any case: the part that is ours to lose.
    ofAny: rounded(median(rates('thousand')) / median(rates('any'))),
    // Where rates are noisy, this is the figure to look at.
    envoyUsPerRequest: Object.fromEntries(WAYS.map((way) => [way, rounded(envoyUs(way), 3)])),
    envoyCpuRatio: Object.fromEntries(WAYS.map((way) => [way, rounded(envoyUs('none') / envoyUs(way))])),
    requestsPerSecond: Object.fromEntries(WAYS.map((way) => [way, rounded(median(rates(way)))])),
    p99Us: Object.fromEntries(WAYS.map((way) => [way, rounded(p99Us(way))])),
    oracle,
    conditions: {
      ...conditions,
      pairs,
      seconds,
      server: `nginx, 1 worker, ${BODY_BYTES} bytes from memory, core ${CORE_UNDER_TEST}`,
      client: `wrk -t1 -c64 keep-alive, ${PATHS.length} paths in turns, core ${CORE_OF_CLIENT}`,
      underTest: `one envoy (concurrency 1), core ${CORE_UNDER_TEST}, a listener for each set of rules, no access log`,
    },
  }
}

async function runOnce({ machine, server, envoy, nginx, checker }: Scene, way: Way, seconds: number): Promise<Run> {
  const url = `http://127.0.0.1:${PORTS[way]}`
  const isEnforced = way !== 'none' && way !== 'any'
  checker.begin(url, { [PATHS[0] as string]: `body:${BODY_BYTES}`, [DENIED_PATH]: isEnforced ? 'denied' : `body:${BODY_BYTES}` })
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  const before = { envoy: processorUs(envoy.pid), nginx: processorUs(nginx), cores: cores.map(coreTimes), ms: performance.now() }
  const result = await runWrk(machine, server, url, seconds, { paths: PATHS })
  const wallMs = performance.now() - before.ms
  const envoyUs = processorUs(envoy.pid) - before.envoy
  const accountedUs = envoyUs + processorUs(nginx) - before.nginx + result.processorUs
  const checked = await checker.end()
  return {
    requestsPerSecond: Math.round(result.requestsPerSecond),
    p99Us: result.p99Us,
    envoyUs: envoyUs / result.requests,
    foreignShare: foreignShare(before.cores, cores.map(coreTimes), accountedUs, wallMs),
    oracle: {
      checked: checked.checked + result.requests,
      wrong: checked.wrong + result.wrong + (isEnforced && checked.denied === 0 ? 1 : 0),
      samples: (checked.samples ?? []).map((text) => `${way} ${text}`),
    },
  }
}

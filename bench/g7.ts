/**
 * g7: megabytes a second of Kafka's records through the relay with rules on topics, against the same broker without anybody between; beside
 * them Envoy that only copies bytes, and Kroxylicious without filters.
 */
import { configSchema } from '#config/schema.ts'
import { type KafkaOptions, startKafka } from '../test/support/kafka.ts'
import { policyOf } from '../test/support/running.ts'
import { addOracles, type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import {
  ALLOWED_TOPIC,
  DENIED_TOPIC,
  fillTopic,
  KafkaChecker,
  type KafkaLoad,
  type KafkaRun,
  type KafkaWay,
  READ_TOPIC,
  RECORD_BYTES,
  runKafkaLoad,
} from './harness/kafka.ts'
import { buildKroxylicious, PROXY_PORTS, startKroxylicious, startTcpProxy } from './harness/kafka-proxies.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, descendantsOf, pinThisProcess } from './harness/processor.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { compare, judge, median } from './harness/statistics.ts'

const RECORDS: Readonly<Record<KafkaLoad, number>> = { consume: 1_500_000, produce: 500_000 }
/** Through network ext_proc, which takes three times as long. */
const EXT_PROC_RECORDS: Readonly<Record<KafkaLoad, number>> = { consume: 500_000, produce: 150_000 }
const BEHIND_ENVOY = 9094
const UNLIMITED_KBPS = 10_000_000
/** Warm, and with room for what is produced in one run: older segments go. */
const BROKER: KafkaOptions = {
  settings: { 'log.segment.bytes': String(64 << 20), 'log.initial.task.delay.ms': '0' },
  jvm: ['-Xmx1g'],
}

interface Target {
  /** Of direct. */
  readonly direct: number
  /** Of bare Envoy, where that itself is below the target. */
  readonly envoy: number
}

export const g7Consume: Bench = bench('consume')
export const g7Produce: Bench = bench('produce')
export const g7ExtProc: Bench = {
  name: 'g7-ext-proc',
  summary: 'Kafka: MB/s through network ext_proc beside the relay, against direct',
  run: (options) => onStage((stage) => runExtProc(stage, options)),
}

function bench(load: KafkaLoad): Bench {
  const summary = `Kafka: MB/s to ${load} through topic rules, against direct, bare Envoy and Kroxylicious`
  return { name: `g7-${load}`, summary, run: (options) => onStage((stage) => run(load, stage, options)) }
}

async function run(load: KafkaLoad, stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { pairs = 5, count: records = RECORDS[load] } = options
  const kroxylicious = buildKroxylicious()
  pinThisProcess()
  say('setting up machines')
  const others = await waysOfOthers(stage, kroxylicious.classPath)
  const ours = await ourWay(stage)
  const [direct, envoy, peer] = others
  const ways = [...others, ours]
  if (load === 'consume') for (const way of [direct, ours]) await fillTopic(way, records)
  // Three ways lead to the others' broker: ours gets as warm.
  for (const way of [...others, ours, ours, ours]) await runKafkaLoad(way, load, records)

  const runs = new Map<KafkaWay, KafkaRun[]>(ways.map((way) => [way, []]))
  for (let pair = 0; pair < pairs; pair++) {
    for (const way of ways) {
      // Between two of these runs the others' broker has three: a JVM gets faster for minutes.
      for (let extra = 1; way === ours && extra < others.length; extra++) await runKafkaLoad(way, load, records)
      const result = await runKafkaLoad(way, load, records)
      runs.get(way)?.push(result)
      say(`pair ${pair + 1}/${pairs} ${way.name}: ${result.mbPerSecond} MB/s, ${Math.round(result.servedUsPerMb)} us/MB`)
    }
  }
  const of = (way: KafkaWay): KafkaRun[] => runs.get(way) ?? []
  const ratesOf = (way: KafkaWay): number[] => of(way).map(({ mbPerSecond }) => mbPerSecond)
  const costOf = (way: KafkaWay): number => median(of(way).map(({ servedUsPerMb }) => servedUsPerMb))
  const all = [...runs.values()].flat()
  const oracle = addOracles(...all.map((each) => each.oracle))
  const target = targetOf<Target>(`g7-${load}`)
  const foreign = all.map(({ foreignShare }) => foreignShare)
  const ofDirect = compare(ratesOf(direct), ratesOf(ours))
  const ofEnvoy = compare(ratesOf(envoy), ratesOf(ours))
  const envoyOfDirect = median(ratesOf(envoy)) / median(ratesOf(direct))
  const byDirect = judge(ofDirect, target.direct, oracle, foreign)
  // Where Envoy alone does not reach it, what can be asked is that little is lost behind it.
  const verdict = byDirect.pass || envoyOfDirect >= target.direct ? byDirect : judge(ofEnvoy, target.envoy, oracle, foreign)
  const isAhead = median(ratesOf(ours)) > median(ratesOf(peer))
  return {
    bench: `g7-${load}`,
    ...ofDirect,
    target,
    pass: verdict.pass && isAhead,
    verdict: verdict.pass && !isAhead ? 'missed: Kroxylicious is faster' : verdict.verdict,
    ofEnvoy: ofEnvoy.ratio,
    envoyOfDirect: rounded(envoyOfDirect),
    kroxyliciousOfDirect: rounded(median(ratesOf(peer)) / median(ratesOf(direct))),
    cpuOfKroxylicious: rounded(costOf(ours) / costOf(peer), 3),
    oracle,
    conditions: {
      ...conditions,
      pairs,
      records,
      load: `${load === 'consume' ? 'ConsumerPerformance' : 'ProducerPerformance'}, ${RECORD_BYTES} bytes a record, defaults, core ${CORE_OF_CLIENT}`,
      broker: `Apache Kafka, core ${CORE_UNDER_TEST}`,
      direct: 'the same veths and namespaces on a machine where Headgate does not run',
      envoy: 'tcp_proxy, 1 worker, dialled by its address, in a namespace of its own',
      kroxylicious: `${kroxylicious.version}, no filters, dialled by its address, in a namespace of its own`,
      underTest: `agent, proxy, envoy (concurrency 1), ext-host with 1 worker, core ${CORE_UNDER_TEST}; produce and consume allowed by topic`,
    },
    ways: Object.fromEntries(ways.map((way) => [way.name, summaryOf(of(way))])),
  }
}

/** What network ext_proc leaves, with the limit of bandwidth that keeps Envoy's memory bounded and without it. Nothing is asked of it but right answers. */
async function runExtProc(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { pairs = 3, count } = options
  pinThisProcess()
  say('setting up machines')
  const direct = await directWay(stage)
  const relay = await ourWay(stage, 'relay')
  const limited = await ourWay(stage, 'extProc', { l7Transport: 'ext-proc' })
  const unlimited = await ourWay(stage, 'extProcUnlimited', {
    l7Transport: 'ext-proc',
    networkExtProc: { connectionKbps: UNLIMITED_KBPS },
  })
  const ways = [direct, relay, limited, unlimited]
  const results = new Map<string, KafkaRun[]>()
  for (const load of ['consume', 'produce'] as const) {
    const records = count ?? EXT_PROC_RECORDS[load]
    if (load === 'consume') for (const way of ways) await fillTopic(way, records)
    for (const way of ways) await runKafkaLoad(way, load, records)
    for (let pair = 0; pair < pairs; pair++) {
      for (const way of ways) {
        const result = await runKafkaLoad(way, load, records)
        const key = `${load}.${way.name}`
        results.set(key, [...(results.get(key) ?? []), result])
        say(`pair ${pair + 1}/${pairs} ${key}: ${result.mbPerSecond} MB/s, ${Math.round(result.servedUsPerMb)} us/MB`)
      }
    }
  }
  const rateOf = (load: KafkaLoad, way: KafkaWay): number =>
    median((results.get(`${load}.${way.name}`) ?? []).map(({ mbPerSecond }) => mbPerSecond))
  const oracle = addOracles(...[...results.values()].flat().map((each) => each.oracle))
  const isRight = oracle.wrong === 0 && oracle.checked > 0
  return {
    bench: g7ExtProc.name,
    target: targetOf('g7-ext-proc'),
    pass: isRight,
    verdict: isRight ? 'reached' : `oracle: ${oracle.wrong} of ${oracle.checked} answers were wrong`,
    oracle,
    conditions: {
      ...conditions,
      pairs,
      records: count ?? EXT_PROC_RECORDS,
      limitKbps: configSchema.parse({}).networkExtProc.connectionKbps,
    },
    ofDirect: Object.fromEntries(
      (['consume', 'produce'] as const).map((load) => [
        load,
        Object.fromEntries(ways.slice(1).map((way) => [way.name, rounded(rateOf(load, way) / rateOf(load, direct), 3)])),
      ]),
    ),
    ways: Object.fromEntries([...results].map(([key, list]) => [key, summaryOf(list)])),
  }
}

function summaryOf(runs: readonly KafkaRun[]): Record<string, unknown> {
  const names = Object.keys(runs[0]?.cpuUsPerMb ?? {})
  return {
    mbPerSecond: runs.map((each) => rounded(each.mbPerSecond)),
    servedUsPerMb: Math.round(median(runs.map(({ servedUsPerMb }) => servedUsPerMb))),
    cpuUsPerMb: Object.fromEntries(names.map((name) => [name, Math.round(median(runs.map(({ cpuUsPerMb }) => cpuUsPerMb[name] ?? 0)))])),
    foreignShare: rounded(median(runs.map((each) => each.foreignShare)), 2),
  }
}

/** A client and a broker on a machine of their own, where Headgate does not run yet. */
async function placeBroker(stage: Stage) {
  const machine = stage.machine()
  const client = machine.addWorkload('client')
  const server = machine.addWorkload('broker')
  const proxy = machine.addWorkload('proxy')
  const { address, process } = await startKafka(machine, server, [READ_TOPIC, ALLOWED_TOPIC, DENIED_TOPIC], {
    ...BROKER,
    behindProxies: { ENVOY: { port: BEHIND_ENVOY, advertised: `${proxy.address}:${PROXY_PORTS.envoy}` } },
  })
  return { machine, client, server, proxy, address, broker: process.pid ?? 0 }
}

async function directWay(stage: Stage): Promise<KafkaWay> {
  const { machine, client, address, broker } = await placeBroker(stage)
  const checker = new KafkaChecker(machine, client, address)
  await checker.ready()
  return { name: 'direct', machine, client, bootstrap: address, isEnforced: false, checker, pids: () => ({ broker }) }
}

/** One machine without Headgate: direct, through Envoy, through Kroxylicious. */
async function waysOfOthers(stage: Stage, classPath: string): Promise<[KafkaWay, KafkaWay, KafkaWay]> {
  const { machine, client, server, proxy, address, broker } = await placeBroker(stage)
  const envoy = startTcpProxy(machine, proxy, server, BEHIND_ENVOY)
  const kroxylicious = startKroxylicious(machine, proxy, address, classPath)
  const way = (name: string, port: number | undefined, pids: Readonly<Record<string, number>>): KafkaWay => {
    const bootstrap = port === undefined ? address : `${proxy.address}:${port}`
    const checker = new KafkaChecker(machine, client, bootstrap)
    return { name, machine, client, bootstrap, isEnforced: false, checker, pids: () => ({ broker, ...pids }) }
  }
  const ways: [KafkaWay, KafkaWay, KafkaWay] = [
    way('direct', undefined, {}),
    way('envoy', PROXY_PORTS.envoy, { envoy }),
    way('kroxylicious', PROXY_PORTS.kroxylicious, { kroxylicious }),
  ]
  for (const { checker } of ways) await checker.ready()
  return ways
}

/** @param settings over what benches run with */
async function ourWay(stage: Stage, name = 'headgate', settings: Readonly<Record<string, unknown>> = {}): Promise<KafkaWay> {
  const { machine, client, address, broker } = await placeBroker(stage)
  machine.writeWorkloads()
  machine.setConfig({ ...DEFAULTS, envoy: { concurrency: 1 }, relay: { workers: 1 }, ...settings })
  const headgate = stage.headgateOn(machine)
  headgate.start()
  await headgate.wait()
  const kafka = [
    { role: 'consume', topic: READ_TOPIC },
    { role: 'produce', topic: ALLOWED_TOPIC },
    { role: 'produce', topic: READ_TOPIC },
  ]
  const toPorts = [{ ports: [{ port: '9092', protocol: 'TCP' }], rules: { kafka } }]
  const fromEndpoints = [{ matchLabels: { app: 'client' } }]
  await headgate.apply('broker.json', policyOf('broker', 'broker', { ingress: [{ fromEndpoints, toPorts }] }))
  const pids = (): Record<string, number> => {
    const processes = Object.fromEntries([...headgate.processes].map(([name, child]) => [name, child.pid ?? 0]))
    const workers = descendantsOf(processes['ext-host'] ?? 0)
    return {
      broker,
      ...processes,
      ...Object.fromEntries(workers.map((pid, index) => [`relay${index}`, pid])),
    }
  }
  const checker = new KafkaChecker(machine, client, address)
  await checker.ready()
  return { name, machine, client, bootstrap: address, isEnforced: true, checker, pids }
}

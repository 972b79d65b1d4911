/**
 * g5: queries a second through the DNS process on the real datapath, redirect and learning included, against a resolver of others that does
 * nothing but forward: CoreDNS, or AdGuard dnsproxy. Both in front of the same responder, alone on their core.
 */
import type { Machine } from '../test/support/machine.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { compile } from './harness/compile.ts'
import { machineConditions } from './harness/conditions.ts'
import { addDnsScene, type DnsScene, oracleOf, runClient, runDnsperf, startEnforcing, writeNames } from './harness/dns.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, pinThisProcess, processorUs } from './harness/processor.ts'
import { addResolver, buildResolver, describeResolver, type ResolverName, type ResolverProgram } from './harness/resolvers.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { compare, judge, median, quantile } from './harness/statistics.ts'

const TTL_SECONDS = 30
const NAMES = 10_000
const OUTSTANDING = 100
const SOCKETS = 16
/** More than any resolver here answers on one core. */
const FRESH_PER_SECOND_MAX = 100_000
const CHECKS_PER_SECOND = 50
const CHECKS_PER_PROBE = 2

/** What is asked for. The verdict is on the first. */
const SETS = ['known', 'unselected', 'fresh'] as const
type QuerySet = (typeof SETS)[number]

const PEERS = {
  'g5-coredns': { resolver: 'coredns', title: 'CoreDNS forward' },
  'g5-adguard': { resolver: 'dnsproxy', title: 'AdGuard dnsproxy' },
} as const satisfies Record<string, { resolver: ResolverName; title: string }>
type Name = keyof typeof PEERS

interface Way {
  readonly name: string
  readonly scene: DnsScene
  /** Whom the client asks. */
  readonly server: string
  readonly mode: 'enforced' | 'answers'
  readonly pids: Readonly<Record<string, number>>
}

interface Run {
  readonly perSecond: number
  readonly averageUs: number
  /** Of the checker, which asks beside dnsperf. */
  readonly checkedP99Us: number
  readonly cpuUsPerQuery: Readonly<Record<string, number>>
  /** What part of the time each core was busy: which of the two was the limit. */
  readonly busyShare: Readonly<Record<string, number>>
  readonly foreignShare: number
  readonly oracle: Oracle
}

export const g5Coredns: Bench = bench('g5-coredns')
export const g5Adguard: Bench = bench('g5-adguard')

function bench(name: Name): Bench {
  const { title } = PEERS[name]
  return { name, summary: `DNS queries a second, against ${title}`, run: (options) => onStage((stage) => run(name, stage, options)) }
}

async function run(name: Name, stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { pairs = 5, seconds = 4 } = options
  const peer = buildResolver(PEERS[name].resolver)
  pinThisProcess()
  say('setting up machines')
  const programs = { load: compile('dns-load'), tcp: compile('tcp-rr') }
  const reference = await referenceWay(stage, programs, peer)
  const ours = await ourWay(stage, programs)
  const direct: Way = { ...reference, name: 'direct', server: reference.scene.server, pids: {} }
  const files = { reference: filesOf(reference.scene.machine, seconds), ours: filesOf(ours.scene.machine, seconds) }
  let runIndex = 0
  const measure = (way: Way, set: QuerySet, length: number): Promise<Run> =>
    runOnce(way, (way === ours ? files.ours : files.reference)(set, ++runIndex), programs.load, length, runIndex)
  for (const set of SETS) for (const way of [reference, ours]) await measure(way, set, 1)

  const directRuns: Run[] = []
  const runs = new Map<string, Run[]>()
  for (let pair = 0; pair < pairs; pair++) {
    directRuns.push(await measure(direct, 'known', seconds))
    for (const set of SETS) {
      for (const way of [reference, ours]) {
        const result = await measure(way, set, seconds)
        const key = `${set}.${way.name}`
        runs.set(key, [...(runs.get(key) ?? []), result])
        say(`pair ${pair + 1}/${pairs} ${key}: ${result.perSecond}/s`)
      }
    }
  }

  const of = (set: QuerySet, way: Way): Run[] => runs.get(`${set}.${way.name}`) ?? []
  const sets = Object.fromEntries(
    SETS.map((set) => {
      const [a, b] = [of(set, reference), of(set, ours)]
      const comparison = compare(ratesOf(a), ratesOf(b))
      return [set, { ...comparison, cpuRatio: rounded(costOf(a, reference) / costOf(b, ours), 3), a: summaryOf(a), b: summaryOf(b) }]
    }),
  )
  const [known] = SETS
  const comparison = compare(ratesOf(of(known, reference)), ratesOf(of(known, ours)))
  const all = [...runs.values()].flat()
  const seen = await ours.scene.responder.seen()
  const oracle = addOracles(...[...all, ...directRuns].map((entry) => entry.oracle), deniedOracle(seen.denied))
  const target = targetOf<number>(name)
  return {
    bench: name,
    ...comparison,
    target,
    ...judge(
      comparison,
      target,
      oracle,
      all.map((entry) => entry.foreignShare),
    ),
    cpuRatio: rounded(costOf(of(known, reference), reference) / costOf(of(known, ours), ours), 3),
    oracle,
    conditions: {
      ...conditions,
      pairs,
      seconds,
      verdictOn: `known: ${NAMES} names again and again, every second one selected by toFQDNs`,
      unselected: `${NAMES} names that policy allows and toFQDNs does not select`,
      fresh: 'names that nobody asked for before, a tenth of them selected',
      answers: `one A record, TTL ${TTL_SECONDS}`,
      reference: describeResolver(peer),
      underTest: `all of Headgate, core ${CORE_UNDER_TEST}, the server trusted`,
      client: `dnsperf -T 1 -c ${SOCKETS} -q ${OUTSTANDING} and the responder, core ${CORE_OF_CLIENT}`,
    },
    direct: { perSecond: ratesOf(directRuns), ...summaryOf(directRuns) },
    sets,
  }
}

function ratesOf(runs: readonly Run[]): number[] {
  return runs.map(({ perSecond }) => perSecond)
}

/** Processor time of what is under test for one query, which includes the kernel's part of what it sends. */
function costOf(runs: readonly Run[], { pids }: Way): number {
  return median(runs.map(({ cpuUsPerQuery }) => Object.keys(pids).reduce((sum, name) => sum + (cpuUsPerQuery[name] ?? 0), 0)))
}

function summaryOf(runs: readonly Run[]): Record<string, unknown> {
  return {
    rates: ratesOf(runs),
    averageUs: median(runs.map(({ averageUs }) => averageUs)),
    checkedP99Us: median(runs.map(({ checkedP99Us }) => checkedP99Us)),
    foreignShare: rounded(median(runs.map((entry) => entry.foreignShare)), 2),
    spread: rounded((quantile(ratesOf(runs), 0.75) - quantile(ratesOf(runs), 0.25)) / median(ratesOf(runs)), 3),
    busyShare: mediansOf(runs.map((entry) => entry.busyShare)),
    cpuUsPerQuery: mediansOf(runs.map((entry) => entry.cpuUsPerQuery)),
  }
}

function mediansOf(entries: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const names = Object.keys(entries[0] ?? {})
  return Object.fromEntries(names.map((name) => [name, rounded(median(entries.map((entry) => entry[name] ?? 0)), 3)]))
}

function deniedOracle(denied: number): Oracle {
  return { checked: 1, wrong: denied, ...(denied > 0 ? { samples: [`${denied} denied questions reached the responder`] } : {}) }
}

/** @returns the file for a run; each run of fresh names has its own */
function filesOf(machine: Machine, seconds: number): (set: QuerySet, runIndex: number) => string {
  const count = FRESH_PER_SECOND_MAX * seconds
  const known = writeNames(machine, 'known', NAMES, (index) => (index % 2 === 0 ? `s${index}.sel.test` : `o${index}.other.test`))
  const unselected = writeNames(machine, 'unselected', NAMES, (index) => `o${index}.other.test`)
  return (set, runIndex) => {
    if (set !== 'fresh') return set === 'known' ? known : unselected
    const first = runIndex * count
    return writeNames(machine, 'fresh', count, (index) =>
      index % 10 === 0 ? `s${first + index}.sel.test` : `o${first + index}.other.test`,
    )
  }
}

async function referenceWay(stage: Stage, programs: { load: string; tcp: string }, peer: ResolverProgram): Promise<Way> {
  const { scene, address, pid } = await addResolver(stage.machine(), programs, TTL_SECONDS, peer)
  return { name: 'reference', scene, server: address, mode: 'answers', pids: { resolver: pid } }
}

async function ourWay(stage: Stage, programs: { load: string; tcp: string }): Promise<Way> {
  const machine = stage.machine()
  const scene = await addDnsScene(machine, programs, TTL_SECONDS)
  const pids = await startEnforcing(stage, scene)
  return { name: 'ours', scene, server: scene.server, mode: 'enforced', pids }
}

async function runOnce(way: Way, file: string, load: string, seconds: number, runIndex: number): Promise<Run> {
  const { machine, client, responder } = way.scene
  const pids = { ...way.pids, responder: responder.pid }
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  const seenBefore = await responder.seen()
  const before = Object.entries(pids).map(([name, pid]) => [name, pid, processorUs(pid)] as const)
  const coresBefore = cores.map(coreTimes)
  const startedMs = performance.now()
  const checks = {
    rate: CHECKS_PER_SECOND,
    count: CHECKS_PER_SECOND * seconds,
    first: runIndex * 1000,
    mode: way.mode,
    probeEvery: CHECKS_PER_PROBE,
  }
  const dnsperf = { seconds, outstanding: OUTSTANDING, sockets: SOCKETS }
  const [measured, checked] = await Promise.all([
    runDnsperf(machine, client, way.server, file, dnsperf).then((result) => ({
      result,
      // The checker waits a little longer for what must not be answered: the cores have nothing to do then.
      wallMs: performance.now() - startedMs,
      coresAfter: cores.map(coreTimes),
      after: before.map(([, pid]) => processorUs(pid)),
    })),
    runClient(machine, client, way.server, load, checks),
  ])
  const { result, wallMs, coresAfter, after } = measured
  const cpu: Record<string, number> = { dnsperf: result.processorUs / result.completed }
  for (const [index, [name, , us]] of before.entries()) cpu[name] = ((after[index] ?? us) - us) / result.completed
  const accountedUs = Object.values(cpu).reduce((sum, us) => sum + us, 0) * result.completed + checked.processorUs
  const busyShare: Record<string, number> = {}
  for (const [index, core] of cores.entries()) {
    const busyUs = (coresAfter[index]?.busyUs ?? 0) - (coresBefore[index]?.busyUs ?? 0)
    cpu[`core${core}`] = busyUs / result.completed
    busyShare[`core${core}`] = busyUs / (wallMs * 1000)
  }
  const questions = (await responder.seen()).questions - seenBefore.questions
  return {
    perSecond: result.perSecond,
    averageUs: result.averageUs,
    checkedP99Us: checked.queryUs.p99,
    cpuUsPerQuery: cpu,
    busyShare,
    foreignShare: foreignShare(coresBefore, coresAfter, accountedUs, wallMs),
    oracle: addOracles(oracleOf(checked), dnsperfOracle(way.name, result, questions)),
  }
}

/** Every answer is NOERROR, and the responder's: nobody answered from memory. */
function dnsperfOracle(name: string, { completed, wrong }: { completed: number; wrong: number }, questions: number): Oracle {
  const missing = Math.max(0, completed - questions)
  const samples = [
    ...(wrong > 0 ? [`${name}: ${wrong} of ${completed} queries were lost or not NOERROR`] : []),
    ...(missing > 0 ? [`${name}: ${missing} of ${completed} answers were not the responder's`] : []),
  ]
  return { checked: completed, wrong: wrong + missing, ...(samples.length > 0 ? { samples } : {}) }
}

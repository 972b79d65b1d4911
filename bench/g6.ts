/**
 * g6: a thousand names a second that nobody asked for before, and a connection to each the moment its answer arrives. The kernel has to
 * know the address by then: a first packet that is dropped would cost the client a second. Beside it, what no answer taught is tried.
 */
import { residentMb } from '../test/support/memory.ts'
import { addOracles, type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { compile } from './harness/compile.ts'
import { machineConditions } from './harness/conditions.ts'
import { addDnsScene, type ClientReport, type ClientRun, type DnsScene, oracleOf, runClient, startEnforcing } from './harness/dns.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, pinThisProcess, processorUs } from './harness/processor.ts'
import { addResolver, buildResolver, describeResolver } from './harness/resolvers.ts'
import { onStage, type Stage } from './harness/stage.ts'

const NAMES_PER_SECOND = 1000
const NAMES_PER_PROBE = 20
/** Ten thousand names are known at once, and the map's rows are used again and again. */
const TTL_SECONDS = 10
/** Lifetime, the time for which a closed connection is tracked, two looks at those, and as much again. */
const OLD_SECONDS = 60
/** The reference runs before and after, each with this part of the names, and no more than so many. */
const REFERENCE_SHARE = 0.2
const REFERENCE_COUNT_MAX = 20_000
const CORES = [CORE_UNDER_TEST, CORE_OF_CLIENT]

interface Targets {
  readonly failed: number
  readonly wronglyAllowed: number
  readonly addedP99Ms: number
}

interface Run {
  readonly report: ClientReport
  readonly cpuUsPerName: Readonly<Record<string, number>>
  readonly foreignShare: number
}

export const g6: Bench = {
  name: 'g6',
  summary: '1,000 fresh names a second, each connected to the moment its answer arrives',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const forwarder = buildResolver('coredns')
  const { count = options.long ? 1_000_000 : 100_000 } = options
  pinThisProcess()
  say('setting up machines')
  const programs = { load: compile('dns-load'), tcp: compile('tcp-rr') }
  const bare = await addDnsScene(stage.machine(), programs, TTL_SECONDS)
  const ours = await addDnsScene(stage.machine(), programs, TTL_SECONDS)
  const between = await addResolver(stage.machine(), programs, TTL_SECONDS, forwarder)
  const pids = await startEnforcing(stage, ours)
  const dnsPid = pids['dns-proxy'] ?? 0

  const forward = (first: number, length: number): Promise<Run> => {
    const client = { ...base, first, count: length, mode: 'answers' } as const
    return runOnce(between.scene, programs.load, client, { resolver: between.pid }, between.address)
  }
  const referenceCount = Math.min(REFERENCE_COUNT_MAX, Math.ceil(count * REFERENCE_SHARE))
  const base = { rate: NAMES_PER_SECOND, first: 0, probeEvery: NAMES_PER_PROBE, oldSeconds: OLD_SECONDS } as const
  const warmUp = { ...base, count: NAMES_PER_SECOND }
  await runOnce(bare, programs.load, { ...warmUp, mode: 'open' }, {})
  await runOnce(ours, programs.load, { ...warmUp, mode: 'enforced' }, pids)
  await forward(0, warmUp.count)
  const references = [await runOnce(bare, programs.load, { ...base, count: referenceCount, mode: 'open' }, {})]
  say(`reference: p99 ${references[0]?.report.queryUs.p99} us`)
  const forwarded = [await forward(0, referenceCount)]
  say(`forwarder: p99 ${forwarded[0]?.report.queryUs.p99} us`)
  const enforced = await runOnce(ours, programs.load, { ...base, first: warmUp.count, count, mode: 'enforced' }, pids)
  say(`enforced: ${JSON.stringify(enforced.report)}`)
  const rssMb = residentMb(dnsPid)
  references.push(await runOnce(bare, programs.load, { ...base, first: referenceCount, count: referenceCount, mode: 'open' }, {}))
  say(`reference: p99 ${references[1]?.report.queryUs.p99} us`)
  forwarded.push(await forward(referenceCount, referenceCount))
  say(`forwarder: p99 ${forwarded[1]?.report.queryUs.p99} us`)

  const { report } = enforced
  const seen = await ours.responder.seen()
  const target = targetOf<Targets>('g6')
  const a = references.map((entry) => entry.report.queryUs.p99)
  const addedP99Ms = (report.queryUs.p99 - Math.max(...a)) / 1000
  const { other, denied, untaught, old } = report.wrong
  const wronglyAllowed = other + untaught + old + denied + seen.denied
  const failed = report.failed + report.unanswered + report.wrongAnswers
  const foreign = rounded(enforced.foreignShare, 2)
  const complaints = [
    ...(failed > target.failed ? [`failed ${failed}`] : []),
    ...(wronglyAllowed > target.wronglyAllowed ? [`wronglyAllowed ${wronglyAllowed}`] : []),
    ...(addedP99Ms > target.addedP99Ms
      ? [`${rounded(addedP99Ms)} ms over ${target.addedP99Ms}, others took ${foreign} of the machine`]
      : []),
  ]
  const oracle = addOracles(...[...references, ...forwarded].map((entry) => oracleOf(entry.report)), oracleOf(report))
  if (oracle.wrong > 0 && complaints.length === 0) complaints.push(`oracle: ${oracle.wrong} of ${oracle.checked} were wrong`)
  return {
    bench: 'g6',
    failed,
    wronglyAllowed,
    addedP99Ms: rounded(addedP99Ms),
    a,
    b: [report.queryUs.p99],
    target,
    pass: complaints.length === 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle,
    conditions: {
      ...conditions,
      names: count,
      namesPerSecond: NAMES_PER_SECOND,
      ttlSeconds: TTL_SECONDS,
      unit: 'us (a, b: p99 from the query until its answer)',
      reference: 'the same load on a machine where Headgate does not run, before and after; the slower of the two counts',
      forwarder: `${describeResolver(forwarder)}, core ${CORE_UNDER_TEST}; before and after, queries alone`,
      client: `one socket a query, one connection a name, core ${CORE_OF_CLIENT}, with the responder and the TCP server`,
      underTest: `all of Headgate, core ${CORE_UNDER_TEST}, the server trusted`,
      foreignShare: foreign,
    },
    tried: report.tried,
    wrong: {
      unanswered: report.unanswered,
      wrongAnswers: report.wrongAnswers,
      failed: report.failed,
      ...report.wrong,
      deniedSeen: seen.denied,
    },
    p99OfSecondsUs: {
      reference: references.map((entry) => entry.report.p99OfSecondsUs),
      forwarder: forwarded.map((entry) => entry.report.p99OfSecondsUs),
      enforced: report.p99OfSecondsUs,
    },
    queryUs: {
      reference: references.map((entry) => entry.report.queryUs),
      forwarder: forwarded.map((entry) => entry.report.queryUs),
      enforced: report.queryUs,
    },
    forwarderCpuUsPerName: forwarded.map((entry) => rounded(entry.cpuUsPerName.resolver ?? 0, 3)),
    connectUs: { reference: references.map((entry) => entry.report.connectUs), enforced: report.connectUs },
    cpuUsPerName: Object.fromEntries(Object.entries(enforced.cpuUsPerName).map(([name, us]) => [name, rounded(us, 3)])),
    dnsProxyRssMb: rssMb,
  }
}

/** @param server whom the client asks */
async function runOnce(
  scene: DnsScene,
  load: string,
  client: ClientRun,
  pids: Readonly<Record<string, number>>,
  server = scene.server,
): Promise<Run> {
  const counted = { ...pids, responder: scene.responder.pid, tcpServer: scene.tcpServerPid }
  const before = Object.entries(counted).map(([name, pid]) => [name, pid, processorUs(pid)] as const)
  const coresBefore = CORES.map(coreTimes)
  const startedMs = performance.now()
  const report = await runClient(scene.machine, scene.client, server, load, client)
  const wallMs = performance.now() - startedMs
  const coresAfter = CORES.map(coreTimes)
  const cpu: Record<string, number> = { client: report.processorUs / client.count }
  for (const [name, pid, us] of before) cpu[name] = (processorUs(pid) - us) / client.count
  const accountedUs = Object.values(cpu).reduce((sum, us) => sum + us, 0) * client.count
  return { report, cpuUsPerName: cpu, foreignShare: foreignShare(coresBefore, coresAfter, accountedUs, wallMs) }
}

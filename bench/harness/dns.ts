/** What DNS benches run: a client, and a machine of the world that answers queries and is behind every address that it names. */
import type { ChildProcess } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { ip, type Machine, type Workload } from '../../test/support/machine.ts'
import { policyOf } from '../../test/support/running.ts'
import { type Oracle, say } from './bench.ts'
import { DEFAULTS } from './conditions.ts'
import { childTimesUs } from './http.ts'
import { onClientCore } from './processor.ts'
import type { Stage } from './stage.ts'

/** All that bench/src/dns-load.c has names for, and as much again that it has none for. */
const NAMED_PREFIX = '10.96.0.0/11'
const SERVER = '10.88.0.2'
const CONNECT_PORT = '80'
/** Of names that nobody asks for: a policy has more than the two patterns that are measured. */
const EXACT_NAMES = 100

/** What the responder has seen since it was started. */
export interface Seen {
  readonly questions: number
  /** For names of denied.test. */
  readonly denied: number
  readonly odd: number
}

export interface DnsScene {
  readonly machine: Machine
  readonly client: Workload
  readonly server: string
  readonly responder: Responder
  readonly tcpServerPid: number
}

export class Responder {
  readonly pid: number
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>

  private constructor(child: ChildProcess) {
    this.#child = child
    this.pid = child.pid ?? 0
    this.#lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  }

  static async start(machine: Machine, netns: string, program: string, ttlSeconds: number): Promise<Responder> {
    const command = onClientCore(program, 'responder', '53', String(ttlSeconds))
    const responder = new Responder(machine.start(netns, command, { stdin: true }))
    await responder.#line()
    return responder
  }

  async seen(): Promise<Seen> {
    this.#child.stdin?.write('\n')
    return JSON.parse(await this.#line()) as Seen
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('the responder ended')
    return value as string
  }
}

/** A client, and the world with the responder and a TCP server, both on the client's core. Headgate is not started. */
export async function addDnsScene(machine: Machine, programs: { load: string; tcp: string }, ttlSeconds: number): Promise<DnsScene> {
  const client = machine.addWorkload('client')
  const world = machine.addNeighbour('world', '10.88.0.1', SERVER)
  ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
  ip('-n', world.netns, 'route', 'add', 'local', NAMED_PREFIX, 'dev', 'lo')
  ip('-n', machine.hostNetns, 'route', 'add', NAMED_PREFIX, 'via', SERVER)
  machine.inHost('nsenter', `--net=/run/netns/${client.netns}`, 'sysctl', '-qw', 'net.ipv4.ip_local_port_range=10000 65535')
  const tcp = machine.start(world.netns, onClientCore(programs.tcp, 'server', CONNECT_PORT))
  await new Promise<void>((resolve, reject) => {
    tcp.stdout?.once('data', () => resolve())
    tcp.once('exit', () => reject(new Error('the TCP server ended')))
  })
  const responder = await Responder.start(machine, world.netns, programs.load, ttlSeconds)
  return { machine, client, server: SERVER, responder, tcpServerPid: tcp.pid ?? 0 }
}

/** Headgate on the scene's machine, with the policy in force. @returns its processes */
export async function startEnforcing(stage: Stage, { machine, server }: DnsScene): Promise<Readonly<Record<string, number>>> {
  machine.writeWorkloads()
  machine.setConfig({ ...DEFAULTS, dns: { trustedServers: [server] } })
  const headgate = stage.headgateOn(machine)
  headgate.start()
  await headgate.wait()
  await headgate.waitForEndpoint('client')
  await headgate.apply('client.json', dnsPolicy())
  const { warnings, refusedPolicies } = await headgate.status()
  if (refusedPolicies.length > 0) throw new Error(`refused: ${JSON.stringify(refusedPolicies[0]?.problems)}`)
  for (const warning of warnings) say(`status: ${warning}`)
  return Object.fromEntries([...headgate.processes].map(([name, { pid = 0 }]) => [name, pid]))
}

/** Queries for sel.test and other.test go, those of sel.test teach what may be connected to, everything else is denied. */
function dnsPolicy(): Record<string, unknown> {
  const names = Array.from({ length: EXACT_NAMES }, (_, index) => ({ matchName: `name-${index}.example.com` }))
  const dns = [{ matchPattern: '*.sel.test' }, { matchPattern: '*.other.test' }, ...names]
  return policyOf('client', 'client', {
    egress: [
      { toCIDR: [`${SERVER}/32`], toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }], rules: { dns } }] },
      { toFQDNs: [{ matchPattern: '*.sel.test' }, ...names], toPorts: [{ ports: [{ port: CONNECT_PORT, protocol: 'TCP' }] }] },
    ],
  })
}

export interface Latency {
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

/** What `dns-load client` reports. */
export interface ClientReport {
  readonly asked: number
  readonly answered: number
  readonly unanswered: number
  readonly wrongAnswers: number
  readonly connected: number
  readonly failed: number
  readonly noRoom: number
  readonly tried: Readonly<Record<'name' | 'other' | 'denied' | 'untaught' | 'old', number>>
  readonly wrong: Readonly<Record<'other' | 'denied' | 'untaught' | 'old', number>>
  readonly firstWrong: Readonly<Record<string, number>>
  /** The 99th percentile of each second's queries, of all these the median: what moments of somebody else's work cannot blur. */
  readonly p99OfSecondsUs: number
  readonly queryUs: Latency
  readonly connectUs: Latency
  readonly seconds: number
  readonly error: string
  readonly processorUs: number
}

export interface ClientRun {
  readonly rate: number
  readonly count: number
  /** Number of the first name. */
  readonly first: number
  /** enforced: what policy denies must be; open: nothing may be; answers: no connection is made. */
  readonly mode: 'enforced' | 'open' | 'answers'
  /** Names between two probes of what is denied. */
  readonly probeEvery: number
  /** After so many seconds without a question nobody may connect to a name's address any more. */
  readonly oldSeconds?: number
}

/** Runs the client of bench/src/dns-load.c to its end, on the client's core. */
export async function runClient(machine: Machine, from: Workload, server: string, program: string, run: ClientRun): Promise<ClientReport> {
  const numbers = [run.rate, run.count, run.first].map(String)
  const command = onClientCore(program, 'client', server, ...numbers, run.mode, String(run.probeEvery), String(run.oldSeconds ?? 0))
  const { code, stdout, stderr } = await machine.run(from.netns, command)
  if (code !== 0) throw new Error(`the client failed: ${stderr}`)
  return JSON.parse(stdout) as ClientReport
}

/** Everything that a client may have to complain of. */
export function oracleOf(report: ClientReport): Oracle {
  const { other, denied, untaught, old } = report.wrong
  const wrong = report.unanswered + report.wrongAnswers + report.failed + report.noRoom + other + denied + untaught + old
  return {
    checked: report.asked + report.tried.untaught + report.tried.old,
    wrong,
    ...(wrong > 0 ? { samples: [JSON.stringify(report)] } : {}),
  }
}

export interface DnsperfResult {
  readonly completed: number
  readonly perSecond: number
  readonly averageUs: number
  /** Queries without an answer, and answers other than NOERROR. */
  readonly wrong: number
  /** Processor time of dnsperf itself. */
  readonly processorUs: number
}

export interface DnsperfOptions {
  readonly seconds: number
  /** Queries on their way at once. */
  readonly outstanding: number
  /** Sockets that they come from. */
  readonly sockets: number
}

/** One run of dnsperf on the client's core. */
export async function runDnsperf(
  machine: Machine,
  from: Workload,
  server: string,
  file: string,
  options: DnsperfOptions,
): Promise<DnsperfResult> {
  // The shell's `times` tells what its children used: dnsperf is gone when it could be asked.
  const script = 'dnsperf "$@"; times'
  const { seconds, outstanding, sockets } = options
  const args = ['-s', server, '-d', file, '-l', String(seconds), '-q', String(outstanding), '-c', String(sockets), '-T', '1']
  const { stdout, stderr } = await machine.run(from.netns, onClientCore('sh', '-c', script, 'sh', ...args))
  const number = (pattern: RegExp): number => Number(pattern.exec(stdout)?.[1] ?? Number.NaN)
  const completed = number(/Queries completed:\s+(\d+)/)
  if (!(completed > 0)) throw new Error(`dnsperf got no answer: ${stdout}${stderr}`)
  const good = Number(/Response codes:.*?NOERROR (\d+)/.exec(stdout)?.[1] ?? 0)
  return {
    completed,
    perSecond: Math.round(number(/Queries per second:\s+([\d.]+)/)),
    averageUs: Math.round(number(/Average Latency \(s\):\s+([\d.]+)/) * 1e6),
    wrong: number(/Queries lost:\s+(\d+)/) + completed - good,
    processorUs: childTimesUs(stdout),
  }
}

/** A file of questions for dnsperf, which starts again at its end. @returns its path */
export function writeNames(machine: Machine, file: string, count: number, nameAt: (index: number) => string): string {
  const path = join(machine.folder, file)
  writeFileSync(path, Array.from({ length: count }, (_, index) => `${nameAt(index)} A\n`).join(''))
  return path
}

/**
 * A machine of the test's own: a network namespace that stands for the host, workloads joined to it by veth pairs, and Headgate's
 * processes inside it. Nothing of the real machine's network is touched, and everything goes when the test ends, failed or not.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
/** npm puts the commands of packages first on the path, and one of them is called nft. */
const ENVIRONMENT = { ...process.env, PATH: `/usr/sbin:/usr/bin:/sbin:/bin:${process.env.PATH ?? ''}` }

export interface Workload {
  readonly name: string
  readonly netns: string
  readonly address: string
  /** Host-side device. */
  readonly device: string
}

export interface CommandResult {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export class Machine {
  /** Unique on this machine, at most 10 characters. */
  readonly id: string
  readonly folder: string
  readonly hostNetns: string
  readonly workloads = new Map<string, Workload>()
  readonly #children = new Set<ChildProcess>()
  readonly #netns: string[] = []
  readonly #rpFilter: string
  #nextAddress = 2
  #hasBridge = false

  constructor() {
    this.id = `hgt${randomBytes(3).toString('hex')}`
    this.folder = mkdtempSync(join(tmpdir(), `${this.id}-`))
    this.hostNetns = `${this.id}-host`
    this.#addNetns(this.hostNetns)
    this.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=1')
    this.#rpFilter = this.inHost('cat', '/proc/sys/net/ipv4/conf/all/rp_filter')
    for (const name of ['run', 'state', 'policies', 'parsers']) mkdirSync(join(this.folder, name))
    writeFileSync(this.workloadsFile, 'apiVersion: headgate.io/v1\n')
    writeFileSync(this.configFile, JSON.stringify(this.config()))
  }

  /** The host's rp_filter before anything ran. */
  get initialRpFilter(): string {
    return this.#rpFilter
  }

  get workloadsFile(): string {
    return join(this.folder, 'workloads.yaml')
  }

  get policiesFolder(): string {
    return join(this.folder, 'policies')
  }

  get parsersFolder(): string {
    return join(this.folder, 'parsers')
  }

  get configFile(): string {
    return join(this.folder, 'config.yaml')
  }

  /** The configuration that the processes get; settings of a test's own go over it. */
  config(extra: Record<string, unknown> = {}): Record<string, unknown> {
    return {
      apiVersion: 'headgate.io/v1',
      instance: this.id,
      nodeName: 'test-node',
      paths: {
        run: join(this.folder, 'run'),
        state: join(this.folder, 'state'),
        bpf: `/sys/fs/bpf/${this.id}`,
        policies: this.policiesFolder,
        workloads: this.workloadsFile,
        secrets: join(this.folder, 'secrets'),
        parsers: this.parsersFolder,
      },
      datapath: { conntrackEntriesMax: 65536, ipcacheEntriesMax: 16384 },
      flows: { mode: 'all' },
      ...extra,
    }
  }

  setConfig(extra: Record<string, unknown>): void {
    writeFileSync(this.configFile, JSON.stringify(this.config(extra)))
  }

  /** A workload with its own address, routed by a host route to its device. */
  addWorkload(name: string, address = `10.70.0.${this.#nextAddress++}`): Workload {
    const netns = `${this.id}-${name}`
    const device = `v${name}`
    this.#addNetns(netns)
    const host = ['-n', this.hostNetns]
    const inside = ['-n', netns]
    ip(...host, 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
    ip(...host, 'link', 'set', device, 'up')
    ip(...inside, 'link', 'set', 'eth0', 'up')
    ip(...inside, 'addr', 'add', `${address}/32`, 'dev', 'eth0')
    ip(...inside, 'route', 'add', '169.254.1.1', 'dev', 'eth0')
    ip(...inside, 'route', 'add', 'default', 'via', '169.254.1.1', 'dev', 'eth0')
    const [link] = JSON.parse(ip(...host, '-j', 'link', 'show', device)) as { address: string }[]
    ip(...inside, 'neigh', 'replace', '169.254.1.1', 'lladdr', link?.address ?? '', 'dev', 'eth0')
    ip(...host, 'route', 'replace', `${address}/32`, 'dev', device)
    const workload = { name, netns, address, device }
    this.workloads.set(name, workload)
    return workload
  }

  /** A workload on a bridge of the host, as bridge CNIs have them: one subnet, neighbours by ARP, the bridge as gateway. */
  addBridgedWorkload(name: string, address = `10.72.0.${this.#nextAddress++}`): Workload {
    const host = ['-n', this.hostNetns]
    if (!this.#hasBridge) {
      ip(...host, 'link', 'add', 'br0', 'type', 'bridge')
      ip(...host, 'addr', 'add', '10.72.0.1/24', 'dev', 'br0')
      ip(...host, 'link', 'set', 'br0', 'up')
      this.#hasBridge = true
    }
    const netns = `${this.id}-${name}`
    const device = `v${name}`
    this.#addNetns(netns)
    ip(...host, 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
    ip(...host, 'link', 'set', device, 'master', 'br0', 'up')
    ip('-n', netns, 'link', 'set', 'eth0', 'up')
    ip('-n', netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
    ip('-n', netns, 'route', 'add', 'default', 'via', '10.72.0.1')
    const workload = { name, netns, address, device }
    this.workloads.set(name, workload)
    return workload
  }

  /** A machine of the world, one hop from the host: no workload, and Headgate does not know it. */
  addNeighbour(name: string, hostAddress: string, address: string): Workload {
    const netns = `${this.id}-${name}`
    const device = `n${name}`
    this.#addNetns(netns)
    ip('-n', this.hostNetns, 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
    ip('-n', this.hostNetns, 'link', 'set', device, 'up')
    ip('-n', this.hostNetns, 'addr', 'add', `${hostAddress}/24`, 'dev', device)
    ip('-n', netns, 'link', 'set', 'eth0', 'up')
    ip('-n', netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
    return { name, netns, address, device }
  }

  /** The workload's namespace goes, and its processes with it. */
  removeWorkload(name: string): void {
    const workload = this.workloads.get(name)
    if (workload === undefined) return
    this.workloads.delete(name)
    for (const pid of ip('netns', 'pids', workload.netns).split('\n').filter(Boolean)) kill(Number(pid))
    ip('-n', this.hostNetns, 'link', 'del', workload.device)
    ip('netns', 'del', workload.netns)
  }

  /** Puts all workloads into the file, with `app` and whatever labels are given. */
  writeWorkloads(labels: Record<string, Record<string, string>> = {}): void {
    const endpoints = [...this.workloads.values()].map(({ name, netns, address }) => ({
      name,
      namespace: 'default',
      labels: { app: name, ...labels[name] },
      netns,
      ipv4: [address],
    }))
    writeFileSync(this.workloadsFile, JSON.stringify({ apiVersion: 'headgate.io/v1', endpoints }))
  }

  /** Runs a command to its end in the host namespace. */
  inHost(...command: string[]): string {
    return execFileSync('nsenter', [`--net=/run/netns/${this.hostNetns}`, ...command], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: ENVIRONMENT,
    })
  }

  /** Starts a process in a namespace; it is ended with the machine. */
  start(
    netns: string,
    command: readonly string[],
    options: { readonly env?: Record<string, string>; readonly stdin?: boolean } = {},
  ): ChildProcess {
    const child = spawn('nsenter', [`--net=/run/netns/${netns}`, ...command], {
      stdio: [options.stdin === true ? 'pipe' : 'ignore', 'pipe', 'pipe'],
      env: { ...ENVIRONMENT, ...options.env },
    })
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  /** Runs a command to its end in a workload, without throwing. */
  run(netns: string, command: readonly string[]): Promise<CommandResult> {
    const child = this.start(netns, command)
    return resultOf(child)
  }

  /** One of Headgate's own processes. Its log is collected in `log`. */
  headgate(command: string, root = ROOT): ChildProcess & { log: string } {
    const child = this.start(this.hostNetns, [join(root, 'bin/headgate'), command, '--config', this.configFile])
    const collected = Object.assign(child, { log: '' })
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8')
      stream?.on('data', (text: string) => {
        collected.log += text
        if (process.env['HEADGATE_TEST_LOG'] === '1') process.stderr.write(text)
      })
    }
    return collected
  }

  /** The command line, to its end. */
  cli(...args: string[]): Promise<CommandResult> {
    return resultOf(this.start(this.hostNetns, [join(ROOT, 'bin/headgate'), ...args, '--config', this.configFile]))
  }

  async dispose(): Promise<void> {
    const exits = [...this.#children].map((child) => new Promise((resolve) => child.once('exit', resolve)))
    for (const child of this.#children) child.kill('SIGKILL')
    await Promise.all(exits)
    for (const pid of this.#recordedPids()) kill(pid)
    for (const name of [...this.#netns, `${this.id}-egress`, `${this.id}-ingress`]) {
      if (!existsSync(`/run/netns/${name}`)) continue
      for (const pid of execFileSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).split('\n').filter(Boolean)) kill(Number(pid))
      execFileSync('ip', ['netns', 'del', name])
    }
    rmSync(`/sys/fs/bpf/${this.id}`, { recursive: true, force: true })
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** Children of `headgate up` outlive it. */
  #recordedPids(): number[] {
    const folder = join(this.folder, 'run/locks')
    if (!existsSync(folder)) return []
    return readdirSync(folder).flatMap((name) => {
      const pid = Number.parseInt(execFileSync('cat', [join(folder, name)], { encoding: 'utf8' }), 10)
      return Number.isNaN(pid) ? [] : [pid]
    })
  }

  #addNetns(name: string): void {
    ip('netns', 'add', name)
    this.#netns.push(name)
    ip('-n', name, 'link', 'set', 'lo', 'up')
  }
}

export function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function resultOf(child: ChildProcess): Promise<CommandResult> {
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })))
}

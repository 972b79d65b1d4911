/**
 * The demo's stage: a network namespace that plays the machine, with one namespace a workload joined to it. Built with iproute2, as an
 * operator would; the real machine's network is not touched.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'

export interface StageWorkload {
  readonly name: string
  readonly netns: string
  readonly address: string
}

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

/** A part of the world: a machine one hop away that Headgate does not know. */
export interface StageWorld {
  readonly netns: string
  /** Of the demo's machine towards it. */
  readonly gateway: string
  readonly addresses: readonly string[]
}

export class Stage {
  readonly hostNetns: string
  readonly workloads: readonly StageWorkload[]
  readonly world: StageWorld
  readonly #children = new Set<ChildProcess>()

  constructor(hostNetns: string, workloads: readonly StageWorkload[], world: StageWorld) {
    this.hostNetns = hostNetns
    this.workloads = workloads
    this.world = world
  }

  /** @throws Error when a namespace of that name exists: an earlier demo was kept */
  build(): void {
    for (const name of this.#namespaces()) {
      if (existsSync(`/run/netns/${name}`)) throw new Error(`there is a network namespace ${name}: is a demo running? see --stop`)
    }
    this.#addNetns(this.hostNetns)
    execFileSync('nsenter', [`--net=/run/netns/${this.hostNetns}`, 'sysctl', '-qw', 'net.ipv4.ip_forward=1'])
    for (const { name, netns, address } of this.workloads) {
      this.#addNetns(netns)
      const device = `v-${name}`
      ip('-n', this.hostNetns, 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
      ip('-n', this.hostNetns, 'link', 'set', device, 'up')
      ip('-n', netns, 'link', 'set', 'eth0', 'up')
      ip('-n', netns, 'addr', 'add', `${address}/32`, 'dev', 'eth0')
      ip('-n', netns, 'route', 'add', '169.254.1.1', 'dev', 'eth0')
      ip('-n', netns, 'route', 'add', 'default', 'via', '169.254.1.1', 'dev', 'eth0')
      const [link] = JSON.parse(ip('-n', this.hostNetns, '-j', 'link', 'show', device)) as { address: string }[]
      ip('-n', netns, 'neigh', 'replace', '169.254.1.1', 'lladdr', link?.address ?? '', 'dev', 'eth0')
      ip('-n', this.hostNetns, 'route', 'replace', `${address}/32`, 'dev', device)
    }
    this.#buildWorld()
  }

  #buildWorld(): void {
    const { netns, gateway, addresses } = this.world
    this.#addNetns(netns)
    ip('-n', this.hostNetns, 'link', 'add', 'v-world', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
    ip('-n', this.hostNetns, 'addr', 'add', `${gateway}/24`, 'dev', 'v-world')
    ip('-n', this.hostNetns, 'link', 'set', 'v-world', 'up')
    for (const address of addresses) ip('-n', netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
    ip('-n', netns, 'link', 'set', 'eth0', 'up')
    ip('-n', netns, 'route', 'add', 'default', 'via', gateway)
  }

  /** The machine's last: its devices reach into all others. */
  #namespaces(): string[] {
    return [...this.workloads.map(({ netns }) => netns), this.world.netns, this.hostNetns]
  }

  /** Starts a process in a namespace. @param kept lives on after this process */
  start(netns: string, command: readonly string[], kept: boolean, stderr: 'ignore' | 'inherit' | number = 'ignore'): ChildProcess {
    const child = spawn('nsenter', [`--net=/run/netns/${netns}`, ...command], {
      stdio: ['ignore', kept ? 'ignore' : 'pipe', stderr],
      detached: kept,
    })
    if (kept) child.unref()
    else this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  /** Runs to its end. @returns what it printed */
  run(netns: string, command: readonly string[]): Promise<string> {
    const child = this.start(netns, command, false)
    let text = ''
    child.stdout?.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    return new Promise((resolve) => child.once('close', () => resolve(text.trim())))
  }

  /** Ends what was started and removes every namespace. */
  async tearDown(): Promise<void> {
    const exits = [...this.#children].map((child) => new Promise((resolve) => child.once('exit', resolve)))
    for (const child of this.#children) child.kill('SIGTERM')
    await Promise.all(exits)
    for (const name of this.#namespaces()) {
      if (!existsSync(`/run/netns/${name}`)) continue
      for (const pid of ip('netns', 'pids', name).split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL')
      ip('netns', 'del', name)
    }
  }

  #addNetns(name: string): void {
    ip('netns', 'add', name)
    ip('-n', name, 'link', 'set', 'lo', 'up')
  }
}

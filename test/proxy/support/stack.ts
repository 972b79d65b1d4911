/**
 * A proxy process, a real Envoy and a pretended agent, in network namespaces of the test's own. The test process moves into the egress
 * namespace, so that it can reach the listeners and Envoy can reach its servers. Everything made here is ended and removed at teardown.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { Direction, RulesetSchema, type Slot, SlotSchema } from '#api/gen/headgate/v1/control_pb.js'
import { type Config, configSchema } from '#config/schema.ts'
import { enterNetns, netnsPath } from '#sys/netns.ts'
import { FakeAgent } from './fake-agent.ts'

const ROOT = join(import.meta.dirname, '../../..')

/** Everything is sampled: the filter is there and lets all through. */
const EVERY_FLOW = { mode: 'sampled', sampleRate: 1 }

let count = 0

export interface StackOptions {
  readonly upstreamPort: number
  /** Settings on top of the defaults. */
  readonly config?: Record<string, unknown>
  /** The test serves Envoy itself. */
  readonly withoutProxy?: boolean
}

export class Stack {
  readonly folder: string
  readonly config: Config
  readonly agent: FakeAgent
  readonly egressNetns: string
  readonly ingressNetns: string
  readonly #options: StackOptions
  readonly #children = new Set<ChildProcess>()
  proxy: ChildProcess | undefined
  envoy: ChildProcess | undefined

  constructor(options: StackOptions) {
    count += 1
    this.#options = options
    this.folder = mkdtempSync(join(tmpdir(), 'hg-proxy-'))
    this.egressNetns = `hgp${process.pid}e${count}`
    this.ingressNetns = `hgp${process.pid}i${count}`
    const paths = { run: join(this.folder, 'run'), state: join(this.folder, 'state') }
    this.config = configSchema.parse({ envoy: { drainTimeSeconds: 1 }, flows: EVERY_FLOW, ...options.config, paths })
    this.agent = new FakeAgent(paths.run)
  }

  /** Namespaces, the pretended agent, the proxy and Envoy. */
  async start(): Promise<this> {
    for (const name of [this.egressNetns, this.ingressNetns]) {
      execFileSync('ip', ['netns', 'add', name])
      execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
    }
    enterNetns(netnsPath(this.egressNetns))
    await this.agent.start()
    const describe = (name: string) => ({ name, path: netnsPath(name) })
    const netns = { version: 1, egress: describe(this.egressNetns), ingress: describe(this.ingressNetns) }
    writeFileSync(join(this.config.paths.run, 'netns.json'), JSON.stringify(netns))
    if (!this.#options.withoutProxy) this.startProxy()
    this.startEnvoy()
    return this
  }

  startProxy(): ChildProcess {
    const { upstreamPort } = this.#options
    const resources = { upstream: { address: '127.0.0.1', port: upstreamPort } }
    this.proxy = this.#spawn('proxy', [JSON.stringify(this.config), JSON.stringify({ resources })])
    return this.proxy
  }

  startEnvoy(): ChildProcess {
    this.envoy = this.#spawn('envoy', [JSON.stringify(this.config)])
    return this.envoy
  }

  async kill(child: ChildProcess | undefined, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
    this.#children.delete(child)
  }

  log(name: 'proxy' | 'envoy'): string {
    return readFileSync(join(this.folder, `${name}.log`), 'utf8')
  }

  /** Envoy's lines in /proc/PID/status. */
  statusOfEnvoy(): string {
    return readFileSync(`/proc/${this.envoy?.pid}/status`, 'utf8')
  }

  /** Envoy's own view. */
  admin(path: string): string {
    return execFileSync('curl', ['-s', '--unix-socket', join(this.config.paths.run, 'envoy-admin.sock'), `http://admin${path}`], {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
  }

  async close(): Promise<void> {
    for (const child of [...this.#children]) await this.kill(child)
    this.agent.stop()
    for (const name of [this.egressNetns, this.ingressNetns]) {
      try {
        execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' })
      } catch {}
    }
    if (process.env.HEADGATE_TEST_KEEP === undefined) rmSync(this.folder, { recursive: true, force: true })
  }

  #spawn(name: 'proxy' | 'envoy', args: string[]): ChildProcess {
    const log = openSync(join(this.folder, `${name}.log`), 'a')
    const script = join(import.meta.dirname, `${name}-child.ts`)
    const child = spawn(process.execPath, ['--conditions=headgate-source', script, ...args], { cwd: ROOT, stdio: ['ignore', log, log] })
    this.#children.add(child)
    return child
  }
}

/** A slot of the egress direction. */
export function slotOf(id: number, ruleset: MessageInitShape<typeof RulesetSchema>, more: Partial<Omit<Slot, '$typeName'>> = {}): Slot {
  const port = 20_000 + id
  return create(SlotSchema, {
    id,
    generation: 1,
    direction: Direction.EGRESS,
    port,
    mark: (port * 65_536 + (1 << 4) + 1) >>> 0,
    upstreamMark: 2,
    ruleset: create(RulesetSchema, ruleset),
    ...more,
  })
}

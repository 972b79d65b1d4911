/** A real broker in a workload, and clients that are asked to do things: kafkajs, and the tools that come with Kafka. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { type CommandResult, type Machine, ROOT, type Workload } from './machine.ts'

const READY_MS = 30_000
const TOOL_MS = 30_000
const PORT = 9092
const CLUSTER_ID = 'MkU3OEVBNTcwNTJENDM2Qk'
/** For what runs for seconds: a JVM that does not take its time to compile. */
const SHORT_LIVED = ['-Xmx384m', '-XX:TieredStopAtLevel=1']

/** What the library made of it: `ok`, or the type of its error. */
export interface ClientAnswer {
  readonly result: string
  readonly message: string
  readonly values: readonly string[]
  readonly tookMs: number
}

export type KafkaCommand = 'create' | 'produce' | 'transact' | 'consume' | 'topics' | 'fill' | 'drain'

/** Kafka's jars in a JVM. */
function java(...options: readonly string[]): string[] {
  return ['java', '-XX:+UseSerialGC', ...options, '-cp', join(ROOT, '.cache/kafka/*')]
}

export interface KafkaOptions {
  /** Ports more to listen on, and the address that clients which come there are told to connect to: a proxy's. */
  readonly behindProxies?: Readonly<Record<string, { readonly port: number; readonly advertised: string }>>
  readonly settings?: Readonly<Record<string, string>>
  readonly jvm?: readonly string[]
}

export interface KafkaBroker {
  /** Host and port. */
  readonly address: string
  readonly process: ChildProcess
  /** Ends it as one does, and starts it again with what it has stored. Its clients have to come back. */
  restart(): Promise<void>
}

/** Starts it, with these topics of two partitions. */
export async function startKafka(
  machine: Machine,
  workload: Workload,
  topics: readonly string[],
  { behindProxies = {}, settings: own = {}, jvm = SHORT_LIVED }: KafkaOptions = {},
): Promise<KafkaBroker> {
  const folder = join(machine.folder, `kafka-${workload.name}`)
  mkdirSync(folder)
  const properties = join(folder, 'server.properties')
  const address = `${workload.address}:${PORT}`
  const proxies = Object.entries(behindProxies)
  const settings = {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': '1@127.0.0.1:9093',
    listeners: [
      `PLAINTEXT://${address}`,
      'CONTROLLER://127.0.0.1:9093',
      ...proxies.map(([name, { port }]) => `${name}://${workload.address}:${port}`),
    ].join(),
    'advertised.listeners': [`PLAINTEXT://${address}`, ...proxies.map(([name, { advertised }]) => `${name}://${advertised}`)].join(),
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'PLAINTEXT',
    'listener.security.protocol.map': ['CONTROLLER', 'PLAINTEXT', ...proxies.map(([name]) => name)]
      .map((name) => `${name}:PLAINTEXT`)
      .join(),
    'log.dirs': join(folder, 'data'),
    'num.partitions': '2',
    'num.network.threads': '2',
    'num.io.threads': '2',
    'offsets.topic.replication.factor': '1',
    'offsets.topic.num.partitions': '2',
    'transaction.state.log.replication.factor': '1',
    'transaction.state.log.min.isr': '1',
    'transaction.state.log.num.partitions': '2',
    'group.initial.rebalance.delay.ms': '0',
    'auto.create.topics.enable': 'false',
    'log.cleaner.enable': 'false',
    ...own,
  }
  writeFileSync(
    properties,
    Object.entries(settings)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  )
  const formatted = await machine.run(workload.netns, [
    ...java(...SHORT_LIVED),
    'kafka.tools.StorageTool',
    'format',
    '-t',
    CLUSTER_ID,
    '-c',
    properties,
  ])
  if (formatted.code !== 0) throw new Error(`no storage for Kafka: ${formatted.stderr}`)
  const command = [...java(...jvm), 'kafka.Kafka', properties]
  const process = machine.start(workload.netns, command)
  await until(process, () => askFrom(machine, workload, address, 'create', ...topics))
  let running = process
  const restart = async (): Promise<void> => {
    const exited = once(running, 'exit')
    running.kill('SIGTERM')
    await exited
    running = machine.start(workload.netns, command)
    await until(running, () => askFrom(machine, workload, address, 'topics'))
  }
  return { address, process, restart }
}

/** Resolves when the broker of this process does what it is asked. */
async function until(broker: ChildProcess, ask: () => Promise<ClientAnswer>): Promise<void> {
  let log = ''
  for (const stream of [broker.stdout, broker.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-8192)
    })
  }
  const deadline = performance.now() + READY_MS
  for (;;) {
    const { result, message } = await ask()
    if (result === 'ok') return
    if (broker.exitCode !== null || performance.now() > deadline) throw new Error(`Kafka does not start: ${message} ${log}`)
    await delay(200)
  }
}

async function askFrom(
  machine: Machine,
  workload: Workload,
  broker: string,
  ...question: Parameters<KafkaClient['ask']>
): Promise<ClientAnswer> {
  const client = new KafkaClient(machine, workload, broker)
  const answer = await client.ask(...question)
  await client.close()
  return answer
}

export const KAFKA_LIBRARIES = { kafkajs: ['kafka-client.mjs'], platformatic: ['kafka-platformatic.mjs'] } as const

/** A library in a workload, with connections that stay. */
export class KafkaClient {
  readonly #child: ReturnType<Machine['start']>
  readonly #lines: AsyncIterator<string>
  #complaints = ''

  /** @param prefix of its command @param library with options of its script */
  constructor(
    machine: Machine,
    workload: Workload,
    broker: string,
    prefix: readonly string[] = [],
    [script = '', ...options]: readonly string[] = KAFKA_LIBRARIES.kafkajs,
  ) {
    const command = [...prefix, join(ROOT, 'bin/node'), join(ROOT, 'test/support', script), broker, ...options]
    this.#child = machine.start(workload.netns, command, { stdin: true })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#complaints = (this.#complaints + text).slice(-2000)
    })
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  }

  async ask(command: KafkaCommand, ...values: readonly string[]): Promise<ClientAnswer> {
    this.#child.stdin?.write(`${JSON.stringify([command, ...values])}\n`)
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`the client ended: ${this.#complaints}`)
    return JSON.parse(value as string) as ClientAnswer
  }

  async close(): Promise<void> {
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.stdin?.end()
    await exited
  }
}

/** The command of one of Kafka's own tools, which ends after a while in any case. */
export function kafkaTool(tool: string, options: readonly string[], jvm: readonly string[] = SHORT_LIVED, timeoutMs = TOOL_MS): string[] {
  return ['timeout', String(timeoutMs / 1000), ...java(...jvm), `org.apache.kafka.tools.${tool}`, ...options]
}

/** One of Kafka's own tools, in a workload. @param input what it reads */
export function runKafkaTool(
  machine: Machine,
  workload: Workload,
  tool: string,
  options: readonly string[],
  input = '',
): Promise<CommandResult> {
  return machine.run(workload.netns, ['sh', '-c', 'printf "%s" "$0" | "$@"', input, ...kafkaTool(tool, options)])
}

/** A real broker in a workload, and clients that are asked to do things: kafkajs, and the tools that come with Kafka. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { type CommandResult, type Machine, ROOT, type Workload } from './machine.ts'

const READY_MS = 30_000
const TOOL_MS = 30_000
const PORT = 9092
const CLUSTER_ID = 'MkU3OEVBNTcwNTJENDM2Qk'
const JAVA = ['java', '-Xmx384m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', join(ROOT, '.cache/kafka/*')]

/** What kafkajs made of it: `ok`, or the type of its error. */
export interface ClientAnswer {
  readonly result: string
  readonly message: string
  readonly values: readonly string[]
}

/** Starts it, with these topics of two partitions. @returns its address, host and port */
export async function startKafka(machine: Machine, workload: Workload, ...topics: readonly string[]): Promise<string> {
  const folder = join(machine.folder, `kafka-${workload.name}`)
  mkdirSync(folder)
  const properties = join(folder, 'server.properties')
  const address = `${workload.address}:${PORT}`
  const settings = {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': '1@127.0.0.1:9093',
    listeners: `PLAINTEXT://${address},CONTROLLER://127.0.0.1:9093`,
    'advertised.listeners': `PLAINTEXT://${address}`,
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'PLAINTEXT',
    'listener.security.protocol.map': 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
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
  }
  writeFileSync(
    properties,
    Object.entries(settings)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  )
  const formatted = await machine.run(workload.netns, [...JAVA, 'kafka.tools.StorageTool', 'format', '-t', CLUSTER_ID, '-c', properties])
  if (formatted.code !== 0) throw new Error(`no storage for Kafka: ${formatted.stderr}`)
  const child = machine.start(workload.netns, [...JAVA, 'kafka.Kafka', properties])
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-8192)
    })
  }
  const admin = new KafkaClient(machine, workload, address)
  const deadline = performance.now() + READY_MS
  for (;;) {
    const { result, message } = await admin.ask('create', ...topics)
    if (result === 'ok') break
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`Kafka does not start: ${message} ${log}`)
    await delay(200)
  }
  await admin.close()
  return address
}

/** kafkajs in a workload, with connections that stay. */
export class KafkaClient {
  readonly #child: ReturnType<Machine['start']>
  readonly #lines: AsyncIterator<string>

  constructor(machine: Machine, workload: Workload, broker: string) {
    this.#child = machine.start(workload.netns, [join(ROOT, 'bin/node'), join(ROOT, 'test/support/kafka-client.mjs'), broker], {
      stdin: true,
    })
    this.#child.stderr?.resume()
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  }

  async ask(command: 'create' | 'produce' | 'consume' | 'topics', ...values: readonly string[]): Promise<ClientAnswer> {
    this.#child.stdin?.write(`${JSON.stringify([command, ...values])}\n`)
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('the client ended')
    return JSON.parse(value as string) as ClientAnswer
  }

  async close(): Promise<void> {
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.stdin?.end()
    await exited
  }
}

/** The command of one of Kafka's own tools, which ends after a while in any case. */
export function kafkaTool(tool: string, options: readonly string[]): string[] {
  return ['timeout', String(TOOL_MS / 1000), ...JAVA, `org.apache.kafka.tools.${tool}`, ...options]
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

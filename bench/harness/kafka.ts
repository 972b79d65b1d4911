/** Kafka's own load generators against a broker, and what it costs whoever stands between. */
import { setTimeout as delay } from 'node:timers/promises'
import { KafkaClient, kafkaTool } from '../../test/support/kafka.ts'
import type { Machine, Workload } from '../../test/support/machine.ts'
import type { Oracle } from './bench.ts'
import { childTimesUs } from './http.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, onClientCore, processorUs } from './processor.ts'

export const RECORD_BYTES = 1024
export const ALLOWED_TOPIC = 'orders'
export const DENIED_TOPIC = 'secret'
/** Produced to and read again and again; what is produced in runs goes to the other. */
export const READ_TOPIC = 'archive'
const MEGABYTE = 1 << 20
const RUN_MS_MAX = 120_000
const CHECK_EVERY_MS = 250
const READY_MS = 30_000
const TOPIC_DENIED = 'TOPIC_AUTHORIZATION_FAILED'
const CLIENT_JVM = ['-Xmx512m']

export type KafkaLoad = 'consume' | 'produce'

/** One way to a broker. */
export interface KafkaWay {
  readonly name: string
  readonly machine: Machine
  readonly client: Workload
  /** Host and port. */
  readonly bootstrap: string
  readonly isEnforced: boolean
  readonly checker: KafkaChecker
  /** Whose processor time counts, by name. */
  readonly pids: () => Readonly<Record<string, number>>
}

export interface KafkaRun {
  readonly mbPerSecond: number
  /** Processor time for a megabyte of records: of each process, of both cores with their softirqs. */
  readonly cpuUsPerMb: Readonly<Record<string, number>>
  /** Of everything but the client: broker, and whoever is between. */
  readonly servedUsPerMb: number
  readonly foreignShare: number
  readonly oracle: Oracle
}

/** Puts so many records into the topic that is read. */
export async function fillTopic(way: KafkaWay, records: number): Promise<void> {
  await runTool(way, 'ProducerPerformance', produceOptions(way, READ_TOPIC, records))
}

export async function runKafkaLoad(way: KafkaWay, load: KafkaLoad, records: number): Promise<KafkaRun> {
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  way.checker.begin(way.isEnforced ? TOPIC_DENIED : 'ok')
  const pids = way.pids()
  const before = new Map(Object.entries(pids).map(([name, pid]) => [name, processorUs(pid)]))
  const coresBefore = cores.map(coreTimes)
  const startedMs = performance.now()
  const { mbPerSecond, megabytes, clientUs } = load === 'consume' ? await consume(way, records) : await produce(way, records)
  const wallMs = performance.now() - startedMs
  const coresAfter = cores.map(coreTimes)
  const cpuUsPerMb: Record<string, number> = {}
  for (const [name, us] of before) cpuUsPerMb[name] = (processorUs(pids[name] as number) - us) / megabytes
  const servedUsPerMb = Object.values(cpuUsPerMb).reduce((sum, us) => sum + us, 0)
  for (const [index, core] of cores.entries()) {
    cpuUsPerMb[`core${core}`] = ((coresAfter[index]?.busyUs ?? 0) - (coresBefore[index]?.busyUs ?? 0)) / megabytes
  }
  const checked = await way.checker.end()
  const isComplete = Math.round((megabytes * MEGABYTE) / RECORD_BYTES) >= records
  return {
    mbPerSecond,
    cpuUsPerMb,
    servedUsPerMb,
    foreignShare: foreignShare(coresBefore, coresAfter, servedUsPerMb * megabytes + clientUs, wallMs),
    oracle: { ...checked, checked: checked.checked + 1, wrong: checked.wrong + (isComplete ? 0 : 1) },
  }
}

interface ToolResult {
  readonly mbPerSecond: number
  readonly megabytes: number
  readonly clientUs: number
}

/** The rate is that of fetching alone, without the time to join a group. */
async function consume(way: KafkaWay, records: number): Promise<ToolResult> {
  const { output, clientUs } = await runTool(way, 'ConsumerPerformance', [
    ...['--bootstrap-server', way.bootstrap, '--topic', READ_TOPIC, '--num-records', String(records)],
    ...['--group', `bench-${process.pid}-${performance.now()}`, '--timeout', '20000'],
  ])
  const [header = '', line = ''] = output.split('\n').filter((text) => text.includes(', '))
  const names = header.split(',').map((name) => name.trim())
  const values = line.split(',').map((value) => value.trim())
  const value = (name: string): number => Number(values[names.indexOf(name)])
  return { mbPerSecond: value('fetch.MB.sec'), megabytes: value('data.consumed.in.MB'), clientUs }
}

async function produce(way: KafkaWay, records: number): Promise<ToolResult> {
  const { output, clientUs } = await runTool(way, 'ProducerPerformance', produceOptions(way, ALLOWED_TOPIC, records))
  const [, sent, rate] = /^(\d+) records sent, .*\(([\d.]+) MB\/sec\).*99\.9th/m.exec(output) ?? []
  return { mbPerSecond: Number(rate), megabytes: (Number(sent) * RECORD_BYTES) / MEGABYTE, clientUs }
}

function produceOptions({ bootstrap }: KafkaWay, topic: string, records: number): string[] {
  return [
    ...['--bootstrap-server', bootstrap, '--topic', topic, '--num-records', String(records)],
    ...['--record-size', String(RECORD_BYTES), '--throughput', '-1'],
  ]
}

async function runTool(way: KafkaWay, tool: string, options: readonly string[]): Promise<{ output: string; clientUs: number }> {
  // The shell's `times` tells what its children used.
  const script = '"$@" || exit; times'
  const command = onClientCore('sh', '-c', script, 'sh', ...kafkaTool(tool, options, CLIENT_JVM, RUN_MS_MAX))
  const { code, stdout, stderr } = await way.machine.run(way.client.netns, command)
  if (code !== 0) throw new Error(`${way.name}: ${tool}: ${stdout.slice(-2000)} ${stderr.slice(-2000)}`)
  return { output: stdout, clientUs: childTimesUs(stdout) }
}

/** kafkajs beside the load, on connections that stay: what is allowed works, and what is denied is denied in Kafka's words. */
export class KafkaChecker {
  readonly #kafka: KafkaClient
  readonly #samples: string[] = []
  #checked = 0
  #stopped: AbortController | undefined
  #checks: Promise<void> | undefined

  /** On the core of the client, like what it runs beside. */
  constructor(machine: Machine, client: Workload, bootstrap: string) {
    this.#kafka = new KafkaClient(machine, client, bootstrap, onClientCore())
  }

  /** Resolves when the broker answers. */
  async ready(): Promise<void> {
    const deadline = performance.now() + READY_MS
    for (;;) {
      const { result, message } = await this.#kafka.ask('produce', ALLOWED_TOPIC)
      if (result === 'ok') return
      if (performance.now() > deadline) throw new Error(`the broker does not answer: ${message}`)
      await delay(200)
    }
  }

  /** @param expected of the denied topic */
  begin(expected: string): void {
    const stopped = new AbortController()
    this.#stopped = stopped
    this.#checks = (async () => {
      while (!stopped.signal.aborted) {
        await this.#expect(ALLOWED_TOPIC, 'ok')
        await this.#expect(DENIED_TOPIC, expected)
        await delay(CHECK_EVERY_MS, undefined, { signal: stopped.signal }).catch(() => {})
      }
    })()
    // Told by end(), when what runs beside it is done.
    this.#checks.catch(() => {})
  }

  async end(): Promise<Oracle> {
    this.#stopped?.abort()
    await this.#checks
    const oracle = { checked: this.#checked, wrong: this.#samples.length, samples: this.#samples.splice(0) }
    this.#checked = 0
    return oracle
  }

  async #expect(topic: string, expected: string): Promise<void> {
    const { result, message } = await this.#kafka.ask('produce', topic)
    this.#checked++
    if (result !== expected) this.#samples.push(`produce ${topic}: ${result} ${message}`)
  }
}

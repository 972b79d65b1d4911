/** A broker and who talks to it through Headgate, for tests that share them: starting them takes longer than most tests. */
import { type KafkaBroker, type KafkaOptions, kafkaTool, startKafka } from './kafka.ts'
import { Machine, type Workload } from './machine.ts'
import { policyOf, Running } from './running.ts'

const WAIT_MS = 20_000

export interface KafkaScene {
  readonly machine: Machine
  readonly headgate: Running
  /** Where clients are. */
  readonly shop: Workload
  /** Where the broker is, to which nobody is between. */
  readonly server: Workload
  readonly broker: KafkaBroker
  dispose(): Promise<void>
}

/** Requests of shop to the broker, by rules. */
export function kafkaPolicy(...kafka: readonly Record<string, string>[]): Record<string, unknown> {
  const toPorts = [{ ports: [{ port: '9092', protocol: 'TCP' }], rules: { kafka } }]
  return policyOf('broker', 'broker', { ingress: [{ fromEndpoints: [{ matchLabels: { app: 'shop' } }], toPorts }] })
}

/** @param config settings of Headgate's own */
export async function startKafkaScene(
  topics: readonly string[],
  config: Record<string, unknown>,
  options: KafkaOptions = {},
): Promise<KafkaScene> {
  const machine = new Machine()
  const headgate = new Running(machine)
  const dispose = async (): Promise<void> => {
    headgate.close()
    await machine.dispose()
  }
  try {
    const shop = machine.addWorkload('shop')
    const server = machine.addWorkload('broker')
    machine.writeWorkloads()
    machine.setConfig({ flows: { mode: 'all' }, ...config })
    headgate.start()
    const broker = await startKafka(machine, server, topics, options)
    await headgate.wait()
    return { machine, headgate, shop, server, broker, dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

/** One of Kafka's own tools that runs, and what it has said. */
export class RunningTool {
  said = ''
  readonly #exited: Promise<void>
  readonly #process: ReturnType<Machine['start']>
  readonly #waiting = new Set<() => void>()

  constructor({ machine, shop }: Pick<KafkaScene, 'machine' | 'shop'>, tool: string, options: readonly string[]) {
    this.#process = machine.start(shop.netns, kafkaTool(tool, options))
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.said += text
        for (const look of this.#waiting) look()
      })
    }
    this.#exited = new Promise((resolve) => {
      this.#process.once('close', () => {
        for (const look of this.#waiting) look()
        resolve()
      })
    })
  }

  /** Resolves with what was said when it is as wanted. @throws Error when that does not come */
  async until(isWanted: (said: string) => boolean, timeoutMs = WAIT_MS): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const look = (): void => {
      if (isWanted(this.said)) resolve()
      else if (this.#process.exitCode !== null) reject(new Error(`it ended, having said: ${this.said}`))
    }
    const timer = setTimeout(() => reject(new Error(`it does not say that, but: ${this.said}`)), timeoutMs)
    this.#waiting.add(look)
    look()
    try {
      await promise
    } finally {
      clearTimeout(timer)
      this.#waiting.delete(look)
    }
    return this.said
  }

  /** Ends it as one does, where it has not ended. */
  async end(): Promise<void> {
    this.#process.kill('SIGTERM')
    await this.#exited
  }
}

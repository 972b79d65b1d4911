/** The extension host is replaced, or killed, while clients come and go: its workers serve until the next one's do. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { KafkaClient } from '../support/kafka.ts'
import { type KafkaScene, kafkaPolicy, startKafkaScene } from '../support/kafka-scene.ts'
import { connectRaw } from '../support/raw-tcp.ts'

const TRANSPORTS = ['relay', 'ext-proc'] as const
const WORKERS = [0, 1]
const CLIENTS = 4
const REPLACED_MS_MAX = 15_000
const HANGS_MS_MAX = 25_000
const ANSWER_MS_MAX = 5000
/** ApiVersions of version 0, with correlation id 7 and no client id. */
const QUESTION = Buffer.from('0000000a001200000000' + '0007' + 'ffff', 'hex')
const QUESTION_ID = 7

for (const l7Transport of TRANSPORTS) {
  test.serial(`connections come and go while the extension host is replaced, and while it is killed (${l7Transport})`, async (t) => {
    t.timeout(180_000)
    const scene = await startKafkaScene(['orders', 'secret'], { relay: { workers: WORKERS.length, drainSeconds: 60 }, l7Transport })
    try {
      const { machine, headgate, shop, broker } = scene
      await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }))
      const stays = new KafkaClient(machine, shop, broker.address)
      t.is((await stays.ask('produce', 'orders')).result, 'ok')
      const load = new Load(scene)
      const first = WORKERS.map((worker) => workerPid(scene, worker))

      headgate.processes.get('ext-host')!.kill('SIGUSR2')
      await once(headgate.processes.get('ext-host')!, 'exit')
      await delay(1000)
      headgate.start('ext-host')
      await replaced(scene, 0, first[0]!)
      t.is(workerPid(scene, 1), first[1]!, 'one by one')
      const second = [workerPid(scene, 0), await replaced(scene, 1, first[1]!)]
      t.is((await stays.ask('produce', 'orders')).result, 'ok', 'on the connections that it had')

      await headgate.kill('ext-host')
      await delay(1000)
      headgate.start('ext-host')
      const third = await Promise.all(WORKERS.map((worker) => replaced(scene, worker, second[worker]!)))
      t.is((await stays.ask('produce', 'orders')).result, 'ok')
      t.is((await stays.ask('produce', 'secret')).message.includes('authorized'), true)
      await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }, { role: 'produce', topic: 'secret' }))
      t.is(
        (await stays.ask('produce', 'secret')).result,
        'ok',
        'workers that are replaced hear of rules for as long as they have connections',
      )

      if (process.env['HEADGATE_TEST_LONG'] === '1') {
        await load.pause()
        process.kill(third[0]!, 'SIGSTOP')
        const fourth = await replaced(scene, 0, third[0]!, HANGS_MS_MAX)
        // One that hangs and has lost who would have ended it.
        process.kill(fourth, 'SIGSTOP')
        await headgate.kill('ext-host')
        headgate.start('ext-host')
        await replaced(scene, 0, fourth)
        await delay(2000)
        load.goOn()
      }
      t.deepEqual(load.failures, [])
      const last = workerPid(scene, 0)
      process.kill(last, 'SIGKILL')
      await replaced(scene, 0, last)
      await delay(2000)
      const answers = await load.end()
      const { failures } = load
      t.log(`${failures.length} of ${answers} connections failed when a worker was killed`)
      // Those that it had. Network ext_proc has no second try: those that met its socket before Envoy saw that nobody is there.
      t.true(failures.length <= CLIENTS * (l7Transport === 'relay' ? 1 : 2), failures.join('\n'))
      t.true(answers > 200, `${answers} connections`)
      await stays.close()
    } finally {
      await scene.dispose()
    }
  })
}

function workerPid({ machine }: KafkaScene, worker: number): number {
  return Number(readFileSync(join(machine.folder, `run/relay/${worker}.lock`), 'utf8'))
}

/** Resolves when another has the number. @returns its pid */
async function replaced(scene: KafkaScene, worker: number, pid: number, timeoutMs = REPLACED_MS_MAX): Promise<number> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const now = workerPid(scene, worker)
    if (now > 0 && now !== pid) return now
    if (performance.now() > deadline) throw new Error(`worker ${worker} is still process ${pid}`)
    await delay(10)
  }
}

/** Clients that connect, ask one thing, and go, again and again. */
class Load {
  #answers = 0
  #asking = 0
  #isPaused = false
  readonly failures: string[] = []
  readonly #clients: Promise<void>[]
  readonly #scene: KafkaScene
  #isEnded = false

  constructor(scene: KafkaScene) {
    this.#scene = scene
    this.#clients = Array.from({ length: CLIENTS }, () => this.#come())
  }

  /** Resolves when nobody asks any more. */
  async pause(): Promise<void> {
    this.#isPaused = true
    while (this.#asking > 0) await delay(5)
  }

  goOn(): void {
    this.#isPaused = false
  }

  async end(): Promise<number> {
    this.#isEnded = true
    await Promise.all(this.#clients)
    return this.#answers
  }

  async #come(): Promise<void> {
    while (!this.#isEnded) {
      if (!this.#isPaused) {
        this.#asking++
        await this.#ask()
        this.#asking--
      }
      await delay(10)
    }
  }

  async #ask(): Promise<void> {
    const [host = '', port] = this.#scene.broker.address.split(':')
    const socket = await connectRaw(this.#scene.shop, host, Number(port))
    socket.write(QUESTION)
    const answer = await answerOf(socket)
    if (answer === QUESTION_ID) this.#answers++
    else this.failures.push(`after ${this.#answers} at ${new Date().toISOString()}: ${answer}`)
    socket.destroy()
  }
}

/** @returns its correlation id, or what came instead */
async function answerOf(socket: Socket): Promise<number | string> {
  const came = once(socket, 'data').then(([bytes]) => (bytes as Buffer).readInt32BE(4), String)
  const ended = once(socket, 'end').then(() => 'ended', String)
  return await Promise.race([came, ended, delay(ANSWER_MS_MAX, 'nothing came', { ref: false })])
}

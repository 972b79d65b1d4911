/**
 * g16: everything that runs is killed again and again, at random moments, under a load that checks each answer, while policy changes.
 * What is killed is started again by `headgate up`; `up` itself by this bench.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type LoadResult, startLoad } from '../test/support/load.ts'
import type { Machine, Workload } from '../test/support/machine.ts'
import { createRandom } from '../test/support/random.ts'
import { get, policyOf, type Running, rule, serve } from '../test/support/running.ts'
import { Supervised } from '../test/support/supervised.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { monotonicMs, Prober } from './harness/prober.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { median } from './harness/statistics.ts'

const VICTIMS = ['agent', 'proxy', 'up'] as const
type Victim = (typeof VICTIMS)[number]
const REQUESTS_PER_SECOND = 200
/** Longer than it takes until `up` restarts a dead child at once again, so that its patience is not what is measured. */
const PAUSE_MS_MIN = 300
const PAUSE_MS_MAX = 3000
const ENVOY_PAUSE_MS = 3000
const APPLIED_WITHIN_MS = 15_000

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly supervised: Supervised
  readonly client: Workload
  readonly other: Workload
  readonly url: string
  /** What policy says now, apart from what it always says. */
  readonly state: {
    /** Whether `other` may ask for /allowed. */
    otherIsAllowed: boolean
    /** Of the newest path that the client may ask for too. */
    extra: number
  }
}

interface Change {
  readonly victim: Victim
  readonly appliedMs: number
  readonly applied: boolean
}

export const g16: Bench = {
  name: 'g16',
  summary: 'kill -9 of agent, proxy and up, ten times each, and of Envoy, under a load that checks every answer',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, options: Options): Promise<Result> {
  const conditions = machineConditions()
  const { count = options.long ? 20 : 10, seed = Date.now() % 2 ** 31 } = options
  const random = createRandom(seed)
  say(`seed ${seed}`)
  const scene = await createScene(stage)

  const changes: Change[] = []
  const byVictim: Record<string, LoadResult> = {}
  for (const victim of VICTIMS) {
    const load = await startLoad(scene.machine, scene.client, scene.url, 3600, REQUESTS_PER_SECOND)
    for (let time = 0; time < count; time++) {
      await delay(PAUSE_MS_MIN + random() * (PAUSE_MS_MAX - PAUSE_MS_MIN))
      const change = await killAndChange(scene, victim, random)
      changes.push(change)
      say(`${victim} ${time + 1}/${count}: change in force after ${Math.round(change.appliedMs)} ms${change.applied ? '' : ' NOT APPLIED'}`)
    }
    await delay(1500)
    load.stop()
    const result = await load.result
    byVictim[victim] = result
    say(`${victim}: ${JSON.stringify(result)}`)
  }
  const envoy = await killEnvoy(scene, options.long ? 10 : 5, random)

  const sum = (name: 'sent' | 'failed' | 'wronglyAllowed' | 'wronglyDenied' | 'allowed' | 'denied'): number =>
    Object.values(byVictim).reduce((total, result) => total + result[name], 0)
  const failed = sum('failed')
  const wronglyAllowed = sum('wronglyAllowed') + envoy.wronglyAllowed
  const wronglyDenied = sum('wronglyDenied')
  const changesNotApplied = changes.filter(({ applied }) => !applied).length
  const target = targetOf<{ readonly envoyBackMs: number }>('g16')
  const wrongs = { failed, wronglyAllowed, wronglyDenied, changesNotApplied }
  const complaints = Object.entries(wrongs).flatMap(([name, value]) => (value > 0 ? [`${name} ${value}`] : []))
  const envoyBackMs = Math.max(...envoy.backMs)
  if (envoyBackMs >= target.envoyBackMs) complaints.push(`Envoy back after ${rounded(envoyBackMs)} ms`)
  const checked = sum('sent') + envoy.asked
  return {
    bench: 'g16',
    ...wrongs,
    envoyBackMs: rounded(envoyBackMs),
    target,
    pass: complaints.length === 0 && sum('allowed') > 0 && sum('denied') > 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: {
      checked,
      wrong: failed + wronglyAllowed + wronglyDenied,
      samples: Object.values(byVictim)
        .flatMap(({ samples }) => samples)
        .slice(0, 20),
    },
    conditions: {
      ...conditions,
      seed,
      killsEach: count,
      load: `${REQUESTS_PER_SECOND}/s, a quarter denied, a fifth on new connections, every body checked, two hops`,
      pinned: 'nothing: all cores are for everybody',
    },
    restarts: Object.fromEntries(
      VICTIMS.map((victim) => {
        const times = changes.filter((change) => change.victim === victim).map(({ appliedMs }) => appliedMs)
        const { samples, ...counts } = byVictim[victim] as LoadResult
        return [victim, { ...counts, changeAppliedMs: { median: rounded(median(times)), max: rounded(Math.max(...times)) } }]
      }),
    ),
    envoy: { ...envoy, backMs: envoy.backMs.map((value) => rounded(value)) },
  }
}

async function createScene(stage: Stage): Promise<Scene> {
  const machine = stage.machine()
  const headgate = stage.headgateOn(machine)
  const supervised = new Supervised(machine)
  const client = machine.addWorkload('client')
  const other = machine.addWorkload('other')
  const server = machine.addWorkload('server')
  machine.writeWorkloads()
  machine.setConfig(DEFAULTS)
  await serve(machine, server, 80)
  supervised.start()
  await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])))
  await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])))
  const url = `http://${server.address}`
  const first = await get(machine, client, `${url}/allowed`)
  if (first.status !== 200) throw new Error(`the scene does not work: ${first.status} ${first.body}\n${supervised.log}`)
  return { machine, headgate, supervised, client, other, url, state: { otherIsAllowed: false, extra: 0 } }
}

/**
 * Kills, and changes policy at a random moment around it: a right that another workload gets or loses, and one more path for the client
 * under load. Both must be in force afterwards.
 */
async function killAndChange(scene: Scene, victim: Victim, random: () => number): Promise<Change> {
  const { headgate, supervised, machine, client, other, url, state } = scene
  const isBefore = random() < 0.5
  const gapMs = random() * 100
  const change = (): void => {
    state.otherIsAllowed = !state.otherIsAllowed
    state.extra++
    const path = state.otherIsAllowed ? '/allowed.*' : '/nothing'
    headgate.write('other.json', JSON.stringify(policyOf('other', 'server', rule('ingress', 'other', 80, [{ path }]))))
    const extra = policyOf(`extra-${state.extra}`, 'server', rule('ingress', 'client', 80, [{ path: `/extra-${state.extra}` }]))
    headgate.write(`extra-${state.extra}.json`, JSON.stringify(extra))
  }
  const kill = async (): Promise<void> => {
    if (victim !== 'up') await supervised.kill(victim)
    else {
      await supervised.killUp()
      await delay(random() * 500)
      supervised.start()
    }
  }
  if (isBefore) {
    change()
    await delay(gapMs)
  }
  const startedMs = performance.now()
  const killed = kill()
  if (!isBefore) {
    await delay(gapMs)
    change()
  }
  await killed
  const isInForce = async (): Promise<boolean> => {
    const [ofOther, ofClient] = await Promise.all([
      get(machine, other, `${url}/allowed`, '-m', '1'),
      get(machine, client, `${url}/extra-${state.extra}`, '-m', '1'),
    ])
    return ofOther.status === (state.otherIsAllowed ? 200 : 403) && ofClient.status === 200
  }
  let applied = await isInForce()
  while (!applied && performance.now() - startedMs < APPLIED_WITHIN_MS) applied = await isInForce()
  return { victim, appliedMs: performance.now() - startedMs, applied }
}

interface EnvoyDeaths {
  /** From each kill until the first question that was answered again, asked on a connection made after it. */
  readonly backMs: readonly number[]
  readonly asked: number
  /** Allowed questions without an answer while Envoy was dead: not failures of the run. */
  readonly unansweredWhileDead: number
  readonly wronglyAllowed: number
}

async function killEnvoy(scene: Scene, times: number, random: () => number): Promise<EnvoyDeaths> {
  const { machine, supervised, client, url } = scene
  const options = { everyMs: 10, timeoutMs: 500 }
  const allowed = new Prober(machine, client, `${url}/allowed`, options)
  const denied = new Prober(machine, client, `${url}/denied`, options)
  await Promise.all([allowed.saw(200, 0, 5000), denied.saw(403, 0, 5000)])
  const backMs: number[] = []
  for (let time = 0; time < times; time++) {
    await delay(ENVOY_PAUSE_MS + random() * 1000)
    const pid = supervised.pidOf('envoy')
    if (pid === undefined) throw new Error(`Envoy does not run:\n${supervised.log}`)
    const killedMs = monotonicMs()
    process.kill(pid, 'SIGKILL')
    // The answers that are on their way belong to the Envoy that has just died.
    const back = await allowed.saw(200, killedMs + 20, 15_000)
    await denied.saw(403, killedMs + 20, 15_000)
    backMs.push(back.sentMs - killedMs)
    say(`envoy ${time + 1}/${times}: back after ${Math.round(back.sentMs - killedMs)} ms`)
  }
  await Promise.all([allowed.stop(), denied.stop()])
  const total = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((sum, value) => sum + value, 0)
  return {
    backMs,
    asked: total(allowed.counts) + total(denied.counts),
    unansweredWhileDead: total(allowed.counts) - (allowed.counts['200'] ?? 0),
    wronglyAllowed: denied.counts['200'] ?? 0,
  }
}

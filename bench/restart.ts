/**
 * restart: how long the agent takes from its start until its local socket answers that everything is in force, after a kill -9, with
 * 3,000 policy files that have not changed and 10,000 endpoints in the workloads file.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { policyOf, type Running, rule } from '../test/support/running.ts'
import { type Bench, type Options, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { median } from './harness/statistics.ts'

const POLICIES = 3_000
const ENDPOINTS = 10_000
/** With a device; a machine of this size has no room for ten thousand of them, so the others wait for theirs. */
const ATTACHED = 100
const APPS = 500
const POLL_MS = 20
const WAIT_MAX_MS = 180_000

interface Targets {
  readonly warmMs: number
}

export const restart: Bench = {
  name: 'restart',
  summary: 'kill -9 of the agent until it is back in force, 3,000 policies and 10,000 endpoints',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, { count = 5 }: Options): Promise<Result> {
  const conditions = machineConditions()
  const target = targetOf<Targets>('restart')
  const machine = stage.machine()
  machine.setConfig(DEFAULTS)
  const attached = Array.from({ length: ATTACHED }, (_, index) => machine.addWorkload(`w${index}`, `10.71.0.${index + 1}`))
  const endpoints = Array.from({ length: ENDPOINTS }, (_, index) => ({
    name: `e${index}`,
    labels: { app: `a${index % APPS}`, tier: `t${index % 7}` },
    netns: attached[index]?.netns ?? `${machine.id}-none-${index}`,
    ...(attached[index] === undefined ? {} : { ipv4: [attached[index].address] }),
  }))
  writeFileSync(machine.workloadsFile, JSON.stringify({ apiVersion: 'headgate.io/v1', endpoints }))
  mkdirSync(machine.policiesFolder, { recursive: true })
  for (let index = 0; index < POLICIES; index++) {
    const its = policyOf(`p${index}`, `a${index % APPS}`, rule('ingress', `a${(index * 7) % APPS}`, 8000 + (index % 50)))
    writeFileSync(join(machine.policiesFolder, `p${index}.json`), JSON.stringify(its))
  }
  const headgate = stage.headgateOn(machine)
  const coldMs = await timeStart(headgate, true)
  say(`first start, everything is parsed: ${rounded(coldMs)} ms`)
  // The copies and the cache are written when nothing else is to be done.
  await delay(5_000)

  const warm: number[] = []
  const wrong: string[] = []
  for (let time = 0; time < count; time++) {
    await headgate.kill('agent')
    warm.push(await timeStart(headgate, false))
    const ready = (await headgate.endpoints()).filter(({ state }) => state === 'ready').length
    const documents = (await headgate.status()).refusedPolicies.length
    if (ready !== ATTACHED || documents > 0) wrong.push(`${ready} endpoints are ready, ${documents} policies refused`)
    say(`restart ${time + 1}/${count}: ${rounded(warm.at(-1) ?? 0)} ms`)
    await delay(5_000)
  }
  const warmMs = rounded(Math.max(...warm))
  const complaints = [
    ...(wrong.length > 0 ? [`oracle: ${wrong.join('; ')}`] : []),
    ...(warmMs > target.warmMs ? [`${warmMs} ms over ${target.warmMs}`] : []),
  ]
  return {
    bench: 'restart',
    warmMs,
    warmMedianMs: rounded(median(warm)),
    coldMs: rounded(coldMs),
    b: warm.map((ms) => rounded(ms)),
    target,
    pass: complaints.length === 0,
    verdict: complaints.length === 0 ? 'reached' : `missed: ${complaints.join(', ')}`,
    oracle: { checked: count, wrong: wrong.length, ...(wrong.length > 0 ? { samples: wrong } : {}) },
    conditions: { ...conditions, policies: POLICIES, endpoints: ENDPOINTS, attached: ATTACHED, unit: 'ms' },
  }
}

/** @param all start the other processes too */
async function timeStart(headgate: Running, all: boolean): Promise<number> {
  const before = performance.now()
  headgate.start(all ? undefined : 'agent')
  for (;;) {
    try {
      await headgate.wait(false)
      return performance.now() - before
    } catch (error) {
      if (performance.now() - before > WAIT_MAX_MS) throw error
      headgate.close()
      await delay(POLL_MS)
    }
  }
}

/**
 * g12: from a changed policy file until Envoy has acknowledged the new rules, with a thousand slots and with ten. Two machines of the
 * same make, changed in turns, while requests go through the slots that change and through others: none of them may fail.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine, Workload } from '../test/support/machine.ts'
import { policyOf, type Running, rule } from '../test/support/running.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { DEFAULTS, machineConditions } from './harness/conditions.ts'
import { BODY_BYTES, Checker, startNginx } from './harness/http.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { median, p99, quantile } from './harness/statistics.ts'

/** Workloads that have policies, with ten slots each. */
const FEW = 1
const MANY = 100
const SLOTS_OF_A_WORKLOAD = 10
const FIRST_PORT = 10_000
/** Ports whose slots change, and that are asked meanwhile; the server listens on one more, whose slot stays as it is. */
const CHANGING = [0, 3, 6].map((index) => FIRST_PORT + index)
const STEADY = FIRST_PORT + 9
const PAUSE_MS = 40

interface Targets {
  readonly ratio: number
  readonly failed: number
}

interface Side {
  readonly slots: number
  readonly headgate: Running
  readonly checkers: readonly Checker[]
  readonly timesMs: number[]
  readonly oracles: Oracle[]
}

export const g12: Bench = {
  name: 'g12',
  summary: 'policy change until Envoy has it, with 1,000 slots against 10, and requests that fail meanwhile',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, { count = 200 }: Options): Promise<Result> {
  const conditions = machineConditions()
  const few = await prepare(stage, FEW)
  const many = await prepare(stage, MANY)
  say('changing policies')
  for (let round = 0; round < 10; round++) for (const side of [few, many]) await changeOnce(side, round)
  for (const side of [few, many]) side.timesMs.length = 0
  for (let round = 10; round < count + 10; round++) {
    for (const side of round % 2 === 0 ? [few, many] : [many, few]) await changeOnce(side, round)
    if (round % 50 === 0)
      say(`${round} of ${count}: ${[few, many].map((side) => `${side.slots} slots ${rounded(median(side.timesMs))} ms`).join(', ')}`)
  }
  for (const side of [few, many]) for (const checker of side.checkers) side.oracles.push(await checker.end())

  const target = targetOf<Targets>('g12')
  const oracle = addOracles(...few.oracles, ...many.oracles)
  const ratio = rounded(p99(many.timesMs) / p99(few.timesMs))
  const failed = oracle.wrong
  const reasons = [
    ...(failed > target.failed ? [`${failed} of ${oracle.checked} requests failed`] : []),
    ...(ratio > target.ratio ? [`${ratio} is above ${target.ratio}`] : []),
  ]
  const halves = [few.timesMs.filter((_, index) => index % 2 === 0), few.timesMs.filter((_, index) => index % 2 === 1)] as const
  return {
    bench: 'g12',
    a: few.timesMs.map((ms) => rounded(ms)),
    b: many.timesMs.map((ms) => rounded(ms)),
    ratio,
    // How far the same figure of the same side lies apart when it is taken from each half of the changes.
    aaSpread: rounded(Math.abs(p99(halves[0]) / p99(halves[1]) - 1), 3),
    target,
    pass: reasons.length === 0,
    verdict: reasons.length === 0 ? 'reached' : `missed: ${reasons.join(', ')}`,
    failed,
    medianRatio: rounded(median(many.timesMs) / median(few.timesMs)),
    ms: Object.fromEntries(
      [few, many].map(({ slots, timesMs }) => [
        slots,
        { p50: rounded(median(timesMs)), p90: rounded(quantile(timesMs, 0.9)), p99: rounded(p99(timesMs)) },
      ]),
    ),
    oracle,
    conditions: {
      ...conditions,
      changes: count,
      timed: 'from the rename of the policy file until the agent says that Envoy has acknowledged it',
      load: `${CHANGING.length + 1} checkers a side, 20 requests/s each, half of them denied`,
      pinned: 'nothing',
    },
  }
}

/** Workloads with a policy and a slot for each of their ports; the first of them is asked and changed. */
async function prepare(stage: Stage, workloads: number): Promise<Side> {
  const slots = workloads * SLOTS_OF_A_WORKLOAD
  say(`setting up ${slots} slots`)
  const machine = stage.machine()
  const client = machine.addWorkload('client')
  const servers = Array.from({ length: workloads }, (_, index) => machine.addWorkload(`server${index}`))
  const [server] = servers
  if (server === undefined) throw new Error('no workload')
  machine.writeWorkloads()
  machine.setConfig({ ...DEFAULTS, envoy: { concurrency: 1 } })
  const headgate = stage.headgateOn(machine)
  for (const { name } of servers)
    for (let index = 0; index < SLOTS_OF_A_WORKLOAD; index++) headgate.write(fileOf(name, index), policyText(name, index, 0))
  await startNginx(machine, server, client, undefined, [...CHANGING, STEADY])
  headgate.start()
  await waitUntilUp(headgate)
  const checkers: Checker[] = []
  for (const port of [...CHANGING, STEADY]) checkers.push(await check(machine, client, server, port))
  const { slotCount } = await headgate.status()
  if (slotCount !== slots) throw new Error(`${slotCount} slots instead of ${slots}`)
  return { slots, headgate, checkers, timesMs: [], oracles: [] }
}

async function waitUntilUp(headgate: Running): Promise<void> {
  const deadline = performance.now() + 60_000
  for (;;) {
    try {
      await headgate.wait()
      return
    } catch (error) {
      if (performance.now() > deadline) throw error
      await delay(100)
    }
  }
}

async function check(machine: Machine, client: Workload, server: Workload, port: number): Promise<Checker> {
  const checker = await Checker.start(machine, client)
  checker.begin(`http://${server.address}:${port}`, { '/kept': `body:${BODY_BYTES}`, '/never': 'denied' })
  return checker
}

async function changeOnce({ headgate, timesMs }: Side, round: number): Promise<void> {
  await delay(PAUSE_MS)
  const index = (CHANGING[round % CHANGING.length] as number) - FIRST_PORT
  const startedMs = performance.now()
  headgate.write(fileOf('server0', index), policyText('server0', index, round))
  const { refused } = await headgate.wait()
  timesMs.push(performance.now() - startedMs)
  if (refused.length > 0) throw new Error(`refused: ${JSON.stringify(refused)}`)
}

function fileOf(workload: string, index: number): string {
  return `${workload}-${index}.json`
}

function policyText(workload: string, index: number, version: number): string {
  const paths = ['/kept', `/only-${index}`, `/version-${version}/.*`]
  const http = paths.map((path) => ({ method: 'GET', path }))
  return JSON.stringify(policyOf(`${workload}-${index}`, workload, rule('ingress', 'client', FIRST_PORT + index, http)))
}

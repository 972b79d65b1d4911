/**
 * instructions: what Envoy's own code executes for a request, with and without HTTP rules. The rates of g1 depend on what else the machine
 * does; this is the part of them that does not.
 */
import { get } from '../test/support/running.ts'
import { type Bench, type Oracle, type Result, rounded, say } from './harness/bench.ts'
import { Callgrind } from './harness/callgrind.ts'
import { machineConditions } from './harness/conditions.ts'
import { runWrk, startNginx } from './harness/http.ts'
import { type SlotOfBench, startSlotsEnvoy } from './harness/slots-envoy.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { DENIED_PATH, mixedRules, PATHS, regexRules } from './workloads/http-rules.ts'

const FIRST_PORT = 21_001
/** So many that Envoy is never idle: what it executes while it waits would count too. */
const CONNECTIONS = 8
const WAYS: Readonly<Record<string, SlotOfBench['ruleset']>> = {
  none: undefined,
  any: { allowAll: true },
  ten: { http: mixedRules(10) },
  thousand: { http: mixedRules(1000) },
  regexes: { http: regexRules(1000) },
}

export const instructions: Bench = {
  name: 'instructions',
  summary: 'instructions that Envoy executes for a request, with 1,000 HTTP rules and without any',
  run: (options) => onStage((stage) => run(stage, options.seconds ?? 8)),
}

async function run(stage: Stage, seconds: number): Promise<Result> {
  const conditions = machineConditions()
  const machine = stage.machine()
  const server = machine.addWorkload('server')
  await startNginx(machine, server, server)
  const callgrind = new Callgrind(machine.folder)
  const names = Object.keys(WAYS)
  const slots = names.map((name, index) => ({ port: FIRST_PORT + index, ruleset: WAYS[name] }))
  const envoy = await startSlotsEnvoy(machine, server, slots, { runBy: callgrind.command })
  const perRequest: Record<string, number> = {}
  const wrong: string[] = []
  let checked = 0
  for (const [index, name] of names.entries()) {
    const url = `http://127.0.0.1:${FIRST_PORT + index}`
    const ask = async (forSeconds: number) => {
      const { requests, wrong: failed } = await runWrk(machine, server, url, forSeconds, { paths: PATHS, connections: CONNECTIONS })
      checked += requests
      if (failed > 0) wrong.push(`${name}: ${failed} of ${requests}`)
      return requests
    }
    await ask(2)
    let requests = 0
    const total = await callgrind.count(
      envoy.pid,
      async () => {
        requests = await ask(seconds)
      },
      async () => {
        await ask(1)
      },
    )
    perRequest[name] = rounded(total / requests, 5)
    const isEnforced = name !== 'none' && name !== 'any'
    const { status } = await get(machine, server, `${url}${DENIED_PATH}`)
    checked += 1
    if (status !== (isEnforced ? 403 : 200)) wrong.push(`${name}: ${DENIED_PATH} got ${status}`)
    say(`${name}: ${perRequest[name]} instructions a request, ${requests} requests`)
  }
  const oracle: Oracle = { checked, wrong: wrong.length, ...(wrong.length > 0 ? { samples: wrong } : {}) }
  const of = (name: string) => perRequest[name] ?? Number.NaN
  return {
    bench: 'instructions',
    target: 'none: it explains g1',
    pass: wrong.length === 0,
    verdict: wrong.length === 0 ? 'reported' : 'wrong answers',
    perRequest,
    // As in g1: what is left of the rate if nothing but Envoy's own code took time.
    ratio: rounded(of('none') / of('thousand')),
    ofAny: rounded(of('any') / of('thousand')),
    growth: rounded(1 - of('ten') / of('thousand')),
    oracle,
    conditions: {
      ...conditions,
      seconds,
      client: `wrk -t1 -c${CONNECTIONS}, ${PATHS.length} paths in turns`,
      counted: 'user space of all threads',
    },
  }
}

/**
 * g4: what is left of requests per second when each of them is judged by the extension host, over ext_proc. The reference is the same
 * listener of the same Envoy without any filter that judges. At one connection, what a request takes longer is held against the time
 * that one stream of node:http2 takes which only echoes.
 */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { digestOfKeys } from '#api/digest.ts'
import { ExtHostUpdateSchema } from '#api/gen/headgate/v1/control_pb.js'
import { isAnswering } from '#api/unix-socket.ts'
import { configSchema } from '#config/schema.ts'
import { RulesetStore } from '#proxy/ext-host/http/ruleset-store.ts'
import { proxyPaths } from '#proxy/paths.ts'
import { type Machine, ROOT, type Workload } from '../test/support/machine.ts'
import { addOracles, type Bench, type Options, type Oracle, type Result, rounded, say, targetOf } from './harness/bench.ts'
import { machineConditions } from './harness/conditions.ts'
import { BODY_BYTES, Checker, runWrk, startNginx } from './harness/http.ts'
import { CORE_OF_CLIENT, CORE_UNDER_TEST, coreTimes, foreignShare, pinThisProcess, processorUs } from './harness/processor.ts'
import { startSlotsEnvoy } from './harness/slots-envoy.ts'
import { onStage, type Stage } from './harness/stage.ts'
import { compare, judge, median } from './harness/statistics.ts'

const KEY = 'bench'
const SECRET = 'cGFzc3dvcmQtb2YtdGhlLWJlbmNo'
const PATH = '/allowed'
/** Of the headers that one judgement is about. */
const ECHO_BYTES = 150
const ECHO_COUNT = 3000
const WAYS = ['none', 'judged'] as const
type Way = (typeof WAYS)[number]
const PORTS: Readonly<Record<Way, number>> = { none: 21_001, judged: 21_002 }

interface Targets {
  readonly ratio: number
  readonly addedOfEcho: number
}

interface Run {
  readonly requestsPerSecond: number
  readonly envoyUs: number
  readonly extHostUs: number
  readonly foreignShare: number
  readonly oracle: Oracle
}

interface Scene {
  readonly machine: Machine
  readonly server: Workload
  readonly pids: { readonly envoy: number; readonly nginx: number; readonly extHost: number }
  readonly checker: Checker
}

export const g4: Bench = {
  name: 'g4',
  summary: 'requests/s with ext_proc on every request, against the same Envoy without, and what it adds at one connection',
  run: (options) => onStage((stage) => run(stage, options)),
}

async function run(stage: Stage, { pairs = 20, seconds = 1 }: Options): Promise<Result> {
  const conditions = machineConditions()
  pinThisProcess()
  const machine = stage.machine()
  const server = machine.addWorkload('server')
  const nginx = await startNginx(machine, server, server)
  const extHost = await startExtHost(machine, server)
  const envoy = await startSlotsEnvoy(
    machine,
    server,
    [
      { port: PORTS.none, ruleset: undefined },
      { port: PORTS.judged, ruleset: RULESET, extHostKey: KEY },
    ],
    { extHostSocket: extHost.socket },
  )
  const scene: Scene = {
    machine,
    server,
    pids: { envoy: envoy.pid, nginx, extHost: extHost.pid },
    checker: await Checker.start(machine, server),
  }
  for (const way of WAYS) await runOnce(scene, way, 1)
  const runs: Record<Way, Run[]> = { none: [], judged: [] }
  for (let pair = 0; pair < pairs; pair++) {
    for (const way of pair % 2 === 0 ? WAYS : WAYS.toReversed()) runs[way].push(await runOnce(scene, way, seconds))
    say(`pair ${pair + 1}/${pairs}: ${WAYS.map((way) => `${way} ${runs[way].at(-1)?.requestsPerSecond}/s`).join(', ')}`)
  }
  const single = await oneConnection(scene, Math.min(pairs, 7))
  say(`one connection: ${JSON.stringify(single)}`)

  const rates = (way: Way) => runs[way].map(({ requestsPerSecond }) => requestsPerSecond)
  const comparison = compare(rates('none'), rates('judged'))
  const oracle = addOracles(...WAYS.flatMap((way) => runs[way].map((entry) => entry.oracle)))
  const target = targetOf<Targets>('g4')
  const verdict = judge(
    comparison,
    target.ratio,
    oracle,
    WAYS.flatMap((way) => runs[way].map((entry) => entry.foreignShare)),
  )
  const addedOfEcho = rounded((single.judgedUs - single.noneUs) / single.echoUs)
  const isSlow = addedOfEcho > target.addedOfEcho
  const perRequest = (way: Way) => ({
    envoy: rounded(median(runs[way].map(({ envoyUs }) => envoyUs)), 3),
    extHost: rounded(median(runs[way].map(({ extHostUs }) => extHostUs)), 3),
  })
  return {
    bench: 'g4',
    ...comparison,
    target,
    ...(verdict.pass && isSlow
      ? { pass: false, verdict: `missed: ${addedOfEcho} times an echo are added, at most ${target.addedOfEcho}` }
      : verdict),
    addedOfEcho,
    oneConnection: single,
    cpuUsPerRequest: Object.fromEntries(WAYS.map((way) => [way, perRequest(way)])),
    oracle,
    conditions: {
      ...conditions,
      pairs,
      seconds,
      server: `nginx, 1 worker, ${BODY_BYTES} bytes from memory, core ${CORE_UNDER_TEST}`,
      client: `wrk -t1 -c64 keep-alive (-c1 for latency), core ${CORE_OF_CLIENT}`,
      underTest: `one envoy (concurrency 1) and headgate ext-host, core ${CORE_UNDER_TEST}; a rule on a secret that every request is asked for`,
      echo: `node:http2, ${ECHO_COUNT} streams one after the other over a UNIX socket, client and server on core ${CORE_UNDER_TEST}`,
    },
  }
}

export const RULESET = {
  http: [
    {
      name: 'shop/token/ingress/0123456789ab',
      headerMatches: [{ name: 'x-token', secret: { namespace: 'shop', name: 'token' } }],
    },
  ],
}

/** The process as it is, with its ruleset where it keeps them. */
export async function startExtHost(machine: Machine, server: Workload): Promise<{ pid: number; socket: string }> {
  const secrets = join(machine.folder, 'secrets')
  mkdirSync(join(secrets, 'shop'), { recursive: true })
  writeFileSync(join(secrets, 'shop/token'), SECRET)
  const config = configSchema.parse({ paths: { run: join(machine.folder, 'run'), state: join(machine.folder, 'state'), secrets } })
  const paths = proxyPaths(config)
  const store = new RulesetStore(paths.extHostRulesets)
  const rulesets = [{ key: KEY, ruleset: RULESET }]
  store.apply(create(ExtHostUpdateSchema, { epoch: 1n, revision: 1n, full: true, rulesets, digest: digestOfKeys([KEY]) }))
  await store.persist()
  const file = join(machine.folder, 'ext-host.json')
  writeFileSync(file, JSON.stringify(config))
  const child = machine.start(server.netns, [join(ROOT, 'bin/headgate'), 'ext-host', '--config', file])
  for (let tries = 0; tries < 200; tries++) {
    if (child.exitCode !== null) throw new Error(`the extension host ended with ${child.exitCode}`)
    if (await isAnswering(paths.extHost)) return { pid: child.pid ?? 0, socket: paths.extHost }
    await delay(50)
  }
  throw new Error('the extension host does not answer')
}

async function runOnce({ machine, server, pids, checker }: Scene, way: Way, seconds: number): Promise<Run> {
  const url = `http://127.0.0.1:${PORTS[way]}`
  // Without the token nothing is let through.
  checker.begin(url, { [PATH]: way === 'judged' ? 'denied' : `body:${BODY_BYTES}` })
  const cores = [CORE_UNDER_TEST, CORE_OF_CLIENT]
  const used = () => ({ envoy: processorUs(pids.envoy), nginx: processorUs(pids.nginx), extHost: processorUs(pids.extHost) })
  const before = used()
  const coresBefore = cores.map(coreTimes)
  const startedMs = performance.now()
  const result = await runWrk(machine, server, `${url}${PATH}`, seconds, { headers: [`X-Token: ${SECRET}`] })
  const wallMs = performance.now() - startedMs
  const after = used()
  const checked = await checker.end()
  const accountedUs = after.envoy - before.envoy + after.nginx - before.nginx + after.extHost - before.extHost + result.processorUs
  return {
    requestsPerSecond: Math.round(result.requestsPerSecond),
    envoyUs: (after.envoy - before.envoy) / result.requests,
    extHostUs: (after.extHost - before.extHost) / result.requests,
    foreignShare: foreignShare(coresBefore, cores.map(coreTimes), accountedUs, wallMs),
    oracle: {
      checked: checked.checked + result.requests,
      wrong: checked.wrong + result.wrong,
      samples: (checked.samples ?? []).map((text) => `${way} ${text}`),
    },
  }
}

/** Medians over the runs of each. */
async function oneConnection({ machine, server }: Scene, rounds: number): Promise<{ noneUs: number; judgedUs: number; echoUs: number }> {
  const echoScript = [join(ROOT, 'bin/node'), join(ROOT, 'bench/workloads/http2-echo.mjs')]
  const socket = join(machine.folder, 'echo.sock')
  const echo: ChildProcess = machine.start(server.netns, [...echoScript, 'server', socket])
  if (echo.stdout) await once(echo.stdout, 'data')
  const p50 = async (way: Way) =>
    (await runWrk(machine, server, `http://127.0.0.1:${PORTS[way]}${PATH}`, 2, { connections: 1, headers: [`X-Token: ${SECRET}`] })).p50Us
  const times = { noneUs: [] as number[], judgedUs: [] as number[], echoUs: [] as number[] }
  for (let round = 0; round < rounds; round++) {
    times.noneUs.push(await p50('none'))
    times.judgedUs.push(await p50('judged'))
    const { stdout } = await machine.run(server.netns, [...echoScript, 'client', socket, String(ECHO_COUNT), String(ECHO_BYTES)])
    times.echoUs.push((JSON.parse(stdout) as { p50Us: number }).p50Us)
  }
  return { noneUs: median(times.noneUs), judgedUs: median(times.judgedUs), echoUs: rounded(median(times.echoUs)) }
}

/**
 * `npm run demo`: starts Headgate, puts workloads and policies in place, sends real HTTP, and shows who was let through, why, and who
 * decided. Ends with 0 only if every verdict was the expected one. `--kafka` adds a broker and clients of it; `--keep` leaves all of it running,
 * `--stop` ends a kept one.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse, stringify } from 'yaml'
import type { Flow } from '#flows/flow.ts'
import { type Broker, brokerAt } from './kafka/broker.ts'
import { Stage } from './stage.ts'

const HERE = dirname(fileURLToPath(import.meta.url))
const ROOT = dirname(dirname(HERE))
const FOLDER = '/run/headgate-demo'
const HOST_NETNS = 'hgdemo-host'
const CONFIG = join(FOLDER, 'config.yaml')
const HEADGATE = join(ROOT, 'bin/headgate')
const NODE = join(ROOT, 'bin/node')
const START_TIMEOUT_MS = 20_000
/** Denials reach the flow ring with Envoy's next access-log batch. */
const FLOW_TIMEOUT_MS = 3000
const BROKER_TIMEOUT_MS = 60_000
const KAFKA_CLIENT = join(HERE, 'kafka/client.mjs')
const KAFKA_PORT = 9092
const EVENTS = { name: 'events', namespace: 'shop', labels: { app: 'events' }, netns: 'hgdemo-events', ipv4: ['10.70.0.5'] as const }
/** A kept one is stopped with all that it has. */
const hasKafka = process.argv.includes('--kafka') || (process.argv.includes('--stop') && existsSync(`/run/netns/${EVENTS.netns}`))

interface DemoRequest {
  readonly from: string
  /** A workload, or an address of the world. */
  readonly to?: string
  /** Of somebody in the world, to be asked for. */
  readonly name?: string
  /** What a client of Kafka does: its command, a topic and a group. */
  readonly kafka?: string
  readonly port: number
  /** Of an HTTP request; a call of gRPC has none. */
  readonly method?: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly expect: 'allowed' | 'denied' | 'dropped'
  /** What the server's answer has to say. */
  readonly answer?: string
}

interface WorkloadsFile {
  readonly endpoints: readonly {
    readonly name: string
    readonly namespace: string
    readonly netns: string
    readonly ipv4: readonly [string]
  }[]
}

const described = parse(readFileSync(join(HERE, 'workloads.yaml'), 'utf8')) as WorkloadsFile
const workloads: WorkloadsFile = { ...described, endpoints: [...described.endpoints, ...(hasKafka ? [EVENTS] : [])] }
const requests = [...requestsOf('requests.yaml'), ...(hasKafka ? requestsOf('kafka/requests.yaml') : [])]
const stage = new Stage(
  HOST_NETNS,
  workloads.endpoints.map(({ name, netns, ipv4 }) => ({ name, netns, address: ipv4[0] })),
  { netns: 'hgdemo-world', gateway: '198.51.100.1', addresses: ['198.51.100.2', '198.51.100.3', '198.51.100.4'] },
)
const [NAME_SERVER = '', PAY = '', TRACKER = ''] = stage.world.addresses

function requestsOf(file: string): DemoRequest[] {
  const list = parse(readFileSync(join(HERE, file), 'utf8')) as readonly DemoRequest[]
  return list.map((request) =>
    request.kafka === undefined ? request : { ...request, to: EVENTS.name, port: KAFKA_PORT, path: request.kafka },
  )
}

function headgate(...args: string[]): { code: number; stdout: string; stderr: string } {
  const run = spawnSync('nsenter', [`--net=/run/netns/${HOST_NETNS}`, HEADGATE, ...args, '--config', CONFIG], { encoding: 'utf8' })
  return { code: run.status ?? 1, stdout: run.stdout, stderr: run.stderr }
}

/** Tries until it is there; what is waited for belongs to other processes, which have no way to tell us. */
async function until<T>(what: string, timeoutMs: number, look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    if (Date.now() > deadline) throw new Error(`${what} took longer than ${timeoutMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

function prepareFolder(): void {
  rmSync(FOLDER, { recursive: true, force: true })
  mkdirSync(join(FOLDER, 'state'), { recursive: true })
  cpSync(join(HERE, 'policies'), join(FOLDER, 'policies'), { recursive: true })
  if (hasKafka) cpSync(join(HERE, 'kafka/policy.yaml'), join(FOLDER, 'policies/events.yaml'))
  writeFileSync(join(FOLDER, 'workloads.yaml'), stringify(workloads))
  const config = {
    apiVersion: 'headgate.io/v1',
    instance: 'hgdemo',
    nodeName: 'demo',
    flows: { mode: 'all' },
    paths: {
      run: join(FOLDER, 'run'),
      state: join(FOLDER, 'state'),
      policies: join(FOLDER, 'policies'),
      workloads: join(FOLDER, 'workloads.yaml'),
      bpf: '/sys/fs/bpf/hgdemo',
    },
  }
  writeFileSync(CONFIG, `${JSON.stringify(config, undefined, 2)}\n`)
}

async function startServers(kept: boolean): Promise<void> {
  const { netns: world } = stage.world
  stage.start(world, [NODE, join(HERE, 'resolver.mjs'), NAME_SERVER, `pay.example=${PAY}`, `tracker.example=${TRACKER}`], kept)
  if (hasKafka) await startBroker(kept)
  const others = stage.workloads.filter(({ name }) => name !== EVENTS.name)
  for (const { name, netns, address } of [...others, { name: 'world', netns: world, address: PAY }]) {
    stage.start(netns, [NODE, join(HERE, 'server.mjs'), name, '50051', '80', '9090'], kept)
    await until(`server ${name}`, START_TIMEOUT_MS, () => {
      const answers = spawnSync('nsenter', [`--net=/run/netns/${netns}`, NODE, join(HERE, 'client.mjs'), 'GET', `http://${address}/`], {
        encoding: 'utf8',
      })
      return answers.stdout.startsWith('200 ') ? true : undefined
    })
  }
}

async function startBroker(kept: boolean): Promise<void> {
  process.stdout.write('starting Apache Kafka …\n')
  const { netns, ipv4 } = EVENTS
  const broker: Broker = brokerAt(ipv4[0], join(FOLDER, 'kafka'), join(ROOT, '.cache/kafka'))
  await stage.run(netns, broker.format)
  stage.start(netns, broker.run, kept).stdout?.resume()
  await until('the broker', BROKER_TIMEOUT_MS, async () => {
    const said = await stage.run(netns, [NODE, KAFKA_CLIENT, broker.address, 'create', 'orders,payments'])
    return said === 'ok' ? true : undefined
  })
}

interface Row {
  readonly request: DemoRequest
  readonly verdict: 'allowed' | 'denied' | 'dropped'
  /** Status, or what the client's library calls the failure. */
  readonly status: string
  readonly isRight: boolean
}

async function ask(request: DemoRequest): Promise<Row> {
  const from = stage.workloads.find(({ name }) => name === request.from)
  if (from === undefined) throw new Error(`no workload ${request.from}`)
  const to = stage.workloads.find(({ name }) => name === request.to)?.address ?? request.to ?? request.name ?? ''
  const target = `${to}:${request.port}`
  const command =
    request.kafka !== undefined
      ? [KAFKA_CLIENT, target, ...request.kafka.split(' ')]
      : request.method === undefined
        ? [join(HERE, 'grpc-client.mjs'), target, request.path]
        : [join(HERE, 'client.mjs'), request.method, `http://${target}${request.path}`, JSON.stringify(request.headers ?? {}), NAME_SERVER]
  const output = await stage.run(from.netns, [NODE, ...command])
  const [status = ''] = output.split(' ')
  const isDenied = ['403', 'PERMISSION_DENIED', 'EREFUSED'].includes(status) || status.endsWith('_AUTHORIZATION_FAILED')
  const verdict = ['200', 'OK', 'ok'].includes(status) ? 'allowed' : isDenied ? 'denied' : 'dropped'
  return { request, status, verdict, isRight: verdict === request.expect && output.includes(request.answer ?? '') }
}

/** The flow that explains a request: of an allowed one the last proxy's, of others whoever said no. */
function explain(flows: readonly Flow[], { request, verdict }: Row): Flow | undefined {
  if (request.name !== undefined && verdict === 'denied') return flows.findLast(({ dns }) => dns?.query === `${request.name}.`)
  const to = request.name === undefined ? request.to : PAY
  const between = flows.filter(
    ({ source, destination }) =>
      source.endpoint?.name === request.from &&
      [destination.endpoint?.name, destination.address].includes(to) &&
      destination.port === request.port,
  )
  if (request.kafka !== undefined) {
    const [, topic = '', group = ''] = request.kafka.split(' ')
    const [wanted, named] = verdict === 'allowed' ? ['forwarded', topic] : ['dropped', group === '' ? topic : '']
    return between.findLast(
      (flow) => flow.kafka !== undefined && flow.verdict === wanted && (named === '' || flow.kafka.topics.includes(named)),
    )
  }
  const asked = between.filter(({ http }) => http?.method === (request.method ?? 'POST') && http.path === request.path)
  if (verdict === 'denied') return asked.findLast((flow) => flow.verdict === 'dropped')
  if (verdict === 'dropped') return between.findLast((flow) => flow.verdict === 'dropped' && flow.where === 'kernel')
  // The kernel tells of both sides' policies; the one that has something to say about it explains more.
  const granted = between.filter((flow) => flow.verdict === 'forwarded' && flow.origins.length > 0)
  return asked.findLast(({ direction }) => direction === 'ingress') ?? asked.at(-1) ?? granted.at(-1)
}

function why(flow: Flow | undefined, verdict: Row['verdict']): string {
  if (flow === undefined) return '(no flow)'
  const [origin] = flow.origins
  const changes = (flow.http?.headers ?? []).map(({ name, action }) => `, ${name}: ${action}`).join('')
  if (verdict === 'allowed') return origin === undefined ? 'no policy selects it' : `${origin.rule}${changes}`
  return origin === undefined ? `no rule allows it (${flow.direction})` : `${origin.rule} (${flow.direction})`
}

function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? []
  for (const row of rows)
    process.stdout.write(
      `${row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    )
}

async function readFlows(): Promise<Flow[]> {
  const { stdout } = headgate('observe', '--last', '0', '-o', 'json')
  return stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Flow)
}

async function main(): Promise<number> {
  const keep = process.argv.includes('--keep')
  if (process.argv.includes('--stop')) {
    await stop()
    return 0
  }
  stage.build()
  let failures = 0
  try {
    prepareFolder()
    await startServers(keep)
    process.stdout.write('starting headgate up …\n')
    const log = openSync(join(FOLDER, 'headgate.log'), 'a')
    stage.start(HOST_NETNS, [HEADGATE, 'up', '--config', CONFIG], keep, log)
    await until('headgate up', START_TIMEOUT_MS, () => (headgate('policy', 'wait').code === 0 ? true : undefined))

    const rows: Row[] = []
    for (const request of requests) rows.push(await ask(request))
    const flows = await until('flows', FLOW_TIMEOUT_MS, async () => {
      const seen = await readFlows()
      return rows.every((row) => explain(seen, row) !== undefined) ? seen : undefined
    }).catch(readFlows)

    process.stdout.write('\n')
    printTable([
      ['FROM', 'TO', 'REQUEST', 'VERDICT', 'WHERE', 'WHY', ''],
      ...rows.map((row) => {
        const { request, verdict, status, isRight } = row
        const flow = explain(flows, row)
        if (!isRight) failures++
        return [
          request.from,
          `${request.to ?? request.name}:${request.port}`,
          `${request.kafka === undefined ? (request.method ?? 'gRPC') : 'Kafka'} ${request.path}`,
          `${verdict} (${status})`,
          flow?.where ?? '-',
          why(flow, verdict),
          isRight ? '' : `EXPECTED ${request.expect} ${request.answer ?? ''}`,
        ]
      }),
    ])
    process.stdout.write(`\n${rows.length - failures} of ${rows.length} verdicts as expected\n`)
    if (failures > 0) process.stdout.write(readFileSync(join(FOLDER, 'headgate.log'), 'utf8'))
    if (keep) printKept()
  } finally {
    if (!keep) await stop()
  }
  return failures === 0 ? 0 : 1
}

function printKept(): void {
  const enter = `nsenter --net=/run/netns/${HOST_NETNS}`
  process.stdout.write(`
It is still running, on a machine of its own (namespace ${HOST_NETNS}). Look at it:
  bin/headgate status --config ${CONFIG}
  bin/headgate observe --follow --config ${CONFIG}
  nsenter --net=/run/netns/hgdemo-web curl -i http://10.70.0.3/products
  edit ${FOLDER}/policies/api.yaml and ask again
  ${enter} ip link
Stop it:
  npm run demo -- --stop
`)
}

/** Ends Headgate and the servers, and removes every trace. */
async function stop(): Promise<void> {
  if (existsSync(join(FOLDER, 'run'))) {
    for (const name of ['up', 'envoy', 'dns-proxy', 'ext-host', 'proxy', 'agent']) await endProcess(name)
    headgate('cleanup')
  }
  await stage.tearDown()
  rmSync(FOLDER, { recursive: true, force: true })
}

async function endProcess(name: string): Promise<void> {
  const lock = join(FOLDER, 'run/locks', name)
  if (!existsSync(lock)) return
  const pid = Number.parseInt(readFileSync(lock, 'utf8'), 10)
  const alive = (): boolean => existsSync(`/proc/${pid}`)
  if (Number.isNaN(pid) || !alive()) return
  process.kill(pid, 'SIGTERM')
  await until(`end of ${name}`, START_TIMEOUT_MS, () => (alive() ? undefined : true))
}

process.exitCode = await main()

/** What HTTP benches run: nginx in a workload, wrk against it, and a checker that asks beside wrk. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { type Machine, ROOT, type Workload } from '../../test/support/machine.ts'
import { get } from '../../test/support/running.ts'
import type { Oracle } from './bench.ts'
import { descendantsOf, onClientCore } from './processor.ts'

export const BODY_BYTES = 256

/** nginx with one worker, answering from memory: 256 bytes, or what is given, which may hold nginx's variables. @returns the worker's pid */
export async function startNginx(
  machine: Machine,
  server: Workload,
  client: Workload,
  body = 'x'.repeat(BODY_BYTES),
  ports: readonly number[] = [80],
): Promise<number> {
  const folder = join(machine.folder, `nginx-${server.name}`)
  mkdirSync(folder)
  const file = join(folder, 'nginx.conf')
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`)
  writeFileSync(
    file,
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; ${paths.join(' ')}
  server { ${ports.map((port) => `listen ${server.address}:${port};`).join(' ')} default_type text/plain; location / { return 200 '${body}'; } }
}
`,
  )
  const child = machine.start(server.netns, ['nginx', '-p', folder, '-e', 'stderr', '-c', file])
  let errors = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  for (let tries = 0; tries < 100; tries++) {
    if (child.exitCode !== null) throw new Error(`nginx ended: ${errors}`)
    if ((await get(machine, client, `http://${server.address}:${ports[0]}/`, '-m', '0.5')).status !== 0) {
      const [worker] = descendantsOf(child.pid ?? 0)
      if (worker !== undefined) return worker
    }
    await delay(20)
  }
  throw new Error(`nginx does not answer: ${errors}`)
}

export interface WrkResult {
  readonly requests: number
  readonly requestsPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
  /** Answers that were not 2xx or 3xx, and connections that failed. */
  readonly wrong: number
  /** Processor time of wrk itself. */
  readonly processorUs: number
}

export interface WrkOptions {
  /** Asked for in turns; none: the path of the URL. */
  readonly paths?: readonly string[]
  readonly connections?: number
  readonly headers?: readonly string[]
}

/** One run of wrk on the client's core. */
export async function runWrk(
  machine: Machine,
  client: Workload,
  url: string,
  seconds: number,
  { paths = [], connections = 64, headers = [] }: WrkOptions = {},
): Promise<WrkResult> {
  // The shell's `times` tells what its children used: wrk is gone when it could be asked.
  const script = 'wrk -t1 --latency "$@"; times'
  const rotate = paths.length === 0 ? [] : ['-s', join(ROOT, 'bench/workloads/rotate.lua')]
  const asked = headers.flatMap((header) => ['-H', header])
  const args = [`-c${connections}`, `-d${seconds}s`, ...asked, ...rotate, url, ...(paths.length === 0 ? [] : ['--', ...paths])]
  const { stdout, stderr } = await machine.run(client.netns, onClientCore('sh', '-c', script, 'sh', ...args))
  const number = (pattern: RegExp): number => Number(pattern.exec(stdout)?.[1] ?? 0)
  const requests = number(/(\d+) requests in/)
  if (requests === 0) throw new Error(`wrk made no request: ${stdout}${stderr}`)
  const errors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(stdout)?.slice(1) ?? []
  return {
    requests,
    requestsPerSecond: number(/Requests\/sec:\s+([\d.]+)/),
    p50Us: microseconds(/50%\s+([\d.]+)(us|ms|s)/.exec(stdout)),
    p99Us: microseconds(/99%\s+([\d.]+)(us|ms|s)/.exec(stdout)),
    wrong: number(/Non-2xx or 3xx responses: (\d+)/) + errors.reduce((sum, text) => sum + Number(text), 0),
    processorUs: childTimesUs(stdout),
  }
}

function microseconds(match: RegExpExecArray | null): number {
  const factor = { us: 1, ms: 1000, s: 1_000_000 }[match?.[2] ?? 'us'] ?? 1
  return Number(match?.[1] ?? Number.NaN) * factor
}

/** Second line of `times`: user and system time of the children, as 0m1.230000s. */
export function childTimesUs(text: string): number {
  const line = text.trim().split('\n').at(-1) ?? ''
  const times = [...line.matchAll(/(\d+)m([\d.]+)s/g)].map(([, minutes, seconds]) => (Number(minutes) * 60 + Number(seconds)) * 1e6)
  return (times[0] ?? 0) + (times[1] ?? 0)
}

export interface CheckerResult extends Oracle {
  readonly allowed: number
  readonly denied: number
}

/** Asks beside a run and checks each answer (bench/workloads/checker.mjs). One process for all runs, so that none pays for its start. */
export class Checker {
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>

  private constructor(child: ChildProcess) {
    this.#child = child
    this.#lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  }

  static async start(machine: Machine, client: Workload): Promise<Checker> {
    const command = onClientCore(join(ROOT, 'bin/node'), join(ROOT, 'bench/workloads/checker.mjs'))
    const checker = new Checker(machine.start(client.netns, command, { stdin: true }))
    await once(checker.#child, 'spawn')
    await checker.#lines.next()
    return checker
  }

  begin(url: string, expectations: Readonly<Record<string, string>>): void {
    const list = Object.entries(expectations).map(([path, expectation]) => `${path}=${expectation}`)
    this.#child.stdin?.write(`start ${url} ${list.join(' ')}\n`)
  }

  async end(): Promise<CheckerResult> {
    this.#child.stdin?.write('stop\n')
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('the checker ended')
    return JSON.parse(value as string) as CheckerResult
  }
}

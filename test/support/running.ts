/** Headgate's processes on a test's machine, and the agent's local API, without a process per question. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import {
  type Endpoint,
  GetStatusRequestSchema,
  ListEndpointsRequestSchema,
  Local,
  ObserveRequestSchema,
  type Status,
  WaitPolicyRequestSchema,
  type WaitPolicyResponse,
} from '#api/gen/headgate/v1/local_pb.js'
import { createClient, type ServiceClient } from '#api/grpc.ts'
import type { Flow } from '#flows/flow.ts'
import { Machine, ROOT, type Workload } from './machine.ts'

export const PROCESSES = ['agent', 'proxy', 'ext-host', 'dns-proxy', 'envoy'] as const
export type ProcessName = (typeof PROCESSES)[number]

/** A CiliumNetworkPolicy, as short as tests want it. */
export function policyOf(name: string, app: string, spec: Record<string, unknown>): Record<string, unknown> {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'default' },
    spec: { endpointSelector: { matchLabels: { app } }, ...spec },
  }
}

/** Ingress or egress to peers with `app`, on a TCP port, with HTTP rules or without. */
export function rule(
  direction: 'ingress' | 'egress',
  app: string,
  port: number,
  http?: readonly Record<string, unknown>[],
): Record<string, unknown> {
  const peers = { [direction === 'ingress' ? 'fromEndpoints' : 'toEndpoints']: [{ matchLabels: { app } }] }
  const ports = [{ port: String(port), protocol: 'TCP' }]
  return { [direction]: [{ ...peers, toPorts: [http === undefined ? { ports } : { ports, rules: { http } }] }] }
}

export class Running {
  readonly machine: Machine
  readonly processes = new Map<ProcessName, ChildProcess & { log: string }>()
  #local: ServiceClient<typeof Local.method> | undefined

  constructor(machine: Machine) {
    this.machine = machine
  }

  get local(): ServiceClient<typeof Local.method> {
    this.#local ??= createClient(Local, join(this.machine.folder, 'run/local.sock'))
    return this.#local
  }

  /** @param root another checkout to run it from */
  start(name?: ProcessName, root = ROOT): void {
    for (const each of name === undefined ? PROCESSES : [name]) this.processes.set(each, this.machine.headgate(each, root))
  }

  /** Kills a process as hard as can be, and waits until it is gone. */
  async kill(name: ProcessName): Promise<void> {
    const child = this.processes.get(name)
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
    if (name === 'agent') this.close()
  }

  /** Resolves when everything accepted so far is in force. */
  wait(rescan = true): Promise<WaitPolicyResponse> {
    return new Promise((resolve, reject) => {
      this.local.waitPolicy(create(WaitPolicyRequestSchema, { rescan }), (error, response) =>
        error || response === undefined ? reject(error) : resolve(response),
      )
    })
  }

  status(): Promise<Status> {
    return new Promise((resolve, reject) => {
      this.local.getStatus(create(GetStatusRequestSchema), (error, response) =>
        error || response === undefined ? reject(error) : resolve(response),
      )
    })
  }

  endpoints(): Promise<readonly Endpoint[]> {
    return new Promise((resolve, reject) => {
      this.local.listEndpoints(create(ListEndpointsRequestSchema), (error, response) =>
        error || response === undefined ? reject(error) : resolve(response.endpoints),
      )
    })
  }

  flows(): Promise<Flow[]> {
    return new Promise((resolve, reject) => {
      const flows: Flow[] = []
      const call = this.local.observe(create(ObserveRequestSchema))
      call.on('data', ({ response }) => {
        if (response.case === 'flowJson') flows.push(JSON.parse(response.value) as Flow)
      })
      call.on('end', () => resolve(flows))
      call.on('error', reject)
    })
  }

  /** The first flow like that, which Envoy may report some moments after its request. */
  async flowThat(isWanted: (flow: Flow) => boolean, timeoutMs = 3000): Promise<Flow> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const found = (await this.flows()).find(isWanted)
      if (found !== undefined) return found
      if (performance.now() > deadline) throw new Error(`no such flow after ${timeoutMs} ms`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** Packets dropped in the kernel for a reason. */
  async dropped(reason: string): Promise<number> {
    const { counters } = await this.status()
    return counters.filter((row) => row.reason === reason && row.verdict === 'denied').reduce((sum, row) => sum + Number(row.packets), 0)
  }

  /** Resolves when an endpoint is attached. */
  async waitForEndpoint(name: string, timeoutMs = 3000): Promise<Endpoint> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const found = (await this.endpoints()).find(({ spec, state }) => spec?.name === name && state === 'ready')
      if (found !== undefined) return found
      if (performance.now() > deadline) throw new Error(`endpoint ${name} is not ready after ${timeoutMs} ms`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** Writes a policy file as a careful user would, and waits until it is in force. */
  async apply(file: string, ...documents: readonly Record<string, unknown>[]): Promise<WaitPolicyResponse> {
    this.write(file, documents.map((document) => JSON.stringify(document)).join('\n---\n'))
    return await this.wait()
  }

  write(file: string, text: string): void {
    const path = join(this.machine.policiesFolder, file)
    const temporary = join(this.machine.policiesFolder, `.${file}.tmp`)
    writeFileSync(temporary, text)
    renameSync(temporary, path)
  }

  async remove(file: string): Promise<void> {
    rmSync(join(this.machine.policiesFolder, file))
    await this.wait()
  }

  /** The connection to the agent; the next question makes another. */
  close(): void {
    this.#local?.close()
    this.#local = undefined
  }
}

/** A machine of the test's own, which goes with the test, however that ends. Headgate is not started yet. */
export async function withMachine(run: (machine: Machine, headgate: Running) => Promise<void>): Promise<void> {
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    await run(machine, headgate)
  } finally {
    headgate.close()
    await machine.dispose()
  }
}

/** An HTTP server in a workload; resolves when it listens. */
export async function serve(machine: Machine, workload: Workload, ...ports: readonly number[]): Promise<void> {
  const child = machine.start(workload.netns, [
    join(ROOT, 'bin/node'),
    join(ROOT, 'test/support/http-server.mjs'),
    workload.name,
    ...ports.map(String),
  ])
  let listening = 0
  await new Promise<void>((resolve, reject) => {
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      listening += text.split('listening').length - 1
      if (listening >= ports.length) resolve()
    })
    child.once('exit', () => reject(new Error(`server ${workload.name} ended`)))
  })
}

export interface HttpAnswer {
  /** 0 when there was none. */
  readonly status: number
  readonly body: string
  /** curl's exit code. */
  readonly code: number
}

/** One request from a workload, by curl. */
export async function get(machine: Machine, from: Workload, url: string, ...options: readonly string[]): Promise<HttpAnswer> {
  const { code, stdout } = await machine.run(from.netns, ['curl', '-s', '-m', '2', '-w', '\n%{http_code}', ...options, url])
  const at = stdout.lastIndexOf('\n')
  return { status: Number(stdout.slice(at + 1)), body: stdout.slice(0, at), code: code ?? -1 }
}

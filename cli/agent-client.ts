/** The agent's local socket as subcommands use it: promises, deadlines, and errors that say what to do. */
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create, type DescMessage, type MessageShape, toJson } from '@bufbuild/protobuf'
import type { ServiceError } from '@grpc/grpc-js'
import { Local } from '#api/gen/headgate/v1/local_pb.js'
import { createClient, type ServiceClient } from '#api/grpc.ts'
import type { Config } from '#config/schema.ts'
import { CliError } from './errors.ts'

export * from '#api/gen/headgate/v1/local_pb.js'
export { create }

/** A message as `-o json` prints it: proto3's JSON with every field, empty ones too. */
export function messageJson<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): unknown {
  return toJson(schema, message, { alwaysEmitImplicit: true })
}

export type AgentClient = ServiceClient<typeof Local.method>

/** Metadata of a refused call: the code and what to do about it. */
const ERROR_CODE_KEY = 'headgate-error'
const ERROR_NEXT_KEY = 'headgate-next'
const DEFAULT_TIMEOUT_MS = 10_000
const CONNECT_RETRY_MS = 50

// Of @grpc/grpc-js's status, which would have to be loaded for them.
const CANCELLED = 1
const INVALID_ARGUMENT = 3
const NOT_FOUND = 5
const UNAVAILABLE = 14

/** The agent refused a call, in its own words. */
export class AgentError extends Error {
  override readonly name = 'AgentError'
  readonly code: string
  readonly next: string | undefined

  constructor(code: string, message: string, next: string | undefined) {
    super(message)
    this.code = code
    this.next = next
  }
}

export interface ConnectOptions {
  /** How long to wait for an agent that is not there yet; 0 asks once. */
  readonly waitMs?: number
}

/**
 * Connects, runs, and closes.
 * @throws CliError when no agent answers or this user may not ask it
 */
export async function withAgent<T>(config: Config, use: (agent: AgentClient) => Promise<T>, options: ConnectOptions = {}): Promise<T> {
  const path = join(config.paths.run, 'local.sock')
  await assertAnswering(path, options.waitMs ?? 0)
  const agent = createClient(Local, path)
  try {
    return await use(agent)
  } finally {
    agent.close()
  }
}

type UnaryName = { [K in keyof AgentClient]: AgentClient[K] extends UnaryMethod<infer _I, infer _O> ? K : never }[keyof AgentClient]
type UnaryMethod<I, O> = (request: I, callback: (error: ServiceError | null, value?: O) => void) => { cancel(): void }
type RequestOf<K extends UnaryName> = AgentClient[K] extends UnaryMethod<infer I, infer _O> ? I : never
type ResponseOf<K extends UnaryName> = AgentClient[K] extends UnaryMethod<infer _I, infer O> ? O : never

/** One call with a deadline. */
export function call<K extends UnaryName>(
  agent: AgentClient,
  name: K,
  request: RequestOf<K>,
  timeoutMs = DEFAULT_TIMEOUT_MS,
): Promise<ResponseOf<K>> {
  return new Promise((resolve, reject) => {
    const method = agent[name] as unknown as UnaryMethod<RequestOf<K>, ResponseOf<K>>
    let isLate = false
    const running = method(request, (error, value) => {
      clearTimeout(timer)
      if (isLate) reject(new CliError('HG-1104', `no answer from the agent within ${timeoutMs / 1000} s: ${name}`))
      else if (error !== null) reject(asCliError(error))
      else resolve(value as ResponseOf<K>)
    })
    const timer = setTimeout(() => {
      isLate = true
      running.cancel()
    }, timeoutMs)
  })
}

/** A gRPC error as the command line reports it. */
export function asCliError(error: ServiceError): Error {
  const message = error.details || error.message
  const code = error.metadata?.get(ERROR_CODE_KEY)[0]?.toString()
  const next = error.metadata?.get(ERROR_NEXT_KEY)[0]?.toString()
  if (code !== undefined) return new AgentError(code, message, next)
  switch (error.code) {
    // An agent that ends in order cancels what is under way.
    case CANCELLED:
    case UNAVAILABLE:
      return new CliError('HG-1101', `the agent went away: ${message}`)
    case NOT_FOUND:
      return new CliError('HG-1107', message)
    case INVALID_ARGUMENT:
      return new CliError('HG-1108', message)
    default:
      return new CliError('HG-1109', message)
  }
}

async function assertAnswering(path: string, waitMs: number): Promise<void> {
  const deadline = performance.now() + waitMs
  for (;;) {
    const code = await connectError(path)
    if (code === undefined) return
    if (code === 'EACCES') throw new CliError('HG-1110', `this user may not use the agent's socket: ${path}`)
    if (performance.now() >= deadline) throw new CliError('HG-1101', `no agent answers on ${path}`)
    await delay(CONNECT_RETRY_MS)
  }
}

/** @returns the errno's name, or undefined when somebody accepts */
export function connectError(path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(undefined)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
}

/** The DNS process's own socket as `headgate fqdn` uses it. */
import { join } from 'node:path'
import type { ServiceError } from '@grpc/grpc-js'
import {
  type ForgetNamesRequest,
  type ForgetNamesResponse,
  type KnownName,
  type ListNameSelectorsRequest,
  type ListNameSelectorsResponse,
  type ListNamesRequest,
  Names,
} from '#api/gen/headgate/v1/local_pb.js'
import { createClient } from '#api/grpc.ts'
import type { Config } from '#config/schema.ts'
import { asCliError, connectError } from './agent-client.ts'
import { CliError } from './errors.ts'

export * from '#api/gen/headgate/v1/local_pb.js'
export { create, messageJson } from './agent-client.ts'

const TIMEOUT_MS = 30_000

export interface NamesClient {
  list(request: ListNamesRequest): Promise<KnownName[]>
  forget(request: ForgetNamesRequest): Promise<ForgetNamesResponse>
  selectors(request: ListNameSelectorsRequest): Promise<ListNameSelectorsResponse>
}

/**
 * Connects, runs, and closes.
 * @throws CliError when no DNS process answers, or not in time, or this user may not ask it
 */
export async function withNames<T>(config: Config, use: (names: NamesClient) => Promise<T>): Promise<T> {
  const path = join(config.paths.run, 'dns.sock')
  const problem = await connectError(path)
  if (problem === 'EACCES') throw new CliError('HG-1110', `this user may not use the DNS process's socket: ${path}`)
  if (problem !== undefined) throw new CliError('HG-1112', `no DNS process answers on ${path}`)
  const client = createClient(Names, path)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CliError('HG-1104', `no answer from the DNS process within ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS)
  })
  try {
    const answered = use({
      list: (request) =>
        new Promise((resolve, reject) => {
          const found: KnownName[] = []
          const stream = client.listNames(request)
          stream.on('data', ({ names }) => found.push(...names))
          stream.on('end', () => resolve(found))
          stream.on('error', (error) => reject(asCliError(error as ServiceError)))
        }),
      forget: (request) => unary((callback) => client.forgetNames(request, callback)),
      selectors: (request) => unary((callback) => client.listNameSelectors(request, callback)),
    })
    return await Promise.race([answered, late])
  } finally {
    clearTimeout(timer)
    client.close()
  }
}

function unary<O>(ask: (callback: (error: ServiceError | null, value?: O) => void) => unknown): Promise<O> {
  return new Promise((resolve, reject) => {
    ask((error, value) => (error === null ? resolve(value as O) : reject(asCliError(error))))
  })
}

/** The service Names of api/local.proto: what is known, told by who knows it. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { type ServerWritableStream, type ServiceError, type sendUnaryData, status } from '@grpc/grpc-js'
import { NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import {
  ForgetNamesResponseSchema,
  KnownNameSchema,
  ListNameSelectorsResponseSchema,
  type ListNamesRequest,
  type ListNamesResponse,
  ListNamesResponseSchema,
  Names,
} from '#api/gen/headgate/v1/local_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { compileNamePattern, isMatchPattern } from '#parsers/dns/name-pattern.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import type { LearnedNames } from './learned-names.ts'

/** Names of one message, and between two answers to queries. */
const PAGE_COUNT = 1000

export interface NamesBackend {
  /** Undefined while the agent has not said yet what to learn for. */
  names(): LearnedNames | undefined
  metrics(): Readonly<Record<string, number>>
}

/** @returns what ends it @throws ApiError when the socket cannot be had */
export async function serveNames(path: string, group: string, backend: NamesBackend): Promise<() => void> {
  const server = createServer()
  const unary =
    <I, O>(run: (request: I) => O) =>
    (call: { request: I }, callback: sendUnaryData<O>): void => {
      try {
        callback(null, run(call.request))
      } catch (error) {
        callback(serviceError(error))
      }
    }
  addService(server, Names, {
    listNames: (call) => {
      list(call, backend).catch((error: unknown) => call.emit('error', serviceError(error)))
    },
    forgetNames: unary(({ pattern }) => {
      const isMeant = matcherOf(pattern)
      return create(ForgetNamesResponseSchema, { nameCount: backend.names()?.forget(isMeant) ?? 0 })
    }),
    listNameSelectors: unary(() =>
      create(ListNameSelectorsResponseSchema, {
        selectors: (backend.names()?.selectors() ?? []).map(({ id, rule, nameCount, addressCount }) => ({
          selector: create(NameSelectorSchema, { id, ...rule }),
          nameCount,
          addressCount,
        })),
        metrics: Object.entries(backend.metrics()).map(([name, value]) => ({ name, value })),
      }),
    ),
  })
  await listenOnSocket(server, path, { mode: 0o660, group })
  return () => closeServer(server, path)
}

async function list(call: ServerWritableStream<ListNamesRequest, ListNamesResponse>, backend: NamesBackend): Promise<void> {
  const isMeant = matcherOf(call.request.pattern)
  const nowMs = performance.now()
  // A reader that went away ends the wait for it.
  const gone = once(call, 'cancelled').catch(() => {})
  let page = create(ListNamesResponseSchema)
  let count = 0
  for (const { name, address, endpointId, expiresMs, isZombie, selectors } of backend.names()?.known() ?? []) {
    if (++count % PAGE_COUNT === 0) await turn()
    if (call.cancelled) return
    if (!isMeant(name)) continue
    page.names.push(
      create(KnownNameSchema, {
        name,
        address: bytesToAddress(address),
        endpointId,
        ttlSeconds: Math.max(0, Math.ceil((expiresMs - nowMs) / 1000)),
        zombie: isZombie,
        selectors: [...selectors],
      }),
    )
    if (page.names.length < PAGE_COUNT) continue
    const isTaken = call.write(page)
    page = create(ListNamesResponseSchema)
    if (!isTaken) await Promise.race([once(call, 'drain'), gone])
  }
  call.write(page)
  call.end()
}

function matcherOf(pattern: string): (name: string) => boolean {
  if (pattern === '') return () => true
  if (!isMatchPattern(pattern)) throw new RangeError(`not a pattern of names: ${pattern}`)
  return compileNamePattern(pattern, 'queries')
}

function serviceError(error: unknown): Pick<ServiceError, 'code' | 'details'> {
  const details = error instanceof Error ? error.message : String(error)
  return { code: error instanceof RangeError ? status.INVALID_ARGUMENT : status.INTERNAL, details }
}

/**
 * `headgate envoy`: becomes Envoy. It takes the lock that only one Envoy of an instance may hold, waits for the namespaces and for the
 * proxy's socket, writes the bootstrap, moves into the egress namespace and executes the stock binary in its own place, so that
 * whoever supervises it supervises Envoy itself.
 */
import { existsSync, rmSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname } from 'node:path'
import { readNamespaces } from '#api/netns-file.ts'
import { isAnswering } from '#api/unix-socket.ts'
import { createLogger } from '#config/log.ts'
import type { Config } from '#config/schema.ts'
import { acquireLock } from '#sys/flock.ts'
import { enterNetns } from '#sys/netns.ts'
import { waitInFolder } from '#sys/wait-in-folder.ts'
import { resetReceived } from '../access-log/received.ts'
import { writeDurablySync } from '../durable-file.ts'
import { ProxyError } from '../errors.ts'
import { proxyPaths } from '../paths.ts'
import { findEnvoy } from './binary.ts'
import { bootstrapOf } from './bootstrap.ts'

/** After this the supervisor is told, and tries again. */
const WAIT_MS_MAX = 30_000

/**
 * Returns only by throwing, or when the signal comes before Envoy is started.
 * @throws LockHeldError when an Envoy of this instance lives @throws ProxyError when what it needs does not come
 */
export async function runEnvoy(config: Config, signal?: AbortSignal): Promise<void> {
  const log = createLogger(config, 'envoy')
  const paths = proxyPaths(config)
  const binary = findEnvoy(config.envoy.binary)
  acquireLock(paths.envoyLock, { inheritable: true })
  const wait = { signal, timeoutMs: WAIT_MS_MAX }

  const namespaces = await waitInFolder(dirname(paths.netns), () => readNamespaces(paths.netns), wait)
  if (signal?.aborted) return
  if (namespaces === undefined) throw new ProxyError('HG-5002', `the namespaces of the proxies are not there: ${paths.netns}`)
  const answering = await waitInFolder(dirname(paths.xds), async () => (await isAnswering(paths.xds)) || undefined, wait)
  if (signal?.aborted) return
  if (answering === undefined) throw new ProxyError('HG-5003', `the proxy does not answer: ${paths.xds}`)

  const nodeId = config.nodeName === '' ? hostname() : config.nodeName
  const bootstrap = bootstrapOf({
    nodeId,
    xdsSocket: paths.xds,
    adminSocket: paths.envoyAdmin,
    closesThroughFilters: config.l7Transport === 'ext-proc',
  })
  writeDurablySync(paths.envoyBootstrap, JSON.stringify(bootstrap, undefined, 2))
  resetReceived(paths.flowsReceived)
  // A socket that a killed Envoy left would keep this one from binding its own.
  if (existsSync(paths.envoyAdmin)) rmSync(paths.envoyAdmin)

  const args = envoyArguments(config, paths.envoyBootstrap)
  log.info({ binary, netns: namespaces.egress }, 'starting envoy')
  enterNetns(namespaces.egress)
  process.execve?.(binary, [binary, ...args])
  throw new ProxyError('HG-5004', `envoy cannot be run: ${binary}`)
}

/** The command line of Envoy, without its name. */
export function envoyArguments({ envoy }: Config, bootstrapPath: string): string[] {
  return [
    ...['--config-path', bootstrapPath],
    ...['--concurrency', String(envoy.concurrency)],
    ...['--log-level', envoy.logLevel],
    // A listener that is removed lives on for its open connections this long, and no longer.
    ...['--drain-time-s', String(envoy.drainTimeSeconds)],
    ...['--drain-strategy', 'immediate'],
    // Sockets cannot be handed over while their marks tell which slot they belong to; a restart is fast and fails closed.
    '--disable-hot-restart',
  ]
}

/**
 * `headgate dns-proxy`: judges the DNS queries that policy sends here, and learns what the names of toFQDNs stand for. Rules come from the
 * agent and are kept on disk; what was learned is in the kernel. It can die at any moment: connections and what is known go on, and
 * queries are answered again as soon as the next one is there.
 */
import { create } from '@bufbuild/protobuf'
import type { Logger } from 'pino'
import { ControlClient } from '#api/control-client.ts'
import { FlowReporter } from '#api/flow-reporter.ts'
import { DnsReportSchema } from '#api/gen/headgate/v1/control_pb.js'
import { listeningNumber } from '#api/listening.ts'
import { readNamespaces } from '#api/netns-file.ts'
import { snapshotWriter } from '#api/snapshot-file.ts'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { acquireLock } from '#sys/flock.ts'
import { shrinkMemory } from '#sys/memory.ts'
import { inNetns } from '#sys/netns.ts'
import { DescriptorKeeping, takeKeptDescriptor } from '#sys/service-manager.ts'
import type { UdpSocket } from '#sys/udp.ts'
import { waitInFolder } from '#sys/wait-in-folder.ts'
import { DesiredState, type StateChange } from './desired-state.ts'
import { metricsOf } from './names-metrics.ts'
import { serveNames } from './names-server.ts'
import { dnsPaths } from './paths.ts'
import { PreCache, readPreCache } from './pre-cache.ts'
import { openQuerySocket, QUERY_SOCKET_NAME } from './query-socket.ts'
import { Serving } from './serving.ts'
import { SlotTable } from './slot-rules.ts'

/** What the start needed is given back in a time without queries: it takes a tenth of a second. */
const SHRINK_INTERVAL_MS = 3000
/** For queries on their way when the process is asked to end. */
const DRAIN_MS = 2000

/**
 * Runs until the signal.
 * @throws LockHeldError when another DNS process serves this instance
 */
export async function runDnsProxy(config: Config, signal: AbortSignal): Promise<void> {
  const log = createLogger(config, 'dnsProxy')
  const paths = dnsPaths(config)
  const version = packageVersion()
  const lock = acquireLock(paths.lock)
  const desired = new DesiredState(paths.desired)
  const slots = new SlotTable()
  let serving: Serving | undefined
  let appliedRevision = 0n
  let problem = ''

  // The agent hears of everything until the last answer has gone.
  const ended = new AbortController()
  const control = new ControlClient({
    socketPath: paths.control,
    signal: ended.signal,
    open: (client) => client.syncDns(),
    reportSchema: DnsReportSchema,
    report: () =>
      create(DnsReportSchema, {
        epoch: desired.epoch,
        appliedRevision,
        version,
        pid: process.pid,
        listening: (serving?.listening() ?? []).map(({ id, generation }) => listeningNumber(id, generation)),
        problem,
      }),
    onUpdate: (update) => {
      const change = desired.apply(update)
      log.debug({ epoch: update.epoch, revision: update.revision, full: update.full, applied: change !== undefined }, 'update of the agent')
      if (change === undefined) return false
      bringIn(change)
      void persist()
      return true
    },
    onConnection: (connected, reason) => log.info({ reason }, connected ? 'connected to the agent' : 'connection to the agent lost'),
  })
  const flows = new FlowReporter('dns', control.client, ended.signal)

  const bringIn = (change: StateChange): void => {
    slots.change(change.slots)
    try {
      if (serving === undefined || serving.mapsFolder !== desired.mapsFolder) {
        serving?.close()
        serving = undefined
        serving = start()
        serving?.change(desired.everything())
      } else serving.change(change)
      problem = ''
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error)
      log.error({ err: error }, 'what the agent states cannot be brought in')
    }
    if (serving !== undefined && problem === '') appliedRevision = desired.revision
    control.touch()
  }

  let keptFd = takeKeptDescriptor(QUERY_SOCKET_NAME)
  const keeping = new DescriptorKeeping((error) => log.warn({ err: error }, 'queries that come during a restart are not kept'))
  let queries: UdpSocket | undefined
  /** The same one for as long as this process lives, whatever changes behind it. */
  const querySocket = (run: <T>(run: () => T) => T): UdpSocket => {
    if (queries !== undefined) return queries
    // Whatever becomes of it, it is not ours a second time.
    const fd = keptFd
    keptFd = undefined
    queries = openQuerySocket(fd, run)
    keeping.keep(QUERY_SOCKET_NAME, queries.fd)
    return queries
  }

  const namespaces = await waitInFolder(config.paths.run, () => readNamespaces(paths.netns), { signal })
  const start = (): Serving | undefined => {
    if (namespaces === undefined || desired.mapsFolder === '') return undefined
    const runInNetns = <T>(run: () => T): T => inNetns(namespaces.egress, run)
    return new Serving({
      config,
      slots,
      flows,
      desired,
      preCache,
      journalPath: paths.names,
      log,
      queries: querySocket(runInNetns),
      inNetns: runInNetns,
      onListening: () => control.touch(),
    })
  }

  /** Judging does not wait for the disk: the agent has them all. */
  const persist = snapshotWriter(desired, {
    onError: (error) => log.error({ err: error }, 'what the agent states cannot be written to disk'),
  })

  if (signal.aborted) return
  const preCache = loadPreCache(config.dns.tofqdnsPreCache, log)
  const restored = loadDesired(desired, log)
  if (restored !== undefined) bringIn(restored)
  // Queries are answered without it.
  const namesServer = serveNames(paths.socket, config.group, {
    names: () => serving?.names,
    metrics: () => metricsOf(serving),
  }).catch((error: unknown) => {
    log.error({ err: error }, 'what is learned cannot be asked for')
    return () => {}
  })
  let receivedBefore = -1
  const shrinking = setInterval(() => {
    const { received = 0 } = serving?.queryCounts ?? {}
    const isQuiet = received === receivedBefore
    receivedBefore = received
    if (!isQuiet) return
    clearInterval(shrinking)
    shrinkMemory()
  }, SHRINK_INTERVAL_MS).unref()
  log.info({ revision: desired.revision, slots: desired.slots.size }, 'DNS process is up')
  const end = async (): Promise<void> => {
    await serving?.drain(DRAIN_MS)
    ended.abort()
  }
  signal.addEventListener('abort', () => void end(), { once: true })
  try {
    await Promise.all([control.run(), flows.run()])
  } finally {
    clearInterval(shrinking)
    const closeNames = await namesServer
    closeNames()
    serving?.close()
    queries?.close()
    keeping.close()
    lock.release()
  }
}

/** A damaged copy is as good as none: what is learned is in the kernel, and the agent tells everything again as soon as it is there. */
function loadDesired(desired: DesiredState, log: Logger): StateChange | undefined {
  try {
    return desired.load()
  } catch (error) {
    log.error({ err: error }, 'the copy of what the agent stated cannot be read: no query is answered before the agent states it again')
    return undefined
  }
}

function loadPreCache(path: string, log: Logger): PreCache | undefined {
  if (path === '') return undefined
  const { names, problems } = readPreCache(path)
  for (const problem of problems) log.error({ path, problem }, 'the precache of names cannot be used')
  return new PreCache(names, performance.now())
}

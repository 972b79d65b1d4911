/**
 * A worker of the relay: takes connections of Envoy and parses them. Its parent starts it again when it dies. When the parent is no more, it
 * serves until a worker of the next one has its place, which takes over the socket's name in one step; then, and when it is asked to end, it
 * takes no more connections, and ends with the last that it has.
 */
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { ControlClient } from '#api/control-client.ts'
import { FlowReporter } from '#api/flow-reporter.ts'
import { CountsSource, RelayReportSchema } from '#api/gen/headgate/v1/control_pb.js'
import { readNamespaces } from '#api/netns-file.ts'
import { snapshotWriter } from '#api/snapshot-file.ts'
import { inodeOf } from '#api/socket-path.ts'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { LockHeldError } from '#sys/errors.ts'
import { acquireLock, type Lock } from '#sys/flock.ts'
import { inNetns } from '#sys/netns.ts'
import { waitInFolder } from '#sys/wait-in-folder.ts'
import { reportCounts } from '../../counts-reporter.ts'
import { proxyPaths, relayPaths } from '../../paths.ts'
import { serveGrpc } from '../grpc/grpc-framing.ts'
import { networkService } from '../network/network-service.ts'
import { RelayServer } from '../relay/server.ts'
import { UserParsers } from '../user-parsers/user-parsers.ts'
import { closedFlow, isReported, type RequestRecord, requestFlow } from './flows.ts'
import { ParentLifeline } from './lifeline.ts'
import { ParserHost } from './parser-host.ts'
import { RequestCounter } from './request-counter.ts'
import { RelaySlots } from './slots.ts'
import { type RelayChange, RelayState } from './state.ts'

/** For the agent to say what is in force now, before connections are taken by what was in force the last time. */
const AGENT_WAIT_MS = 1000

const LOAD_WAIT_MS = 1000
/** For an extension host to come, when the last one is gone. */
const SUCCESSOR_WAIT_MS = 60_000
/** For the worker before to see that its parent is gone, and to let go of its number; one that does not hangs. */
const NUMBER_WAIT_MS = 5000
const NUMBER_RETRY_MS = 50
/** For connections that Envoy made by the name before another took it. */
const BACKLOG_WAIT_MS = 100
/** A line for people. */
const PROBLEM_LENGTH_MAX = 1000

/** How connections come from Envoy. */
interface Transport {
  /** Takes no more. */
  stop(): void
  close(): void | Promise<void>
}

/**
 * Runs until the signal, or until another has its place, and then until its connections have ended or their time is over.
 * @throws LockHeldError when another keeps its number
 */
export async function runRelayWorker(config: Config, worker: number, signal: AbortSignal): Promise<void> {
  const parent = new ParentLifeline()
  const log = createLogger(config, 'relay')
  const allPaths = proxyPaths(config)
  const paths = relayPaths(allPaths, worker)
  const version = packageVersion()
  for (const path of [paths.socket, paths.state]) mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const lock = await takeNumber(paths.lock)
  const stopped = new AbortController()
  const state = new RelayState(paths.state)
  const userParsers = new UserParsers({
    folder: config.paths.parsers,
    limits: { ...config.parsers, root: allPaths.parserRoot },
    onChange: () => control.touch(),
    onLine: (parser, line) => log.info({ parser }, line),
  })
  const slots = new RelaySlots(config.kafka.mixedRequests, userParsers, ({ id }, error) => {
    log.error({ slot: id, err: error }, 'the rules of a slot cannot be used: it takes nobody')
  })
  const counter = new RequestCounter(worker, config.kafka.topicCountersMax)
  const host = new ParserHost({
    slots,
    onRecord: (connection, told) => {
      const record = told as RequestRecord
      counter.count(record)
      if (isReported(record, config.flows)) flows.add(requestFlow(connection, record))
    },
    onFailure: (connection, reason) => {
      counter.countFailure()
      flows.add(closedFlow(connection, reason))
    },
    onRefused: (reason) => log.warn({ reason }, 'a connection was refused'),
  })
  let server: Transport | undefined
  let appliedRevision = 0n
  const stated = Promise.withResolvers<void>()
  let isServing = false
  /** Whether the copy on disk is this one's to write. */
  let keepsState = true

  const bringIn = async (change: RelayChange): Promise<void> => {
    slots.changeEndpoints(change.endpoints)
    host.end(slots.change(change.slots))
    const { epoch, revision } = state
    // One that does not load is not waited for: others are to be served.
    await Promise.race([userParsers.loaded(), delay(LOAD_WAIT_MS)])
    // Of a later one, somebody else says so.
    if (state.epoch !== epoch || state.revision !== revision) return
    appliedRevision = revision
    control.touch()
  }
  const problem = (): string => [...slots.problems(), ...userParsers.problems()].join('; ').slice(0, PROBLEM_LENGTH_MAX)
  const control = new ControlClient({
    socketPath: allPaths.control,
    signal: stopped.signal,
    open: (client) => client.syncRelay(),
    reportSchema: RelayReportSchema,
    report: () =>
      create(RelayReportSchema, {
        epoch: state.epoch,
        appliedRevision,
        version,
        pid: process.pid,
        worker,
        problem: problem(),
        takesNone: !isServing,
      }),
    onUpdate: (update) => {
      const change = state.apply(update)
      log.debug({ epoch: update.epoch, revision: update.revision, full: update.full, applied: change !== undefined }, 'update of the agent')
      if (change === undefined) return false
      void bringIn(change)
      stated.resolve()
      if (keepsState) void persist()
      return true
    },
    onConnection: (connected, reason) => log.info({ reason }, connected ? 'connected to the agent' : 'connection to the agent lost'),
  })
  /** Judging does not wait for the disk: the agent has them all. */
  const persist = snapshotWriter(state, {
    onError: (error) => log.error({ err: error }, 'what the agent states cannot be written to disk'),
  })

  const serve = async (egressNetns: string): Promise<Transport> => {
    if (config.l7Transport === 'ext-proc') {
      return await serveGrpc(paths.socket, {
        methods: [networkService(host)],
        replaces: true,
        onError: (error) => log.error({ err: error }, 'a connection could not be judged'),
      })
    }
    const relay = new RelayServer({ path: paths.socket, host, inNetns: (run) => inNetns(egressNetns, run) })
    await relay.listen()
    return relay
  }

  const flows = new FlowReporter('relayed', control.client, stopped.signal)
  const replaced = new AbortController()
  let counting: Promise<void> | undefined
  const startCounting = (): Promise<void> =>
    reportCounts({
      client: control.client,
      signal: AbortSignal.any([stopped.signal, replaced.signal]),
      source: CountsSource.RELAY,
      worker,
      read: async (totalsOnly) => counter.report(totalsOnly),
    })
  try {
    const restored = state.load()
    if (restored !== undefined) void bringIn(restored)
  } catch (error) {
    log.error({ err: error }, 'the copy of what the agent stated cannot be read')
  }
  const controlling = Promise.all([control.run(), flows.run()])
  const ended = AbortSignal.any([signal, parent.ended])
  try {
    const namespaces = await waitInFolder(config.paths.run, () => readNamespaces(allPaths.netns), { signal: ended })
    await Promise.race([stated.promise, delay(AGENT_WAIT_MS)])
    if (namespaces === undefined || ended.aborted) return
    server = await serve(namespaces.egress)
    log.info({ worker, revision: state.revision }, 'relaying')
    isServing = true
    control.touch()
    parent.ready()
    counting = startCounting()
    const inode = inodeOf(paths.socket)
    await aborted(ended)
    // The number, and with it the socket's name, is another's from now on.
    keepsState = false
    lock.release()
    if (!signal.aborted) {
      log.info({ worker }, 'serving until there is another worker')
      const isReplaced = (): true | undefined => (inodeOf(paths.socket) === inode ? undefined : true)
      await waitInFolder(dirname(paths.socket), isReplaced, { signal, timeoutMs: SUCCESSOR_WAIT_MS })
      replaced.abort()
      await delay(BACKLOG_WAIT_MS)
    }
    server.stop()
    isServing = false
    control.touch()
    // For what Envoy began before it knew.
    await delay(BACKLOG_WAIT_MS)
    await host.idle(config.relay.drainSeconds * 1000)
  } finally {
    await server?.close()
    userParsers.close()
    stopped.abort()
    await Promise.all([controlling, counting])
  }
}

/**
 * There is one extension host, and it has one worker of each number: who else has it is of an extension host that is gone.
 * @throws LockHeldError
 */
async function takeNumber(path: string): Promise<Lock> {
  const deadline = performance.now() + NUMBER_WAIT_MS
  for (;;) {
    try {
      return acquireLock(path)
    } catch (error) {
      if (!(error instanceof LockHeldError)) throw error
      if (performance.now() > deadline + NUMBER_WAIT_MS) throw error
      if (performance.now() > deadline && error.holderPid > 0) kill(error.holderPid)
    }
    await delay(NUMBER_RETRY_MS)
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // It ended just now.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

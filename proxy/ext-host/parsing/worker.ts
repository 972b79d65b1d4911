/**
 * A worker of the relay: takes connections of Envoy and parses them. Its parent starts it again when it dies. When the parent is no more, it
 * serves until a worker of the next one has its place, which takes over the socket's name in one step; then, and when it is asked to end, it
 * takes no more connections, and ends with the last that it has.
 */
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import type { Logger } from 'pino'
import { ControlClient } from '#api/control-client.ts'
import { FlowReporter } from '#api/flow-reporter.ts'
import { CountsSource, type RelayReport, RelayReportSchema, type RelayUpdate } from '#api/gen/headgate/v1/control_pb.js'
import { readNamespaces } from '#api/netns-file.ts'
import { snapshotWriter } from '#api/snapshot-file.ts'
import { inodeOf } from '#api/socket-path.ts'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { aborted } from '#sys/aborted.ts'
import { inNetns } from '#sys/netns.ts'
import { waitInFolder } from '#sys/wait-in-folder.ts'
import { reportCounts } from '../../counts-reporter.ts'
import { type ProxyPaths, proxyPaths, relayPaths } from '../../paths.ts'
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
import { takeNumber } from './worker-number.ts'

/** For the agent to say what is in force now, before connections are taken by what was in force the last time. */
const AGENT_WAIT_MS = 1000

const LOAD_WAIT_MS = 1000
/** For an extension host to come, when the last one is gone. */
const SUCCESSOR_WAIT_MS = 60_000
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
export async function runRelayWorker(config: Config, number: number, signal: AbortSignal): Promise<void> {
  await new RelayWorker(config, number).run(signal)
}

class RelayWorker {
  readonly #config: Config
  readonly #number: number
  readonly #parent = new ParentLifeline()
  /** Of the code that runs, whatever stands on disk by now. */
  readonly #version = packageVersion()
  readonly #log: Logger
  readonly #allPaths: ProxyPaths
  readonly #paths: ReturnType<typeof relayPaths>
  readonly #state: RelayState
  readonly #userParsers: UserParsers
  readonly #slots: RelaySlots
  readonly #counter: RequestCounter
  readonly #host: ParserHost
  readonly #control: ControlClient<RelayReport, RelayUpdate>
  readonly #flows: FlowReporter<'relayed'>
  readonly #persist: () => Promise<void>
  readonly #stopped = new AbortController()
  readonly #replaced = new AbortController()
  /** The agent has said what is in force. */
  readonly #stated = Promise.withResolvers<void>()
  #appliedRevision = 0n
  #isServing = false
  /** Whether the copy on disk is this one's to write. */
  #keepsState = true

  constructor(config: Config, number: number) {
    this.#config = config
    this.#number = number
    this.#log = createLogger(config, 'relay')
    this.#allPaths = proxyPaths(config)
    this.#paths = relayPaths(this.#allPaths, number)
    this.#state = new RelayState(this.#paths.state)
    this.#userParsers = new UserParsers({
      folder: config.paths.parsers,
      limits: { ...config.parsers, root: this.#allPaths.parserRoot },
      onChange: () => this.#control.touch(),
      onLine: (parser, line) => this.#log.info({ parser }, line),
    })
    this.#slots = new RelaySlots(config.kafka.mixedRequests, this.#userParsers, ({ id }, error) => {
      this.#log.error({ slot: id, err: error }, 'the rules of a slot cannot be used: it takes nobody')
    })
    this.#counter = new RequestCounter(number, config.kafka.topicCountersMax)
    this.#host = this.#makeHost()
    this.#control = this.#makeControl()
    this.#flows = new FlowReporter('relayed', this.#control.client, this.#stopped.signal)
    // Judging does not wait for the disk: the agent has them all.
    this.#persist = snapshotWriter(this.#state, {
      onError: (error) => this.#log.error({ err: error }, 'what the agent states cannot be written to disk'),
    })
  }

  /** @throws LockHeldError */
  async run(signal: AbortSignal): Promise<void> {
    for (const path of [this.#paths.socket, this.#paths.state]) mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const lock = await takeNumber(this.#paths.lock)
    this.#restore()
    const controlling = Promise.all([this.#control.run(), this.#flows.run()])
    const ended = AbortSignal.any([signal, this.#parent.ended])
    let server: Transport | undefined
    let counting: Promise<void> | undefined
    try {
      const namespaces = await waitInFolder(this.#config.paths.run, () => readNamespaces(this.#allPaths.netns), { signal: ended })
      await Promise.race([this.#stated.promise, delay(AGENT_WAIT_MS)])
      if (namespaces === undefined || ended.aborted) return
      server = await this.#serve(namespaces.egress)
      const inode = inodeOf(this.#paths.socket)
      this.#log.info({ worker: this.#number, revision: this.#state.revision }, 'relaying')
      this.#isServing = true
      this.#control.touch()
      this.#parent.ready()
      counting = this.#reportCounts()
      await aborted(ended)
      // The number, and with it the socket's name, is another's from now on.
      this.#keepsState = false
      lock.release()
      if (!signal.aborted) await this.#untilReplaced(inode, signal)
      server.stop()
      this.#isServing = false
      this.#control.touch()
      // For what Envoy began before it knew.
      await delay(BACKLOG_WAIT_MS)
      await this.#host.idle(this.#config.relay.drainSeconds * 1000)
    } finally {
      await server?.close()
      this.#userParsers.close()
      this.#stopped.abort()
      await Promise.all([controlling, counting])
    }
  }

  #makeHost(): ParserHost {
    return new ParserHost({
      slots: this.#slots,
      onRecord: (connection, told) => {
        const record = told as RequestRecord
        this.#counter.count(record)
        if (isReported(record, this.#config.flows)) this.#flows.add(requestFlow(connection, record))
      },
      onFailure: (connection, reason) => {
        this.#counter.countFailure()
        this.#flows.add(closedFlow(connection, reason))
      },
      onRefused: (reason) => this.#log.warn({ reason }, 'a connection was refused'),
    })
  }

  #makeControl(): ControlClient<RelayReport, RelayUpdate> {
    return new ControlClient({
      socketPath: this.#allPaths.control,
      signal: this.#stopped.signal,
      open: (client) => client.syncRelay(),
      reportSchema: RelayReportSchema,
      report: () => this.#report(),
      onUpdate: (update) => this.#onUpdate(update),
      onConnection: (connected, reason) =>
        this.#log.info({ reason }, connected ? 'connected to the agent' : 'connection to the agent lost'),
    })
  }

  #report(): RelayReport {
    const problems = [...this.#slots.problems(), ...this.#userParsers.problems()]
    return create(RelayReportSchema, {
      epoch: this.#state.epoch,
      appliedRevision: this.#appliedRevision,
      version: this.#version,
      pid: process.pid,
      worker: this.#number,
      problem: problems.join('; ').slice(0, PROBLEM_LENGTH_MAX),
      takesNone: !this.#isServing,
    })
  }

  /** @returns whether it fits what is known */
  #onUpdate(update: RelayUpdate): boolean {
    const { epoch, revision, full } = update
    const change = this.#state.apply(update)
    this.#log.debug({ epoch, revision, full, applied: change !== undefined }, 'update of the agent')
    if (change === undefined) return false
    void this.#bringIn(change)
    this.#stated.resolve()
    if (this.#keepsState) void this.#persist()
    return true
  }

  async #bringIn(change: RelayChange): Promise<void> {
    this.#slots.changeEndpoints(change.endpoints)
    this.#host.end(this.#slots.change(change.slots))
    const { epoch, revision } = this.#state
    // One that does not load is not waited for: others are to be served.
    await Promise.race([this.#userParsers.loaded(), delay(LOAD_WAIT_MS)])
    // Of a later one, somebody else says so.
    if (this.#state.epoch !== epoch || this.#state.revision !== revision) return
    this.#appliedRevision = revision
    this.#control.touch()
  }

  #restore(): void {
    try {
      const restored = this.#state.load()
      if (restored !== undefined) void this.#bringIn(restored)
    } catch (error) {
      this.#log.error({ err: error }, 'the copy of what the agent stated cannot be read')
    }
  }

  async #serve(egressNetns: string): Promise<Transport> {
    const path = this.#paths.socket
    if (this.#config.l7Transport === 'ext-proc') {
      return await serveGrpc(path, {
        methods: [networkService(this.#host)],
        replaces: true,
        onError: (error) => this.#log.error({ err: error }, 'a connection could not be judged'),
      })
    }
    const relay = new RelayServer({ path, host: this.#host, inNetns: (run) => inNetns(egressNetns, run) })
    await relay.listen()
    return relay
  }

  #reportCounts(): Promise<void> {
    return reportCounts({
      client: this.#control.client,
      signal: AbortSignal.any([this.#stopped.signal, this.#replaced.signal]),
      source: CountsSource.RELAY,
      worker: this.#number,
      read: async (totalsOnly) => this.#counter.report(totalsOnly),
    })
  }

  /** The parent is gone: serves until a worker of the next one has put its socket in place of this one's. */
  async #untilReplaced(inode: bigint | undefined, signal: AbortSignal): Promise<void> {
    const path = this.#paths.socket
    this.#log.info({ worker: this.#number }, 'serving until there is another worker')
    const isReplaced = (): true | undefined => (inodeOf(path) === inode ? undefined : true)
    await waitInFolder(dirname(path), isReplaced, { signal, timeoutMs: SUCCESSOR_WAIT_MS })
    this.#replaced.abort()
    await delay(BACKLOG_WAIT_MS)
  }
}

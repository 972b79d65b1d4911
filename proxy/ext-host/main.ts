/**
 * `headgate ext-host`: judges for Envoy what Envoy cannot judge itself, such as whether a header is a secret. Rulesets come from the
 * agent and are kept on disk; secrets are read where they are and stay here. It can die at any moment: requests that need it are refused
 * until the next one answers, all others go on.
 */
import { create } from '@bufbuild/protobuf'
import { ControlClient } from '#api/control-client.ts'
import { CountsSource, ExtHostReportSchema } from '#api/gen/headgate/v1/control_pb.js'
import { snapshotWriter } from '#api/snapshot-file.ts'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { acquireLock } from '#sys/flock.ts'
import { shrinkMemory } from '#sys/memory.ts'
import { reportCounts } from '../counts-reporter.ts'
import { proxyPaths, relayPaths, relayWorkers } from '../paths.ts'
import { serveGrpc } from './grpc/grpc-framing.ts'
import { httpService } from './http/http-service.ts'
import { RulesetStore } from './http/ruleset-store.ts'
import { Rulesets } from './http/rulesets.ts'
import { SecretFolder } from './http/secrets.ts'
import { RelayWorkers } from './parsing/workers.ts'
import { VerdictCounter } from './verdict-counter.ts'

const SHRINK_AFTER_MS = 3000

export interface ExtHostOptions {
  readonly signal: AbortSignal
  /** Starts a worker of the relay, when its number is added; absent: there is no relay. */
  readonly workerCommand?: readonly string[]
  /** When the signal came: whether another extension host follows, until whose workers those of this one serve. */
  readonly isFollowed?: () => boolean
}

/**
 * Runs until the signal.
 * @throws LockHeldError when another extension host serves this instance @throws ProxyError when its state cannot be read
 */
export async function runExtHost(config: Config, { signal, workerCommand, isFollowed = () => false }: ExtHostOptions): Promise<void> {
  const log = createLogger(config, 'extHost')
  const paths = proxyPaths(config)
  const version = packageVersion()
  const lock = acquireLock(paths.extHostLock)
  const store = new RulesetStore(paths.extHostRulesets)
  store.load()

  const socketOf = (worker: number): string => relayPaths(paths, worker).socket
  const workers = workerCommand && new RelayWorkers({ command: workerCommand, socketOf, log })
  const secrets = new SecretFolder(config.paths.secrets, () => {
    for (const { secret, reason } of secrets.problems)
      log.warn({ namespace: secret.namespace, name: secret.name, reason }, 'no such secret')
    control.touch()
  })
  const rulesets = new Rulesets(secrets.valueOf, (key, error) => log.error({ key, err: error }, 'a ruleset cannot be judged by'))
  const bringIn = (): void => {
    rulesets.set(store.rulesets)
    secrets.want(rulesets.secrets())
    if (store.isRelayNeeded) void workers?.start(relayWorkers(config))
  }

  let appliedRevision = 0n
  const control = new ControlClient({
    socketPath: paths.control,
    signal,
    open: (client) => client.syncExtHost(),
    reportSchema: ExtHostReportSchema,
    report: () =>
      create(ExtHostReportSchema, {
        epoch: store.epoch,
        appliedRevision,
        version,
        pid: process.pid,
        secretProblems: secrets.problems,
      }),
    onUpdate: (update) => {
      const { epoch, revision, full } = update
      const applied = store.apply(update)
      log.debug({ epoch, revision, full, rulesets: update.rulesets.length, applied }, 'update of the agent')
      if (!applied) return false
      bringIn()
      appliedRevision = store.revision
      control.touch()
      void persist()
      return true
    },
    onConnection: (connected, reason) => log.info({ reason }, connected ? 'connected to the agent' : 'connection to the agent lost'),
  })

  /** Judging does not wait for the disk: the agent has them all. */
  const persist = snapshotWriter(store, { onError: (error) => log.error({ err: error }, 'the rulesets cannot be written to disk') })

  bringIn()
  appliedRevision = store.revision
  const counter = new VerdictCounter(CountsSource.EXT_HOST)
  const read = async (totalsOnly: boolean) => counter.report(totalsOnly)
  const server = await serveGrpc(paths.extHost, {
    methods: [httpService({ rulesetOf: (key) => rulesets.get(key), counter })],
    onError: (error) => log.error({ err: error }, 'a request could not be judged'),
  })
  setTimeout(shrinkMemory, SHRINK_AFTER_MS).unref()
  log.info({ revision: store.revision, rulesets: store.rulesets.size }, 'serving envoy')
  try {
    await Promise.all([control.run(), reportCounts({ client: control.client, signal, source: CountsSource.EXT_HOST, read })])
  } finally {
    await Promise.all([server.close(), isFollowed() ? workers?.leave() : workers?.close()])
    secrets.close()
    lock.release()
  }
}

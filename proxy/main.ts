/**
 * `headgate proxy`: the control plane of this node's Envoy. Slots come from the agent, are written to disk, and go to Envoy; what
 * Envoy took or refused goes back. It can die at any moment: Envoy keeps what it has, and the next one goes on from the copy on disk.
 */
import { dirname } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { ControlClient } from '#api/control-client.ts'
import { FlowReporter } from '#api/flow-reporter.ts'
import { CountsSource, ProxyCapability, ProxyReportSchema } from '#api/gen/headgate/v1/control_pb.js'
import { closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { listeningNumber } from '#api/listening.ts'
import { readNamespaces } from '#api/netns-file.ts'
import { snapshotWriter } from '#api/snapshot-file.ts'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { acquireLock } from '#sys/flock.ts'
import { shrinkMemory } from '#sys/memory.ts'
import { waitInFolder } from '#sys/wait-in-folder.ts'
import { ReceivedEntries } from './access-log/received.ts'
import { registerAccessLog } from './access-log/server.ts'
import { reportCounts } from './counts-reporter.ts'
import { proxyPaths, relayPaths, relayWorkers } from './paths.ts'
import { Refusals } from './refusals.ts'
import { Rollout, type RolloutOptions } from './rollout.ts'
import { SlotStore } from './slot-store.ts'
import { readEnvoyCounts } from './verdict-counts.ts'
import type { ResourceSettings } from './xds/resources.ts'
import { XdsServer } from './xds/server.ts'

/** Late enough not to be in the way of an Envoy that waits for its configuration. */
const SHRINK_AFTER_MS = 3000

export interface ProxyOptions {
  /** Replaces settings that only tests set. */
  readonly resources?: Partial<ResourceSettings>
}

/**
 * Runs until the signal.
 * @throws LockHeldError when another proxy serves this instance @throws ProxyError when its state cannot be read
 */
export async function runProxy(config: Config, signal: AbortSignal, options: ProxyOptions = {}): Promise<void> {
  const log = createLogger(config, 'proxy')
  const paths = proxyPaths(config)
  const version = packageVersion()
  const lock = acquireLock(paths.proxyLock)
  const store = new SlotStore(paths.snapshot)
  store.load()
  const refusals = new Refusals(paths.refusals)
  refusals.load()

  const settings = await resourceSettings(config, signal, options)
  if (settings === undefined) return

  const rolloutOptions: RolloutOptions = {
    settings,
    refusals,
    publish: (snapshot) => xds.setSnapshot(snapshot),
    onProgress: () => control.touch(),
    onRefusal: ({ slotId, rules, reason }) =>
      log.warn({ slotId, rules: rules.length, reason }, 'envoy refused a part of the configuration'),
    onIgnored: (reason) => log.debug({ reason }, 'message of envoy ignored'),
  }
  const rollout = new Rollout(rolloutOptions)
  const xds = new XdsServer(rollout)
  const control = new ControlClient({
    socketPath: paths.control,
    signal,
    open: (client) => client.syncProxy(),
    reportSchema: ProxyReportSchema,
    report: () => {
      const { epoch, appliedRevision, listening, refused, connected, envoyVersion } = rollout.status()
      return create(ProxyReportSchema, {
        capabilities: [ProxyCapability.HTTP_DENY, ProxyCapability.HTTP_HEADER_MATCHES, ProxyCapability.RELAY],
        epoch,
        appliedRevision,
        refused: [...refused],
        listening: listening.map(({ id, generation }) => listeningNumber(id, generation)),
        envoyConnected: connected,
        envoyVersion,
        proxyVersion: version,
        pid: process.pid,
      })
    },
    onUpdate: (update) => {
      const applied = store.apply(update)
      log.debug(
        { epoch: update.epoch, revision: update.revision, full: update.full, slots: update.slots.length, applied },
        'update of the agent',
      )
      if (applied) void bringIn()
      return applied
    },
    onConnection: (connected, reason) => log.info({ reason }, connected ? 'connected to the agent' : 'connection to the agent lost'),
  })
  const flows = new FlowReporter('http', control.client, signal)
  const received = new ReceivedEntries(paths.flowsReceived)
  const read = (totalsOnly: boolean) =>
    readEnvoyCounts({ adminSocket: paths.envoyAdmin, totalsOnly, flowsReceived: () => received.current()?.count })

  /** Disk first, Envoy second; updates that come while the disk is busy are brought in together. */
  const bringIn = snapshotWriter(store, {
    onError: (error) => log.error({ err: error }, 'the slots cannot be written to disk'),
    onDone: () => {
      const change = store.takeChange()
      if (change !== undefined) rollout.apply(change)
    },
  })

  const server = createServer()
  xds.register(server)
  registerAccessLog(server, received, (flow) => flows.add(flow))
  const held = store.takeChange()
  if (held !== undefined) rollout.apply(held)
  await listenOnSocket(server, paths.xds, { mode: 0o600 })
  setTimeout(shrinkMemory, SHRINK_AFTER_MS).unref()
  log.info({ revision: store.revision, holdsSlots: store.holdsEpoch }, 'serving envoy')
  try {
    await Promise.all([control.run(), flows.run(), reportCounts({ client: control.client, signal, source: CountsSource.PROXY, read })])
  } finally {
    rollout.close()
    received.close()
    closeServer(server, paths.xds)
    lock.release()
  }
}

/** The namespaces are the agent's to make; nothing can be said to Envoy before they are there. @returns undefined when the signal came */
async function resourceSettings(config: Config, signal: AbortSignal, { resources }: ProxyOptions): Promise<ResourceSettings | undefined> {
  const paths = proxyPaths(config)
  const { netns, extHost } = paths
  const ingressNetns =
    resources !== undefined && 'ingressNetns' in resources
      ? resources.ingressNetns
      : (await waitInFolder(dirname(netns), () => readNamespaces(netns), { signal }))?.ingress
  if (signal.aborted) return undefined
  const { deniedBody: body, deniedStatus: status, extHostTimeoutMs, ruleCounters } = config.http
  const { mode, sampleRate } = config.flows
  const accessLog = { mode, sampleRate }
  return {
    ingressNetns,
    denied: { status, body },
    accessLog,
    ruleCounters,
    extHostSocket: extHost,
    extHostTimeoutMs,
    l7Transport: config.l7Transport,
    extProcKbps: config.networkExtProc.connectionKbps,
    relaySockets: relayWorkers(config).map((worker) => relayPaths(paths, worker).socket),
    ...resources,
  }
}

/**
 * The agent process, from lock to last goodbye: takes over what is in the kernel, reads what is wanted, serves its two sockets, and
 * then reacts to events. Ending it changes nothing on the wire.
 */
import { mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createLogger } from '#config/log.ts'
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { FlowRing } from '#flows/ring.ts'
import { PolicyEngine } from '#policy/engine.ts'
import { LabelFilter } from '#policy/label-filter.ts'
import { observesQueries, parseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { aborted } from '#sys/aborted.ts'
import { LockHeldError } from '#sys/errors.ts'
import { acquireLock } from '#sys/flock.ts'
import { shrinkMemory } from '#sys/memory.ts'
import { monitorLinks, Route } from '#sys/rtnetlink.ts'
import { Agent } from './agent.ts'
import { ControlServer } from './control-server.ts'
import { setUpDatapath } from './datapath/datapath.ts'
import { SlotAllocator } from './datapath/slots.ts'
import { carryConnections, recordLayout } from './datapath/takeover.ts'
import { AgentError } from './errors.ts'
import { FlowBuilder } from './flows/flow-builder.ts'
import { readKernelEvents } from './flows/kernel-events.ts'
import { serveLocal } from './local-server.ts'
import { IN_PLACE_QUIET_MS, PolicyFolder } from './policies/folder.ts'
import { FolderWatch, openWatcher } from './policies/folder-watch.ts'
import type { Workloads } from './workloads/file.ts'
import { EmbeddedAllocator } from './workloads/identities.ts'
import { WorkloadsFile } from './workloads/workloads-file.ts'

/** A file that is replaced is there at once. */
const FILE_QUIET_MS = 15
/** How long an upgrade waits for the proxy before it switches to maps in which some L7 rows still deny. */
const TAKEOVER_WAIT_MS = 5000

/** Device events come in bursts; what they mean is looked up once. */
const LINK_QUIET_MS = 5

/** Late enough not to be in the way of those who wait for the first verdict. */
const SHRINK_AFTER_MS = 3000

/** Runs until the signal aborts, on a machine that was found good (datapath/probes.ts). @throws AgentError when it cannot start, ConfigError HG-1002 */
export async function runAgent(config: Config, signal: AbortSignal): Promise<void> {
  const log = createLogger(config, 'agent')
  // Before anything is touched: it may be what is wrong with the configuration.
  const labelFilter = new LabelFilter(config.policy.labels)
  const lock = takeLock(config)
  const version = packageVersion()

  const allocator = new EmbeddedAllocator(config.paths.state)
  const slots = new SlotAllocator(config.paths.state, config.datapath.slotPortFirst, config.datapath.slotsMax)
  const datapath = setUpDatapath(config)
  const host = new Route()
  const flows = new FlowRing(config.flows.ringSize)
  const engine = new PolicyEngine({
    enforcement: config.policy.enforcement,
    audit: config.policy.audit,
    knowsNames: true,
    observesQueries: observesQueries(config),
  })
  const options = parseOptions(config)
  const folder = new PolicyFolder(
    config.paths.policies,
    config.paths.state,
    config.policy.emptyFolder,
    (text, file) => parsePolicyFile(text, file, options),
    options,
  )
  const control = new ControlServer(slots.epoch, slots.firstRevision, {
    onListenersReport: () => agent.onListenersReport(),
    onFlows: ({ http, dns, relayed, lost }) => {
      flows.addLost(Number(lost))
      const all = [
        ...http.map((each) => builder.fromEnvoy(each)),
        ...dns.map((each) => builder.fromDns(each)),
        ...relayed.map((each) => builder.fromRelay(each)),
      ]
      for (const flow of all) {
        if (flow === undefined) flows.addLost(1)
        else flows.add(flow)
      }
    },
  })
  const node = config.nodeName || hostname()
  const agent: Agent = new Agent({
    config,
    version,
    node,
    datapath,
    host,
    allocator,
    labelFilter,
    slots,
    control,
    engine,
    folder,
    flows,
    log,
  })
  const builder = new FlowBuilder(agent)

  const workloads = new WorkloadsFile(config.paths.workloads, config.paths.state)
  mkdirSync(dirname(config.paths.policies), { recursive: true, mode: 0o755 })
  mkdirSync(dirname(config.paths.workloads), { recursive: true, mode: 0o755 })
  agent.start(takeWorkloads(workloads, agent) ?? workloads.lastAccepted())
  const closeControl = await control.listen(join(config.paths.run, 'control.sock'))
  if (datapath.kernel.takesOverFrom !== undefined) {
    // The rows of new maps begin with deny where a slot has to be confirmed; until then the old programs and maps serve.
    await Promise.race([agent.settled(), delay(TAKEOVER_WAIT_MS)])
    let sinceNs = 0n
    let connections = 0
    // All of them, then twice those that began meanwhile: what is missing at the moment of the switch is what the last milliseconds brought.
    const carry = (): void => {
      const startedNs = process.hrtime.bigint()
      connections += carryConnections(config.paths.run, datapath.kernel, sinceNs)
      sinceNs = startedNs
    }
    carry()
    datapath.kernel.finishTakeover(carry, carry)
    log.info({ connections }, 'took over from another map layout')
  }
  recordLayout(config.paths.run, datapath.kernel)
  const closeLocal = await serveLocal(join(config.paths.run, 'local.sock'), config.group, agent)
  setTimeout(shrinkMemory, SHRINK_AFTER_MS).unref()
  log.info({ version, endpoints: agent.listEndpoints().length, slots: slots.slots.size }, 'agent is up')

  const policies = new FolderWatch(config.paths.policies, {
    onChange: (names) => agent.onPoliciesChanged(names),
    onWrite: (name) => agent.onPolicyFileWritten(name),
  })
  agent.watchPolicies(policies)
  const stopWatchingWorkloads = watchFile(config.paths.workloads, () => {
    const changed = takeWorkloads(workloads, agent)
    if (changed !== undefined) agent.setWorkloads(changed)
  })
  await Promise.all([
    readKernelEvents(datapath.kernel.maps.eventsFd, (event) => flows.add(builder.fromKernel(event)), signal),
    followLinks(agent, signal),
    aborted(signal).then(() => {
      policies.close()
      stopWatchingWorkloads()
      closeLocal()
      closeControl()
    }),
  ])
  agent.stop()
  host.close()
  datapath.kernel.close()
  lock.release()
  log.info({}, 'agent ends; what is in the kernel stays in force')
}

function takeLock(config: Config): ReturnType<typeof acquireLock> {
  try {
    return acquireLock(join(config.paths.run, 'locks/agent'))
  } catch (error) {
    if (error instanceof LockHeldError) throw new AgentError('HG-2007', error.message, { cause: error })
    throw error
  }
}

/** @returns undefined when the file is refused, unreadable or not there: what was accepted stays */
function takeWorkloads(file: WorkloadsFile, agent: Agent): Workloads | undefined {
  try {
    return file.read()
  } catch (error) {
    if (!(error instanceof AgentError)) throw error
    agent.setWorkloadsProblem(error.message)
    return undefined
  }
}

/** Calls back when a file was replaced, or some moments after somebody has ceased to write in it. */
function watchFile(path: string, onChange: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  // The parent, because files are replaced by rename.
  const watcher = openWatcher(dirname(path), (event, name) => {
    if (name !== basename(path)) return
    clearTimeout(timer)
    timer = setTimeout(onChange, event === 'change' ? IN_PLACE_QUIET_MS : FILE_QUIET_MS)
  })
  return () => {
    clearTimeout(timer)
    watcher?.close()
  }
}

async function followLinks(agent: Agent, signal: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  let links = false
  for await (const event of monitorLinks(signal)) {
    links ||= event.type !== 'addresses'
    timer ??= setTimeout(() => {
      timer = undefined
      if (links) agent.onLinksChanged()
      agent.onAddressesChanged()
      links = false
    }, LINK_QUIET_MS)
  }
  clearTimeout(timer)
}

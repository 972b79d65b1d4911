/** The kernel side as the agent sets it up: object, legs, configuration row. */
import { availableParallelism } from 'node:os'
import { CONFIG_NAMES, type Config as KernelConfig } from '#bpf/gen/abi.ts'
import { Kernel } from '#bpf/kernel.ts'
import { PROGRAMS_PATH } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { ensureTopology, type Topology } from './topology.ts'

export interface Datapath {
  readonly kernel: Kernel
  readonly topology: Topology
  /** The ipcache changed: every tracked connection is judged again from its next packet on. */
  bumpRevision(): void
  /** Whether policy names peers by DNS names, so that learned addresses have to be looked up. */
  setHasNames(hasNames: boolean): void
}

/** Loads the programs, makes the proxies' namespaces, and writes the configuration row. What is there already is taken over. */
export function setUpDatapath(config: Config): Datapath {
  const kernel = Kernel.load(PROGRAMS_PATH, config.paths.bpf, {
    conntrack: config.datapath.conntrackEntriesMax,
    ipcache: config.datapath.ipcacheEntriesMax,
  })
  const topology = ensureTopology(config.instance, config.paths.run, (leg, netnsPath) => {
    kernel.attach(leg.plan.fromProgram, 'host', leg.hostIfindex, 'ingress')
    kernel.attach('guard_leg', 'host', leg.hostIfindex, 'egress')
    const place = leg.plan.namespace === 'egress' ? 'egress-proxy' : 'ingress-proxy'
    kernel.attach(leg.plan.intoProgram, place, leg.innerIfindex, 'ingress', netnsPath)
  })
  const before = kernel.maps.config.get(0)
  let row = configRow(config, topology, (before?.revision ?? 0) + 1)
  // Until policy is read again, what is learned stays in force.
  row = { ...row, flags: before?.flags ?? 0 }
  kernel.maps.config.set(0, row)
  return {
    kernel,
    topology,
    bumpRevision() {
      row = { ...row, revision: (row.revision + 1) >>> 0 }
      kernel.maps.config.set(0, row)
    },
    setHasNames(hasNames) {
      const flags = hasNames ? CONFIG_NAMES : 0
      if (flags === row.flags) return
      row = { ...row, flags, revision: (row.revision + 1) >>> 0 }
      kernel.maps.config.set(0, row)
    },
  }
}

function configRow(config: Config, topology: Topology, revision: number): KernelConfig {
  const legs = Array.from({ length: 5 }, (_, leg) => ({
    hostIfindex: topology.legs.find(({ plan }) => plan.leg === leg)?.hostIfindex ?? 0,
  }))
  return {
    revision,
    flags: 0,
    legs,
    tcpTimeoutSeconds: config.datapath.tcpTimeoutSeconds,
    tcpSynTimeoutSeconds: config.datapath.tcpSynTimeoutSeconds,
    tcpCloseTimeoutSeconds: config.datapath.tcpCloseTimeoutSeconds,
    otherTimeoutSeconds: config.datapath.otherTimeoutSeconds,
    eventSample: eventSample(config),
    eventsPerSecond: Math.ceil(config.flows.eventsPerSecondMax / availableParallelism()),
  }
}

/** Of 2^32 allowed connections, how many are reported. */
function eventSample({ flows }: Config): number {
  if (flows.mode === 'denied') return 0
  return flows.mode === 'all' ? 0xffffffff : Math.floor(flows.sampleRate * 0xffffffff)
}

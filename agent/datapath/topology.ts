/**
 * The proxies' namespaces and the veth pairs, one a leg, that join them to the host. Made once and left alone afterwards: packets of
 * running connections pass here while agents come and go. All settings are made inside our own namespaces and on our own devices.
 */
import { createHash } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  LEG_EGRESS_ACCEPTED,
  LEG_EGRESS_UPSTREAM,
  LEG_INGRESS_ACCEPTED,
  LEG_INGRESS_UPSTREAM,
  MARK_CLASS_MASK,
  MARK_EGRESS_ACCEPTED,
  MARK_EGRESS_UPSTREAM,
  MARK_INGRESS_ACCEPTED,
  MARK_INGRESS_UPSTREAM,
  MARK_LOCAL,
} from '#bpf/gen/abi.ts'
import { writeFileAtomic } from '#sys/atomic-file.ts'
import { createNetns, deleteNetns, inNetns, netnsPath } from '#sys/netns.ts'
import { type Route, withRoute } from '#sys/rtnetlink.ts'

/** One leg: a pair of devices, and the programs on its two ends. */
export interface LegPlan {
  /** enum leg */
  readonly leg: number
  readonly mark: number
  readonly suffix: string
  readonly namespace: 'egress' | 'ingress'
  readonly fromProgram: string
  readonly intoProgram: string
}

export const LEGS: readonly LegPlan[] = [
  {
    leg: LEG_EGRESS_ACCEPTED,
    mark: MARK_EGRESS_ACCEPTED,
    suffix: 'ea',
    namespace: 'egress',
    fromProgram: 'from_leg_egress_accepted',
    intoProgram: 'into_leg_egress_accepted',
  },
  {
    leg: LEG_EGRESS_UPSTREAM,
    mark: MARK_EGRESS_UPSTREAM,
    suffix: 'eu',
    namespace: 'egress',
    fromProgram: 'from_leg_egress_upstream',
    intoProgram: 'into_leg_egress_upstream',
  },
  {
    leg: LEG_INGRESS_ACCEPTED,
    mark: MARK_INGRESS_ACCEPTED,
    suffix: 'ia',
    namespace: 'ingress',
    fromProgram: 'from_leg_ingress_accepted',
    intoProgram: 'into_leg_ingress_accepted',
  },
  {
    leg: LEG_INGRESS_UPSTREAM,
    mark: MARK_INGRESS_UPSTREAM,
    suffix: 'iu',
    namespace: 'egress',
    fromProgram: 'from_leg_ingress_upstream',
    intoProgram: 'into_leg_ingress_upstream',
  },
]

/** Routing tables inside the proxies' namespaces; nobody else is there. */
const TABLE_LOCAL = 2004
const TABLE_LEG_FIRST = 100
const LEG_MTU = 1500

/** Below the range that clients use: an upstream connection must not take the tuple of one that its workload made itself. */
const UPSTREAM_PORT_RANGE = '10240 32767'

export interface LegDevices {
  readonly plan: LegPlan
  readonly hostIfindex: number
  readonly innerIfindex: number
}

export interface Topology {
  readonly egressNetns: string
  readonly ingressNetns: string
  readonly legs: readonly LegDevices[]
}

export interface TopologyNames {
  readonly egressNetns: string
  readonly ingressNetns: string
  readonly hostDevice: (suffix: string) => string
}

/** Names by instance, so that several live side by side; device names have 15 characters at most. */
export function topologyNames(instance: string): TopologyNames {
  const prefix = instance === 'headgate' ? 'hg' : `hg${createHash('sha256').update(instance).digest('hex').slice(0, 6)}`
  return {
    egressNetns: `${instance}-egress`,
    ingressNetns: `${instance}-ingress`,
    hostDevice: (suffix) => `${prefix}-${suffix}`,
  }
}

/**
 * Makes what is missing. @param attach puts the programs on a leg's two ends before the devices come up, so that no packet passes unjudged
 */
export function ensureTopology(instance: string, runFolder: string, attach: (leg: LegDevices, netnsPathOfLeg: string) => void): Topology {
  const names = topologyNames(instance)
  for (const name of [names.egressNetns, names.ingressNetns]) {
    createNetns(name)
    prepareNamespace(netnsPath(name))
  }
  const legs = withRoute(undefined, (host) => LEGS.map((plan) => ensureLeg(plan, names, host, attach)))
  const topology = { egressNetns: names.egressNetns, ingressNetns: names.ingressNetns, legs }
  writeFileAtomic(
    join(runFolder, 'netns.json'),
    JSON.stringify({
      version: 1,
      egress: { name: names.egressNetns, path: netnsPath(names.egressNetns) },
      ingress: { name: names.ingressNetns, path: netnsPath(names.ingressNetns) },
    }),
    0o644,
  )
  return topology
}

function prepareNamespace(path: string): void {
  inNetns(path, () => {
    for (const [name, value] of [
      ['ipv4/conf/all/rp_filter', '0'],
      ['ipv4/conf/default/rp_filter', '0'],
      ['ipv4/conf/all/accept_redirects', '0'],
      ['ipv4/conf/all/send_redirects', '0'],
      ['ipv4/ip_local_port_range', UPSTREAM_PORT_RANGE],
      // A cookie's final ACK has no socket that could be looked up.
      ['ipv4/tcp_syncookies', '0'],
      ['ipv4/tcp_max_syn_backlog', '65536'],
      // A SYN must reach the slot's listener, but a closed connection's TIME_WAIT socket of the same tuple would take what follows it.
      ['ipv4/tcp_max_tw_buckets', '0'],
      ['core/somaxconn', '65536'],
      ['ipv6/conf/all/disable_ipv6', '1'],
      ['ipv6/conf/default/disable_ipv6', '1'],
    ] as const) {
      const file = `/proc/sys/net/${name}`
      if (existsSync(file)) writeFileSync(file, value)
    }
  })
  withRoute(path, (route) => {
    const loopback = route.link('lo')
    if (loopback === undefined) return
    route.setLink(loopback.index, { up: true })
    route.addDefaultRoute(TABLE_LOCAL, loopback.index, 'local')
    route.addMarkRule(MARK_LOCAL, MARK_CLASS_MASK, TABLE_LOCAL, 9)
  })
}

function ensureLeg(plan: LegPlan, names: TopologyNames, host: Route, attach: (leg: LegDevices, path: string) => void): LegDevices {
  const device = names.hostDevice(plan.suffix)
  const path = netnsPath(plan.namespace === 'egress' ? names.egressNetns : names.ingressNetns)
  if (host.link(device) === undefined) host.addVeth(device, plan.suffix, path, LEG_MTU)
  const hostLink = host.link(device)
  if (hostLink === undefined) throw new RangeError(`no device ${device}`)
  return withRoute(path, (inside) => {
    const inner = inside.link(plan.suffix)
    if (inner === undefined) throw new RangeError(`no device ${plan.suffix} in ${path}`)
    const leg = { plan, hostIfindex: hostLink.index, innerIfindex: inner.index }
    attach(leg, path)
    const ipv6 = `/proc/sys/net/ipv6/conf/${device}/disable_ipv6`
    if (existsSync(ipv6)) writeFileSync(ipv6, '1')
    host.setLink(hostLink.index, { up: true, arp: false })
    inNetns(path, () => writeFileSync(`/proc/sys/net/ipv4/conf/${plan.suffix}/rp_filter`, '0'))
    inside.setLink(inner.index, { up: true, arp: false })
    const table = TABLE_LEG_FIRST + plan.leg
    inside.addDefaultRoute(table, inner.index, 'unicast')
    inside.addMarkRule(plan.mark, MARK_CLASS_MASK, table, table)
    return leg
  })
}

/** Removes devices and namespaces. @returns what was removed */
export function removeTopology(instance: string): string[] {
  const names = topologyNames(instance)
  const removed: string[] = []
  withRoute(undefined, (host) => {
    for (const { suffix } of LEGS) {
      const device = names.hostDevice(suffix)
      const link = host.link(device)
      if (link !== undefined && host.deleteLink(link.index)) removed.push(`device ${device}`)
    }
  })
  for (const name of [names.egressNetns, names.ingressNetns]) if (deleteNetns(name)) removed.push(`namespace ${name}`)
  return removed
}

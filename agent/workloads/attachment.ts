/**
 * From what a user says of an endpoint (a namespace, or a host-side device) to what the datapath needs: the host-side end of the veth
 * pair, the workload's MAC address and its addresses. Refuses whatever could not be enforced: devices that are no veth, and pairs
 * whose other end is in the host's own namespace, where packet marks would not be cleared.
 */
import { readdirSync } from 'node:fs'
import { bytesToAddress } from '#sys/addresses.ts'
import { isNetns, NETNS_FOLDER, netnsInode, netnsPath } from '#sys/netns.ts'
import { type Link, type LinkAddress, type Route, SCOPE_HOST, SCOPE_LINK, withRoute } from '#sys/rtnetlink.ts'
import { AgentError } from '../errors.ts'
import type { EndpointSpec } from './file.ts'

/** Where an endpoint is plugged in. */
export interface Attachment {
  /** Path of the workload's namespace; undefined when only the device is known. */
  readonly netnsPath: string | undefined
  /** What tells this namespace from a later one of the same name; empty when only the device is known. */
  readonly netnsInode: string
  readonly hostLink: Link
  /** All zero when unknown: frames are handed over as addressed to the workload anyway. */
  readonly mac: Buffer
  /** Canonical text, IPv4 first. */
  readonly addresses: readonly string[]
}

const NO_MAC = Buffer.alloc(6)

/** What the kernel says of namespaces and devices that go, or are being made, while we look. EINVAL: a name that is not mounted any more. */
const GONE_CODES = new Set(['ENOENT', 'EINVAL', 'ENODEV', 'ENXIO'])

/** @param host a Route of the host's namespace @throws AgentError HG-2002 */
export function resolveAttachment(spec: EndpointSpec, host: Route): Attachment {
  try {
    return spec.netns === undefined ? fromInterface(spec, spec.interface ?? '', host) : fromNetns(spec, spec.netns, host)
  } catch (cause) {
    if (!GONE_CODES.has((cause as NodeJS.ErrnoException).code ?? '')) throw cause
    throw new AgentError('HG-2002', `not there, or on its way: ${spec.netns === undefined ? spec.interface : netnsPath(spec.netns)}`, {
      cause,
    })
  }
}

function fromNetns(spec: EndpointSpec, name: string, host: Route): Attachment {
  const path = netnsPath(name)
  if (!isNetns(path)) throw new AgentError('HG-2002', `no network namespace ${path}`)
  const inode = netnsInode(path)
  if (inode === netnsInode('/proc/self/ns/net')) throw new AgentError('HG-2002', `the host’s own namespace cannot be an endpoint: ${path}`)
  const namespaceId = host.netnsId(path)
  return withRoute(path, (inside) => {
    const wanted = new Set([...spec.ipv4, ...spec.ipv6])
    const candidates = inside.links().flatMap((link) => {
      const hostLink = link.kind === 'veth' ? host.link(link.peerIndex) : undefined
      // Indexes mean something in their own namespace only: the host's device must point back at this one.
      const isPair = hostLink?.kind === 'veth' && hostLink.peerIndex === link.index && hostLink.peerNetnsId === namespaceId
      return isPair && namespaceId !== undefined ? [{ link, hostLink, addresses: usable(inside.addresses(link.index)) }] : []
    })
    const match = candidates.find(({ addresses }) => addresses.some((address) => wanted.has(address))) ?? candidates[0]
    if (match === undefined) throw new AgentError('HG-2002', `no veth pair joins the host and ${path}`)
    return {
      netnsPath: path,
      netnsInode: inode,
      hostLink: match.hostLink,
      mac: match.link.mac.length === 6 ? match.link.mac : NO_MAC,
      addresses: addressesOf(spec, match.addresses, path),
    }
  })
}

function fromInterface(spec: EndpointSpec, name: string, host: Route): Attachment {
  const hostLink = host.link(name)
  if (hostLink === undefined) throw new AgentError('HG-2002', `no device ${name}`)
  if (hostLink.kind !== 'veth') throw new AgentError('HG-2002', `not a veth device: ${name}`)
  if (hostLink.peerNetnsId === undefined) throw new AgentError('HG-2002', `the other end is in the host’s own namespace: ${name}`)
  const path = findNetns(hostLink.peerNetnsId, host)
  if (path === undefined) {
    return { netnsPath: undefined, netnsInode: '', hostLink, mac: NO_MAC, addresses: addressesOf(spec, [], name) }
  }
  return withRoute(path, (inside) => {
    const link = inside.link(hostLink.peerIndex)
    return {
      netnsPath: path,
      netnsInode: netnsInode(path),
      hostLink,
      mac: link?.mac.length === 6 ? link.mac : NO_MAC,
      addresses: addressesOf(spec, usable(inside.addresses(hostLink.peerIndex)), name),
    }
  })
}

/** What the user gave, else what was found. */
function addressesOf(spec: EndpointSpec, found: readonly string[], where: string): string[] {
  const given = [...spec.ipv4, ...spec.ipv6]
  const addresses = given.length > 0 ? given : found
  if (addresses.length === 0) throw new AgentError('HG-2002', `no address is known; give ipv4: ${where}`)
  return [...addresses].sort((a, b) => Number(a.includes(':')) - Number(b.includes(':')))
}

function usable(addresses: readonly LinkAddress[]): string[] {
  return addresses.filter(({ scope }) => scope !== SCOPE_HOST && scope !== SCOPE_LINK).map(({ bytes }) => bytesToAddress(bytes))
}

/** Finds a namespace by the id that the host's namespace has for it: among the named ones, then among those of processes. */
function findNetns(id: number, host: Route): string | undefined {
  const seen = new Set<string>()
  for (const path of netnsCandidates()) {
    try {
      const inode = netnsInode(path)
      if (seen.has(inode)) continue
      seen.add(inode)
      if (isNetns(path) && host.netnsId(path) === id) return path
    } catch {
      // Processes come and go while we look; the next candidate may be the same namespace.
    }
  }
  return undefined
}

function* netnsCandidates(): Generator<string> {
  try {
    for (const name of readdirSync(NETNS_FOLDER)) yield `${NETNS_FOLDER}/${name}`
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  for (const pid of readdirSync('/proc')) {
    if (/^\d+$/.test(pid)) yield `/proc/${pid}/ns/net`
  }
}

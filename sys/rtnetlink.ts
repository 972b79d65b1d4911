/**
 * Links, addresses, routes and rules of the current network namespace, over rtnetlink: what `ip` would do, without a process per
 * question. A Route object belongs to the namespace in which it was made (see inNetns).
 */
import { SystemCallError } from './errors.ts'
import { AF_INET, close, O_CLOEXEC, O_RDONLY, open, waitReadable } from './libc.ts'
import {
  decodeAttributes,
  decodeText,
  encodeAttribute,
  encodeNested,
  NETLINK_ROUTE,
  NetlinkSocket,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
} from './netlink.ts'
import { inNetns } from './netns.ts'

const RTM_NEWLINK = 16
const RTM_DELLINK = 17
const RTM_GETLINK = 18
const RTM_NEWADDR = 20
const RTM_DELADDR = 21
const RTM_GETADDR = 22
const RTM_NEWROUTE = 24
const RTM_NEWRULE = 32
const RTM_GETNSID = 90

const IFLA_ADDRESS = 1
const IFLA_IFNAME = 3
const IFLA_MTU = 4
const IFLA_LINK = 5
const IFLA_MASTER = 10
const IFLA_LINKINFO = 18
const IFLA_NET_NS_FD = 28
const IFLA_LINK_NETNSID = 37

const IFF_UP = 1
const IFF_LOOPBACK = 8
const IFF_NOARP = 0x80

const RTMGRP_LINK = 1
const RTMGRP_IPV4_IFADDR = 0x10
const RTMGRP_IPV6_IFADDR = 0x100

/** How long a closed monitor keeps its pool thread. */
const POLL_SLICE_MS = 500

/** A network device. */
export interface Link {
  readonly index: number
  readonly name: string
  /** veth, bridge, …; empty for plain hardware. */
  readonly kind: string
  /** 6 bytes for Ethernet, else empty. */
  readonly mac: Buffer
  readonly mtu: number
  readonly up: boolean
  readonly loopback: boolean
  /** Index of the other end of a veth, in the other end's namespace; 0 when there is none. */
  readonly peerIndex: number
  /** Namespace id of the other end; undefined when it is in the same namespace. */
  readonly peerNetnsId: number | undefined
  /** Index of the bridge or bond that it belongs to, or 0. */
  readonly master: number
}

/** An address of a device. */
export interface LinkAddress {
  readonly linkIndex: number
  readonly family: 4 | 6
  /** 4 or 16 bytes. */
  readonly bytes: Buffer
  readonly prefixLength: number
  readonly scope: number
}

/** Scope of addresses that are valid on this machine only. */
export const SCOPE_HOST = 254
export const SCOPE_LINK = 253

export type LinkEvent =
  | { readonly type: 'link'; readonly link: Link }
  | { readonly type: 'link-removed'; readonly link: Link }
  | { readonly type: 'addresses' }
  /** The kernel dropped events: read everything again. */
  | { readonly type: 'overrun' }

export class Route {
  readonly #socket = new NetlinkSocket(NETLINK_ROUTE)

  links(): Link[] {
    return this.#socket.request(RTM_GETLINK, NLM_F_DUMP, ifInfo(0), 'list links').map(({ body }) => decodeLink(body))
  }

  /** @returns undefined when there is no such device */
  link(nameOrIndex: string | number): Link | undefined {
    const body =
      typeof nameOrIndex === 'number' ? ifInfo(nameOrIndex) : Buffer.concat([ifInfo(0), encodeAttribute(IFLA_IFNAME, nameOrIndex)])
    try {
      const [answer] = this.#socket.request(RTM_GETLINK, 0, body, `link ${nameOrIndex}`)
      return answer && decodeLink(answer.body)
    } catch (error) {
      if (error instanceof SystemCallError && (error.code === 'ENODEV' || error.code === 'ERANGE')) return undefined
      throw error
    }
  }

  /** Addresses of one device, or of all. */
  addresses(linkIndex?: number): LinkAddress[] {
    const all = this.#socket
      .request(RTM_GETADDR, NLM_F_DUMP, Buffer.alloc(8), 'list addresses')
      .flatMap(({ body }) => decodeAddress(body) ?? [])
    return linkIndex === undefined ? all : all.filter((address) => address.linkIndex === linkIndex)
  }

  /** Makes a veth pair whose second end is in another namespace. */
  addVeth(name: string, peerName: string, peerNetnsPath: string, mtu: number): void {
    const fd = open(peerNetnsPath, O_RDONLY | O_CLOEXEC)
    try {
      const peer = Buffer.concat([
        ifInfo(0),
        encodeAttribute(IFLA_IFNAME, peerName),
        encodeAttribute(IFLA_MTU, mtu),
        encodeAttribute(IFLA_NET_NS_FD, fd),
      ])
      const info = encodeNested(IFLA_LINKINFO, encodeAttribute(1, 'veth'), encodeNested(2, encodeAttribute(1, peer)))
      const body = Buffer.concat([ifInfo(0), encodeAttribute(IFLA_IFNAME, name), encodeAttribute(IFLA_MTU, mtu), info])
      this.#change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, `veth ${name} with ${peerName}`)
    } finally {
      close(fd)
    }
  }

  setLink(index: number, change: { up?: boolean; arp?: boolean; mtu?: number }): void {
    let flags = 0
    let mask = 0
    if (change.up !== undefined) {
      mask |= IFF_UP
      if (change.up) flags |= IFF_UP
    }
    if (change.arp !== undefined) {
      mask |= IFF_NOARP
      if (!change.arp) flags |= IFF_NOARP
    }
    const attributes = change.mtu === undefined ? [] : [encodeAttribute(IFLA_MTU, change.mtu)]
    this.#change(RTM_NEWLINK, 0, Buffer.concat([ifInfo(index, flags, mask), ...attributes]), `link ${index}`)
  }

  /** @returns false when it is gone already */
  deleteLink(index: number): boolean {
    try {
      this.#change(RTM_DELLINK, 0, ifInfo(index), `delete link ${index}`)
      return true
    } catch (error) {
      if (error instanceof SystemCallError && error.code === 'ENODEV') return false
      throw error
    }
  }

  /** IPv4 default route through a device, in a table; or, as `local`, delivery of every address to this namespace. */
  addDefaultRoute(table: number, linkIndex: number, type: 'unicast' | 'local'): void {
    const message = Buffer.alloc(12)
    message[0] = AF_INET
    message[4] = table < 256 ? table : 252
    message[5] = 4 // RTPROT_STATIC
    message[6] = type === 'local' ? SCOPE_HOST : SCOPE_LINK
    message[7] = type === 'local' ? 2 : 1 // RTN_LOCAL, RTN_UNICAST
    const RTA_OIF = 4
    const RTA_TABLE = 15
    const body = Buffer.concat([message, encodeAttribute(RTA_TABLE, table), encodeAttribute(RTA_OIF, linkIndex)])
    this.#changeOnce(RTM_NEWROUTE, body, `${type} default route of table ${table}`)
  }

  /** IPv4 rule: packets and sockets with the mark look in the table. */
  addMarkRule(mark: number, mask: number, table: number, priority: number): void {
    const message = Buffer.alloc(12)
    message[0] = AF_INET
    message[4] = table < 256 ? table : 252
    message[7] = 1 // FR_ACT_TO_TBL
    const FRA_PRIORITY = 6
    const FRA_FWMARK = 10
    const FRA_TABLE = 15
    const FRA_FWMASK = 16
    const body = Buffer.concat([
      message,
      encodeAttribute(FRA_PRIORITY, priority),
      encodeAttribute(FRA_FWMARK, mark),
      encodeAttribute(FRA_FWMASK, mask),
      encodeAttribute(FRA_TABLE, table),
    ])
    this.#changeOnce(RTM_NEWRULE, body, `rule for mark ${mark}`)
  }

  /** Id that the current namespace has for another one; undefined when it has none. */
  netnsId(path: string): number | undefined {
    const fd = open(path, O_RDONLY | O_CLOEXEC)
    try {
      const NETNSA_NSID = 1
      const NETNSA_FD = 3
      const body = Buffer.concat([Buffer.alloc(4), encodeAttribute(NETNSA_FD, fd)])
      const [answer] = this.#socket.request(RTM_GETNSID, 0, body, `namespace id of ${path}`)
      const id = answer && decodeAttributes(answer.body.subarray(4)).get(NETNSA_NSID)?.readInt32LE(0)
      return id === undefined || id < 0 ? undefined : id
    } finally {
      close(fd)
    }
  }

  close(): void {
    this.#socket.close()
  }

  #change(type: number, flags: number, body: Buffer, what: string): void {
    this.#socket.request(type, flags | NLM_F_ACK, body, what)
  }

  /** Adds what may be there already. */
  #changeOnce(type: number, body: Buffer, what: string): void {
    try {
      this.#change(type, NLM_F_CREATE | NLM_F_EXCL, body, what)
    } catch (error) {
      if (!(error instanceof SystemCallError && error.code === 'EEXIST')) throw error
    }
  }
}

/** Runs with a Route of another namespace, and closes it. */
export function withRoute<T>(path: string | undefined, run: (route: Route) => T): T {
  const route = path === undefined ? new Route() : inNetns(path, () => new Route())
  try {
    return run(route)
  } finally {
    route.close()
  }
}

/** Watches devices and addresses of the current namespace, until the signal aborts. */
export async function* monitorLinks(signal: AbortSignal): AsyncGenerator<LinkEvent> {
  const socket = new NetlinkSocket(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
  try {
    while (!signal.aborted) {
      if (!(await waitReadable(socket.fd, POLL_SLICE_MS))) continue
      try {
        for (const message of socket.drain()) {
          if (message.type === RTM_NEWLINK) yield { type: 'link', link: decodeLink(message.body) }
          else if (message.type === RTM_DELLINK) yield { type: 'link-removed', link: decodeLink(message.body) }
          else if (message.type === RTM_NEWADDR || message.type === RTM_DELADDR) yield { type: 'addresses' }
        }
      } catch (error) {
        if (!(error instanceof SystemCallError && error.code === 'ENOBUFS')) throw error
        yield { type: 'overrun' }
      }
    }
  } finally {
    socket.close()
  }
}

/** struct ifinfomsg */
function ifInfo(index: number, flags = 0, mask = 0): Buffer {
  const message = Buffer.alloc(16)
  message.writeInt32LE(index, 4)
  message.writeUInt32LE(flags, 8)
  message.writeUInt32LE(mask, 12)
  return message
}

function decodeLink(body: Buffer): Link {
  const attributes = decodeAttributes(body.subarray(16))
  const flags = body.readUInt32LE(8)
  const info = attributes.get(IFLA_LINKINFO)
  return {
    index: body.readInt32LE(4),
    name: decodeText(attributes.get(IFLA_IFNAME)),
    kind: info ? decodeText(decodeAttributes(info).get(1)) : '',
    mac: attributes.get(IFLA_ADDRESS) ?? Buffer.alloc(0),
    mtu: attributes.get(IFLA_MTU)?.readUInt32LE(0) ?? 0,
    up: (flags & IFF_UP) !== 0,
    loopback: (flags & IFF_LOOPBACK) !== 0,
    peerIndex: attributes.get(IFLA_LINK)?.readInt32LE(0) ?? 0,
    peerNetnsId: attributes.get(IFLA_LINK_NETNSID)?.readInt32LE(0),
    master: attributes.get(IFLA_MASTER)?.readInt32LE(0) ?? 0,
  }
}

function decodeAddress(body: Buffer): LinkAddress | undefined {
  const IFA_ADDRESS = 1
  const IFA_LOCAL = 2
  const attributes = decodeAttributes(body.subarray(8))
  // On point-to-point links ADDRESS is the peer's; LOCAL, where given, is always our own.
  const bytes = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS)
  if (bytes === undefined || (bytes.length !== 4 && bytes.length !== 16)) return undefined
  return {
    family: bytes.length === 4 ? 4 : 6,
    prefixLength: body[1] ?? 0,
    scope: body[3] ?? 0,
    linkIndex: body.readUInt32LE(4),
    bytes,
  }
}

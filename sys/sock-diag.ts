/**
 * TCP sockets of a network namespace: list them, and end one with a reset to its peer. Source: linux/inet_diag.h; ending needs
 * CONFIG_INET_DIAG_DESTROY.
 */

import { ipv4ToBytes } from './addresses.ts'
import { SystemCallError } from './errors.ts'
import { NETLINK_SOCK_DIAG, NetlinkSocket, NLM_F_ACK, NLM_F_DUMP } from './netlink.ts'
import { inNetns } from './netns.ts'

const SOCK_DIAG_BY_FAMILY = 20
const SOCK_DESTROY = 21
const AF_INET = 2
const AF_INET6 = 10
const IPPROTO_TCP = 6
const REQUEST_BYTES = 56
const ID_OFFSET = 8
const ID_BYTES = 48

/** Every state but LISTEN (10) and CLOSE (7). */
const STATES = 0xfff & ~(1 << 10) & ~(1 << 7)

/** A connected TCP socket. */
export interface TcpSocket {
  /** 16 bytes, IPv4 mapped, whatever the socket's family. */
  readonly local: Buffer
  readonly remote: Buffer
  readonly localPort: number
  readonly remotePort: number
  /** What the kernel needs to find it again, cookie included. */
  readonly handle: { readonly family: number; readonly id: Buffer }
}

/** A view of one namespace's sockets. */
export class SockDiag {
  readonly #socket: NetlinkSocket

  /** @param netnsPath undefined: the current namespace */
  constructor(netnsPath?: string) {
    const make = (): NetlinkSocket => new NetlinkSocket(NETLINK_SOCK_DIAG)
    this.#socket = netnsPath === undefined ? make() : inNetns(netnsPath, make)
  }

  /** All TCP sockets that have a peer, of both families. */
  tcpSockets(): TcpSocket[] {
    return [AF_INET, AF_INET6].flatMap((family) => {
      const request = Buffer.alloc(REQUEST_BYTES)
      request[0] = family
      request[1] = IPPROTO_TCP
      request.writeUInt32LE(STATES, 4)
      return this.#socket.request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request, 'list sockets').map(({ body }) => decodeSocket(family, body))
    })
  }

  /** Resets a connection. @returns false when the socket was gone already */
  destroy({ handle }: TcpSocket): boolean {
    const request = Buffer.alloc(REQUEST_BYTES)
    request[0] = handle.family
    request[1] = IPPROTO_TCP
    request.writeUInt32LE(0xffffffff, 4)
    handle.id.copy(request, ID_OFFSET)
    try {
      this.#socket.request(SOCK_DESTROY, NLM_F_ACK, request, 'destroy socket')
      return true
    } catch (error) {
      if (error instanceof SystemCallError && error.code === 'ENOENT') return false
      throw error
    }
  }

  close(): void {
    this.#socket.close()
  }
}

function decodeSocket(family: number, body: Buffer): TcpSocket {
  // struct inet_diag_msg: family, state, timer, retrans, then struct inet_diag_sockid: ports, addresses, interface, cookie.
  const id = Buffer.from(body.subarray(4, 4 + ID_BYTES))
  const address = (offset: number): Buffer =>
    family === AF_INET ? ipv4ToBytes(id.subarray(offset, offset + 4)) : Buffer.from(id.subarray(offset, offset + 16))
  return {
    localPort: id.readUInt16BE(0),
    remotePort: id.readUInt16BE(2),
    local: address(4),
    remote: address(20),
    handle: { family, id },
  }
}

/**
 * TCP sockets for transparent proxies, as far as node:net cannot make them: bound to addresses that the machine does not have, and marked.
 * They are made here, and node:net does the rest with the descriptor.
 */
import { AF_INET, AF_INET6, bind, close, SOCK_STREAM, socket } from './libc.ts'
import { isMapped, type SocketOptions, setSocketOptions } from './socket-options.ts'
import { encodeSocketAddress, SOCKADDR_IN6_BYTES } from './udp-batch.ts'

/**
 * Makes a socket in the network namespace that is current, and binds it.
 * @param address 16 bytes, IPv4 mapped
 * @returns the descriptor, which is the caller's: for net.Server.listen({ fd }), or new net.Socket({ fd }).connect()
 * @throws SystemCallError
 */
export function bindTcp(address: Uint8Array, port: number, options: SocketOptions): number {
  const isIpv6 = !isMapped(address)
  const fd = socket(isIpv6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0)
  try {
    setSocketOptions(fd, isIpv6, options)
    const name = Buffer.alloc(SOCKADDR_IN6_BYTES)
    bind(fd, name.subarray(0, encodeSocketAddress(name, 0, address, port, isIpv6)))
    return fd
  } catch (error) {
    close(fd)
    throw error
  }
}

/** Socket options of transparent proxies, the same for datagrams and streams. */
import { setSocketOption } from './libc.ts'

export const SOL_SOCKET = 1
const SO_REUSEADDR = 2
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33
const SO_RCVLOWAT = 18
export const SO_MARK = 36
const SO_RCVMARK = 75
export const IPPROTO_IP = 0
const IP_TRANSPARENT = 19
const IP_RECVORIGDSTADDR = 20
const IP_BIND_ADDRESS_NO_PORT = 24
export const IPPROTO_IPV6 = 41
const IPV6_RECVORIGDSTADDR = 74
const IPV6_TRANSPARENT = 75

/** Everything is off unless it is asked for; `transparent` and `mark` need CAP_NET_ADMIN. */
export interface SocketOptions {
  /** Binds to, and sends from, addresses that this machine does not have; packets assigned by a kernel program are taken. */
  readonly transparent?: boolean
  /** Lets other sockets with this option bind to the same port. */
  readonly reuseAddress?: boolean
  /** SO_MARK of what it sends; connections that it accepts have it as well. */
  readonly mark?: number
  /** Binding to port 0 leaves the port to connect, which needs only the whole tuple to be free. */
  readonly bindsAddressOnly?: boolean
  /** Datagrams are told with their marks. Linux 5.19. */
  readonly receiveMark?: boolean
  /** Datagrams are told with where they were addressed to. */
  readonly receiveOriginalDestination?: boolean
  /** Bytes of memory as the kernel counts them: it doubles the value, and books a small datagram with 768 and more. */
  readonly receiveBufferBytes?: number
  readonly sendBufferBytes?: number
}

/** @throws SystemCallError */
export function setSocketOptions(fd: number, isIpv6: boolean, options: SocketOptions): void {
  const level = isIpv6 ? IPPROTO_IPV6 : IPPROTO_IP
  if (options.transparent === true) setSocketOption(fd, level, isIpv6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1)
  if (options.reuseAddress === true) setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1)
  // A mark uses all 32 bits, of what is an int to setsockopt.
  if (options.mark !== undefined) setSocketOption(fd, SOL_SOCKET, SO_MARK, options.mark | 0)
  // An option of IPv4's level, and of sockets of both families.
  if (options.bindsAddressOnly === true) setSocketOption(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
  if (options.receiveMark === true) setSocketOption(fd, SOL_SOCKET, SO_RCVMARK, 1)
  if (options.receiveOriginalDestination === true) {
    setSocketOption(fd, level, isIpv6 ? IPV6_RECVORIGDSTADDR : IP_RECVORIGDSTADDR, 1)
  }
  if (options.receiveBufferBytes !== undefined) setSocketOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, options.receiveBufferBytes)
  if (options.sendBufferBytes !== undefined) setSocketOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, options.sendBufferBytes)
}

/** How many bytes have to be there before a socket is readable; TCP's alone follow it, and when their window is full they are readable anyway. */
export function setReceiveLowWater(fd: number, bytes: number): void {
  setSocketOption(fd, SOL_SOCKET, SO_RCVLOWAT, bytes)
}

/** Whether an address of 16 bytes is one of IPv4. */
export function isMapped(address: Uint8Array): boolean {
  if (address[10] !== 0xff || address[11] !== 0xff) return false
  for (let offset = 0; offset < 10; offset++) if (address[offset] !== 0) return false
  return true
}

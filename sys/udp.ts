/**
 * UDP sockets for transparent proxies, which node:dgram cannot be: it tells neither where a datagram was addressed to nor its mark, and
 * cannot choose the source of what it sends. Receiving and sending go in batches, one call into the kernel for up to 64 datagrams, on
 * the main thread: the event loop says that something is there, a callback gets all of it, and its answers leave together. No
 * thread of the pool is ever held, and nobody but the main thread touches the memory.
 *
 * Addresses are 16 bytes, IPv4 mapped (sys/addresses.ts); a socket is of the family of the address that it is bound to, and takes no
 * other. Link-local IPv6 addresses have no place for their interface here.
 */
import { constants as osConstants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { SystemCallError } from './errors.ts'
import {
  AF_INET,
  AF_INET6,
  bind,
  close,
  getSocketName,
  getSocketOption,
  SOCK_DGRAM,
  setSocketOption,
  socket,
  watchReadable,
} from './libc.ts'
import { IPPROTO_IPV6, isMapped, SOL_SOCKET, type SocketOptions, setSocketOptions } from './socket-options.ts'
import { DATAGRAM_BYTES_MAX, encodeSocketAddress, ReceiveBatch, SendBatch, SOCKADDR_IN6_BYTES } from './udp-batch.ts'

export type { ReceiveBatch } from './udp-batch.ts'

const SO_MEMINFO = 55
const IPV6_V6ONLY = 26

/** Of the nine counters of SO_MEMINFO the last is the datagrams dropped. */
const MEMINFO_BYTES = 36
const MEMINFO_DROPS_OFFSET = 32

const SLOT_COUNT = 64
/** A query is rarely longer than 512 bytes, and nothing that asks needs more than this. */
const DATAGRAM_BYTES = 4096

const { EAGAIN, EAFNOSUPPORT, EBADF, EFAULT, EINVAL, EMSGSIZE, ENOTSOCK } = osConstants.errno

/** Errnos of receiving that come of a mistake here; all others are news about the network, and the next call may well succeed. */
const MISTAKES: ReadonlySet<number> = new Set([EBADF, EFAULT, EINVAL, ENOTSOCK])

/** What a socket does. ReceiveBatch tells marks and original destinations if the socket is to receive them. */
export interface UdpOptions extends SocketOptions {
  /** Datagrams of one call, received or sent. */
  readonly batchCount?: number
  /** Longer datagrams arrive truncated; at most, and for whatever has to arrive whole, DATAGRAM_BYTES_MAX. */
  readonly datagramBytesMax?: number
  /**
   * Told of each datagram that was not sent, by its tag, as soon as the call that should have sent it is over.
   * @param code the errno's name, as ENETUNREACH
   */
  readonly onSendError?: (tag: number, code: string) => void
}

/** A UDP socket in the network namespace that was current when it was made. */
export class UdpSocket {
  readonly fd: number
  readonly isIpv6: boolean
  readonly localPort: number
  readonly #options: UdpOptions
  readonly #outgoing: SendBatch
  readonly #errorCounts = new Map<string, number>()
  #watch: { close(): void } | undefined
  #isClosed = false

  /** Makes a socket and binds it. @param address 16 bytes; 0.0.0.0 or :: stands for all of its family @throws SystemCallError */
  static bind(address: Uint8Array, port: number, options: UdpOptions = {}): UdpSocket {
    const isIpv6 = !isMapped(address)
    const fd = socket(isIpv6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0)
    try {
      if (isIpv6) setSocketOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
      setSocketOptions(fd, isIpv6, options)
      const name = Buffer.alloc(SOCKADDR_IN6_BYTES)
      bind(fd, name.subarray(0, encodeSocketAddress(name, 0, address, port, isIpv6)))
      return new UdpSocket(fd, options)
    } catch (error) {
      close(fd)
      throw error
    }
  }

  /**
   * Takes over a bound socket that another process made, with what waits in it. What its maker asked of it stays in force; options given
   * here are asked for again. The maker's descriptor shares the queue: only one of the two should receive.
   * @throws SystemCallError; the descriptor is the caller's until this returns
   */
  static adopt(fd: number, options: UdpOptions = {}): UdpSocket {
    const socket = new UdpSocket(fd, options)
    setSocketOptions(fd, socket.isIpv6, options)
    return socket
  }

  private constructor(fd: number, options: UdpOptions) {
    const name = Buffer.alloc(SOCKADDR_IN6_BYTES)
    getSocketName(fd, name)
    this.fd = fd
    this.isIpv6 = name.readUInt16LE(0) === AF_INET6
    this.localPort = name.readUInt16BE(2)
    this.#options = options
    this.#outgoing = new SendBatch(options.batchCount ?? SLOT_COUNT, this.isIpv6)
  }

  /**
   * Receives from now on, until stop or close. The batch is the same object every time, overwritten by the next call.
   * @param onBatch gets one datagram or more; may send, flush, stop and close. What it throws is an uncaught exception.
   */
  receive(onBatch: (batch: ReceiveBatch) => void): void {
    if (this.#watch !== undefined) throw new TypeError('this socket receives already')
    const batch = new ReceiveBatch(this.#options.batchCount ?? SLOT_COUNT, this.#options.datagramBytesMax ?? DATAGRAM_BYTES)
    this.#watch = watchReadable(this.fd, () => {
      const received = batch.receiveFrom(this.fd)
      if (received > 0) onBatch(batch)
      else if (received < 0 && received !== -EAGAIN) this.#receiveFailed(-received)
    })
  }

  /** Receives no more; what arrives waits in the socket, for a next receive or for who adopts it. */
  stop(): void {
    this.#watch?.close()
    this.#watch = undefined
  }

  /**
   * Queues a copy of a datagram for the next flush; a full queue is flushed at once. Never throws for what the network or the
   * datagram is: see onSendError.
   * @param destination 16 bytes @param source 16 bytes; undefined for what the socket is bound to or routing says
   * @param tag of the caller's, for onSendError
   */
  send(data: Uint8Array, destination: Uint8Array, destinationPort: number, source?: Uint8Array, tag = 0): void {
    if (isMapped(destination) === this.isIpv6 || (source !== undefined && isMapped(source) === this.isIpv6)) {
      this.#sendFailed(tag, EAFNOSUPPORT)
    } else if (data.length > DATAGRAM_BYTES_MAX) {
      this.#sendFailed(tag, EMSGSIZE)
    } else {
      if (!this.#outgoing.hasRoomFor(data.length)) this.flush()
      this.#outgoing.add(data, destination, destinationPort, source, tag)
    }
  }

  /** Sends what is queued. Nothing waits for room in the socket's buffer: what does not fit is an EAGAIN. */
  flush(): void {
    if (!this.#outgoing.isEmpty) this.#outgoing.sendTo(this.fd, (tag, errno) => this.#sendFailed(tag, errno))
  }

  /** Failures since the socket was made, by the errno's name: datagrams not sent, and news that came in place of a datagram. */
  get errorCounts(): ReadonlyMap<string, number> {
    return this.#errorCounts
  }

  /** Datagrams that the kernel dropped since the socket was made, nearly always because its receive buffer was full. */
  droppedCount(): number {
    const counters = Buffer.alloc(MEMINFO_BYTES)
    getSocketOption(this.fd, SOL_SOCKET, SO_MEMINFO, counters)
    return counters.readUInt32LE(MEMINFO_DROPS_OFFSET)
  }

  /** Sends what is queued and closes. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.stop()
    this.flush()
    close(this.fd)
  }

  #receiveFailed(errno: number): void {
    if (MISTAKES.has(errno)) throw new SystemCallError('recvmmsg', errno, `fd ${this.fd}`)
    this.#count(errno)
  }

  #sendFailed(tag: number, errno: number): void {
    this.#options.onSendError?.(tag, this.#count(errno))
  }

  #count(errno: number): string {
    const code = getSystemErrorName(-errno)
    this.#errorCounts.set(code, (this.#errorCounts.get(code) ?? 0) + 1)
    return code
  }
}

/**
 * The memory behind recvmmsg(2) and sendmmsg(2): headers, addresses, ancillary data and payloads of many datagrams, laid out once and
 * used for every call, so that a datagram costs neither an allocation nor a call of its own. Structures are written by hand;
 * msghdr, mmsghdr, iovec and cmsghdr are the same on every 64-bit little-endian Linux (x86_64, aarch64), with 8-byte size_t.
 *
 * The kernel reads and writes this memory only during the calls, which are synchronous, and V8 never moves the store of an ArrayBuffer:
 * the pointers inside stay true for as long as the batch that holds the buffers lives.
 */
import { constants as osConstants } from 'node:os'
import { AF_INET, AF_INET6, addressOf, MSG_DONTWAIT, receiveMessages, sendMessages } from './libc.ts'
import { IPPROTO_IP, IPPROTO_IPV6, SO_MARK, SOL_SOCKET } from './socket-options.ts'

export const ADDRESS_BYTES = 16
/** No UDP payload is longer than what its length field counts. */
export const DATAGRAM_BYTES_MAX = 65_535

/** struct mmsghdr: struct msghdr of 56 bytes, then msg_len. In 32-bit words, as all offsets here that do not say bytes. */
const HEADER_WORDS = 16
const HEADER_NAME = 0
const HEADER_NAME_LENGTH = 2
const HEADER_VECTOR = 4
const HEADER_VECTOR_COUNT = 6
const HEADER_CONTROL = 8
const HEADER_CONTROL_LENGTH = 10
const HEADER_FLAGS = 12
const HEADER_DATA_LENGTH = 14
/** struct iovec: pointer, length. */
const VECTOR_WORDS = 4
/** struct sockaddr_in (16 bytes) or sockaddr_in6 (28). */
const NAME_WORDS = 8
const SOCKADDR_IN_BYTES = 16
export const SOCKADDR_IN6_BYTES = 28
/** struct cmsghdr: size_t length with the header, level, type; then the value, padded to 8 bytes. */
const CONTROL_HEADER_WORDS = 4
/** Room for a mark (24 bytes) and an IPv6 sockaddr (48), and as much again for what an adopted socket may report besides. */
const CONTROL_WORDS = 36

const MSG_TRUNC = 0x20
const IP_PKTINFO = 8
const IP_ORIGDSTADDR = 20
const IPV6_PKTINFO = 50
const IPV6_ORIGDSTADDR = 74

const { EAGAIN, ECONNREFUSED, EINTR } = osConstants.errno

const CACHE_LINE_BYTES = 64
const TWO_TO_32 = 2 ** 32

/** Headers, names and controls of a batch, wired to each other; the vectors point nowhere yet. */
class Headers {
  readonly bytes: Buffer
  readonly words: Uint32Array
  /** Where the parts of slot 0 begin. */
  readonly vectors: number
  readonly names: number
  readonly controls: number

  constructor(slotCount: number) {
    this.vectors = slotCount * HEADER_WORDS
    this.names = this.vectors + slotCount * VECTOR_WORDS
    this.controls = this.names + slotCount * NAME_WORDS
    const memory = new ArrayBuffer(4 * (this.controls + slotCount * CONTROL_WORDS))
    this.bytes = Buffer.from(memory)
    this.words = new Uint32Array(memory)
    const base = addressOf(this.bytes)
    for (let index = 0; index < slotCount; index++) {
      const header = index * HEADER_WORDS
      this.setPointer(header + HEADER_NAME, base + 4 * (this.names + index * NAME_WORDS))
      this.setPointer(header + HEADER_VECTOR, base + 4 * (this.vectors + index * VECTOR_WORDS))
      this.words[header + HEADER_VECTOR_COUNT] = 1
      this.setPointer(header + HEADER_CONTROL, base + 4 * (this.controls + index * CONTROL_WORDS))
    }
  }

  /** User-space addresses fit into a double; a Uint32Array keeps the low half of what it is given. */
  setPointer(word: number, address: number): void {
    this.words[word] = address
    this.words[word + 1] = address / TWO_TO_32
  }
}

/** What one call received. Everything in it is a view that the next call overwrites: copy what has to outlive the callback. */
export class ReceiveBatch {
  /** Datagrams in it. */
  count = 0
  readonly #slotCount: number
  readonly #headers: Headers
  readonly #data: Buffer
  readonly #strideBytes: number
  /** For each slot its source, then its original destination. */
  readonly #addressWords: Uint32Array
  readonly #sources: Buffer[] = []
  readonly #destinations: Buffer[] = []
  readonly #sourcePorts: Uint16Array
  readonly #destinationPorts: Uint16Array
  readonly #marks: Uint32Array

  /**
   * @param slotCount datagrams of one call
   * @param datagramBytesMax what a slot takes; of longer ones the rest is lost and isTruncated is set. Memory that no datagram has reached
   * yet is not resident, so 64 slots for the longest datagrams cost little more than 64 small ones until such datagrams come.
   */
  constructor(slotCount: number, datagramBytesMax: number) {
    this.#slotCount = slotCount
    this.#headers = new Headers(slotCount)
    // An odd number of cache lines: slots a power of two apart would all meet in the same few sets of the cache.
    this.#strideBytes = (Math.ceil(datagramBytesMax / CACHE_LINE_BYTES) | 1) * CACHE_LINE_BYTES
    this.#data = Buffer.from(new ArrayBuffer(slotCount * this.#strideBytes))
    const addresses = Buffer.from(new ArrayBuffer(slotCount * 2 * ADDRESS_BYTES))
    this.#addressWords = new Uint32Array(addresses.buffer)
    this.#sourcePorts = new Uint16Array(slotCount)
    this.#destinationPorts = new Uint16Array(slotCount)
    this.#marks = new Uint32Array(slotCount)
    const base = addressOf(this.#data)
    for (let index = 0; index < slotCount; index++) {
      const vector = this.#headers.vectors + index * VECTOR_WORDS
      this.#headers.setPointer(vector, base + index * this.#strideBytes)
      this.#headers.words[vector + 2] = datagramBytesMax
      const offset = index * 2 * ADDRESS_BYTES
      this.#sources.push(addresses.subarray(offset, offset + ADDRESS_BYTES))
      this.#destinations.push(addresses.subarray(offset + ADDRESS_BYTES, offset + 2 * ADDRESS_BYTES))
    }
    this.#reset(slotCount)
  }

  /** The payload; writing into it harms nobody. */
  data(index: number): Buffer {
    const offset = index * this.#strideBytes
    return this.#data.subarray(offset, offset + this.#word(index, HEADER_DATA_LENGTH))
  }

  /** 16 bytes, IPv4 mapped. */
  source(index: number): Buffer {
    return this.#sources[index] as Buffer
  }

  sourcePort(index: number): number {
    return this.#sourcePorts[index] as number
  }

  /** Where the datagram was addressed to, whatever the socket is bound to: 16 bytes, all zero if the socket does not report it. */
  destination(index: number): Buffer {
    return this.#destinations[index] as Buffer
  }

  /** 0 if the socket does not report it. */
  destinationPort(index: number): number {
    return this.#destinationPorts[index] as number
  }

  /** The packet's mark; 0 if it has none or the socket does not report it. */
  mark(index: number): number {
    return this.#marks[index] as number
  }

  /** Whether the datagram was longer than a slot. */
  isTruncated(index: number): boolean {
    return (this.#word(index, HEADER_FLAGS) & MSG_TRUNC) !== 0
  }

  /** Takes what a socket has, without waiting. @returns the count, 0 included, or the errno as a negative number */
  receiveFrom(fd: number): number {
    this.#reset(this.count)
    const received = receiveMessages(fd, this.#headers.bytes, this.#slotCount, MSG_DONTWAIT)
    this.count = Math.max(received, 0)
    for (let index = 0; index < this.count; index++) this.#decode(index)
    return received
  }

  #word(index: number, field: number): number {
    return this.#headers.words[index * HEADER_WORDS + field] as number
  }

  /** The kernel writes lengths over the sizes that it was given, and nothing at all over a name or control that a datagram lacks. */
  #reset(count: number): void {
    for (let index = 0; index < count; index++) {
      const header = index * HEADER_WORDS
      this.#headers.words[header + HEADER_NAME_LENGTH] = 4 * NAME_WORDS
      this.#headers.words[header + HEADER_CONTROL_LENGTH] = 4 * CONTROL_WORDS
    }
  }

  #decode(index: number): void {
    const { words, names, controls } = this.#headers
    const address = (index * 2 * ADDRESS_BYTES) / 4
    this.#sourcePorts[index] = this.#decodeSocketAddress(names + index * NAME_WORDS, address)
    this.#marks[index] = 0
    this.#destinationPorts[index] = 0
    this.#addressWords.fill(0, address + 4, address + 8)
    let control = controls + index * CONTROL_WORDS
    const end = control + this.#word(index, HEADER_CONTROL_LENGTH) / 4
    while (control + CONTROL_HEADER_WORDS < end) {
      const length = words[control] as number
      const level = words[control + 2] as number
      const type = words[control + 3] as number
      const value = control + CONTROL_HEADER_WORDS
      if (level === SOL_SOCKET && type === SO_MARK) this.#marks[index] = words[value] as number
      else if ((level === IPPROTO_IP && type === IP_ORIGDSTADDR) || (level === IPPROTO_IPV6 && type === IPV6_ORIGDSTADDR)) {
        this.#destinationPorts[index] = this.#decodeSocketAddress(value, address + 4)
      }
      control += Math.max(CONTROL_HEADER_WORDS, 2 * Math.ceil(length / 8))
    }
  }

  /** @param from a sockaddr in the headers @param to where its address goes @returns its port */
  #decodeSocketAddress(from: number, to: number): number {
    const { words } = this.#headers
    const target = this.#addressWords
    const first = words[from] as number
    if ((first & 0xffff) === AF_INET) {
      target[to] = 0
      target[to + 1] = 0
      target[to + 2] = MAPPED_WORD
      target[to + 3] = words[from + 1] as number
    } else {
      for (let word = 0; word < 4; word++) target[to + word] = words[from + 2 + word] as number
    }
    return swapPort(first >>> 16)
  }
}

/** Bytes 8 to 11 of a mapped IPv4 address, as a little-endian machine reads them. */
const MAPPED_WORD = 0xffff_0000

/** Writes a sockaddr_in or sockaddr_in6 into bytes that are zero or held one of the same kind. @returns its length */
export function encodeSocketAddress(bytes: Uint8Array, offset: number, address: Uint8Array, port: number, isIpv6: boolean): number {
  bytes[offset] = isIpv6 ? AF_INET6 : AF_INET
  bytes[offset + 2] = port >>> 8
  bytes[offset + 3] = port & 0xff
  if (isIpv6) copyBytes(address, 0, bytes, offset + 8, ADDRESS_BYTES)
  else copyBytes(address, 12, bytes, offset + 4, 4)
  return isIpv6 ? SOCKADDR_IN6_BYTES : SOCKADDR_IN_BYTES
}

/** Between the order of the network and the machine's. */
function swapPort(port: number): number {
  return ((port & 0xff) << 8) | (port >>> 8)
}

/** Datagrams that wait for one call to send them. */
export class SendBatch {
  readonly #slotCount: number
  readonly #headers: Headers
  /** Payloads one behind the other: a batch takes many small ones or one of the longest. */
  readonly #data: Buffer
  readonly #dataAddress: number
  readonly #isIpv6: boolean
  readonly #tags: number[] = []
  #count = 0
  #dataUsedBytes = 0

  constructor(slotCount: number, isIpv6: boolean) {
    this.#slotCount = slotCount
    this.#isIpv6 = isIpv6
    this.#headers = new Headers(slotCount)
    this.#data = Buffer.from(new ArrayBuffer(DATAGRAM_BYTES_MAX + 1))
    this.#dataAddress = addressOf(this.#data)
  }

  get isEmpty(): boolean {
    return this.#count === 0
  }

  hasRoomFor(dataBytes: number): boolean {
    return this.#count < this.#slotCount && this.#dataUsedBytes + dataBytes <= this.#data.length
  }

  /** Copies a datagram into the batch, which has room for it. Both addresses are of the batch's family. */
  add(data: Uint8Array, destination: Uint8Array, destinationPort: number, source: Uint8Array | undefined, tag: number): void {
    const { words, vectors, names } = this.#headers
    const index = this.#count++
    this.#data.set(data, this.#dataUsedBytes)
    const vector = vectors + index * VECTOR_WORDS
    this.#headers.setPointer(vector, this.#dataAddress + this.#dataUsedBytes)
    words[vector + 2] = data.length
    this.#dataUsedBytes += data.length
    const header = index * HEADER_WORDS
    const name = 4 * (names + index * NAME_WORDS)
    words[header + HEADER_NAME_LENGTH] = encodeSocketAddress(this.#headers.bytes, name, destination, destinationPort, this.#isIpv6)
    words[header + HEADER_CONTROL_LENGTH] = source === undefined ? 0 : this.#encodeSource(index, source)
    this.#tags[index] = tag
  }

  /**
   * Sends all and is empty then. The kernel stops before a datagram that it refuses: that one is reported, and the rest follows.
   * @param onFailure tag and errno of each datagram that was not sent; called when the batch is empty again
   */
  sendTo(fd: number, onFailure: (tag: number, errno: number) => void): void {
    const count = this.#count
    const failures: { readonly tag: number; readonly errno: number }[] = []
    const fail = (index: number, errno: number): void => {
      failures.push({ tag: this.#tags[index] as number, errno })
    }
    let index = 0
    let isRetried = false
    while (index < count) {
      const { bytes } = this.#headers
      const sent = sendMessages(fd, index === 0 ? bytes : bytes.subarray(index * HEADER_WORDS * 4), count - index, MSG_DONTWAIT)
      if (sent > 0) {
        index += sent
        isRetried = false
      } else if (sent === -EINTR || (sent === -ECONNREFUSED && !isRetried)) {
        // The second is news of an earlier datagram on a connected socket, and does not come twice.
        isRetried = true
      } else {
        const errno = -sent
        fail(index++, errno)
        isRetried = false
        // The buffer is full: what follows would only cost a call each to hear the same.
        if (errno === EAGAIN) while (index < count) fail(index++, errno)
      }
    }
    this.#count = 0
    this.#dataUsedBytes = 0
    for (const { tag, errno } of failures) onFailure(tag, errno)
  }

  /** struct in_pktinfo: interface, source, unused; struct in6_pktinfo: source, interface. Interface 0 leaves the way to routing. */
  #encodeSource(index: number, source: Uint8Array): number {
    const { bytes, words, controls } = this.#headers
    const control = controls + index * CONTROL_WORDS
    const valueBytes = this.#isIpv6 ? 20 : 12
    const lengthBytes = 4 * CONTROL_HEADER_WORDS + valueBytes
    words[control] = lengthBytes
    words[control + 2] = this.#isIpv6 ? IPPROTO_IPV6 : IPPROTO_IP
    words[control + 3] = this.#isIpv6 ? IPV6_PKTINFO : IP_PKTINFO
    const value = 4 * (control + CONTROL_HEADER_WORDS)
    if (this.#isIpv6) copyBytes(source, 0, bytes, value, ADDRESS_BYTES)
    else copyBytes(source, 12, bytes, value + 4, 4)
    return 8 * Math.ceil(lengthBytes / 8)
  }
}

/** For a few bytes a loop beats the call into the runtime that TypedArray's own methods are. */
function copyBytes(from: Uint8Array, fromOffset: number, to: Uint8Array, toOffset: number, length: number): void {
  for (let offset = 0; offset < length; offset++) to[toOffset + offset] = from[fromOffset + offset] as number
}

/**
 * Netlink framing: one request, its answers, and attribute lists. Synchronous, because the kernel answers these families before
 * send(2) returns. Numbers are in the machine's order; both platforms that Headgate runs on are little-endian.
 */
import { SystemCallError } from './errors.ts'
import { AF_NETLINK, bind, close, MSG_DONTWAIT, receive, SOCK_RAW, send, setSocketOption, socket } from './libc.ts'
import { SOL_SOCKET } from './socket-options.ts'

export const NETLINK_ROUTE = 0
export const NETLINK_SOCK_DIAG = 4

export const NLM_F_REQUEST = 1
export const NLM_F_ACK = 4
export const NLM_F_DUMP = 0x300
export const NLM_F_EXCL = 0x200
export const NLM_F_CREATE = 0x400

const NLMSG_ERROR = 2
const NLMSG_DONE = 3
const HEADER_BYTES = 16
const RECEIVE_BYTES = 1 << 18
const SO_RCVBUF = 8
const SOL_NETLINK = 270
const NETLINK_EXT_ACK = 11

/** One netlink message without its header. */
export interface NetlinkMessage {
  readonly type: number
  readonly body: Buffer
}

const align4 = (length: number): number => (length + 3) & ~3

/** One attribute: 4 bytes of header, the value, padding. */
export function encodeAttribute(type: number, value: Uint8Array | number | string): Buffer {
  const bytes = typeof value === 'number' ? uint32(value) : typeof value === 'string' ? Buffer.from(`${value}\0`) : Buffer.from(value)
  const out = Buffer.alloc(align4(4 + bytes.length))
  out.writeUInt16LE(4 + bytes.length, 0)
  out.writeUInt16LE(type, 2)
  bytes.copy(out, 4)
  return out
}

/** A nested attribute. */
export function encodeNested(type: number, ...attributes: Uint8Array[]): Buffer {
  return encodeAttribute(type | 0x8000, Buffer.concat(attributes))
}

/** Attributes of a list by type; of equal types the last one counts. Views into `bytes`. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>()
  let offset = 0
  while (offset + 4 <= bytes.length) {
    const length = bytes.readUInt16LE(offset)
    if (length < 4 || offset + length > bytes.length) break
    attributes.set(bytes.readUInt16LE(offset + 2) & 0x3fff, bytes.subarray(offset + 4, offset + length))
    offset += align4(length)
  }
  return attributes
}

/** An attribute that is a string, with or without its closing zero; empty when it is not there. */
export function decodeText(bytes: Buffer | undefined): string {
  return bytes === undefined ? '' : bytes.toString('utf8').replace(/\0.*$/s, '')
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

/** A netlink socket, in the network namespace that was current when it was made. */
export class NetlinkSocket {
  readonly fd: number
  readonly #buffer = Buffer.allocUnsafe(RECEIVE_BYTES)
  #sequence = 0

  /** @param groups bit mask of multicast groups, for listeners */
  constructor(protocol: number, groups = 0) {
    this.fd = socket(AF_NETLINK, SOCK_RAW, protocol)
    const address = Buffer.alloc(12)
    address.writeUInt16LE(AF_NETLINK, 0)
    address.writeUInt32LE(groups, 8)
    bind(this.fd, address)
    setSocketOption(this.fd, SOL_NETLINK, NETLINK_EXT_ACK, 1)
    if (groups !== 0) setSocketOption(this.fd, SOL_SOCKET, SO_RCVBUF, 1 << 20)
  }

  /**
   * Sends one request and collects its answers.
   * @param what for the error's text
   * @throws SystemCallError with the kernel's errno and, where it gives one, its own words
   */
  request(type: number, flags: number, body: Buffer, what: string): NetlinkMessage[] {
    const sequence = ++this.#sequence
    const message = Buffer.alloc(HEADER_BYTES + align4(body.length))
    message.writeUInt32LE(HEADER_BYTES + body.length, 0)
    message.writeUInt16LE(type, 4)
    message.writeUInt16LE(flags | NLM_F_REQUEST, 6)
    message.writeUInt32LE(sequence, 8)
    body.copy(message, HEADER_BYTES)
    send(this.fd, message)
    const answers: NetlinkMessage[] = []
    const single = (flags & (NLM_F_ACK | NLM_F_DUMP)) === 0
    for (;;) {
      const length = receive(this.fd, this.#buffer, 0)
      for (const part of splitMessages(this.#buffer.subarray(0, length))) {
        if (part.sequence !== sequence) continue
        if (part.type === NLMSG_ERROR) {
          const errno = -part.body.readInt32LE(0)
          if (errno === 0) return answers
          throw new SystemCallError('netlink', errno, `${what}${extendedError(part)}`)
        }
        if (part.type === NLMSG_DONE) {
          const errno = part.body.length >= 4 ? -part.body.readInt32LE(0) : 0
          if (errno > 0) throw new SystemCallError('netlink', errno, what)
          return answers
        }
        answers.push({ type: part.type, body: Buffer.from(part.body) })
        if (single) return answers
      }
    }
  }

  /** Messages that are waiting, for a listener whose descriptor is readable. @throws SystemCallError ENOBUFS when some were lost */
  drain(): NetlinkMessage[] {
    const messages: NetlinkMessage[] = []
    for (;;) {
      const length = receive(this.fd, this.#buffer, MSG_DONTWAIT)
      if (length < 0) return messages
      for (const part of splitMessages(this.#buffer.subarray(0, length))) {
        messages.push({ type: part.type, body: Buffer.from(part.body) })
      }
    }
  }

  close(): void {
    close(this.fd)
  }
}

interface RawMessage extends NetlinkMessage {
  readonly sequence: number
  readonly flags: number
}

function* splitMessages(bytes: Buffer): Generator<RawMessage> {
  let offset = 0
  while (offset + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(offset)
    if (length < HEADER_BYTES || offset + length > bytes.length) return
    yield {
      type: bytes.readUInt16LE(offset + 4),
      flags: bytes.readUInt16LE(offset + 6),
      sequence: bytes.readUInt32LE(offset + 8),
      body: bytes.subarray(offset + HEADER_BYTES, offset + length),
    }
    offset += align4(length)
  }
}

/** The kernel's explanation behind an error, if there is one (NLMSGERR_ATTR_MSG). */
function extendedError(message: RawMessage): string {
  const NLM_F_CAPPED = 0x100
  const NLM_F_ACK_TLVS = 0x200
  if ((message.flags & NLM_F_ACK_TLVS) === 0) return ''
  const echoed = message.flags & NLM_F_CAPPED ? HEADER_BYTES : message.body.readUInt32LE(4)
  const text = decodeAttributes(message.body.subarray(4 + align4(echoed))).get(1)
  return text ? ` (${text.toString('utf8').replace(/\0$/, '')})` : ''
}

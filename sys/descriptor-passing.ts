/**
 * Descriptors from one process to another (SCM_RIGHTS), with a text beside them, as datagrams over a UNIX socket. Structures are written by
 * hand, as in sys/udp-batch.ts.
 */
import { constants as osConstants } from 'node:os'
import { SystemCallError } from './errors.ts'
import { AF_UNIX, addressOf, bind, close, MSG_DONTWAIT, receiveMessages, SOCK_DGRAM, sendMessages, socket, watchReadable } from './libc.ts'
import { SOL_SOCKET } from './socket-options.ts'

/** Of one datagram. */
export const DESCRIPTORS_MAX = 16
const TEXT_BYTES_MAX = 4096

const SCM_RIGHTS = 1
const MSG_CTRUNC = 0x08
const MSG_CMSG_CLOEXEC = 0x40000000
/** sockaddr_un: family, then a path of 107 bytes and its end. */
const PATH_OFFSET = 2
const PATH_BYTES_MAX = 107
/** struct mmsghdr: the fields of struct msghdr, then what was received. */
const MESSAGE_BYTES = 64
const NAME = 0
const NAME_LENGTH = 8
const VECTOR = 16
const VECTOR_COUNT = 24
const CONTROL = 32
const CONTROL_LENGTH = 40
const FLAGS = 48
const DATA_LENGTH = 56
/** struct cmsghdr: size_t length with the header, level, type. */
const CONTROL_HEADER_BYTES = 16
const FD_BYTES = 4

/** @throws RangeError when the path is too long for a socket */
function socketAddress(path: string): Buffer {
  const bytes = Buffer.from(path)
  if (bytes.length > PATH_BYTES_MAX) throw new RangeError(`a socket's path has ${PATH_BYTES_MAX} bytes at most: ${path}`)
  const address = Buffer.alloc(PATH_OFFSET + bytes.length + 1)
  address.writeUInt16LE(AF_UNIX, 0)
  bytes.copy(address, PATH_OFFSET)
  // An abstract name: its length counts, and it has no end.
  if (path.startsWith('@')) address[PATH_OFFSET] = 0
  return path.startsWith('@') ? address.subarray(0, -1) : address
}

/** One message with its parts wired to each other. */
class Message {
  readonly header = Buffer.alloc(MESSAGE_BYTES)
  readonly control = Buffer.alloc(CONTROL_HEADER_BYTES + DESCRIPTORS_MAX * FD_BYTES)
  readonly #vector = Buffer.alloc(16)
  readonly #data: Buffer
  readonly #name: Buffer

  constructor(data: Buffer, name: Buffer, controlBytes: number) {
    this.#data = data
    this.#name = name
    this.#vector.writeBigUInt64LE(BigInt(addressOf(this.#data)), 0)
    this.#vector.writeBigUInt64LE(BigInt(data.length), 8)
    this.header.writeBigUInt64LE(name.length === 0 ? 0n : BigInt(addressOf(this.#name)), NAME)
    this.header.writeUInt32LE(name.length, NAME_LENGTH)
    this.header.writeBigUInt64LE(BigInt(addressOf(this.#vector)), VECTOR)
    this.header.writeBigUInt64LE(1n, VECTOR_COUNT)
    this.header.writeBigUInt64LE(controlBytes === 0 ? 0n : BigInt(addressOf(this.control)), CONTROL)
    this.header.writeBigUInt64LE(BigInt(controlBytes), CONTROL_LENGTH)
  }
}

/** Sends copies of descriptors; they stay open here. @param path of a datagram socket; with @ for an abstract one @throws SystemCallError */
export function sendDescriptors(path: string, text: string, fds: readonly number[]): void {
  if (fds.length > DESCRIPTORS_MAX) throw new RangeError(`${DESCRIPTORS_MAX} descriptors at most: ${fds.length}`)
  const controlBytes = fds.length === 0 ? 0 : CONTROL_HEADER_BYTES + fds.length * FD_BYTES
  const message = new Message(Buffer.from(text), socketAddress(path), controlBytes)
  message.control.writeBigUInt64LE(BigInt(controlBytes), 0)
  message.control.writeInt32LE(SOL_SOCKET, 8)
  message.control.writeInt32LE(SCM_RIGHTS, 12)
  for (const [index, fd] of fds.entries()) message.control.writeInt32LE(fd, CONTROL_HEADER_BYTES + index * FD_BYTES)
  const from = socket(AF_UNIX, SOCK_DGRAM, 0)
  try {
    const sent = sendMessages(from, message.header, 1, MSG_DONTWAIT)
    if (sent < 0) throw new SystemCallError('sendmmsg', -sent, path)
  } finally {
    close(from)
  }
}

/** A bound socket that descriptors are sent to. */
export class DescriptorReceiver {
  readonly #fd: number
  readonly #onMessage: (text: string, fds: readonly number[]) => void
  readonly #watch: { close(): void }

  /**
   * @param path where nothing is; whoever may write to it can send
   * @param onMessage owns the descriptors, which are closed on exec
   * @throws SystemCallError
   */
  constructor(path: string, onMessage: (text: string, fds: readonly number[]) => void) {
    this.#onMessage = onMessage
    this.#fd = socket(AF_UNIX, SOCK_DGRAM, 0)
    try {
      bind(this.#fd, socketAddress(path))
      this.#watch = watchReadable(this.#fd, () => this.receivePending())
    } catch (error) {
      close(this.#fd)
      throw error
    }
  }

  close(): void {
    this.#watch.close()
    close(this.#fd)
  }

  /** Takes everything that waits now. */
  receivePending(): void {
    while (this.#receive());
  }

  /** @returns whether there was something */
  #receive(): boolean {
    const data = Buffer.alloc(TEXT_BYTES_MAX)
    const message = new Message(data, Buffer.alloc(0), CONTROL_HEADER_BYTES + DESCRIPTORS_MAX * FD_BYTES)
    const received = receiveMessages(this.#fd, message.header, 1, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    if (received === -osConstants.errno.EAGAIN) return false
    if (received < 0) throw new SystemCallError('recvmmsg', -received, `fd ${this.#fd}`)
    const fds = descriptorsOf(message)
    // Some are missing, which no sender of ours causes: none means anything then.
    if ((message.header.readUInt32LE(FLAGS) & MSG_CTRUNC) !== 0) for (const fd of fds) close(fd)
    else this.#onMessage(data.toString('utf8', 0, message.header.readUInt32LE(DATA_LENGTH)), fds)
    return true
  }
}

function descriptorsOf({ header, control }: Message): number[] {
  if (Number(header.readBigUInt64LE(CONTROL_LENGTH)) < CONTROL_HEADER_BYTES) return []
  if (control.readInt32LE(8) !== SOL_SOCKET || control.readInt32LE(12) !== SCM_RIGHTS) return []
  const count = (Number(control.readBigUInt64LE(0)) - CONTROL_HEADER_BYTES) / FD_BYTES
  return Array.from({ length: count }, (_, index) => control.readInt32LE(CONTROL_HEADER_BYTES + index * FD_BYTES))
}

/** Hand-made frames, for tests that attack the datapath: Ethernet, IPv4 and TCP as bytes, sent from inside a namespace. */
import { SystemCallError } from '#sys/errors.ts'
import { AF_PACKET, bind, close, MSG_DONTWAIT, receive, SOCK_RAW, send, setSocketOption, socket } from '#sys/libc.ts'
import { inNetns, netnsPath } from '#sys/netns.ts'
import { withRoute } from '#sys/rtnetlink.ts'

export const TCP_SYN = 2
export const TCP_ACK = 16
export const TCP_PSH = 8

export interface TcpFrame {
  readonly sourceMac?: string
  readonly destinationMac: string
  readonly source: string
  readonly destination: string
  readonly sourcePort: number
  readonly destinationPort: number
  readonly flags: number
  readonly sequence?: number
  readonly acknowledgement?: number
  readonly payload?: Buffer
}

export function macBytes(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex')
}

function ipBytes(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number))
}

function checksum(bytes: Buffer): number {
  let sum = 0
  for (let offset = 0; offset < bytes.length; offset += 2) sum += ((bytes[offset] ?? 0) << 8) + (bytes[offset + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

/** An IPv4 packet around a payload. */
export function ipv4Packet(protocol: number, source: string, destination: string, payload: Buffer, fragment = 0): Buffer {
  const header = Buffer.alloc(20)
  header[0] = 0x45
  header.writeUInt16BE(20 + payload.length, 2)
  header.writeUInt16BE(fragment, 6)
  header[8] = 64
  header[9] = protocol
  ipBytes(source).copy(header, 12)
  ipBytes(destination).copy(header, 16)
  header.writeUInt16BE(checksum(header), 10)
  return Buffer.concat([header, payload])
}

export function ethernet(destinationMac: string, sourceMac: string, type: number, payload: Buffer): Buffer {
  return Buffer.concat([macBytes(destinationMac), macBytes(sourceMac), Buffer.from([type >>> 8, type & 0xff]), payload])
}

export function tcpFrame(frame: TcpFrame): Buffer {
  const payload = frame.payload ?? Buffer.alloc(0)
  const tcp = Buffer.alloc(20)
  tcp.writeUInt16BE(frame.sourcePort, 0)
  tcp.writeUInt16BE(frame.destinationPort, 2)
  tcp.writeUInt32BE(frame.sequence ?? 1, 4)
  tcp.writeUInt32BE(frame.acknowledgement ?? 0, 8)
  tcp[12] = 0x50
  tcp[13] = frame.flags
  tcp.writeUInt16BE(64240, 14)
  const segment = Buffer.concat([tcp, payload])
  const pseudo = Buffer.alloc(12)
  ipBytes(frame.source).copy(pseudo, 0)
  ipBytes(frame.destination).copy(pseudo, 4)
  pseudo[9] = 6
  pseudo.writeUInt16BE(segment.length, 10)
  segment.writeUInt16BE(checksum(Buffer.concat([pseudo, segment, Buffer.alloc(segment.length % 2)])), 16)
  return ethernet(
    frame.destinationMac,
    frame.sourceMac ?? '02:00:00:00:00:01',
    0x0800,
    ipv4Packet(6, frame.source, frame.destination, segment),
  )
}

const SOL_SOCKET = 1
const SO_MARK = 36
const ETH_P_ALL = 3

const FRAME_BYTES_MAX = 65_536

/** Everything that passes a device of a namespace, past that namespace's own stack. */
export class PacketSocket {
  readonly #fd: number
  readonly #buffer = Buffer.alloc(FRAME_BYTES_MAX)

  constructor(netns: string, device: string, mark = 0) {
    const index = withRoute(netnsPath(netns), (route) => route.link(device)?.index)
    if (index === undefined) throw new Error(`no device ${device} in ${netns}`)
    this.#fd = inNetns(netnsPath(netns), () => socket(AF_PACKET, SOCK_RAW, 0))
    const address = Buffer.alloc(20)
    address.writeUInt16LE(AF_PACKET, 0)
    address.writeUInt16BE(ETH_P_ALL, 2)
    address.writeInt32LE(index, 4)
    try {
      if (mark !== 0) setSocketOption(this.#fd, SOL_SOCKET, SO_MARK, mark)
      bind(this.#fd, address)
    } catch (error) {
      close(this.#fd)
      throw error
    }
  }

  /** @throws SystemCallError when the kernel takes no such frame, or a program on the device's way out dropped it (ENOBUFS) */
  send(frame: Buffer): void {
    send(this.#fd, frame)
  }

  /** What has come since the last time, what the namespace itself sent included. */
  receiveAll(): Buffer[] {
    const frames: Buffer[] = []
    for (;;) {
      const length = receive(this.#fd, this.#buffer, MSG_DONTWAIT)
      if (length < 0) return frames
      frames.push(Buffer.from(this.#buffer.subarray(0, length)))
    }
  }

  close(): void {
    close(this.#fd)
  }
}

/** Writes one frame to a device of a namespace. */
export function sendFrame(netns: string, device: string, frame: Buffer, mark = 0): void {
  const packets = new PacketSocket(netns, device, mark)
  try {
    packets.send(frame)
  } catch (error) {
    // The device's egress program dropped it: that is what tests want to see in the counters.
    if (!(error instanceof SystemCallError && error.code === 'ENOBUFS')) throw error
  } finally {
    packets.close()
  }
}

/**
 * The socket that all queries over UDP come to. It outlives the process where a service manager keeps it: queries wait in it until the
 * next process is there.
 */
import { DNS_QUERIES_PORT, MARK_EGRESS_ACCEPTED } from '#bpf/gen/abi.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { AF_INET, close, SOCK_DGRAM, socket } from '#sys/libc.ts'
import { netnsCookie } from '#sys/netns.ts'
import { UdpSocket } from '#sys/udp.ts'

/** Its name where it is kept. */
export const QUERY_SOCKET_NAME = 'dns-queries'
const LOOPBACK = addressToBytes('127.0.0.1')
/** What comes while nobody receives: several thousand queries. */
const BUFFER_BYTES = 8 << 20

const OPTIONS = {
  transparent: true,
  receiveBufferBytes: BUFFER_BYTES,
  sendBufferBytes: BUFFER_BYTES,
  mark: MARK_EGRESS_ACCEPTED,
  receiveMark: true,
  receiveOriginalDestination: true,
} as const

/**
 * @param keptFd of an earlier process, used if it is what this process would make, else closed
 * @param inNetns runs something in the egress proxies' namespace
 * @throws SystemCallError
 */
export function openQuerySocket(keptFd: number | undefined, inNetns: <T>(run: () => T) => T): UdpSocket {
  if (keptFd !== undefined) {
    let kept: UdpSocket | undefined
    try {
      kept = adopt(keptFd, inNetns)
    } finally {
      if (kept === undefined) close(keptFd)
    }
    if (kept !== undefined) return kept
  }
  return inNetns(() => UdpSocket.bind(LOOPBACK, DNS_QUERIES_PORT, OPTIONS))
}

/** @returns undefined for a socket of another port, or of a namespace that is no more */
function adopt(fd: number, inNetns: <T>(run: () => T) => T): UdpSocket | undefined {
  const here = inNetns(() => {
    const probe = socket(AF_INET, SOCK_DGRAM, 0)
    try {
      return netnsCookie(probe)
    } finally {
      close(probe)
    }
  })
  if (netnsCookie(fd) !== here) return undefined
  const kept = UdpSocket.adopt(fd, OPTIONS)
  return kept.localPort === DNS_QUERIES_PORT ? kept : undefined
}

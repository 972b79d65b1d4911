/**
 * Ends connections that the current policy does not support any more. The kernel drops their packets by itself from the moment that the
 * rows change; this finds the quiet ones too, and resets them on both sides, so that nobody waits for a timeout: the sockets of the
 * workloads for direct connections, the proxy's accepted and upstream sockets (pooled ones included) for redirected ones.
 */
import {
  CT_ORIGINAL_CLOSED,
  CT_REPLY_CLOSED,
  type CtKey,
  type CtValue,
  ctKeyCodec,
  ctValueCodec,
  DIRECTION_EGRESS,
  LEG_DIRECT,
  LEG_EGRESS_UPSTREAM,
  LEG_INGRESS_ACCEPTED,
  LEG_INGRESS_UPSTREAM,
} from '#bpf/gen/abi.ts'
import type { BpfMap } from '#bpf/map.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'
import { SockDiag, type TcpSocket } from '#sys/sock-diag.ts'

const IPPROTO_ICMP = 1
const IPPROTO_TCP = 6
const ICMP_ECHO = 8

/** What revocation asks of the agent. */
export interface RevocationContext {
  /** Of every endpoint that there is, those that wait for their device too. */
  endpointIds(): ReadonlySet<number>
  /** Whether today's policy supports a connection as it runs; undefined for an endpoint that is gone. */
  supports(endpointId: number, key: CtKey, value: CtValue): boolean | undefined
  /** Namespace of an endpoint; undefined when only its device is known. */
  netnsOf(endpointId: number): string | undefined
}

export interface RevocationResult {
  /** Connections found without support. */
  readonly revoked: number
  /** Sockets that were reset. */
  readonly destroyed: number
}

interface Tuple {
  readonly local: Buffer
  readonly remote: Buffer
  readonly localPort: number
  readonly remotePort: number
}

const ENDPOINT_ID_OFFSET = ctKeyCodec.layout.fields.find(({ name }) => name === 'endpointId')?.offset ?? 0

export class Revocation {
  readonly #conntrack: BpfMap<CtKey, CtValue>
  readonly #egressNetns: string
  readonly #ingressNetns: string
  readonly #context: RevocationContext

  constructor(conntrack: BpfMap<CtKey, CtValue>, egressNetns: string, ingressNetns: string, context: RevocationContext) {
    this.#conntrack = conntrack
    this.#egressNetns = egressNetns
    this.#ingressNetns = ingressNetns
    this.#context = context
  }

  /** @param endpointIds whose connections to look at; undefined: all, and those of endpoints that are no more are forgotten */
  run(endpointIds: ReadonlySet<number> | undefined): RevocationResult {
    const known = endpointIds ?? this.#context.endpointIds()
    const byNetns = new Map<string, Tuple[]>()
    let revoked = 0
    for (const { keys, values, count } of this.#conntrack.rawBatches()) {
      for (let index = 0; index < count; index++) {
        const keyBytes = keys.subarray(index * ctKeyCodec.size, (index + 1) * ctKeyCodec.size)
        const endpointId = keyBytes.readUInt32LE(ENDPOINT_ID_OFFSET)
        if (!known.has(endpointId)) {
          if (endpointIds === undefined) this.#conntrack.delete(ctKeyCodec.decode(keyBytes))
          continue
        }
        const key = ctKeyCodec.decode(keyBytes)
        const value = ctValueCodec.decode(values.subarray(index * ctValueCodec.size))
        if (isClosed(value) || this.#context.supports(endpointId, key, value) !== false) continue
        revoked++
        if (key.protocol !== IPPROTO_TCP) {
          // The kernel judges the next packet anew; without an entry it starts from nothing.
          this.#conntrack.delete(key)
          continue
        }
        const place = this.#socketOf(endpointId, key, value)
        if (place === undefined) continue
        const tuples = byNetns.get(place.netns)
        if (tuples === undefined) byNetns.set(place.netns, [place.tuple])
        else tuples.push(place.tuple)
      }
    }
    let destroyed = 0
    for (const [netns, tuples] of byNetns) destroyed += destroyAll(netns, tuples)
    return { revoked, destroyed }
  }

  /** An address is nobody's any more: whatever the proxies hold in its name must not outlive it. @returns sockets that were reset */
  releaseAddresses(addresses: readonly string[]): number {
    const wanted = new Set(addresses.map((address) => addressToBytes(address).toString('hex')))
    let destroyed = 0
    for (const netns of [this.#egressNetns, this.#ingressNetns]) {
      destroyed += destroyWhere(netns, ({ local, remote }) => wanted.has(local.toString('hex')) || wanted.has(remote.toString('hex')))
    }
    return destroyed
  }

  #socketOf(endpointId: number, key: CtKey, value: CtValue): { netns: string; tuple: Tuple } | undefined {
    const own = tupleOf(key)
    if (value.leg === LEG_DIRECT) {
      const netns = this.#context.netnsOf(endpointId)
      return netns === undefined ? undefined : { netns, tuple: own }
    }
    // The proxy's accepted sockets have the peer's address as their own; its upstream sockets the client's.
    if (value.leg === LEG_INGRESS_ACCEPTED) return { netns: this.#ingressNetns, tuple: own }
    if (value.leg === LEG_EGRESS_UPSTREAM) return { netns: this.#egressNetns, tuple: own }
    if (value.leg === LEG_INGRESS_UPSTREAM) return { netns: this.#egressNetns, tuple: reversed(own) }
    return { netns: this.#egressNetns, tuple: reversed(own) }
  }
}

/** Port that policy knows a tracked connection by. ICMP: the type, and only echo requests make entries. */
export function servicePort(key: CtKey, value: CtValue): number {
  if (key.protocol === IPPROTO_ICMP) return ICMP_ECHO << 8
  return value.direction === DIRECTION_EGRESS ? key.remotePort : key.localPort
}

/** Both sides have said goodbye: there is nothing left to end. */
function isClosed({ flags }: CtValue): boolean {
  const both = CT_ORIGINAL_CLOSED | CT_REPLY_CLOSED
  return (flags & both) === both
}

function tupleOf(key: CtKey): Tuple {
  return { local: Buffer.from(key.local), remote: Buffer.from(key.remote), localPort: key.localPort, remotePort: key.remotePort }
}

function reversed({ local, remote, localPort, remotePort }: Tuple): Tuple {
  return { local: remote, remote: local, localPort: remotePort, remotePort: localPort }
}

function textOf({ local, remote, localPort, remotePort }: Tuple): string {
  return `${local.toString('hex')}:${localPort}-${remote.toString('hex')}:${remotePort}`
}

function destroyAll(netns: string, tuples: readonly Tuple[]): number {
  const wanted = new Set(tuples.map(textOf))
  return destroyWhere(netns, (socket) => wanted.has(textOf(socket)))
}

function destroyWhere(netns: string, matches: (socket: TcpSocket) => boolean): number {
  let diag: SockDiag
  try {
    diag = new SockDiag(netns)
  } catch (error) {
    // A namespace that is gone took its sockets along. EINVAL: its name is still there, for a moment.
    if (error instanceof SystemCallError && (error.code === 'ENOENT' || error.code === 'EINVAL')) return 0
    throw error
  }
  try {
    return diag.tcpSockets().filter((socket) => matches(socket) && diag.destroy(socket)).length
  } finally {
    diag.close()
  }
}

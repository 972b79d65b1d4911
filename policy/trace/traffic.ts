/** What is asked about between two parties: a protocol, a port or an ICMP type, and what is said on the connection. */
import { PROTOCOL_NUMBERS } from '../compile.ts'
import { PORTLESS_PROTOCOLS } from '../model.ts'
import { ICMP_TYPES } from '../parse-icmps.ts'
import type { NamedPortNumber } from '../selector-index.ts'
import type { TracedRequest } from './matchers.ts'

export interface Traffic {
  /** IP protocol number. */
  readonly protocol: number
  /** Port of the receiver, or ICMP type; 0 where there is neither. */
  readonly port: number
  /** As it is to be shown: 80/TCP, icmp/8, gre. */
  readonly name: string
}

export interface TracedTraffic extends Traffic {
  readonly request: TracedRequest | undefined
  /** Of the ClientHello; undefined when none was said. */
  readonly serverName: string | undefined
}

/** It is no port, or the receiver has none of that name. */
export class TrafficError extends Error {
  override readonly name = 'TrafficError'
}

export const ICMP_PROTOCOLS: Readonly<Record<number, 4 | 6>> = { 1: 4, 58: 6 }

const PORT = /^(?:(\d{1,5})|([a-z0-9](?:[a-z0-9-]*[a-z0-9])?))(?:\/(TCP|UDP|SCTP))?$/i
const ICMP = /^icmp(v4|v6)?(?:\/(.{1,60}))?$/i
const ECHO_REQUESTS = { 4: 8, 6: 128 } as const
const NUMBERS_OF_FAMILY = { 4: 1, 6: 58 } as const

const BY_NUMBER: ReadonlyMap<number, string> = new Map([
  ...Object.entries(PROTOCOL_NUMBERS).map(([name, number]) => [number, name] as const),
  ...Object.entries(PORTLESS_PROTOCOLS).map(([name, number]) => [number, name] as const),
])

/** @param named ports that the receiver has names for @throws TrafficError */
export function parseTraffic(text: string, named: readonly NamedPortNumber[]): Traffic {
  const icmp = ICMP.exec(text)
  if (icmp !== null) return parseIcmp(text, icmp[1]?.toLowerCase() === 'v6' ? 6 : 4, icmp[2])
  const upper = text.toUpperCase()
  if (Object.hasOwn(PORTLESS_PROTOCOLS, upper))
    return { protocol: PORTLESS_PROTOCOLS[upper as keyof typeof PORTLESS_PROTOCOLS], port: 0, name: upper }
  const match = PORT.exec(text)
  if (match === null) throw notTraffic(text)
  const [, digits, name, suffix] = match
  const protocol = suffix?.toUpperCase() as NamedPortNumber['protocol'] | undefined
  if (digits === undefined) return namedTraffic(text, name?.toLowerCase() ?? '', protocol, named)
  const port = Number(digits)
  if (port < 1 || port > 65535) throw notTraffic(text)
  return portTraffic(protocol ?? 'TCP', port)
}

/** `80/TCP`, `icmp/8`, `GRE`; a number where the protocol has no name. */
export function trafficName(protocol: number, port: number): string {
  const family = ICMP_PROTOCOLS[protocol]
  if (family !== undefined) return `${family === 4 ? 'icmp' : 'icmpv6'}/${port}`
  const name = BY_NUMBER.get(protocol)
  return hasPorts(protocol) ? `${port}/${name}` : (name ?? `protocol ${protocol}`)
}

export function hasPorts(protocol: number): boolean {
  return (Object.values(PROTOCOL_NUMBERS) as number[]).includes(protocol)
}

/** Where rows have it: ICMP types stand in the upper byte. */
export function rowPortOf({ protocol, port }: Traffic): number {
  return ICMP_PROTOCOLS[protocol] === undefined ? port : port << 8
}

function portTraffic(protocol: NamedPortNumber['protocol'], port: number): Traffic {
  return { protocol: PROTOCOL_NUMBERS[protocol], port, name: `${port}/${protocol}` }
}

function namedTraffic(text: string, name: string, protocol: string | undefined, named: readonly NamedPortNumber[]): Traffic {
  const found = named.find((port) => port.name === name && (protocol === undefined || port.protocol === protocol))
  if (found !== undefined) return portTraffic(found.protocol, found.port)
  const names = named.map((port) => `${port.name}/${port.protocol}`)
  throw new TrafficError(
    `the receiver has no port of that name: ${text}${names.length === 0 ? '; named ports stand in the workloads file' : `; it has ${names.join(', ')}`}`,
  )
}

function parseIcmp(text: string, family: 4 | 6, type: string | undefined): Traffic {
  let number: number | undefined = ECHO_REQUESTS[family]
  if (type !== undefined) {
    const names = ICMP_TYPES[family]
    number = /^\d{1,3}$/.test(type) ? Number(type) : Object.hasOwn(names, type) ? names[type] : undefined
  }
  if (number === undefined || number > 255) throw notTraffic(text)
  const protocol = NUMBERS_OF_FAMILY[family]
  return { protocol, port: number, name: trafficName(protocol, number) }
}

function notTraffic(text: string): TrafficError {
  return new TrafficError(`expected 80/TCP, 53/UDP, a port’s name, icmp/8, icmpv6/128 or gre, not ${text}`)
}

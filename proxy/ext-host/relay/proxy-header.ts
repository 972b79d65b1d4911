/**
 * The PROXY protocol's second version, as far as Envoy speaks it to the relay: who connected to whom, and behind that values by type.
 * Source: haproxy.org, proxy-protocol.txt, 2.2.
 */
import { ipv4ToBytes } from '#sys/addresses.ts'

/** What can come before the values end: more would be no header of Envoy's. */
export const PROXY_HEADER_BYTES_MAX = 1024

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const FIXED_BYTES = 16
const VERSION_2_PROXY = 0x21
const TCP_OVER_IPV4 = 0x11
const TCP_OVER_IPV6 = 0x21
const ADDRESS_BYTES = 16
const VALUE_HEADER_BYTES = 3

export interface ProxyHeader {
  /** Of all of it. */
  readonly length: number
  /** 16 bytes each, IPv4 mapped. */
  readonly source: Uint8Array
  readonly sourcePort: number
  readonly destination: Uint8Array
  readonly destinationPort: number
  /** By type; of several of a type, the last. */
  readonly values: ReadonlyMap<number, Buffer>
}

export class ProxyHeaderError extends Error {
  override readonly name = 'ProxyHeaderError'
}

/** @returns how many bytes there have to be, while there are fewer @throws ProxyHeaderError for what is no such header */
export function decodeProxyHeader(bytes: Buffer): ProxyHeader | number {
  const start = bytes.subarray(0, SIGNATURE.length)
  if (Buffer.compare(start, SIGNATURE.subarray(0, start.length)) !== 0) throw new ProxyHeaderError('no PROXY header')
  if (bytes.length < FIXED_BYTES) return FIXED_BYTES
  const length = FIXED_BYTES + bytes.readUInt16BE(14)
  if (bytes[12] !== VERSION_2_PROXY) throw new ProxyHeaderError(`a PROXY header of version and command ${bytes[12]}`)
  if (length > PROXY_HEADER_BYTES_MAX) throw new ProxyHeaderError(`a PROXY header of ${length} bytes`)
  if (bytes.length < length) return length
  const family = bytes[13] as number
  if (family !== TCP_OVER_IPV4 && family !== TCP_OVER_IPV6) throw new ProxyHeaderError(`a PROXY header of family ${family}`)
  const addressBytes = family === TCP_OVER_IPV4 ? 4 : ADDRESS_BYTES
  const ports = FIXED_BYTES + 2 * addressBytes
  if (ports + 4 > length) throw new ProxyHeaderError('a PROXY header without its addresses')
  return {
    length,
    source: addressAt(bytes, FIXED_BYTES, addressBytes),
    sourcePort: bytes.readUInt16BE(ports),
    destination: addressAt(bytes, FIXED_BYTES + addressBytes, addressBytes),
    destinationPort: bytes.readUInt16BE(ports + 2),
    values: valuesOf(bytes.subarray(ports + 4, length)),
  }
}

function addressAt(bytes: Buffer, offset: number, addressBytes: number): Uint8Array {
  const address = bytes.subarray(offset, offset + addressBytes)
  return addressBytes === ADDRESS_BYTES ? Uint8Array.from(address) : ipv4ToBytes(address)
}

function valuesOf(bytes: Buffer): Map<number, Buffer> {
  const values = new Map<number, Buffer>()
  let offset = 0
  while (offset < bytes.length) {
    if (offset + VALUE_HEADER_BYTES > bytes.length) throw new ProxyHeaderError('a value of a PROXY header without its length')
    const type = bytes.readUInt8(offset)
    const length = bytes.readUInt16BE(offset + 1)
    offset += VALUE_HEADER_BYTES
    if (offset + length > bytes.length) throw new ProxyHeaderError(`a value of a PROXY header that is shorter than its ${length} bytes`)
    values.set(type, Buffer.from(bytes.subarray(offset, offset + length)))
    offset += length
  }
  return values
}

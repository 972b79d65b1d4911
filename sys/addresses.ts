/**
 * IP addresses as the kernel ABI has them: 16 bytes, IPv4 as ::ffff:a.b.c.d. Parsing is ipaddr.js's; only canonical dotted-quad IPv4
 * is taken, because inet_aton's octal and short forms mean different things to different readers.
 */
import ipaddr from 'ipaddr.js'

const IPV4_PREFIX_BITS = 96

/** @throws RangeError for anything but a plain IPv4 or IPv6 address without zone */
export function addressToBytes(text: string): Buffer {
  if (!isAddress(text)) throw new RangeError(`not an IP address: ${text}`)
  const address = ipaddr.parse(text)
  if (address instanceof ipaddr.IPv4) return ipv4ToBytes(Buffer.from(address.toByteArray()))
  return Buffer.from(address.toByteArray())
}

export function isAddress(text: string): boolean {
  return ipaddr.IPv4.isValidFourPartDecimal(text) || (ipaddr.IPv6.isValid(text) && !text.includes('%'))
}

/** An address as a key of maps: of IPv4 a number, which costs no string. */
export type AddressKey = number | string

/** @param address 16 bytes */
export function addressKey(address: Uint8Array): AddressKey {
  return mappedIpv4Of(address) ?? Buffer.prototype.latin1Slice.call(address, 0, 16)
}

/** The 32 bits of a mapped address; undefined for another. */
export function mappedIpv4Of(address: Uint8Array): number | undefined {
  if (address[10] !== 0xff || address[11] !== 0xff) return undefined
  for (let offset = 0; offset < 10; offset++) if (address[offset] !== 0) return undefined
  return ((address[12] as number) << 24) | ((address[13] as number) << 16) | ((address[14] as number) << 8) | (address[15] as number)
}

/** 4 bytes of IPv4 to the mapped form. */
export function ipv4ToBytes(ipv4: Uint8Array): Buffer {
  return Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...ipv4])
}

/** Canonical text (RFC 5952); mapped IPv4 as dotted quad. Written by hand: it is on the way of every flow. @param bytes 16, or 4 of IPv4 */
export function bytesToAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`
  let zeroBytes = 0
  while (bytes[zeroBytes] === 0 && zeroBytes < 10) zeroBytes++
  if (zeroBytes === 10 && bytes[10] === 0xff && bytes[11] === 0xff) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`
  // The longest run of zero groups, the first of several, is left out; a single one is not.
  let start = -1
  let length = 1
  for (let group = 0; group < 8; group++) {
    let end = group
    while (end < 8 && bytes[2 * end] === 0 && bytes[2 * end + 1] === 0) end++
    if (end - group > length) {
      start = group
      length = end - group
    }
    if (end > group) group = end
  }
  if (start < 0) return groupsText(bytes, 0, 8)
  return `${groupsText(bytes, 0, start)}::${groupsText(bytes, start + length, 8)}`
}

function groupsText(bytes: Uint8Array, start: number, end: number): string {
  let text = ''
  for (let group = start; group < end; group++) {
    if (group > start) text += ':'
    text += (((bytes[2 * group] as number) << 8) | (bytes[2 * group + 1] as number)).toString(16)
  }
  return text
}

export interface Prefix {
  /** 16 bytes, host bits zero. */
  readonly bytes: Buffer
  /** Bits of the 128; IPv4 prefixes count from 96. */
  readonly length: number
}

/** Reads `address/bits` or a single address. @throws RangeError */
export function parsePrefix(text: string): Prefix {
  const [address = '', bits] = text.split('/')
  const bytes = addressToBytes(address)
  const isV4 = address.includes('.') && !address.includes(':')
  const width = isV4 ? 32 : 128
  const own = bits === undefined ? width : /^\d{1,3}$/.test(bits) ? Number(bits) : -1
  if (own < 0 || own > width) throw new RangeError(`not a prefix: ${text}`)
  const length = own + (isV4 ? IPV4_PREFIX_BITS : 0)
  for (let index = 0; index < 16; index++) {
    const kept = Math.min(8, Math.max(0, length - index * 8))
    bytes[index] = (bytes[index] ?? 0) & (0xff00 >> kept) & 0xff
  }
  return { bytes, length }
}

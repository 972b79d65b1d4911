/**
 * Address prefixes, parsed as strictly as Go's netip does, because what Cilium refuses must not get a meaning of its own here
 * (ipaddr.js alone would take 010.0.0.1 and 10.1). Addresses are bigints: containment is then a shift and a comparison.
 */
import ipaddr from 'ipaddr.js'

export interface Prefix {
  readonly family: 4 | 6
  /** The address with host bits zero. */
  readonly address: bigint
  readonly length: number
}

const OCTET = /^(?:0|[1-9][0-9]{0,2})$/
const LENGTH = /^(?:0|[1-9][0-9]{0,2})$/

/** Bits of an address of the family. */
export function addressBits(family: 4 | 6): number {
  return family === 4 ? 32 : 128
}

function parseAddress(text: string): { readonly family: 4 | 6; readonly address: bigint } | undefined {
  if (text.includes(':')) {
    // Zones select an interface, which policy cannot mean; addresses that map IPv4 are written as IPv4.
    if (text.length > 45 || text.includes('%') || text.includes('.') || !ipaddr.IPv6.isValid(text)) return undefined
    let address = 0n
    for (const byte of ipaddr.IPv6.parse(text).toByteArray()) address = (address << 8n) | BigInt(byte)
    return address >> 32n === 0xffffn ? undefined : { family: 6, address }
  }
  const octets = text.split('.', 5)
  if (octets.length !== 4 || !octets.every((octet) => OCTET.test(octet) && Number(octet) <= 255)) return undefined
  return { family: 4, address: octets.reduce((sum, octet) => (sum << 8n) | BigInt(octet), 0n) }
}

/**
 * Parses `address/length`, or with `bareAddress` also an address alone, which is the prefix of itself. Host bits are cleared.
 * Undefined when it is neither.
 */
export function parsePrefix(text: string, bareAddress = false): Prefix | undefined {
  const slash = text.indexOf('/')
  const parsed = parseAddress(slash < 0 ? text : text.slice(0, slash))
  if (parsed === undefined) return undefined
  const bits = addressBits(parsed.family)
  let length = bits
  if (slash >= 0) {
    const lengthText = text.slice(slash + 1)
    if (!LENGTH.test(lengthText)) return undefined
    length = Number(lengthText)
    if (length > bits) return undefined
  } else if (!bareAddress) {
    return undefined
  }
  const hostBits = BigInt(bits - length)
  return { family: parsed.family, address: (parsed.address >> hostBits) << hostBits, length }
}

/** Canonical text; equal prefixes give equal texts. */
export function formatPrefix({ family, address, length }: Prefix): string {
  if (family === 4) {
    const octets = [24n, 16n, 8n, 0n].map((shift) => (address >> shift) & 255n)
    return `${octets.join('.')}/${length}`
  }
  const bytes: number[] = []
  for (let shift = 120n; shift >= 0n; shift -= 8n) bytes.push(Number((address >> shift) & 255n))
  return `${new ipaddr.IPv6(bytes).toRFC5952String()}/${length}`
}

/** Whether inner lies in outer; a prefix lies in itself. */
export function containsPrefix(outer: Prefix, inner: Prefix): boolean {
  if (outer.family !== inner.family || outer.length > inner.length) return false
  const hostBits = BigInt(addressBits(outer.family) - outer.length)
  return outer.address >> hostBits === inner.address >> hostBits
}

/** The prefix of a given length that covers this one. */
export function widenPrefix(prefix: Prefix, length: number): Prefix {
  const hostBits = BigInt(addressBits(prefix.family) - length)
  return { family: prefix.family, address: (prefix.address >> hostBits) << hostBits, length }
}

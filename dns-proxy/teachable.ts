/**
 * Which addresses an answer may teach: none that is something else already, or that only means something to the machine it is on. What
 * an endpoint, a node or a service has is theirs, whatever a name server says.
 */
import { NEVER_TAUGHT, NOT_TAUGHT } from '#parsers/dns/teachable.ts'
import { type Prefix, parsePrefix } from '#sys/addresses.ts'

const IPV4_PREFIX_BITS = 96

/** Prefixes, those of IPv4 as numbers. */
class Prefixes {
  readonly #networks: number[] = []
  readonly #masks: number[] = []
  readonly #others: Prefix[] = []

  constructor(prefixes: readonly Prefix[]) {
    for (const prefix of prefixes) {
      const network = ipv4Of(prefix.bytes)
      if (network === undefined || prefix.length < IPV4_PREFIX_BITS) this.#others.push(prefix)
      else {
        const bits = prefix.length - IPV4_PREFIX_BITS
        this.#networks.push(network)
        this.#masks.push(bits === 0 ? 0 : (-1 << (32 - bits)) | 0)
      }
    }
  }

  cover(address: Uint8Array): boolean {
    const ipv4 = ipv4Of(address)
    if (ipv4 !== undefined) {
      for (let index = 0; index < this.#networks.length; index++) {
        if ((ipv4 & (this.#masks[index] as number)) === this.#networks[index]) return true
      }
    }
    for (const prefix of this.#others) if (covers(prefix, address)) return true
    return false
  }
}

const never = new Prefixes(NEVER_TAUGHT.map(parsePrefix))

export class Teachable {
  #claimedAddresses: ReadonlySet<AddressKey> = new Set()
  #claimedPrefixes = new Prefixes([])
  readonly #endpoints: { has(address: AddressKey): boolean }

  /** @param endpoints by keyOf their addresses */
  constructor(endpoints: { has(address: AddressKey): boolean }) {
    this.#endpoints = endpoints
  }

  /** @param prefixes addresses or prefixes */
  setClaimed(prefixes: readonly string[]): void {
    const parsed = prefixes.map(parsePrefix)
    this.#claimedAddresses = new Set(parsed.filter(({ length }) => length === 128).map(({ bytes }) => keyOf(bytes)))
    this.#claimedPrefixes = new Prefixes(parsed.filter(({ length }) => length < 128))
  }

  /** @param address 16 bytes @returns why it teaches nothing, or empty */
  reasonAgainst(address: Uint8Array): string {
    const key = keyOf(address)
    if (this.#endpoints.has(key)) return NOT_TAUGHT.endpoint
    if (this.#claimedAddresses.has(key) || this.#claimedPrefixes.cover(address)) return NOT_TAUGHT.node
    return never.cover(address) ? NOT_TAUGHT.range : ''
  }
}

/** An address as a key of maps: of IPv4 a number, which costs no string. */
export type AddressKey = number | string

/** @param address 16 bytes */
export function keyOf(address: Uint8Array): AddressKey {
  return ipv4Of(address) ?? Buffer.prototype.latin1Slice.call(address, 0, 16)
}

/** The 32 bits of a mapped address. */
function ipv4Of(address: Uint8Array): number | undefined {
  if (address[10] !== 0xff || address[11] !== 0xff) return undefined
  for (let offset = 0; offset < 10; offset++) if (address[offset] !== 0) return undefined
  return ((address[12] as number) << 24) | ((address[13] as number) << 16) | ((address[14] as number) << 8) | (address[15] as number)
}

function covers({ bytes, length }: Prefix, address: Uint8Array): boolean {
  const whole = length >> 3
  for (let index = 0; index < whole; index++) if (bytes[index] !== address[index]) return false
  const rest = length & 7
  return rest === 0 || ((bytes[whole] ?? 0) ^ (address[whole] ?? 0)) >> (8 - rest) === 0
}

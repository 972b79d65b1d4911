/**
 * Which addresses an answer may teach: none that is something else already, or that only means something to the machine it is on. What
 * an endpoint, a node or a service has is theirs, whatever a name server says.
 */
import { NEVER_TAUGHT, NOT_TAUGHT } from '#parsers/dns/teachable.ts'
import { type AddressKey, addressKey, mappedIpv4Of, type Prefix, parsePrefix } from '#sys/addresses.ts'

const IPV4_PREFIX_BITS = 96

/** Prefixes, those of IPv4 as numbers. */
class Prefixes {
  readonly #networks: number[] = []
  readonly #masks: number[] = []
  readonly #others: Prefix[] = []

  constructor(prefixes: readonly Prefix[]) {
    for (const prefix of prefixes) {
      const network = mappedIpv4Of(prefix.bytes)
      if (network === undefined || prefix.length < IPV4_PREFIX_BITS) this.#others.push(prefix)
      else {
        const bits = prefix.length - IPV4_PREFIX_BITS
        this.#networks.push(network)
        this.#masks.push(bits === 0 ? 0 : (-1 << (32 - bits)) | 0)
      }
    }
  }

  cover(address: Uint8Array): boolean {
    const ipv4 = mappedIpv4Of(address)
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

  /** @param endpoints by addressKey of their addresses */
  constructor(endpoints: { has(address: AddressKey): boolean }) {
    this.#endpoints = endpoints
  }

  /** @param prefixes addresses or prefixes */
  setClaimed(prefixes: readonly string[]): void {
    const parsed = prefixes.map(parsePrefix)
    this.#claimedAddresses = new Set(parsed.filter(({ length }) => length === 128).map(({ bytes }) => addressKey(bytes)))
    this.#claimedPrefixes = new Prefixes(parsed.filter(({ length }) => length < 128))
  }

  /** @param address 16 bytes @returns why it teaches nothing, or empty */
  reasonAgainst(address: Uint8Array): string {
    const key = addressKey(address)
    if (this.#endpoints.has(key)) return NOT_TAUGHT.endpoint
    if (this.#claimedAddresses.has(key) || this.#claimedPrefixes.cover(address)) return NOT_TAUGHT.node
    return never.cover(address) ? NOT_TAUGHT.range : ''
  }
}

function covers({ bytes, length }: Prefix, address: Uint8Array): boolean {
  const whole = length >> 3
  for (let index = 0; index < whole; index++) if (bytes[index] !== address[index]) return false
  const rest = length & 7
  return rest === 0 || ((bytes[whole] ?? 0) ^ (address[whole] ?? 0)) >> (8 - rest) === 0
}

/**
 * Which addresses an answer may teach: none that is something else already, or that only means something to the machine it is on. What
 * an endpoint, a node or a service has is theirs, whatever a name server says.
 */
import { parsePrefix } from '#sys/addresses.ts'

/** Loopback, link-local and the cloud's metadata in it, multicast, reserved, "this network", and addresses that embed others. */
const NEVER = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/4',
  '240.0.0.0/4',
  '::/128',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
  '64:ff9b::/96',
  '2002::/16',
  // Metadata of clouds that has an address of its own.
  '100.100.100.200/32',
  'fd00:ec2::254/128',
].map(parsePrefix)

type Prefix = ReturnType<typeof parsePrefix>

export class Teachable {
  #claimedAddresses: ReadonlySet<string> = new Set()
  #claimedPrefixes: readonly Prefix[] = []
  readonly #endpoints: { has(address: string): boolean }

  /** @param endpoints by keyOf their addresses */
  constructor(endpoints: { has(address: string): boolean }) {
    this.#endpoints = endpoints
  }

  /** @param prefixes addresses or prefixes */
  setClaimed(prefixes: readonly string[]): void {
    const parsed = prefixes.map(parsePrefix)
    this.#claimedAddresses = new Set(parsed.filter(({ length }) => length === 128).map(({ bytes }) => keyOf(bytes)))
    this.#claimedPrefixes = parsed.filter(({ length }) => length < 128)
  }

  /** @param address 16 bytes @returns why it teaches nothing, or empty */
  reasonAgainst(address: Uint8Array): string {
    const key = keyOf(address)
    if (this.#endpoints.has(key)) return 'an endpoint has it'
    if (this.#claimedAddresses.has(key) || this.#claimedPrefixes.some((prefix) => covers(prefix, address)))
      return 'a node or a service has it'
    return NEVER.some((prefix) => covers(prefix, address)) ? 'not an address of the world' : ''
  }
}

/** An address as a key of maps. @param address 16 bytes */
export function keyOf(address: Uint8Array): string {
  return Buffer.from(address.buffer, address.byteOffset, 16).toString('latin1')
}

function covers({ bytes, length }: Prefix, address: Uint8Array): boolean {
  const whole = length >> 3
  for (let index = 0; index < whole; index++) if (bytes[index] !== address[index]) return false
  const rest = length & 7
  return rest === 0 || ((bytes[whole] ?? 0) ^ (address[whole] ?? 0)) >> (8 - rest) === 0
}

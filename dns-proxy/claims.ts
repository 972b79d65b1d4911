/** What is known: names, addresses, and claims, which tie one to the other for as long as an answer lasts. */
import type { Expiring } from './expiry-heap.ts'

/** What everybody knows (endpoint 0), or one endpoint. */
export interface Scope {
  readonly endpointId: number
  readonly names: Map<string, Name>
  /** By their 16 bytes. */
  readonly addresses: Map<string, Address>
}

export interface Name {
  readonly scope: Scope
  /** Empty for what stands in for the names of a row that nobody remembers. */
  readonly text: string
  /** Those that match, sorted. */
  selectors: readonly number[]
  claims: Claim[]
}

/** Bytes are a string here: a buffer for each would cost several times as much, or keep a whole slab of the pool. */
export class Address {
  readonly scope: Scope
  /** Its 16 bytes as Latin-1. */
  readonly key: string
  claims: Claim[] = []
  /** Those in the kernel, sorted. */
  selectors: readonly number[] = []
  /** Of a zombie: looks at conntrack, one after the other, that did not see it. */
  missedCount = 0

  constructor(scope: Scope, key: string) {
    this.scope = scope
    this.key = key
  }

  get endpointId(): number {
    return this.scope.endpointId
  }

  /** Made anew each time. */
  get address(): Buffer {
    return Buffer.from(this.key, 'latin1')
  }
}

/** A name has an address. In the heap until it runs out. */
export interface Claim extends Expiring {
  readonly name: Pick<Name, 'text' | 'scope' | 'selectors' | 'claims'>
  readonly address: Address
  /** What the journal has as expiresMs; -Infinity while it has nothing. */
  journaledMs: number
  /** The address has the name no more, or not by this claim. */
  isDropped: boolean
}

/** Hears of every change, to keep it. */
export interface ClaimSink {
  /** A claim is new or lasts longer. */
  set(claim: Claim): void
  remove(claim: Claim): void
}

/** A claim as it was kept. */
export interface KeptClaim {
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Uint8Array
  readonly name: string
  readonly expiresMs: number
}

const ADDRESS_BYTES = 16

export function setSelectors(name: { selectors: readonly number[] }, selectors: readonly number[]): void {
  name.selectors = selectors
}

/** @param address 16 bytes */
export function addressKey(address: Uint8Array): string {
  return Buffer.from(address.buffer, address.byteOffset, ADDRESS_BYTES).toString('latin1')
}

/** The one that runs out first. */
export function firstOf(claims: Iterable<Claim>): Claim | undefined {
  let first: Claim | undefined
  for (const claim of claims) if (first === undefined || claim.expiresMs < first.expiresMs) first = claim
  return first
}

/**
 * What a reply teaches: the chain of names from the question along CNAME and DNAME, in whatever order the records are, and the addresses of
 * the name that it ends at. An address belongs to every name of the chain; a record of any other name teaches nothing, whoever sent it. As
 * the reader, one object is used for one reply after the other, so that a reply costs no more objects than it has names.
 */
import { CLASS_IN, RCODE, TYPE } from './codes.ts'
import type { MessageReader } from './message.ts'
import { NAME_BYTES_MAX, wireLengthOf } from './wire-name.ts'

/** Names of a chain, the question included. Of a longer one the first names are given, and nothing is learned. */
export const CHAIN_NAME_COUNT_MAX = 16

/** CNAME and DNAME records that are looked at: many more than a chain can need, so that a reply made of them costs no more than others. */
export const ALIAS_COUNT_MAX = 64

/** Addresses of a reply: the most that Cilium keeps for a name. Further ones are counted, and ignored. */
export const ADDRESS_COUNT_MAX = 1000

const ADDRESS_BYTES = 16
const TTL_SECONDS_MAX = 0x7fffffff

/** The chain and the addresses of the reply that was read last. */
export class AnswerChain {
  /** The question first; empty if the reply teaches nothing. */
  readonly names: string[] = []
  /** Whether names or aliases go on beyond their maximum. There are no addresses then. */
  isCut = false

  addressCount = 0
  /** What came after the maximum. */
  ignoredAddressCount = 0
  /** 16 bytes each, IPv4 as ::ffff:a.b.c.d. */
  readonly addressBytes: Uint8Array = new Uint8Array(ADDRESS_COUNT_MAX * ADDRESS_BYTES)
  /** The lowest TTL of an address's record and of the chain before it. */
  readonly ttlsSeconds: Uint32Array = new Uint32Array(ADDRESS_COUNT_MAX)

  /** What addressBytes has, to compare with. */
  readonly #words = new Uint32Array(this.addressBytes.buffer)
  /** Owners of CNAME, and what they are aliases of. Few, and in the order of the chain: cheaper to search than to hash. */
  readonly #owners: string[] = []
  readonly #targets: string[] = []
  readonly #targetTtlsSeconds: number[] = []
  /** From owners of DNAME, which stand for all names below them, to the index of their target; their place in the owners is empty. */
  readonly #dnames = new Map<string, number>()
  #chainTtlSeconds = 0

  /**
   * Reads a reply. A reply with another rcode than NOERROR has names and no addresses.
   * @param reply loaded; it is moved. That it answers what was asked, of that server, is the caller's to check
   * @returns whether there are addresses
   */
  read(reply: MessageReader): boolean {
    this.names.length = 0
    this.isCut = false
    this.addressCount = 0
    this.ignoredAddressCount = 0
    reply.rewind()
    if (!reply.isReply || reply.questionCount !== 1 || !reply.nextQuestion() || reply.class !== CLASS_IN) return false
    this.names.push(reply.name)
    if (reply.answerCount === 0) return false
    this.#collectAliases(reply)
    this.#follow()
    if (!this.isCut && reply.rcode === RCODE.NOERROR) this.#collectAddresses(reply)
    return this.addressCount > 0
  }

  /** A view of the address in addressBytes, to be copied if it is kept. */
  address(index: number): Uint8Array {
    return this.addressBytes.subarray(index * ADDRESS_BYTES, (index + 1) * ADDRESS_BYTES)
  }

  #collectAliases(reply: MessageReader): void {
    this.#owners.length = 0
    this.#targets.length = 0
    this.#targetTtlsSeconds.length = 0
    if (this.#dnames.size > 0) this.#dnames.clear()
    while (reply.nextRecord() && reply.section === 'answer') {
      const { type } = reply
      if ((type !== TYPE.CNAME && type !== TYPE.DNAME) || reply.class !== CLASS_IN) continue
      if (this.#targets.length === ALIAS_COUNT_MAX) {
        this.isCut = true
        return
      }
      const owner = reply.name
      const target = reply.targetName
      if (target === undefined) continue
      if (type === TYPE.DNAME && !this.#dnames.has(owner)) this.#dnames.set(owner, this.#targets.length)
      this.#owners.push(type === TYPE.CNAME ? owner : '')
      this.#targets.push(target)
      this.#targetTtlsSeconds.push(reply.ttlSeconds)
    }
  }

  #follow(): void {
    this.#chainTtlSeconds = TTL_SECONDS_MAX
    if (this.#targets.length === 0) return
    let name = this.#targetOf(this.names[0] as string)
    while (name !== undefined && !this.names.includes(name)) {
      if (this.names.length === CHAIN_NAME_COUNT_MAX) {
        this.isCut = true
        return
      }
      this.names.push(name)
      name = this.#targetOf(name)
    }
  }

  /** What the name is an alias of, by its CNAME, otherwise by the DNAME of its nearest ancestor. Of several for one name the first counts. */
  #targetOf(name: string): string | undefined {
    const index = this.#owners.indexOf(name)
    if (index >= 0) return this.#takeTarget(index)
    if (this.#dnames.size === 0 || name === '.') return undefined
    for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
      const dnameIndex = this.#dnames.get(name.slice(dot + 1) || '.')
      if (dnameIndex !== undefined) return substituted(name.slice(0, dot + 1), this.#takeTarget(dnameIndex))
    }
    return undefined
  }

  #takeTarget(index: number): string {
    this.#chainTtlSeconds = Math.min(this.#chainTtlSeconds, this.#targetTtlsSeconds[index] as number)
    return this.#targets[index] as string
  }

  #collectAddresses(reply: MessageReader): void {
    const owner = this.names.at(-1)
    reply.rewind()
    while (reply.nextRecord() && reply.section === 'answer') {
      if (!hasAddresses(reply.type) || reply.name !== owner) continue
      while (reply.nextAddress()) this.#addAddress(reply, Math.min(this.#chainTtlSeconds, reply.ttlSeconds))
    }
  }

  #addAddress(reply: MessageReader, ttlSeconds: number): void {
    const index = this.addressCount
    if (index === ADDRESS_COUNT_MAX) {
      this.ignoredAddressCount += 1
      return
    }
    reply.copyAddress(this.addressBytes, index * ADDRESS_BYTES)
    const known = this.#indexOfEqual(index)
    if (known < index) {
      this.ttlsSeconds[known] = Math.min(this.ttlsSeconds[known] as number, ttlSeconds)
      return
    }
    this.ttlsSeconds[index] = ttlSeconds
    this.addressCount += 1
  }

  /** The first address that is equal to that at the index, which may be itself. */
  #indexOfEqual(index: number): number {
    const words = this.#words
    const last = index * 4
    let first = 0
    // From the end, where addresses differ.
    while (
      words[first + 3] !== words[last + 3] ||
      words[first + 2] !== words[last + 2] ||
      words[first + 1] !== words[last + 1] ||
      words[first] !== words[last]
    )
      first += 4
    return first / 4
  }
}

function hasAddresses(type: number): boolean {
  return type === TYPE.A || type === TYPE.AAAA || type === TYPE.HTTPS || type === TYPE.SVCB
}

/** What a DNAME makes of a name (RFC 6672 2.2). @param labels before its owner, each with its dot @returns undefined if it becomes too long */
function substituted(labels: string, target: string): string | undefined {
  const name = target === '.' ? labels : labels + target
  return wireLengthOf(name) > NAME_BYTES_MAX ? undefined : name
}

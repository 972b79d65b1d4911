/**
 * The addresses that names of selectors are known to have, and their rows in the kernel. Only names that a selector matches are kept, so
 * what clients ask for beside them costs nothing; of those, there is a limit for everything that a client or a server can make many of.
 *
 * What ties a name to an address (a claim) lasts as long as its answer. Then the address is a zombie by it: it stays while a connection of
 * it is tracked, and goes when two looks one after the other saw none. What runs out next is always known, so nothing walks over all.
 */
import type { NameSelector } from '#api/gen/headgate/v1/control_pb.js'
import type { ItemChanges } from '#api/stated-items.ts'
import { LEARNED_SELECTORS_MAX } from '#bpf/gen/abi.ts'
import type { KernelMaps } from '#bpf/maps.ts'
import { NameIndex } from '#parsers/dns/name-index.ts'
import { compileNamePattern, isMatchAll, normalizeName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { Address, addressKey, type Claim, type ClaimSink, firstOf, type KeptClaim, type Name, type Scope, setSelectors } from './claims.ts'
import { ConntrackLook } from './conntrack-look.ts'
import { ruleOf } from './desired-state.ts'
import { ExpiryHeap } from './expiry-heap.ts'
import { LearnedRows } from './learned-rows.ts'

export interface LearnedNamesSettings {
  /** Seconds for which an address is known at least. */
  readonly minTtlSeconds: number
  /** Addresses of one name; of more, those go that run out first. */
  readonly addressesOfNameMax: number
  /** Addresses that are kept for their connections alone; of more, those go that ran out first. */
  readonly zombiesMax: number
  /** Seconds for which a name that ran out keeps its address, connections or not. */
  readonly graceSeconds: number
}

/** What clients and servers can make many of. */
export interface LearnedNamesLimits {
  /** Rows of the kernel's map (bpf/src/maps.h). */
  readonly addressesMax: number
  /** Of these, addresses that only one endpoint knows. */
  readonly addressesOfEndpointMax: number
  readonly namesMax: number
  /** Of more, the one goes whose selectors others still have, and of those the one that runs out first. */
  readonly namesOfAddressMax: number
}

export const DEFAULT_LIMITS: LearnedNamesLimits = {
  addressesMax: 131_072,
  addressesOfEndpointMax: 16_384,
  namesMax: 131_072,
  namesOfAddressMax: 64,
}

/** How long a row is kept of which nothing tells the name: the longest that answers of name servers usually last. */
const ADOPTED_SECONDS = 300
const LOOKS_MISSED = 2

type Maps = Pick<KernelMaps, 'learnedAddresses' | 'learnedState' | 'conntrack'>

/** What came of learning an address. `selectors cut`: known, but more selectors match its names than a row has room for. */
export type Lesson = 'learned' | 'not selected' | 'no room' | 'selectors cut'

/** What an answer says of a name's address. */
export interface TaughtClaim {
  readonly claim: Claim
  readonly ttlSeconds: number
}

export interface KnownName {
  readonly name: string
  readonly endpointId: number
  readonly address: Uint8Array
  readonly expiresMs: number
  readonly selectors: readonly number[]
  /** Its answer ran out; connections or the grace keep it. */
  readonly isZombie: boolean
}

export interface SelectorCounts {
  readonly id: number
  readonly rule: DnsRule
  readonly nameCount: number
  readonly addressCount: number
}

/** Totals since the start. */
export interface LearnedNamesTotals {
  /** Names that ran out. */
  expiredCount: number
  /** Zombies that went to make room for others. */
  zombiesEvictedCount: number
  /** Answers that taught nothing for lack of room. */
  addressesRefusedCount: number
  /** Names dropped from an address, or addresses from a name, because of the limit of each. */
  claimsDisplacedCount: number
  /** Rows written with fewer selectors than match. */
  selectorsCutCount: number
}

export class LearnedNames {
  readonly totals: LearnedNamesTotals = {
    expiredCount: 0,
    zombiesEvictedCount: 0,
    addressesRefusedCount: 0,
    claimsDisplacedCount: 0,
    selectorsCutCount: 0,
  }
  readonly #conntrack: Maps['conntrack']
  readonly #rows: LearnedRows
  readonly #settings: LearnedNamesSettings
  readonly #limits: LearnedNamesLimits
  readonly #index = new NameIndex<number>('peers')
  readonly #rules = new Map<number, DnsRule>()
  /** Those that a deny rule asks for. */
  readonly #denying = new Set<number>()
  readonly #namesOfSelector = new Map<number, Set<Name>>()
  readonly #scopes = new Map<number, Scope>()
  readonly #expiries = new ExpiryHeap<Claim>()
  /** In the order in which they ran out. */
  readonly #zombies = new Set<Address>()
  #addressCount = 0
  #nameCount = 0
  #look: ConntrackLook<Address> | undefined
  #isReconciled = false
  #sink: ClaimSink | undefined
  readonly #startedMs: number
  #selectorsRevision = 0

  /**
   * Nothing is written before the selectors are known: what rows mean depends on them.
   * @param kept by an earlier process, in the order in which it was written @param nowMs of the clock that all times are of
   */
  constructor(
    maps: Maps,
    settings: LearnedNamesSettings,
    { limits = DEFAULT_LIMITS, kept = [], nowMs = performance.now() }: Partial<ConstructorOptions> = {},
  ) {
    this.#conntrack = maps.conntrack
    this.#rows = new LearnedRows(maps)
    this.#settings = settings
    this.#limits = limits
    this.#startedMs = nowMs
    for (const { endpointId, address, selectors } of this.#rows.read()) {
      this.#addAddress(this.#scopeAt(endpointId), address).selectors = selectors
    }
    for (const claim of kept) this.#restore(claim)
  }

  /** From now on. What there is already is the sink's to ask for. */
  keepIn(sink: ClaimSink): void {
    this.#sink = sink
  }

  /** Addresses that are known. */
  get addressCount(): number {
    return this.#addressCount
  }

  get nameCount(): number {
    return this.#nameCount
  }

  get zombieCount(): number {
    return this.#zombies.size
  }

  get selectorCount(): number {
    return this.#rules.size
  }

  /** Of another number, what is learned of an answer may be other names. */
  get selectorsRevision(): number {
    return this.#selectorsRevision
  }

  /** Whether a name is one that an answer is to be learned for. */
  isSelected(name: string): boolean {
    return this.#index.matching(name).length > 0
  }

  /** @param selectors that are no more, and that are new: only names that one of them matches are looked at. The first call states all. */
  changeSelectors({ gone, come }: ItemChanges<NameSelector>): void {
    if (gone.length > 0 || come.length > 0) this.#selectorsRevision += 1
    const touched = new Set<Name>()
    for (const { id } of gone) {
      const rule = this.#rules.get(id)
      if (rule === undefined) continue
      this.#rules.delete(id)
      this.#denying.delete(id)
      this.#index.remove(rule, id)
      for (const name of this.#namesOfSelector.get(id) ?? []) touched.add(name)
    }
    for (const name of touched) {
      this.#select(name, name.text === '' ? name.selectors.filter((id) => this.#rules.has(id)) : this.#selectorsOf(name.text))
    }
    for (const { id } of gone) this.#namesOfSelector.delete(id)
    for (const selector of come) {
      const rule = ruleOf(selector)
      this.#rules.set(selector.id, rule)
      if (selector.denies) this.#denying.add(selector.id)
      this.#index.add(rule, selector.id)
    }
    if (this.#isReconciled) for (const name of this.#namesMatching(come)) touched.add(name)
    else this.#reconcile()
    this.#bringIn(touched)
    this.#rows.tellLess()
  }

  /**
   * Learns an address of a chain of names. When it returns, the kernel knows.
   * @param endpointId 0: for everybody @param address 16 bytes, copied @param taught gets the claims, for `renew`
   */
  learn(
    endpointId: number,
    names: readonly string[],
    address: Uint8Array,
    ttlSeconds: number,
    nowMs: number,
    taught?: TaughtClaim[],
  ): Lesson {
    const expiresMs = this.#expiryOf(ttlSeconds, nowMs)
    const scope = this.#scopeAt(endpointId)
    let known: Address | undefined
    let isNew = false
    let isSelected = false
    let isKnown = false
    for (const text of names) {
      const before = scope.names.get(text)
      const selectors = before?.selectors ?? this.#selectorsOf(text)
      if (selectors.length === 0) continue
      isSelected = true
      known ??= this.#addressAt(scope, address)
      if (known === undefined) break
      const name = before ?? this.#addName(scope, text, selectors, known)
      if (name === undefined) continue
      const held = this.#claimOf(name, known)
      const claim = held ?? this.#addClaim(name, known, expiresMs)
      if (held === undefined) isNew = true
      else this.#extend(held, expiresMs)
      taught?.push({ claim, ttlSeconds })
      isKnown = true
    }
    if (!isSelected) return 'not selected'
    if (isNew && known !== undefined) isKnown = this.#write(known)
    if (known?.claims.length === 0) this.#dropAddress(known)
    this.#rows.tellLess()
    if (isKnown) return known !== undefined && this.#isCut(known) ? 'selectors cut' : 'learned'
    this.totals.addressesRefusedCount++
    return 'no room'
  }

  /**
   * An answer came again that taught all of these.
   * @returns false when one of them is no more, so that it has to be learned anew
   */
  renew(taught: readonly TaughtClaim[], nowMs: number): boolean {
    for (const { claim } of taught) if (claim.isDropped) return false
    for (const { claim, ttlSeconds } of taught) this.#extend(claim, this.#expiryOf(ttlSeconds, nowMs))
    return true
  }

  /** When the next name runs out; Infinity while none does. */
  get nextExpiryMs(): number {
    return this.#expiries.firstMs
  }

  /**
   * Takes what has run out by now out of use; the rest of the decision is conntrack's.
   * @param hasTime asked after each step: others may want to go on @returns whether nothing is left to do
   */
  expire(nowMs: number, hasTime: () => boolean = () => true): boolean {
    for (let claim = this.#expiries.takeExpired(nowMs); claim !== undefined; claim = this.#expiries.takeExpired(nowMs)) {
      const { address } = claim
      if (!this.#zombies.has(address)) {
        address.missedCount = 0
        this.#zombies.add(address)
        if (this.#zombies.size > this.#settings.zombiesMax) this.#evictZombie(undefined)
      }
      if (!hasTime()) break
    }
    this.#rows.tellLess()
    return this.#expiries.firstMs > nowMs
  }

  /** @returns a look at conntrack, to be taken step by step and then to be given to endLook; none while nothing hangs on one */
  beginLook(nowMs: number): ConntrackLook<Address> | undefined {
    if (this.#look !== undefined || this.#zombies.size === 0) return undefined
    this.#look = new ConntrackLook(this.#conntrack, this.#zombies, (zombie) => this.#hasRunOut(zombie, nowMs))
    return this.#look
  }

  /** Forgets what this look and the one before it did not see. @param hasTime as of expire @returns whether that was the last */
  endLook(look: ConntrackLook<Address>, nowMs: number, hasTime: () => boolean = () => true): boolean {
    for (let zombie = look.takeJudged(); zombie !== undefined; zombie = look.takeJudged()) {
      if (this.#zombies.has(zombie)) {
        if (look.seen.has(zombie)) zombie.missedCount = 0
        else if (++zombie.missedCount >= LOOKS_MISSED) this.#bury(zombie, nowMs - this.#settings.graceSeconds * 1000)
      }
      if (!hasTime()) break
    }
    this.#rows.tellLess()
    if (look.hasMore) return false
    if (this.#look === look) this.#look = undefined
    return true
  }

  /** Forgets names at once, with the rows that stand for nothing else. @returns how many names */
  forget(isMeant: (name: string) => boolean): number {
    let count = 0
    const touched = new Set<Address>()
    for (const { names, addresses } of this.#scopes.values()) {
      const unnamed = [...addresses.values()].flatMap(({ claims }) => claims.filter(({ name }) => name.text === '').map(({ name }) => name))
      for (const name of [...names.values(), ...unnamed]) {
        if (!isMeant(name.text)) continue
        count++
        for (const claim of [...name.claims]) {
          touched.add(claim.address)
          this.#dropClaim(claim)
        }
      }
    }
    for (const address of touched) this.#write(address)
    this.#rows.tellLess()
    return count
  }

  *known(): Generator<KnownName> {
    for (const { endpointId, addresses } of this.#scopes.values()) {
      for (const known of addresses.values()) {
        const { address } = known
        for (const { name, expiresMs, heapIndex } of known.claims) {
          yield { name: name.text, endpointId, address, expiresMs, selectors: name.selectors, isZombie: heapIndex < 0 }
        }
      }
    }
  }

  *claims(): Generator<Claim> {
    for (const { addresses } of this.#scopes.values()) for (const { claims } of addresses.values()) yield* claims
  }

  /** By their ids. */
  selectors(): SelectorCounts[] {
    return [...this.#rules]
      .sort(([a], [b]) => a - b)
      .map(([id, rule]) => {
        const names = [...(this.#namesOfSelector.get(id) ?? [])]
        const addresses = new Set(names.flatMap(({ claims }) => claims.map(({ address }) => address)))
        return { id, rule, nameCount: names.filter(({ text }) => text !== '').length, addressCount: addresses.size }
      })
  }

  #restore({ endpointId, address, name: text, expiresMs }: KeptClaim): void {
    const scope = this.#scopeAt(endpointId)
    const known = this.#addressAt(scope, address)
    if (known === undefined) return
    // Without its row, an unknown name stands for nothing.
    if (text === '' && known.selectors.length === 0) return
    const name = text === '' ? this.#unnamed(known) : (scope.names.get(text) ?? this.#addName(scope, text, [], known))
    if (name === undefined) return
    this.#claim(name, known, expiresMs)
  }

  /** Selectors are known now: what names have them, and what rows have beside them that no name accounts for. */
  #reconcile(): void {
    this.#isReconciled = true
    for (const { names, addresses } of this.#scopes.values()) {
      for (const name of names.values()) this.#select(name, this.#selectorsOf(name.text))
      for (const known of [...addresses.values()]) {
        const named = new Set(known.claims.flatMap(({ name }) => name.selectors))
        const others = known.selectors.filter((id) => this.#rules.has(id) && !named.has(id))
        const adopted = known.claims.find(({ name }) => name.text === '')
        if (others.length === 0) {
          if (adopted !== undefined) this.#dropClaim(adopted)
        } else if (adopted === undefined) {
          const name = this.#unnamed(known)
          this.#select(name, others)
          this.#claim(name, known, this.#startedMs + Math.max(ADOPTED_SECONDS, this.#settings.minTtlSeconds) * 1000)
        } else this.#select(adopted.name, others)
        for (const { name } of [...known.claims]) if (name.selectors.length === 0) this.#dropName(name)
        this.#write(known)
      }
    }
  }

  /** Stands in for the names of one row. */
  #unnamed({ scope, claims }: Address): Name {
    return claims.find(({ name }) => name.text === '')?.name ?? { scope, text: '', selectors: [], claims: [] }
  }

  #scopeAt(endpointId: number): Scope {
    const before = this.#scopes.get(endpointId)
    if (before !== undefined) return before
    const scope: Scope = { endpointId, names: new Map(), addresses: new Map() }
    this.#scopes.set(endpointId, scope)
    return scope
  }

  #addressAt(scope: Scope, address: Uint8Array): Address | undefined {
    const known = scope.addresses.get(addressKey(address))
    if (known !== undefined) return known
    if (scope.endpointId !== 0 && scope.addresses.size >= this.#limits.addressesOfEndpointMax) return undefined
    while (this.#addressCount >= this.#limits.addressesMax) if (!this.#evictZombie(undefined)) return undefined
    return this.#addAddress(scope, address)
  }

  #addAddress(scope: Scope, address: Uint8Array): Address {
    const key = addressKey(address)
    const known = new Address(scope, key)
    scope.addresses.set(key, known)
    this.#addressCount++
    return known
  }

  #dropAddress(known: Address): void {
    if (!known.scope.addresses.delete(known.key)) return
    this.#addressCount--
    this.#zombies.delete(known)
  }

  /** @param known for which there has to be room beside it */
  #addName(scope: Scope, text: string, selectors: readonly number[], known: Address): Name | undefined {
    while (this.#nameCount >= this.#limits.namesMax) if (!this.#evictZombie(known)) return undefined
    const name: Name = { scope, text, selectors: [], claims: [] }
    scope.names.set(text, name)
    this.#nameCount++
    this.#select(name, selectors)
    return name
  }

  #select(name: Name, selectors: readonly number[]): void {
    for (const id of name.selectors) if (!selectors.includes(id)) this.#namesOfSelector.get(id)?.delete(name)
    setSelectors(name, selectors)
    for (const id of selectors) {
      const names = this.#namesOfSelector.get(id)
      if (names === undefined) this.#namesOfSelector.set(id, new Set([name]))
      else names.add(name)
    }
  }

  #expiryOf(ttlSeconds: number, nowMs: number): number {
    return nowMs + Math.max(ttlSeconds, this.#settings.minTtlSeconds) * 1000
  }

  #claimOf(name: Name, { claims }: Address): Claim | undefined {
    for (const claim of claims) if (claim.name === name) return claim
    return undefined
  }

  #claim(name: Name, known: Address, expiresMs: number): void {
    const held = this.#claimOf(name, known)
    if (held === undefined) this.#addClaim(name, known, expiresMs)
    else this.#extend(held, expiresMs)
  }

  #extend(claim: Claim, expiresMs: number): void {
    if (expiresMs <= claim.expiresMs) return
    const { address } = claim
    const wasZombie = claim.heapIndex < 0
    this.#expiries.set(claim, expiresMs)
    if (wasZombie && !address.claims.some(({ heapIndex }) => heapIndex < 0)) this.#zombies.delete(address)
    this.#sink?.set(claim)
  }

  #addClaim(name: Name, known: Address, expiresMs: number): Claim {
    const claim: Claim = {
      name,
      address: known,
      expiresMs,
      heapIndex: -1,
      journaledMs: Number.NEGATIVE_INFINITY,
      isDropped: false,
    }
    // Nearly all have one, for which a literal has room and no more.
    if (known.claims.length === 0) known.claims = [claim]
    else known.claims.push(claim)
    if (name.claims.length === 0) name.claims = [claim]
    else name.claims.push(claim)
    this.#expiries.set(claim, expiresMs)
    this.#sink?.set(claim)
    if (known.claims.length > this.#limits.namesOfAddressMax) this.#displaceName(known, claim)
    if (name.claims.length > this.#settings.addressesOfNameMax) this.#displaceAddress(name, claim)
    return claim
  }

  #displaceName({ claims }: Address, latest: Claim): void {
    const counts = new Map<number, number>()
    for (const { name } of claims) for (const id of name.selectors) counts.set(id, (counts.get(id) ?? 0) + 1)
    const others = claims.filter((claim) => claim !== latest)
    const first = firstOf(others.filter(({ name }) => name.selectors.every((id) => (counts.get(id) ?? 0) > 1))) ?? firstOf(others)
    if (first === undefined) return
    this.totals.claimsDisplacedCount++
    this.#dropClaim(first)
  }

  /** Never the latest, which the client is about to use. */
  #displaceAddress({ claims }: Name, latest: Claim): void {
    const first = firstOf(claims.filter((claim) => claim !== latest))
    if (first === undefined) return
    this.totals.claimsDisplacedCount++
    this.#dropClaim(first)
    this.#write(first.address)
  }

  /** The row is the caller's to write. */
  #dropClaim(claim: Claim): void {
    const { name, address } = claim
    this.#expiries.remove(claim)
    const index = address.claims.indexOf(claim)
    if (index < 0) return
    claim.isDropped = true
    address.claims.splice(index, 1)
    name.claims.splice(name.claims.indexOf(claim), 1)
    this.#sink?.remove(claim)
    if (name.claims.length > 0) return
    this.#select(name, [])
    if (name.text !== '' && name.scope.names.delete(name.text)) this.#nameCount--
  }

  /** The rows are the caller's to write. */
  #dropName(name: Name): void {
    for (const claim of [...name.claims]) this.#dropClaim(claim)
  }

  /** Names whose selectors come into what they are with new ones. */
  #namesMatching(come: readonly NameSelector[]): Set<Name> {
    const found = new Set<Name>()
    const patterns: ReturnType<typeof patternOf>[] = []
    for (const { matchName, matchPattern } of come) {
      for (const { names } of this.#scopes.values()) {
        const name = matchName === undefined ? undefined : names.get(normalizeName(matchName))
        if (name !== undefined) found.add(name)
      }
      if (matchPattern !== undefined) patterns.push(patternOf(matchPattern))
    }
    if (patterns.length > 0) {
      for (const { names } of this.#scopes.values()) {
        for (const [text, name] of names) {
          // Most names are told apart without their labels.
          const isFound = patterns.some(({ prefix, suffix, matches }) => text.endsWith(suffix) && text.startsWith(prefix) && matches(text))
          if (isFound) found.add(name)
        }
      }
    }
    for (const name of found) this.#select(name, this.#selectorsOf(name.text))
    return found
  }

  #bringIn(touched: ReadonlySet<Name>): void {
    const addresses = new Set<Address>()
    for (const name of touched) {
      for (const { address } of name.claims) addresses.add(address)
      if (name.selectors.length === 0) this.#dropName(name)
    }
    for (const address of addresses) this.#write(address)
  }

  #hasRunOut({ claims }: Address, nowMs: number): boolean {
    const graceMs = this.#settings.graceSeconds * 1000
    return claims.some(({ expiresMs, heapIndex }) => heapIndex < 0 && expiresMs + graceMs <= nowMs)
  }

  /** Drops what ran out by then; what only ran out since stays a zombie. */
  #bury(zombie: Address, untilMs: number): void {
    for (const claim of zombie.claims.filter(({ expiresMs, heapIndex }) => heapIndex < 0 && expiresMs <= untilMs)) {
      this.#dropClaim(claim)
      this.totals.expiredCount++
    }
    if (!zombie.claims.some(({ heapIndex }) => heapIndex < 0)) this.#zombies.delete(zombie)
    this.#write(zombie)
  }

  /** The oldest goes. @param except not this one @returns whether one went */
  #evictZombie(except: Address | undefined): boolean {
    for (const zombie of this.#zombies) {
      if (zombie === except) continue
      this.#evict(zombie)
      return true
    }
    return false
  }

  #evict(zombie: Address): void {
    this.totals.zombiesEvictedCount++
    this.#bury(zombie, Number.POSITIVE_INFINITY)
  }

  /** The rules for a name alone are complete: those for patterns that match it are among them. */
  #selectorsOf(name: string): readonly number[] {
    return [...this.#index.narrowest(name)].sort((a, b) => a - b)
  }

  /** What the row is to say: of too many, those that deny, then those with the lowest numbers, whatever came first. */
  #rowOf({ claims }: Address): readonly number[] {
    const [only] = claims
    if (claims.length === 1 && only !== undefined && only.name.selectors.length <= LEARNED_SELECTORS_MAX) return only.name.selectors
    const ids = new Set<number>()
    for (const { name } of claims) for (const id of name.selectors) ids.add(id)
    const sorted = [...ids].sort((a, b) => a - b)
    if (sorted.length <= LEARNED_SELECTORS_MAX) return sorted
    this.totals.selectorsCutCount++
    // Without the others something is denied that policy allows; without these something would be allowed that it denies.
    const kept = [...sorted.filter((id) => this.#denying.has(id)), ...sorted.filter((id) => !this.#denying.has(id))]
    return kept.slice(0, LEARNED_SELECTORS_MAX).sort((a, b) => a - b)
  }

  #isCut({ claims, selectors }: Address): boolean {
    return selectors.length === LEARNED_SELECTORS_MAX && claims.some(({ name }) => name.selectors.some((id) => !selectors.includes(id)))
  }

  /** Brings the kernel's row to what the claims say; without any, the address goes. @returns whether there was room */
  #write(known: Address): boolean {
    const selectors = this.#rowOf(known)
    if (known.claims.length === 0) this.#dropAddress(known)
    while (!this.#rows.write(known, selectors, known.selectors)) {
      if (this.#evictZombie(known)) continue
      for (const claim of [...known.claims]) this.#dropClaim(claim)
      this.#dropAddress(known)
      this.#rows.write(known, [], known.selectors)
      known.selectors = []
      return false
    }
    known.selectors = selectors
    return true
  }
}

export interface ConstructorOptions {
  readonly limits: LearnedNamesLimits
  readonly kept: Iterable<KeptClaim>
  readonly nowMs: number
}

function patternOf(matchPattern: string): { prefix: string; suffix: string; matches: (name: string) => boolean } {
  const pattern = normalizeName(matchPattern)
  const star = pattern.indexOf('*')
  return {
    prefix: star < 0 ? pattern : pattern.slice(0, star),
    suffix: isMatchAll(matchPattern) ? '' : pattern.slice(pattern.lastIndexOf('*') + 1),
    matches: compileNamePattern(matchPattern, 'peers'),
  }
}

/**
 * Which identities each selector in use selects, kept up to date as identities and selectors come and go. A selector is filed under
 * one label that it requires, a prefix under its own text; so a new identity is held against the selectors that its labels and
 * covering prefixes lead to, not against all of them. Equal selectors are one, counted.
 */
import { containsPrefix, formatPrefix, type Prefix, parsePrefix, widenPrefix } from './cidr.ts'
import type { PortProtocol } from './compile.ts'
import type { Label, LabelSet } from './labels.ts'
import type { LabelSelector } from './model.ts'
import { RESERVED_IDENTITIES } from './reserved.ts'
import { selects } from './selector.ts'

/** An identity as selectors see it. */
export interface IndexedIdentity {
  readonly id: number
  readonly labels: LabelSet
  /** Of a CIDR identity, and of nodes where prefixes are to match them. */
  readonly prefixes: readonly Prefix[]
  /** Of its endpoints. */
  readonly namedPorts: readonly NamedPortNumber[]
  /** DNS names that it is known by. */
  readonly names: readonly string[]
  /** Of an identity that stands for a condition on names itself (useName): no other selector but conditions on names selects it. */
  readonly nameSelector: string | undefined
}

/** A port that endpoints have a name for. */
export interface NamedPortNumber {
  readonly name: string
  readonly protocol: PortProtocol
  readonly port: number
}

/** One selector in use. Compared by reference; `members` is live. */
export interface SelectorEntry {
  /** Identities that it selects now. */
  readonly members: ReadonlySet<number>
}

interface Entry extends SelectorEntry {
  readonly key: string
  readonly members: Set<number>
  /** Where it is filed, so that it can be taken out again. */
  readonly shelf: Map<string, Set<Entry>>
  readonly place: string
  readonly matches: (identity: IndexedIdentity) => boolean
  useCount: number
}

const EVERYWHERE = ''

/** World of each family: what an all-covering prefix selects besides CIDR identities. */
const WORLD_OF_FAMILY: Readonly<Record<4 | 6, readonly number[]>> = {
  4: [RESERVED_IDENTITIES.world, RESERVED_IDENTITIES['world-ipv4']],
  6: [RESERVED_IDENTITIES['world-ipv6']],
}

export class SelectorIndex {
  readonly #identities = new Map<number, IndexedIdentity>()
  readonly #entries = new Map<string, Entry>()
  /** By `key=value`, by `key`, and those that require no label at all. */
  readonly #byValue = new Map<string, Set<Entry>>()
  readonly #byKey = new Map<string, Set<Entry>>()
  readonly #byPrefix = new Map<string, Set<Entry>>()
  /** Those that ask for a DNS name or a named port: few identities have any. */
  readonly #byProperty = new Map<string, Set<Entry>>()
  readonly #general = new Map<string, Set<Entry>>()
  readonly #entriesOf = new Map<number, ReadonlySet<SelectorEntry>>()

  identity(id: number): IndexedIdentity | undefined {
    return this.#identities.get(id)
  }

  /** Selectors that select an identity. */
  entriesOf(id: number): ReadonlySet<SelectorEntry> {
    return this.#entriesOf.get(id) ?? NONE
  }

  /** Adds an identity, or replaces what is known of it. @returns the selectors that select it only before or only after */
  upsertIdentity(identity: IndexedIdentity): ReadonlySet<SelectorEntry> {
    const before = this.entriesOf(identity.id)
    const after = new Set<Entry>()
    for (const entry of this.#candidates(identity)) if (entry.matches(identity)) after.add(entry)
    this.#identities.set(identity.id, identity)
    this.#entriesOf.set(identity.id, after)
    const changed = new Set<SelectorEntry>()
    for (const entry of before) {
      if (after.has(entry as Entry)) continue
      ;(entry as Entry).members.delete(identity.id)
      changed.add(entry)
    }
    for (const entry of after) {
      if (before.has(entry)) continue
      entry.members.add(identity.id)
      changed.add(entry)
    }
    return changed
  }

  /** @returns the selectors that selected it */
  removeIdentity(id: number): ReadonlySet<SelectorEntry> {
    const before = this.entriesOf(id)
    for (const entry of before) (entry as Entry).members.delete(id)
    this.#identities.delete(id)
    this.#entriesOf.delete(id)
    return before
  }

  /** Takes a selector of labels into use; to be given back with `release`. */
  useLabels(selector: LabelSelector): SelectorEntry {
    const key = `labels ${JSON.stringify(selector.requirements)}`
    const filed = this.#placeOf(selector)
    return this.#use(key, ...filed, ({ labels, nameSelector }) => nameSelector === undefined && selects(selector, labels))
  }

  /**
   * Takes a prefix without its exceptions into use. It selects identities that have prefixes themselves, never endpoints, whatever their
   * addresses; the prefix of everything also selects the world of its family.
   */
  useCidr(cidr: string, except: readonly string[]): SelectorEntry {
    const prefix = parsePrefix(cidr)
    const holes = except.flatMap((text) => parsePrefix(text) ?? [])
    return this.#use(`cidr ${cidr} ${except.join()}`, this.#byPrefix, cidr, (identity) => {
      if (prefix === undefined) return false
      const { prefixes } = identity
      if (prefixes.length === 0) return prefix.length === 0 && WORLD_OF_FAMILY[prefix.family].includes(identity.id)
      return prefixes.some((own) => containsPrefix(prefix, own) && !holes.some((hole) => containsPrefix(hole, own)))
    })
  }

  /** Takes identities with a DNS name into use, and the one that stands for the condition itself. @param key equal for equal conditions */
  useName(key: string, matches: (name: string) => boolean): SelectorEntry {
    return this.#use(`name ${key}`, this.#byProperty, 'name', ({ names, nameSelector }) => nameSelector === key || names.some(matches))
  }

  /** Takes identities into use whose endpoints have a port of this name. */
  useNamedPort(name: string): SelectorEntry {
    return this.#use(`port ${name}`, this.#byProperty, 'port', ({ namedPorts }) => namedPorts.some((port) => port.name === name))
  }

  release(used: SelectorEntry): void {
    const entry = used as Entry
    entry.useCount -= 1
    if (entry.useCount > 0) return
    this.#entries.delete(entry.key)
    const shelf = entry.shelf.get(entry.place)
    shelf?.delete(entry)
    if (shelf?.size === 0) entry.shelf.delete(entry.place)
    for (const id of entry.members) (this.#entriesOf.get(id) as Set<Entry> | undefined)?.delete(entry)
  }

  #use(key: string, shelf: Entry['shelf'], place: string, matches: Entry['matches']): SelectorEntry {
    const known = this.#entries.get(key)
    if (known !== undefined) {
      known.useCount += 1
      return known
    }
    const entry: Entry = { key, members: new Set(), shelf, place, matches, useCount: 1 }
    this.#entries.set(key, entry)
    const filed = shelf.get(place)
    if (filed === undefined) shelf.set(place, new Set([entry]))
    else filed.add(entry)
    for (const identity of this.#identities.values()) {
      if (!matches(identity)) continue
      entry.members.add(identity.id)
      ;(this.#entriesOf.get(identity.id) as Set<Entry> | undefined)?.add(entry)
    }
    return entry
  }

  #placeOf({ requirements }: LabelSelector): [shelf: Entry['shelf'], place: string] {
    const exact = requirements.find(({ operator, values }) => operator === 'In' && values.length === 1)
    if (exact !== undefined) return [this.#byValue, valuePlace({ key: exact.key, value: exact.values[0] ?? '' })]
    const keyed = requirements.find(({ operator }) => operator === 'In' || operator === 'Exists')
    return keyed === undefined ? [this.#general, EVERYWHERE] : [this.#byKey, keyed.key]
  }

  *#candidates({ id, labels, prefixes, namedPorts, names, nameSelector }: IndexedIdentity): Generator<Entry> {
    yield* this.#general.get(EVERYWHERE) ?? []
    if (namedPorts.length > 0) yield* this.#byProperty.get('port') ?? []
    if (names.length > 0 || nameSelector !== undefined) yield* this.#byProperty.get('name') ?? []
    for (const label of labels) {
      yield* this.#byKey.get(label.key) ?? []
      yield* this.#byValue.get(valuePlace(label)) ?? []
    }
    if (prefixes.length > 0) {
      for (const prefix of prefixes) {
        for (let length = 0; length <= prefix.length; length++) yield* this.#byPrefix.get(formatPrefix(widenPrefix(prefix, length))) ?? []
      }
    } else {
      if (WORLD_OF_FAMILY[4].includes(id)) yield* this.#byPrefix.get('0.0.0.0/0') ?? []
      if (WORLD_OF_FAMILY[6].includes(id)) yield* this.#byPrefix.get('::/0') ?? []
    }
  }
}

const NONE: ReadonlySet<SelectorEntry> = new Set()

function valuePlace({ key, value }: Pick<Label, 'key' | 'value'>): string {
  return `${key}=${value}`
}

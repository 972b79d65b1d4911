/**
 * What the agent last stated (DnsUpdate), and its copy on disk, by which a restarted process judges before the agent answers. An update
 * changes all of it or nothing; what it changed is told item by item.
 */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { digestOfDns } from '#api/digest.ts'
import {
  type DnsEndpoint,
  DnsEndpointSchema,
  type DnsSlot,
  DnsSlotSchema,
  type DnsUpdate,
  DnsUpdateSchema,
  type NameSelector,
  NameSelectorSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { readSnapshot, type SnapshotForm, writeSnapshot } from '#api/snapshot-file.ts'
import { changesOf, type ItemChanges, mergeItems } from '#api/stated-items.ts'
import { StatedRevision } from '#api/stated-revision.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'

const FORM: SnapshotForm = { magic: 'HGDN', version: 1, of: 'DNS rules' }

/** A condition of a message as the matchers take it. */
export function ruleOf({ matchName, matchPattern }: Pick<NameSelector, 'matchName' | 'matchPattern'>): DnsRule {
  return { ...(matchName === undefined ? {} : { matchName }), ...(matchPattern === undefined ? {} : { matchPattern }) }
}

export interface StateChange {
  readonly slots: ItemChanges<DnsSlot>
  readonly selectors: ItemChanges<NameSelector>
  readonly endpoints: ItemChanges<DnsEndpoint>
}

export class DesiredState extends StatedRevision {
  readonly #path: string
  #slots: ReadonlyMap<number, DnsSlot> = new Map()
  #selectors: ReadonlyMap<number, NameSelector> = new Map()
  #endpoints: ReadonlyMap<number, DnsEndpoint> = new Map()
  #lists: Pick<DnsUpdate, 'claimedPrefixes' | 'trustedServers' | 'mapsFolder'> = { claimedPrefixes: [], trustedServers: [], mapsFolder: '' }

  constructor(path: string) {
    super()
    this.#path = path
  }

  get slots(): ReadonlyMap<number, DnsSlot> {
    return this.#slots
  }

  get claimedPrefixes(): readonly string[] {
    return this.#lists.claimedPrefixes
  }

  get trustedServers(): readonly string[] {
    return this.#lists.trustedServers
  }

  /** Of the pinned maps; empty before anything was stated. */
  get mapsFolder(): string {
    return this.#lists.mapsFolder
  }

  /** All that there is, for whoever begins with nothing. */
  everything(): StateChange {
    return {
      slots: { gone: [], come: [...this.#slots.values()] },
      selectors: { gone: [], come: [...this.#selectors.values()] },
      endpoints: { gone: [], come: [...this.#endpoints.values()] },
    }
  }

  /** Reads the copy on disk. @returns what there is now, if there is a copy @throws ApiError when it is damaged or too new */
  load(): StateChange | undefined {
    const bytes = readSnapshot(this.#path, FORM)
    return bytes === undefined ? undefined : this.apply(fromBinary(DnsUpdateSchema, bytes))
  }

  /** @returns undefined when this is not what the agent holds: nothing changed then, and a full update is needed */
  apply(update: DnsUpdate): StateChange | undefined {
    if (!this.fits(update)) return undefined
    const slots = mergeItems(this.#slots, update.slots, update.full ? undefined : update.removedSlotIds)
    const selectors = mergeItems(this.#selectors, update.selectors, update.full ? undefined : update.removedSelectorIds)
    const endpoints = mergeItems(this.#endpoints, update.endpoints, update.full ? undefined : update.removedEndpointIds)
    const digest = digestOfDns({ slots: slots.values(), selectors: selectors.values(), endpoints: endpoints.values() })
    if (Buffer.compare(digest, update.digest) !== 0) return undefined
    const change = {
      slots: changesOf(DnsSlotSchema, this.#slots, slots),
      selectors: changesOf(NameSelectorSchema, this.#selectors, selectors),
      endpoints: changesOf(DnsEndpointSchema, this.#endpoints, endpoints),
    }
    this.#slots = slots
    this.#selectors = selectors
    this.#endpoints = endpoints
    const { claimedPrefixes, trustedServers, mapsFolder } = update
    this.#lists = { claimedPrefixes, trustedServers, mapsFolder }
    this.take(update)
    return change
  }

  persist(): Promise<void> {
    const slots = [...this.#slots.values()]
    const selectors = [...this.#selectors.values()]
    const endpoints = [...this.#endpoints.values()]
    const digest = digestOfDns({ slots, selectors, endpoints })
    const update = create(DnsUpdateSchema, {
      epoch: this.epoch,
      revision: this.revision,
      full: true,
      slots,
      selectors,
      endpoints,
      ...this.#lists,
      digest,
    })
    return writeSnapshot(this.#path, FORM, toBinary(DnsUpdateSchema, update))
  }
}

/**
 * What the DNS process is told (SyncDns): the slots whose rules are about DNS, the selectors to learn addresses for, whose queries come
 * from which address, and which addresses are taken. Every change is a revision of its own and is sent at once to whoever holds the one
 * before it; a process that holds anything else is told everything.
 */
import { create } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { digestOfDns } from '#api/digest.ts'
import {
  type DnsEndpoint,
  DnsEndpointSchema,
  type DnsReport,
  type DnsSlot,
  DnsSlotSchema,
  type DnsUpdate,
  DnsUpdateSchema,
  type NameSelector,
  NameSelectorSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { listeningNumber } from '#api/listening.ts'
import type { Slot } from './datapath/slots.ts'
import { FeedItems } from './feed-items.ts'
import { FeedStreams } from './feed-streams.ts'
import { dnsSlotMessage } from './slot-messages.ts'

/** What is known of the DNS process. */
export interface DnsState {
  connected: boolean
  pid: number
  version: string
  appliedRevision: bigint
  problem: string
}

type Stream = ServerDuplexStream<DnsReport, DnsUpdate>

/** What is told as a whole. */
type Lists = Pick<DnsUpdate, 'claimedPrefixes' | 'trustedServers' | 'mapsFolder'>
type Step = Partial<Pick<DnsUpdate, 'slots' | 'removedSlotIds' | 'selectors' | 'removedSelectorIds' | 'endpoints' | 'removedEndpointIds'>>

export class DnsFeed {
  readonly state: DnsState = { connected: false, pid: 0, version: '', appliedRevision: 0n, problem: '' }
  readonly #epoch: bigint
  readonly #slots = new FeedItems<DnsSlot>(DnsSlotSchema)
  readonly #selectors = new FeedItems<NameSelector>(NameSelectorSchema)
  readonly #endpoints = new FeedItems<DnsEndpoint>(DnsEndpointSchema)
  /** In which revision each slot became what it is. */
  readonly #revisionOfSlot = new Map<number, bigint>()
  readonly #streams: FeedStreams<DnsReport, DnsUpdate>
  #lists: Lists = { claimedPrefixes: [], trustedServers: [], mapsFolder: '' }
  #listening: ReadonlySet<number> = new Set()
  #revision: bigint

  /** @param onReport a report came, or the DNS process came or went */
  constructor(epoch: bigint, firstRevision: bigint, onReport: () => void) {
    this.#epoch = epoch
    this.#revision = firstRevision
    this.#streams = new FeedStreams(epoch, {
      revision: () => this.#revision,
      everything: () => this.#everything(),
      onReport: ({ appliedRevision, pid, version, problem, listening }, isOurs) => {
        Object.assign(this.state, { appliedRevision, pid, version, problem })
        this.#listening = new Set(isOurs ? listening : [])
      },
      onChange: () => {
        this.state.connected = this.#streams.isConnected
        onReport()
      },
    })
  }

  /** Whether a slot or a selector needs it. */
  get isNeeded(): boolean {
    return this.#slots.byId.size > 0 || this.#selectors.byId.size > 0
  }

  get revision(): bigint {
    return this.#revision
  }

  /** Whether it has everything of a revision in force, or nothing is needed of it. */
  hasApplied(revision: bigint): boolean {
    return !this.isNeeded || this.state.appliedRevision >= revision
  }

  hasSlot(id: number): boolean {
    return this.#slots.byId.has(id)
  }

  /** Whether queries can be sent to a slot. */
  isListening(id: number, generation: number): boolean {
    return this.#listening.has(listeningNumber(id, generation))
  }

  isSlotApplied(id: number): boolean {
    return this.state.appliedRevision >= (this.#revisionOfSlot.get(id) ?? this.#revision)
  }

  changeSlots(changed: readonly Slot[], removedIds: readonly number[]): void {
    const slots = this.#slots.upsert(changed.map(dnsSlotMessage))
    for (const { id } of slots) this.#revisionOfSlot.set(id, this.#revision + 1n)
    const removedSlotIds = this.#slots.remove(removedIds)
    for (const id of removedSlotIds) this.#revisionOfSlot.delete(id)
    this.#step({ slots, removedSlotIds })
  }

  setSelectors(selectors: readonly NameSelector[]): void {
    const { changed, removed } = this.#selectors.replace(selectors)
    this.#step({ selectors: changed, removedSelectorIds: removed })
  }

  upsertEndpoints(endpoints: readonly DnsEndpoint[]): void {
    this.#step({ endpoints: this.#endpoints.upsert(endpoints) })
  }

  /** Domains that an endpoint's resolver appends to names. */
  searchDomainsOf(endpointId: number): readonly string[] {
    return this.#endpoints.byId.get(endpointId)?.searchDomains ?? []
  }

  removeEndpoints(ids: readonly number[]): void {
    this.#step({ removedEndpointIds: this.#endpoints.remove(ids) })
  }

  setLists(lists: Lists): void {
    if (JSON.stringify(lists) === JSON.stringify(this.#lists)) return
    this.#lists = lists
    this.#send({})
  }

  serve(stream: Stream): void {
    this.#streams.serve(stream)
  }

  #step(step: Step): void {
    if (Object.values(step).some((list) => list.length > 0)) this.#send(step)
  }

  #send(step: Step): void {
    this.#revision++
    this.#streams.send(this.#update(step))
  }

  #everything(): DnsUpdate {
    return this.#update({
      full: true,
      slots: [...this.#slots.byId.values()],
      selectors: [...this.#selectors.byId.values()],
      endpoints: [...this.#endpoints.byId.values()],
    })
  }

  #update(step: Step & { full?: true }): DnsUpdate {
    const held = { slots: this.#slots.byId.values(), selectors: this.#selectors.byId.values(), endpoints: this.#endpoints.byId.values() }
    return create(DnsUpdateSchema, {
      epoch: this.#epoch,
      revision: this.#revision,
      ...this.#lists,
      ...step,
      digest: digestOfDns(held),
    })
  }
}

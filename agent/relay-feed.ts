/**
 * What the workers of the relay are told (SyncRelay): the slots whose connections they parse, and whose connections may come. Each worker
 * has a stream of its own, and a slot is used only when all that take connections have it: Envoy gives a connection to any of them.
 */
import { create } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { digestOfRelay } from '#api/digest.ts'
import {
  type RelayEndpoint,
  RelayEndpointSchema,
  type RelayReport,
  type RelaySlot,
  RelaySlotSchema,
  type RelayUpdate,
  RelayUpdateSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import type { Slot } from './datapath/slots.ts'
import { FeedItems } from './feed-items.ts'
import { FeedStreams } from './feed-streams.ts'
import { relaySlotMessage } from './slot-messages.ts'

type Stream = ServerDuplexStream<RelayReport, RelayUpdate>
type Step = Partial<Pick<RelayUpdate, 'full' | 'slots' | 'removedSlotIds' | 'endpoints' | 'removedEndpointIds'>>

export class RelayFeed {
  readonly #epoch: bigint
  readonly #slots = new FeedItems<RelaySlot>(RelaySlotSchema)
  readonly #endpoints = new FeedItems<RelayEndpoint>(RelayEndpointSchema)
  /** In which revision each slot came, and became what it is. */
  readonly #revisionsOfSlot = new Map<number, { readonly generation: number; readonly came: bigint; changed: bigint }>()
  readonly #streams: FeedStreams<RelayReport, RelayUpdate>
  #revision: bigint

  /** @param onReport a report came, or a worker came or went */
  constructor(epoch: bigint, firstRevision: bigint, onReport: () => void) {
    this.#epoch = epoch
    this.#revision = firstRevision
    this.#streams = new FeedStreams(epoch, {
      revision: () => this.#revision,
      everything: () => this.#everything(),
      onReport: () => {},
      onChange: onReport,
    })
  }

  /** What each worker said last that takes connections. */
  get workers(): readonly RelayReport[] {
    // Of two with one number, the older is about to see that the other has its place.
    const serving = this.#streams.reports().filter(({ takesNone }) => !takesNone)
    const byNumber = new Map(serving.map((report) => [report.worker, report] as const))
    return [...byNumber.values()].sort((a, b) => a.worker - b.worker)
  }

  get isNeeded(): boolean {
    return this.#slots.byId.size > 0
  }

  get revision(): bigint {
    return this.#revision
  }

  hasSlot(id: number): boolean {
    return this.#slots.byId.has(id)
  }

  /** Whether every worker has everything of a revision in force, or nothing is needed of them. */
  hasApplied(revision: bigint): boolean {
    return !this.isNeeded || this.#haveApplied(revision)
  }

  /** Whether connections can be handed to a slot. */
  isServing(id: number): boolean {
    return this.#haveApplied(this.#revisionsOfSlot.get(id)?.came ?? this.#revision)
  }

  isSlotApplied(id: number): boolean {
    return this.#haveApplied(this.#revisionsOfSlot.get(id)?.changed ?? this.#revision)
  }

  changeSlots(changed: readonly Slot[], removedIds: readonly number[]): void {
    const slots = this.#slots.upsert(changed.map(relaySlotMessage))
    const changedIn = this.#revision + 1n
    for (const { id, generation } of slots) {
      const before = this.#revisionsOfSlot.get(id)
      if (before?.generation === generation) before.changed = changedIn
      else this.#revisionsOfSlot.set(id, { generation, came: changedIn, changed: changedIn })
    }
    const removedSlotIds = this.#slots.remove(removedIds)
    for (const id of removedSlotIds) this.#revisionsOfSlot.delete(id)
    this.#step({ slots, removedSlotIds })
  }

  upsertEndpoints(endpoints: readonly RelayEndpoint[]): void {
    this.#step({ endpoints: this.#endpoints.upsert(endpoints) })
  }

  removeEndpoints(ids: readonly number[]): void {
    this.#step({ removedEndpointIds: this.#endpoints.remove(ids) })
  }

  serve(stream: Stream): void {
    this.#streams.serve(stream)
  }

  #haveApplied(revision: bigint): boolean {
    const { workers } = this
    return workers.length > 0 && workers.every(({ appliedRevision }) => appliedRevision >= revision)
  }

  #step(step: Step): void {
    const { slots = [], removedSlotIds = [], endpoints = [], removedEndpointIds = [] } = step
    if (slots.length + removedSlotIds.length + endpoints.length + removedEndpointIds.length === 0) return
    this.#revision++
    this.#streams.send(this.#update(step))
  }

  #everything(): RelayUpdate {
    return this.#update({ full: true, slots: [...this.#slots.byId.values()], endpoints: [...this.#endpoints.byId.values()] })
  }

  #update(step: Step): RelayUpdate {
    const digest = digestOfRelay({ slots: this.#slots.byId.values(), endpoints: this.#endpoints.byId.values() })
    return create(RelayUpdateSchema, { epoch: this.#epoch, revision: this.#revision, ...step, digest })
  }
}

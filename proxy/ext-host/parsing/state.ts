/** What the agent last stated (RelayUpdate) to a worker, and the copy on disk by which a restarted one judges before the agent answers. */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { digestOfRelay } from '#api/digest.ts'
import {
  type RelayEndpoint,
  RelayEndpointSchema,
  type RelaySlot,
  RelaySlotSchema,
  type RelayUpdate,
  RelayUpdateSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { readSnapshot, type SnapshotForm, writeSnapshot } from '#api/snapshot-file.ts'
import { changesOf, type ItemChanges, mergeItems } from '#api/stated-items.ts'
import { StatedRevision } from '#api/stated-revision.ts'

const FORM: SnapshotForm = { magic: 'HGRL', version: 1, of: 'slots of the relay' }

export interface RelayChange {
  readonly slots: ItemChanges<RelaySlot>
  readonly endpoints: ItemChanges<RelayEndpoint>
}

export class RelayState extends StatedRevision {
  readonly #path: string
  #slots: ReadonlyMap<number, RelaySlot> = new Map()
  #endpoints: ReadonlyMap<number, RelayEndpoint> = new Map()

  constructor(path: string) {
    super()
    this.#path = path
  }

  /** Reads the copy on disk. @returns what there is now, if there is a copy @throws ApiError when it is damaged or too new */
  load(): RelayChange | undefined {
    const bytes = readSnapshot(this.#path, FORM)
    return bytes === undefined ? undefined : this.apply(fromBinary(RelayUpdateSchema, bytes))
  }

  /** @returns undefined when this is not what the agent holds: nothing changed then, and a full update is needed */
  apply(update: RelayUpdate): RelayChange | undefined {
    if (!this.fits(update)) return undefined
    const slots = mergeItems(this.#slots, update.slots, update.full ? undefined : update.removedSlotIds)
    const endpoints = mergeItems(this.#endpoints, update.endpoints, update.full ? undefined : update.removedEndpointIds)
    const digest = digestOfRelay({ slots: slots.values(), endpoints: endpoints.values() })
    if (Buffer.compare(digest, update.digest) !== 0) return undefined
    const change = {
      slots: changesOf(RelaySlotSchema, this.#slots, slots),
      endpoints: changesOf(RelayEndpointSchema, this.#endpoints, endpoints),
    }
    this.#slots = slots
    this.#endpoints = endpoints
    this.take(update)
    return change
  }

  persist(): Promise<void> {
    const slots = [...this.#slots.values()]
    const endpoints = [...this.#endpoints.values()]
    const { epoch, revision } = this
    const digest = digestOfRelay({ slots, endpoints })
    const update = create(RelayUpdateSchema, { epoch, revision, full: true, slots, endpoints, digest })
    return writeSnapshot(this.#path, FORM, toBinary(RelayUpdateSchema, update))
  }
}

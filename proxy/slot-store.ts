/**
 * The set of slots as the agent last stated it, and its copy on disk. The copy is written before anything of it reaches Envoy, so a
 * restarted proxy never serves less than what Envoy has already, and can take away what is not in it.
 */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { digestOfSlots, encodeSlot } from '#api/digest.ts'
import { type ProxyUpdate, ProxyUpdateSchema, type Slot } from '#api/gen/headgate/v1/control_pb.js'
import { readSnapshot, type SnapshotForm, writeSnapshot } from '#api/snapshot-file.ts'
import { StatedRevision } from '#api/stated-revision.ts'

const FORM: SnapshotForm = { magic: 'HGPS', version: 1, of: 'slots' }

export interface SlotChange {
  readonly epoch: bigint
  readonly revision: bigint
  readonly changed: readonly Slot[]
  readonly removedIds: readonly number[]
}

export class SlotStore extends StatedRevision {
  readonly #path: string
  readonly #slots = new Map<number, Slot>()
  readonly #touchedIds = new Set<number>()

  constructor(path: string) {
    super()
    this.#path = path
  }

  /** Reads the copy on disk, if there is one. @throws ApiError when it is damaged or too new */
  load(): void {
    const bytes = readSnapshot(this.#path, FORM)
    if (bytes !== undefined) this.#replace(fromBinary(ProxyUpdateSchema, bytes))
  }

  /** @returns whether the set is now what the agent holds; if not, it is unchanged and a full update is needed */
  apply(update: ProxyUpdate): boolean {
    if (!this.fits(update)) return false
    const next = update.full ? new Map<number, Slot>() : new Map(this.#slots)
    for (const id of update.removedSlotIds) next.delete(id)
    for (const slot of update.slots) next.set(slot.id, slot)
    if (Buffer.compare(digestOfSlots(next.values()), update.digest) !== 0) return false
    this.#replace(update, next)
    return true
  }

  /** What changed since the last time. @returns undefined while no complete set is held */
  takeChange(): SlotChange | undefined {
    if (!this.holdsEpoch) return undefined
    const ids = [...this.#touchedIds]
    this.#touchedIds.clear()
    return {
      epoch: this.epoch,
      revision: this.revision,
      changed: ids.flatMap((id) => this.#slots.get(id) ?? []),
      removedIds: ids.filter((id) => !this.#slots.has(id)),
    }
  }

  persist(): Promise<void> {
    return writeSnapshot(this.#path, FORM, this.#encode())
  }

  #replace(update: ProxyUpdate, next = new Map(update.slots.map((slot) => [slot.id, slot]))): void {
    for (const id of this.#slots.keys()) if (!next.has(id)) this.#touchedIds.add(id)
    for (const [id, slot] of next) {
      const known = this.#slots.get(id)
      if (known === undefined || !isSame(known, slot)) this.#touchedIds.add(id)
    }
    this.#slots.clear()
    for (const [id, slot] of next) this.#slots.set(id, slot)
    this.take(update)
  }

  /** The slots are written as they were encoded for the digest, which costs no more than copying them. */
  #encode(): Uint8Array {
    const slots = [...this.#slots.values()].sort((a, b) => a.id - b.id)
    const head = create(ProxyUpdateSchema, { epoch: this.epoch, revision: this.revision, full: true, digest: digestOfSlots(slots) })
    const body = new BinaryWriter().raw(toBinary(ProxyUpdateSchema, head))
    for (const slot of slots) body.tag(ProxyUpdateSchema.field.slots.number, WireType.LengthDelimited).bytes(encodeSlot(slot))
    return body.finish()
  }
}

function isSame(a: Slot, b: Slot): boolean {
  return a === b || Buffer.compare(encodeSlot(a), encodeSlot(b)) === 0
}

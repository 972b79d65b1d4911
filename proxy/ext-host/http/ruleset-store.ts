/**
 * The rulesets as the agent last stated them, and their copy on disk, by which a restarted extension host judges before the agent
 * answers. A ruleset never changes: its key is a digest of what it says.
 */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { digestOfKeys } from '#api/digest.ts'
import { type ExtHostUpdate, ExtHostUpdateSchema, type Ruleset } from '#api/gen/headgate/v1/control_pb.js'
import { readSnapshot, type SnapshotForm, writeSnapshot } from '#api/snapshot-file.ts'
import { StatedRevision } from '#api/stated-revision.ts'

const FORM: SnapshotForm = { magic: 'HGXR', version: 1, of: 'rulesets' }

export class RulesetStore extends StatedRevision {
  readonly #path: string
  #rulesets: ReadonlyMap<string, Ruleset> = new Map()
  #isRelayNeeded = false

  constructor(path: string) {
    super()
    this.#path = path
  }

  /** By key. */
  get rulesets(): ReadonlyMap<string, Ruleset> {
    return this.#rulesets
  }

  /** Whether there are slots for the relay. */
  get isRelayNeeded(): boolean {
    return this.#isRelayNeeded
  }

  /** Reads the copy on disk, if there is one. @throws ApiError when it is damaged or too new */
  load(): void {
    const bytes = readSnapshot(this.#path, FORM)
    if (bytes !== undefined) this.apply(fromBinary(ExtHostUpdateSchema, bytes))
  }

  /** @returns whether these are now the rulesets that the agent holds; if not, nothing changed and a full update is needed */
  apply(update: ExtHostUpdate): boolean {
    if (!this.fits(update)) return false
    const next = new Map(update.full ? [] : this.#rulesets)
    for (const key of update.removedKeys) next.delete(key)
    for (const { key, ruleset } of update.rulesets) if (ruleset !== undefined) next.set(key, ruleset)
    if (Buffer.compare(digestOfKeys(next.keys()), update.digest) !== 0) return false
    this.#rulesets = next
    this.#isRelayNeeded = update.relay
    this.take(update)
    return true
  }

  persist(): Promise<void> {
    const rulesets = Array.from(this.#rulesets, ([key, ruleset]) => ({ key, ruleset }))
    const digest = digestOfKeys(this.#rulesets.keys())
    const update = create(ExtHostUpdateSchema, {
      epoch: this.epoch,
      revision: this.revision,
      full: true,
      rulesets,
      digest,
      relay: this.#isRelayNeeded,
    })
    return writeSnapshot(this.#path, FORM, toBinary(ExtHostUpdateSchema, update))
  }
}

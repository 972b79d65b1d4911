/** The form of a process's copy of what the agent has told it: magic, version (4 bytes, big endian), SHA-256 of the rest, the message. */
import { createHash } from 'node:crypto'
import { readFileIfPresent, replaceFile } from '#sys/atomic-file.ts'
import { ApiError } from './errors.ts'

const MAGIC_LENGTH = 4
const DIGEST_LENGTH = 32
const HEADER_LENGTH = MAGIC_LENGTH + 4 + DIGEST_LENGTH

export interface SnapshotForm {
  /** Four letters. */
  readonly magic: string
  readonly version: number
  /** What it is, for errors: slots. */
  readonly of: string
}

export function writeSnapshot(path: string, { magic, version }: SnapshotForm, message: Uint8Array): Promise<void> {
  const header = Buffer.alloc(MAGIC_LENGTH + 4)
  header.write(magic, 0, 'latin1')
  header.writeUInt32BE(version, MAGIC_LENGTH)
  return replaceFile(path, Buffer.concat([header, createHash('sha256').update(message).digest(), message]))
}

/** What is kept in such a file. */
interface Kept {
  /** Another one when what is kept is not what it was. */
  readonly revision: bigint
  /** Writes what there is when it is called. */
  persist(): Promise<void>
}

interface WriterEvents {
  /** It could not be written; the next change is another try. */
  onError(error: unknown): void
  /** The disk is done with what there was at a moment before, written or not. */
  onDone?(): void
}

/** @returns what writes all there is; what changes while the disk is busy is written together, and whoever calls meanwhile need not wait */
export function snapshotWriter(kept: Kept, { onError, onDone }: WriterEvents): () => Promise<void> {
  let isBusy = false
  return async () => {
    if (isBusy) return
    isBusy = true
    for (let written: bigint | undefined; written !== kept.revision; ) {
      written = kept.revision
      await kept.persist().catch(onError)
      onDone?.()
    }
    isBusy = false
  }
}

/** @returns the message; undefined when there is no such file @throws ApiError HG-5904 when it is damaged or too new */
export function readSnapshot(path: string, form: SnapshotForm): Buffer | undefined {
  const bytes = readFileIfPresent(path)
  if (bytes === undefined) return undefined
  if (bytes.length < HEADER_LENGTH || bytes.toString('latin1', 0, MAGIC_LENGTH) !== form.magic) {
    throw new ApiError('HG-5904', `not a snapshot of ${form.of}`, path)
  }
  const version = bytes.readUInt32BE(MAGIC_LENGTH)
  if (version !== form.version) throw new ApiError('HG-5904', `snapshot has version ${version}, this program knows ${form.version}`, path)
  const message = bytes.subarray(HEADER_LENGTH)
  const digest = createHash('sha256').update(message).digest()
  if (!digest.equals(bytes.subarray(MAGIC_LENGTH + 4, HEADER_LENGTH))) throw new ApiError('HG-5904', 'snapshot is damaged', path)
  return message
}

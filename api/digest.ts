/**
 * The digest by which the agent and the proxy know that they hold the same set of slots. Both sides compute it from their own copy,
 * so a lost or misapplied delta shows at once and is healed by a full update.
 */
import { createHash } from 'node:crypto'
import { toBinary } from '@bufbuild/protobuf'
import { type Slot, SlotSchema } from '#api/gen/headgate/v1/control_pb.js'

/**
 * SHA-256 over the slots in the order of their ids, each as a four-byte big-endian length and its binary encoding. The encoding is
 * canonical: fields in the order of their numbers, defaults left out, no maps in the message, unknown fields of a newer agent kept last.
 */
export function digestOfSlots(slots: Iterable<Slot>): Uint8Array {
  const hash = createHash('sha256')
  const length = Buffer.alloc(4)
  for (const slot of [...slots].sort((a, b) => a.id - b.id)) {
    const bytes = toBinary(SlotSchema, slot)
    length.writeUInt32BE(bytes.length)
    hash.update(length)
    hash.update(bytes)
  }
  return hash.digest()
}

/**
 * The digest by which the agent and the proxy know that they hold the same set of slots. Both sides compute it from their own copy,
 * so a lost or misapplied delta shows at once and is healed by a full update.
 *
 * It is computed with every change over the whole set, of which mostly one slot is new, so encodings are remembered: a slot that was
 * encoded once must not be changed any more. A change is a new message.
 */
import { createHash } from 'node:crypto'
import { toBinary } from '@bufbuild/protobuf'
import { type Slot, SlotSchema } from '#api/gen/headgate/v1/control_pb.js'

const encodings = new WeakMap<Slot, Uint8Array>()

/**
 * The canonical encoding of a slot: fields in the order of their numbers, defaults left out, no maps in the message, unknown fields of
 * a newer agent kept last. Equal slots have equal bytes.
 */
export function encodeSlot(slot: Slot): Uint8Array {
  const known = encodings.get(slot)
  if (known !== undefined) return known
  const bytes = toBinary(SlotSchema, slot)
  encodings.set(slot, bytes)
  return bytes
}

/** SHA-256 over the slots in the order of their ids, each as a four-byte big-endian length and its canonical encoding. */
export function digestOfSlots(slots: Iterable<Slot>): Uint8Array {
  const hash = createHash('sha256')
  const length = Buffer.alloc(4)
  for (const slot of [...slots].sort((a, b) => a.id - b.id)) {
    const bytes = encodeSlot(slot)
    length.writeUInt32BE(bytes.length)
    hash.update(length)
    hash.update(bytes)
  }
  return hash.digest()
}

/** SHA-256 over the keys of all rulesets of an extension host, sorted, each with a zero byte after it. */
export function digestOfKeys(keys: Iterable<string>): Uint8Array {
  const hash = createHash('sha256')
  for (const key of [...keys].sort()) hash.update(key).update('\0')
  return hash.digest()
}

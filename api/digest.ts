/**
 * The digests by which the agent and another process know that they hold the same set of slots, or of whatever it is told. Both sides compute it from their own copy,
 * so a lost or misapplied delta shows at once and is healed by a full update.
 *
 * It is computed with every change over the whole set, of which mostly one item is new, so encodings are remembered: an item that was
 * encoded once must not be changed any more. A change is a new message.
 */
import { createHash, type Hash } from 'node:crypto'
import { type Message, toBinary } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import {
  type DnsEndpoint,
  DnsEndpointSchema,
  type DnsSlot,
  DnsSlotSchema,
  type NameSelector,
  NameSelectorSchema,
  type RelayEndpoint,
  RelayEndpointSchema,
  type RelaySlot,
  RelaySlotSchema,
  type Slot,
  SlotSchema,
} from '#api/gen/headgate/v1/control_pb.js'

type Item = Message & { readonly id: number }

const encodings = new WeakMap<Item, Uint8Array>()

/**
 * The canonical encoding of a message: fields in the order of their numbers, defaults left out, no maps in the message, unknown fields
 * of a newer agent kept last. Equal messages have equal bytes.
 */
function encode<T extends Item>(schema: GenMessage<T>, item: T): Uint8Array {
  const known = encodings.get(item)
  if (known !== undefined) return known
  const bytes = toBinary(schema, item)
  encodings.set(item, bytes)
  return bytes
}

export function encodeSlot(slot: Slot): Uint8Array {
  return encode(SlotSchema, slot)
}

/** SHA-256 over the slots in the order of their ids, each as a four-byte big-endian length and its canonical encoding. */
export function digestOfSlots(slots: Iterable<Slot>): Uint8Array {
  const hash = createHash('sha256')
  addItems(hash, SlotSchema, slots)
  return hash.digest()
}

/** What a worker of the relay holds. */
export interface RelayItems {
  readonly slots: Iterable<RelaySlot>
  readonly endpoints: Iterable<RelayEndpoint>
}

/** As digestOfDns, over the slots, then the endpoints. */
export function digestOfRelay({ slots, endpoints }: RelayItems): Uint8Array {
  const hash = createHash('sha256')
  const end = Buffer.alloc(4)
  addItems(hash, RelaySlotSchema, slots)
  hash.update(end)
  addItems(hash, RelayEndpointSchema, endpoints)
  hash.update(end)
  return hash.digest()
}

/** What the DNS process holds, but for what every update tells whole. */
export interface DnsItems {
  readonly slots: Iterable<DnsSlot>
  readonly selectors: Iterable<NameSelector>
  readonly endpoints: Iterable<DnsEndpoint>
}

/** The same over the slots, then the selectors, then the endpoints, each kind with a zero length after it. */
export function digestOfDns({ slots, selectors, endpoints }: DnsItems): Uint8Array {
  const hash = createHash('sha256')
  const end = Buffer.alloc(4)
  addItems(hash, DnsSlotSchema, slots)
  hash.update(end)
  addItems(hash, NameSelectorSchema, selectors)
  hash.update(end)
  addItems(hash, DnsEndpointSchema, endpoints)
  hash.update(end)
  return hash.digest()
}

function addItems<T extends Item>(hash: Hash, schema: GenMessage<T>, items: Iterable<T>): void {
  const length = Buffer.alloc(4)
  for (const item of [...items].sort((a, b) => a.id - b.id)) {
    const bytes = encode(schema, item)
    length.writeUInt32BE(bytes.length)
    hash.update(length)
    hash.update(bytes)
  }
}

/** SHA-256 over the keys of all rulesets of an extension host, sorted, each with a zero byte after it. */
export function digestOfKeys(keys: Iterable<string>): Uint8Array {
  const hash = createHash('sha256')
  for (const key of [...keys].sort()) hash.update(key).update('\0')
  return hash.digest()
}

/** Changes to messages in place: what is kept keeps its bytes, whatever fields are in it that nobody here knows. */
import type { KafkaArray, Place } from './decode.ts'
import { encodeCount } from './encode.ts'
import { SIZE_BYTES } from './frame.ts'

/**
 * A frame with other items in one of its lists.
 * @param kept of its own, in their order @param added behind them, encoded @param rest what follows the list
 */
export function replaceItems(
  frame: Buffer,
  list: KafkaArray,
  kept: readonly Place[],
  added: readonly Uint8Array[],
  isFlexible: boolean,
  rest: Uint8Array = frame.subarray(list.end),
): Buffer {
  const parts = [
    frame.subarray(0, list.start),
    encodeCount(kept.length + added.length, isFlexible),
    ...kept.map(({ start, end }) => frame.subarray(start, end)),
    ...added,
    rest,
  ]
  const changed = Buffer.concat(parts)
  changed.writeInt32BE(changed.length - SIZE_BYTES, 0)
  return changed
}

/** What a slot is called in Envoy's configuration and by Envoy to others: its id and generation, so that a former slot is never taken for it. */
import type { Slot } from '#api/gen/headgate/v1/control_pb.js'

export type SlotName = Pick<Slot, 'id' | 'generation'>

/** Name of the listener and of the rules of a slot. */
export function slotName({ id, generation }: SlotName): string {
  return `slot-${id}-${generation}`
}

/** @returns undefined for a name that slotName did not make */
export function parseSlotName(name: string): SlotName | undefined {
  const match = /^slot-(\d{1,5})-(\d{1,4})$/.exec(name)
  return match === null ? undefined : { id: Number(match[1]), generation: Number(match[2]) }
}

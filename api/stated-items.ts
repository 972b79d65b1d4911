/** What a process makes of the items of an update: all that the agent states now, and what of it is not what it was. */
import { equals, type Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'

type Item = Message & { readonly id: number }

/** What an update did to one kind of items. Something that is not what it was is in both. */
export interface ItemChanges<T> {
  readonly gone: readonly T[]
  readonly come: readonly T[]
}

/** @param removedIds undefined: everything but the new items is gone */
export function mergeItems<T extends Item>(
  before: ReadonlyMap<number, T>,
  items: readonly T[],
  removedIds: readonly number[] | undefined,
): Map<number, T> {
  const next = new Map(removedIds === undefined ? [] : before)
  for (const id of removedIds ?? []) next.delete(id)
  for (const item of items) next.set(item.id, item)
  return next
}

export function changesOf<T extends Item>(
  schema: GenMessage<T>,
  before: ReadonlyMap<number, T>,
  after: ReadonlyMap<number, T>,
): ItemChanges<T> {
  const isSame = (a: T, b: T | undefined) => b !== undefined && (a === b || equals(schema, a, b))
  return {
    gone: [...before.values()].filter((item) => !isSame(item, after.get(item.id))),
    come: [...after.values()].filter((item) => !isSame(item, before.get(item.id))),
  }
}

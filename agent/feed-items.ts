/** What the agent states to a process, one kind of it: messages by their ids, and what of them changes with a step. */
import { equals, type Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'

type Item = Message & { readonly id: number }

export class FeedItems<T extends Item> {
  readonly #schema: GenMessage<T>
  readonly byId = new Map<number, T>()

  constructor(schema: GenMessage<T>) {
    this.#schema = schema
  }

  /** @returns those that are new or not what they were */
  upsert(items: Iterable<T>): T[] {
    const changed: T[] = []
    for (const item of items) {
      const before = this.byId.get(item.id)
      if (before !== undefined && equals(this.#schema, before, item)) continue
      this.byId.set(item.id, item)
      changed.push(item)
    }
    return changed
  }

  /** @returns those that were there */
  remove(ids: Iterable<number>): number[] {
    return [...ids].filter((id) => this.byId.delete(id))
  }

  /** Everything but these is gone. */
  replace(items: readonly T[]): { readonly changed: T[]; readonly removed: number[] } {
    const kept = new Set(items.map(({ id }) => id))
    return { changed: this.upsert(items), removed: this.remove([...this.byId.keys()].filter((id) => !kept.has(id))) }
  }
}

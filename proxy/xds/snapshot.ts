/** Everything that Envoy is to have at one moment. Immutable: a change makes a new one that shares what did not change. */
import type { Resource } from './resource.ts'
import { TYPES_IN_ORDER, type TypeUrl } from './type-urls.ts'

type ResourcesByName = ReadonlyMap<string, Resource>

export interface SnapshotChange {
  readonly set?: Iterable<Resource>
  readonly remove?: Iterable<{ readonly typeUrl: TypeUrl; readonly name: string }>
}

const NOTHING: ResourcesByName = new Map()

export class Snapshot {
  readonly #byType: ReadonlyMap<TypeUrl, ResourcesByName>

  private constructor(byType: ReadonlyMap<TypeUrl, ResourcesByName>) {
    this.#byType = byType
  }

  static of(resources: Iterable<Resource>): Snapshot {
    return new Snapshot(new Map()).with({ set: resources })
  }

  /** @returns this snapshot with a change; itself if nothing differs */
  with(change: SnapshotChange): Snapshot {
    const changed = new Map<TypeUrl, Map<string, Resource>>()
    const editable = (typeUrl: TypeUrl) => {
      const map = changed.get(typeUrl) ?? new Map(this.of(typeUrl))
      changed.set(typeUrl, map)
      return map
    }
    for (const { typeUrl, name } of change.remove ?? []) {
      if (this.get(typeUrl, name) !== undefined) editable(typeUrl).delete(name)
    }
    for (const resource of change.set ?? []) {
      if (this.get(resource.typeUrl, resource.name)?.version !== resource.version) editable(resource.typeUrl).set(resource.name, resource)
    }
    return changed.size === 0 ? this : new Snapshot(new Map([...this.#byType, ...changed]))
  }

  of(typeUrl: TypeUrl): ResourcesByName {
    return this.#byType.get(typeUrl) ?? NOTHING
  }

  get(typeUrl: TypeUrl, name: string): Resource | undefined {
    return this.of(typeUrl).get(name)
  }

  /** Types whose resources are not the very same map in both: what a stream has to look at. */
  typesThatDiffer(other: Snapshot | undefined): TypeUrl[] {
    return TYPES_IN_ORDER.filter((typeUrl) => other === undefined || this.of(typeUrl) !== other.of(typeUrl))
  }
}

/**
 * What one client wants of one resource type, and what it was sent. The rules are those of the xDS protocol, "How the client
 * specifies what resources to return", with the legacy wildcard: a first request that names nothing means everything; later names
 * add to it in the incremental variant, and only an explicit unsubscription from `*` ends it.
 */

export const WILDCARD = '*'

/** Version of a name that the client was told does not exist. */
export const ABSENT = ''

/** Version of a name of which the client has to be told again, whether it is there or not. No digest looks like this. */
const UNKNOWN = '?'

export class Subscription {
  #wildcard = false
  #namedOnce = false
  readonly #names = new Set<string>()
  /** Name -> version that the client has been sent, or ABSENT. */
  readonly #sent = new Map<string, string>()

  get wildcard(): boolean {
    return this.#wildcard
  }

  get names(): ReadonlySet<string> {
    return this.#names
  }

  get sent(): ReadonlyMap<string, string> {
    return this.#sent
  }

  wants(name: string): boolean {
    return this.#wildcard || this.#names.has(name)
  }

  /**
   * The first incremental request of this type on a stream.
   * @param known versions that the client kept from an earlier stream: those it need not be sent
   */
  begin(subscribe: readonly string[], known: Readonly<Record<string, string>>): void {
    this.#wildcard = subscribe.length === 0 || subscribe.includes(WILDCARD)
    for (const name of subscribe) if (name !== WILDCARD) this.#names.add(name)
    for (const [name, version] of Object.entries(known)) if (this.wants(name)) this.#sent.set(name, version)
  }

  /** Every name given has to be answered, even one that is known: the client may have forgotten it. */
  subscribe(names: readonly string[]): void {
    for (const name of names) {
      if (name === WILDCARD) this.#wildcard = true
      else {
        this.#names.add(name)
        this.#sent.set(name, UNKNOWN)
      }
    }
  }

  /** @returns names that the client gave up for good and needs no more */
  unsubscribe(names: readonly string[]): string[] {
    const dropped: string[] = []
    for (const name of names) {
      if (name === WILDCARD) {
        this.#wildcard = false
        for (const sent of [...this.#sent.keys()]) if (!this.#names.has(sent)) this.#forget(sent, dropped)
        continue
      }
      // With the wildcard still on, the client has dropped the resource and is owed it again, or its removal.
      if (this.#names.delete(name) || this.#wildcard) this.#forget(name, dropped)
    }
    return dropped
  }

  #forget(name: string, dropped: string[]): void {
    if (this.#wildcard) {
      this.#sent.set(name, UNKNOWN)
      return
    }
    this.#sent.delete(name)
    dropped.push(name)
  }

  /** State of the world: the names replace those before. An empty list means everything only until a name was ever given. */
  replace(names: readonly string[]): { added: string[]; dropped: string[] } {
    const explicit = names.filter((name) => name !== WILDCARD)
    if (names.length > 0) this.#namedOnce = true
    this.#wildcard = names.includes(WILDCARD) || !this.#namedOnce
    const wanted = new Set(explicit)
    const added = explicit.filter((name) => !this.#names.has(name))
    const dropped = [...this.#names].filter((name) => !wanted.has(name))
    for (const name of dropped) {
      this.#names.delete(name)
      this.#sent.delete(name)
    }
    for (const name of added) this.#names.add(name)
    return { added, dropped }
  }

  markSent(name: string, version: string): void {
    this.#sent.set(name, version)
  }

  /** The client says that it holds this: counts if it was given up and asked for again while the response was on its way. */
  markHeld(name: string, version: string): void {
    if (this.wants(name) && !this.#sent.has(name)) this.#sent.set(name, version)
  }

  /** The client holds nothing under this name any more; if it comes back, it is sent. */
  forgetSent(name: string): void {
    this.#sent.delete(name)
  }

  /** The client was told that nothing is there. A name asked for explicitly stays known as absent, so that this is said once. */
  markRemoved(name: string): void {
    if (this.#names.has(name)) this.#sent.set(name, ABSENT)
    else this.#sent.delete(name)
  }
}

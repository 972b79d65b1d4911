/**
 * How many queries may be on their way: in total, of one endpoint, and to one server. Whoever is over a limit gets SERVFAIL, at once, and
 * nobody else notices: an endpoint that fills its share leaves three quarters to the others, a server that does not answer holds no more
 * than its limit.
 */

const QUERIES_MAX = 65_536
const QUERIES_OF_ENDPOINT_MAX = QUERIES_MAX / 4
/** Servers that are remembered. */
const SERVERS_MAX = 1024

/** Queries on their way, of one that they are counted for. */
interface Load {
  openCount: number
}

/** Whose queries come from an address. */
export interface Client {
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Uint8Array
  /** The same for all addresses of the endpoint. */
  readonly load: Load
}

/** Whom queries go to. */
export interface DnsServer extends Load {
  /** 16 bytes. */
  readonly address: Uint8Array
  /** Whether its answers hold for every endpoint. */
  readonly isTrusted: boolean
  timedOutCount: number
}

export interface LimitCounts {
  /** Queries over a limit. */
  total: number
  endpoint: number
  server: number
}

export class QueryLimits {
  readonly counts: LimitCounts = { total: 0, endpoint: 0, server: 0 }
  readonly #ofServerMax: number
  #openCount = 0

  /** @param ofServerMax queries to one server; 0: as many as there may be in total */
  constructor(ofServerMax: number) {
    this.#ofServerMax = ofServerMax === 0 ? QUERIES_MAX : ofServerMax
  }

  get openCount(): number {
    return this.#openCount
  }

  /** @returns whether a query may go; it has to be given back when it is over */
  take({ load }: Client, server: DnsServer): boolean {
    if (this.#openCount >= QUERIES_MAX) this.counts.total += 1
    else if (load.openCount >= QUERIES_OF_ENDPOINT_MAX) this.counts.endpoint += 1
    else if (server.openCount >= this.#ofServerMax) this.counts.server += 1
    else {
      this.#openCount += 1
      load.openCount += 1
      server.openCount += 1
      return true
    }
    return false
  }

  giveBack({ load }: Client, server: DnsServer): void {
    this.#openCount -= 1
    load.openCount -= 1
    server.openCount -= 1
  }
}

/** Servers that were asked. Of too many, one goes that nothing is on its way to; it is made anew when it is asked again. */
export class Servers {
  readonly #byKey = new Map<number | string, DnsServer>()

  values(): Iterable<DnsServer> {
    return this.#byKey.values()
  }

  get(key: number | string): DnsServer | undefined {
    return this.#byKey.get(key)
  }

  /** @param address copied */
  add(key: number | string, address: Uint8Array, isTrusted: boolean): DnsServer {
    if (this.#byKey.size >= SERVERS_MAX) this.#evict()
    const server = { address: Uint8Array.from(address), isTrusted, openCount: 0, timedOutCount: 0 }
    this.#byKey.set(key, server)
    return server
  }

  /** Forgets who is trusted. What is on its way keeps what was true when it left. */
  clear(): void {
    this.#byKey.clear()
  }

  #evict(): void {
    let oldest: number | string | undefined
    for (const [key, { openCount }] of this.#byKey) {
      oldest ??= key
      if (openCount > 0) continue
      oldest = key
      break
    }
    if (oldest !== undefined) this.#byKey.delete(oldest)
  }
}

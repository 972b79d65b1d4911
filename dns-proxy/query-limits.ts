/**
 * How many queries may be on their way: in total, of one endpoint, and to one server. Whoever is over a limit waits for the grace period, if
 * there is one, and gets SERVFAIL then, and nobody else notices: an endpoint that fills its share leaves three quarters to the others, a
 * server that does not answer holds no more than its limit.
 */

const QUERIES_MAX = 65_536
const QUERIES_OF_ENDPOINT_MAX = QUERIES_MAX / 4
/** Servers that are remembered. */
const SERVERS_MAX = 1024
/** Queries that wait for room. */
const WAITING_MAX = 1024

/** Queries on their way, of one that they are counted for. */
interface Load {
  openCount: number
}

/** Whose queries come from an address. */
export interface Client {
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Uint8Array
  /** What its resolver appends to names: in lower case, with a trailing dot. */
  readonly searchDomains: readonly string[]
  /** Whether the endpoint has no address of IPv6. */
  readonly isIpv4Only: boolean
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

/** A query that waits for room. */
interface Waiting {
  readonly client: Client
  readonly server: DnsServer
  readonly untilMs: number
  readonly onEnd: (hasRoom: boolean) => void
}

export class QueryLimits {
  readonly counts: LimitCounts = { total: 0, endpoint: 0, server: 0 }
  readonly #ofServerMax: number
  readonly #graceMs: number
  #openCount = 0
  /** In the order in which they came, and so of the ends of their graces. */
  #waiting: Waiting[] = []
  #isAdmitting = false
  #timer: NodeJS.Timeout | undefined
  #onIdle: (() => void) | undefined

  /** @param ofServerMax queries to one server; 0: as many as there may be in total @param graceMs for which a query over a limit waits */
  constructor(ofServerMax: number, graceMs = 0) {
    this.#ofServerMax = ofServerMax === 0 ? QUERIES_MAX : ofServerMax
    this.#graceMs = graceMs
  }

  get openCount(): number {
    return this.#openCount
  }

  /** @returns whether a query may go, so that it has to be given back when it is over */
  take(client: Client, server: DnsServer): boolean {
    return this.#limitOf(client, server) === undefined && this.#enter(client, server)
  }

  /**
   * For a query that could not be taken.
   * @param onEnd told once, later, whether it was taken after all
   * @returns whether it waits; otherwise there is no grace, or too many wait
   */
  wait(client: Client, server: DnsServer, onEnd: (hasRoom: boolean) => void): boolean {
    if (this.#graceMs === 0 || this.#waiting.length >= WAITING_MAX) {
      this.counts[this.#limitOf(client, server) ?? 'total'] += 1
      return false
    }
    this.#waiting.push({ client, server, untilMs: performance.now() + this.#graceMs, onEnd })
    this.#timer ??= setTimeout(() => this.#admit(), this.#graceMs)
    return true
  }

  giveBack({ load }: Client, server: DnsServer): void {
    this.#openCount -= 1
    load.openCount -= 1
    server.openCount -= 1
    this.#tellIdle()
    if (this.#waiting.length === 0 || this.#isAdmitting) return
    // Not now: whoever gives back is in the middle of an answer.
    this.#isAdmitting = true
    setImmediate(() => this.#admit())
  }

  /** Resolves when no query is on its way, and none waits for room. */
  idle(): Promise<void> {
    if (this.#openCount + this.#waiting.length === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#onIdle = resolve
    })
  }

  /** Nobody waits any more, and nobody is told. */
  close(): void {
    clearTimeout(this.#timer)
    this.#waiting = []
  }

  #tellIdle(): void {
    if (this.#openCount + this.#waiting.length === 0) this.#onIdle?.()
  }

  #enter({ load }: Client, server: DnsServer): true {
    this.#openCount += 1
    load.openCount += 1
    server.openCount += 1
    return true
  }

  #limitOf({ load }: Client, server: DnsServer): keyof LimitCounts | undefined {
    if (this.#openCount >= QUERIES_MAX) return 'total'
    if (load.openCount >= QUERIES_OF_ENDPOINT_MAX) return 'endpoint'
    return server.openCount >= this.#ofServerMax ? 'server' : undefined
  }

  /** Lets those go that there is room for, and gives up those whose grace is over. */
  #admit(): void {
    const waiting = this.#waiting
    this.#waiting = []
    clearTimeout(this.#timer)
    const nowMs = performance.now()
    const left: Waiting[] = []
    for (const each of waiting) {
      const limit = this.#limitOf(each.client, each.server)
      if (limit === undefined) each.onEnd(this.#enter(each.client, each.server))
      else if (each.untilMs > nowMs) left.push(each)
      else {
        this.counts[limit] += 1
        each.onEnd(false)
      }
    }
    this.#waiting = [...left, ...this.#waiting]
    this.#isAdmitting = false
    this.#tellIdle()
    const [first] = this.#waiting
    this.#timer = first && setTimeout(() => this.#admit(), Math.max(1, first.untilMs - nowMs))
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

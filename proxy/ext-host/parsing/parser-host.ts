/**
 * The connections that parsers of this worker stand in, whatever transport brings them: by which slot each came, what it may use, and when it
 * has to end.
 */
import { type AddressKey, addressKey, bytesToAddress } from '#sys/addresses.ts'
import { parseSlotName } from '../../slot-name.ts'
import { type DriverSink, StreamDriver } from './driver.ts'
import type { HostedConnection, HostedParser } from './hosted-parser.ts'
import { MemoryBudget } from './memory-budget.ts'
import type { LoadedSlot, RelaySlots } from './slots.ts'

const LIMITS: ParserHostLimits = {
  connections: { all: 16_384, client: 4096 },
  // Of one client: the largest request, and a little more.
  heldBytes: { all: 256 << 20, client: 160 << 20 },
}
const ANSWER_BYTES_MAX = 4 << 20
const TURNS_MAX = 1024

/** Of a worker: how much of something there is, and how much of it for one client, so that none has everything. */
interface Shares {
  readonly all: number
  readonly client: number
}

export interface ParserHostLimits {
  readonly connections: Shares
  /** For what has to be held back. */
  readonly heldBytes: Shares
}

/** An address that connections come from. */
interface Client {
  readonly key: AddressKey
  connections: number
  readonly budget: MemoryBudget
}

/** Who connected to whom. */
export interface ConnectionEnds {
  /** 16 bytes each, IPv4 mapped. */
  readonly source: Uint8Array
  readonly sourcePort: number
  readonly destination: Uint8Array
  readonly destinationPort: number
}

/** Which connection something is about. */
export interface ParsedConnection extends ConnectionEnds {
  readonly slot: LoadedSlot
}

/** One that ends before its time, or cannot begin. */
export interface FailedConnection extends ConnectionEnds {
  readonly slot: { readonly id: number; readonly definition: { readonly name: string } }
}

export interface OpenedConnection {
  readonly connection: ParsedConnection
  /** To be called once. @param sink where the driver's bytes go */
  drive(sink: DriverSink): StreamDriver
  /** Tells why it is closed before its end. */
  fail(reason: string): void
  /** It is gone. */
  release(): void
}

export interface ParserHostParts {
  readonly slots: Pick<RelaySlots, 'get' | 'broken' | 'isLocal'>
  /** What a parser tells. */
  readonly onRecord: (connection: ParsedConnection, record: unknown) => void
  readonly onFailure: (connection: FailedConnection, reason: string) => void
  /** Of a connection that nobody can be told of. */
  readonly onRefused: (reason: string) => void
}

export class ParserHost {
  readonly #parts: ParserHostParts
  readonly #budget: MemoryBudget
  /** How to end each. */
  readonly #ends = new Map<OpenedConnection, () => void>()
  readonly #limits: ParserHostLimits
  readonly #clients = new Map<AddressKey, Client>()
  #onIdle: (() => void) | undefined

  constructor(parts: ParserHostParts, limits = LIMITS) {
    this.#parts = parts
    this.#limits = limits
    this.#budget = new MemoryBudget(limits.heldBytes.all)
  }

  get connectionCount(): number {
    return this.#ends.size
  }

  /** Tells of a connection that cannot be had. */
  refuse(reason: string): void {
    this.#parts.onRefused(reason)
  }

  /**
   * @param slotName as Envoy gave it @param end how the connection ends when its slot does
   * @returns undefined for a connection that may not be: nothing of it goes on
   */
  open(slotName: string, ends: ConnectionEnds, end: () => void): OpenedConnection | undefined {
    const { slots } = this.#parts
    const name = parseSlotName(slotName)
    const slot = name && slots.get(name)
    if (slot === undefined) {
      const broken = name && slots.broken(name)
      if (broken === undefined) this.refuse(`no slot has the name ${JSON.stringify(slotName)}`)
      else this.#parts.onFailure({ slot: broken, ...ends }, broken.reason)
      return undefined
    }
    const local = slot.direction === 'egress' ? ends.source : ends.destination
    if (!slots.isLocal(local)) {
      this.refuse(`no endpoint has the address ${bytesToAddress(local)}`)
      return undefined
    }
    const client = this.#clientOf(ends)
    const excess = this.#excess(client)
    if (excess !== undefined) {
      this.#parts.onFailure({ slot, ...ends }, excess)
      return undefined
    }
    this.#clients.set(client.key, client)
    client.connections++
    const opened = this.#opened({ slot, ...ends }, client)
    this.#ends.set(opened, end)
    return opened
  }

  /** Connections of these end. */
  end(slots: readonly LoadedSlot[]): void {
    const ended = new Set(slots)
    for (const [{ connection }, end] of [...this.#ends]) if (ended.has(connection.slot)) end()
  }

  /** Resolves when the last connection has ended, or after the time. */
  async idle(timeoutMs: number): Promise<void> {
    if (this.#ends.size === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
      this.#onIdle = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #clientOf({ source }: ConnectionEnds): Client {
    const key = addressKey(source)
    return this.#clients.get(key) ?? { key, connections: 0, budget: new MemoryBudget(this.#limits.heldBytes.client, this.#budget) }
  }

  /** @returns what there is too much of for one connection more */
  #excess({ connections }: Client): string | undefined {
    const { all, client } = this.#limits.connections
    if (this.#ends.size >= all) return `there are ${all} connections already`
    return connections >= client ? `there are ${client} connections of this client already` : undefined
  }

  #opened(connection: ParsedConnection, client: Client): OpenedConnection {
    const { slot } = connection
    let parser: HostedParser | undefined
    const opened: OpenedConnection = {
      connection,
      drive: (sink) => {
        const hosted: HostedConnection<unknown, unknown> = {
          rules: () => slot.rules,
          report: (record) => this.#parts.onRecord(connection, record),
          fail: (reason) => sink.close(reason),
        }
        parser = slot.definition.create(hosted)
        return new StreamDriver(parser, sink, {
          bufferBytesMax: slot.definition.bufferBytesMax,
          answerBytesMax: ANSWER_BYTES_MAX,
          turnsMax: TURNS_MAX,
          budget: client.budget,
        })
      },
      fail: (reason) => this.#parts.onFailure(connection, reason),
      release: () => {
        parser?.dispose?.()
        if (this.#ends.delete(opened) && --client.connections === 0) this.#clients.delete(client.key)
        if (this.#ends.size === 0) this.#onIdle?.()
      },
    }
    return opened
  }
}

/** A host of parsers with one slot, as a worker has it, and what it told. */
import type { Parser } from '#parsers/contract.ts'
import { ParserHost } from '#proxy/ext-host/parsing/parser-host.ts'
import type { LoadedSlot } from '#proxy/ext-host/parsing/slots.ts'
import type { SlotName } from '#proxy/slot-name.ts'

/** slotName of the slot that there is. */
export const KNOWN_SLOT = 'slot-1-1'
const BROKEN_SLOT_ID = 3
export const BROKEN_SLOT = `slot-${BROKEN_SLOT_ID}-1`

export class TestHost {
  readonly failures: string[] = []
  readonly refused: string[] = []
  /** Whether addresses are those of local endpoints: everything comes from loopback in tests. */
  isLocal = true
  readonly slot: LoadedSlot
  readonly host: ParserHost

  constructor(
    makeParser: () => Parser,
    {
      isServerFirst = false,
      bufferBytesMax = 1 << 20,
      connections = { all: 1024, client: 1024 },
      heldBytes = { all: 8 << 20, client: 8 << 20 },
    } = {},
  ) {
    const definition = { name: 'test', isServerFirst, bufferBytesMax, create: makeParser }
    this.slot = { id: 1, generation: 1, direction: 'ingress', upstreamMark: 0, definition, rules: undefined, isGone: false }
    const slots = {
      get: ({ id, generation }: SlotName) => (id === 1 && generation === 1 ? this.slot : undefined),
      broken: ({ id }: SlotName) => (id === BROKEN_SLOT_ID ? { id, definition: { name: 'test' }, reason: 'it is broken' } : undefined),
      isLocal: () => this.isLocal,
    }
    const parts = {
      slots,
      onRecord: () => {},
      onFailure: (_connection: unknown, reason: string) => this.failures.push(reason),
      onRefused: (reason: string) => this.refused.push(reason),
    }
    this.host = new ParserHost(parts, { connections, heldBytes })
  }
}

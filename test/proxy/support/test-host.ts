/** A host of parsers with one slot, as a worker has it, and what it told. */
import type { Parser } from '#parsers/contract.ts'
import { ParserHost } from '#proxy/ext-host/parsing/parser-host.ts'
import type { LoadedSlot } from '#proxy/ext-host/parsing/slots.ts'

/** slotName of the slot that there is. */
export const KNOWN_SLOT = 'slot-1-1'

export class TestHost {
  readonly failures: string[] = []
  readonly refused: string[] = []
  /** Whether addresses are those of local endpoints: everything comes from loopback in tests. */
  isLocal = true
  readonly slot: LoadedSlot
  readonly host: ParserHost

  constructor(makeParser: () => Parser, { isServerFirst = false, bufferBytesMax = 1 << 20 } = {}) {
    const definition = { name: 'test', isServerFirst, bufferBytesMax, create: makeParser }
    this.slot = { id: 1, generation: 1, direction: 'ingress', upstreamMark: 0, definition, rules: undefined, isGone: false }
    this.host = new ParserHost({
      slots: { get: ({ id, generation }) => (id === 1 && generation === 1 ? this.slot : undefined), isLocal: () => this.isLocal },
      onRecord: () => {},
      onFailure: (_connection, reason) => this.failures.push(reason),
      onRefused: (reason) => this.refused.push(reason),
    })
  }
}

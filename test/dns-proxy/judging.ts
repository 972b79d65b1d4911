/** A judge with the rules of a test, which writes down what it would learn and report. */
import { create } from '@bufbuild/protobuf'
import { type DnsFlow, DnsRulesetSchema, type DnsSlot, DnsSlotSchema } from '#api/gen/headgate/v1/control_pb.js'
import { MARK_EGRESS_ACCEPTED, MARK_EGRESS_UPSTREAM, MARK_GENERATION_SHIFT, MARK_PORT_SHIFT } from '#bpf/gen/abi.ts'
import { QueryJudge } from '#dns-proxy/query-judge.ts'
import { SlotTable } from '#dns-proxy/slot-rules.ts'
import { MessageReader } from '#parsers/dns/message.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import { rawMessage, rawName, rawQuestion } from '../parsers/dns/messages.ts'

export interface JudgingOptions {
  readonly rules?: readonly (DnsRule & { readonly name?: string })[]
  readonly denyRules?: readonly (DnsRule & { readonly name?: string })[]
  readonly allowAll?: boolean
  readonly shadowRules?: readonly DnsRule[]
  readonly endpoints?: Readonly<Record<number, readonly string[]>>
  readonly claimed?: readonly string[]
  readonly trusted?: readonly string[]
  readonly selected?: (name: string) => boolean
  readonly concurrencyLimit?: number
  readonly graceMs?: number
  readonly stripAaaa?: boolean
  readonly flowMode?: 'all' | 'denied'
  /** Of every endpoint, with trailing dots. */
  readonly searchDomains?: readonly string[]
}

export const CLIENT = '127.0.0.1'

export interface Lesson {
  readonly endpointId: number
  readonly names: readonly string[]
  readonly address: string
  readonly ttlSeconds: number
}

export class Judging {
  readonly slots = new SlotTable()
  readonly lessons: Lesson[] = []
  readonly flows: DnsFlow[] = []
  /** What the learned names say of themselves, and how often they were renewed. */
  readonly names = { selectorsRevision: 1, areHeld: true, renewedCount: 0 }
  readonly judge: QueryJudge
  readonly slot: DnsSlot

  constructor({
    endpoints = { 7: [CLIENT] },
    claimed = [],
    trusted = [],
    selected = () => true,
    concurrencyLimit = 0,
    graceMs = 0,
    stripAaaa = false,
    flowMode = 'all',
    searchDomains = [],
    ...rules
  }: JudgingOptions) {
    this.slot = slotOf(rules)
    this.slots.change({ gone: [], come: [this.slot] })
    const { names } = this
    this.judge = new QueryJudge(
      this.slots,
      {
        isSelected: selected,
        learn: (endpointId, names, address, ttlSeconds) => {
          this.lessons.push({ endpointId, names: [...names], address: bytesToAddress(address), ttlSeconds })
          return 'learned'
        },
        get selectorsRevision() {
          return names.selectorsRevision
        },
        renew: () => {
          names.renewedCount++
          return names.areHeld
        },
      },
      { add: (flow) => this.flows.push(flow) },
      {
        flows: { mode: flowMode, sampleRate: 1 },
        dns: { dnsproxyConcurrencyLimit: concurrencyLimit, dnsproxyConcurrencyProcessingGracePeriodMs: graceMs, stripAaaa },
      } as ConstructorParameters<typeof QueryJudge>[3],
    )
    const come = Object.entries(endpoints).map(([id, addresses]) => ({
      id: Number(id),
      addresses: [...addresses],
      searchDomains: [...searchDomains],
    }))
    this.judge.changeEndpoints({ gone: [], come: come as unknown as Parameters<QueryJudge['changeEndpoints']>[0]['come'] })
    this.judge.setLists(claimed, trusted)
  }
}

export function slotOf(
  { rules = [], denyRules = [], allowAll = false, shadowRules }: JudgingOptions,
  { id = 3, port = 20_001, generation = 5 } = {},
): DnsSlot {
  const named = (list: readonly (DnsRule & { readonly name?: string })[]) => list.map((rule) => ({ name: '', ...rule }))
  return create(DnsSlotSchema, {
    id,
    generation,
    port,
    mark: ((port << MARK_PORT_SHIFT) | (generation << MARK_GENERATION_SHIFT) | MARK_EGRESS_ACCEPTED) >>> 0,
    upstreamMark: MARK_EGRESS_UPSTREAM,
    ruleset: create(DnsRulesetSchema, {
      allowAll,
      rules: named(rules),
      denyRules: named(denyRules),
      ...(shadowRules === undefined ? {} : { shadow: { rules: named(shadowRules) } }),
    }),
  })
}

/** A query of one question. @param name with or without its trailing dot */
export function queryOf(name: string, { id = 0x1234, type = 1 } = {}): Buffer {
  return rawMessage({ id }, rawQuestion(rawName(...name.split('.').filter(Boolean)), type))
}

export function readerOf(message: Uint8Array): MessageReader {
  const reader = new MessageReader()
  reader.load(message)
  return reader
}

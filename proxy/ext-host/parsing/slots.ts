/** The slots of a worker with their parsers and compiled rules, and whose connections may come by them. */
import {
  Direction,
  type KafkaRule as KafkaRuleMessage,
  type ParserRuleset,
  type RelayEndpoint,
  type RelaySlot,
} from '#api/gen/headgate/v1/control_pb.js'
import type { ItemChanges } from '#api/stated-items.ts'
import type { ParserDefinition } from '#parsers/contract.ts'
import { KafkaRuleset, type NamedKafkaRule } from '#parsers/kafka/judge.ts'
import { KAFKA_PARSER, kafkaParser, type MixedRequests } from '#parsers/kafka/parser.ts'
import { KAFKA_ROLES } from '#parsers/kafka/rules.ts'
import { type AddressKey, addressKey, addressToBytes } from '#sys/addresses.ts'
import type { SlotName } from '../../slot-name.ts'

/** A slot as connections hold it: its rules change while they last. */
export interface LoadedSlot {
  readonly id: number
  readonly generation: number
  readonly direction: 'ingress' | 'egress'
  readonly upstreamMark: number
  // biome-ignore lint/suspicious/noExplicitAny: what rules and records are is between a parser and itself
  readonly definition: ParserDefinition<any, any>
  rules: unknown
  /** Connections are no more to be judged by it. */
  isGone: boolean
}

export class RelaySlots {
  readonly #slots = new Map<number, LoadedSlot>()
  readonly #onBroken: (slot: RelaySlot, error: Error) => void
  readonly #kafka: ReturnType<typeof kafkaParser>
  /** Ids of endpoints. */
  readonly #endpointOf = new Map<AddressKey, number>()

  /** @param onBroken rules that cannot be compiled: nobody may come by that slot */
  constructor(mixedRequests: MixedRequests, onBroken: (slot: RelaySlot, error: Error) => void) {
    this.#kafka = kafkaParser(mixedRequests)
    this.#onBroken = onBroken
  }

  get({ id, generation }: SlotName): LoadedSlot | undefined {
    const slot = this.#slots.get(id)
    return slot?.generation === generation ? slot : undefined
  }

  /** @param address 16 bytes */
  isLocal(address: Uint8Array): boolean {
    return this.#endpointOf.has(addressKey(address))
  }

  /** @returns slots that are no more, whose connections end */
  change({ gone, come }: ItemChanges<RelaySlot>): LoadedSlot[] {
    const ended: LoadedSlot[] = []
    const remove = (id: number): void => {
      const slot = this.#slots.get(id)
      if (slot === undefined) return
      slot.isGone = true
      ended.push(slot)
      this.#slots.delete(id)
    }
    const coming = new Map(come.map((slot) => [slot.id, slot]))
    for (const { id } of gone) if (!coming.has(id)) remove(id)
    for (const slot of come) {
      const loaded = this.#load(slot)
      const before = this.#slots.get(slot.id)
      const isSame = loaded !== undefined && before?.generation === slot.generation && before.definition === loaded.definition
      if (isSame) before.rules = loaded.rules
      else {
        remove(slot.id)
        if (loaded !== undefined) this.#slots.set(slot.id, loaded)
      }
    }
    return ended
  }

  changeEndpoints({ gone, come }: ItemChanges<RelayEndpoint>): void {
    for (const { id, addresses } of gone) {
      for (const address of addresses) {
        const key = addressKey(addressToBytes(address))
        if (this.#endpointOf.get(key) === id) this.#endpointOf.delete(key)
      }
    }
    for (const { id, addresses } of come) for (const address of addresses) this.#endpointOf.set(addressKey(addressToBytes(address)), id)
  }

  #load(slot: RelaySlot): LoadedSlot | undefined {
    const { id, generation, upstreamMark, ruleset } = slot
    try {
      if (ruleset?.parser !== KAFKA_PARSER) throw new Error(`no parser has the name ${ruleset?.parser ?? ''}`)
      const direction = slot.direction === Direction.EGRESS ? 'egress' : 'ingress'
      return { id, generation, direction, upstreamMark, definition: this.#kafka, rules: kafkaRulesetOf(ruleset), isGone: false }
    } catch (error) {
      this.#onBroken(slot, error as Error)
      return undefined
    }
  }
}

function kafkaRulesetOf({ allowAll, kafka, kafkaDeny, shadow }: ParserRuleset): KafkaRuleset {
  return new KafkaRuleset({
    allowAll,
    allow: kafka.map(kafkaRuleOf),
    deny: kafkaDeny.map(kafkaRuleOf),
    ...(shadow === undefined ? {} : { shadow: kafkaRulesetOf(shadow) }),
  })
}

/** @throws Error for a role that is not known here: of a newer agent */
function kafkaRuleOf({
  name,
  role,
  apiKey,
  apiVersion,
  clientId,
  topic,
  topicPrefix,
  topicPattern,
  group,
  transactionalId,
}: KafkaRuleMessage): NamedKafkaRule {
  const known = KAFKA_ROLES.find((each) => each === role)
  if (role !== undefined && known === undefined) throw new Error(`no role of Kafka: ${role}`)
  return {
    name,
    ...(known === undefined ? {} : { role: known }),
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(apiVersion === undefined ? {} : { apiVersion }),
    ...(clientId === undefined ? {} : { clientId }),
    ...(topic === undefined ? {} : { topic }),
    ...(topicPrefix === undefined ? {} : { topicPrefix }),
    ...(topicPattern === undefined ? {} : { topicPattern }),
    ...(group === undefined ? {} : { group }),
    ...(transactionalId === undefined ? {} : { transactionalId }),
  }
}

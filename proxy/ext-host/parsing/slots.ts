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
import { UserParser } from '../user-parsers/user-parser.ts'
import type { UserParsers } from '../user-parsers/user-parsers.ts'
import { UserRuleset } from '../user-parsers/user-ruleset.ts'

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

/** A slot that nobody may come by, as a flow names it. */
export interface BrokenSlot {
  readonly id: number
  readonly definition: { readonly name: string }
  readonly reason: string
}

export class RelaySlots {
  readonly #slots = new Map<number, LoadedSlot>()
  readonly #onBroken: (slot: RelaySlot, error: Error) => void
  readonly #kafka: ReturnType<typeof kafkaParser>
  readonly #userParsers: UserParsers
  /** Those that nobody may come by. */
  readonly #broken = new Map<number, { readonly slot: RelaySlot; readonly error: Error }>()
  /** Ids of endpoints. */
  readonly #endpointOf = new Map<AddressKey, number>()

  /** @param onBroken rules that cannot be compiled, or a parser that is not there: nobody may come by that slot */
  constructor(mixedRequests: MixedRequests, userParsers: UserParsers, onBroken: (slot: RelaySlot, error: Error) => void) {
    this.#kafka = kafkaParser(mixedRequests)
    this.#userParsers = userParsers
    this.#onBroken = onBroken
  }

  get({ id, generation }: SlotName): LoadedSlot | undefined {
    const broken = this.#broken.get(id)
    // What was missing may be there by now.
    const again = broken?.slot.generation === generation ? this.#load(broken.slot) : undefined
    if (again !== undefined) this.#slots.set(id, again)
    const slot = this.#slots.get(id)
    return slot?.generation === generation ? slot : undefined
  }

  /** Why nobody may come by a slot, if that is so. */
  broken({ id, generation }: SlotName): BrokenSlot | undefined {
    const broken = this.#broken.get(id)
    if (broken?.slot.generation !== generation) return undefined
    return { id, definition: { name: broken.slot.ruleset?.parser ?? '' }, reason: broken.error.message }
  }

  /** Why nobody may come by slots, or rules do not hold, a sentence each. */
  problems(): string[] {
    const strange = [...this.#slots.values()].flatMap(({ definition, rules }) => {
      const known = definition instanceof UserParser && rules instanceof UserRuleset ? definition.keys : undefined
      const keys = known === undefined ? [] : (rules as UserRuleset).unknownKeys(known)
      return keys.map(
        (key) => `the parser ${definition.name} knows no ${key}: allow rules with it allow nothing, deny rules deny everything`,
      )
    })
    return [...new Set([...[...this.#broken.values()].map(({ error }) => error.message), ...strange])]
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
    for (const { id } of gone) this.#broken.delete(id)
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
    const before = this.#broken.get(id)
    this.#broken.delete(id)
    try {
      if (ruleset === undefined) throw new Error('it has no rules')
      const direction = slot.direction === Direction.EGRESS ? 'egress' : 'ingress'
      return { id, generation, direction, upstreamMark, ...this.#parserOf(ruleset), isGone: false }
    } catch (error) {
      this.#broken.set(id, { slot, error: error as Error })
      // It is tried again with each connection.
      if (before?.error.message !== (error as Error).message) this.#onBroken(slot, error as Error)
      return undefined
    }
  }

  #parserOf(ruleset: ParserRuleset): Pick<LoadedSlot, 'definition' | 'rules'> {
    return ruleset.parser === KAFKA_PARSER
      ? { definition: this.#kafka, rules: kafkaRulesetOf(ruleset) }
      : { definition: this.#userParsers.get(ruleset.parser), rules: new UserRuleset(ruleset) }
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

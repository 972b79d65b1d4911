/** Slots and rulesets as api/control.proto says them, whole or as far as a proxy of an older version understands. */
import { createHash } from 'node:crypto'
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import {
  Direction,
  type DnsRulesetSchema,
  type DnsSlot,
  DnsSlotSchema,
  type HttpRule as HttpRuleMessage,
  type HttpRuleSchema,
  type KafkaRuleSchema,
  type KeyValueRuleSchema,
  type ParserRulesetSchema,
  ProxyCapability,
  type RelaySlot,
  RelaySlotSchema,
  type Ruleset,
  RulesetSchema,
  type Slot as SlotMessage,
  SlotSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { actionNumber } from '#api/mismatch-actions.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import type { KafkaRule } from '#parsers/kafka/rules.ts'
import type { ParserRule } from '#policy/model.ts'
import { dnsRules, httpRules, kafkaRules, type NamedRule, parserRules, type ResolvedRuleset } from '#policy/resolved.ts'
import { isRelayed, needsExtHost } from './datapath/needs-ext-host.ts'
import { type Slot, slotMark, upstreamMark } from './datapath/slots.ts'

const KEY_LENGTH = 32

export interface SlotMessages {
  readonly slot: SlotMessage
  /** What the extension host judges by for it, under the slot's ext_host_key. */
  readonly judged?: Ruleset
}

export function slotMessages(slot: Slot): SlotMessages {
  const relayed = isRelayed(slot.ruleset)
  const judged = !relayed && needsExtHost(slot.ruleset) ? create(RulesetSchema, enforcedMessage(slot.ruleset)) : undefined
  const message = create(SlotSchema, {
    id: slot.id,
    generation: slot.generation,
    direction: directionNumber(slot),
    port: slot.port,
    mark: slotMark(slot),
    upstreamMark: upstreamMark(slot.direction),
    ruleset: relayed ? {} : rulesetMessage(slot.ruleset),
    extHostKey: judged === undefined ? '' : keyOf(judged),
    relayed,
  })
  return judged === undefined ? { slot: message } : { slot: message, judged }
}

function directionNumber({ direction }: Pick<Slot, 'direction'>): Direction {
  return direction === 'egress' ? Direction.EGRESS : Direction.INGRESS
}

/** A slot whose connections are parsed, for the relay. */
export function relaySlotMessage(slot: Slot): RelaySlot {
  return create(RelaySlotSchema, {
    id: slot.id,
    generation: slot.generation,
    direction: directionNumber(slot),
    upstreamMark: upstreamMark(slot.direction),
    ruleset: parserRulesetMessage(slot.ruleset),
  })
}

function parserRulesetMessage({
  kind,
  parser,
  allowAll,
  allow,
  deny,
  shadow,
}: ResolvedRuleset): MessageInitShape<typeof ParserRulesetSchema> {
  const name = kind === 'parser' ? parser : kind
  return {
    parser: name,
    allowAll,
    ...(kind === 'parser'
      ? { rules: parserRules(allow).map(keyValueRuleMessage), denyRules: parserRules(deny).map(keyValueRuleMessage) }
      : { kafka: kafkaRules(allow).map(kafkaRuleMessage), kafkaDeny: kafkaRules(deny).map(kafkaRuleMessage) }),
    // One that allows nothing says so by being there.
    ...(shadow === undefined ? {} : { shadow: shadow === 'deny-all' ? { parser: name } : parserRulesetMessage(shadow) }),
  }
}

function keyValueRuleMessage({ name, rule }: NamedRule<ParserRule>): MessageInitShape<typeof KeyValueRuleSchema> {
  const values = Object.entries(rule).map(([key, value]) => ({ key, value }))
  return { name, values: values.sort((a, b) => (a.key < b.key ? -1 : 1)) }
}

function kafkaRuleMessage({ name, rule }: NamedRule<KafkaRule>): MessageInitShape<typeof KafkaRuleSchema> {
  return { name, ...rule }
}

/** A digest of what it says, so that another content has another key. */
function keyOf(ruleset: Ruleset): string {
  return createHash('sha256').update(toBinary(RulesetSchema, ruleset)).digest('hex').slice(0, KEY_LENGTH)
}

function rulesetMessage(ruleset: ResolvedRuleset): MessageInitShape<typeof RulesetSchema> {
  const { shadow } = ruleset
  return {
    ...enforcedMessage(ruleset),
    // One that allows nothing says so by being there.
    ...(shadow === undefined ? {} : { shadow: shadow === 'deny-all' ? {} : rulesetMessage(shadow) }),
  }
}

/** A slot whose rules are about DNS, for the DNS process. */
export function dnsSlotMessage(slot: Slot): DnsSlot {
  return create(DnsSlotSchema, {
    id: slot.id,
    generation: slot.generation,
    port: slot.port,
    mark: slotMark(slot),
    upstreamMark: upstreamMark(slot.direction),
    ruleset: dnsRulesetMessage(slot.ruleset),
  })
}

function dnsRulesetMessage({ allowAll, allow, deny, shadow }: ResolvedRuleset): MessageInitShape<typeof DnsRulesetSchema> {
  const messagesOf = (rules: readonly NamedRule[]) => dnsRules(rules).map(({ name, rule }) => ({ name, ...rule }))
  return {
    allowAll,
    rules: messagesOf(allow),
    denyRules: messagesOf(deny),
    ...(shadow === undefined ? {} : { shadow: shadow === 'deny-all' ? {} : dnsRulesetMessage(shadow) }),
  }
}

function enforcedMessage({ allowAll, allow, deny }: ResolvedRuleset) {
  return { allowAll, http: httpRules(allow).map(httpRuleMessage), httpDeny: httpRules(deny).map(httpRuleMessage) }
}

function httpRuleMessage({ name, rule }: NamedRule<HttpRule>): MessageInitShape<typeof HttpRuleSchema> {
  const { path, method, host, headers, headerMatches = [] } = rule
  return {
    name,
    ...(path === undefined ? {} : { path }),
    ...(method === undefined ? {} : { method }),
    ...(host === undefined ? {} : { host }),
    headers: headers.map((header) => ({ name: header.name, ...(header.value === undefined ? {} : { value: header.value }) })),
    headerMatches: headerMatches.map(({ name: header, value, secret, mismatch }) => ({
      name: header,
      ...(value === undefined ? {} : { value }),
      ...(secret === undefined ? {} : { secret: { namespace: secret.namespace, name: secret.name } }),
      ...(mismatch === undefined ? {} : { mismatch: actionNumber(mismatch) }),
    })),
  }
}

/** What a proxy is told that knows no more than these: less is allowed than was meant, never more. */
export function asUnderstood(message: SlotMessage, capabilities: ReadonlySet<ProxyCapability>): SlotMessage {
  const { ruleset } = message
  if (ruleset === undefined) return message
  if (message.relayed && !capabilities.has(ProxyCapability.RELAY)) return { ...message, relayed: false }
  if (!capabilities.has(ProxyCapability.HTTP_DENY) && ruleset.httpDeny.length > 0) {
    return { ...message, ruleset: create(RulesetSchema), extHostKey: '' }
  }
  if (capabilities.has(ProxyCapability.HTTP_HEADER_MATCHES) || !hasHeaderMatches(ruleset)) return message
  return { ...message, ruleset: withoutHeaderMatches(ruleset), extHostKey: '' }
}

function hasHeaderMatches({ http, httpDeny, shadow }: Ruleset): boolean {
  return [...http, ...httpDeny].some(isMatching) || (shadow !== undefined && hasHeaderMatches(shadow))
}

function isMatching({ headerMatches }: HttpRuleMessage): boolean {
  return headerMatches.length > 0
}

function withoutHeaderMatches(ruleset: Ruleset): Ruleset {
  const { http, httpDeny, shadow } = ruleset
  return {
    ...ruleset,
    http: http.filter((rule) => !isMatching(rule)),
    httpDeny: httpDeny.map((rule) => (isMatching(rule) ? { ...rule, headerMatches: [] } : rule)),
    ...(shadow === undefined ? {} : { shadow: withoutHeaderMatches(shadow) }),
  }
}

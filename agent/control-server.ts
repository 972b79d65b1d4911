/**
 * The agent's side of api/control.proto: keeps the desired slots, sends each proxy what changed since it last had everything, and
 * learns from the reports what listens and what is in force. State is a map and a log of changes; nothing is sent twice.
 */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { digestOfSlots } from '#api/digest.ts'
import {
  Control,
  Direction,
  type HttpFlow,
  type HttpRuleSchema,
  ProxyCapability,
  type ProxyReport,
  type ProxyUpdate,
  ProxyUpdateSchema,
  type RefusedRule,
  ReportFlowsSummarySchema,
  RulesetSchema,
  type Slot as SlotMessage,
  SlotSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { httpRules, type NamedRule, type ResolvedRuleset } from '#policy/resolved.ts'
import { type Slot, slotMark, upstreamMark } from './datapath/slots.ts'

/** What is known of the proxy process. */
export interface ProxyState {
  connected: boolean
  pid: number
  version: string
  envoyConnected: boolean
  envoyVersion: string
  appliedRevision: bigint
  refused: readonly RefusedRule[]
}

export interface ControlEvents {
  /** A report came, or the proxy went away. */
  onProxyReport(): void
  onFlows(flows: readonly HttpFlow[], lost: bigint): void
}

/** Removals that are remembered for deltas; a proxy that missed more gets everything. */
const REMOVALS_MAX = 4096

const LISTENING_GENERATION_BITS = 12

export class ControlServer {
  readonly epoch: bigint
  readonly proxy: ProxyState = {
    connected: false,
    pid: 0,
    version: '',
    envoyConnected: false,
    envoyVersion: '',
    appliedRevision: 0n,
    refused: [],
  }
  readonly #events: ControlEvents
  readonly #server = createServer()
  readonly #slots = new Map<number, { message: SlotMessage; revision: bigint }>()
  readonly #removals: { id: number; revision: bigint }[] = []
  readonly #streams = new Set<ProxyStream>()
  #listening = new Set<number>()
  readonly #waiters: { check: () => boolean; resolve: () => void }[] = []
  #revision: bigint
  /** Revision below which removals are forgotten. */
  #removalsSince: bigint

  constructor(epoch: bigint, firstRevision: bigint, events: ControlEvents) {
    this.epoch = epoch
    this.#revision = firstRevision
    this.#removalsSince = firstRevision
    this.#events = events
  }

  get revision(): bigint {
    return this.#revision
  }

  async listen(path: string): Promise<() => void> {
    addService(this.#server, Control, {
      syncProxy: (call) => this.#onProxy(call),
      reportFlows: (call, callback) => {
        call.on('data', (batch) => this.#events.onFlows(batch.http, batch.lost))
        call.on('end', () => callback(null, create(ReportFlowsSummarySchema)))
        // A sender that dies mid-stream is no news: its flows so far were taken.
        call.on('error', () => {})
      },
    })
    await listenOnSocket(this.#server, path, { mode: 0o660 })
    return () => closeServer(this.#server, path)
  }

  /** Changes the desired set as one revision and sends it. */
  update(changed: readonly Slot[], removed: readonly Slot[]): void {
    if (changed.length === 0 && removed.length === 0) return
    this.#revision++
    for (const slot of changed) this.#slots.set(slot.id, { message: slotMessage(slot), revision: this.#revision })
    for (const slot of removed) {
      if (!this.#slots.delete(slot.id)) continue
      this.#removals.push({ id: slot.id, revision: this.#revision })
    }
    while (this.#removals.length > REMOVALS_MAX) this.#removalsSince = this.#removals.shift()?.revision ?? this.#removalsSince
    for (const stream of this.#streams) this.#send(stream)
  }

  /** Whether Envoy has acknowledged a slot's listener. */
  isListening(id: number, generation: number): boolean {
    return this.#listening.has((id << LISTENING_GENERATION_BITS) | generation)
  }

  /** Whether the listener and the newest rules of a slot are in force. */
  isApplied(id: number, generation: number): boolean {
    const slot = this.#slots.get(id)
    return slot !== undefined && this.isListening(id, generation) && this.proxy.appliedRevision >= slot.revision
  }

  /** Resolves when the proxy has everything of now in force. */
  applied(): Promise<void> {
    const wanted = this.#revision
    return new Promise((resolve) => {
      const check = (): boolean => this.#slots.size === 0 || this.proxy.appliedRevision >= wanted
      if (check()) resolve()
      else this.#waiters.push({ check, resolve })
    })
  }

  #onProxy(call: ServerDuplexStream<ProxyReport, ProxyUpdate>): void {
    const stream: ProxyStream = { call, sentRevision: undefined, knowsDeny: false }
    const gone = (): void => {
      if (!this.#streams.delete(stream)) return
      this.proxy.connected = this.#streams.size > 0
      this.#events.onProxyReport()
    }
    call.on('data', (report: ProxyReport) => {
      const sameEpoch = report.epoch === this.epoch
      if (!this.#streams.has(stream)) {
        this.#streams.add(stream)
        // The first report says where the delta begins; what is unknown, too old or of another epoch gets everything.
        const isKnown = sameEpoch && report.appliedRevision >= this.#removalsSince && report.appliedRevision <= this.#revision
        stream.sentRevision = isKnown ? report.appliedRevision : undefined
        stream.knowsDeny = report.capabilities.includes(ProxyCapability.HTTP_DENY)
        this.#send(stream)
      }
      this.#note(report, sameEpoch)
    })
    call.on('end', () => {
      gone()
      call.end()
    })
    call.on('error', gone)
    call.on('close', gone)
  }

  #note(report: ProxyReport, sameEpoch: boolean): void {
    Object.assign(this.proxy, {
      connected: true,
      pid: report.pid,
      version: report.proxyVersion,
      envoyConnected: report.envoyConnected,
      envoyVersion: report.envoyVersion,
      appliedRevision: sameEpoch ? report.appliedRevision : 0n,
      refused: report.refused,
    })
    this.#listening = new Set(sameEpoch ? report.listening : [])
    for (const waiter of this.#waiters.splice(0)) {
      if (waiter.check()) waiter.resolve()
      else this.#waiters.push(waiter)
    }
    this.#events.onProxyReport()
  }

  #send(stream: ProxyStream): void {
    if (stream.sentRevision === this.#revision) return
    const since = stream.sentRevision
    const full = since === undefined
    const messages = [...this.#slots.values()].map(({ message, revision }) => ({
      message: stream.knowsDeny ? message : withoutDeny(message),
      revision,
    }))
    const slots = messages.filter(({ revision }) => full || revision > since).map(({ message }) => message)
    const removedSlotIds = full
      ? []
      : this.#removals.filter(({ id, revision }) => revision > since && !this.#slots.has(id)).map(({ id }) => id)
    stream.call.write(
      create(ProxyUpdateSchema, {
        epoch: this.epoch,
        revision: this.#revision,
        full,
        slots,
        removedSlotIds,
        // One that was told less by another version finds out by it, and asks for everything.
        digest: digestOfSlots(messages.map(({ message }) => message)),
      }),
    )
    stream.sentRevision = this.#revision
  }
}

interface ProxyStream {
  readonly call: ServerDuplexStream<ProxyReport, ProxyUpdate>
  /** Everything up to here was sent or is held; undefined: nothing. */
  sentRevision: bigint | undefined
  /** Enforces deny rules on layer 7. */
  knowsDeny: boolean
}

/** For a proxy that would not see its deny rules: it allows nothing then. */
function withoutDeny(message: SlotMessage): SlotMessage {
  return message.ruleset === undefined || message.ruleset.httpDeny.length === 0 ? message : { ...message, ruleset: create(RulesetSchema) }
}

function slotMessage(slot: Slot): SlotMessage {
  return create(SlotSchema, {
    id: slot.id,
    generation: slot.generation,
    direction: slot.direction === 'egress' ? Direction.EGRESS : Direction.INGRESS,
    port: slot.port,
    mark: slotMark(slot),
    upstreamMark: upstreamMark(slot.direction),
    ruleset: rulesetMessage(slot.ruleset),
  })
}

function rulesetMessage({ allowAll, allow, deny, shadow }: ResolvedRuleset): MessageInitShape<typeof RulesetSchema> {
  return {
    allowAll,
    http: httpRules(allow).map(httpRuleMessage),
    httpDeny: httpRules(deny).map(httpRuleMessage),
    // One that allows nothing says so by being there.
    ...(shadow === undefined ? {} : { shadow: shadow === 'deny-all' ? {} : rulesetMessage(shadow) }),
  }
}

function httpRuleMessage({ name, rule: { path, method, host, headers } }: NamedRule<HttpRule>): MessageInitShape<typeof HttpRuleSchema> {
  return {
    name,
    ...(path === undefined ? {} : { path }),
    ...(method === undefined ? {} : { method }),
    ...(host === undefined ? {} : { host }),
    headers: headers.map((header) => ({ name: header.name, ...(header.value === undefined ? {} : { value: header.value }) })),
  }
}

/**
 * The agent's side of api/control.proto: keeps the desired slots, sends each proxy what changed since it last had everything, and
 * learns from the reports what listens and what is in force. State is a map and a log of changes; nothing is sent twice.
 *
 * Where a slot needs a ruleset of the extension host that this does not have yet, the proxy is told a moment later, so that no request
 * is refused in between: not longer than EXT_HOST_WAIT_MS, since the change may be one that tightens.
 */
import { create } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { digestOfSlots } from '#api/digest.ts'
import {
  Control,
  type FlowBatch,
  type ProxyCapability,
  type ProxyReport,
  type ProxyUpdate,
  ProxyUpdateSchema,
  type RefusedRule,
  ReportFlowsSummarySchema,
  type Ruleset,
} from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { listeningNumber } from '#api/listening.ts'
import { CountsCollector } from './counts.ts'
import { isRelayed } from './datapath/needs-ext-host.ts'
import type { Slot } from './datapath/slots.ts'
import { DnsFeed } from './dns-feed.ts'
import { ExtHostFeed } from './ext-host-feed.ts'
import { RelayFeed } from './relay-feed.ts'
import { asUnderstood, type SlotMessages, slotMessages } from './slot-messages.ts'

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
  /** A report came of who has the listeners of slots, or one of them went away. */
  onListenersReport(): void
  onFlows(batch: FlowBatch): void
}

/** Removals that are remembered for deltas; a proxy that missed more gets everything. */
const REMOVALS_MAX = 4096

/** How long a change of slots may wait for the extension host. */
const EXT_HOST_WAIT_MS = 500

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
  readonly counts = new CountsCollector()
  readonly #events: ControlEvents
  readonly #server = createServer()
  /** Rulesets of the extension host. */
  readonly extHost: ExtHostFeed
  readonly dns: DnsFeed
  readonly relay: RelayFeed
  readonly #slots = new Map<number, SlotMessages & { revision: bigint }>()
  readonly #removals: { id: number; revision: bigint }[] = []
  readonly #streams = new Set<ProxyStream>()
  #listening = new Set<number>()
  readonly #waiters: { check: () => boolean; resolve: () => void }[] = []
  #revision: bigint
  /** Revision below which removals are forgotten. */
  #removalsSince: bigint
  /** Runs while what changed waits for the extension host. */
  #hold: NodeJS.Timeout | undefined
  /** It did not keep up, and nothing waits for it until it does. */
  #isExtHostLate = false

  constructor(epoch: bigint, firstRevision: bigint, events: ControlEvents) {
    this.epoch = epoch
    this.#revision = firstRevision
    this.#removalsSince = firstRevision
    this.#events = events
    this.extHost = new ExtHostFeed(epoch, firstRevision, () => this.#onExtHost())
    const onServers = (): void => {
      this.#wake()
      events.onListenersReport()
    }
    this.dns = new DnsFeed(epoch, firstRevision, onServers)
    this.relay = new RelayFeed(epoch, firstRevision, onServers)
  }

  get revision(): bigint {
    return this.#revision
  }

  async listen(path: string): Promise<() => void> {
    addService(this.#server, Control, {
      syncProxy: (call) => this.#onProxy(call),
      syncExtHost: (call) => this.extHost.serve(call),
      syncRelay: (call) => this.relay.serve(call),
      syncDns: (call) => this.dns.serve(call),
      reportFlows: (call, callback) => {
        call.on('data', (batch) => this.#events.onFlows(batch))
        call.on('end', () => callback(null, create(ReportFlowsSummarySchema)))
        // A sender that dies mid-stream is no news: its flows so far were taken.
        call.on('error', () => {})
      },
      reportCounts: (call) => this.counts.accept(call),
    })
    await listenOnSocket(this.#server, path, { mode: 0o660 })
    return () => {
      clearTimeout(this.#hold)
      closeServer(this.#server, path)
    }
  }

  /** Changes the desired set and sends it: to the DNS process what is about DNS, the rest to the proxy as one revision, and to the relay first what it parses. */
  update(changed: readonly Slot[], removed: readonly Slot[]): void {
    const isOfDns = ({ ruleset }: Slot): boolean => ruleset.kind === 'dns'
    const others = changed.filter((slot) => !isOfDns(slot))
    this.dns.changeSlots(
      changed.filter(isOfDns),
      // One that others have rules for now is theirs.
      [...removed, ...others].map(({ id }) => id),
    )
    const isOfRelay = ({ ruleset }: Slot): boolean => isRelayed(ruleset)
    this.relay.changeSlots(
      changed.filter(isOfRelay),
      [...removed, ...changed.filter((slot) => !isOfRelay(slot))].map(({ id }) => id),
    )
    if (this.relay.isNeeded) this.extHost.setRelayNeeded()
    this.#updateProxy(others, [...removed, ...changed.filter(isOfDns)])
  }

  #updateProxy(changed: readonly Slot[], allRemoved: readonly Slot[]): void {
    const removed = allRemoved.filter(({ id }) => this.#slots.has(id))
    if (changed.length === 0 && removed.length === 0) return
    this.#revision++
    for (const slot of changed) this.#slots.set(slot.id, { ...slotMessages(slot), revision: this.#revision })
    for (const slot of removed) {
      if (!this.#slots.delete(slot.id)) continue
      this.#removals.push({ id: slot.id, revision: this.#revision })
    }
    while (this.#removals.length > REMOVALS_MAX) this.#removalsSince = this.#removals.shift()?.revision ?? this.#removalsSince
    this.extHost.setNeeded(this.#judgedRulesets(), this.#revision)
    if (!this.extHost.isBehind || this.#isExtHostLate) this.#sendAll()
    else {
      this.#hold ??= setTimeout(() => {
        this.#isExtHostLate = true
        this.#sendAll()
      }, EXT_HOST_WAIT_MS)
    }
  }

  /** Whether a slot's listener is there. */
  isListening(id: number, generation: number): boolean {
    if (this.dns.hasSlot(id)) return this.dns.isListening(id, generation)
    return this.#listening.has(listeningNumber(id, generation)) && (!this.relay.hasSlot(id) || this.relay.isServing(id))
  }

  /** Whether the listener and the newest rules of a slot are in force. */
  isApplied(id: number, generation: number): boolean {
    if (this.dns.hasSlot(id)) return this.dns.isListening(id, generation) && this.dns.isSlotApplied(id)
    const slot = this.#slots.get(id)
    if (slot === undefined || !this.isListening(id, generation) || this.proxy.appliedRevision < slot.revision) return false
    return !this.relay.hasSlot(id) || this.relay.isSlotApplied(id)
  }

  /** Resolves when the proxy and the DNS process have everything of now in force, and the extension host what is needed of it. */
  applied(): Promise<void> {
    const wanted = this.#revision
    return new Promise((resolve) => {
      const wantedOfDns = this.dns.revision
      const wantedOfRelay = this.relay.revision
      const check = (): boolean =>
        (this.#slots.size === 0 || (this.proxy.appliedRevision >= wanted && this.extHost.isApplied)) &&
        this.dns.hasApplied(wantedOfDns) &&
        this.relay.hasApplied(wantedOfRelay)
      if (check()) resolve()
      else this.#waiters.push({ check, resolve })
    })
  }

  #judgedRulesets(): Map<string, Ruleset> {
    const rulesets = new Map<string, Ruleset>()
    for (const { slot, judged } of this.#slots.values()) if (judged !== undefined) rulesets.set(slot.extHostKey, judged)
    return rulesets
  }

  #onExtHost(): void {
    if (!this.extHost.isBehind) {
      this.#isExtHostLate = false
      if (this.#hold !== undefined) this.#sendAll()
    }
    this.#wake()
  }

  #onProxy(call: ServerDuplexStream<ProxyReport, ProxyUpdate>): void {
    const stream: ProxyStream = { call, sentRevision: undefined, capabilities: new Set() }
    const gone = (): void => {
      if (!this.#streams.delete(stream)) return
      this.proxy.connected = this.#streams.size > 0
      this.#events.onListenersReport()
    }
    call.on('data', (report: ProxyReport) => {
      const sameEpoch = report.epoch === this.epoch
      if (!this.#streams.has(stream)) {
        this.#streams.add(stream)
        // The first report says where the delta begins; what is unknown, too old or of another epoch gets everything.
        const isKnown = sameEpoch && report.appliedRevision >= this.#removalsSince && report.appliedRevision <= this.#revision
        stream.sentRevision = isKnown ? report.appliedRevision : undefined
        stream.capabilities = new Set(report.capabilities)
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
    this.extHost.onProxyApplied(this.proxy.appliedRevision)
    this.#wake()
    this.#events.onListenersReport()
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) {
      if (waiter.check()) waiter.resolve()
      else this.#waiters.push(waiter)
    }
  }

  #sendAll(): void {
    clearTimeout(this.#hold)
    this.#hold = undefined
    for (const stream of this.#streams) this.#send(stream)
  }

  #send(stream: ProxyStream): void {
    if (stream.sentRevision === this.#revision) return
    const since = stream.sentRevision
    const full = since === undefined
    const messages = [...this.#slots.values()].map(({ slot, revision }) => ({
      message: asUnderstood(slot, stream.capabilities),
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
  capabilities: ReadonlySet<ProxyCapability>
}

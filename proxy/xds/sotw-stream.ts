/**
 * The state-of-the-world variant, for clients that do not speak the incremental one. Listeners and clusters come all in one response,
 * since there absence means removal; extension configurations one by one, each after the answer to the one before, because in this
 * variant only the newest nonce of a type counts.
 */
import { createHash } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import { type DiscoveryRequest, type DiscoveryResponse, DiscoveryResponseSchema } from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { clientNode } from './client-node.ts'
import type { Resource } from './resource.ts'
import type { Snapshot } from './snapshot.ts'
import { type Delivery, type DiscoveryStream, NonceSequence, type StreamObserver } from './stream.ts'
import { Subscription } from './subscription.ts'
import { FULL_STATE_TYPES, isTypeUrl, TYPES_IN_ORDER, type TypeUrl } from './type-urls.ts'

interface TypeState {
  readonly subscription: Subscription
  /** The last response, until it is answered. */
  inFlight: { readonly nonce: string; readonly deliveries: readonly Delivery[] } | undefined
  lastNonce: string
  /** The client's subscription grew, or it has had no answer yet: it is owed one even if nothing changed. */
  owed: boolean
}

export class SotwStream implements DiscoveryStream<DiscoveryRequest> {
  readonly #seal: string
  readonly #send: (response: DiscoveryResponse) => void
  readonly #observer: StreamObserver
  readonly #types = new Map<TypeUrl, TypeState>()
  readonly #nonces = new NonceSequence()
  #snapshot: Snapshot | undefined
  #sawNode = false

  /** @param seal differs from the seal of any other stream (resource.ts) */
  constructor(seal: string, send: (response: DiscoveryResponse) => void, observer: StreamObserver) {
    this.#seal = seal
    this.#send = send
    this.#observer = observer
  }

  onRequest(request: DiscoveryRequest): void {
    if (!this.#sawNode) {
      this.#sawNode = true
      this.#observer.connected(clientNode(request.node))
    }
    const { typeUrl } = request
    if (!isTypeUrl(typeUrl)) {
      this.#observer.ignored(`unknown resource type: ${typeUrl}`)
      return
    }
    const state = this.#types.get(typeUrl) ?? { subscription: new Subscription(), inFlight: undefined, lastNonce: '', owed: true }
    if (this.#types.has(typeUrl) && request.responseNonce !== state.lastNonce) {
      this.#observer.ignored(`stale nonce: ${request.responseNonce}`)
      return
    }
    this.#types.set(typeUrl, state)
    this.#settle(state, request)
    const { added, dropped } = state.subscription.replace(request.resourceNames)
    if (added.length > 0) state.owed = true
    for (const name of dropped) this.#observer.unsubscribed(typeUrl, name)
    this.#advance(typeUrl, state)
  }

  onSnapshot(snapshot: Snapshot): void {
    const changed = snapshot.typesThatDiffer(this.#snapshot)
    this.#snapshot = snapshot
    for (const typeUrl of TYPES_IN_ORDER) {
      const state = this.#types.get(typeUrl)
      if (state !== undefined && changed.includes(typeUrl)) this.#advance(typeUrl, state)
    }
  }

  #settle(state: TypeState, request: DiscoveryRequest): void {
    const { inFlight } = state
    if (inFlight === undefined || request.responseNonce !== inFlight.nonce) return
    state.inFlight = undefined
    if (request.errorDetail === undefined) for (const delivery of inFlight.deliveries) this.#observer.acknowledged(delivery)
    else this.#observer.refused(inFlight.deliveries, request.errorDetail.message)
  }

  /** Sends what is due, unless the client has not answered yet: its answer comes back here. */
  #advance(typeUrl: TypeUrl, state: TypeState): void {
    if (this.#snapshot === undefined || state.inFlight !== undefined) return
    if (FULL_STATE_TYPES.has(typeUrl)) this.#sendAll(typeUrl, state, this.#snapshot)
    else this.#sendNext(typeUrl, state, this.#snapshot)
  }

  #sendAll(typeUrl: TypeUrl, state: TypeState, snapshot: Snapshot): void {
    const { subscription } = state
    const resources = [...snapshot.of(typeUrl).values()].filter((resource) => subscription.wants(resource.name))
    const changed = resources.filter((resource) => subscription.sent.get(resource.name) !== resource.version)
    const removed = [...subscription.sent.keys()].filter((name) => snapshot.get(typeUrl, name) === undefined)
    if (!state.owed && changed.length === 0 && removed.length === 0) return
    for (const name of removed) subscription.forgetSent(name)
    // A refusal can only be about what the client did not have yet.
    const deliveries = [
      ...changed.map(({ name, version }) => ({ typeUrl, name, version })),
      ...removed.map((name) => ({ typeUrl, name, version: undefined })),
    ]
    this.#respond(typeUrl, state, resources, deliveries)
  }

  #sendNext(typeUrl: TypeUrl, state: TypeState, snapshot: Snapshot): void {
    const { subscription } = state
    for (const name of subscription.sent.keys()) if (snapshot.get(typeUrl, name) === undefined) subscription.forgetSent(name)
    for (const resource of snapshot.of(typeUrl).values()) {
      if (!subscription.wants(resource.name) || subscription.sent.get(resource.name) === resource.version) continue
      this.#respond(typeUrl, state, [resource], [{ typeUrl, name: resource.name, version: resource.version }])
      return
    }
  }

  #respond(typeUrl: TypeUrl, state: TypeState, resources: readonly Resource[], deliveries: readonly Delivery[]): void {
    for (const { name, version } of resources) state.subscription.markSent(name, version)
    const nonce = this.#nonces.next()
    state.inFlight = { nonce, deliveries }
    state.lastNonce = nonce
    state.owed = false
    this.#send(
      create(DiscoveryResponseSchema, {
        typeUrl,
        nonce,
        versionInfo: versionOf(resources),
        resources: resources.map((resource) => resource.encode(this.#seal)),
      }),
    )
  }
}

/** One version for a set: the same set has the same one, whichever process sends it. */
function versionOf(resources: readonly Resource[]): string {
  const hash = createHash('sha256')
  for (const { name, version } of [...resources].sort((a, b) => (a.name < b.name ? -1 : 1))) hash.update(`${name}\0${version}\0`)
  return hash.digest('hex').slice(0, 32)
}

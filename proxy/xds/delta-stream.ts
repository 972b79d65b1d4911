/**
 * The incremental variant: what Envoy uses here. Each response carries one resource, because a refusal names none of the resources
 * that it is about and a response with one bad resource is applied in part; it costs a hundred bytes and buys exact attribution.
 * Removals come in one response per type: a client has no reason to refuse those.
 */
import { create } from '@bufbuild/protobuf'
import {
  type DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
  DeltaDiscoveryResponseSchema,
  ResourceSchema,
} from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { clientNode } from './client-node.ts'
import type { Resource } from './resource.ts'
import type { Snapshot } from './snapshot.ts'
import { type Delivery, type DiscoveryStream, NonceSequence, type StreamObserver } from './stream.ts'
import { ABSENT, Subscription } from './subscription.ts'
import { isTypeUrl, LISTENER_TYPE, TYPES_IN_ORDER, type TypeUrl } from './type-urls.ts'

export class DeltaStream implements DiscoveryStream<DeltaDiscoveryRequest> {
  readonly #seal: string
  readonly #send: (response: DeltaDiscoveryResponse) => void
  readonly #observer: StreamObserver
  readonly #subscriptions = new Map<TypeUrl, Subscription>()
  /** Nonce -> what that response carried, until it is acknowledged or refused. */
  readonly #inFlight = new Map<string, readonly Delivery[]>()
  /** What those responses are about. A name has one response at a time, so a client that does not read costs no more than one each. */
  readonly #busyNames = new Map<TypeUrl, Set<string>>()
  readonly #nonces = new NonceSequence()
  /** Types whose first wildcard request is still owed an answer, even an empty one: the client waits for it to go on. */
  readonly #owed = new Set<TypeUrl>()
  #snapshot: Snapshot | undefined
  #sawNode = false

  /** @param seal differs from the seal of any other stream (resource.ts) */
  constructor(seal: string, send: (response: DeltaDiscoveryResponse) => void, observer: StreamObserver) {
    this.#seal = seal
    this.#send = send
    this.#observer = observer
  }

  onRequest(request: DeltaDiscoveryRequest): void {
    if (!this.#sawNode) {
      this.#sawNode = true
      this.#observer.connected(clientNode(request.node))
    }
    const { typeUrl } = request
    if (!isTypeUrl(typeUrl)) {
      this.#observer.ignored(`unknown resource type: ${typeUrl}`)
      return
    }
    const settled = this.#settle(typeUrl, request)
    const concerned = this.#subscribe(typeUrl, request)
    if (this.#snapshot === undefined) return
    if (concerned === 'everything') this.#answer(typeUrl, this.#snapshot)
    else this.#review(typeUrl, this.#snapshot, new Set([...settled, ...concerned]))
  }

  onSnapshot(snapshot: Snapshot): void {
    const changed = snapshot.typesThatDiffer(this.#snapshot)
    this.#snapshot = snapshot
    // A removed listener frees its port for one that is added, and nothing depends on a listener: those removals go first.
    if (changed.includes(LISTENER_TYPE)) this.#sendRemovals(LISTENER_TYPE, snapshot)
    for (const typeUrl of TYPES_IN_ORDER) if (changed.includes(typeUrl)) this.#sendAdditions(typeUrl, snapshot)
    for (const typeUrl of TYPES_IN_ORDER.toReversed()) if (changed.includes(typeUrl)) this.#sendRemovals(typeUrl, snapshot)
  }

  /**
   * ACK or NACK. A nonce that is not known, stale or of another stream, settles nothing.
   * @returns the names that were waited for
   */
  #settle(typeUrl: TypeUrl, request: DeltaDiscoveryRequest): string[] {
    const { responseNonce, errorDetail } = request
    if (responseNonce === '') return []
    const deliveries = this.#inFlight.get(responseNonce)
    if (deliveries === undefined) {
      this.#observer.ignored(`nonce of no response that is in flight: ${responseNonce}`)
      return []
    }
    if (deliveries.some((delivery) => delivery.typeUrl !== typeUrl)) {
      this.#observer.ignored(`nonce of another resource type: ${responseNonce}`)
      return []
    }
    this.#inFlight.delete(responseNonce)
    for (const { name } of deliveries) this.#busy(typeUrl).delete(name)
    if (errorDetail !== undefined) this.#observer.refused(deliveries, errorDetail.message)
    else {
      const subscription = this.#subscriptions.get(typeUrl)
      for (const delivery of deliveries) {
        if (delivery.version !== undefined) subscription?.markHeld(delivery.name, delivery.version)
        this.#observer.acknowledged(delivery)
      }
    }
    return deliveries.map(({ name }) => name)
  }

  /** @returns the names that the client is owed an answer about */
  #subscribe(typeUrl: TypeUrl, request: DeltaDiscoveryRequest): 'everything' | readonly string[] {
    const { resourceNamesSubscribe, resourceNamesUnsubscribe } = request
    const known = this.#subscriptions.get(typeUrl)
    if (known === undefined) {
      const subscription = new Subscription()
      this.#subscriptions.set(typeUrl, subscription)
      subscription.begin(resourceNamesSubscribe, request.initialResourceVersions)
      if (subscription.wildcard) this.#owed.add(typeUrl)
      for (const [name, version] of subscription.sent) this.#observer.acknowledged({ typeUrl, name, version })
      return 'everything'
    }
    const hadWildcard = known.wildcard
    known.subscribe(resourceNamesSubscribe)
    if (!hadWildcard && known.wildcard) this.#owed.add(typeUrl)
    for (const name of known.unsubscribe(resourceNamesUnsubscribe)) this.#observer.unsubscribed(typeUrl, name)
    return hadWildcard === known.wildcard ? [...resourceNamesSubscribe, ...resourceNamesUnsubscribe] : 'everything'
  }

  #answer(typeUrl: TypeUrl, snapshot: Snapshot): void {
    if (typeUrl === LISTENER_TYPE) this.#sendRemovals(typeUrl, snapshot)
    this.#sendAdditions(typeUrl, snapshot)
    this.#sendRemovals(typeUrl, snapshot)
    if (this.#owed.has(typeUrl)) this.#respond(typeUrl, [], [])
  }

  #sendAdditions(typeUrl: TypeUrl, snapshot: Snapshot): void {
    const subscription = this.#subscriptions.get(typeUrl)
    if (subscription === undefined) return
    const names = subscription.wildcard ? snapshot.of(typeUrl).keys() : subscription.names
    for (const name of names) this.#sendIfNew(typeUrl, snapshot, subscription, name)
  }

  #sendRemovals(typeUrl: TypeUrl, snapshot: Snapshot): void {
    const subscription = this.#subscriptions.get(typeUrl)
    if (subscription === undefined) return
    const names = new Set([...subscription.sent.keys(), ...subscription.names])
    this.#sendRemoval(
      typeUrl,
      subscription,
      [...names].filter((name) => this.#isGone(typeUrl, snapshot, subscription, name)),
    )
  }

  /** The same for a few names. */
  #review(typeUrl: TypeUrl, snapshot: Snapshot, names: ReadonlySet<string>): void {
    const subscription = this.#subscriptions.get(typeUrl)
    if (subscription === undefined) return
    this.#sendRemoval(
      typeUrl,
      subscription,
      [...names].filter((name) => this.#isGone(typeUrl, snapshot, subscription, name)),
    )
    for (const name of names) this.#sendIfNew(typeUrl, snapshot, subscription, name)
  }

  #sendIfNew(typeUrl: TypeUrl, snapshot: Snapshot, subscription: Subscription, name: string): void {
    const resource = snapshot.get(typeUrl, name)
    if (resource === undefined || !subscription.wants(name) || subscription.sent.get(name) === resource.version) return
    if (this.#busy(typeUrl).has(name)) return
    subscription.markSent(name, resource.version)
    this.#respond(typeUrl, [resource], [])
  }

  /** The client holds it, or asked for it and has had no answer, and it is not there. */
  #isGone(typeUrl: TypeUrl, snapshot: Snapshot, subscription: Subscription, name: string): boolean {
    if (snapshot.get(typeUrl, name) !== undefined || this.#busy(typeUrl).has(name)) return false
    const sent = subscription.sent.get(name)
    return sent === undefined ? subscription.names.has(name) : sent !== ABSENT
  }

  #sendRemoval(typeUrl: TypeUrl, subscription: Subscription, names: string[]): void {
    if (names.length === 0) return
    for (const name of names) subscription.markRemoved(name)
    this.#respond(typeUrl, [], names)
  }

  #busy(typeUrl: TypeUrl): Set<string> {
    const names = this.#busyNames.get(typeUrl) ?? new Set()
    this.#busyNames.set(typeUrl, names)
    return names
  }

  #respond(typeUrl: TypeUrl, resources: readonly Resource[], removedResources: string[]): void {
    this.#owed.delete(typeUrl)
    const nonce = this.#nonces.next()
    const deliveries: Delivery[] = [
      ...resources.map(({ name, version }) => ({ typeUrl, name, version })),
      ...removedResources.map((name) => ({ typeUrl, name, version: undefined })),
    ]
    this.#inFlight.set(nonce, deliveries)
    for (const { name } of deliveries) this.#busy(typeUrl).add(name)
    this.#send(
      create(DeltaDiscoveryResponseSchema, {
        typeUrl,
        nonce,
        resources: resources.map((resource) =>
          create(ResourceSchema, { name: resource.name, version: resource.version, resource: resource.encode(this.#seal) }),
        ),
        removedResources,
      }),
    )
  }
}

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
    this.#settle(typeUrl, request)
    this.#subscribe(typeUrl, request)
    if (this.#snapshot !== undefined) this.#answer(typeUrl, this.#snapshot)
  }

  onSnapshot(snapshot: Snapshot): void {
    const changed = snapshot.typesThatDiffer(this.#snapshot)
    this.#snapshot = snapshot
    // A removed listener frees its port for one that is added, and nothing depends on a listener: those removals go first.
    if (changed.includes(LISTENER_TYPE)) this.#sendRemovals(LISTENER_TYPE, snapshot)
    for (const typeUrl of TYPES_IN_ORDER) if (changed.includes(typeUrl)) this.#sendAdditions(typeUrl, snapshot)
    for (const typeUrl of TYPES_IN_ORDER.toReversed()) if (changed.includes(typeUrl)) this.#sendRemovals(typeUrl, snapshot)
  }

  /** ACK or NACK. A nonce that is not known, stale or of another stream, settles nothing. */
  #settle(typeUrl: TypeUrl, request: DeltaDiscoveryRequest): void {
    const { responseNonce, errorDetail } = request
    if (responseNonce === '') return
    const deliveries = this.#inFlight.get(responseNonce)
    if (deliveries === undefined) {
      this.#observer.ignored(`nonce of no response that is in flight: ${responseNonce}`)
      return
    }
    if (deliveries.some((delivery) => delivery.typeUrl !== typeUrl)) {
      this.#observer.ignored(`nonce of another resource type: ${responseNonce}`)
      return
    }
    this.#inFlight.delete(responseNonce)
    if (errorDetail !== undefined) this.#observer.refused(deliveries, errorDetail.message)
    else for (const delivery of deliveries) this.#observer.acknowledged(delivery)
  }

  #subscribe(typeUrl: TypeUrl, request: DeltaDiscoveryRequest): void {
    const known = this.#subscriptions.get(typeUrl)
    if (known === undefined) {
      const subscription = new Subscription()
      this.#subscriptions.set(typeUrl, subscription)
      subscription.begin(request.resourceNamesSubscribe, request.initialResourceVersions)
      if (subscription.wildcard) this.#owed.add(typeUrl)
      for (const [name, version] of subscription.sent) this.#observer.acknowledged({ typeUrl, name, version })
      return
    }
    const hadWildcard = known.wildcard
    known.subscribe(request.resourceNamesSubscribe)
    if (!hadWildcard && known.wildcard) this.#owed.add(typeUrl)
    for (const name of known.unsubscribe(request.resourceNamesUnsubscribe)) this.#observer.unsubscribed(typeUrl, name)
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
    const resources = snapshot.of(typeUrl)
    const send = (resource: Resource | undefined) => {
      if (resource === undefined || subscription.sent.get(resource.name) === resource.version) return
      subscription.markSent(resource.name, resource.version)
      this.#respond(typeUrl, [resource], [])
    }
    if (subscription.wildcard) for (const resource of resources.values()) send(resource)
    else for (const name of subscription.names) send(resources.get(name))
  }

  #sendRemovals(typeUrl: TypeUrl, snapshot: Snapshot): void {
    const subscription = this.#subscriptions.get(typeUrl)
    if (subscription === undefined) return
    const resources = snapshot.of(typeUrl)
    const removed: string[] = []
    for (const [name, version] of subscription.sent) if (version !== ABSENT && !resources.has(name)) removed.push(name)
    // Names asked for that were never there: said once, so that the client need not wait for them.
    for (const name of subscription.names) if (!subscription.sent.has(name) && !resources.has(name)) removed.push(name)
    if (removed.length === 0) return
    for (const name of removed) subscription.markRemoved(name)
    this.#respond(typeUrl, [], removed)
  }

  #respond(typeUrl: TypeUrl, resources: readonly Resource[], removedResources: string[]): void {
    this.#owed.delete(typeUrl)
    const nonce = this.#nonces.next()
    const deliveries: Delivery[] = [
      ...resources.map(({ name, version }) => ({ typeUrl, name, version })),
      ...removedResources.map((name) => ({ typeUrl, name, version: undefined })),
    ]
    this.#inFlight.set(nonce, deliveries)
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

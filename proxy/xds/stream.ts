/**
 * What both variants of the protocol have in common: a stream belongs to one client, carries several types, and tells an observer
 * what the client took and what it refused. Streams are plain state machines over messages; server.ts joins them to gRPC.
 */
import type { Snapshot } from './snapshot.ts'
import type { TypeUrl } from './type-urls.ts'

/** The client, as its first message tells. */
export interface ClientNode {
  readonly id: string
  /** `1.40.0`, or empty. */
  readonly version: string
}

/** One resource in one version; `version` is undefined for a removal. */
export interface Delivery {
  readonly typeUrl: TypeUrl
  readonly name: string
  readonly version: string | undefined
}

export interface StreamObserver {
  connected(node: ClientNode): void
  /** The client has this in force, either because it acknowledged it or because it said so when it connected. */
  acknowledged(delivery: Delivery): void
  /** The client refused a response with these resources, or one of them; what it had before stays in force. */
  refused(deliveries: readonly Delivery[], reason: string): void
  /** The client gave up a name. */
  unsubscribed(typeUrl: TypeUrl, name: string): void
  /** The client broke the protocol in a way that has no answer. */
  ignored(reason: string): void
}

/** Server side of one discovery stream. */
export interface DiscoveryStream<Request> {
  onRequest(request: Request): void
  onSnapshot(snapshot: Snapshot): void
}

/** Messages of one stream are numbered; a nonce only has to be unique within it. */
export class NonceSequence {
  #last = 0

  next(): string {
    this.#last += 1
    return String(this.#last)
  }
}

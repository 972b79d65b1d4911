/**
 * The aggregated discovery service. It holds the current snapshot, one state machine per stream, and nothing about policy. Before it
 * is given its first snapshot it answers nobody and so removes nothing: a restarted proxy must not look like an empty one.
 */
import { randomBytes } from 'node:crypto'
import type { Server, ServerDuplexStream } from '@grpc/grpc-js'
import { AggregatedDiscoveryService } from '#api/gen/envoy/service/discovery/v3/ads_pb.js'
import type {
  DeltaDiscoveryRequest,
  DeltaDiscoveryResponse,
  DiscoveryRequest,
  DiscoveryResponse,
} from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { addService } from '#api/grpc.ts'
import { DeltaStream } from './delta-stream.ts'
import type { Snapshot } from './snapshot.ts'
import { SotwStream } from './sotw-stream.ts'
import type { ClientNode, Delivery, DiscoveryStream, StreamObserver } from './stream.ts'
import type { TypeUrl } from './type-urls.ts'

/** What the server tells of its clients. Only the newest client counts: a lock makes sure that there is no second Envoy beside it. */
export interface XdsObserver {
  connected(node: ClientNode): void
  disconnected(): void
  acknowledged(delivery: Delivery): void
  refused(deliveries: readonly Delivery[], reason: string): void
  unsubscribed(typeUrl: TypeUrl, name: string): void
  ignored(reason: string): void
}

export class XdsServer {
  readonly #observer: XdsObserver
  readonly #streams = new Set<DiscoveryStream<never>>()
  #newest: DiscoveryStream<never> | undefined
  #snapshot: Snapshot | undefined

  constructor(observer: XdsObserver) {
    this.#observer = observer
  }

  get connected(): boolean {
    return this.#newest !== undefined
  }

  /** Adds the service to a server that is not listening yet. */
  register(server: Server): void {
    addService(server, AggregatedDiscoveryService, {
      deltaAggregatedResources: (call: ServerDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>) =>
        this.#serve(call, (seal, send, observer) => new DeltaStream(seal, send, observer)),
      streamAggregatedResources: (call: ServerDuplexStream<DiscoveryRequest, DiscoveryResponse>) =>
        this.#serve(call, (seal, send, observer) => new SotwStream(seal, send, observer)),
    })
  }

  /** What every client is to have from now on. */
  setSnapshot(snapshot: Snapshot): void {
    if (snapshot === this.#snapshot) return
    this.#snapshot = snapshot
    for (const stream of this.#streams) stream.onSnapshot(snapshot)
  }

  #serve<Request, Response>(
    call: ServerDuplexStream<Request, Response>,
    createStream: (seal: string, send: (response: Response) => void, observer: StreamObserver) => DiscoveryStream<Request>,
  ): void {
    const isNewest = () => this.#newest === stream
    const stream = createStream(randomBytes(6).toString('hex'), (response) => call.write(response), {
      connected: (node) => {
        this.#newest = stream
        this.#observer.connected(node)
      },
      acknowledged: (delivery) => isNewest() && this.#observer.acknowledged(delivery),
      refused: (deliveries, reason) => isNewest() && this.#observer.refused(deliveries, reason),
      unsubscribed: (typeUrl, name) => isNewest() && this.#observer.unsubscribed(typeUrl, name),
      ignored: (reason) => this.#observer.ignored(reason),
    })
    this.#streams.add(stream)
    if (this.#snapshot !== undefined) stream.onSnapshot(this.#snapshot)

    const end = () => {
      if (!this.#streams.delete(stream) || !isNewest()) return
      this.#newest = undefined
      this.#observer.disconnected()
    }
    call.on('data', (request: Request) => stream.onRequest(request))
    call.on('end', () => {
      end()
      call.end()
    })
    call.on('cancelled', end)
    call.on('close', end)
    call.on('error', end)
  }
}

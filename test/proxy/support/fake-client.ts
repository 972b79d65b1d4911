/** A client of the discovery protocol that keeps what it is sent, as the real ones do, and breaks the rules only when told to. */
import { create } from '@bufbuild/protobuf'
import { BytesValueSchema } from '@bufbuild/protobuf/wkt'
import {
  type DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  type DeltaDiscoveryResponse,
  type DiscoveryRequest,
  DiscoveryRequestSchema,
  type DiscoveryResponse,
} from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { StatusSchema } from '#api/gen/google/rpc/status_pb.js'
import { DeltaStream } from '#proxy/xds/delta-stream.ts'
import { createSealedResource, type Resource } from '#proxy/xds/resource.ts'
import { SotwStream } from '#proxy/xds/sotw-stream.ts'
import type { Delivery, StreamObserver } from '#proxy/xds/stream.ts'
import type { TypeUrl } from '#proxy/xds/type-urls.ts'

/** A resource with any content. */
export function resource(typeUrl: TypeUrl, name: string, content = 'v1'): Resource {
  return createSealedResource(typeUrl, name, BytesValueSchema, Buffer.from(content), (seal) =>
    create(BytesValueSchema, { value: Buffer.from(`${content}${seal === '' ? '' : `|${seal}`}`) }),
  )
}

/** What a server was told by its stream. */
export class Observed implements StreamObserver {
  readonly acknowledgedList: Delivery[] = []
  readonly refusedList: { deliveries: readonly Delivery[]; reason: string }[] = []
  readonly unsubscribedNames: string[] = []
  readonly ignoredReasons: string[] = []
  connections = 0

  connected(): void {
    this.connections += 1
  }
  acknowledged(delivery: Delivery): void {
    this.acknowledgedList.push(delivery)
  }
  refused(deliveries: readonly Delivery[], reason: string): void {
    this.refusedList.push({ deliveries, reason })
  }
  unsubscribed(_typeUrl: TypeUrl, name: string): void {
    this.unsubscribedNames.push(name)
  }
  ignored(reason: string): void {
    this.ignoredReasons.push(reason)
  }
}

export class DeltaClient {
  readonly observed = new Observed()
  /** Every response since the last call of take(). */
  #responses: DeltaDiscoveryResponse[] = []
  readonly held = new Map<TypeUrl, Map<string, string>>()
  readonly stream: DeltaStream

  constructor(seal = 'seal') {
    this.stream = new DeltaStream(seal, (response) => this.#responses.push(response), this.observed)
  }

  send(typeUrl: string, request: Partial<Omit<DeltaDiscoveryRequest, '$typeName' | 'typeUrl'>> = {}): DeltaDiscoveryResponse[] {
    this.stream.onRequest(create(DeltaDiscoveryRequestSchema, { ...request, typeUrl }))
    return this.take()
  }

  take(): DeltaDiscoveryResponse[] {
    const responses = this.#responses
    this.#responses = []
    for (const response of responses) {
      const held = this.held.get(response.typeUrl as TypeUrl) ?? new Map<string, string>()
      this.held.set(response.typeUrl as TypeUrl, held)
      for (const { name, version } of response.resources) held.set(name, version)
      for (const name of response.removedResources) held.delete(name)
    }
    return responses
  }

  acknowledge(response: DeltaDiscoveryResponse): DeltaDiscoveryResponse[] {
    return this.send(response.typeUrl, { responseNonce: response.nonce })
  }

  refuse(response: DeltaDiscoveryResponse, message = 'no'): DeltaDiscoveryResponse[] {
    return this.send(response.typeUrl, { responseNonce: response.nonce, errorDetail: create(StatusSchema, { code: 3, message }) })
  }
}

export class SotwClient {
  readonly observed = new Observed()
  #responses: DiscoveryResponse[] = []
  readonly stream: SotwStream

  constructor() {
    this.stream = new SotwStream('seal', (response) => this.#responses.push(response), this.observed)
  }

  send(typeUrl: string, request: Partial<Omit<DiscoveryRequest, '$typeName' | 'typeUrl'>> = {}): DiscoveryResponse[] {
    this.stream.onRequest(create(DiscoveryRequestSchema, { ...request, typeUrl }))
    return this.take()
  }

  take(): DiscoveryResponse[] {
    const responses = this.#responses
    this.#responses = []
    return responses
  }

  acknowledge(response: DiscoveryResponse, resourceNames: string[] = []): DiscoveryResponse[] {
    return this.send(response.typeUrl, { responseNonce: response.nonce, versionInfo: response.versionInfo, resourceNames })
  }

  refuse(response: DiscoveryResponse, resourceNames: string[] = [], message = 'no'): DiscoveryResponse[] {
    const errorDetail = create(StatusSchema, { code: 3, message })
    return this.send(response.typeUrl, { responseNonce: response.nonce, resourceNames, errorDetail })
  }
}

/** Answers everything until the server has nothing more to say. @returns what it said, in order */
export function settle(client: DeltaClient, first: readonly DeltaDiscoveryResponse[] = client.take()): DeltaDiscoveryResponse[] {
  const all: DeltaDiscoveryResponse[] = []
  for (const queue = [...first]; queue.length > 0; ) {
    const response = queue.shift()!
    all.push(response)
    queue.push(...client.acknowledge(response))
  }
  return all
}

/** Names in a delta response: `a`, or `-a` when it is removed. */
export function namesIn(responses: readonly DeltaDiscoveryResponse[]): string[] {
  return responses.flatMap((response) => [
    ...response.resources.map(({ name }) => name),
    ...response.removedResources.map((name) => `-${name}`),
  ])
}

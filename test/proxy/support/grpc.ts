/** A gRPC service of plain bytes with all four kinds of call, and its client: @grpc/grpc-js on both sides. */
import { EventEmitter, once } from 'node:events'
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  credentials,
  type Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServiceError,
  type StatusObject,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'

export const KINDS = ['Unary', 'ClientStream', 'ServerStream', 'Bidi'] as const
export type Kind = (typeof KINDS)[number]

const same = (value: Buffer) => value
const path = (kind: Kind) => `/test.Bytes/${kind}`

function definitionOf(kind: Kind): MethodDefinition<Buffer, Buffer> {
  return {
    path: path(kind),
    requestStream: kind === 'ClientStream' || kind === 'Bidi',
    responseStream: kind === 'ServerStream' || kind === 'Bidi',
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  }
}

export const DEFINITIONS = Object.fromEntries(KINDS.map((kind) => [kind, definitionOf(kind)])) as Record<
  Kind,
  MethodDefinition<Buffer, Buffer>
>

export async function serveGrpc(port: number, implementation: UntypedServiceImplementation): Promise<Server> {
  const server = new Server({ 'grpc.max_receive_message_length': -1 })
  server.addService(DEFINITIONS, implementation)
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error)))
  })
  return server
}

/** What a call came to. */
export interface Outcome {
  readonly code: number
  readonly details: string
  readonly messages: readonly string[]
  readonly headers: Metadata | undefined
  readonly trailers: Metadata | undefined
}

type Call = ClientUnaryCall | ClientWritableStream<Buffer> | ClientReadableStream<Buffer> | ClientDuplexStream<Buffer, Buffer>

/** Every call of it takes messages and gives what came of it: a status other than OK is no exception here. */
export class GrpcClient {
  readonly client: Client

  constructor(port: number) {
    // A channel of its own: the connection is part of what is tested.
    this.client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.max_receive_message_length': -1,
    })
  }

  async call(
    kind: Kind,
    messages: readonly (string | Buffer)[],
    metadata: Metadata,
    options: { deadline?: number } = {},
  ): Promise<Outcome> {
    const { requestStream, responseStream, requestSerialize, responseDeserialize } = DEFINITIONS[kind]
    const args = [path(kind), requestSerialize, responseDeserialize] as const
    const buffers = messages.map((message) => Buffer.from(message))
    const received: Buffer[] = []
    const ended = new EventEmitter()
    const done = (error: ServiceError | null, value?: Buffer) => {
      if (error === null && value !== undefined) received.push(value)
      ended.emit('reply')
    }
    let call: Call
    if (requestStream && responseStream) call = this.client.makeBidiStreamRequest(...args, metadata, options)
    else if (requestStream) call = this.client.makeClientStreamRequest(...args, metadata, options, done)
    else if (responseStream) call = this.client.makeServerStreamRequest(...args, buffers[0]!, metadata, options)
    else call = this.client.makeUnaryRequest(...args, buffers[0]!, metadata, options, done)
    const emitter: EventEmitter = call
    let headers: Metadata | undefined
    emitter.on('metadata', (value: Metadata) => {
      headers = value
    })
    // The status says the same.
    emitter.on('error', () => {})
    const status = new Promise<StatusObject>((resolve) => emitter.on('status', resolve))
    const reply = responseStream ? undefined : once(ended, 'reply')
    if (responseStream) (call as ClientReadableStream<Buffer>).on('data', (message: Buffer) => received.push(message))
    if (requestStream) {
      const stream = call as ClientWritableStream<Buffer>
      for (const buffer of buffers) stream.write(buffer)
      stream.end()
    }
    const { code, details, metadata: trailers } = await status
    await reply
    return { code, details, messages: received.map(String), headers, trailers }
  }

  close(): void {
    this.client.close()
  }
}

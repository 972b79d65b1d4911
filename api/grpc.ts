/**
 * gRPC between the processes of one node: the thin seam between protobuf-es, which knows the messages, and grpc-js, which carries them.
 * Everything speaks over UNIX sockets; who may connect is decided by the file's mode, so there are no credentials here.
 */
import { type DescMessage, type DescMethod, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf'
import type { GenService, GenServiceMethods } from '@bufbuild/protobuf/codegenv2'
import {
  type ChannelOptions,
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  credentials,
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type ServiceError,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { inodeOf, listenAtPath, removeSocket, type SocketOptions } from './socket-path.ts'

type AnyMethod = GenServiceMethods[string]
type Input<M extends AnyMethod> = MessageShape<M['input']>
type Output<M extends AnyMethod> = MessageShape<M['output']>

type Handler<M extends AnyMethod> = {
  unary: handleUnaryCall<Input<M>, Output<M>>
  server_streaming: handleServerStreamingCall<Input<M>, Output<M>>
  client_streaming: handleClientStreamingCall<Input<M>, Output<M>>
  bidi_streaming: handleBidiStreamingCall<Input<M>, Output<M>>
}[M['methodKind']]

/** One function per method of a service, by the method's name in lower camel case. */
export type ServiceHandlers<S extends GenServiceMethods> = { readonly [K in keyof S]: Handler<S[K]> }

type Callback<T> = (error: ServiceError | null, value?: T) => void

type ClientMethod<M extends AnyMethod> = {
  unary: (request: Input<M>, callback: Callback<Output<M>>) => ClientUnaryCall
  server_streaming: (request: Input<M>) => ClientReadableStream<Output<M>>
  client_streaming: (callback: Callback<Output<M>>) => ClientWritableStream<Input<M>>
  bidi_streaming: () => ClientDuplexStream<Input<M>, Output<M>>
}[M['methodKind']]

/** The calls of a service, and `close`. A call made while the server is away waits for it. */
export type ServiceClient<S extends GenServiceMethods> = { readonly [K in keyof S]: ClientMethod<S[K]> } & { close(): void }

/** Largest message that any local service sends or takes, in bytes: a full set of slots at its largest. */
export const MESSAGE_BYTES_MAX = 64 * 1024 * 1024

const LIMITS: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
}

/** The part of a method that grpc-js needs. */
export function methodDefinition<I extends DescMessage, O extends DescMessage>(
  method: Pick<DescMethod, 'name' | 'methodKind' | 'parent'> & { readonly input: I; readonly output: O },
): MethodDefinition<MessageShape<I>, MessageShape<O>> {
  const { input, output, methodKind } = method
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: methodKind === 'client_streaming' || methodKind === 'bidi_streaming',
    responseStream: methodKind === 'server_streaming' || methodKind === 'bidi_streaming',
    requestSerialize: (message) => asBuffer(toBinary(input, message)),
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => asBuffer(toBinary(output, message)),
    responseDeserialize: (bytes) => fromBinary(output, bytes),
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** A server with this project's limits, not listening yet. */
export function createServer(): Server {
  return new Server(LIMITS)
}

/** Adds a service to a server. A method without a handler is answered with UNIMPLEMENTED. */
export function addService<S extends GenServiceMethods>(
  server: Server,
  service: GenService<S>,
  handlers: Partial<ServiceHandlers<S>>,
): void {
  const definition: Record<string, MethodDefinition<unknown, unknown>> = {}
  for (const [name, method] of Object.entries<DescMethod>(service.method)) {
    definition[name] = methodDefinition(method) as MethodDefinition<unknown, unknown>
  }
  server.addService(definition as ServiceDefinition, handlers as unknown as UntypedServiceImplementation)
}

/** Lets a server listen on a UNIX socket. @throws ApiError when a living process answers on the path */
export async function listenOnSocket(server: Server, path: string, options: SocketOptions): Promise<void> {
  await listenAtPath(path, options, (temporary) => bind(server, temporary))
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve()))
  })
}

/** Ends a server with all its calls and removes its socket, unless somebody else's has taken the path meanwhile. */
export function closeServer(server: Server, path: string, inode = inodeOf(path)): void {
  server.forceShutdown()
  removeSocket(path, inode)
}

/** Backoff of a channel whose server is away: these processes are neighbours, so asking often is cheap. */
export const RECONNECT_MS_MIN = 50
export const RECONNECT_MS_MAX = 500

/** A client of one service on a UNIX socket. It connects when first used, and again whenever the server went away. */
export function createClient<S extends GenServiceMethods>(service: GenService<S>, socketPath: string): ServiceClient<S> {
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), {
    ...LIMITS,
    'grpc.initial_reconnect_backoff_ms': RECONNECT_MS_MIN,
    'grpc.min_reconnect_backoff_ms': RECONNECT_MS_MIN,
    'grpc.max_reconnect_backoff_ms': RECONNECT_MS_MAX,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_http_proxy': 0,
    'grpc.service_config_disable_resolution': 1,
  })
  const calls: Record<string, unknown> = { close: () => client.close() }
  for (const [name, method] of Object.entries<DescMethod>(service.method)) {
    calls[name] = clientMethod(client, methodDefinition(method), method.methodKind)
  }
  return calls as ServiceClient<S>
}

// biome-ignore lint/suspicious/noExplicitAny: the message types are put back by ServiceClient
type Any = any

function clientMethod(client: Client, method: MethodDefinition<Any, Any>, kind: DescMethod['methodKind']): unknown {
  const { path, requestSerialize, responseDeserialize } = method
  switch (kind) {
    case 'unary':
      return (request: unknown, callback: Callback<unknown>) =>
        client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, waiting(), callback)
    case 'server_streaming':
      return (request: unknown) => client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, waiting())
    case 'client_streaming':
      return (callback: Callback<unknown>) =>
        client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, waiting(), callback)
    case 'bidi_streaming':
      return () => client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, waiting())
  }
}

function waiting(): Metadata {
  return new Metadata({ waitForReady: true })
}

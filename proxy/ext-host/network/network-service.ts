/**
 * Envoy's network ext_proc: one stream a connection, on which its bytes come, both ways, and what becomes of them goes. For Envoys that cannot
 * hand connections over to the relay. Envoy names slot and addresses when it opens the stream; it has connected to the server by then.
 *
 * What has to be so, for otherwise bytes are lost, or pass unseen, or connections are kept for ever:
 * - A stream is not ended while its connection lasts, and never with OK: what comes then goes on unseen.
 * - Every message is answered once, with bytes or, where they are held back, with none: Envoy counts them, and takes a message without an answer
 *   for one that is on its way, and a connection that has none on its way for one that may close.
 * - An answer is about one direction, and the end of the connection comes in an answer of its own.
 * - The end of a direction is answered with its end.
 * - When both directions have ended the stream is: answers of the parser's own are more than Envoy has counted, and it would wait.
 * - Envoy closes through its filters (CLOSE_THROUGH_FILTERS in proxy/envoy/bootstrap.ts): what a server says before it closes is lost otherwise.
 */
import { isIP } from 'node:net'
import { STREAM_DIRECTIONS, type StreamDirection } from '#parsers/contract.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { DESTINATION_METADATA, SLOT_METADATA, SOURCE_METADATA } from '../contract.ts'
import { GRPC_STATUS, type GrpcCall, type GrpcHandler, type GrpcMethod } from '../grpc/grpc-framing.ts'
import { MessageError } from '../grpc/protobuf-cursor.ts'
import type { DriverSink, StreamDriver } from '../parsing/driver.ts'
import type { ConnectionEnds, OpenedConnection, ParserHost } from '../parsing/parser-host.ts'
import { decodeStreamData, encodeClose, encodeStreamData } from './network-messages.ts'

export const NETWORK_PROCESS_PATH = '/envoy.service.network_ext_proc.v3.NetworkExternalProcessor/Process'

/** What Envoy read of a connection at once, which its buffers limit to 1 MiB, and the message around it. */
const MESSAGE_BYTES_MAX = 4 << 20

export function networkService(host: ParserHost): GrpcMethod {
  return {
    path: NETWORK_PROCESS_PATH,
    messageBytesMax: MESSAGE_BYTES_MAX,
    isLongLived: true,
    open: (call) => new NetworkProcessing(call, host),
  }
}

/** What is to be said of one direction. */
interface Outgoing {
  /** Messages that it answers. */
  messages: number
  readonly parts: Uint8Array[]
  endOfStream: boolean
}

class NetworkProcessing implements GrpcHandler, DriverSink {
  readonly #call: GrpcCall
  readonly #opened: OpenedConnection | undefined
  readonly #driver: StreamDriver | undefined
  /** What messages lead to, which is said when they have been read and the parser is done with them. */
  readonly #outgoing = new Map<StreamDirection, Outgoing>()
  readonly #ended = new Set<StreamDirection>()
  #isClosed = false

  constructor(call: GrpcCall, host: ParserHost) {
    this.#call = call
    const ends = endsOf(call)
    if (ends === undefined) host.refuse('a stream without addresses')
    else this.#opened = host.open(call.metadata(SLOT_METADATA) ?? '', ends, () => this.#end())
    if (this.#opened === undefined) call.fail(GRPC_STATUS.unavailable, 'no such connection')
    this.#driver = this.#opened?.drive(this)
  }

  onMessage(message: Buffer): void {
    if (this.#isClosed || this.#driver === undefined) return
    try {
      const { direction, data, endOfStream } = decodeStreamData(message)
      this.#of(direction).messages++
      if (data.length > 0) this.#driver.push(direction, data)
      if (endOfStream) this.#driver.pushEnd(direction)
      if (!this.#driver.isBusy) this.#flush()
    } catch (error) {
      if (!(error instanceof MessageError)) throw error
      this.#call.fail(GRPC_STATUS.invalidArgument, error.message)
    }
  }

  onClosed(): void {
    this.#isClosed = true
    this.#driver?.dispose()
    this.#opened?.release()
  }

  /** The driver's sink. */
  write(direction: StreamDirection, data: Uint8Array): void {
    this.#say(direction, data)
  }

  /** The driver's sink. */
  end(direction: StreamDirection): void {
    this.#say(direction)
  }

  /** The driver's sink. */
  close(reason: string): void {
    this.#opened?.fail(reason)
    this.#end()
  }

  /** The driver's sink. Nothing was stopped: Envoy sends whatever comes. */
  goOn(): void {
    this.#flush()
  }

  #end(): void {
    if (this.#isClosed) return
    this.#flush()
    this.#isClosed = true
    this.#driver?.dispose()
    this.#call.send(encodeClose())
  }

  /** @param data absent: nothing more comes in this direction */
  #say(direction: StreamDirection, data?: Uint8Array): void {
    if (this.#isClosed) return
    const outgoing = this.#of(direction)
    if (data === undefined) outgoing.endOfStream = true
    else outgoing.parts.push(data)
  }

  #of(direction: StreamDirection): Outgoing {
    let outgoing = this.#outgoing.get(direction)
    if (outgoing === undefined) {
      outgoing = { messages: 0, parts: [], endOfStream: false }
      this.#outgoing.set(direction, outgoing)
    }
    return outgoing
  }

  #flush(): void {
    if (this.#isClosed) return
    for (const [direction, { messages, parts, endOfStream }] of this.#outgoing) {
      if (endOfStream) this.#ended.add(direction)
      // What has something in it comes last: behind the last answer the connection may close.
      for (let count = 1; count < messages; count++) this.#call.send(encodeStreamData(direction, [], false))
      this.#call.send(encodeStreamData(direction, parts, endOfStream))
    }
    this.#outgoing.clear()
    if (this.#ended.size === STREAM_DIRECTIONS.length) this.#call.fail(GRPC_STATUS.unavailable, 'the connection has ended')
  }
}

function endsOf(call: GrpcCall): ConnectionEnds | undefined {
  const source = parseEnd(call.metadata(SOURCE_METADATA))
  const destination = parseEnd(call.metadata(DESTINATION_METADATA))
  if (source === undefined || destination === undefined) return undefined
  return { source: source.address, sourcePort: source.port, destination: destination.address, destinationPort: destination.port }
}

/** An address and a port as Envoy writes them, `10.0.0.1:80` or `[fd00::1]:80`. */
function parseEnd(text = ''): { readonly address: Uint8Array; readonly port: number } | undefined {
  const [, ipv6, ipv4, port] = /^(?:\[([0-9a-f:.]{2,45})\]|([0-9.]{7,15})):(\d{1,5})$/.exec(text) ?? []
  const address = ipv6 ?? ipv4
  if (address === undefined || !isIP(address)) return undefined
  return { address: addressToBytes(address), port: Number(port) }
}

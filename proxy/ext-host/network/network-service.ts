/**
 * Envoy's network ext_proc: one stream a connection, on which its bytes come, both ways, and what becomes of them goes. For Envoys that cannot
 * hand connections over to the relay. Envoy names slot and addresses when it opens the stream; it has connected to the server by then.
 *
 * What has to be so (each of these loses bytes, or lets them pass unseen, or keeps connections open otherwise): a stream is never ended while its
 * connection lasts; every message is answered at once, with bytes or, where they are held back, with none; an answer is about one direction; data
 * and the connection's end do not come in one answer; the end of a direction is answered with its end.
 */
import { isIP } from 'node:net'
import type { StreamDirection } from '#parsers/contract.ts'
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
const EMPTY = new Uint8Array()

export function networkService(host: ParserHost): GrpcMethod {
  return {
    path: NETWORK_PROCESS_PATH,
    messageBytesMax: MESSAGE_BYTES_MAX,
    isLongLived: true,
    open: (call) => new NetworkProcessing(call, host),
  }
}

class NetworkProcessing implements GrpcHandler, DriverSink {
  readonly #call: GrpcCall
  readonly #opened: OpenedConnection | undefined
  readonly #driver: StreamDriver | undefined
  /** Directions that something was said of since the last message came. */
  readonly #answered = new Set<StreamDirection>()
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
      this.#answered.clear()
      if (data.length > 0) this.#driver.push(direction, data)
      if (endOfStream) this.#driver.pushEnd(direction)
      if (!this.#isClosed && !this.#answered.has(direction)) this.#send(direction, EMPTY, false)
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
    this.#send(direction, data, false)
  }

  /** The driver's sink. */
  end(direction: StreamDirection): void {
    this.#send(direction, EMPTY, true)
  }

  /** The driver's sink. */
  close(reason: string): void {
    this.#opened?.fail(reason)
    this.#end()
  }

  /** The driver's sink. Nothing was stopped: Envoy sends whatever comes. */
  goOn(): void {}

  #end(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#driver?.dispose()
    this.#call.send(encodeClose())
  }

  #send(direction: StreamDirection, data: Uint8Array, endOfStream: boolean): void {
    this.#answered.add(direction)
    this.#call.send(encodeStreamData(direction, data, endOfStream))
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

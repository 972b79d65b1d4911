/**
 * envoy.service.network_ext_proc.v3, on bytes: it carries what a connection carries. Field numbers are those of
 * network_external_processor.proto.
 *
 *   ProcessingRequest   { read_data = 1: Data, write_data = 2: Data, metadata = 3, attributes = 4 }
 *   ProcessingResponse  { read_data = 1: Data, write_data = 2: Data, data_processing_status = 3, connection_status = 4, … }
 *   Data                { data = 1: bytes, end_of_stream = 2: bool }
 */
import type { StreamDirection } from '#parsers/contract.ts'
import { frameMessage, PREFIX_LENGTH } from '../grpc/grpc-framing.ts'
import { LENGTH_DELIMITED, MessageError, ProtobufCursor, VARINT } from '../grpc/protobuf-cursor.ts'

export interface StreamData {
  readonly direction: StreamDirection
  /** A view of the message. */
  readonly data: Buffer
  readonly endOfStream: boolean
}

const READ_DATA = 1
const WRITE_DATA = 2
const DATA = 1
const END_OF_STREAM = 2
/** data_processing_status MODIFIED: what the message holds goes on, and not what Envoy sent. */
const MODIFIED = Buffer.from([(3 << 3) | VARINT, 2])
const ENDS = Buffer.from([(END_OF_STREAM << 3) | VARINT, 1])
/** connection_status CLOSE. */
const CLOSE = frameMessage(Buffer.from([(4 << 3) | VARINT, 1]))

/** Bytes of one direction in a ProcessingRequest. @throws MessageError */
export function decodeStreamData(message: Buffer): StreamData {
  const cursor = new ProtobufCursor(message)
  let found: StreamData | undefined
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    const field = tag >>> 3
    if (field !== READ_DATA && field !== WRITE_DATA) {
      cursor.skip(tag)
      continue
    }
    if (found !== undefined) throw new MessageError('data comes twice')
    const direction = field === READ_DATA ? 'original' : 'reply'
    found = { direction, ...cursor.message(tag, decodeData) }
  }
  if (found === undefined) throw new MessageError('no data')
  return found
}

function decodeData(cursor: ProtobufCursor): { readonly data: Buffer; readonly endOfStream: boolean } {
  let data: Buffer = Buffer.alloc(0)
  let endOfStream = false
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    if (tag >>> 3 === DATA) data = cursor.bytes(tag)
    else if (tag >>> 3 === END_OF_STREAM && (tag & 7) === VARINT) endOfStream = cursor.varint() !== 0
    else cursor.skip(tag)
  }
  return { data, endOfStream }
}

/** A ProcessingResponse, framed: in place of what Envoy sent, these go on. None: what it sent is held back. */
export function encodeStreamData(direction: StreamDirection, parts: readonly Uint8Array[], endOfStream: boolean): Buffer {
  const end = endOfStream ? ENDS.length : 0
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  const dataBytes = length === 0 ? 0 : 1 + varintBytes(length) + length
  const bodyBytes = dataBytes + end
  const messageBytes = 1 + varintBytes(bodyBytes) + bodyBytes + MODIFIED.length
  const frame = Buffer.allocUnsafe(PREFIX_LENGTH + messageBytes)
  frame[0] = 0
  frame.writeUInt32BE(messageBytes, 1)
  let offset = PREFIX_LENGTH
  frame[offset++] = ((direction === 'original' ? READ_DATA : WRITE_DATA) << 3) | LENGTH_DELIMITED
  offset = writeVarint(frame, offset, bodyBytes)
  if (length > 0) {
    frame[offset++] = (DATA << 3) | LENGTH_DELIMITED
    offset = writeVarint(frame, offset, length)
    for (const part of parts) {
      frame.set(part, offset)
      offset += part.length
    }
  }
  if (endOfStream) {
    frame.set(ENDS, offset)
    offset += ENDS.length
  }
  frame.set(MODIFIED, offset)
  return frame
}

/** A ProcessingResponse, framed: the connection ends, with what was sent before. Data in such a message would be lost. */
export function encodeClose(): Buffer {
  return CLOSE
}

function varintBytes(value: number): number {
  let bytes = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes++
  return bytes
}

function writeVarint(target: Buffer, offset: number, value: number): number {
  let rest = value
  let at = offset
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) target[at++] = (rest % 0x80) | 0x80
  target[at++] = rest
  return at
}

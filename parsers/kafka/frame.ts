/**
 * Frames of Kafka's protocol and the header that every request begins with. Source: kafka.apache.org, protocol; RequestHeader.json of Kafka:
 * up to version 2 the client id is a nullable string, whatever the body is like.
 */

import { IncompleteError, KafkaParseError } from './errors.ts'

/** Frames of brokers are limited by socket.request.max.bytes, 100 MiB unless they say otherwise; longer ones are no Kafka. */
const FRAME_BYTES_MAX = 512 << 20
export const SIZE_BYTES = 4
/** Kind, version and correlation id. */
const FIXED_BYTES = 8
const CLIENT_ID_LENGTH_BYTES = 2

export interface RequestHeader {
  readonly apiKey: number
  readonly apiVersion: number
  readonly correlationId: number
  /** Undefined when there is none. */
  readonly clientId: string | undefined
  /** Of the frame, where what comes after the client id begins. */
  readonly bodyOffset: number
}

/** @param frame begins with its size @returns the size, without itself @throws KafkaParseError */
export function decodeSize(frame: Buffer): number {
  const size = frame.readInt32BE(0)
  if (size < FIXED_BYTES / 2 || size > FRAME_BYTES_MAX) throw new KafkaParseError(`a frame of ${size} bytes`)
  return size
}

/**
 * @param frame begins with its size @param frameBytes its whole length
 * @throws IncompleteError, KafkaParseError
 */
export function decodeRequestHeader(frame: Buffer, frameBytes: number): RequestHeader {
  const fixed = SIZE_BYTES + FIXED_BYTES + CLIENT_ID_LENGTH_BYTES
  if (frameBytes < fixed) throw new KafkaParseError(`a request of ${frameBytes} bytes`)
  if (frame.length < fixed) throw new IncompleteError(fixed)
  const clientIdLength = frame.readInt16BE(SIZE_BYTES + FIXED_BYTES)
  if (clientIdLength < -1) throw new KafkaParseError(`a client id of ${clientIdLength} bytes`)
  const bodyOffset = fixed + Math.max(0, clientIdLength)
  if (bodyOffset > frameBytes) throw new KafkaParseError(`a client id of ${clientIdLength} bytes in a request of ${frameBytes}`)
  if (frame.length < bodyOffset) throw new IncompleteError(bodyOffset)
  return {
    apiKey: frame.readInt16BE(SIZE_BYTES),
    apiVersion: frame.readInt16BE(SIZE_BYTES + 2),
    correlationId: frame.readInt32BE(SIZE_BYTES + 4),
    clientId: clientIdLength < 0 ? undefined : frame.toString('utf8', fixed, bodyOffset),
    bodyOffset,
  }
}

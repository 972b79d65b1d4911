/**
 * Authentication by SaslHandshake of version 0, after which a client sends tokens that are frames without a header, until its mechanism is
 * through (KIP-43; since KIP-152 tokens are requests). How many there are has to be known beforehand: what comes behind the last one are requests, and
 * none of those may pass as a token.
 */
import { IncompleteError, KafkaParseError } from './errors.ts'
import { SIZE_BYTES } from './frame.ts'

/** What a client sends: RFC 4616, RFC 5802 (first and final message), RFC 7628. */
const TOKENS: ReadonlyMap<string, number> = new Map([
  ['PLAIN', 1],
  ['SCRAM-SHA-256', 2],
  ['SCRAM-SHA-512', 2],
  ['OAUTHBEARER', 1],
])
/** What brokers take (sasl.server.max.receive.size). */
const TOKEN_BYTES_MAX = 512 << 10
const HANDSHAKE_WITH_TOKENS = 0

export function isFollowedByTokens(version: number): boolean {
  return version === HANDSHAKE_WITH_TOKENS
}

/** @returns how many the client sends @throws KafkaParseError for a mechanism of which that is not known */
export function tokensOf(mechanism: string): number {
  const count = TOKENS.get(mechanism)
  if (count === undefined) throw new KafkaParseError('a handshake of version 0 for a mechanism whose tokens cannot be counted')
  return count
}

/** @param frame begins with its size @returns the length of the whole frame @throws KafkaParseError, IncompleteError */
export function tokenFrameBytes(frame: Buffer): number {
  if (frame.length < SIZE_BYTES) throw new IncompleteError(SIZE_BYTES)
  const size = frame.readInt32BE(0)
  if (size < 0 || size > TOKEN_BYTES_MAX) throw new KafkaParseError(`a token of ${size} bytes`)
  return SIZE_BYTES + size
}

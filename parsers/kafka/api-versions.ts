/**
 * ApiVersions, by which clients learn what a broker can do: they are offered what this parser knows too. A client would use what is beyond that, and
 * what has no layout here passes under no rule that asks what is in it.
 */
import { API_KEYS } from './api-keys.ts'
import { decodeMessage, isArray, isStruct } from './decode.ts'
import { encodeResponse, responseHeadBytes } from './denial.ts'
import { SIZE_BYTES } from './frame.ts'
import { replaceItems } from './rewrite.ts'
import { type MessagePlan, planOf, versionsOf } from './schema.ts'

const LIST = 'apiKeys'
/** Of an entry: key, lowest and highest version. */
const HIGHEST_OFFSET = 4
const ERROR_OFFSET = SIZE_BYTES + 4
const UNSUPPORTED_VERSION = 35

/**
 * What a broker answers that does not know the version of the request: in the layout of version 0, with the versions that it knows of ApiVersions
 * alone, upon which the client asks again (KIP-511).
 */
export function encodeUnsupportedApiVersions(correlationId: number): Buffer {
  const { first = 0, last = 0 } = versionsOf(API_KEYS.API_VERSIONS) ?? {}
  const apiKeys = [{ apiKey: API_KEYS.API_VERSIONS, minVersion: first, maxVersion: last }]
  return encodeResponse(planOf('response', API_KEYS.API_VERSIONS, 0) as MessagePlan, correlationId, {
    errorCode: UNSUPPORTED_VERSION,
    apiKeys,
  })
}

/**
 * @param frame the whole answer @param version of the request, which is known
 * @returns the frame itself where nothing is to be changed @throws KafkaParseError
 */
export function filterApiVersions(frame: Buffer, version: number): Buffer {
  const isOlder = frame.length >= ERROR_OFFSET + 2 && frame.readInt16BE(ERROR_OFFSET) === UNSUPPORTED_VERSION
  const plan = planOf('response', API_KEYS.API_VERSIONS, isOlder ? 0 : version) as MessagePlan
  const message = decodeMessage(frame, SIZE_BYTES + responseHeadBytes(plan), plan)
  const list = message.values[LIST]
  if (!isArray(list)) return frame
  let narrowed = frame
  const kept = list.items.filter(isStruct).filter(({ start, values: { apiKey, minVersion, maxVersion } }) => {
    const known = versionsOf(Number(apiKey))
    if (known === undefined || Number(minVersion) > known.last) return false
    if (Number(maxVersion) > known.last) {
      if (narrowed === frame) narrowed = Buffer.from(frame)
      narrowed.writeInt16BE(known.last, start + HIGHEST_OFFSET)
    }
    return true
  })
  return kept.length === list.items.length ? narrowed : replaceItems(narrowed, list, kept, [], plan.isFlexible)
}

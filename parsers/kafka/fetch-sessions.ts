/**
 * Sessions of fetches (KIP-227, KIP-932): topics are named when a session begins, and later only when they change. A session goes on only under the
 * rules that it began under, and on the connection on which it began; any other one is refused as a broker refuses one that it has forgotten,
 * upon which clients name all of their topics again.
 */
import { API_KEYS } from './api-keys.ts'
import type { KafkaStruct } from './decode.ts'
import { responseHeadBytes } from './denial.ts'
import { SIZE_BYTES } from './frame.ts'
import { type MessagePlan, planOf } from './schema.ts'

const FETCH_WITH_SESSIONS = 7
const FETCH_SESSION_ID_NOT_FOUND = 70
const SHARE_SESSION_NOT_FOUND = 122
/** Of one connection; clients have one. */
const SESSIONS_MAX = 64
/** Of a response to a fetch: throttle time, error, session. */
const ERROR_OFFSET = 4
const SESSION_OFFSET = 6
const SESSION_BYTES = 10

/** What a request makes of a session. */
export interface SessionUse {
  /** Undefined where only the answer tells it. */
  readonly key: string | undefined
  readonly isNew: boolean
  /** What it is refused with when it is not to go on. */
  readonly errorCode: number
}

/** @returns undefined for a request that has nothing to do with sessions, or only ends one */
export function sessionUseOf(message: KafkaStruct, { apiKey, version }: MessagePlan): SessionUse | undefined {
  const { sessionId, sessionEpoch, shareSessionEpoch, groupId, memberId } = message.values
  if (apiKey === API_KEYS.FETCH && version >= FETCH_WITH_SESSIONS && typeof sessionEpoch === 'number' && sessionEpoch >= 0) {
    const isNew = sessionEpoch === 0
    return { key: isNew ? undefined : `${String(sessionId)}`, isNew, errorCode: FETCH_SESSION_ID_NOT_FOUND }
  }
  if (apiKey === API_KEYS.SHARE_FETCH && typeof shareSessionEpoch === 'number' && shareSessionEpoch >= 0) {
    return { key: JSON.stringify([groupId, memberId]), isNew: shareSessionEpoch === 0, errorCode: SHARE_SESSION_NOT_FOUND }
  }
  return undefined
}

/** How much of an answer to a fetch has to be there to know its session. */
export function sessionHeadBytes(plan: MessagePlan): number {
  return SIZE_BYTES + responseHeadBytes(plan) + SESSION_BYTES
}

/** @param head so many bytes of the answer @returns the key of the session that it begins, if it does */
export function sessionBegunBy(head: Buffer, { apiKey, version }: MessagePlan): string | undefined {
  const offset = SIZE_BYTES + responseHeadBytes(planOf('response', apiKey, version) as MessagePlan)
  const sessionId = head.readInt32BE(offset + SESSION_OFFSET)
  return head.readInt16BE(offset + ERROR_OFFSET) === 0 && sessionId !== 0 ? String(sessionId) : undefined
}

export class FetchSessions {
  /** The rules that each began under. */
  readonly #rules = new Map<string, unknown>()

  begin(key: string, rules: unknown): void {
    this.#rules.delete(key)
    this.#rules.set(key, rules)
    if (this.#rules.size <= SESSIONS_MAX) return
    const [oldest] = this.#rules.keys()
    if (oldest !== undefined) this.#rules.delete(oldest)
  }

  isUnder(key: string, rules: unknown): boolean {
    return this.#rules.has(key) && this.#rules.get(key) === rules
  }
}

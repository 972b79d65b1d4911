/**
 * Requests for what a group has committed of all topics (OffsetFetch without a list of them, as admin tools send it). The broker says it of topics
 * that the rules do not let the client name too: its answer is left with the others.
 */
import { API_KEYS } from './api-keys.ts'
import { decodeMessage, isArray, isStruct, type KafkaStruct, type KafkaValue } from './decode.ts'
import { responseHeadBytes } from './denial.ts'
import { SIZE_BYTES } from './frame.ts'
import { replaceItems } from './rewrite.ts'
import { type MessagePlan, planOf } from './schema.ts'

/** From it on, answers name topics by ids, which nobody could be asked about by then; no known client asks for all topics so. */
const VERSION_WITH_IDS = 10

/** Whether it asks for all topics, in a version whose answer can be narrowed. */
export function asksAllOffsets({ values: { topics, groups } }: KafkaStruct, { apiKey, version }: MessagePlan): boolean {
  if (apiKey !== API_KEYS.OFFSET_FETCH || version >= VERSION_WITH_IDS) return false
  return topics === null || (isArray(groups) && groups.items.some((group) => isStruct(group) && group.values.topics === null))
}

/**
 * @param frame the whole answer @param request what it answers @param isVisible asked of each topic of each group
 * @returns the frame itself where nothing is to be changed @throws KafkaParseError
 */
export function filterOffsets(
  frame: Buffer,
  request: KafkaStruct,
  { apiKey, version }: MessagePlan,
  isVisible: (topic: string, group: string) => boolean,
): Buffer {
  const plan = planOf('response', apiKey, version) as MessagePlan
  const { values } = decodeMessage(frame, SIZE_BYTES + responseHeadBytes(plan), plan)
  const lists = isArray(values.groups)
    ? values.groups.items.filter(isStruct).map((group) => [group.values.groupId, group.values.topics] as const)
    : [[request.values.groupId, values.topics] as const]
  let narrowed = frame
  // From the last to the first: what is before a change stays where it was.
  for (const [group, list] of lists.reverse()) {
    if (!isArray(list)) continue
    const kept = list.items.filter(isStruct).filter((topic) => isVisible(textOf(topic.values.name), textOf(group)))
    if (kept.length < list.items.length) narrowed = replaceItems(narrowed, list, kept, [], plan.isFlexible)
  }
  return narrowed
}

function textOf(value: KafkaValue | undefined): string {
  return typeof value === 'string' ? value : ''
}

/** Kafka rules of a document: Cilium's fields up to 1.19, and what Headgate adds to them. */
import { apiKeyOfName, KAFKA_API_KEYS } from '#parsers/kafka/api-keys.ts'
import { KAFKA_ROLES, type KafkaRule } from '#parsers/kafka/rules.ts'
import type { Cursor } from './cursor.ts'
import type { KafkaRules } from './model.ts'
import { boundedList, boundedString, type MemberContext } from './parse-context.ts'
import { checkPattern } from './pattern.ts'

/** Longest name of a topic that Cilium takes; brokers take 249. */
const TOPIC_LENGTH_MAX = 255
const TOPIC = /^[a-zA-Z0-9._-]+$/
const VERSION_LAST = 32767

/** @returns undefined when the list is empty: no L7 rules at all */
export function parseKafkaRules(cursor: Cursor, context: MemberContext): KafkaRules | undefined {
  const items = boundedList(cursor, 'rules') ?? []
  if (items.length === 0) return undefined
  return { kind: 'kafka', rules: items.flatMap((item) => parseRule(item, context) ?? []) }
}

function parseRule(cursor: Cursor, { options }: MemberContext): KafkaRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const roleCursor = map.get('role')
  const keyCursor = map.get('apiKey')
  const topicCursors = (['topic', 'topicPrefix', 'topicPattern'] as const).map((name) => [name, map.get(name)] as const)
  const rule = {
    role: parseRole(roleCursor),
    apiKey: parseApiKey(keyCursor),
    apiVersion: parseVersion(map.get('apiVersion')),
    clientId: boundedString(map.get('clientID')),
    topic: parseTopic(topicCursors[0]?.[1]),
    topicPrefix: parseTopic(topicCursors[1]?.[1]),
    topicPattern: boundedString(topicCursors[2]?.[1], Number.POSITIVE_INFINITY),
    group: boundedString(map.get('group')),
    transactionalId: boundedString(map.get('transactionalID')),
  }
  map.finish()
  if (roleCursor !== undefined && keyCursor !== undefined) map.error('role and apiKey exclude one another', 'write a rule for each')
  const topics = topicCursors.filter(([, topic]) => topic !== undefined).map(([name]) => name)
  if (topics.length > 1) map.error(`${topics.join(' and ')} exclude one another`, 'write a rule for each')
  if (rule.topicPattern !== undefined) {
    const problem = checkPattern(rule.topicPattern, options.regexProgramSizeMax)
    if (problem !== undefined) topicCursors[2]?.[1]?.error(problem.message, problem.hint)
  }
  const carries = rule.apiKey === undefined ? undefined : KAFKA_API_KEYS.get(rule.apiKey)
  if (carries?.topics === false && topics.length > 0)
    map.warning(`requests of this kind name no topic, so it is not asked about: ${rule.apiKey}`, `remove ${topics.join()}`)
  return Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== undefined))
}

function parseRole(cursor: Cursor | undefined): KafkaRule['role'] {
  const text = cursor?.string()
  if (text === undefined) return undefined
  const role = KAFKA_ROLES.find((known) => known === text.toLowerCase())
  if (role === undefined) cursor?.error(`no such role: ${text}`, `one of ${KAFKA_ROLES.join(', ')}`)
  return role
}

function parseApiKey(cursor: Cursor | undefined): string | undefined {
  const text = cursor?.string()
  if (text === undefined) return undefined
  const apiKey = apiKeyOfName(text)
  if (apiKey === undefined)
    cursor?.error(`no such kind of request: ${text}`, 'a name of Kafka’s protocol, like produce, fetch or createtopics')
  return apiKey
}

function parseVersion(cursor: Cursor | undefined): number | undefined {
  const text = cursor?.string()
  if (text === undefined) return undefined
  if (/^[0-9]{1,5}$/.test(text) && Number(text) <= VERSION_LAST) return Number(text)
  cursor?.error(`not a version of a request: ${text}`, `a number from 0 to ${VERSION_LAST} in quotes`)
  return undefined
}

function parseTopic(cursor: Cursor | undefined): string | undefined {
  const text = boundedString(cursor, TOPIC_LENGTH_MAX)
  if (text === undefined || TOPIC.test(text)) return text
  cursor?.error(`not a name of a topic: ${text}`, 'letters, digits, . _ and -; a wildcard is topicPrefix or topicPattern')
  return undefined
}

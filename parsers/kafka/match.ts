/**
 * Which Kafka rules a request matches, as the simulator asks it. Cilium's semantics (a request is allowed when every topic that it names
 * is allowed by some rule; client id and version are exact; what a request does not name is not asked about), with what its parser lacked:
 * consumer groups, transactional ids, prefixes and patterns of topics, and requests about all topics.
 */
import { RE2JS } from 're2js'
import { apiKeyOfName, isOfRole, KAFKA_API_KEYS } from './api-keys.ts'
import type { KafkaRule } from './rules.ts'

export interface KafkaRequest {
  /** Name in lower case; of one that no table knows, anything. */
  readonly apiKey: string
  /** Absent when it is not known. */
  readonly apiVersion?: number
  /** Absent like empty: the client states none. */
  readonly clientId?: string
  /** all: it asks about every topic, as Metadata can. */
  readonly topics: readonly string[] | 'all'
  readonly groups: readonly string[]
  readonly transactionalId?: string
}

/**
 * What a condition is asked for. To allow, what a request does not name is met and what cannot be told is not; to deny it is the other
 * way round, so that doubt never allows and a rule about one topic does not deny requests without topics.
 */
type Purpose = 'allow' | 'deny'

/** The part of a request that one rule has to cover. */
interface Piece {
  readonly topic: string | 'all' | undefined
  readonly group: string | undefined
}

/** All kinds of requests for which no list of topics means every topic. */
const ALL_WITHOUT_TOPICS = new Set([
  'metadata',
  'offsetfetch',
  'describelogdirs',
  'describetopicpartitions',
  'electleaders',
  'listpartitionreassignments',
])
/** Whether no list of topics means every topic in this kind of request. */
export function meansAllWithoutTopics(apiKey: string): boolean {
  return ALL_WITHOUT_TOPICS.has(apiKey)
}

/** Kinds of requests that do nothing without a topic. */
const NOTHING_WITHOUT_TOPICS = new Set(['produce', 'fetch', 'sharefetch', 'createtopics', 'deletetopics', 'deleterecords'])

/** Rules, compiled. */
export class KafkaMatcher<Rule extends KafkaRule = KafkaRule> {
  readonly #rules: readonly {
    readonly rule: Rule
    readonly covers: (request: KafkaRequest, piece: Piece, purpose: Purpose) => boolean
  }[]

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[]) {
    this.#rules = rules.map((rule) => ({ rule, covers: compileRule(rule) }))
  }

  /** The rules that together allow the request, in their order; undefined when some part of it is allowed by none. */
  allowing(request: KafkaRequest): Rule[] | undefined {
    const used = new Set<Rule>()
    for (const piece of piecesOf(request)) {
      const covering = this.#covering(request, piece, 'allow')
      if (covering.length === 0) return undefined
      for (const rule of covering) used.add(rule)
    }
    return this.#rules.map(({ rule }) => rule).filter((rule) => used.has(rule))
  }

  /** The rules, read as deny rules, that match any part of the request; it is denied if there is one. */
  denying(request: KafkaRequest): Rule[] {
    const pieces = piecesOf(request)
    return this.#rules.filter(({ covers }) => pieces.some((piece) => covers(request, piece, 'deny'))).map(({ rule }) => rule)
  }

  #covering(request: KafkaRequest, piece: Piece, purpose: Purpose): Rule[] {
    return this.#rules.filter(({ covers }) => covers(request, piece, purpose)).map(({ rule }) => rule)
  }
}

function piecesOf({ topics, groups }: KafkaRequest): Piece[] {
  const allTopics = topics === 'all' ? ['all' as const] : topics.length === 0 ? [undefined] : topics
  const allGroups = groups.length === 0 ? [undefined] : groups
  return allTopics.flatMap((topic) => allGroups.map((group) => ({ topic, group })))
}

function compileRule(rule: KafkaRule): (request: KafkaRequest, piece: Piece, purpose: Purpose) => boolean {
  const { role, apiKey, apiVersion, clientId, group, transactionalId } = rule
  const isTopic = compileTopic(rule)
  return (request, piece, purpose) => {
    const kind = KAFKA_API_KEYS.get(request.apiKey)
    const inDoubt = purpose === 'deny'
    const notNamed = purpose === 'allow'
    const meetsBody = (isNamed: boolean | undefined, value: string | undefined, test: (value: string) => boolean): boolean => {
      if (isNamed === undefined) return inDoubt
      if (!isNamed) return notNamed
      // To find a coordinator, a client names a group or a transactional id, not both.
      if (value === undefined) return notNamed && request.apiKey === 'findcoordinator'
      return test(value)
    }
    if (apiKey !== undefined && apiKey !== request.apiKey) return false
    if (role !== undefined && !(kind === undefined ? inDoubt : isOfRole(request.apiKey, role))) return false
    if (apiVersion !== undefined && !(request.apiVersion === undefined ? inDoubt : request.apiVersion === apiVersion)) return false
    if (clientId !== undefined && clientId !== (request.clientId ?? '')) return false
    if (group !== undefined && !meetsBody(kind?.groups, piece.group, (value) => value === group)) return false
    if (transactionalId !== undefined && !meetsBody(kind?.transactions, request.transactionalId, (value) => value === transactionalId))
      return false
    if (isTopic === undefined) return true
    if (piece.topic === 'all' && request.topics === 'all') return inDoubt
    // A fetch of a session names topics only when they change.
    if (kind !== undefined && piece.topic === undefined) return notNamed
    return meetsBody(kind?.topics, piece.topic, isTopic)
  }
}

/** @returns undefined when the rule says nothing of topics */
function compileTopic({ topic, topicPrefix, topicPattern }: KafkaRule): ((name: string) => boolean) | undefined {
  if (topic === undefined && topicPrefix === undefined && topicPattern === undefined) return undefined
  const pattern = topicPattern === undefined ? undefined : RE2JS.compile(topicPattern)
  return (name) =>
    (topic === undefined || name === topic) &&
    (topicPrefix === undefined || name.startsWith(topicPrefix)) &&
    (pattern === undefined || pattern.testExact(name))
}

/**
 * A request in words: its kind (`consume` is fetch), what it names (topics; of requests without topics, groups; else a transactional id),
 * and `client=`, `version=`, `group=`, `transaction=`. For example `produce orders payments client=shop`.
 * @returns undefined when there is no such kind, when it needs a topic, or when a word means nothing
 */
export function parseKafkaRequest(text: string): KafkaRequest | undefined {
  const [verb = '', ...words] = text.trim().split(/\s+/)
  const apiKey = verb.toLowerCase() === 'consume' ? 'fetch' : apiKeyOfName(verb)
  const kind = apiKey === undefined ? undefined : KAFKA_API_KEYS.get(apiKey)
  if (apiKey === undefined || kind === undefined) return undefined
  const options = new Map<string, string>()
  const names: string[] = []
  for (const word of words) {
    const equals = word.indexOf('=')
    if (equals < 0) names.push(word)
    else options.set(word.slice(0, equals), word.slice(equals + 1))
  }
  const clientId = options.get('client')
  const version = options.get('version')
  const group = options.get('group')
  const isOfGroups = !kind.topics && kind.groups
  const isOfTransaction = !kind.topics && !kind.groups && kind.transactions
  const transactionalId = options.get('transaction') ?? (isOfTransaction ? names[0] : undefined)
  for (const known of ['client', 'version', 'group', 'transaction']) options.delete(known)
  if (options.size > 0 || (version !== undefined && !/^[0-9]{1,5}$/.test(version))) return undefined
  if (names.length > 0 && !kind.topics && !isOfGroups && !(isOfTransaction && names.length === 1)) return undefined
  if (kind.topics && names.length === 0 && NOTHING_WITHOUT_TOPICS.has(apiKey)) return undefined
  return {
    apiKey,
    topics: !kind.topics ? [] : names.length === 0 && ALL_WITHOUT_TOPICS.has(apiKey) ? 'all' : names,
    groups: [...(group === undefined ? [] : [group]), ...(isOfGroups ? names : [])],
    ...(version === undefined ? {} : { apiVersion: Number(version) }),
    ...(clientId === undefined ? {} : { clientId }),
    ...(transactionalId === undefined ? {} : { transactionalId }),
  }
}

/** L7 rules of a document: one kind for a member of `toPorts`. Each kind's fields are read by a module of its own, but for the small ones. */
import type { Cursor, MapCursor } from './cursor.ts'
import type { DnsRules, L7Kind, L7Rules, ParserRules } from './model.ts'
import { parseCassandraRules } from './parse-cassandra.ts'
import { boundedList, isExtended, LIST_LENGTH_MAX, type MemberContext, TEXT_LENGTH_MAX } from './parse-context.ts'
import { parseGrpcRules } from './parse-grpc.ts'
import { parseHttpRules } from './parse-http.ts'
import { parseKafkaRules } from './parse-kafka.ts'
import { parseDnsFields } from './parse-peers.ts'

const FIELDS = ['http', 'grpc', 'dns', 'kafka', 'cassandra', 'l7proto'] as const
/** Both are read as rules of one kind, so they can stand together. */
const HTTP_FIELDS: readonly string[] = ['http', 'grpc']
/** Of its folder. */
const PARSER_NAME = /^[a-z][a-z0-9_-]{0,62}$/
const KEYS_MAX = 100
const VALUE_LENGTH_MAX = 4096

/** @returns undefined when there are no L7 rules, be it because the list is empty */
export function parseL7(cursor: Cursor, context: MemberContext): L7Rules | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const fields = FIELDS.flatMap((name) => {
    const field = map.get(name)
    return field === undefined ? [] : [[name, field] as const]
  })
  const l7Cursor = map.get('l7')
  map.finish()
  if (l7Cursor !== undefined && map.get('l7proto') === undefined)
    l7Cursor.error('l7 needs l7proto, which says whose rules these are', 'for example l7proto: cassandra')
  if (fields.length > 1 && !fields.every(([name]) => HTTP_FIELDS.includes(name)))
    map.error(`${fields.map(([name]) => name).join(' and ')} cannot stand in one member of toPorts`, 'write one for each')
  if (context.verdict === 'deny' && !isExtended(cursor, 'rules in a deny rule', context)) return undefined
  const read = united(fields.flatMap(([name, field]) => parseField(name, field, l7Cursor, context) ?? []))
  if (read === undefined) {
    if (context.verdict === 'deny' && fields.length > 0)
      map.warning('an empty list is no L7 rules at all: everything on these ports is denied', 'remove rules, or say what is denied')
    return undefined
  }
  checkPlace(map, read.kind, context)
  return read
}

/** Rules of one kind as one list; of more, which are refused, the first. */
function united([first, ...others]: readonly L7Rules[]): L7Rules | undefined {
  if (first?.kind !== 'http') return first
  return { kind: 'http', rules: [first, ...others].flatMap((one) => (one.kind === 'http' ? one.rules : [])) }
}

function parseField(
  name: (typeof FIELDS)[number],
  cursor: Cursor,
  l7Cursor: Cursor | undefined,
  context: MemberContext,
): L7Rules | undefined {
  switch (name) {
    case 'http':
      return parseHttpRules(cursor, context)
    case 'grpc':
      return isExtended(cursor, 'grpc', context) ? parseGrpcRules(cursor, context) : undefined
    case 'dns':
      return parseDnsRules(cursor)
    case 'kafka':
      return isExtended(cursor, 'kafka', context) ? parseKafkaRules(cursor, context) : undefined
    case 'cassandra':
      return isExtended(cursor, 'cassandra', context) ? parseCassandraRules(cursor, context) : undefined
    case 'l7proto':
      return isExtended(cursor, 'l7proto', context) ? parseParserRules(cursor, l7Cursor, context) : undefined
  }
}

/** Where rules of the kind can be at all. */
function checkPlace(map: MapCursor, kind: L7Kind, { direction, subjectKind, options }: MemberContext): void {
  if (!options.l7Proxy)
    map.error('L7 rules are switched off by the setting policy.l7Proxy', 'set policy.l7Proxy: true, or remove the rules')
  if (kind === 'dns' && direction === 'ingress')
    map.error('dns rules are for egress only', 'write them for those who ask, in egress of their policy')
  else if (subjectKind === 'nodes' && kind !== 'dns')
    map.error(`a policy of nodes can have dns rules in egress only: ${kind}`, 'write the rules for endpoints, or remove them')
}

function parseDnsRules(cursor: Cursor): DnsRules | undefined {
  const items = boundedList(cursor, 'rules', LIST_LENGTH_MAX) ?? []
  if (items.length === 0) return undefined
  const rules = items.flatMap((item) => {
    const map = item.map()
    const rule = map && parseDnsFields(map)
    map?.finish()
    if (rule?.matchName !== undefined && rule.matchPattern !== undefined)
      item.warning('a query needs to match only one of matchName and matchPattern', 'write a rule for each, which says the same')
    return rule ?? []
  })
  return { kind: 'dns', rules }
}

/** Without members, the parser reads along and allows everything that it understands. */
function parseParserRules(cursor: Cursor, l7Cursor: Cursor | undefined, context: MemberContext): L7Rules | undefined {
  const name = cursor.string()
  if (name === undefined) return undefined
  if (name === 'http' || name === 'dns' || name === 'kafka') {
    cursor.error(`l7proto is for parsers without a field of their own: ${name}`, `write rules: {${name}: […]}`)
    return undefined
  }
  if (!PARSER_NAME.test(name)) {
    cursor.error(`not a name of a parser: ${name}`, 'lower-case letters, digits, _ and -, at most 63')
    return undefined
  }
  if (name === 'cassandra') return (l7Cursor && parseCassandraRules(l7Cursor, context)) ?? { kind: 'cassandra', rules: [{}] }
  const items = (l7Cursor && boundedList(l7Cursor, 'rules', LIST_LENGTH_MAX)) ?? []
  const rules = items.map(parsePairs).filter((rule) => rule !== undefined)
  return { kind: 'parser', parser: name, rules: items.length === 0 ? [{}] : rules }
}

function parsePairs(cursor: Cursor): ParserRules['rules'][number] | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const entries = [...map.entries()]
  if (entries.length > KEYS_MAX) map.error(`more keys than ${KEYS_MAX}: ${entries.length}`)
  const pairs = entries.slice(0, KEYS_MAX).flatMap(([key, value]) => {
    const text = value.string()
    if (key === '' || key.length > TEXT_LENGTH_MAX) value.error(`a key has 1 to ${TEXT_LENGTH_MAX} characters: ${key.length}`)
    if (text !== undefined && text.length > VALUE_LENGTH_MAX) value.error(`longer than ${VALUE_LENGTH_MAX} characters: ${text.length}`)
    return text === undefined ? [] : [[key, text] as const]
  })
  return Object.fromEntries(pairs)
}

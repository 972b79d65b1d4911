/**
 * `spec` of a Kubernetes NetworkPolicy, with Kubernetes' own semantics: what the API server refuses is refused, and what is left out has
 * the meaning that it has there, which is not the one of a CiliumNetworkPolicy (an absent or empty list of peers is everybody).
 * It has no deny rules, no layer 7, and its labels have no sources: those of pods and namespaces are meant.
 */
import { containsPrefix, formatPrefix, parsePrefix } from './cidr.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import {
  type LabelRequirement,
  type LabelSelector,
  type NamedPort,
  type Peer,
  type PeerSet,
  type PolicyRule,
  type PolicySpec,
  type PortRange,
  SELECTOR_OPERATORS,
  type SelectorOperator,
  type Traffic,
} from './model.ts'
import { LABEL_VALUE, REQUIREMENTS_MAX } from './parse-selector.ts'
import { NAMESPACE_LABEL_KEY, NAMESPACE_LABELS_PREFIX } from './reserved.ts'
import { DIRECTIONS, type Direction } from './resolved.ts'

const K8S_SOURCE = 'k8s'
const RULES_MAX = 10_000
const PORT_LAST = 65535
const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const
type Protocol = (typeof PROTOCOLS)[number]
const TYPE_OF: Readonly<Record<Direction, string>> = { ingress: 'Ingress', egress: 'Egress' }

const LABEL_NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/
const LABEL_PREFIX = /^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/
const PORT_NAME = /^(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*$/

export interface ParsedNetworkPolicy {
  readonly spec: PolicySpec
  /** Directions that it restricts, as far as could be read: both when it does not say so readably. */
  readonly directions: readonly Direction[]
}

export function parseNetworkPolicy(map: MapCursor, namespace: string): ParsedNetworkPolicy {
  const subjectCursor = map.get('podSelector')
  if (subjectCursor === undefined)
    map.warning('without podSelector it selects every pod of the namespace', 'write podSelector: {} to say so')
  const selector: LabelSelector = {
    requirements: [...(subjectCursor === undefined ? [] : parseLabelSelector(subjectCursor, '')), namespaceIs(namespace)],
  }
  const rules = { ingress: parseRules(map, 'ingress', namespace), egress: parseRules(map, 'egress', namespace) }
  const egress = map.get('egress')?.value
  const hasEgress = egress !== undefined && (egress.kind !== 'list' || egress.items.length > 0)
  const typesCursor = map.get('policyTypes')
  const types = typesCursor && parseTypes(typesCursor)
  map.finish()
  const isOfType = (direction: Direction) =>
    // None listed: ingress always, egress if there are rules for it.
    types === undefined || types.length === 0 ? direction === 'ingress' || hasEgress : types.includes(direction)
  const inForce = DIRECTIONS.flatMap((direction) => {
    if (isOfType(direction)) return rules[direction]
    if (rules[direction].length > 0) {
      const type = TYPE_OF[direction]
      map.get(direction)?.warning(`has no effect: policyTypes does not name ${type}`, `add ${type}, or remove ${direction}`)
    }
    return []
  })
  const spec: PolicySpec = {
    at: map.position,
    subject: { kind: 'endpoints', selector },
    defaultDeny: { ingress: isOfType('ingress'), egress: isOfType('egress') },
    rules: inForce,
    description: '',
    labels: [],
    log: '',
  }
  const isUnreadable = typesCursor !== undefined && (types === undefined || types.includes('unknown'))
  return { spec, directions: isUnreadable ? DIRECTIONS : DIRECTIONS.filter(isOfType) }
}

/** @returns undefined when it is no list */
function parseTypes(cursor: Cursor): readonly (Direction | 'unknown')[] | undefined {
  const items = cursor.list()
  if (items !== undefined && items.length > DIRECTIONS.length) cursor.error(`more policy types than ${DIRECTIONS.length}: ${items.length}`)
  return items?.slice(0, DIRECTIONS.length + 1).map((item) => {
    const text = item.string()
    const direction = DIRECTIONS.find((candidate) => TYPE_OF[candidate] === text)
    if (direction === undefined && text !== undefined) item.error(`no such policy type: ${text}`, 'Ingress or Egress')
    return direction ?? 'unknown'
  })
}

function parseRules(map: MapCursor, direction: Direction, namespace: string): readonly PolicyRule[] {
  const cursor = map.get(direction)
  const items = cursor?.list() ?? []
  if (items.length > RULES_MAX) cursor?.error(`more rules than ${RULES_MAX}: ${items.length}`)
  return items.slice(0, RULES_MAX).flatMap((item) => {
    const rule = item.map()
    if (rule === undefined) return []
    const peers = parsePeers(rule.get(direction === 'ingress' ? 'from' : 'to'), namespace)
    const traffic = parseTraffic(rule.get('ports'))
    rule.finish()
    return [{ at: rule.position, direction, verdict: 'allow', peers, requires: [], traffic } as const]
  })
}

function parsePeers(cursor: Cursor | undefined, namespace: string): PeerSet {
  const items = cursor?.list() ?? []
  if (items.length === 0) return { kind: 'any' }
  const members = items.flatMap((item) => parsePeer(item, namespace) ?? [])
  // A list of which nothing could be read is no list of everybody.
  return members.length === 0 ? { kind: 'none' } : { kind: 'members', members }
}

function parsePeer(cursor: Cursor, namespace: string): Peer | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const pods = map.get('podSelector')
  const namespaces = map.get('namespaceSelector')
  const block = map.get('ipBlock')
  map.finish()
  if (block !== undefined) {
    if (pods !== undefined || namespaces !== undefined)
      map.error('ipBlock cannot stand beside podSelector or namespaceSelector', 'write a member of the list for each')
    return parseIpBlock(block)
  }
  if (pods === undefined && namespaces === undefined) {
    map.error('a peer is needed: podSelector, namespaceSelector or ipBlock', 'to mean everybody, leave the list out')
    return undefined
  }
  const requirements = pods === undefined ? [] : parseLabelSelector(pods, '')
  if (namespaces === undefined)
    return { kind: 'endpoints', at: map.position, selector: { requirements: [...requirements, namespaceIs(namespace)] } }
  const own = parseLabelSelector(namespaces, NAMESPACE_LABELS_PREFIX)
  // Whatever the conditions are, only pods of a namespace can meet them: not the host and not the world, which lack every label.
  const anyNamespace: LabelRequirement = { source: K8S_SOURCE, key: NAMESPACE_LABEL_KEY, operator: 'Exists', values: [] }
  return { kind: 'endpoints', at: map.position, selector: { requirements: [...requirements, ...own, anyNamespace] } }
}

function namespaceIs(namespace: string): LabelRequirement {
  return { source: K8S_SOURCE, key: NAMESPACE_LABEL_KEY, operator: 'In', values: [namespace] }
}

function parseIpBlock(cursor: Cursor): Peer | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const cidrCursor = map.get('cidr')
  const prefix = cidrCursor && parseCidr(cidrCursor)
  const except = (map.get('except')?.list() ?? []).flatMap((item) => {
    const hole = parseCidr(item)
    if (hole === undefined) return []
    if (prefix !== undefined && (!containsPrefix(prefix, hole) || hole.length <= prefix.length)) {
      item.error(`an exception must be a smaller prefix inside ${formatPrefix(prefix)}: ${formatPrefix(hole)}`)
      return []
    }
    return [formatPrefix(hole)]
  })
  map.finish()
  if (cidrCursor === undefined) map.error('cidr is needed')
  return prefix && { kind: 'cidr', at: map.position, cidr: formatPrefix(prefix), except }
}

function parseCidr(cursor: Cursor): ReturnType<typeof parsePrefix> {
  const text = cursor.string()
  if (text === undefined) return undefined
  const prefix = parsePrefix(text)
  if (prefix === undefined) {
    const single = parsePrefix(text, true)
    cursor.error(`not a CIDR prefix: ${text}`, single === undefined ? 'for example 10.0.0.0/8' : `write ${formatPrefix(single)}`)
  }
  return prefix
}

function parseTraffic(cursor: Cursor | undefined): Traffic {
  const items = cursor?.list() ?? []
  if (cursor === undefined || items.length === 0) return { kind: 'any' }
  const ranges: PortRange[] = []
  const names: NamedPort[] = []
  for (const item of items) {
    const port = parsePort(item)
    if (port === undefined) continue
    if ('name' in port) names.push(port)
    else ranges.push(port)
  }
  return { kind: 'ports', rules: [{ at: cursor.position, ranges, names }] }
}

function parsePort(cursor: Cursor): PortRange | NamedPort | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const at = map.position
  const protocolCursor = map.getLenient('protocol')
  const protocol = protocolCursor === undefined ? 'TCP' : protocolOf(protocolCursor)
  const portCursor = map.get('port')
  const endCursor = map.get('endPort')
  const endPort = endCursor?.integer(1, PORT_LAST)
  map.finish()
  if (portCursor === undefined) {
    endCursor?.error('endPort needs a port', 'write port, the first one of the range')
    return protocol && { at, protocol, first: 0, last: PORT_LAST }
  }
  if (portCursor.value.kind === 'scalar' && typeof portCursor.value.value === 'string') {
    const name = portCursor.value.value
    endCursor?.error(`endPort needs a port that is a number, not a name: ${name}`)
    if (PORT_NAME.test(name)) return protocol && { at, protocol, name }
    const isNumber = /^[0-9]+$/.test(name)
    portCursor.error(
      `not a name of a port: ${name}`,
      isNumber ? 'write the number without quotes' : 'at most 15 lower-case letters, digits and -',
    )
    return undefined
  }
  const first = portCursor.integer(1, PORT_LAST)
  if (first === undefined || (endCursor !== undefined && endPort === undefined)) return undefined
  if (endPort !== undefined && endPort < first) {
    endCursor?.error(`endPort must not be below port: ${endPort}`, `write ${first} or more`)
    return undefined
  }
  return protocol && { at, protocol, first, last: endPort ?? first }
}

function protocolOf(cursor: Cursor): Protocol | undefined {
  const text = cursor.string()
  const protocol = PROTOCOLS.find((candidate) => candidate === text)
  if (protocol === undefined && text !== undefined) cursor.error(`no such protocol: ${text}`, `one of ${PROTOCOLS.join(', ')}`)
  return protocol
}

/** @param keyPrefix what stands before a key among the labels of an identity @returns the requirements that could be read */
function parseLabelSelector(cursor: Cursor, keyPrefix: string): readonly LabelRequirement[] {
  const map = cursor.map()
  if (map === undefined) return []
  const requirements: LabelRequirement[] = []
  for (const [key, value] of map.getLenient('matchLabels')?.map()?.entries() ?? []) {
    const text = value.string()
    if (!isKey(value, key) || text === undefined || !isValue(value, text)) continue
    requirements.push({ source: K8S_SOURCE, key: keyPrefix + key, operator: 'In', values: [text] })
  }
  for (const item of map.getLenient('matchExpressions')?.list() ?? []) {
    const requirement = parseExpression(item, keyPrefix)
    if (requirement !== undefined) requirements.push(requirement)
  }
  if (requirements.length > REQUIREMENTS_MAX) map.error(`more conditions than ${REQUIREMENTS_MAX}: ${requirements.length}`)
  map.finish()
  return requirements
}

function parseExpression(cursor: Cursor, keyPrefix: string): LabelRequirement | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const keyCursor = map.get('key')
  const operatorCursor = map.get('operator')
  const valuesCursor = map.getLenient('values')
  map.finish()
  const key = keyCursor?.string()
  const text = operatorCursor?.string()
  const items = valuesCursor?.list() ?? []
  const values = items.flatMap((item) => {
    const value = item.string()
    return value !== undefined && isValue(item, value) ? [value] : []
  })
  if (keyCursor === undefined || operatorCursor === undefined) {
    map.error('key and operator are needed')
    return undefined
  }
  if (key === undefined || text === undefined || !isKey(keyCursor, key)) return undefined
  const operator = SELECTOR_OPERATORS.find((candidate): candidate is SelectorOperator => candidate === text)
  if (operator === undefined) {
    operatorCursor.error(`no such operator: ${text}`, `one of ${SELECTOR_OPERATORS.join(', ')}`)
    return undefined
  }
  const takesValues = operator === 'In' || operator === 'NotIn'
  if (takesValues && items.length === 0) map.error(`${operator} needs values`, 'give values a list that is not empty')
  if (!takesValues && items.length > 0) valuesCursor?.error(`${operator} takes no values`, 'remove values')
  // With a value that could not be read, the condition would select others than it says.
  if (values.length < items.length || takesValues === (items.length === 0)) return undefined
  return { source: K8S_SOURCE, key: keyPrefix + key, operator, values }
}

function isKey(cursor: Cursor, key: string): boolean {
  const slash = key.indexOf('/')
  const isValid = LABEL_NAME.test(key.slice(slash + 1)) && (slash < 0 || LABEL_PREFIX.test(key.slice(0, slash)))
  if (isValid) return true
  const colon = key.indexOf(':')
  cursor.error(`not a label key: ${key}`, colon < 0 ? '' : `labels have no source here: write ${key.slice(colon + 1)}`)
  return false
}

function isValue(cursor: Cursor, value: string): boolean {
  if (LABEL_VALUE.test(value)) return true
  cursor.error(`not a label value: ${value}`, 'at most 63 letters, digits, - _ and .')
  return false
}

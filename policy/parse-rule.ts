/** The content of `spec`: subject, rules of both directions, peers, ports and HTTP rules. Semantics are Cilium's; what is not built yet is refused by name. */
import { containsPrefix, formatPrefix, type Prefix, parsePrefix } from './cidr.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import {
  ENTITIES,
  type Entity,
  type HttpRules,
  type Peer,
  type PeerSet,
  PORT_PROTOCOLS,
  type PolicyRule,
  type PolicySpec,
  type PortProtocolName,
  type PortRange,
  type PortRule,
  type Traffic,
} from './model.ts'
import { parseHttpRules } from './parse-http.ts'
import { parseSelector, type SelectorScope } from './parse-selector.ts'
import type { ProblemList } from './problems.ts'
import type { Direction } from './resolved.ts'

/** Limits that the configuration sets. */
export interface ParseLimits {
  /** Largest compiled size of one regular expression. */
  readonly regexProgramSizeMax: number
}

export interface RuleContext {
  readonly subjects: SelectorScope
  readonly peers: SelectorScope
  readonly limits: ParseLimits
  readonly problems: ProblemList
}

const PORTS_MAX = 40
const PORT_LAST = 65535
const RULES_MAX = 10_000

/**
 * Sections of a spec, with what they mean. What stands in them is read with `get`, which reports a field without a value: the API server
 * prunes such a field, but most of them mean more when they are absent, and a file that was cut off after a colon ends in one.
 */
export const SECTIONS = [
  ['ingress', 'ingress', 'allow'],
  ['ingressDeny', 'ingress', 'deny'],
  ['egress', 'egress', 'allow'],
  ['egressDeny', 'egress', 'deny'],
] as const

const LATER = 'this part of the language is not supported yet; remove it, or use what is listed in docs/policy-reference.md'
function laterOf(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [name, LATER]))
}

const LATER_PEERS: Readonly<Record<Direction, Readonly<Record<string, string>>>> = {
  ingress: laterOf(['fromRequires', 'fromNodes', 'fromGroups', 'icmps', 'authentication']),
  egress: laterOf(['toRequires', 'toNodes', 'toGroups', 'toServices', 'toFQDNs', 'icmps', 'authentication']),
}
const LATER_PORTS = laterOf(['terminatingTLS', 'originatingTLS', 'serverNames', 'listener'])
const LATER_L7 = laterOf(['dns', 'kafka', 'l7proto', 'l7', 'cassandra', 'grpc'])
const LATER_SPEC: Readonly<Record<string, string>> = {
  nodeSelector: 'policy for nodes is not supported yet; use endpointSelector',
  log: LATER,
}

/** @returns undefined when nothing useful could be read */
export function parseSpec(map: MapCursor, context: RuleContext): PolicySpec | undefined {
  const selectorCursor = map.get('endpointSelector')
  if (selectorCursor === undefined)
    map.error('endpointSelector is needed', 'write endpointSelector: {} to select every endpoint of the namespace')
  const selector = selectorCursor && parseSelector(selectorCursor, context.subjects)
  const rules: PolicyRule[] = []
  const named: Record<Direction, boolean> = { ingress: false, egress: false }
  let hasRules = false
  for (const [section, direction, verdict] of SECTIONS) {
    const cursor = map.get(section)
    const items = cursor?.list()
    if (cursor !== undefined && items === undefined) hasRules = true
    if (items === undefined) continue
    if (items.length > RULES_MAX) cursor?.error(`more rules than ${RULES_MAX}: ${items.length}`)
    for (const item of items.slice(0, RULES_MAX)) {
      named[direction] = true
      hasRules = true
      const rule = parseRule(item, direction, verdict, context)
      if (rule !== undefined) rules.push(rule)
    }
  }
  if (!hasRules) {
    map.error(
      'a policy needs at least one member in ingress, ingressDeny, egress or egressDeny',
      'for default deny without any exception write ingress: [{}]',
    )
  }
  const defaultDeny = { ...named }
  const override = map.getLenient('enableDefaultDeny')?.map()
  for (const direction of ['ingress', 'egress'] as const) {
    const value = override?.getLenient(direction)?.boolean()
    if (value !== undefined) defaultDeny[direction] = value && named[direction]
    if (value === true && !named[direction])
      override?.warning(`has no effect without ${direction} rules: ${direction}`, `write ${direction}: [{}]`)
  }
  override?.finish()
  const description = map.getLenient('description')?.string() ?? ''
  const labels = (map.getLenient('labels')?.list() ?? []).flatMap((item) => parseLabelItem(item) ?? [])
  map.finish(LATER_SPEC)
  if (selector === undefined) return undefined
  return { at: map.position, subject: { kind: 'endpoints', selector }, defaultDeny, rules, description, labels }
}

function parseLabelItem(cursor: Cursor): string | undefined {
  if (cursor.value.kind === 'scalar') return cursor.string()
  const map = cursor.map()
  const key = map?.get('key')?.string()
  const value = map?.getLenient('value')?.string() ?? ''
  const source = map?.getLenient('source')?.string() ?? 'unspec'
  map?.finish()
  return key === undefined ? undefined : `${source}:${key}${value === '' ? '' : `=${value}`}`
}

function parseRule(cursor: Cursor, direction: Direction, verdict: 'allow' | 'deny', context: RuleContext): PolicyRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const peers = parsePeers(map, direction, context)
  const portsCursor = map.get('toPorts')
  const portItems = portsCursor?.list()
  const traffic: Traffic =
    portItems === undefined || portItems.length === 0
      ? { kind: 'any' }
      : { kind: 'ports', rules: portItems.flatMap((item) => parsePortRule(item, verdict, context) ?? []) }
  map.finish(LATER_PEERS[direction])
  // Ports without peers mean whoever; nothing at all means nobody.
  const whom: PeerSet = peers ?? (traffic.kind === 'ports' ? { kind: 'any' } : { kind: 'none' })
  return { at: map.position, direction, verdict, peers: whom, traffic }
}

/** @returns undefined when the rule names nobody */
function parsePeers(map: MapCursor, direction: Direction, context: RuleContext): PeerSet | undefined {
  const side = direction === 'ingress' ? 'from' : 'to'
  const lists: readonly (readonly [string, (item: Cursor) => Peer | undefined])[] = [
    [`${side}Endpoints`, (item) => ({ kind: 'endpoints', at: item.position, selector: parseSelector(item, context.peers) })],
    [`${side}Entities`, parseEntity],
    [`${side}CIDR`, parseCidr],
    [`${side}CIDRSet`, parseCidrSet],
  ]
  const members: Peer[] = []
  const present: string[] = []
  let isAnyEmpty = false
  for (const [name, parse] of lists) {
    const cursor = map.get(name)
    const items = cursor?.list()
    if (cursor === undefined || items === undefined) continue
    if (items.length === 0) {
      isAnyEmpty = true
      cursor.warning('an empty list selects nobody', 'leave it out to mean everybody')
      continue
    }
    present.push(name)
    for (const item of items) {
      const peer = parse(item)
      if (peer !== undefined) members.push(peer)
    }
  }
  if (present.length > 1) map.error(`${present.join(' and ')} cannot stand in one rule`, 'write one rule for each')
  // One empty list makes the rule one about nobody, whatever stands beside it.
  if (isAnyEmpty) return { kind: 'none' }
  if (present.length === 0) return undefined
  return members.length === 0 ? { kind: 'none' } : { kind: 'members', members }
}

function parseEntity(cursor: Cursor): Peer | undefined {
  const entity = cursor.string()
  if (entity === undefined) return undefined
  if (!(ENTITIES as readonly string[]).includes(entity)) {
    cursor.error(`no such entity: ${entity}`, `one of ${ENTITIES.join(', ')}`)
    return undefined
  }
  return { kind: 'entity', at: cursor.position, entity: entity as Entity }
}

function parseCidr(cursor: Cursor): Peer | undefined {
  const prefix = prefixOf(cursor, true)
  return prefix && { kind: 'cidr', at: cursor.position, cidr: formatPrefix(prefix), except: [] }
}

function parseCidrSet(cursor: Cursor): Peer | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const cidr = map.get('cidr')
  const prefix = cidr && prefixOf(cidr, false)
  const except = (map.get('except')?.list() ?? []).flatMap((item) => {
    const inner = prefixOf(item, false)
    if (inner === undefined) return []
    if (prefix !== undefined && !containsPrefix(prefix, inner)) {
      item.error(`an exception must lie inside ${formatPrefix(prefix)}: ${formatPrefix(inner)}`)
      return []
    }
    return [formatPrefix(inner)]
  })
  map.finish({ cidrGroupRef: LATER, cidrGroupSelector: LATER })
  if (cidr === undefined) {
    map.error('cidr is needed')
    return undefined
  }
  return prefix && { kind: 'cidr', at: map.position, cidr: formatPrefix(prefix), except }
}

function prefixOf(cursor: Cursor, bareAddress: boolean): Prefix | undefined {
  const text = cursor.string()
  if (text === undefined) return undefined
  const prefix = parsePrefix(text, bareAddress)
  if (prefix === undefined) {
    const single = bareAddress ? undefined : parsePrefix(text, true)
    cursor.error(`not a CIDR prefix: ${text}`, single === undefined ? 'for example 10.0.0.0/8' : `write ${formatPrefix(single)}`)
  }
  return prefix
}

function parsePortRule(cursor: Cursor, verdict: 'allow' | 'deny', context: RuleContext): PortRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const portsCursor = map.get('ports')
  const items = portsCursor?.list() ?? []
  if (items.length > PORTS_MAX) portsCursor?.error(`more ports than ${PORTS_MAX}: ${items.length}`, 'write a second member of toPorts')
  const ranges = items.flatMap((item) => parsePort(item) ?? [])
  const rulesCursor = map.get('rules')
  let l7: HttpRules | undefined
  if (rulesCursor !== undefined) {
    if (verdict === 'deny') rulesCursor.error('deny rules cannot have L7 rules', 'deny the port, or allow with rules')
    else l7 = parseL7(rulesCursor, context)
    if (l7 !== undefined) {
      for (const { at, protocol, first } of ranges) {
        if (protocol !== 'TCP') context.problems.error(at, `L7 rules can only apply to TCP, not ${protocol}`, 'write protocol: TCP')
        else if (first === 0) context.problems.error(at, 'L7 rules cannot apply to every port', 'name the port')
      }
    }
  }
  map.finish(verdict === 'deny' ? {} : LATER_PORTS)
  if (items.length === 0) map.warning('without ports this matches nothing', 'name ports, or leave toPorts out to mean all traffic')
  return { at: map.position, ranges, ...(l7 === undefined ? {} : { l7 }) }
}

function parsePort(cursor: Cursor): PortRange | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const portCursor = map.get('port')
  const text = portCursor?.string()
  if (portCursor === undefined) map.error('port is needed', 'write port: "0" to mean every port')
  const endCursor = map.get('endPort')
  const endPort = endCursor?.integer(0, PORT_LAST)
  const protocolCursor = map.get('protocol')
  const protocol = (protocolCursor?.string() ?? 'ANY').toUpperCase()
  map.finish()
  const isKnown = (PORT_PROTOCOLS as readonly string[]).includes(protocol)
  if (!isKnown) protocolCursor?.error(`protocol is not supported: ${protocol}`, `one of ${PORT_PROTOCOLS.join(', ')}`)
  if (text === undefined) return undefined
  const port = parsePortNumber(text)
  if (port === 'name') {
    portCursor?.error(`named ports are not supported yet: ${text}`, 'write the number in quotes')
    return undefined
  }
  if (port === undefined) {
    portCursor?.error(`not a port: ${text}`, 'a number from 0 to 65535 in quotes')
    return undefined
  }
  if (!isKnown) return undefined
  const at = map.position
  if (port === 0) {
    if (endPort !== undefined && endPort !== 0)
      endCursor?.error(`port 0 means every port and cannot begin a range: ${endPort}`, 'begin the range at 1')
    return { at, protocol: protocol as PortProtocolName, first: 0, last: PORT_LAST }
  }
  if (endPort !== undefined && endPort !== 0 && endPort < port)
    endCursor?.warning(`endPort is below port and means nothing: ${endPort}`, `write ${port} or more`)
  return { at, protocol: protocol as PortProtocolName, first: port, last: endPort !== undefined && endPort > port ? endPort : port }
}

/** As Go's ParseUint with base 0, which Cilium uses: a leading zero is octal, and what is no such number is a name. */
function parsePortNumber(text: string): number | 'name' | undefined {
  if (/^0[0-7]*$/.test(text)) return inRange(Number.parseInt(text, 8))
  if (/^[1-9][0-9]*$/.test(text)) return inRange(Number(text))
  if (/^[0-9]+$/.test(text)) return undefined
  return /^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$/.test(text) && /[a-zA-Z]/.test(text) ? 'name' : undefined
}

function inRange(port: number): number | undefined {
  return port <= PORT_LAST ? port : undefined
}

/** @returns undefined when there are no L7 rules, be it because the list is empty */
function parseL7(cursor: Cursor, { limits }: RuleContext): HttpRules | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const http = map.get('http')
  map.finish(LATER_L7)
  return http && parseHttpRules(http, limits.regexProgramSizeMax, LATER)
}

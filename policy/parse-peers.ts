/** Whom a rule is about. One kind of peers may stand in a rule; an empty list of any kind makes it a rule about nobody. */

import { isMatchName, isMatchPattern, normalizeName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { containsPrefix, formatPrefix, type Prefix, parsePrefix } from './cidr.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import { type AwsGroup, ENTITIES, type Entity, type LabelSelector, type Peer, type PeerSet } from './model.ts'
import { boundedList, boundedString, isExtended, type MemberContext } from './parse-context.ts'
import { parseSelector } from './parse-selector.ts'

const EXCEPTIONS_MAX = 1000
const GROUP_CONDITIONS_MAX = 100
const GROUP_NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/
const SERVICE_NAME = /^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/
const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

type ParseMember = (item: Cursor, context: MemberContext) => readonly Peer[]

/** Kinds of peers, by what follows `from` or `to`. */
const MEMBERS: readonly (readonly [string, ParseMember])[] = [
  ['Endpoints', (item, { peers }) => [{ kind: 'endpoints', at: item.position, selector: parseSelector(item, peers) }]],
  ['Entities', parseEntity],
  ['CIDR', parseCidr],
  ['CIDRSet', parseCidrSet],
  ['Nodes', (item) => [{ kind: 'nodes', at: item.position, selector: parseSelector(item, { kind: 'labels' }) }]],
  ['Groups', parseGroup],
]

/** Those that only egress has. */
const EGRESS_MEMBERS: typeof MEMBERS = [...MEMBERS, ['Services', parseService], ['FQDNs', parseFqdn]]

/** @returns undefined when the rule names nobody */
export function parsePeers(map: MapCursor, context: MemberContext): PeerSet | undefined {
  const { direction, verdict } = context
  const side = direction === 'ingress' ? 'from' : 'to'
  const members: Peer[] = []
  const present: string[] = []
  let isAnyEmpty = false
  for (const [suffix, parse] of direction === 'ingress' ? MEMBERS : EGRESS_MEMBERS) {
    const name = `${side}${suffix}`
    const cursor = map.get(name)
    if (cursor === undefined) continue
    if (suffix === 'FQDNs' && verdict === 'deny' && !isExtended(cursor, 'toFQDNs in egressDeny', context)) continue
    const items = boundedList(cursor, 'peers')
    if (items === undefined) continue
    if (items.length === 0) {
      isAnyEmpty = true
      cursor.warning('an empty list selects nobody', 'leave it out to mean everybody')
      continue
    }
    present.push(name)
    for (const item of items) members.push(...parse(item, context))
  }
  if (present.length > 1) map.error(`${present.join(' and ')} cannot stand in one rule`, 'write one rule for each')
  // One empty list makes the rule one about nobody, whatever stands beside it.
  if (isAnyEmpty) return { kind: 'none' }
  if (present.length === 0) return undefined
  return members.length === 0 ? { kind: 'none' } : { kind: 'members', members }
}

/** What endpoints have to meet as well, as Cilium had it up to 1.18. */
export function parseRequires(map: MapCursor, context: MemberContext): readonly LabelSelector[] {
  const name = context.direction === 'ingress' ? 'fromRequires' : 'toRequires'
  const cursor = map.get(name)
  const items = (cursor && boundedList(cursor, 'requirements')) ?? []
  // Cilium's schema still has the list, for policies that state an empty one.
  if (cursor === undefined || items.length === 0 || !isExtended(cursor, name, context)) return []
  return items.map((item) => parseSelector(item, { kind: 'labels' }))
}

function parseEntity(cursor: Cursor): readonly Peer[] {
  const entity = cursor.string()
  if (entity === undefined) return []
  if ((ENTITIES as readonly string[]).includes(entity)) return [{ kind: 'entity', at: cursor.position, entity: entity as Entity }]
  const everyAddress = { 'world-ipv4': '0.0.0.0/0', 'world-ipv6': '::/0' }[entity]
  cursor.error(
    `no such entity: ${entity}`,
    everyAddress === undefined ? `one of ${ENTITIES.join(', ')}` : `write world, or the prefix "${everyAddress}" in a rule of its own`,
  )
  return []
}

function parseCidr(cursor: Cursor): readonly Peer[] {
  const prefix = prefixOf(cursor, true)
  return prefix === undefined ? [] : [{ kind: 'cidr', at: cursor.position, cidr: formatPrefix(prefix), except: [] }]
}

function parseCidrSet(cursor: Cursor): readonly Peer[] {
  const map = cursor.map()
  if (map === undefined) return []
  const at = map.position
  const cidr = map.get('cidr')
  const ref = map.get('cidrGroupRef')
  const selector = map.get('cidrGroupSelector')
  const exceptCursor = map.get('except')
  map.finish()
  const named = [cidr, ref, selector].filter((field) => field !== undefined)
  if (named.length !== 1) {
    const message =
      named.length === 0
        ? 'one of cidr, cidrGroupRef and cidrGroupSelector is needed'
        : 'cidr, cidrGroupRef and cidrGroupSelector exclude one another'
    map.error(message, named.length === 0 ? 'for example cidr: 10.0.0.0/8' : 'write a member for each')
  }
  if (cidr === undefined) exceptCursor?.error('exceptions are possible with cidr only', 'leave the prefixes out of the group')
  if (cidr !== undefined) {
    const prefix = prefixOf(cidr, false)
    const except = exceptCursor === undefined ? [] : parseExceptions(exceptCursor, prefix)
    return prefix === undefined ? [] : [{ kind: 'cidr', at, cidr: formatPrefix(prefix), except }]
  }
  if (selector !== undefined) return [{ kind: 'cidr-group', at, group: { selector: parseSelector(selector, { kind: 'labels' }) } }]
  const name = nameOf(ref, GROUP_NAME, 'CiliumCIDRGroup')
  return name === undefined ? [] : [{ kind: 'cidr-group', at, group: { name } }]
}

function parseExceptions(cursor: Cursor, prefix: Prefix | undefined): string[] {
  return (boundedList(cursor, 'exceptions', EXCEPTIONS_MAX) ?? []).flatMap((item) => {
    const inner = prefixOf(item, false)
    if (inner === undefined) return []
    if (prefix !== undefined && !containsPrefix(prefix, inner)) {
      item.error(`an exception must lie inside ${formatPrefix(prefix)}: ${formatPrefix(inner)}`)
      return []
    }
    return [formatPrefix(inner)]
  })
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

/** @param kind of thing that has the name */
function nameOf(cursor: Cursor | undefined, form: RegExp, kind: string): string | undefined {
  const name = boundedString(cursor)
  if (name === undefined || form.test(name)) return name
  cursor?.error(`not a name of a ${kind}: ${name}`, 'lower-case letters, digits and -')
  return undefined
}

/** A member may state a name and a selector: then it is about both, as in Cilium. */
function parseService(cursor: Cursor): readonly Peer[] {
  const map = cursor.map()
  if (map === undefined) return []
  const named = map.get('k8sService')?.map()
  const selected = map.get('k8sServiceSelector')?.map()
  map.finish()
  if (named === undefined && selected === undefined)
    map.error('k8sService or k8sServiceSelector is needed', 'for example k8sService: {serviceName: api, namespace: shop}')
  const peers: Peer[] = []
  if (named !== undefined) {
    const nameCursor = named.get('serviceName')
    const name = nameOf(nameCursor, SERVICE_NAME, 'service')
    const namespaceCursor = named.get('namespace')
    const namespace = nameOf(namespaceCursor, NAMESPACE, 'namespace')
    named.finish()
    if (nameCursor === undefined) named.error('serviceName is needed')
    if (namespaceCursor === undefined)
      named.warning('without a namespace this is the service of that name in every namespace', 'add namespace')
    if (name !== undefined) peers.push({ kind: 'service', at: named.position, namespace: namespace ?? '', service: { name } })
  }
  if (selected !== undefined) {
    const selectorCursor = selected.get('selector')
    const namespace = nameOf(selected.get('namespace'), NAMESPACE, 'namespace') ?? ''
    selected.finish()
    if (selectorCursor === undefined) selected.error('selector is needed', 'write selector: {} to select every service')
    else {
      const selector = parseSelector(selectorCursor, { kind: 'labels' })
      peers.push({ kind: 'service', at: selected.position, namespace, service: { selector } })
    }
  }
  return peers
}

function parseGroup(cursor: Cursor): readonly Peer[] {
  const map = cursor.map()
  const aws = map?.get('aws')
  map?.finish()
  if (map === undefined) return []
  const content = aws?.map()
  if (aws === undefined) map.error('aws is needed', 'for example aws: {securityGroupsIds: [sg-0123]}')
  if (content === undefined) return []
  const labelItems = [...(content.get('labels')?.map()?.entries() ?? [])]
  if (labelItems.length > GROUP_CONDITIONS_MAX) content.error(`more labels than ${GROUP_CONDITIONS_MAX}: ${labelItems.length}`)
  const texts = labelItems.slice(0, GROUP_CONDITIONS_MAX).map(([key, value]) => [key, value.string()] as const)
  const group: AwsGroup = {
    labels: Object.fromEntries(texts.flatMap(([key, text]) => (text === undefined ? [] : [[key, text]]))),
    securityGroupIds: textsOf(content.get('securityGroupsIds')),
    securityGroupNames: textsOf(content.get('securityGroupsNames')),
  }
  content.get('region')?.warning('region has no effect, as in Cilium: the provider knows it', 'remove region')
  content.finish()
  if (labelItems.length === 0 && group.securityGroupIds.length === 0 && group.securityGroupNames.length === 0)
    content.warning('without any condition this selects every instance', 'name labels, securityGroupsIds or securityGroupsNames')
  return [{ kind: 'group', at: map.position, group }]
}

function textsOf(cursor: Cursor | undefined): string[] {
  return ((cursor && boundedList(cursor, 'entries', GROUP_CONDITIONS_MAX)) ?? []).flatMap((item) => boundedString(item) ?? [])
}

function parseFqdn(cursor: Cursor, context: MemberContext): readonly Peer[] {
  const map = cursor.map()
  if (map === undefined) return []
  const name = parseDnsFields(map)
  map.finish()
  if (name?.matchName !== undefined && name.matchPattern !== undefined) {
    map.error('matchName and matchPattern exclude one another in toFQDNs', 'write a member for each')
    return []
  }
  if (name?.matchPattern !== undefined && context.verdict === 'deny' && /^\*+\.$/.test(name.matchPattern))
    map.warning('this denies every address that any name stands for', 'name the names')
  return name === undefined ? [] : [{ kind: 'fqdn', at: map.position, name }]
}

/** matchName and matchPattern, of which one at least has to be there. @returns undefined when neither can be used */
export function parseDnsFields(map: MapCursor): DnsRule | undefined {
  const rule: { matchName?: string; matchPattern?: string } = {}
  const nameCursor = map.get('matchName')
  const name = nameCursor?.string()
  // As in Cilium, what is empty is not there.
  if (nameCursor !== undefined && name !== undefined && name !== '') {
    if (isMatchName(name)) rule.matchName = normalizeName(name)
    else if (name.includes('*') && isMatchPattern(name)) nameCursor.error(`a name has no wildcards: ${name}`, 'write matchPattern')
    else nameCursor.error(`not a DNS name: ${name}`, 'labels of letters, digits, - and _ with dots between, at most 255 characters')
  }
  const patternCursor = map.get('matchPattern')
  const pattern = patternCursor?.string()
  if (patternCursor !== undefined && pattern !== undefined && pattern !== '') {
    if (isMatchPattern(pattern)) rule.matchPattern = normalizeName(pattern)
    else
      patternCursor.error(`not a pattern of DNS names: ${pattern}`, 'a name in which * stands for any part of a label, like *.example.com')
  }
  const isEmpty = (text: string | undefined, cursor: Cursor | undefined) => cursor === undefined || text === ''
  if (isEmpty(name, nameCursor) && isEmpty(pattern, patternCursor))
    map.error('matchName or matchPattern is needed', 'write matchPattern: "*" to mean every name')
  return rule.matchName === undefined && rule.matchPattern === undefined ? undefined : rule
}

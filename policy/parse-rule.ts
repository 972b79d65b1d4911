/**
 * The content of `spec`: subject, rules of both directions, default deny and what is said about the policy itself. Semantics are Cilium's;
 * what its newest version does not have is read in the dialect extended only. Peers, ports and L7 rules have modules of their own.
 */
import type { Cursor, MapCursor } from './cursor.ts'
import type { LabelSelector, PeerSet, PolicyRule, PolicySpec, Traffic } from './model.ts'
import { withNamedHosts } from './named-hosts.ts'
import { boundedList, isClusterwide, LIST_LENGTH_MAX, type MemberContext, type RuleContext, TEXT_LENGTH_MAX } from './parse-context.ts'
import { parseIcmps } from './parse-icmps.ts'
import { parsePeers, parseRequires } from './parse-peers.ts'
import { parsePortRule } from './parse-ports.ts'
import { parseSelector } from './parse-selector.ts'
import type { Direction } from './resolved.ts'

export type { RuleContext } from './parse-context.ts'

const LOG_LENGTH_MAX = 32
const LABELS_MAX = 100

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

/** @returns undefined when nothing useful could be read */
export function parseSpec(map: MapCursor, context: RuleContext): PolicySpec | undefined {
  const subject = parseSubject(map, context)
  const subjectKind = subject?.kind ?? 'endpoints'
  const rules: PolicyRule[] = []
  const named: Record<Direction, boolean> = { ingress: false, egress: false }
  let hasRules = false
  for (const [section, direction, verdict] of SECTIONS) {
    const cursor = map.get(section)
    if (cursor === undefined) continue
    const items = boundedList(cursor, 'rules')
    if (items === undefined) hasRules = true
    for (const item of items ?? []) {
      named[direction] = true
      hasRules = true
      const rule = parseRule(item, { ...context, subjectKind, direction, verdict })
      if (rule !== undefined) rules.push(rule)
    }
  }
  if (!hasRules) {
    map.error(
      'a policy needs at least one member in ingress, ingressDeny, egress or egressDeny',
      'for default deny without any exception write ingress: [{}]',
    )
  }
  const defaultDeny = parseDefaultDeny(map, named)
  const description = map.getLenient('description')?.string() ?? ''
  const labels = parseLabels(map)
  const log = parseLog(map)
  map.finish()
  if (subject === undefined) return undefined
  return { at: map.position, subject, defaultDeny, rules, description, labels, log }
}

function parseSubject(map: MapCursor, context: RuleContext): PolicySpec['subject'] | undefined {
  const endpoints = map.get('endpointSelector')
  const nodes = map.get('nodeSelector')
  if (endpoints !== undefined && nodes !== undefined)
    nodes.error('endpointSelector and nodeSelector cannot stand in one policy', 'write a policy for each')
  if (endpoints !== undefined) return { kind: 'endpoints', selector: parseSelector(endpoints, context.subjects) }
  if (nodes === undefined) {
    map.error('endpointSelector is needed', 'write endpointSelector: {} to select every endpoint of the namespace')
    return undefined
  }
  if (!isClusterwide(context))
    nodes.error('nodes belong to no namespace, so a policy of one cannot select them', 'write kind: CiliumClusterwideNetworkPolicy')
  return { kind: 'nodes', selector: parseSelector(nodes, { kind: 'labels' }) }
}

function parseDefaultDeny(map: MapCursor, named: Readonly<Record<Direction, boolean>>): Readonly<Record<Direction, boolean>> {
  const defaultDeny = { ...named }
  const override = map.getLenient('enableDefaultDeny')?.map()
  for (const direction of ['ingress', 'egress'] as const) {
    const value = override?.getLenient(direction)?.boolean()
    if (value !== undefined) defaultDeny[direction] = value && named[direction]
    if (value === true && !named[direction])
      override?.warning(`has no effect without ${direction} rules: ${direction}`, `write ${direction}: [{}]`)
  }
  override?.finish()
  return defaultDeny
}

function parseLabels(map: MapCursor): string[] {
  const cursor = map.getLenient('labels')
  const items = (cursor && boundedList(cursor, 'labels', LABELS_MAX)) ?? []
  return items.flatMap((item) => {
    const text = parseLabelItem(item)
    if (text === undefined || text.length <= TEXT_LENGTH_MAX) return text ?? []
    item.error(`longer than ${TEXT_LENGTH_MAX} characters: ${text.length}`)
    return []
  })
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

function parseLog(map: MapCursor): string {
  const log = map.getLenient('log')?.map()
  const cursor = log?.getLenient('value')
  const value = cursor?.string() ?? ''
  log?.finish()
  if (value.length > 2 * LOG_LENGTH_MAX || Array.from(value).length > LOG_LENGTH_MAX)
    cursor?.error(`longer than ${LOG_LENGTH_MAX} characters: ${value}`)
  else if (!/^\P{C}*$/u.test(value)) cursor?.error('holds characters that cannot be printed', 'letters, digits, spaces and signs')
  return value
}

function parseRule(cursor: Cursor, context: MemberContext): PolicyRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const { direction, verdict } = context
  const peers = parsePeers(map, context)
  const requires = parseRequires(map, context)
  const stated = parseTraffic(map, context)
  if (verdict === 'allow') parseAuthentication(map)
  map.finish()
  // Ports without peers mean whoever; nothing at all means nobody.
  const whom: PeerSet = peers ?? (stated.kind === 'any' ? { kind: 'none' } : { kind: 'any' })
  warnOfRequires(map, requires, whom)
  // A deny rule holds for the address, whatever a request calls it.
  const isBound = verdict === 'allow' && context.options.dialect === 'extended'
  const traffic = isBound ? withNamedHosts(stated, whom) : stated
  return { at: map.position, direction, verdict, peers: whom, requires, traffic }
}

/** Requirements narrow peers that are selected by label; they allow nobody and restrict nobody else. */
function warnOfRequires(map: MapCursor, requires: readonly LabelSelector[], peers: PeerSet): void {
  if (requires.length === 0 || peers.kind !== 'any') return
  map.warning(
    'requirements are asked of endpoints that are selected by label only: this allows everybody',
    'name the peers as well, {} for all of the namespace',
  )
}

function parseTraffic(map: MapCursor, context: MemberContext): Traffic {
  const portsCursor = map.get('toPorts')
  const icmpsCursor = map.get('icmps')
  const ports = (portsCursor && boundedList(portsCursor, 'members of toPorts', LIST_LENGTH_MAX)) ?? []
  const icmps = (icmpsCursor && boundedList(icmpsCursor, 'members of icmps', LIST_LENGTH_MAX)) ?? []
  if (ports.length > 0 && icmps.length > 0) map.error('toPorts and icmps cannot stand in one rule', 'write one rule for each')
  if (ports.length > 0) return { kind: 'ports', rules: ports.flatMap((item) => parsePortRule(item, context) ?? []) }
  return icmps.length > 0 ? { kind: 'icmps', fields: parseIcmps(icmps) } : { kind: 'any' }
}

function parseAuthentication(map: MapCursor): void {
  const cursor = map.get('authentication')
  const authentication = cursor?.map()
  if (authentication === undefined) return
  const modeCursor = authentication.get('mode')
  const mode = modeCursor?.string()
  authentication.finish()
  if (modeCursor === undefined) authentication.error('mode is needed', 'write mode: disabled, or remove authentication')
  if (mode === undefined || mode === 'disabled') return
  modeCursor?.error(
    `mutual authentication is not supported, and Cilium is about to remove it: ${mode}`,
    'remove authentication and say by label who may, or let the workloads speak TLS with client certificates',
  )
}

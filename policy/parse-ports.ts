/** One member of `toPorts`: ports, and what is said of the traffic on them. What cannot stand together is refused here. */
import type { Cursor, MapCursor } from './cursor.ts'
import {
  type L7Kind,
  type L7Rules,
  type NamedPort,
  PORT_PROTOCOLS,
  PORTLESS_PROTOCOLS,
  type PortlessProtocolName,
  type PortProtocolName,
  type PortRange,
  type PortRule,
} from './model.ts'
import { boundedList, type MemberContext } from './parse-context.ts'
import { parseL7 } from './parse-l7.ts'
import { parseListener, parseServerNames, parseTlsContext } from './parse-tls.ts'

const PORTS_MAX = 40
const PORT_LAST = 65535
/** As an IANA service name may be long. */
const PORT_NAME_LENGTH_MAX = 15

const NOT_IN_DENY = 'deny rules cannot have it: deny the ports, or allow what it says in a rule of its own'
const DENY_FIELDS: Readonly<Record<string, string>> = {
  terminatingTLS: NOT_IN_DENY,
  originatingTLS: NOT_IN_DENY,
  serverNames: NOT_IN_DENY,
  listener: NOT_IN_DENY,
}

type Port = PortRange | NamedPort

export function parsePortRule(cursor: Cursor, context: MemberContext): PortRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const portsCursor = map.get('ports')
  const items = (portsCursor && boundedList(portsCursor, 'ports', PORTS_MAX, 'write a second member of toPorts')) ?? []
  const ports = items.flatMap((item) => parsePort(item, context) ?? [])
  const rulesCursor = map.get('rules')
  const l7 = rulesCursor && parseL7(rulesCursor, context)
  if (l7 !== undefined) checkL7Ports(map, l7, ports, items.length, context)
  const more = context.verdict === 'deny' ? {} : parseConnection(map, ports, l7?.kind, context)
  map.finish(context.verdict === 'deny' ? DENY_FIELDS : {})
  if (items.length === 0) map.warning('without ports this matches nothing', 'name ports, or leave toPorts out to mean all traffic')
  return {
    at: map.position,
    ranges: ports.filter((port): port is PortRange => !isNamed(port)),
    names: ports.filter(isNamed),
    ...(l7 === undefined ? {} : { l7 }),
    ...more,
  }
}

function isNamed(port: Port): port is NamedPort {
  return 'name' in port
}

/** What is said of the connection rather than of what it carries. */
function parseConnection(
  map: MapCursor,
  ports: readonly Port[],
  l7: L7Kind | undefined,
  context: MemberContext,
): Pick<PortRule, 'serverNames' | 'terminatingTls' | 'originatingTls' | 'listener'> {
  const terminating = map.get('terminatingTLS')
  const originating = map.get('originatingTLS')
  const namesCursor = map.get('serverNames')
  const listenerCursor = map.get('listener')
  const terminatingTls = terminating && parseTlsContext(terminating, context)
  const originatingTls = originating && parseTlsContext(originating, context)
  const serverNames = namesCursor && parseServerNames(namesCursor)
  const listener = listenerCursor && parseListener(listenerCursor, context)
  if (serverNames !== undefined && l7 !== undefined && terminating === undefined)
    namesCursor?.error('serverNames cannot stand with L7 rules, which cannot be read inside TLS', 'add terminatingTLS, or remove the rules')
  if (listener !== undefined && l7 !== undefined)
    listenerCursor?.error('a listener cannot stand with L7 rules', 'write a second member of toPorts')
  const about: readonly (readonly [string, Cursor | undefined])[] = [
    ['serverNames', serverNames && namesCursor],
    ['terminatingTLS', terminating],
    ['originatingTLS', originating],
  ]
  const other = ports.find(({ protocol }) => protocol !== 'TCP')
  for (const [name, field] of other === undefined ? [] : about)
    field?.warning(
      `${name} applies to TCP only: what else comes to these ports is not allowed by this`,
      'write protocol: TCP for every port of this member',
    )
  return {
    ...(serverNames === undefined ? {} : { serverNames }),
    ...(terminatingTls === undefined ? {} : { terminatingTls }),
    ...(originatingTls === undefined ? {} : { originatingTls }),
    ...(listener === undefined ? {} : { listener }),
  }
}

/** Of which ports the rules can be asked. @param portCount how many the document has, readable or not */
function checkL7Ports(map: MapCursor, { kind }: L7Rules, ports: readonly Port[], portCount: number, { problems }: MemberContext): void {
  if (kind === 'dns' && portCount === 0) map.error('dns rules need a port', 'write ports: [{port: "53", protocol: ANY}]')
  for (const port of ports) {
    const { at, protocol } = port
    if (kind === 'dns') {
      if (protocol !== 'UDP' && protocol !== 'TCP' && protocol !== 'ANY')
        problems.error(at, `dns rules can only apply to UDP and TCP, not ${protocol}`, 'write protocol: ANY')
    } else if (protocol !== 'TCP') {
      problems.error(at, `L7 rules can only apply to TCP, not ${protocol}`, 'write protocol: TCP')
      continue
    }
    if (isNamed(port)) continue
    if (port.first === 0) problems.error(at, 'L7 rules cannot apply to every port', 'name the port')
    else if (kind === 'dns' && port.last > port.first)
      problems.error(at, `dns rules cannot apply to a range of ports: ${port.first}-${port.last}`, 'name each port')
  }
}

function parsePort(cursor: Cursor, context: MemberContext): Port | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const portCursor = map.get('port')
  const endCursor = map.get('endPort')
  const protocolCursor = map.get('protocol')
  const text = portCursor?.string()
  const endPort = endCursor?.integer(0, PORT_LAST)
  // As in Cilium, an empty protocol is any.
  const protocol = protocolCursor === undefined ? 'ANY' : (protocolCursor.string()?.toUpperCase() ?? '') || 'ANY'
  map.finish()
  const at = map.position
  if (isOneOf(protocol, Object.keys(PORTLESS_PROTOCOLS))) {
    if (!isPortlessAccepted(protocolCursor, protocol, context)) return undefined
    if (portCursor !== undefined && text !== '' && text !== '0')
      portCursor.error(`${protocol} has no ports: ${text}`, 'write port: "0", or remove it')
    if (endPort !== undefined && endPort !== 0) endCursor?.error(`${protocol} has no ports: ${endPort}`, 'remove endPort')
    return { at, protocol: protocol as PortlessProtocolName, first: 0, last: PORT_LAST }
  }
  if (portCursor === undefined) map.error('port is needed', 'write port: "0" to mean every port')
  const isKnown = isOneOf(protocol, PORT_PROTOCOLS)
  if (!isKnown) reportProtocol(protocolCursor, protocol, text, context)
  const port = text === undefined ? undefined : parsePortText(portCursor, text)
  if (!isKnown || port === undefined) return undefined
  if (typeof port === 'string') {
    if (endPort !== undefined && endPort !== 0) endCursor?.warning(`endPort means nothing beside a named port: ${endPort}`, 'remove it')
    return { at, protocol: protocol as PortProtocolName, name: port }
  }
  return rangeOf(protocol as PortProtocolName, port, endPort, map, endCursor)
}

function rangeOf(
  protocol: PortProtocolName,
  port: number,
  endPort: number | undefined,
  { position: at }: MapCursor,
  endCursor: Cursor | undefined,
): PortRange {
  if (port === 0) {
    if (endPort !== undefined && endPort !== 0)
      endCursor?.error(`port 0 means every port and cannot begin a range: ${endPort}`, 'begin the range at 1')
    return { at, protocol, first: 0, last: PORT_LAST }
  }
  if (endPort !== undefined && endPort !== 0 && endPort < port)
    endCursor?.warning(`endPort is below port and means nothing: ${endPort}`, `write ${port} or more`)
  return { at, protocol, first: port, last: endPort !== undefined && endPort > port ? endPort : port }
}

function isOneOf(text: string, words: readonly string[]): boolean {
  return words.includes(text)
}

function isPortlessAccepted(cursor: Cursor | undefined, protocol: string, { options }: MemberContext): boolean {
  if (options.dialect === 'extended' || options.extendedIpProtocols) return true
  cursor?.error(
    `the dialect cilium has protocols without ports only when policy.extendedIpProtocols is set: ${protocol}`,
    'set policy.extendedIpProtocols: true or policy.dialect: extended, or remove it',
  )
  return false
}

function reportProtocol(cursor: Cursor | undefined, protocol: string, port: string | undefined, { options }: MemberContext): void {
  if (protocol === 'ICMP' || protocol === 'ICMPV6') {
    const type = port !== undefined && /^[0-9]{1,3}$/.test(port) ? port : 8
    const family = protocol === 'ICMP' ? 'IPv4' : 'IPv6'
    cursor?.error(`protocol has no ports: ${protocol}`, `write icmps: [{fields: [{family: ${family}, type: ${type}}]}] in place of toPorts`)
    return
  }
  const isPortlessKnown = options.dialect === 'extended' || options.extendedIpProtocols
  const known = [...PORT_PROTOCOLS, ...(isPortlessKnown ? Object.keys(PORTLESS_PROTOCOLS) : [])]
  cursor?.error(`protocol is not supported: ${protocol}`, `one of ${known.join(', ')}`)
}

/** @returns a number, or a name in lower case */
function parsePortText(cursor: Cursor | undefined, text: string): number | string | undefined {
  if (isServiceName(text)) return text.toLowerCase()
  const port = parsePortNumber(text)
  if (port === undefined)
    cursor?.error(`not a port: ${text}`, 'a number from 0 to 65535 in quotes, or a name of at most 15 letters, digits and -')
  return port
}

/** RFC 6335 5.1: what has a letter is a name, 0x10 too. */
function isServiceName(text: string): boolean {
  return text.length <= PORT_NAME_LENGTH_MAX && /^[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*$/.test(text) && /[a-zA-Z]/.test(text)
}

/** As Go's ParseUint with base 0, which Cilium uses: a leading zero is octal. */
function parsePortNumber(text: string): number | undefined {
  if (text.length > PORT_NAME_LENGTH_MAX) return undefined
  const isOctal = /^0[0-7]*$/.test(text)
  if (!isOctal && !/^[1-9][0-9]*$/.test(text)) return undefined
  const port = Number.parseInt(text, isOctal ? 8 : 10)
  return port <= PORT_LAST ? port : undefined
}

/** Whether traffic of one rule is traffic of another. */
import type { NamedPort, PortRange, PortRule, Traffic } from '../model.ts'
import { PORTLESS_PROTOCOLS } from '../model.ts'

/** Nothing but ports: who gets there gets through. */
export function isPlain({ l7, serverNames, terminatingTls, originatingTls, listener }: PortRule): boolean {
  return (
    l7 === undefined && serverNames === undefined && terminatingTls === undefined && originatingTls === undefined && listener === undefined
  )
}

/** Whatever the inner one says, the outer one says for all of its ports without more conditions. */
export function coversTraffic(outer: Traffic, inner: Traffic): boolean {
  if (outer.kind === 'any') return true
  if (outer.kind === 'icmps')
    return (
      inner.kind === 'icmps' &&
      inner.fields.every(({ family, type }) => outer.fields.some((field) => field.family === family && field.type === type))
    )
  // A list without ports matches nothing, and nothing is moot about it.
  return inner.kind === 'ports' && !isEmpty(inner) && inner.rules.every((rule) => coversPorts(outer, rule))
}

/** The same for one member of toPorts. */
export function coversPorts(outer: Traffic, inner: PortRule): boolean {
  if (outer.kind === 'any') return true
  if (outer.kind === 'icmps') return false
  const plain = outer.rules.filter(isPlain)
  return (
    inner.ranges.every((range) => plain.some((rule) => rule.ranges.some((candidate) => coversRange(candidate, range)))) &&
    inner.names.every((name) => plain.some((rule) => coversName(rule, name)))
  )
}

/**
 * The first ports that both are about, as text; undefined when there are none. What number a name stands for is the endpoints' to say:
 * a name and a number are taken for different ports here, because a warning for each such pair would help nobody.
 */
export function sharedPorts(a: PortRule, b: PortRule): string | undefined {
  for (const one of a.ranges) {
    for (const other of b.ranges) {
      const first = Math.max(one.first, other.first)
      const last = Math.min(one.last, other.last)
      if (first > last || !(coversProtocol(one.protocol, other.protocol) || coversProtocol(other.protocol, one.protocol))) continue
      const protocol = one.protocol === 'ANY' ? other.protocol : one.protocol
      return `${first === 0 && last === 65535 ? 'every port' : first === last ? first : `${first}-${last}`}/${protocol}`
    }
  }
  const name = a.names.find((one) => b.names.some((other) => one.name === other.name && sharesProtocol(one, other)))
  return name === undefined ? undefined : `${name.name}/${name.protocol}`
}

/** Whether a port is among those of a rule; one that is named may be. */
export function mayHavePort(traffic: Traffic, protocol: 'TCP' | 'UDP', port: number): boolean {
  if (traffic.kind !== 'ports') return traffic.kind === 'any'
  return traffic.rules.some(
    ({ ranges, names }) =>
      names.length > 0 || ranges.some((range) => coversProtocol(range.protocol, protocol) && range.first <= port && range.last >= port),
  )
}

export function isEmpty({ rules }: Extract<Traffic, { kind: 'ports' }>): boolean {
  return rules.every(({ ranges, names }) => ranges.length === 0 && names.length === 0)
}

function coversRange(outer: PortRange, inner: PortRange): boolean {
  return coversProtocol(outer.protocol, inner.protocol) && outer.first <= inner.first && outer.last >= inner.last
}

function coversName({ ranges, names }: PortRule, { name, protocol }: NamedPort): boolean {
  return (
    names.some((candidate) => candidate.name === name && coversProtocol(candidate.protocol, protocol)) ||
    ranges.some((range) => coversProtocol(range.protocol, protocol) && range.first === 0 && range.last === 65535)
  )
}

/** ANY is every protocol that has ports. */
function coversProtocol(outer: PortRange['protocol'], inner: PortRange['protocol']): boolean {
  return outer === inner || (outer === 'ANY' && !Object.hasOwn(PORTLESS_PROTOCOLS, inner))
}

function sharesProtocol(a: NamedPort, b: NamedPort): boolean {
  return coversProtocol(a.protocol, b.protocol) || coversProtocol(b.protocol, a.protocol)
}

/** ICMP types of a document, by number or by the names that Cilium has for them (pkg/policy/api/icmp.go). */
import type { Cursor } from './cursor.ts'
import type { IcmpField } from './model.ts'
import { boundedList } from './parse-context.ts'

const FIELDS_MAX = 40
const TYPE_LAST = 255

const FAMILIES = { IPv4: 4, IPv6: 6 } as const

/** By family. Cilium's schema writes ExtendedEchoReply with a space for IPv4; both are read. */
export const ICMP_TYPES: Readonly<Record<IcmpField['family'], Readonly<Record<string, number>>>> = {
  4: {
    EchoReply: 0,
    DestinationUnreachable: 3,
    Redirect: 5,
    Echo: 8,
    EchoRequest: 8,
    RouterAdvertisement: 9,
    RouterSelection: 10,
    TimeExceeded: 11,
    ParameterProblem: 12,
    Timestamp: 13,
    TimestampReply: 14,
    Photuris: 40,
    ExtendedEchoRequest: 42,
    ExtendedEchoReply: 43,
    'ExtendedEcho Reply': 43,
  },
  6: {
    DestinationUnreachable: 1,
    PacketTooBig: 2,
    TimeExceeded: 3,
    ParameterProblem: 4,
    EchoRequest: 128,
    EchoReply: 129,
    MulticastListenerQuery: 130,
    MulticastListenerReport: 131,
    MulticastListenerDone: 132,
    RouterSolicitation: 133,
    RouterAdvertisement: 134,
    NeighborSolicitation: 135,
    NeighborAdvertisement: 136,
    RedirectMessage: 137,
    RouterRenumbering: 138,
    ICMPNodeInformationQuery: 139,
    ICMPNodeInformationResponse: 140,
    InverseNeighborDiscoverySolicitation: 141,
    InverseNeighborDiscoveryAdvertisement: 142,
    HomeAgentAddressDiscoveryRequest: 144,
    HomeAgentAddressDiscoveryReply: 145,
    MobilePrefixSolicitation: 146,
    MobilePrefixAdvertisement: 147,
    DuplicateAddressRequestCodeSuffix: 157,
    DuplicateAddressConfirmationCodeSuffix: 158,
    ExtendedEchoRequest: 160,
    ExtendedEchoReply: 161,
  },
}

/** @param items members of `icmps`, each with a list of fields */
export function parseIcmps(items: readonly Cursor[]): IcmpField[] {
  return items.flatMap((item) => {
    const map = item.map()
    const fieldsCursor = map?.get('fields')
    map?.finish()
    if (map === undefined) return []
    const fields = fieldsCursor && boundedList(fieldsCursor, 'fields', FIELDS_MAX, 'write a second member of icmps')
    if (fieldsCursor === undefined || fields?.length === 0)
      map.warning('without fields this matches nothing', 'name types, or leave icmps out to mean all traffic')
    return (fields ?? []).flatMap((field) => parseField(field) ?? [])
  })
}

function parseField(cursor: Cursor): IcmpField | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const familyCursor = map.get('family')
  const typeCursor = map.get('type')
  const name = familyCursor === undefined ? 'IPv4' : familyCursor.string()
  map.finish()
  const isFamily = name !== undefined && Object.hasOwn(FAMILIES, name)
  if (name !== undefined && !isFamily) familyCursor?.error(`no such family: ${name}`, 'IPv4 or IPv6')
  if (typeCursor === undefined) map.error('type is needed', 'a number like 8, or a name like EchoRequest')
  if (typeCursor === undefined || !isFamily) return undefined
  const family = FAMILIES[name as keyof typeof FAMILIES]
  const type = parseType(typeCursor, family)
  return type === undefined ? undefined : { at: map.position, family, type }
}

function parseType(cursor: Cursor, family: IcmpField['family']): number | undefined {
  if (cursor.value.kind === 'scalar' && typeof cursor.value.value === 'number') return cursor.integer(0, TYPE_LAST)
  const text = cursor.string()
  if (text === undefined) return undefined
  if (/^(?:0|[1-9][0-9]{0,2})$/.test(text) && Number(text) <= TYPE_LAST) return Number(text)
  const types = ICMP_TYPES[family]
  if (Object.hasOwn(types, text)) return types[text]
  const other = family === 4 ? 6 : 4
  const hint = Object.hasOwn(ICMP_TYPES[other], text)
    ? `write family: IPv${other}, which has it`
    : `a number from 0 to 255, or one of ${Object.keys(types).join(', ')}`
  cursor.error(`no such ICMP type of IPv${family}: ${text}`, hint)
  return undefined
}

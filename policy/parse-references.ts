/**
 * Documents that policies refer to: CIDR groups, services, endpoint slices and peer groups. Services and slices are what kubectl prints:
 * fields that say nothing to policy are let through, known or not, because Kubernetes has judged them.
 */
import { addressBits, formatPrefix, type Prefix, parsePrefix } from './cidr.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import type { AwsGroup, CidrGroup, EndpointSlice, PeerGroup, ReferenceDocument, Service } from './model.ts'
import type { ParseOptions } from './options.ts'
import { type Metadata, parseLabels } from './parse-metadata.ts'
import { NAMESPACE_LABEL_KEY } from './reserved.ts'

const CIDRS_MAX = 100_000
/** Kubernetes' own limits. */
const SLICE_ENDPOINTS_MAX = 1000
const ENDPOINT_ADDRESSES_MAX = 100
const GROUP_MEMBERS_MAX = 1000
const SERVICE_NAME_LABEL = 'kubernetes.io/service-name'
const ADDRESS_TYPES = ['IPv4', 'IPv6', 'FQDN'] as const

/** Reads the rest of a document of one kind. What is wrong is reported; what could be read is returned all the same. */
export type ReferenceParser = (map: MapCursor, metadata: Metadata, options: ParseOptions) => ReferenceDocument

/** By kind. */
export const REFERENCE_PARSERS: Readonly<Record<ReferenceDocument['kind'], ReferenceParser>> = {
  CiliumCIDRGroup: parseCidrGroup,
  Service: parseService,
  EndpointSlice: parseEndpointSlice,
  PeerGroup: parsePeerGroup,
}

function parseCidrGroup(map: MapCursor, metadata: Metadata, { dialect }: ParseOptions): CidrGroup {
  const spec = specOf(map)
  const list = spec?.get('externalCIDRs')
  if (spec !== undefined && list === undefined) spec.error('externalCIDRs is needed', 'write externalCIDRs: [] for a group of nobody')
  // Cilium refuses an address without a length here, unlike in fromCIDR.
  const cidrs = list === undefined ? [] : parseCidrs(list, dialect === 'extended')
  spec?.finish()
  map.getLenient('status')
  const { name, namespace } = metadata
  return { kind: 'CiliumCIDRGroup', namespace, name, at: map.position, labels: parseLabels(metadata), cidrs }
}

function parseService(map: MapCursor, metadata: Metadata): Service {
  const { name, namespace } = metadata
  const spec = specOf(map)
  map.getLenient('status')
  const type = spec?.getLenient('type')
  const selector = spec?.get('selector')
  const pairs = [...(selector?.map()?.entries() ?? [])].flatMap(([key, value]) => {
    const text = value.string()
    return text === undefined ? [] : [[key, text] as const]
  })
  const service: Service = { kind: 'Service', namespace, name, at: map.position, labels: parseLabels(metadata) }
  if (type?.string() === 'ExternalName') {
    type.warning('a service of type ExternalName has no backends: who refers to it means nobody', 'write a rule with toFQDNs instead')
    return service
  }
  if (pairs.length === 0) return service
  const requirements = [...pairs, [NAMESPACE_LABEL_KEY, namespace] as const].map(([key, value]) => {
    return { source: 'k8s', key, operator: 'In', values: [value] } as const
  })
  return { ...service, selector: { requirements } }
}

function parseEndpointSlice(map: MapCursor, metadata: Metadata): EndpointSlice {
  const { name, namespace, labels } = metadata
  const label = labels?.map()?.get(SERVICE_NAME_LABEL)
  const service = label?.string() ?? ''
  if (label === undefined)
    map.warning(`without the label ${SERVICE_NAME_LABEL} it is of no service`, 'add the label, or remove the document')
  const typeCursor = map.get('addressType')
  const text = typeCursor?.string()
  const type = ADDRESS_TYPES.find((candidate) => candidate === text)
  if (typeCursor === undefined) map.error('addressType is needed', 'addressType: IPv4')
  else if (type === undefined && text !== undefined) typeCursor.error(`no such address type: ${text}`, `one of ${ADDRESS_TYPES.join(', ')}`)
  if (type === 'FQDN') typeCursor?.warning('names are not looked up: this slice adds no address', 'write a rule with toFQDNs instead')
  // Kubernetes writes null for none.
  const list = map.getLenient('endpoints')
  const items = list?.list() ?? []
  if (items.length > SLICE_ENDPOINTS_MAX) list?.error(`more endpoints than ${SLICE_ENDPOINTS_MAX}: ${items.length}`)
  const addresses = items.slice(0, SLICE_ENDPOINTS_MAX).flatMap((item) => parseSliceEndpoint(item, type))
  map.getLenient('ports')
  return { kind: 'EndpointSlice', namespace, name, at: map.position, service, addresses: sorted(addresses) }
}

/** @returns the addresses of one that is ready */
function parseSliceEndpoint(cursor: Cursor, type: (typeof ADDRESS_TYPES)[number] | undefined): readonly string[] {
  const map = cursor.map()
  if (map === undefined) return []
  // No word of it counts as ready.
  const isReady = map.getLenient('conditions')?.map()?.getLenient('ready')?.boolean() ?? true
  const list = map.get('addresses')
  const items = list?.list() ?? []
  if (list === undefined) map.error('addresses is needed')
  if (items.length > ENDPOINT_ADDRESSES_MAX) list?.error(`more addresses than ${ENDPOINT_ADDRESSES_MAX}: ${items.length}`)
  const addresses = items.slice(0, ENDPOINT_ADDRESSES_MAX).flatMap((item) => {
    const text = item.string()
    if (text === undefined || type === 'FQDN' || type === undefined) return []
    const prefix = text.includes('/') ? undefined : parsePrefix(text, true)
    if (prefix !== undefined && `IPv${prefix.family}` === type) return [formatAddress(prefix)]
    item.error(`not an ${type} address: ${text}`)
    return []
  })
  return isReady ? addresses : []
}

function parsePeerGroup(map: MapCursor, metadata: Metadata): PeerGroup {
  const spec = specOf(map)
  const awsCursor = spec?.get('aws')
  if (spec !== undefined && awsCursor === undefined) spec.error('aws is needed', 'say which instances the addresses are of')
  const aws = parseAws(awsCursor)
  const list = spec?.get('cidrs')
  if (spec !== undefined && list === undefined) spec.error('cidrs is needed', 'write cidrs: [] for a group of nobody')
  const cidrs = list === undefined ? [] : parseCidrs(list, true)
  spec?.finish()
  const { name, namespace } = metadata
  return { kind: 'PeerGroup', namespace, name, at: map.position, aws, cidrs }
}

function parseAws(cursor: Cursor | undefined): AwsGroup {
  const map = cursor?.map()
  const labels: [string, string][] = []
  for (const [key, value] of map?.get('labels')?.map()?.entries() ?? []) {
    const text = value.string()
    if (text !== undefined) labels.push([key, text])
  }
  const strings = (name: string): readonly string[] => {
    const list = map?.get(name)
    const items = list?.list() ?? []
    if (items.length > GROUP_MEMBERS_MAX) list?.error(`more members than ${GROUP_MEMBERS_MAX}: ${items.length}`)
    return items.slice(0, GROUP_MEMBERS_MAX).flatMap((item) => item.string() ?? [])
  }
  const securityGroupIds = strings('securityGroupsIds')
  const securityGroupNames = strings('securityGroupsNames')
  map?.finish()
  if (map?.isEmpty === true) map.error('labels, securityGroupsIds or securityGroupsNames is needed', 'say what the instances have')
  return { labels: Object.fromEntries(labels), securityGroupIds, securityGroupNames }
}

function specOf(map: MapCursor): MapCursor | undefined {
  const cursor = map.get('spec')
  if (cursor === undefined) map.error('spec is needed')
  return cursor?.map()
}

/** @param takesAddress whether an address stands for the prefix of itself */
function parseCidrs(list: Cursor, takesAddress: boolean): readonly string[] {
  const items = list.list()
  if (items?.length === 0) list.warning('an empty list is a group of nobody')
  if (items !== undefined && items.length > CIDRS_MAX) list.error(`more prefixes than ${CIDRS_MAX}: ${items.length}`)
  const cidrs = (items ?? []).slice(0, CIDRS_MAX).flatMap((item) => {
    const text = item.string()
    if (text === undefined) return []
    const prefix = parsePrefix(text, takesAddress)
    if (prefix !== undefined) return [formatPrefix(prefix)]
    const single = parsePrefix(text, true)
    item.error(`not a CIDR prefix: ${text}`, single === undefined ? 'for example 10.0.0.0/8' : `write ${formatPrefix(single)}`)
    return []
  })
  return sorted(cidrs)
}

function formatAddress(prefix: Prefix): string {
  return formatPrefix(prefix).replace(`/${addressBits(prefix.family)}`, '')
}

function sorted(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)].sort()
}

/**
 * The workloads file: clusters, namespaces, nodes, the API server and endpoints, as the command line and later Kubernetes provide them too. Judged
 * whole: one wrong entry refuses the file, and what was accepted before stays.
 */
import { LineCounter, parseDocument } from 'yaml'
import { z } from 'zod'
import { isMatchName } from '#parsers/dns/name-pattern.ts'
import type { PortProtocol } from '#policy/compile.ts'
import type { NamedPortNumber } from '#policy/selector-index.ts'
import { kubectlTags } from '#policy/yaml.ts'
import { isAddress } from '#sys/addresses.ts'
import { AgentError } from '../errors.ts'

/** @param key of an endpoint's label @returns its source, k8s if it does not say, and what is left */
export function splitLabelKey(key: string): { readonly source: string; readonly name: string } {
  const colon = key.indexOf(':')
  return colon < 0 ? { source: 'k8s', name: key } : { source: key.slice(0, colon), name: key.slice(colon + 1) }
}

const name = z.string().regex(/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/, 'lower-case letters, digits, dots and hyphens are needed')
const labels = z.record(z.string().min(1).max(317), z.string().max(63)).superRefine((record, context) => {
  for (const key of Object.keys(record)) {
    if (/[:=\s]/.test(key)) context.addIssue({ code: 'custom', path: [key], message: 'a key without :, = and spaces is needed' })
  }
})
/** Keys of an endpoint's labels may say where the label comes from: `container:app`. Without, they are labels of Kubernetes. */
const sourcedLabels = z.record(z.string().min(1).max(317), z.string().max(63)).superRefine((record, context) => {
  const names = new Set<string>()
  for (const key of Object.keys(record)) {
    const { source, name } = splitLabelKey(key)
    const full = `${source}:${name}`
    if (!(LABEL_SOURCES as readonly string[]).includes(source) || !/^[^:=\s]+$/.test(name))
      context.addIssue({ code: 'custom', path: [key], message: `KEY or SOURCE:KEY is needed, SOURCE one of ${LABEL_SOURCES.join(', ')}` })
    else if (names.has(full)) context.addIssue({ code: 'custom', path: [key], message: `there are two labels ${full}` })
    names.add(full)
  }
})
const ipv4 = z.string().refine((text) => isAddress(text) && !text.includes(':'), 'an IPv4 address is needed')
const ipv6 = z.string().refine((text) => isAddress(text) && text.includes(':'), 'an IPv6 address is needed')
const namedPort = z.string().regex(/^([1-9]\d{0,4})\/(TCP|UDP|SCTP)$/, 'PORT/PROTOCOL is needed, for example 80/TCP')

export const ENDPOINTS_MAX = 16384
/** As many as resolvers take. */
export const SEARCH_DOMAINS_MAX = 32
const NODES_MAX = 5000
const API_SERVER_ADDRESSES_MAX = 64

/** Where labels of endpoints may come from; those of other sources are Headgate's to give. */
const LABEL_SOURCES = ['k8s', 'container', 'cni', 'unspec'] as const

/** One endpoint as the user describes it. */
export const endpointSpecSchema = z
  .strictObject({
    name,
    namespace: name.default('default'),
    labels: sourcedLabels.default({}),
    serviceAccount: name.optional(),
    netns: z.string().min(1).max(4095).optional(),
    interface: z.string().min(1).max(15).optional(),
    ipv4: z.array(ipv4).max(8).default([]),
    ipv6: z.array(ipv6).max(8).default([]),
    ports: z.record(z.string().regex(/^[a-z0-9-]{1,15}$/), namedPort).default({}),
    /** What policy would deny of its traffic is reported, and not denied. */
    audit: z.boolean().default(false),
    /** Domains that its resolver appends to names; absent: those of its namespace's resolv.conf, else the setting dns.searchDomains. */
    searchDomains: z.array(z.string().refine(isMatchName, 'a DNS name is needed')).max(SEARCH_DOMAINS_MAX).optional(),
  })
  .refine((spec) => (spec.netns === undefined) !== (spec.interface === undefined), 'one of netns and interface is needed, not both')

export type EndpointSpec = z.infer<typeof endpointSpecSchema>

const workloadsSchema = z.strictObject({
  apiVersion: z.literal('headgate.io/v1'),
  cluster: name.default('default'),
  namespaces: z.array(z.strictObject({ name, labels: labels.default({}) })).default([]),
  nodes: z
    .array(z.strictObject({ name, labels: labels.default({}), addresses: z.array(z.union([ipv4, ipv6])).default([]) }))
    .max(NODES_MAX)
    .default([]),
  /** Addresses of the Kubernetes API server. */
  kubeApiserver: z
    .array(z.union([ipv4, ipv6]))
    .max(API_SERVER_ADDRESSES_MAX)
    .default([]),
  endpoints: z.array(endpointSpecSchema).max(ENDPOINTS_MAX).default([]),
})

export type Workloads = z.infer<typeof workloadsSchema>

/** What holds before any file is read. */
export const NO_WORKLOADS: Workloads = {
  apiVersion: 'headgate.io/v1',
  cluster: 'default',
  namespaces: [],
  nodes: [],
  kubeApiserver: [],
  endpoints: [],
}

const FILE_BYTES_MAX = 16 << 20

/** @throws AgentError HG-2001 with every problem, its line and path */
export function parseWorkloads(text: string, file: string): Workloads {
  if (text.length > FILE_BYTES_MAX) throw new AgentError('HG-2001', `${file}: larger than ${FILE_BYTES_MAX} bytes`)
  const lines = new LineCounter()
  const document = parseDocument(text, { version: '1.1', uniqueKeys: true, lineCounter: lines, customTags: kubectlTags })
  const problems = document.errors.map(({ pos, message }) => `${file}:${lines.linePos(pos[0]).line}: ${message.split('\n')[0]}`)
  if (problems.length === 0) {
    const result = workloadsSchema.safeParse(document.toJS({ maxAliasCount: 100 }))
    if (result.success) {
      problems.push(...duplicates(result.data).map((problem) => `${file}: ${problem}`))
      if (problems.length === 0) return result.data
    } else {
      for (const issue of result.error.issues) {
        const path = issue.path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('')
        const node = document.getIn(issue.path, true) as { range?: [number, number, number] } | undefined
        const line = node?.range ? `:${lines.linePos(node.range[0]).line}` : ''
        problems.push(`${file}${line}: ${path.replace(/^\./, '') || 'document'}: ${issue.message}`)
      }
    }
  }
  throw new AgentError('HG-2001', problems.join('\n'))
}

function duplicates(workloads: Workloads): string[] {
  const problems: string[] = []
  const seen = new Set<string>()
  for (const endpoint of workloads.endpoints) {
    const key = `${endpoint.namespace}/${endpoint.name}`
    if (seen.has(key)) problems.push(`two endpoints have the name ${key}`)
    seen.add(key)
  }
  return problems
}

/** Ports of an endpoint that have a name, in the order of the file. */
export function namedPortsOf({ ports }: Pick<EndpointSpec, 'ports'>): NamedPortNumber[] {
  return Object.entries(ports).map(([name, text]) => {
    const [port = '', protocol = ''] = text.split('/')
    return { name, port: Number(port), protocol: protocol as PortProtocol }
  })
}

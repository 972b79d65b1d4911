/**
 * The workloads file: clusters, namespaces, nodes and endpoints, as the command line and later Kubernetes provide them too. Judged
 * whole: one wrong entry refuses the file, and what was accepted before stays.
 */
import { LineCounter, parseDocument } from 'yaml'
import { z } from 'zod'
import { isAddress } from '#sys/addresses.ts'
import { AgentError } from '../errors.ts'

const name = z.string().regex(/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/, 'lower-case letters, digits, dots and hyphens are needed')
const labels = z.record(z.string().min(1).max(317), z.string().max(63))
const ipv4 = z.string().refine((text) => isAddress(text) && !text.includes(':'), 'an IPv4 address is needed')
const ipv6 = z.string().refine((text) => isAddress(text) && text.includes(':'), 'an IPv6 address is needed')
const namedPort = z.string().regex(/^([1-9]\d{0,4})\/(TCP|UDP|SCTP)$/, 'PORT/PROTOCOL is needed, for example 80/TCP')

export const ENDPOINTS_MAX = 4096

/** One endpoint as the user describes it. */
export const endpointSpecSchema = z
  .strictObject({
    name,
    namespace: name.default('default'),
    labels: labels.default({}),
    serviceAccount: name.optional(),
    netns: z.string().min(1).max(4095).optional(),
    interface: z.string().min(1).max(15).optional(),
    ipv4: z.array(ipv4).max(8).default([]),
    ipv6: z.array(ipv6).max(8).default([]),
    ports: z.record(z.string().regex(/^[a-z0-9-]{1,15}$/), namedPort).default({}),
  })
  .refine((spec) => (spec.netns === undefined) !== (spec.interface === undefined), 'one of netns and interface is needed, not both')

export type EndpointSpec = z.infer<typeof endpointSpecSchema>

const workloadsSchema = z.strictObject({
  apiVersion: z.literal('headgate.io/v1'),
  cluster: name.default('default'),
  namespaces: z.array(z.strictObject({ name, labels: labels.default({}) })).default([]),
  nodes: z.array(z.strictObject({ name, labels: labels.default({}), addresses: z.array(z.union([ipv4, ipv6])).default([]) })).default([]),
  endpoints: z.array(endpointSpecSchema).max(ENDPOINTS_MAX).default([]),
})

export type Workloads = z.infer<typeof workloadsSchema>

/** What holds before any file is read. */
export const NO_WORKLOADS: Workloads = { apiVersion: 'headgate.io/v1', cluster: 'default', namespaces: [], nodes: [], endpoints: [] }

const FILE_BYTES_MAX = 16 << 20

/** @throws AgentError HG-2001 with every problem, its line and path */
export function parseWorkloads(text: string, file: string): Workloads {
  if (text.length > FILE_BYTES_MAX) throw new AgentError('HG-2001', `${file}: larger than ${FILE_BYTES_MAX} bytes`)
  const lines = new LineCounter()
  const document = parseDocument(text, { version: '1.1', uniqueKeys: true, lineCounter: lines })
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

/** Where the proxies live: the agent makes the namespaces and says so in netns.json. */
import { z } from 'zod'
import { readFileIfPresent } from '#sys/atomic-file.ts'
import { isNetns } from '#sys/netns.ts'
import { ApiError } from './errors.ts'

const namespaceSchema = z.object({ name: z.string(), path: z.string() })
const fileSchema = z.object({ version: z.literal(1), egress: namespaceSchema, ingress: namespaceSchema })

export interface ProxyNamespaces {
  /** Path of the namespace that Envoy runs in: egress listeners and all upstream sockets. */
  readonly egress: string
  /** Path of the namespace that the ingress listeners live in. */
  readonly ingress: string
}

/** @returns undefined while the agent has not made them @throws ApiError when the file is not one that this program knows */
export function readNamespaces(path: string): ProxyNamespaces | undefined {
  const bytes = readFileIfPresent(path)
  if (bytes === undefined) return undefined
  let file: z.infer<typeof fileSchema>
  try {
    file = fileSchema.parse(JSON.parse(bytes.toString('utf8')))
  } catch (cause) {
    throw new ApiError('HG-5904', 'not a description of namespaces that this program knows', path, { cause })
  }
  const { egress, ingress } = file
  return isNetns(egress.path) && isNetns(ingress.path) ? { egress: egress.path, ingress: ingress.path } : undefined
}

/**
 * Security identities: labels to numbers. The embedded allocator keeps them in a file; the interface is what the Kubernetes and etcd
 * allocators will implement. The same labels get the same number after any restart, because a number is on disk before it is used.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { IDENTITY_SEVERAL_NAMES } from '#bpf/gen/abi.ts'
import type { LabelFilter } from '#policy/label-filter.ts'
import { StateFile } from '../state-file.ts'
import { splitLabelKey } from './file.ts'

export interface Identity {
  readonly id: number
  /** source:key=value, sorted. */
  readonly labels: readonly string[]
}

/** Gives numbers to label sets and to CIDR prefixes. */
export interface IdentityAllocator {
  /** @param labels sorted */
  allocate(labels: readonly string[]): Identity
  /** Node-local. @param prefix canonical */
  allocateCidr(prefix: string): Identity
  /** Of a condition on DNS names (PolicyEngine.nameSelectors). Node-local. @param label what people are shown */
  allocateName(key: string, label: string): Identity
  /** Runs something that allocates many numbers, which are used afterwards: they are kept together, when it returns. */
  batch<T>(run: () => T): T
  get(id: number): Identity | undefined
  /**
   * Forgets prefixes and conditions that are not in use, but those that got their numbers last: what comes back soon has the same number, and
   * what is never seen again takes no room. Numbers are not given twice.
   */
  forgetUnused(prefixes: ReadonlyMap<string, unknown>, names: ReadonlyMap<string, unknown>): void
}

const FIRST_ID = 256
const FIRST_CIDR_ID = 1 << 24
/** Never those of packets: rows of names are looked up beside those of the address. */
const FIRST_NAME_ID = 1 << 25

/** Prefixes, and conditions on names, that are kept without being in use. */
const UNUSED_MAX = 1024

const fileSchema = z.strictObject({
  version: z.literal(1),
  next: z.int().min(FIRST_ID),
  nextCidr: z.int().min(FIRST_CIDR_ID),
  identities: z.array(z.strictObject({ id: z.int(), labels: z.array(z.string()) })),
  cidrs: z.array(z.strictObject({ id: z.int(), prefix: z.string() })),
  nextName: z.int().min(FIRST_NAME_ID).default(FIRST_NAME_ID),
  names: z.array(z.strictObject({ id: z.int(), key: z.string(), label: z.string() })).default([]),
})

export class EmbeddedAllocator implements IdentityAllocator {
  readonly #file: StateFile<z.infer<typeof fileSchema>>
  readonly #byLabels = new Map<string, Identity>()
  readonly #byPrefix = new Map<string, Identity>()
  readonly #byName = new Map<string, Identity>()
  readonly #byId = new Map<number, Identity>()
  #next = FIRST_ID
  #nextCidr = FIRST_CIDR_ID
  #nextName = FIRST_NAME_ID
  #isInBatch = false
  #isStale = false

  /** @param stateFolder the setting paths.state @throws AgentError HG-2006 */
  constructor(stateFolder: string) {
    this.#file = new StateFile(join(stateFolder, 'agent/identities.json'), fileSchema)
    const state = this.#file.read()
    if (state === undefined) return
    this.#next = state.next
    this.#nextCidr = state.nextCidr
    for (const { id, labels } of state.identities) this.#add({ id, labels })
    for (const { id, prefix } of state.cidrs) this.#addCidr(id, prefix)
    this.#nextName = state.nextName
    for (const { id, key, label } of state.names) this.#addName(id, key, label)
  }

  allocate(labels: readonly string[]): Identity {
    const known = this.#byLabels.get(labels.join('\n'))
    if (known !== undefined) return known
    const identity = this.#add({ id: this.#next++, labels })
    this.#save()
    return identity
  }

  allocateCidr(prefix: string): Identity {
    const known = this.#byPrefix.get(prefix)
    if (known !== undefined) return known
    if (this.#nextCidr >= IDENTITY_SEVERAL_NAMES) throw new RangeError(`no number is left for a prefix: ${prefix}`)
    const identity = this.#addCidr(this.#nextCidr++, prefix)
    this.#save()
    return identity
  }

  allocateName(key: string, label: string): Identity {
    const known = this.#byName.get(key)
    if (known !== undefined) return known
    const identity = this.#addName(this.#nextName++, key, label)
    this.#save()
    return identity
  }

  batch<T>(run: () => T): T {
    if (this.#isInBatch) return run()
    this.#isInBatch = true
    try {
      return run()
    } finally {
      this.#isInBatch = false
      if (this.#isStale) this.#save()
    }
  }

  get(id: number): Identity | undefined {
    return this.#byId.get(id)
  }

  forgetUnused(prefixes: ReadonlyMap<string, unknown>, names: ReadonlyMap<string, unknown>): void {
    const isLess = [this.#forget(this.#byPrefix, prefixes), this.#forget(this.#byName, names)].includes(true)
    if (isLess) this.#save()
  }

  /** @param all in the order in which they came @returns whether some went */
  #forget(all: Map<string, Identity>, used: ReadonlyMap<string, unknown>): boolean {
    const unused = [...all].filter(([key]) => !used.has(key))
    const gone = unused.slice(0, Math.max(0, unused.length - UNUSED_MAX))
    for (const [key, { id }] of gone) {
      all.delete(key)
      this.#byId.delete(id)
    }
    return gone.length > 0
  }

  #add(identity: Identity): Identity {
    this.#byLabels.set(identity.labels.join('\n'), identity)
    this.#byId.set(identity.id, identity)
    return identity
  }

  #addCidr(id: number, prefix: string): Identity {
    const identity = { id, labels: [`cidr:${prefix}`, 'reserved:world'] }
    this.#byPrefix.set(prefix, identity)
    this.#byId.set(id, identity)
    return identity
  }

  #addName(id: number, key: string, label: string): Identity {
    const identity = { id, labels: [label] }
    this.#byName.set(key, identity)
    this.#byId.set(id, identity)
    return identity
  }

  #save(): void {
    this.#isStale = true
    if (this.#isInBatch) return
    this.#file.write({
      version: 1,
      next: this.#next,
      nextCidr: this.#nextCidr,
      identities: [...this.#byLabels.values()].map(({ id, labels }) => ({ id, labels: [...labels] })),
      cidrs: [...this.#byPrefix].map(([prefix, { id }]) => ({ id, prefix })),
      nextName: this.#nextName,
      names: [...this.#byName].map(([key, { id, labels }]) => ({ id, key, label: labels[0] ?? '' })),
    })
    this.#isStale = false
  }
}

/**
 * Labels of an endpoint that make its identity, as Cilium derives them for a pod.
 * @param filter which of them do
 * @returns source:key=value, sorted
 */
export function endpointLabels(
  spec: { readonly namespace: string; readonly labels: Readonly<Record<string, string>>; readonly serviceAccount?: string | undefined },
  cluster: string,
  namespaceLabels: Readonly<Record<string, string>>,
  filter: LabelFilter,
): string[] {
  const labels = [
    ...Object.entries(spec.labels).map(([key, value]) => {
      const { source, name } = splitLabelKey(key)
      return `${source}:${name}=${value}`
    }),
    ...Object.entries(namespaceLabels).map(([key, value]) => `k8s:io.cilium.k8s.namespace.labels.${key}=${value}`),
    `k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=${spec.namespace}`,
    `k8s:io.cilium.k8s.policy.cluster=${cluster}`,
    `k8s:io.kubernetes.pod.namespace=${spec.namespace}`,
  ]
  if (spec.serviceAccount !== undefined) labels.push(`k8s:io.cilium.k8s.policy.serviceaccount=${spec.serviceAccount}`)
  return filter.filter([...new Set(labels)]).sort()
}

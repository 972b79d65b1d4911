/**
 * The endpoints of this node: those of the workloads file and those added at run time, each with a number of its own that no other
 * endpoint ever gets. What is missing on the machine makes an endpoint wait; the device event that brings it makes it ready.
 */
import { join } from 'node:path'
import { z } from 'zod'
import type { LabelFilter } from '#policy/label-filter.ts'
import type { Route } from '#sys/rtnetlink.ts'
import { AgentError } from '../errors.ts'
import { StateFile } from '../state-file.ts'
import { type Attachment, resolveAttachment } from './attachment.ts'
import { ENDPOINTS_MAX, type EndpointSpec, endpointSpecSchema, NO_WORKLOADS, type Workloads } from './file.ts'
import { endpointLabels, type Identity, type IdentityAllocator } from './identities.ts'

export type EndpointState = 'ready' | 'waiting'

export interface EndpointEntry {
  readonly key: string
  readonly spec: EndpointSpec
  /** file or api. */
  readonly origin: 'file' | 'api'
  id: number
  identity: Identity
  state: EndpointState
  /** Why it waits. */
  reason: string
  attachment: Attachment | undefined
}

/** Told of every change, in the order in which it has to reach the kernel. */
export interface EndpointSink {
  /**
   * Several at once: policy is resolved when all of them are known, never in between. An endpoint that is on both lists, or a device
   * that goes from one to another, changes in place: there is no moment without judgement.
   * @returns why endpoints could not be attached, by their numbers: a device that went away meanwhile, a map that is full
   */
  change(attached: readonly AttachedEndpoint[], detached: readonly AttachedEndpoint[]): ReadonlyMap<number, string>
}

export type AttachedEndpoint = EndpointEntry & { readonly attachment: Attachment }

const fileSchema = z.strictObject({
  version: z.literal(1),
  nextId: z.int().min(1),
  /** What made each number: another device or namespace is another endpoint. */
  ids: z.array(z.strictObject({ key: z.string(), id: z.int(), place: z.string() })),
  endpoints: z.array(endpointSpecSchema),
})

export class Endpoints {
  readonly #file: StateFile<z.infer<typeof fileSchema>>
  readonly #allocator: IdentityAllocator
  readonly #host: Route
  readonly #sink: EndpointSink
  readonly #labelFilter: LabelFilter
  readonly #entries = new Map<string, EndpointEntry>()
  /** Those that have been attached. */
  readonly #byId = new Map<number, EndpointEntry>()
  /** Those that are. */
  readonly #byDevice = new Map<number, EndpointEntry>()
  readonly #byAddress = new Map<string, EndpointEntry>()
  readonly #ids = new Map<string, { id: number; place: string }>()
  #nextId = 1
  #isSaved = true
  #workloads: Workloads = NO_WORKLOADS
  readonly #added: EndpointSpec[] = []

  constructor(stateFolder: string, allocator: IdentityAllocator, host: Route, sink: EndpointSink, labelFilter: LabelFilter) {
    this.#file = new StateFile(join(stateFolder, 'agent/endpoints.json'), fileSchema)
    this.#allocator = allocator
    this.#host = host
    this.#sink = sink
    this.#labelFilter = labelFilter
    const state = this.#file.read()
    if (state === undefined) return
    this.#nextId = state.nextId
    for (const { key, id, place } of state.ids) this.#ids.set(key, { id, place })
    this.#added.push(...state.endpoints)
  }

  get workloads(): Workloads {
    return this.#workloads
  }

  list(): EndpointEntry[] {
    return [...this.#entries.values()]
  }

  get(namespace: string, name: string): EndpointEntry | undefined {
    return this.#entries.get(`${namespace}/${name}`)
  }

  /** Undefined for one that was never attached. */
  byId(id: number): EndpointEntry | undefined {
    return this.#byId.get(id)
  }

  /** The attached one that has an address. */
  byAddress(address: string): EndpointEntry | undefined {
    return this.#byAddress.get(address)
  }

  /** Takes a workloads file as it is now: what it no longer has goes, what changed is replaced. */
  setWorkloads(workloads: Workloads): void {
    this.#workloads = workloads
    this.#reconcile()
  }

  /** @throws AgentError HG-2002, HG-2003; nothing is kept then */
  add(spec: EndpointSpec): EndpointEntry {
    const key = keyOf(spec)
    if (this.#entries.has(key)) throw new AgentError('HG-2003', `there is an endpoint ${key}`)
    if (this.#entries.size >= ENDPOINTS_MAX) throw new AgentError('HG-2003', `there are ${ENDPOINTS_MAX} endpoints already`)
    const entry = this.#create(spec, 'api')
    const attachment = this.#resolve(entry)
    this.#added.push(spec)
    this.#entries.set(key, entry)
    this.#change([this.#activate(entry, attachment)], [])
    if (entry.state !== 'ready') {
      this.#drop(entry)
      this.#added.pop()
      throw new AgentError('HG-2002', entry.reason)
    }
    this.#save()
    return entry
  }

  /** @throws AgentError HG-2004, HG-2005 */
  remove(namespace: string, name: string): EndpointEntry {
    const key = `${namespace}/${name}`
    const entry = this.#entries.get(key)
    if (entry === undefined) throw new AgentError('HG-2004', `no endpoint ${key}`)
    if (entry.origin === 'file') throw new AgentError('HG-2005', `the endpoint comes from the workloads file: ${key}`)
    this.#ids.delete(key)
    const detached = this.#deactivate(entry)
    this.#drop(entry)
    this.#change([], detached)
    this.#added.splice(
      this.#added.findIndex((spec) => keyOf(spec) === key),
      1,
    )
    this.#save()
    return entry
  }

  /** Devices or addresses changed: those that wait may be ready now, and those that are ready may have lost their device. */
  recheck(): void {
    const attached: AttachedEndpoint[] = []
    const detached: AttachedEndpoint[] = []
    for (const entry of this.#entries.values()) {
      const now = this.#tryResolve(entry)
      if (sameAttachment(entry.attachment, now)) continue
      detached.push(...this.#deactivate(entry))
      if (now !== undefined) attached.push(this.#activate(entry, now))
    }
    if (attached.length === 0 && detached.length === 0) return
    this.#change(attached, detached)
    this.#save()
  }

  #reconcile(): void {
    const wanted = new Map<string, { spec: EndpointSpec; origin: 'file' | 'api' }>()
    for (const spec of this.#workloads.endpoints) wanted.set(keyOf(spec), { spec, origin: 'file' })
    for (const spec of this.#added) if (!wanted.has(keyOf(spec))) wanted.set(keyOf(spec), { spec, origin: 'api' })
    const attached: AttachedEndpoint[] = []
    const detached: AttachedEndpoint[] = []
    for (const entry of [...this.#entries.values()]) {
      const now = wanted.get(entry.key)
      const labels = now && this.#labelsOf(now.spec)
      const same =
        now !== undefined &&
        JSON.stringify(now.spec) === JSON.stringify(entry.spec) &&
        now.origin === entry.origin &&
        labels?.join('\n') === entry.identity.labels.join('\n')
      if (same) continue
      detached.push(...this.#deactivate(entry))
      this.#drop(entry)
      // The number stays with an endpoint that only got other labels: its connections are judged anew, not forgotten.
      if (now === undefined) this.#ids.delete(entry.key)
    }
    this.#allocator.batch(() => {
      for (const [key, { spec, origin }] of wanted) {
        if (this.#entries.has(key)) continue
        const entry = this.#create(spec, origin)
        this.#entries.set(key, entry)
        const attachment = this.#tryResolve(entry)
        if (attachment !== undefined) attached.push(this.#activate(entry, attachment))
      }
    })
    this.#change(attached, detached)
    this.#save()
  }

  #create(spec: EndpointSpec, origin: 'file' | 'api'): EndpointEntry {
    const identity = this.#allocator.allocate(this.#labelsOf(spec))
    return { key: keyOf(spec), spec, origin, id: 0, identity, state: 'waiting', reason: '', attachment: undefined }
  }

  #labelsOf(spec: EndpointSpec): string[] {
    const namespace = this.#workloads.namespaces.find(({ name }) => name === spec.namespace)
    return endpointLabels(spec, this.#workloads.cluster, namespace?.labels ?? {}, this.#labelFilter)
  }

  /** @throws AgentError */
  #resolve(entry: EndpointEntry): Attachment {
    const attachment = resolveAttachment(entry.spec, this.#host)
    const { hostLink, addresses } = attachment
    const sameDevice = this.#byDevice.get(hostLink.index)
    if (sameDevice !== undefined && sameDevice !== entry) {
      throw new AgentError('HG-2003', `device ${hostLink.name} belongs to endpoint ${sameDevice.key}`)
    }
    for (const address of addresses) {
      const other = this.#byAddress.get(address)
      if (other !== undefined && other !== entry) throw new AgentError('HG-2003', `endpoint ${other.key} has the address ${address}`)
    }
    return attachment
  }

  /** As #resolve, but what is missing makes the endpoint wait. */
  #tryResolve(entry: EndpointEntry): Attachment | undefined {
    try {
      const attachment = this.#resolve(entry)
      entry.reason = ''
      return attachment
    } catch (error) {
      if (!(error instanceof AgentError)) throw error
      entry.reason = error.message
      return undefined
    }
  }

  /** Gives it its number; the sink does the rest. */
  #activate(entry: EndpointEntry, attachment: Attachment): AttachedEndpoint {
    const place = `${attachment.hostLink.index}/${attachment.netnsInode}`
    const known = this.#ids.get(entry.key)
    if (known?.place === place) {
      entry.id = known.id
    } else {
      entry.id = this.#nextId++
      this.#ids.set(entry.key, { id: entry.id, place })
      this.#isSaved = false
    }
    this.#index(entry, attachment)
    entry.state = 'ready'
    return { ...entry, attachment }
  }

  /** @returns what the sink is to be told: nothing when it never was attached */
  #deactivate(entry: EndpointEntry): AttachedEndpoint[] {
    const { attachment } = entry
    if (attachment === undefined) return []
    const detached = { ...entry, attachment }
    this.#index(entry, undefined)
    entry.state = 'waiting'
    return [detached]
  }

  #drop(entry: EndpointEntry): void {
    this.#entries.delete(entry.key)
    if (this.#byId.get(entry.id) === entry) this.#byId.delete(entry.id)
  }

  #index(entry: EndpointEntry, attachment: Attachment | undefined): void {
    const before = entry.attachment
    if (before !== undefined) {
      this.#byDevice.delete(before.hostLink.index)
      for (const address of before.addresses) this.#byAddress.delete(address)
    }
    entry.attachment = attachment
    if (attachment === undefined) return
    this.#byId.set(entry.id, entry)
    this.#byDevice.set(attachment.hostLink.index, entry)
    for (const address of attachment.addresses) this.#byAddress.set(address, entry)
  }

  /** Those that could not be attached wait; the next device event tries them again. */
  #change(attached: readonly AttachedEndpoint[], detached: readonly AttachedEndpoint[]): void {
    // Numbers are on disk before they are used: none must ever be given twice.
    if (!this.#isSaved) this.#save()
    for (const [id, reason] of this.#sink.change(attached, detached)) {
      const entry = this.byId(id)
      if (entry === undefined) continue
      this.#index(entry, undefined)
      entry.state = 'waiting'
      entry.reason = reason
    }
  }

  #save(): void {
    this.#isSaved = true
    this.#file.write({
      version: 1,
      nextId: this.#nextId,
      ids: [...this.#ids].map(([key, { id, place }]) => ({ key, id, place })),
      endpoints: this.#added,
    })
  }
}

function keyOf(spec: { readonly namespace: string; readonly name: string }): string {
  return `${spec.namespace}/${spec.name}`
}

function sameAttachment(a: Attachment | undefined, b: Attachment | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return (
    a.hostLink.index === b.hostLink.index && a.netnsPath === b.netnsPath && a.mac.equals(b.mac) && a.addresses.join() === b.addresses.join()
  )
}

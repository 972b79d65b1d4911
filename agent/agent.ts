import { create } from '@bufbuild/protobuf'
import { CountsSource, DnsEndpointSchema, RelayEndpointSchema } from '#api/gen/headgate/v1/control_pb.js'
import {
  type Identity as IdentityMessage,
  type ListPoliciesResponse,
  type Status,
  type WaitPolicyResponse,
  WaitPolicyResponseSchema,
} from '#api/gen/headgate/v1/local_pb.js'
import { type CtKey, type CtValue, DIRECTION_EGRESS, LEG_DIRECT, VERDICT_ALLOW, VERDICT_REDIRECT } from '#bpf/gen/abi.ts'
import { selectorsOf } from '#bpf/learned.ts'
import type { FlowRing } from '#flows/ring.ts'
import { documentName, isPolicy } from '#policy/model.ts'
import { RESERVED_IDENTITIES } from '#policy/reserved.ts'
import type { Direction, PolicyDelta, ResolvedGroup } from '#policy/resolved.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { SystemCallError } from '#sys/errors.ts'
import { shrinkMemoryIfGrown } from '#sys/memory.ts'
import { netnsPath } from '#sys/netns.ts'
import { type AskOptions, COUNTS_TIMEOUT_MS_MAX } from './counts.ts'
import { EndpointRows } from './datapath/endpoint-rows.ts'
import { enforceable, type Gap } from './datapath/enforceable.ts'
import type { LookedUpPeer } from './datapath/group-rows.ts'
import { PolicySync } from './datapath/policy-sync.ts'
import { Revocation, servicePort } from './datapath/revocation.ts'
import type { FlowContext } from './flows/flow-builder.ts'
import type { LocalBackend } from './local-server.ts'
import type { AgentParts } from './parts.ts'
import type { FileState, FolderChange } from './policies/folder.ts'
import type { FolderWatch } from './policies/folder-watch.ts'
import { PolicyIdentities } from './policies/policy-identities.ts'
import { QuietTime } from './quiet.ts'
import { Report } from './report.ts'
import { type AttachedEndpoint, type EndpointEntry, type EndpointSink, Endpoints } from './workloads/endpoints.ts'
import type { EndpointSpec, Workloads } from './workloads/file.ts'
import { Ipcache } from './workloads/ipcache.ts'
import { NodeAddresses } from './workloads/node-addresses.ts'
import { searchDomainsOf } from './workloads/search-domains.ts'
import { Subjects } from './workloads/subjects.ts'

const IPPROTO_TCP = 6

/** How long after the last change the agent tidies up. */
const QUIET_MS = 3000

/** Entries of the ipcache that prefixes of policies may not take: endpoints and nodes must always have room. */
const IPCACHE_RESERVE = 512

export class Agent implements LocalBackend, FlowContext {
  readonly flows: FlowRing
  readonly node: string
  readonly #parts: AgentParts
  readonly #quiet = new QuietTime(QUIET_MS, () => {
    this.#parts.slots.refresh()
    this.#policyIdentities.tidy()
    shrinkMemoryIfGrown()
  })
  readonly #rows: EndpointRows
  readonly #sync: PolicySync
  readonly #revocation: Revocation
  readonly #ipcache: Ipcache
  readonly #endpoints: Endpoints
  readonly #nodes: NodeAddresses
  readonly #subjects: Subjects
  /** What of each group's policy is denied because it cannot be enforced yet. */
  readonly #gaps = new Map<number, readonly Gap[]>()
  /** How many documents in force of each name do more than audit. */
  readonly #enforcing = new Map<string, number>()
  /** Words that policies want in their flows, by documentName. */
  readonly #logWords = new Map<string, string>()
  readonly #policyIdentities: PolicyIdentities
  /** What the engine holds of each file. */
  readonly #inForce = new Map<string, FileState>()
  /** Resolved, and not in the kernel yet. */
  readonly #unapplied: PolicyDelta[] = []
  /** Accepted files whose copy could not be written. */
  readonly #notKept = new Set<string>()
  #ipcacheDirty = false
  #areDocumentsOthers = false
  #revision = 0
  #workloadsProblem = ''
  #folderWarning = ''
  /** Runs while a policy file is being written in place. */
  #lookTimer: NodeJS.Timeout | undefined
  #policyWatch: FolderWatch | undefined
  readonly #readWaiters: (() => void)[] = []
  readonly #report: Report

  constructor(parts: AgentParts) {
    const { config, datapath } = parts
    this.#parts = parts
    this.flows = parts.flows
    this.node = parts.node
    const { maps } = datapath.kernel
    this.#subjects = new Subjects(parts.engine)
    this.#rows = new EndpointRows(datapath.kernel, config.policy.allowLocalhost === 'always')
    this.#sync = new PolicySync(datapath.kernel, parts.slots, parts.control, this.#rows, config.policy.mapEntriesMax, {
      onWritten: (groups) => this.#revokeGroups(new Set(groups)),
      isOnlyAudited: (group) => this.#isOnlyAudited(group),
    })
    this.#revocation = new Revocation(maps.conntrack, netnsPath(datapath.topology.egressNetns), netnsPath(datapath.topology.ingressNetns), {
      endpointIds: () => new Set(this.#endpoints.list().map(({ id }) => id)),
      supports: (endpointId, key, value) => this.#supports(endpointId, key, value),
      netnsOf: (endpointId) => this.#endpoints.byId(endpointId)?.attachment?.netnsPath,
    })
    this.#ipcache = new Ipcache(maps.ipcache, () => {
      this.#ipcacheDirty = true
    })
    this.#policyIdentities = new PolicyIdentities(parts.engine, parts.allocator, this.#ipcache)
    const sink: EndpointSink = { change: (attached, detached) => this.#changeEndpoints(attached, detached) }
    this.#endpoints = new Endpoints(config.paths.state, parts.allocator, parts.host, sink, parts.labelFilter)
    const { allocator, engine, host, node } = parts
    this.#nodes = new NodeAddresses({
      name: node,
      matchesPrefixes: config.policy.cidrMatchMode.includes('nodes'),
      host,
      ipcache: this.#ipcache,
      allocator,
      engine,
      commit: () => this.#commit(),
    })
    this.#report = new Report({
      parts,
      endpoints: this.#endpoints,
      nodes: this.#nodes,
      subjects: this.#subjects,
      sync: this.#sync,
      ipcache: this.#ipcache,
      prefixes: this.#policyIdentities.prefixes,
      gaps: this.#gaps,
      notKept: this.#notKept,
      revision: () => this.#revision,
      problems: () => [
        ...(this.#workloadsProblem === '' ? [] : [`workloads file is refused: ${this.#workloadsProblem}`]),
        ...(this.#folderWarning === '' ? [] : [this.#folderWarning]),
      ],
      labelsOf: (identity) => this.labelsOf(identity),
    })
  }

  /** First state after a start: what was accepted before, then what the files say now; then leftovers go. */
  start(workloads: Workloads | undefined): void {
    this.#takeFolderChange(this.#parts.folder.restore())
    this.#scanFolder()
    this.#parts.engine.setClusterName((workloads ?? this.#endpoints.workloads).cluster)
    this.#nodes.refresh(workloads ?? this.#endpoints.workloads)
    this.#endpoints.setWorkloads(workloads ?? this.#endpoints.workloads)
    this.#commit()
    this.#rows.reconcile()
    this.#sync.reconcile()
    this.#ipcache.reconcile()
    this.#tellClaims()
    this.#flush()
  }

  setWorkloads(workloads: Workloads): void {
    this.#workloadsProblem = ''
    this.#parts.engine.setClusterName(workloads.cluster)
    this.#nodes.refresh(workloads)
    this.#tellClaims()
    this.#endpoints.setWorkloads(workloads)
    this.#commit()
    this.#flush()
  }

  setWorkloadsProblem(problem: string): void {
    if (problem !== this.#workloadsProblem) this.#parts.log.warn({ problem }, 'workloads file is refused; what was accepted stays')
    this.#workloadsProblem = problem
  }

  /** A policy file was changed in place, and may be half-written. */
  onPolicyFileWritten(file: string): void {
    this.#parts.folder.noteWrite(file)
  }

  /** @param watch knows from now on what changes in the folder */
  watchPolicies(watch: FolderWatch): void {
    this.#policyWatch = watch
    // What changed before it watched.
    this.onPoliciesChanged()
  }

  /** @param files that may have changed; undefined: any */
  onPoliciesChanged(files?: ReadonlySet<string>): void {
    this.#scanFolder(files)
    this.#commit()
    this.#flush()
  }

  onLinksChanged(): void {
    this.#endpoints.recheck()
    this.#commit()
    this.#flush()
  }

  onAddressesChanged(): void {
    this.#nodes.refresh(this.#endpoints.workloads)
    this.#tellClaims()
    this.#flush()
  }

  onListenersReport(): void {
    this.#sync.onListenersReport()
  }

  /** Resolves when no row waits for a slot. */
  settled(): Promise<void> {
    return this.#sync.settled()
  }

  stop(): void {
    clearTimeout(this.#lookTimer)
    this.#quiet.stop()
    this.#parts.slots.refresh()
    this.#sync.stop()
  }

  // ---- local API

  addEndpoint(spec: EndpointSpec): EndpointEntry {
    const entry = this.#endpoints.add(spec)
    this.#flush()
    return entry
  }

  removeEndpoint(namespace: string, name: string): EndpointEntry {
    const entry = this.#endpoints.remove(namespace, name)
    this.#commit()
    this.#flush()
    return entry
  }

  listEndpoints(): EndpointEntry[] {
    return this.#endpoints.list()
  }

  enforcedOf(entry: EndpointEntry): { readonly ingress: boolean; readonly egress: boolean } {
    const group = this.#subjects.groupOf(entry)
    return group === undefined ? { ingress: false, egress: false } : this.#sync.enforcementOf(group)
  }

  searchDomainsOf({ id }: EndpointEntry): readonly string[] {
    return this.#parts.control.dns.searchDomainsOf(id)
  }

  identities(): IdentityMessage[] {
    return this.#report.identities()
  }

  policies(): ListPoliciesResponse {
    return this.#report.policies()
  }

  async waitPolicy(rescan: boolean): Promise<WaitPolicyResponse> {
    if (rescan) {
      this.onPoliciesChanged(await this.#policyWatch?.take())
      await this.#filesRead()
    }
    await this.#sync.settled()
    await this.#parts.control.applied()
    return create(WaitPolicyResponseSchema, { revision: BigInt(this.#revision), refused: [...this.#parts.control.proxy.refused] })
  }

  exportPolicy(): ReturnType<LocalBackend['exportPolicy']> {
    return this.#report.exportPolicy()
  }

  status(): Status {
    return this.#report.status()
  }

  counts({ totalsOnly, timeoutMs }: Parameters<LocalBackend['counts']>[0]): ReturnType<LocalBackend['counts']> {
    const { counts, extHost, proxy, relay } = this.#parts.control
    const expected: AskOptions['expected'][number][] = [{ source: CountsSource.PROXY, connected: proxy.connected }]
    if (extHost.isNeeded || extHost.state.connected) expected.push({ source: CountsSource.EXT_HOST, connected: extHost.state.connected })
    expected.push(...relay.workers.map(({ worker }) => ({ source: CountsSource.RELAY, worker, connected: true })))
    return counts.ask({ expected, totalsOnly, timeoutMs: Math.min(timeoutMs || COUNTS_TIMEOUT_MS_MAX, COUNTS_TIMEOUT_MS_MAX) })
  }

  // ---- what flows are made with

  endpointById(id: number): ReturnType<FlowContext['endpointById']> {
    const entry = this.#endpoints.byId(id)
    return entry && { id: entry.id, namespace: entry.spec.namespace, name: entry.spec.name, identity: entry.identity.id }
  }

  endpointByAddress(address: string): ReturnType<FlowContext['endpointByAddress']> {
    const entry = this.#endpoints.byAddress(address)
    return entry && this.endpointById(entry.id)
  }

  identityOf(address: string): number {
    return this.#ipcache.lookup(address) ?? RESERVED_IDENTITIES.world
  }

  labelsOf(identity: number): readonly string[] {
    if (identity === RESERVED_IDENTITIES.host) return this.#nodes.hostLabels
    const reserved = Object.entries(RESERVED_IDENTITIES).find(([, id]) => id === identity)
    return reserved === undefined ? (this.#parts.allocator.get(identity)?.labels ?? []) : [`reserved:${reserved[0]}`]
  }

  originsOf(cookie: number): readonly string[] {
    return this.#sync.originsOf(cookie)
  }

  originsOfConnection(slotId: number, remote: string, servicePort: number, protocol = IPPROTO_TCP): readonly string[] {
    const slot = this.#parts.slots.slots.get(slotId)
    if (slot === undefined) return []
    const row = this.#sync.lookup(slot.group, slot.direction, this.#peerOf(slot.direction, remote, 0), protocol, servicePort)
    const leadsThere = row?.verdict === VERDICT_REDIRECT && row.slotPort === slot.port && row.slotGeneration === slot.generation
    return leadsThere ? this.#sync.originsOf(row.cookie) : []
  }

  logOf(policy: string): string | undefined {
    return this.#logWords.get(policy)
  }

  directionOfSlot(id: number): 'ingress' | 'egress' | undefined {
    return this.#parts.slots.slots.get(id)?.direction
  }

  // ---- carrying changes through

  #changeEndpoints(attached: readonly AttachedEndpoint[], detached: readonly AttachedEndpoint[]): ReadonlyMap<number, string> {
    const failed = new Map<number, string>()
    const groups = attached.map((endpoint) => this.#subjects.join(endpoint))
    // The rows of the endpoints' own groups, and of their peers' for them, come before their addresses mean anything.
    this.#commit()
    for (const [index, endpoint] of attached.entries()) {
      const { key, id, identity, attachment } = endpoint
      const group = groups[index] ?? 0
      try {
        this.#rows.add({ id, identity: identity.id, group, attachment }, this.#sync.enforcementOf(group))
        for (const address of attachment.addresses) this.#ipcache.set(address, 'endpoint', identity.id)
        this.#parts.log.info({ endpoint: key, id, identity: identity.id, device: attachment.hostLink.name }, 'endpoint attached')
      } catch (error) {
        if (!(error instanceof SystemCallError)) throw error
        // Its programs stay on the device, if they got that far, and drop everything: nothing passes unjudged.
        for (const address of attachment.addresses) this.#ipcache.delete(address, 'endpoint')
        this.#subjects.leave(endpoint)
        failed.set(id, error.message)
        this.#parts.log.warn({ endpoint: key, err: error }, 'endpoint could not be attached; it waits')
      }
    }
    const { dns, relay } = this.#parts.control
    const known = attached.filter(({ id }) => !failed.has(id))
    dns.upsertEndpoints(
      known.map(({ id, spec, attachment: { addresses } }) =>
        create(DnsEndpointSchema, {
          id,
          addresses: [...addresses],
          searchDomains: searchDomainsOf(spec, this.#parts.config.dns.searchDomains),
        }),
      ),
    )
    relay.upsertEndpoints(known.map(({ id, attachment: { addresses } }) => create(RelayEndpointSchema, { id, addresses: [...addresses] })))
    const kept = new Set(attached.flatMap(({ attachment }) => attachment.addresses))
    const keptIds = new Set(attached.map(({ id }) => id))
    const freed: string[] = []
    for (const endpoint of detached) {
      const { key, id, attachment } = endpoint
      for (const address of attachment.addresses) if (!kept.has(address)) this.#ipcache.delete(address, 'endpoint')
      if (!keptIds.has(id)) {
        this.#rows.remove(id)
        freed.push(...attachment.addresses)
        this.#parts.log.info({ endpoint: key, id }, 'endpoint detached')
      }
      this.#subjects.leave(endpoint)
    }
    const gone = detached.map(({ id }) => id).filter((id) => !keptIds.has(id))
    dns.removeEndpoints(gone)
    relay.removeEndpoints(gone)
    if (detached.length > 0) this.#commit()
    // Those that changed in place may have come to a group that others had already, whose rows nobody wrote just now.
    const moved = new Set(detached.map(({ id }) => id).filter((id) => keptIds.has(id)))
    if (moved.size > 0) this.#revoke(moved)
    // An address may be another's tomorrow: what the proxies hold in its name ends now.
    if (freed.length > 0) this.#revocation.releaseAddresses(freed)
    return failed
  }

  #scanFolder(files?: ReadonlySet<string>): void {
    const change = this.#parts.folder.scan(files)
    this.#takeFolderChange(change)
    clearTimeout(this.#lookTimer)
    this.#lookTimer = undefined
    if (change.lookAgainMs !== undefined) this.#lookTimer = setTimeout(() => this.onPoliciesChanged(), change.lookAgainMs)
    else for (const resolve of this.#readWaiters.splice(0)) resolve()
  }

  /** Resolves when no policy file is being written. */
  #filesRead(): Promise<void> {
    if (this.#lookTimer === undefined) return Promise.resolve()
    return new Promise((resolve) => this.#readWaiters.push(resolve))
  }

  /**
   * Puts what changed in the policy folder in force, file by file whole or not at all: a file that would overfill a map or the slots is
   * refused like one with an error in it.
   */
  #takeFolderChange(change: FolderChange): void {
    const { folder, log } = this.#parts
    if (change.warning !== '' && change.warning !== this.#folderWarning) log.warn({}, change.warning)
    this.#folderWarning = change.warning
    for (const file of change.removed) {
      this.#setFile(file, undefined)
      log.info({ file }, 'policy file removed')
    }
    const before = new Map(change.changed.map(({ file }) => [file, this.#inForce.get(file)]))
    if (this.#tryFiles(change.changed) !== '') {
      // One of them is too much: back to what was, then one after the other, so that only that one is refused.
      for (const [file, state] of before) this.#setFile(file, state)
      this.#unapplied.push(this.#resolve())
      for (const state of change.changed) {
        const problem = this.#tryFiles([state])
        if (problem === '') continue
        this.#setFile(state.file, folder.reject(state.file, problem))
        this.#unapplied.push(this.#resolve())
      }
    }
    const failed = folder.accept(change.changed.map(({ file }) => file))
    for (const { file } of change.changed) {
      const error = failed.get(file)
      if (error !== undefined) {
        // In force all the same: a full disk must not keep a policy from tightening. Only a restart would miss it.
        log.error({ file, err: error }, 'policy file cannot be kept for the next start')
        this.#notKept.add(file)
        continue
      }
      this.#notKept.delete(file)
      const state = folder.state(file)
      // The same text as before a restart is no news.
      if (state !== undefined && before.get(file)?.documents === state.documents && state.state === 'in-force') continue
      const problem = state?.problems.find(({ severity }) => severity === 'error')
      if (problem === undefined) log.info({ file, documents: state?.documents.length }, 'policy file accepted')
      else log.warn({ file, state: state?.state, problem }, 'policy file refused')
    }
  }

  /** @returns why the files cannot be enforced together with the rest, or empty; they stay set either way */
  #tryFiles(states: readonly FileState[]): string {
    for (const state of states) this.#setFile(state.file, state)
    const { config, engine, slots } = this.#parts
    const prefixCount = engine.cidrPrefixes().size
    const ipcacheFree = config.datapath.ipcacheEntriesMax - IPCACHE_RESERVE
    if (prefixCount > ipcacheFree) return `${prefixCount} address prefixes are needed and datapath.ipcacheEntriesMax leaves ${ipcacheFree}`
    const delta = this.#resolve()
    this.#unapplied.push(delta)
    const changed = new Set(delta.changed.map(({ group }) => group))
    const kept = [...slots.slots.values()].filter(({ group }) => !changed.has(group)).length
    const slotCount = delta.changed.reduce((sum, { classes }) => sum + classes.size, kept)
    if (slotCount > config.datapath.slotsMax) return `${slotCount} slots are needed and datapath.slotsMax is ${config.datapath.slotsMax}`
    const widest = Math.max(0, ...delta.changed.map(({ rows }) => rows.size))
    if (widest > config.policy.mapEntriesMax) return `${widest} rows are needed and policy.mapEntriesMax is ${config.policy.mapEntriesMax}`
    return ''
  }

  #setFile(file: string, state: FileState | undefined): void {
    this.#areDocumentsOthers = true
    this.#countEnforcing(this.#inForce.get(file), -1)
    this.#countEnforcing(state, 1)
    for (const document of this.#inForce.get(file)?.documents ?? []) this.#logWords.delete(documentName(document))
    for (const policy of state?.documents.filter(isPolicy) ?? []) {
      const word = policy.specs.find(({ log }) => log !== '')?.log
      if (word !== undefined) this.#logWords.set(documentName(policy), word)
    }
    if (state === undefined) {
      this.#parts.engine.removeFile(file)
      this.#inForce.delete(file)
    } else {
      const before = this.#inForce.get(file)
      const isSame = before?.documents === state.documents && before.refused.length === 0 && state.refused.length === 0
      if (!isSame) this.#parts.engine.upsertFile(file, state.documents, state.refused)
      this.#inForce.set(file, state)
    }
  }

  #countEnforcing(state: FileState | undefined, step: 1 | -1): void {
    for (const document of [...(state?.documents ?? []), ...(state?.refused ?? [])]) {
      if ('audit' in document && document.audit) continue
      const name = documentName(document)
      const count = (this.#enforcing.get(name) ?? 0) + step
      if (count > 0) this.#enforcing.set(name, count)
      else this.#enforcing.delete(name)
    }
  }

  #isOnlyAudited({ group, policies }: ResolvedGroup): boolean {
    const { audit, enforcement } = this.#parts.config.policy
    if (audit || this.#subjects.isAudited(group)) return true
    return enforcement !== 'always' && policies.length > 0 && policies.every((name) => !this.#enforcing.has(name))
  }

  /** Resolves what changed, with an identity for every prefix that policy mentions. */
  #resolve(): PolicyDelta {
    const { engine } = this.#parts
    this.#policyIdentities.bringIn()
    const delta = engine.commit()
    const changed = delta.changed.map((resolved) => {
      const { group, gaps } = enforceable(resolved)
      if (gaps.length > 0) this.#gaps.set(group.group, gaps)
      else this.#gaps.delete(group.group)
      return group
    })
    for (const group of delta.removed) this.#gaps.delete(group)
    return { ...delta, changed }
  }

  /**
   * Puts what is resolved in the kernel. An address gets its new meaning after the rows for it are there, and loses its old one only when
   * it has the new: in between it is judged by either, never by neither.
   */
  #commit(): void {
    const { control, datapath } = this.#parts
    this.#unapplied.push(this.#resolve())
    this.#apply()
    if (this.#policyIdentities.settle()) {
      this.#unapplied.push(this.#resolve())
      this.#apply()
    }
    datapath.setHasNames(this.#policyIdentities.hasNames)
    if (!this.#areDocumentsOthers) return
    this.#areDocumentsOthers = false
    this.#sync.recheckAudit()
    // The DNS process learns for these from now on; their rows are there, or come in this turn.
    control.dns.setSelectors(this.#policyIdentities.selectors())
  }

  /** Addresses that are somebody's, whatever an answer says of them. */
  #tellClaims(): void {
    const { config, control, datapath } = this.#parts
    control.dns.setLists({
      claimedPrefixes: this.#nodes
        .list()
        .map(({ address }) => address)
        .sort(),
      trustedServers: [...config.dns.trustedServers],
      mapsFolder: datapath.kernel.folder,
    })
  }

  #apply(): void {
    const delta = mergeDeltas(this.#unapplied.splice(0))
    if (delta.changed.length > 0 || delta.removed.length > 0) {
      this.#revision = delta.revision
      this.#sync.apply(delta)
      this.#quiet.touch()
    }
  }

  #flush(): void {
    if (!this.#ipcacheDirty) return
    this.#ipcacheDirty = false
    this.#parts.datapath.bumpRevision()
    this.#revoke(undefined)
  }

  #revokeGroups(groups: ReadonlySet<number>): void {
    const ids = new Set<number>()
    for (const entry of this.#endpoints.list()) {
      const group = this.#subjects.groupOf(entry)
      if (group !== undefined && groups.has(group)) ids.add(entry.id)
    }
    if (ids.size > 0) this.#revoke(ids)
  }

  /** @param ids of endpoints whose connections to look at; undefined: everybody's */
  #revoke(ids: ReadonlySet<number> | undefined): void {
    const { revoked, destroyed } = this.#revocation.run(ids)
    if (revoked > 0) this.#parts.log.info({ revoked, destroyed }, 'connections without support in policy ended')
  }

  /** Who an address is, and what names it is known by to an endpoint. */
  #peerOf(direction: Direction, address: string, endpointId: number): LookedUpPeer {
    const identity = this.identityOf(address)
    if (direction === 'ingress' || !this.#policyIdentities.hasNames || this.#ipcache.isClaimed(address)) return { identity, selectors: [] }
    return { identity, selectors: selectorsOf(this.#parts.datapath.kernel.maps.learnedAddresses, addressToBytes(address), endpointId) }
  }

  /** The kernel's judgement of a tracked connection (bpf/src/conntrack.h), for those whose packets are too far apart to wait for. */
  #supports(endpointId: number, key: CtKey, value: CtValue): boolean | undefined {
    const endpoint = this.#endpoints.byId(endpointId)
    if (endpoint === undefined) return undefined
    const direction = value.direction === DIRECTION_EGRESS ? 'egress' : 'ingress'
    const peer = this.#peerOf(direction, bytesToAddress(key.remote), endpointId)
    if (direction === 'ingress' && peer.identity === RESERVED_IDENTITIES.host && this.#parts.config.policy.allowLocalhost === 'always')
      return true
    const group = this.#subjects.groupOf(endpoint)
    const row = group === undefined ? undefined : this.#sync.lookup(group, direction, peer, key.protocol, servicePort(key, value))
    if (row === undefined) return undefined
    if (row.verdict === VERDICT_ALLOW) return true
    if (row.verdict !== VERDICT_REDIRECT || value.leg === LEG_DIRECT) return false
    return this.#sync.mayStay(
      { port: value.slotPort, generation: value.slotGeneration },
      { port: row.slotPort, generation: row.slotGeneration },
    )
  }
}

/**
 * Several steps as one: of a group the newest counts, with the rows that any of them changed. One that was removed and came back is
 * on both lists: what changed is then not known.
 */
function mergeDeltas(deltas: readonly PolicyDelta[]): PolicyDelta {
  const changed = new Map<number, ResolvedGroup>()
  const removed = new Set<number>()
  for (const delta of deltas) {
    for (const group of delta.changed) {
      const before = changed.get(group.group)
      changed.set(
        group.group,
        before === undefined ? group : { ...group, changedRows: new Set([...before.changedRows, ...group.changedRows]) },
      )
    }
    for (const group of delta.removed) {
      changed.delete(group)
      removed.add(group)
    }
  }
  return { revision: deltas.at(-1)?.revision ?? 0, changed: [...changed.values()], removed: [...removed] }
}

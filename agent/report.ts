/**
 * What the agent tells of itself over its local socket: status, documents, identities, and everything that the simulator needs to judge
 * as it does. Reads only.
 */
import { release } from 'node:os'
import { create } from '@bufbuild/protobuf'
import {
  type Identity as IdentityMessage,
  IdentitySchema,
  type ListPoliciesResponse,
  ListPoliciesResponseSchema,
  type Status,
  StatusSchema,
} from '#api/gen/headgate/v1/local_pb.js'
import { readCounters, readEventsLost } from '#bpf/counters.ts'
import { documentName, isPolicy, type PolicyDocument, type RefusedDocument } from '#policy/model.ts'
import { observesQueries } from '#policy/options.ts'
import { RESERVED_IDENTITIES } from '#policy/reserved.ts'
import { type Gap, gapWarnings, policyWarnings } from './datapath/enforceable.ts'
import type { PolicySync } from './datapath/policy-sync.ts'
import type { DnsFeed } from './dns-feed.ts'
import type { ExtHostFeed } from './ext-host-feed.ts'
import type { LocalBackend } from './local-server.ts'
import type { AgentParts } from './parts.ts'
import type { RelayFeed } from './relay-feed.ts'
import type { Endpoints } from './workloads/endpoints.ts'
import type { Ipcache } from './workloads/ipcache.ts'
import type { NodeAddresses } from './workloads/node-addresses.ts'
import type { Subjects } from './workloads/subjects.ts'

/** State of the agent, live. */
export interface ReportSources {
  readonly parts: AgentParts
  readonly endpoints: Endpoints
  readonly nodes: NodeAddresses
  readonly subjects: Subjects
  readonly sync: PolicySync
  readonly ipcache: Ipcache
  /** CIDR identities in use, by prefix. */
  readonly prefixes: ReadonlyMap<string, number>
  /** What of each group's policy is denied because it cannot be enforced yet. */
  readonly gaps: ReadonlyMap<number, readonly Gap[]>
  /** Accepted files whose copy could not be written. */
  readonly notKept: ReadonlySet<string>
  /** Of policy, in the kernel. */
  revision(): number
  /** What is wrong with the files that the agent reads, one sentence each. */
  problems(): readonly string[]
  labelsOf(identity: number): readonly string[]
}

/** Warnings of one kind; of more, the number is told. */
const WARNINGS_OF_A_KIND_MAX = 20

export class Report {
  readonly #sources: ReportSources
  readonly #eventsLostBefore: bigint

  constructor(sources: ReportSources) {
    this.#sources = sources
    this.#eventsLostBefore = readEventsLost(sources.parts.datapath.kernel.maps.eventBudgetsFd)
  }

  identities(): IdentityMessage[] {
    const reserved = Object.values(RESERVED_IDENTITIES).map((id) => create(IdentitySchema, { id, labels: [...this.#sources.labelsOf(id)] }))
    const ids = new Set([...this.#sources.endpoints.list().map(({ identity }) => identity.id), ...this.#sources.prefixes.values()])
    for (const { id } of this.#sources.nodes.identities()) if (id !== RESERVED_IDENTITIES.host) ids.add(id)
    const others = [...ids]
      .sort((a, b) => a - b)
      .map((id) =>
        create(IdentitySchema, {
          id,
          labels: [...(this.#sources.parts.allocator.get(id)?.labels ?? [])],
          endpointCount: this.#sources.subjects.endpointCountOfIdentity(id),
        }),
      )
    return [...reserved, ...others]
  }

  policies(): ListPoliciesResponse {
    const documents = this.#sources.parts.folder.states.flatMap(({ file, documents, refused, problems, state }) => {
      const selected = this.#sources.parts.engine.subjectsByPolicy(file)
      const describe = (document: PolicyDocument | RefusedDocument, itsState: string) => {
        const { kind, namespace, name } = document
        const groups = [...(selected.get(documentName(document)) ?? [])]
        const endpointCount = groups.reduce((sum, group) => sum + this.#sources.subjects.endpointCount(group), 0)
        return { kind, namespace, name, file, state: itsState, problems: [...problems], endpointCount }
      }
      return [
        ...documents.map((document) => describe(document, state)),
        ...refused.map((document) => describe(document, 'refused')),
        ...(documents.length + refused.length === 0
          ? [{ kind: '', namespace: '', name: '', file, state: 'refused', problems: [...problems] }]
          : []),
      ]
    })
    return create(ListPoliciesResponseSchema, { revision: BigInt(this.#sources.revision()), documents })
  }

  exportPolicy(): ReturnType<LocalBackend['exportPolicy']> {
    const { config, folder } = this.#sources.parts
    const { policy, http, dns } = config
    return {
      revision: BigInt(this.#sources.revision()),
      files: folder.sources(),
      cluster: this.#sources.endpoints.workloads.cluster,
      dialect: policy.dialect,
      enforcement: policy.enforcement,
      audit: policy.audit,
      regexProgramSizeMax: http.regexProgramSizeMax,
      l7Proxy: policy.l7Proxy,
      extendedIpProtocols: policy.extendedIpProtocols,
      nodes: this.#sources.nodes.list().map(({ address, labels }) => ({ address, labels: [...labels] })),
      allowLocalhost: policy.allowLocalhost === 'always',
      observesQueries: observesQueries(config),
      searchDomains: [...dns.searchDomains],
    }
  }

  /** What can run full. */
  #mapFill(): { name: string; entries: number; maxEntries: number }[] {
    const { config, datapath, slots } = this.#sources.parts
    const { maps } = datapath.kernel
    const rowCounts = this.#sources.sync.rowCounts
    return [
      { name: 'connections', entries: maps.conntrack.count(), maxEntries: maps.conntrack.maxEntries() },
      { name: 'ipcache', entries: this.#sources.ipcache.size, maxEntries: maps.ipcache.maxEntries() },
      {
        name: 'endpoints',
        entries: this.#sources.endpoints.list().filter(({ state }) => state === 'ready').length,
        maxEntries: maps.endpoints.maxEntries(),
      },
      { name: 'policy groups', entries: rowCounts.length, maxEntries: maps.policyGroups.maxEntries() },
      { name: 'rows, largest group', entries: Math.max(0, ...rowCounts), maxEntries: config.policy.mapEntriesMax },
      { name: 'slots', entries: slots.slots.size, maxEntries: config.datapath.slotsMax },
    ]
  }

  status(): Status {
    const { control, datapath, flows, slots, version } = this.#sources.parts
    const { maps } = datapath.kernel
    const { dns, proxy, extHost } = control
    const lost = readEventsLost(maps.eventBudgetsFd) - this.#eventsLostBefore
    return create(StatusSchema, {
      version,
      pid: process.pid,
      epoch: control.epoch,
      revision: control.revision,
      processes: [
        { name: 'agent', pid: process.pid, version, connected: true, revision: control.revision, appliedRevision: control.revision },
        {
          name: 'proxy',
          pid: proxy.pid,
          version: proxy.version,
          connected: proxy.connected,
          revision: control.revision,
          appliedRevision: proxy.appliedRevision,
        },
        {
          name: 'ext-host',
          pid: extHost.state.pid,
          version: extHost.state.version,
          connected: extHost.state.connected,
          revision: extHost.revision,
          appliedRevision: extHost.state.appliedRevision,
        },
        {
          name: 'dns-proxy',
          pid: dns.state.pid,
          version: dns.state.version,
          connected: dns.state.connected,
          revision: dns.revision,
          appliedRevision: dns.state.appliedRevision,
        },
        { name: 'envoy', version: proxy.envoyVersion, connected: proxy.connected && proxy.envoyConnected },
      ],
      maps: this.#mapFill(),
      counters: readCounters(maps.countersFd).map(({ verdict, reason, direction, packets, bytes }) => ({
        verdict,
        reason,
        direction: direction === 'ingress' ? 1 : 2,
        packets,
        bytes,
      })),
      refused: [...proxy.refused],
      refusedPolicies: this.policies().documents.filter(({ state }) => state !== 'in-force'),
      endpointCount: this.#sources.endpoints.list().length,
      identityCount: this.identities().length,
      slotCount: slots.slots.size,
      flowsSeen: BigInt(flows.seen),
      flowsLost: BigInt(flows.lost) + lost,
      flowsLostKernel: lost,
      warnings: this.#warnings(),
      kernelRelease: release(),
    })
  }

  #warnings(): string[] {
    const { endpoints, gaps, notKept, parts, problems, sync } = this.#sources
    const { control, folder } = parts
    const policies = folder.states.flatMap(({ documents }) => documents.filter(isPolicy))
    const refused = folder.states.filter(({ state }) => state === 'refused')
    const older = folder.states.filter(({ state }) => state === 'last-accepted')
    const waiting = endpoints.list().filter(({ state }) => state === 'waiting')
    const proxy = !control.proxy.connected
      ? ['the proxy is not connected: new L7 rules do not take effect']
      : control.proxy.envoyConnected
        ? []
        : ['Envoy is not connected: L7 connections are refused']
    return [
      problems(),
      refused.map(({ file }) => `policy file ${file} is refused; endpoints that it selects are at default deny`),
      older.map(({ file }) => `policy file ${file} is refused; its last accepted version is in force`),
      [...notKept].map((file) => `policy file ${file} is in force, but could not be kept for the next start`),
      sync.problems.map(({ identity, message }) => `policy of identity ${identity} is not in force: ${message}`),
      gapWarnings([...gaps.values()].flat()),
      policies.flatMap(policyWarnings),
      extHostWarnings(control.extHost),
      dnsWarnings(control.dns),
      relayWarnings(control.relay),
      waiting.map(({ key, reason }) => `endpoint ${key} waits: ${reason}`),
      proxy,
    ].flatMap(firstOf)
  }
}

/** Nobody is told of a process that no policy needs. */
function extHostWarnings({ isNeeded, state }: ExtHostFeed): string[] {
  if (!isNeeded) return []
  if (!state.connected) return ['the extension host is not connected: requests that need it are refused']
  return state.secretProblems.map(({ secret, reason }) => `secret ${secret?.namespace}/${secret?.name} cannot be used: ${reason}`)
}

function dnsWarnings({ isNeeded, state }: DnsFeed): string[] {
  if (!isNeeded) return []
  if (!state.connected) return ['the DNS process is not connected: queries that policy sends to it wait, and no name is learned']
  return state.problem === '' ? [] : [`the DNS process cannot bring in its rules: ${state.problem}`]
}

function relayWarnings({ isNeeded, workers }: RelayFeed): string[] {
  if (!isNeeded) return []
  if (workers.length === 0) return ['no worker of the relay is connected: connections that policy sends to it are closed']
  return workers.filter(({ problem }) => problem !== '').map(({ worker, problem }) => `worker ${worker} of the relay: ${problem}`)
}

/** A machine can have thousands of endpoints that wait: nobody reads the hundredth line. */
function firstOf(warnings: readonly string[]): readonly string[] {
  if (warnings.length <= WARNINGS_OF_A_KIND_MAX) return warnings
  const left = warnings.length - WARNINGS_OF_A_KIND_MAX
  return [...warnings.slice(0, WARNINGS_OF_A_KIND_MAX), `${left} more like the last one`]
}

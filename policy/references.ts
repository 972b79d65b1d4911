/**
 * What policies refer to by name or label, and what that stands for now: CIDR groups, services with their endpoint slices, and groups of
 * addresses that a provider knows. Pure and incremental: each file's documents replace what it said before, and the caller learns the
 * *keys* whose meaning may have changed, so that it resolves again only what uses one of them.
 *
 * Documents that have the same name in different files add up, as policies do. A name that nothing defines stands for nobody.
 */

import { formatPrefix, parsePrefix } from './cidr.ts'
import { LabelSet } from './labels.ts'
import {
  type AwsGroup,
  type CidrGroup,
  type CidrGroupPeer,
  type EndpointSlice,
  type GroupPeer,
  isPolicy,
  type LabelSelector,
  type Peer,
  type PeerGroup,
  type PolicyDocument,
  type ReferenceDocument,
  type RefusedDocument,
  type Service,
  type ServicePeer,
} from './model.ts'
import { selects } from './selector.ts'

/** Peers that stand for what other documents say. */
export type ReferencePeer = CidrGroupPeer | ServicePeer | GroupPeer

export function isReferencePeer(peer: Peer): peer is ReferencePeer {
  return peer.kind === 'cidr-group' || peer.kind === 'service' || peer.kind === 'group'
}

/** What a reference stands for now: whoever one of the selectors selects, and the addresses of the prefixes. Nobody when both are empty. */
export interface ResolvedReference {
  /** Of endpoints, scoped to their namespace. Without duplicates, in a stable order. */
  readonly selectors: readonly LabelSelector[]
  /** Canonical prefixes, sorted, without duplicates. */
  readonly cidrs: readonly string[]
}

/** Knows which addresses groups of from/toGroups have. What a cloud's API says is another implementation of it. */
export interface GroupProvider {
  /** Canonical prefixes, in any order; empty for a group that nobody knows. */
  cidrsOf(group: AwsGroup): readonly string[]
}

/** Depends on every CIDR group, service, or peer group. */
const ANY_CIDR_GROUP = 'cidr-group/*'
const ANY_SERVICE = 'service/*'
const ANY_GROUP = 'group/*'

const NOBODY: ResolvedReference = { selectors: [], cidrs: [] }

export class References {
  readonly #providers: readonly GroupProvider[]
  /** What each file says, by content. */
  readonly #files = new Map<string, ReadonlyMap<string, ReferenceDocument>>()
  /** Keys of documents that each file has and that are not in force, because it was refused. */
  readonly #refused = new Map<string, ReadonlySet<string>>()
  readonly #cidrGroups = new Shelf<CidrGroup>()
  readonly #services = new Shelf<Service>()
  /** By the service that they are of. */
  readonly #slices = new Shelf<EndpointSlice>()
  readonly #peerGroups = new FileGroups()

  /** @param providers asked about groups as well as the documents of kind PeerGroup */
  constructor(providers: readonly GroupProvider[] = []) {
    this.#providers = [this.#peerGroups, ...providers]
  }

  /**
   * Takes what a file says now in place of what it said before; policies among the documents are not looked at.
   * @param documents empty for a file that is gone
   * @param refused documents of it that are not in force
   * @returns the keys whose meaning may have changed; empty when the file says the same as before, in whatever order
   */
  replace(file: string, documents: readonly PolicyDocument[], refused: readonly RefusedDocument[] = []): ReadonlySet<string> {
    const before = this.#files.get(file) ?? new Map<string, ReferenceDocument>()
    const after = new Map<string, ReferenceDocument>()
    for (const document of documents) if (!isPolicy(document)) after.set(contentOf(document), document)
    const changed = new Set<string>(this.#refuse(file, new Set(refused.flatMap(keysOfRefused))))
    for (const [content, document] of before) {
      if (after.has(content)) {
        // The same object as is shelved, so that it can be found when it goes.
        after.set(content, document)
        continue
      }
      this.#remove(document)
      for (const key of keysOfDocument(document)) changed.add(key)
    }
    for (const [content, document] of after) {
      if (before.has(content)) continue
      this.#add(document)
      for (const key of keysOfDocument(document)) changed.add(key)
    }
    if (after.size === 0) this.#files.delete(file)
    else this.#files.set(file, after)
    return changed
  }

  /** Keys on which a peer depends; to be held against what `replace` returns. Empty for a peer that refers to nothing. */
  keysOf(peer: Peer): readonly string[] {
    switch (peer.kind) {
      case 'cidr-group':
        return ['name' in peer.group ? cidrGroupKey(peer.group.name) : ANY_CIDR_GROUP]
      case 'service':
        return ['name' in peer.service ? serviceKey(peer.namespace, peer.service.name) : ANY_SERVICE]
      case 'group':
        return [ANY_GROUP]
      default:
        return []
    }
  }

  /** Whether a document that a peer names is there and was refused: it stands for more than is known. */
  isRefused(peer: Peer): boolean {
    const keys = this.keysOf(peer)
    return [...this.#refused.values()].some((refused) => keys.some((key) => refused.has(key)))
  }

  /** @returns keys that are refused only now, or no longer */
  #refuse(file: string, keys: ReadonlySet<string>): string[] {
    const before = this.#refused.get(file) ?? new Set<string>()
    if (keys.size === 0) this.#refused.delete(file)
    else this.#refused.set(file, keys)
    return [...[...before].filter((key) => !keys.has(key)), ...[...keys].filter((key) => !before.has(key))]
  }

  /** What a peer stands for now. */
  resolve(peer: ReferencePeer): ResolvedReference {
    switch (peer.kind) {
      case 'cidr-group':
        return { selectors: [], cidrs: sorted(this.#cidrGroupsOf(peer).flatMap(({ cidrs }) => cidrs)) }
      case 'service':
        return this.#backends(this.#servicesOf(peer))
      case 'group':
        return { selectors: [], cidrs: sorted(this.#cidrsOf(peer.group)) }
    }
  }

  /** Whether nothing defines what a peer names, or no label matches: worth a warning, as it stands for nobody. */
  isMissing(peer: Peer): boolean {
    switch (peer.kind) {
      case 'cidr-group':
        return this.#cidrGroupsOf(peer).length === 0
      case 'service':
        return this.#servicesOf(peer).length === 0
      case 'group':
        return this.#cidrsOf(peer.group).length === 0
      default:
        return false
    }
  }

  #cidrGroupsOf({ group }: CidrGroupPeer): readonly CidrGroup[] {
    if ('name' in group) return [...this.#cidrGroups.get(cidrGroupKey(group.name))]
    return [...this.#cidrGroups.all()].filter((document) => selects(group.selector, labelsOf(document)))
  }

  #servicesOf({ namespace, service }: ServicePeer): readonly Service[] {
    // Every service is in a namespace: a name without one is nobody's.
    if ('name' in service) return [...this.#services.get(serviceKey(namespace, service.name))]
    return [...this.#services.all()].filter(
      (document) => (namespace === '' || document.namespace === namespace) && selects(service.selector, labelsOf(document)),
    )
  }

  #backends(services: readonly Service[]): ResolvedReference {
    if (services.length === 0) return NOBODY
    const selectors = new Map<string, LabelSelector>()
    const cidrs: string[] = []
    for (const { namespace, name, selector } of services) {
      if (selector !== undefined) selectors.set(JSON.stringify(selector), selector)
      else for (const { addresses } of this.#slices.get(serviceKey(namespace, name))) cidrs.push(...addresses.map(prefixOf))
    }
    return { selectors: [...selectors.keys()].sort().flatMap((key) => selectors.get(key) ?? []), cidrs: sorted(cidrs) }
  }

  #cidrsOf(group: AwsGroup): readonly string[] {
    return this.#providers.flatMap((provider) => provider.cidrsOf(group))
  }

  #add(document: ReferenceDocument): void {
    if (document.kind === 'CiliumCIDRGroup') this.#cidrGroups.add(cidrGroupKey(document.name), document)
    else if (document.kind === 'Service') this.#services.add(serviceKey(document.namespace, document.name), document)
    else if (document.kind === 'EndpointSlice') this.#slices.add(serviceKey(document.namespace, document.service), document)
    else this.#peerGroups.add(document)
  }

  #remove(document: ReferenceDocument): void {
    if (document.kind === 'CiliumCIDRGroup') this.#cidrGroups.delete(cidrGroupKey(document.name), document)
    else if (document.kind === 'Service') this.#services.delete(serviceKey(document.namespace, document.name), document)
    else if (document.kind === 'EndpointSlice') this.#slices.delete(serviceKey(document.namespace, document.service), document)
    else this.#peerGroups.delete(document)
  }
}

/** The provider that needs no cloud: documents of kind PeerGroup, each about instances that are alike. */
class FileGroups implements GroupProvider {
  readonly #groups = new Set<PeerGroup>()

  add(document: PeerGroup): void {
    this.#groups.add(document)
  }

  delete(document: PeerGroup): void {
    this.#groups.delete(document)
  }

  cidrsOf(group: AwsGroup): readonly string[] {
    return [...this.#groups].filter(({ aws }) => isAsked(group, aws)).flatMap(({ cidrs }) => cidrs)
  }
}

/** Documents by key; several may have the same one. */
class Shelf<Document> {
  readonly #byKey = new Map<string, Set<Document>>()

  add(key: string, document: Document): void {
    const shelved = this.#byKey.get(key)
    if (shelved === undefined) this.#byKey.set(key, new Set([document]))
    else shelved.add(document)
  }

  delete(key: string, document: Document): void {
    const shelved = this.#byKey.get(key)
    shelved?.delete(document)
    if (shelved?.size === 0) this.#byKey.delete(key)
  }

  get(key: string): Iterable<Document> {
    return this.#byKey.get(key) ?? []
  }

  *all(): Generator<Document> {
    for (const shelved of this.#byKey.values()) yield* shelved
  }
}

/** Whether instances that are alike are among those that a policy asks for; what it leaves empty it does not ask about. */
function isAsked(asked: AwsGroup, known: AwsGroup): boolean {
  const { securityGroupIds: ids, securityGroupNames: names } = asked
  return (
    (ids.length === 0 || ids.some((id) => known.securityGroupIds.includes(id))) &&
    (names.length === 0 || names.some((name) => known.securityGroupNames.includes(name))) &&
    Object.entries(asked.labels).every(([key, value]) => Object.hasOwn(known.labels, key) && known.labels[key] === value)
  )
}

function keysOfDocument(document: ReferenceDocument): readonly string[] {
  switch (document.kind) {
    case 'CiliumCIDRGroup':
      return [cidrGroupKey(document.name), ANY_CIDR_GROUP]
    case 'Service':
      return [serviceKey(document.namespace, document.name), ANY_SERVICE]
    case 'EndpointSlice':
      return [serviceKey(document.namespace, document.service), ANY_SERVICE]
    case 'PeerGroup':
      return [ANY_GROUP]
  }
}

function keysOfRefused({ kind, namespace, name }: RefusedDocument): readonly string[] {
  switch (kind) {
    case 'CiliumCIDRGroup':
      return [cidrGroupKey(name), ANY_CIDR_GROUP]
    case 'Service':
      return [serviceKey(namespace, name), ANY_SERVICE]
    case 'EndpointSlice':
      // Of which service it is, is not known.
      return [ANY_SERVICE]
    case 'PeerGroup':
      return [ANY_GROUP]
    default:
      return []
  }
}

function cidrGroupKey(name: string): string {
  return `cidr-group/${name}`
}

function serviceKey(namespace: string, name: string): string {
  return `service/${namespace}/${name}`
}

/** What a document says, wherever it stands: equal for documents that say the same. */
function contentOf(document: ReferenceDocument): string {
  return JSON.stringify({ ...document, at: undefined })
}

const labelSets = new WeakMap<CidrGroup | Service, LabelSet>()

function labelsOf(document: CidrGroup | Service): LabelSet {
  const known = labelSets.get(document)
  if (known !== undefined) return known
  // To Cilium, labels of a CIDR group are of source cidrgroup.
  const { kind, labels } = document
  const aliases = kind === 'CiliumCIDRGroup' ? labels.map((label) => label.replace(/^k8s:/, 'cidrgroup:')) : []
  const set = new LabelSet([...labels, ...aliases])
  labelSets.set(document, set)
  return set
}

/** An address as the prefix of itself. */
function prefixOf(address: string): string {
  const prefix = parsePrefix(address, true)
  return prefix === undefined ? address : formatPrefix(prefix)
}

function sorted(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)].sort()
}

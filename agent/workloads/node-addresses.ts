/**
 * Addresses that are no endpoint's and not the world's: this machine, the other nodes and the API server, as the ipcache is to know them.
 * Nodes with labels have an identity of their own, shared by those with the same ones, so that policy can select them; the labels of
 * this node are on the identity of the host.
 */
import type { PolicyEngine } from '#policy/engine.ts'
import { addressLabel, apiServerLabels, nodeLabels, RESERVED_IDENTITIES } from '#policy/reserved.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import type { Route } from '#sys/rtnetlink.ts'
import type { Workloads } from './file.ts'
import type { Identity, IdentityAllocator } from './identities.ts'
import type { Ipcache } from './ipcache.ts'

const HOST_LABEL = 'reserved:host'
const REMOTE_NODE_LABEL = 'reserved:remote-node'
const API_SERVER_LABEL = 'reserved:kube-apiserver'

export interface NodeAddressesParts {
  /** Of this node, in the workloads file. */
  readonly name: string
  /** Whether address prefixes of policies match nodes. */
  readonly matchesPrefixes: boolean
  readonly host: Pick<Route, 'addresses'>
  readonly ipcache: Pick<Ipcache, 'set' | 'delete'>
  readonly allocator: Pick<IdentityAllocator, 'allocate'>
  readonly engine: Pick<PolicyEngine, 'upsertIdentity' | 'removeIdentity'>
  /** Puts in the kernel what the engine makes of an identity: rows come before the addresses that they are about. */
  readonly commit: () => void
}

/** What is known of an address. */
interface Owner {
  isHost: boolean
  isNode: boolean
  isApiServer: boolean
  /** source:key=value */
  readonly labels: Set<string>
}

export class NodeAddresses {
  readonly #parts: NodeAddressesParts
  #known: ReadonlyMap<string, Identity> = new Map()
  /** Identities that the engine has from here, by number. */
  #identities: ReadonlyMap<number, Identity> = new Map()

  constructor(parts: NodeAddressesParts) {
    this.#parts = parts
  }

  /** Reads the machine's addresses anew and brings engine and ipcache up to date. */
  refresh(workloads: Workloads): void {
    const { allocator, commit, engine, ipcache } = this.#parts
    const owners = this.#owners(workloads)
    const host = this.#hostIdentity(workloads, owners)
    const { matchesPrefixes } = this.#parts
    const wanted = new Map<string, Identity>()
    // Of this machine even without an address, and whatever nodes there are.
    const identities = new Map<number, Identity>([[host.id, host]])
    for (const [address, owner] of owners) {
      const identity = owner.isHost ? host : identityOf(address, owner, matchesPrefixes, allocator)
      wanted.set(address, identity)
      if (!isReserved(identity)) identities.set(identity.id, identity)
    }

    const changed = [...identities.values()].filter(
      ({ id, labels }) => labels.join() !== (this.#identities.get(id)?.labels.join() ?? defaultOf(id)),
    )
    for (const { id, labels } of changed) engine.upsertIdentity({ id, labels })
    if (changed.length > 0) commit()
    for (const address of this.#known.keys()) if (!wanted.has(address)) ipcache.delete(address, 'node')
    for (const [address, { id }] of wanted) if (this.#known.get(address)?.id !== id) ipcache.set(address, 'node', id)
    const gone = [...this.#identities.keys()].filter((id) => !identities.has(id))
    for (const id of gone) engine.removeIdentity(id)
    if (gone.length > 0) commit()
    this.#known = wanted
    this.#identities = identities
  }

  /** Every address with the labels of its identity, in no order that means anything. */
  list(): { readonly address: string; readonly labels: readonly string[] }[] {
    return [...this.#known].map(([address, { labels }]) => ({ address, labels }))
  }

  /** Of the host, with those of this node. */
  get hostLabels(): readonly string[] {
    return this.#identities.get(RESERVED_IDENTITIES.host)?.labels ?? [HOST_LABEL]
  }

  /** What nodes are told apart by: the host with the labels of this node, and the identities of nodes with labels. */
  identities(): readonly Identity[] {
    return [...this.#identities.values()]
  }

  #owners({ nodes, kubeApiserver }: Workloads): ReadonlyMap<string, Owner> {
    const owners = new Map<string, Owner>()
    const ownerOf = (text: string): Owner => {
      // However it is written, it is the address that the kernel sees.
      const address = bytesToAddress(addressToBytes(text))
      const owner = owners.get(address) ?? { isHost: false, isNode: false, isApiServer: false, labels: new Set<string>() }
      owners.set(address, owner)
      return owner
    }
    for (const { name, addresses, labels } of nodes) {
      for (const address of addresses) {
        const owner = ownerOf(address)
        // What the file says of this node is of this machine, on whichever device an address is.
        if (name === this.#parts.name) owner.isHost = true
        owner.isNode = true
        for (const label of nodeLabels(labels)) owner.labels.add(label)
      }
    }
    for (const address of kubeApiserver) ownerOf(address).isApiServer = true
    // An address of this machine is the host, whatever the file calls the node.
    for (const { bytes } of this.#parts.host.addresses()) ownerOf(bytesToAddress(bytes)).isHost = true
    return owners
  }

  #hostIdentity({ nodes }: Workloads, owners: ReadonlyMap<string, Owner>): Identity {
    const own = nodes.filter(({ name }) => name === this.#parts.name).flatMap(({ labels }) => nodeLabels(labels))
    const isApiServer = [...owners.values()].some((owner) => owner.isHost && owner.isApiServer)
    const addresses = this.#parts.matchesPrefixes
      ? [...owners].filter(([, { isHost }]) => isHost).map(([address]) => addressLabel(address))
      : []
    const labels = sorted([HOST_LABEL, ...own, ...(isApiServer ? [API_SERVER_LABEL] : []), ...addresses])
    return { id: RESERVED_IDENTITIES.host, labels }
  }
}

/** Of an address that is not this machine's. An API server that is no node is a part of the world too, as prefixes and entities see it. */
function identityOf(
  address: string,
  { isNode, isApiServer, labels }: Owner,
  matchesPrefixes: boolean,
  allocator: Pick<IdentityAllocator, 'allocate'>,
): Identity {
  if (!isNode) return allocator.allocate(apiServerLabels(address))
  const own = matchesPrefixes ? [addressLabel(address)] : []
  const all = sorted([REMOTE_NODE_LABEL, ...labels, ...(isApiServer ? [API_SERVER_LABEL] : []), ...own])
  return all.length === 1 ? { id: RESERVED_IDENTITIES['remote-node'], labels: all } : allocator.allocate(all)
}

function isReserved({ id }: Identity): boolean {
  return id === RESERVED_IDENTITIES['remote-node']
}

/** Labels that the engine knows an identity by from the start. */
function defaultOf(id: number): string | undefined {
  return id === RESERVED_IDENTITIES.host ? HOST_LABEL : undefined
}

function sorted(labels: Iterable<string>): readonly string[] {
  return [...new Set(labels)].sort()
}

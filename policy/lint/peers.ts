/** Whether peers of one rule are peers of another, as far as documents alone can say: never yes by mistake. */
import { containsPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import type { CidrPeer, Entity, LabelSelector, Peer, PeerSet } from '../model.ts'
import { implies, mayBothSelect } from './selectors.ts'

/** Everybody of the inner set is surely in the outer one. */
export function coversPeers(outer: PeerSet, inner: PeerSet): boolean {
  if (outer.kind === 'none' || inner.kind === 'none') return false
  if (isEverybody(outer)) return true
  if (outer.kind === 'any' || inner.kind === 'any') return false
  return inner.members.every((member) => outer.members.some((candidate) => coversPeer(candidate, member)))
}

/** Somebody is surely in both, if there is anybody in them at all. */
export function surelyShare(a: PeerSet, b: PeerSet): boolean {
  if (a.kind === 'none' || b.kind === 'none') return false
  if (isEverybody(a) || isEverybody(b) || a.kind === 'any' || b.kind === 'any') return true
  return a.members.some((one) => b.members.some((other) => coversPeer(one, other) || coversPeer(other, one)))
}

export function mayShare(a: PeerSet, b: PeerSet): boolean {
  if (a.kind === 'none' || b.kind === 'none') return false
  if (a.kind === 'any' || b.kind === 'any') return true
  return a.members.some((one) => b.members.some((other) => mayBeSame(one, other)))
}

function isEverybody(peers: PeerSet): boolean {
  return peers.kind === 'any' || (peers.kind === 'members' && peers.members.some((peer) => peer.kind === 'entity' && peer.entity === 'all'))
}

/** Entities that `cluster` is made of, beside the endpoints. */
const OF_CLUSTER: ReadonlySet<Entity> = new Set(['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'])
/** Entities of the machines themselves, which may be one another. */
const NODES: ReadonlySet<Entity> = new Set(['host', 'remote-node', 'kube-apiserver', 'cluster', 'all'])
/** Kinds whose addresses are outside of the endpoints. */
const OUTSIDE: ReadonlySet<Peer['kind']> = new Set(['cidr', 'cidr-group', 'group', 'fqdn'])

const WORLD: LabelSelector = { requirements: [{ source: 'reserved', key: 'world', operator: 'In', values: [''] }] }

/** An endpoint selector covers only its like: fromRequires narrows it, and nothing else. */
function coversPeer(outer: Peer, inner: Peer): boolean {
  switch (outer.kind) {
    case 'entity':
      if (inner.kind === 'entity') return outer.entity === inner.entity || (outer.entity === 'cluster' && OF_CLUSTER.has(inner.entity))
      return outer.entity === 'world' && OUTSIDE.has(inner.kind)
    case 'endpoints':
    case 'nodes':
      return inner.kind === outer.kind && implies(inner.selector, outer.selector)
    case 'cidr':
      return inner.kind === 'cidr' && coversCidr(outer, inner)
    case 'cidr-group':
      return inner.kind === 'cidr-group' && isSame(outer.group, inner.group)
    case 'service':
      return inner.kind === 'service' && outer.namespace === inner.namespace && isSame(outer.service, inner.service)
    case 'group':
      return inner.kind === 'group' && isSame(outer.group, inner.group)
    case 'fqdn':
      return inner.kind === 'fqdn' && isSame(outer.name, inner.name)
  }
}

/** Each hole of the outer one has to be beside the inner one, or in a hole of it. */
function coversCidr(outer: CidrPeer, inner: CidrPeer): boolean {
  const [prefix, own] = [parsePrefix(outer.cidr), parsePrefix(inner.cidr)]
  if (prefix === undefined || own === undefined || !containsPrefix(prefix, own)) return false
  const spared = prefixesOf(inner.except)
  return prefixesOf(outer.except).every((hole) => !touches(hole, own) || spared.some((outside) => containsPrefix(outside, hole)))
}

function mayBeSame(a: Peer, b: Peer): boolean {
  if (a.kind === 'endpoints' && b.kind === 'endpoints') return mayBothSelect(a.selector, b.selector)
  if (a.kind === 'entity' && b.kind === 'entity') return mayBeSameEntity(a.entity, b.entity)
  if (a.kind === 'cidr' && b.kind === 'cidr') return mayBeSameCidr(a, b)
  if (a.kind === 'fqdn' && b.kind === 'fqdn') {
    // Two names may have one address; to doubt each pair of names for that would help nobody.
    return isSame(a.name, b.name) || a.name.matchPattern !== undefined || b.name.matchPattern !== undefined
  }
  if (a.kind === 'nodes' && b.kind === 'nodes') return mayBothSelect(a.selector, b.selector)
  return mixedMayBeSame(a, b) && mixedMayBeSame(b, a)
}

/** Of different kinds: no where it is sure. */
function mixedMayBeSame(a: Peer, b: Peer): boolean {
  switch (a.kind) {
    case 'endpoints':
      if (b.kind === 'entity') return mayBeEntity(a.selector, b.entity)
      return b.kind === 'service' || mayBothSelect(a.selector, WORLD)
    case 'entity':
      if (OUTSIDE.has(b.kind)) return ['all', 'world', 'kube-apiserver', 'cluster'].includes(a.entity)
      return b.kind !== 'nodes' || NODES.has(a.entity)
    case 'nodes':
      return b.kind === 'entity' || b.kind === 'endpoints' || b.kind === 'service'
    default:
      return true
  }
}

function mayBeEntity(selector: LabelSelector, entity: Entity): boolean {
  if (entity === 'all' || entity === 'cluster' || entity === 'cluster-mesh') return true
  if (entity === 'none') return false
  return mayBothSelect(selector, { requirements: [{ source: 'reserved', key: entity, operator: 'In', values: [''] }] })
}

function mayBeSameEntity(a: Entity, b: Entity): boolean {
  if (a === 'none' || b === 'none') return false
  if (a === b || a === 'all' || b === 'all') return true
  if (a === 'cluster' || b === 'cluster') return a === 'cluster' ? b !== 'world' : a !== 'world'
  // The API server may run on a node or outside.
  return a === 'kube-apiserver' || b === 'kube-apiserver'
}

function mayBeSameCidr(a: CidrPeer, b: CidrPeer): boolean {
  const [one, other] = [parsePrefix(a.cidr), parsePrefix(b.cidr)]
  if (one === undefined || other === undefined || !touches(one, other)) return false
  const isSpared = (prefix: Prefix, except: readonly string[]) => prefixesOf(except).some((hole) => containsPrefix(hole, prefix))
  return !isSpared(one, b.except) && !isSpared(other, a.except)
}

function touches(a: Prefix, b: Prefix): boolean {
  return containsPrefix(a, b) || containsPrefix(b, a)
}

function prefixesOf(texts: readonly string[]): Prefix[] {
  return texts.flatMap((text) => parsePrefix(text) ?? [])
}

function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

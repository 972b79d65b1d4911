/** Whose flows two sets of policies are compared by: endpoints that are alike once, and one address for each prefix that either side names. */
import { addressBits, containsPrefix, formatPrefix, type Prefix } from '../cidr.ts'
import type { LabelSelector, Peer } from '../model.ts'
import { selectorsOfEntity } from '../reserved.ts'
import type { Scene, SceneEndpoint, SceneNode } from '../trace/scene.ts'
import { labelsMeeting } from '../trace/stand-ins.ts'

/** Somebody to ask about. */
export interface AskedParty {
  /** For Scene.party. */
  readonly text: string
  /** As it is to be shown. */
  readonly name: string
  /** How many endpoints it stands for. */
  readonly count: number
}

const ENDPOINTS_MADE_MAX = 300
const PREFIXES_MAX = 2000
const NAMES_MAX = 500
/** Holes of a prefix that are looked between for an address. */
const HOLES_MAX = 4096

/** @param endpoints empty: whoever the selectors describe stands for them */
export function askedParties(
  scenes: readonly Scene[],
  endpoints: readonly SceneEndpoint[],
  nodes: readonly SceneNode[],
): { readonly parties: readonly AskedParty[]; readonly omittedCount: number } {
  const made = endpoints.length > 0 ? { parties: classesOf(endpoints), omittedCount: 0 } : madeEndpoints(scenes)
  const entities = new Set(['host', 'world'])
  const names = new Map<string, AskedParty>()
  for (const peer of peersOf(scenes)) {
    if (peer.kind === 'entity' && selectorsOfEntity(peer.entity, '').length === 1 && !['all', 'none'].includes(peer.entity))
      entities.add(peer.entity)
    if (peer.kind === 'fqdn') addNames(names, peer.name)
  }
  if (nodes.length === 0) entities.add('remote-node')
  const prefixes = addressesOf(new Map(scenes.flatMap((scene) => scene.prefixes.map((prefix) => [formatPrefix(prefix), prefix]))))
  const namesKept = [...names.values()].slice(0, NAMES_MAX)
  return {
    parties: [
      ...made.parties,
      ...nodeClasses(nodes),
      ...[...entities].map((entity) => ({ text: `reserved:${entity}`, name: `reserved:${entity}`, count: 1 })),
      ...prefixes.slice(0, PREFIXES_MAX),
      ...namesKept,
    ],
    omittedCount: made.omittedCount + Math.max(0, prefixes.length - PREFIXES_MAX) + names.size - namesKept.length,
  }
}

function* peersOf(scenes: readonly Scene[]): Generator<Peer> {
  for (const { specs } of scenes) {
    for (const { spec } of specs) for (const { peers } of spec.rules) if (peers.kind === 'members') yield* peers.members
  }
}

function classesOf(endpoints: readonly SceneEndpoint[]): AskedParty[] {
  const classes = new Map<string, AskedParty>()
  for (const { name, labels, namedPorts = [], audit = false } of endpoints) {
    const key = JSON.stringify([labels, namedPorts, audit])
    const known = classes.get(key)
    classes.set(key, { text: known?.text ?? name, name: known?.name ?? name, count: (known?.count ?? 0) + 1 })
  }
  return [...classes.values()]
}

function nodeClasses(nodes: readonly SceneNode[]): AskedParty[] {
  const classes = new Map<string, AskedParty>()
  for (const { name, labels, addresses } of nodes) {
    const text = name === '' ? addresses[0] : `node/${name}`
    const known = classes.get(labels.join())
    if (text !== undefined)
      classes.set(labels.join(), { text: known?.text ?? text, name: known?.name ?? text, count: (known?.count ?? 0) + 1 })
  }
  return [...classes.values()]
}

/** An endpoint for each selector, with the labels that it needs. */
function madeEndpoints(scenes: readonly Scene[]): { readonly parties: readonly AskedParty[]; readonly omittedCount: number } {
  const texts = new Set<string>()
  const add = (selector: LabelSelector): void => {
    const labels = labelsMeeting(selector)
    if (labels !== undefined) texts.add(labels)
  }
  for (const { specs } of scenes) {
    for (const { spec } of specs) {
      if (spec.subject.kind === 'endpoints') add(spec.subject.selector)
      for (const { peers } of spec.rules) {
        for (const peer of peers.kind === 'members' ? peers.members : []) if (peer.kind === 'endpoints') add(peer.selector)
      }
    }
  }
  // Nobody that is selected by nothing in particular.
  texts.add('k8s:io.kubernetes.pod.namespace=default')
  const all = [...texts].sort()
  return {
    parties: all.slice(0, ENDPOINTS_MADE_MAX).map((text) => ({ text, name: text, count: 1 })),
    omittedCount: Math.max(0, all.length - ENDPOINTS_MADE_MAX),
  }
}

/** A name for each that is named, and one that each pattern matches. */
function addNames(
  names: Map<string, AskedParty>,
  { matchName, matchPattern }: { readonly matchName?: string; readonly matchPattern?: string },
): void {
  for (const name of [matchName, matchPattern]) {
    if (name === undefined) continue
    const text = /^\*+\.$/.test(name) ? 'any.example.' : name.replaceAll(/\*+/g, 'any')
    if (text.slice(0, -1).includes('.')) names.set(name, { text, name: name.slice(0, -1), count: 1 })
  }
}

/** For each prefix an address that lies in no longer one; none where others fill it. */
function addressesOf(prefixes: ReadonlyMap<string, Prefix>): AskedParty[] {
  const all = [...prefixes.values()].sort(
    (a, b) => a.family - b.family || (a.address < b.address ? -1 : a.address > b.address ? 1 : a.length - b.length),
  )
  return all.flatMap((prefix, index) => {
    const size = 1n << BigInt(addressBits(prefix.family) - prefix.length)
    let address = prefix.address
    // What lies inside follows in this order, and what lies inside of that is past already.
    for (const hole of all.slice(index + 1, index + 1 + HOLES_MAX)) {
      if (!containsPrefix(prefix, hole) || hole.address > address) break
      const end = hole.address + (1n << BigInt(addressBits(hole.family) - hole.length))
      if (end > address) address = end
    }
    if (address >= prefix.address + size) return []
    const text = formatPrefix({ family: prefix.family, address, length: addressBits(prefix.family) })
    return [{ text: text.slice(0, text.indexOf('/')), name: formatPrefix(prefix), count: 1 }]
  })
}

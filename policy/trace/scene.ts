/**
 * Policies and endpoints as files describe them, resolved without an agent: who is meant by a name, labels, an address or an entity, and
 * the rows that the kernel would have. Label sets that nobody has are asked about too, so identities are made as questions come.
 */
import { containsPrefix, formatPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import { type CompiledSpec, compileDocument } from '../compile.ts'
import { PolicyEngine } from '../engine.ts'
import { LabelSet } from '../labels.ts'
import type { PolicyDocument, RefusedDocument } from '../model.ts'
import { CLUSTER_LABEL_KEY, NAMESPACE_LABEL_KEY, RESERVED_IDENTITIES } from '../reserved.ts'
import type { ResolvedGroup } from '../resolved.ts'
import type { TracedPeer } from './explain.ts'

export interface SceneFile {
  readonly file: string
  readonly documents: readonly PolicyDocument[]
  readonly refused: readonly RefusedDocument[]
}

export interface SceneEndpoint {
  /** namespace/name */
  readonly name: string
  /** source:key=value */
  readonly labels: readonly string[]
  readonly addresses: readonly string[]
}

/** One side of a question. */
export interface Party extends TracedPeer {
  /** As it is to be shown. */
  readonly name: string
  readonly identity: number
  /** Policy judges its traffic here; else only the other side's does. */
  readonly isSubject: boolean
}

/** Nobody is meant by that text. */
export class PartyError extends Error {
  override readonly name = 'PartyError'
}

const FIRST_IDENTITY = 256
const FIRST_CIDR_IDENTITY = 1 << 24
/** Label sets that were only asked about; beyond it the scene forgets them and starts again. */
const ASKED_MAX = 10_000

export class Scene {
  readonly clusterName: string
  /** What is in force of the files, in their order. */
  readonly specs: readonly CompiledSpec[]
  readonly #engine: PolicyEngine
  readonly #groups = new Map<number, ResolvedGroup>()
  readonly #byName = new Map<string, Party>()
  readonly #byAddress = new Map<string, Party>()
  readonly #byLabels = new Map<string, number>()
  /** Longest first. */
  readonly #prefixes: readonly { readonly prefix: Prefix; readonly identity: number; readonly labels: LabelSet }[]
  readonly #asked: number[] = []
  #nextIdentity = FIRST_IDENTITY

  constructor(files: readonly SceneFile[], endpoints: readonly SceneEndpoint[], clusterName: string) {
    this.clusterName = clusterName
    this.specs = files.flatMap(({ documents }) => documents.flatMap(compileDocument))
    this.#engine = new PolicyEngine({ clusterName })
    for (const { file, documents, refused } of files) this.#engine.upsertFile(file, documents, refused)
    for (const { name, labels, addresses } of endpoints) {
      const party = this.#subject(name, new LabelSet(labels))
      this.#byName.set(name, party)
      for (const address of addresses) this.#byAddress.set(canonical(address), party)
    }
    this.#prefixes = [...this.#engine.cidrPrefixes()]
      // All addresses are the world, which has an identity.
      .filter((cidr) => !cidr.endsWith('/0'))
      .map((cidr, index) => {
        const identity = FIRST_CIDR_IDENTITY + index
        const labels = [`cidr:${cidr}`, 'reserved:world']
        this.#engine.upsertIdentity({ id: identity, labels, cidr })
        return { prefix: parsePrefix(cidr) as Prefix, identity, labels: new LabelSet(labels) }
      })
      .sort((a, b) => b.prefix.length - a.prefix.length)
    this.#commit()
  }

  /**
   * @param text `namespace/name` of an endpoint, `source:key=value,…`, an address, or `reserved:entity`
   * @throws PartyError
   */
  party(text: string): Party {
    const endpoint = this.#byName.get(text) ?? this.#byName.get(`default/${text}`)
    if (endpoint !== undefined) return endpoint
    if (text.startsWith('reserved:')) return this.#reserved(text)
    const address = parsePrefix(text, true)
    if (address !== undefined && !text.includes('/')) return this.#address(text, address)
    if (text.includes('=')) return this.#labels(text)
    const hint = text.includes('/')
      ? 'no endpoint has that name'
      : 'it is no endpoint’s name, no address, no labels (k8s:app=web,…) and no reserved:entity'
    throw new PartyError(`${text}: ${hint}`)
  }

  /** What was resolved for a party. @throws RangeError when it is no subject */
  groupOf({ identity }: Party): ResolvedGroup {
    const group = this.#groups.get(identity)
    if (group === undefined) throw new RangeError(`not a subject: ${identity}`)
    return group
  }

  #reserved(text: string): Party {
    const identity = (RESERVED_IDENTITIES as Readonly<Record<string, number>>)[text.slice('reserved:'.length)]
    if (identity === undefined) throw new PartyError(`${text}: there are reserved:${Object.keys(RESERVED_IDENTITIES).join(', reserved:')}`)
    return { name: text, identity, labels: new LabelSet([text]), prefix: undefined, isSubject: false }
  }

  #address(text: string, address: Prefix): Party {
    const endpoint = this.#byAddress.get(formatPrefix(address))
    if (endpoint !== undefined) return endpoint
    const found = this.#prefixes.find(({ prefix }) => containsPrefix(prefix, address))
    const identity = found?.identity ?? RESERVED_IDENTITIES.world
    return { name: text, identity, labels: found?.labels ?? new LabelSet(['reserved:world']), prefix: address, isSubject: false }
  }

  #labels(text: string): Party {
    const labels = text.split(',').map((label) => (/^[a-z0-9-]+:/.test(label) ? label : `k8s:${label}`))
    const given = new LabelSet(labels)
    if (!given.has('k8s', NAMESPACE_LABEL_KEY)) labels.push(`k8s:${NAMESPACE_LABEL_KEY}=default`)
    if (!given.has('k8s', CLUSTER_LABEL_KEY)) labels.push(`k8s:${CLUSTER_LABEL_KEY}=${this.clusterName}`)
    const before = this.#nextIdentity
    const party = this.#subject(text, new LabelSet(labels))
    if (this.#nextIdentity !== before) {
      this.#asked.push(party.identity)
      if (this.#asked.length > ASKED_MAX) this.#forget(this.#asked.splice(0, ASKED_MAX))
      this.#commit()
    }
    return party
  }

  #forget(identities: readonly number[]): void {
    const gone = new Set(identities)
    for (const [key, identity] of this.#byLabels) if (gone.has(identity)) this.#byLabels.delete(key)
    for (const identity of identities) {
      this.#engine.removeSubject(identity)
      this.#engine.removeIdentity(identity)
    }
  }

  #subject(name: string, labels: LabelSet): Party {
    const key = labels.text.join()
    let identity = this.#byLabels.get(key)
    if (identity === undefined) {
      identity = this.#nextIdentity++
      this.#byLabels.set(key, identity)
      this.#engine.upsertIdentity({ id: identity, labels: labels.text })
      this.#engine.addSubject(identity)
    }
    return { name, identity, labels, prefix: undefined, isSubject: true }
  }

  #commit(): void {
    const { changed, removed } = this.#engine.commit()
    for (const group of changed) this.#groups.set(group.identity, group)
    for (const identity of removed) this.#groups.delete(identity)
  }
}

/** Equal for equal addresses, however they are written. */
function canonical(address: string): string {
  const prefix = parsePrefix(address, true)
  return prefix === undefined ? address : formatPrefix(prefix)
}

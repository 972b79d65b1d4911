/**
 * Policies and endpoints as files describe them, resolved without an agent: who is meant by a name, labels, an address, a DNS name or an
 * entity, and the rows that the kernel would have. Label sets and names that nobody has are asked about too, so identities are made as
 * questions come.
 */
import { normalizeName } from '#parsers/dns/name-pattern.ts'
import { NEVER_TAUGHT, NOT_TAUGHT } from '#parsers/dns/teachable.ts'
import type { SecretLookup } from '#parsers/http/judge.ts'
import { containsPrefix, formatPrefix, type Prefix, parsePrefix } from '../cidr.ts'
import { type CompiledSpec, compilePolicy } from '../compile.ts'
import { type EnforcementMode, PolicyEngine, SEVERAL_NAMES } from '../engine.ts'
import { LabelSet } from '../labels.ts'
import { isPolicy, type Policy, type PolicyDocument, type RefusedDocument } from '../model.ts'
import { type ReferencePeer, References, type ResolvedReference } from '../references.ts'
import { CLUSTER_LABEL_KEY, NAMESPACE_LABEL_KEY, prefixesOf, RESERVED_IDENTITIES, selectorsOfNodes } from '../reserved.ts'
import type { ResolvedGroup } from '../resolved.ts'
import { selects } from '../selector.ts'
import type { NamedPortNumber } from '../selector-index.ts'
import type { TracedPeer } from './explain.ts'
import { type MetSelectors, NAME_PREFIX, NameSelectors, nameProblem } from './names.ts'

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
  readonly namedPorts?: readonly NamedPortNumber[]
  /** Whether policy only reports on it. */
  readonly audit?: boolean
  /** Domains that its resolver appends to names; absent: those of the scene. */
  readonly searchDomains?: readonly string[]
}

/** A machine: no endpoint, but judged by policies for nodes. */
export interface SceneNode {
  readonly name: string
  /** source:key=value, reserved:host or reserved:remote-node among them. */
  readonly labels: readonly string[]
  readonly addresses: readonly string[]
}

export interface SceneInput {
  readonly files: readonly SceneFile[]
  readonly endpoints?: readonly SceneEndpoint[]
  readonly nodes?: readonly SceneNode[]
  readonly clusterName?: string
  readonly enforcement?: EnforcementMode
  /** Verdicts of all policies are reported only. */
  readonly audit?: boolean
  /** Whether this host may reach its endpoints whatever policy says. */
  readonly allowLocalhost?: boolean
  /** Whether rules with names make queries pass the DNS process (dns.observeQueries); absent: they do. */
  readonly observesQueries?: boolean
  /** Domains that resolvers append to names (dns.searchDomains), where an endpoint does not say its own; absent: none. */
  readonly searchDomains?: readonly string[]
  /** What is known of secrets; absent: nothing. */
  readonly secretOf?: SecretLookup
}

/** One side of a question. */
export interface Party extends TracedPeer {
  /** As it is to be shown. */
  readonly name: string
  /** Its own ports that have a name. */
  readonly namedPorts: readonly NamedPortNumber[]
  readonly identity: number
  /** Of an address: identities of the selectors of names that it has on a node; absent where its names are not known. */
  readonly selectors?: readonly number[]
  /** Whose policy judges its traffic; undefined where only the other side's does. */
  readonly subject: Subject | undefined
  /** Domains that its resolver appends to names: lower case, with a trailing dot. */
  readonly searchDomains: readonly string[]
}

interface Subject {
  readonly kind: 'endpoints' | 'nodes'
  readonly group: number
}

/** Nobody is meant by that text. */
export class PartyError extends Error {
  override readonly name = 'PartyError'
}

const FIRST_IDENTITY = 256
const FIRST_CIDR_IDENTITY = 1 << 24
/** Label sets and DNS names that were only asked about; beyond it the scene forgets them and starts again. */
const ASKED_MAX = 10_000
const PARTY_LENGTH_MAX = 4096
const NODE_PREFIX = 'node/'
const HOST_LABEL = 'reserved:host'
const WORLD_LABEL = 'reserved:world'

const neverTaught = NEVER_TAUGHT.map((text) => parsePrefix(text) as Prefix)

/** Everything that an identity has beside its number. */
interface IdentityParts {
  readonly labels: readonly string[]
  readonly names?: readonly string[]
}

interface Asked {
  readonly key: string
  readonly identity: number
  readonly group: number | undefined
}

export class Scene {
  readonly clusterName: string
  readonly allowLocalhost: boolean
  readonly observesQueries: boolean
  readonly secretOf: SecretLookup
  /** What is in force of the files, in their order. */
  readonly specs: readonly CompiledSpec[]
  readonly #searchDomains: readonly string[]
  readonly #references = new References()
  readonly #resolved = new Map<ReferencePeer, ResolvedReference>()
  readonly #specsOf = new Map<string, readonly CompiledSpec[]>()
  readonly #engine: PolicyEngine
  /** Policies for nodes, as if nodes were endpoints; where there are any. */
  readonly #nodeEngine: PolicyEngine | undefined
  readonly #groups = new Map<number, ResolvedGroup>()
  readonly #nodeGroups = new Map<number, ResolvedGroup>()
  readonly #byName = new Map<string, Party>()
  readonly #byAddress = new Map<string, Party>()
  readonly #identities = new Map<string, number>()
  readonly #portsOf = new Map<number, readonly NamedPortNumber[]>()
  readonly #subjects = new Map<string, number>()
  /** Longest first. */
  #prefixes: readonly { readonly prefix: Prefix; readonly identity: number; readonly labels: LabelSet }[] = []
  readonly #asked: Asked[] = []
  readonly #askedParties = new Map<string, Party>()
  /** Made when names are asked about. */
  #nameSelectors: NameSelectors | undefined
  #severalNames: number | undefined
  #nextIdentity = FIRST_IDENTITY
  #nextGroup = 1

  constructor({ files, endpoints = [], nodes = [], clusterName = 'default', enforcement = 'default', audit = false, ...rest }: SceneInput) {
    this.clusterName = clusterName
    this.allowLocalhost = rest.allowLocalhost ?? false
    this.observesQueries = rest.observesQueries ?? true
    this.secretOf = rest.secretOf ?? noSecret
    this.#searchDomains = (rest.searchDomains ?? []).map(normalizeName)
    this.specs = files.flatMap(({ documents }) => documents.filter(isPolicy).flatMap(compilePolicy))
    const options = { clusterName, enforcement, audit, knowsNames: true, observesQueries: this.observesQueries }
    this.#engine = new PolicyEngine(options)
    const isAboutNodes = this.specs.some(({ spec }) => spec.subject.kind === 'nodes')
    this.#nodeEngine = isAboutNodes ? new PolicyEngine(options) : undefined
    for (const { file, documents, refused } of files) {
      this.#references.replace(file, documents)
      this.#engine.upsertFile(file, documents, refused)
      this.#nodeEngine?.upsertFile(
        file,
        documents.map((document) => (isPolicy(document) ? asPolicyOfEndpoints(document) : document)),
        [],
      )
    }
    for (const endpoint of endpoints) this.#addEndpoint(endpoint)
    // This machine, of which files need not tell.
    this.#addNode({ name: '', labels: [HOST_LABEL], addresses: [] })
    for (const node of nodes) this.#addNode(node)
    this.#addPrefixes()
    this.#commit()
  }

  /** Prefixes that policies name, longest first. */
  get prefixes(): readonly Prefix[] {
    return this.#prefixes.map(({ prefix }) => prefix)
  }

  /**
   * @param text `namespace/name` of an endpoint, `source:key=value,…`, an address, `node/name`, a DNS name (`fqdn:name` in any case), or
   * `reserved:entity`
   * @throws PartyError
   */
  party(text: string): Party {
    const known = this.#known(text) ?? this.#askedParties.get(text)
    if (known !== undefined) return known
    if (text.length > PARTY_LENGTH_MAX) throw new PartyError(`nobody is called by so much text: ${text.slice(0, 40)}…`)
    const party = this.#make(text)
    this.#askedParties.set(text, party)
    return party
  }

  /** The DNS name that a text for `party` means, of whatever form; undefined where it means somebody else, or nobody. */
  nameOf(text: string): string | undefined {
    if (text.startsWith(NAME_PREFIX)) return text.slice(NAME_PREFIX.length)
    return this.#known(text) === undefined && isBareName(text) ? text : undefined
  }

  /** Endpoints and nodes that files tell of, in their order, by what `party` takes for them. */
  known(): Iterable<readonly [string, Party]> {
    return this.#byName
  }

  /** @param names of a chain, lower-case, with a trailing dot */
  selectorsOf(names: readonly string[]): MetSelectors {
    this.#nameSelectors ??= this.#identifyNames()
    return this.#nameSelectors.of(names)
  }

  /**
   * An address of a name.
   * @param address undefined: one of the world of which nothing else is known
   * @param isKnown whether it was learned, so that rules with names are about it
   */
  named(address: string | undefined, names: readonly [string, ...string[]], isKnown: boolean): Party {
    const party = this.party(address ?? WORLD_LABEL)
    const name = address ?? `an address of ${names[0].slice(0, -1)}`
    if (!isKnown) return { ...party, name, selectors: [] }
    return { ...party, name, names, selectors: this.selectorsOf(names).kept.map(({ identity }) => identity) }
  }

  /** Why an address teaches nothing, whoever answers with it; empty when it does. */
  reasonAgainstTeaching(address: string): string {
    const prefix = parsePrefix(address, true)
    if (prefix === undefined) return NOT_TAUGHT.range
    const owner = this.#byAddress.get(formatPrefix(prefix))
    if (owner !== undefined) return owner.subject?.kind === 'endpoints' ? NOT_TAUGHT.endpoint : NOT_TAUGHT.node
    return neverTaught.some((range) => containsPrefix(range, prefix)) ? NOT_TAUGHT.range : ''
  }

  /** Identity whose rows hold for an address of several names that have different rules on requests; known with the first address of a name. */
  get severalNames(): number | undefined {
    return this.#severalNames
  }

  /** Lets go of what was only asked about, once it is much: not between the two sides of a question. */
  tidy(): void {
    if (this.#askedParties.size <= ASKED_MAX) return
    this.#askedParties.clear()
    this.#specsOf.clear()
    const groups = new Set<number>()
    for (const { key, identity, group } of this.#asked.splice(0)) {
      this.#identities.delete(key)
      if (group !== undefined) {
        groups.add(group)
        this.#engine.removeSubject(group)
      }
      for (const engine of this.#engines()) engine.removeIdentity(identity)
    }
    for (const [key, group] of this.#subjects) if (groups.has(group)) this.#subjects.delete(key)
  }

  #known(text: string): Party | undefined {
    return this.#byName.get(text) ?? this.#byName.get(`default/${text}`)
  }

  /** Each selector of names gets an identity as the agent gives it one: that of one name has the name too, so that patterns hold for it. */
  #identifyNames(): NameSelectors {
    const selectors = new NameSelectors(this.#engine.nameSelectors(), (key, { matchName }) => {
      const id = this.#nextIdentity++
      const names = matchName === undefined ? [] : [matchName]
      for (const engine of this.#engines()) engine.upsertIdentity({ id, labels: [], names, nameSelector: key })
      return id
    })
    this.#severalNames = this.#nextIdentity++
    for (const engine of this.#engines()) engine.upsertIdentity({ id: this.#severalNames, labels: [], nameSelector: SEVERAL_NAMES })
    this.#commit()
    return selectors
  }

  #make(text: string): Party {
    if (text.startsWith(NAME_PREFIX)) return this.#dnsName(text.slice(NAME_PREFIX.length))
    if (text.startsWith('reserved:') && !text.includes(',')) return this.#reserved(text)
    const address = parsePrefix(text, true)
    if (address !== undefined && !text.includes('/')) return this.#address(text, address)
    if (text.includes('=')) return this.#labels(text)
    if (isBareName(text)) return this.#dnsName(text)
    const hint = text.startsWith(NODE_PREFIX)
      ? 'no node has that name'
      : text.includes('/')
        ? 'no endpoint has that name'
        : 'it is no endpoint’s name, no address, no labels (k8s:app=web,…), no DNS name and no reserved:entity'
    throw new PartyError(`${text}: ${hint}`)
  }

  /** What was resolved for a party. @throws RangeError when it is no subject */
  groupOf({ subject, name }: Party): ResolvedGroup {
    const groups = subject?.kind === 'nodes' ? this.#nodeGroups : this.#groups
    const group = groups.get(subject?.group ?? -1)
    if (group === undefined) throw new RangeError(`not a subject: ${name}`)
    return group
  }

  /** The specs that select a party, in their order. */
  specsOf({ subject, labels }: Party): readonly CompiledSpec[] {
    if (subject === undefined) return []
    const key = `${subject.kind} ${subject.group}`
    let specs = this.#specsOf.get(key)
    if (specs === undefined) {
      specs = this.specs.filter(({ spec }) => {
        if (spec.subject.kind !== subject.kind) return false
        const selectors = subject.kind === 'nodes' ? selectorsOfNodes(spec.subject.selector) : [spec.subject.selector]
        return selectors.some((selector) => selects(selector, labels))
      })
      this.#specsOf.set(key, specs)
    }
    return specs
  }

  /** What a peer that refers to other documents stands for. */
  readonly resolve = (peer: ReferencePeer): ResolvedReference => {
    let resolved = this.#resolved.get(peer)
    if (resolved === undefined) {
      resolved = this.#references.resolve(peer)
      this.#resolved.set(peer, resolved)
    }
    return resolved
  }

  /** Ports that a party has names for. */
  namedPortsOf({ identity }: Party): readonly NamedPortNumber[] {
    return this.#portsOf.get(identity) ?? []
  }

  #addEndpoint({ name, labels, addresses, namedPorts = [], audit = false, ...rest }: SceneEndpoint): void {
    const set = new LabelSet(labels)
    const identity = this.#identityOf(`labels ${set.text.join()}`, { labels: set.text })
    if (namedPorts.length > 0) {
      // For rules of others, an identity has the ports of all its endpoints.
      const all = new Map([...(this.#portsOf.get(identity) ?? []), ...namedPorts].map((port) => [JSON.stringify(port), port]))
      this.#portsOf.set(identity, [...all.values()])
      this.#upsert(identity, { labels: set.text })
    }
    const group = this.#groupFor(identity, namedPorts, audit)
    const searchDomains = rest.searchDomains?.map(normalizeName) ?? this.#searchDomains
    const subject = { kind: 'endpoints', group } as const
    const party: Party = { ...NOBODY, name, identity, labels: set, namedPorts, subject, searchDomains }
    this.#byName.set(name, party)
    for (const address of addresses) this.#byAddress.set(canonical(address), party)
  }

  #addNode({ name, labels, addresses }: SceneNode): void {
    const set = new LabelSet(labels)
    const party = this.#nodeParty(name, this.#nodeIdentity(set), set)
    if (name !== '') this.#byName.set(`${NODE_PREFIX}${name}`, party)
    if (party.identity === RESERVED_IDENTITIES.host) this.#byName.set(HOST_LABEL, { ...party, name: HOST_LABEL })
    for (const address of addresses) {
      // What is an endpoint's is nobody else's.
      if (this.#byAddress.get(canonical(address))?.subject?.kind === 'endpoints') continue
      this.#byAddress.set(canonical(address), name === '' ? { ...party, name: address } : party)
    }
  }

  /** As the agent numbers them: only nodes with labels of their own are told apart. */
  #nodeIdentity({ text }: LabelSet): number {
    if (text.includes(HOST_LABEL)) {
      this.#upsert(RESERVED_IDENTITIES.host, { labels: text })
      return RESERVED_IDENTITIES.host
    }
    const [only = ''] = text.length === 1 ? text : []
    const reserved = (RESERVED_IDENTITIES as Readonly<Record<string, number>>)[only.replace(/^reserved:/, '')]
    return reserved ?? this.#identityOf(`node ${text.join()}`, { labels: text })
  }

  #nodeParty(name: string, identity: number, labels: LabelSet): Party {
    const isSubject = this.#nodeEngine !== undefined
    if (isSubject) this.#nodeEngine.addSubject({ group: identity, identity, namedPorts: [], audit: false })
    const subject = isSubject ? { kind: 'nodes' as const, group: identity } : undefined
    const prefixes = prefixesOf(labels.text).flatMap((text) => parsePrefix(text) ?? [])
    return { ...NOBODY, name: name === '' ? labels.text.join() : name, identity, labels, prefixes, subject }
  }

  #addPrefixes(): void {
    this.#prefixes = [...new Set([...this.#engine.cidrPrefixes(), ...(this.#nodeEngine?.cidrPrefixes() ?? [])])]
      // All addresses are the world, which has an identity.
      .filter((cidr) => !cidr.endsWith('/0'))
      .map((cidr, index) => {
        const identity = FIRST_CIDR_IDENTITY + index
        const labels = [`cidr:${cidr}`, 'reserved:world']
        for (const engine of this.#engines()) engine.upsertIdentity({ id: identity, labels })
        return { prefix: parsePrefix(cidr) as Prefix, identity, labels: new LabelSet(labels) }
      })
      .sort((a, b) => b.prefix.length - a.prefix.length)
  }

  #reserved(text: string): Party {
    const identity = (RESERVED_IDENTITIES as Readonly<Record<string, number>>)[text.slice('reserved:'.length)]
    if (identity === undefined) throw new PartyError(`${text}: there are reserved:${Object.keys(RESERVED_IDENTITIES).join(', reserved:')}`)
    return { ...NOBODY, name: text, identity, labels: new LabelSet([text]) }
  }

  #address(text: string, address: Prefix): Party {
    const known = this.#byAddress.get(formatPrefix(address))
    if (known !== undefined) return known
    const found = this.#prefixes.find(({ prefix }) => containsPrefix(prefix, address))
    const identity = found?.identity ?? RESERVED_IDENTITIES.world
    return { ...NOBODY, name: text, identity, labels: found?.labels ?? new LabelSet(['reserved:world']), prefixes: [address] }
  }

  #labels(text: string): Party {
    const labels = text.split(',').map((label) => (/^[a-z0-9-]+:/.test(label) ? label : `k8s:${label}`))
    const given = new LabelSet(labels)
    if (!given.has('k8s', NAMESPACE_LABEL_KEY)) labels.push(`k8s:${NAMESPACE_LABEL_KEY}=default`)
    if (!given.has('k8s', CLUSTER_LABEL_KEY)) labels.push(`k8s:${CLUSTER_LABEL_KEY}=${this.clusterName}`)
    const set = new LabelSet(labels)
    const before = this.#nextIdentity
    const key = `labels ${set.text.join()}`
    const identity = this.#identityOf(key, { labels: set.text })
    const groups = this.#nextGroup
    const group = this.#groupFor(identity, [], false)
    const subject = { kind: 'endpoints', group } as const
    const party: Party = { ...NOBODY, name: text, identity, labels: set, subject, searchDomains: this.#searchDomains }
    const isNewIdentity = this.#nextIdentity !== before
    if (isNewIdentity) this.#asked.push({ key, identity, group })
    if (isNewIdentity || this.#nextGroup !== groups) this.#commit()
    return party
  }

  #dnsName(text: string): Party {
    const problem = nameProblem(text)
    if (problem !== undefined) throw new PartyError(problem)
    const name = normalizeName(text)
    const key = `name ${name}`
    const before = this.#nextIdentity
    const identity = this.#identityOf(key, { labels: ['reserved:world'], names: [name] })
    if (this.#nextIdentity !== before) {
      this.#asked.push({ key, identity, group: undefined })
      this.#commit()
    }
    return { ...NOBODY, name: text, identity, labels: new LabelSet(['reserved:world']), names: [name] }
  }

  #identityOf(key: string, parts: IdentityParts): number {
    let identity = this.#identities.get(key)
    if (identity === undefined) {
      identity = this.#nextIdentity++
      this.#identities.set(key, identity)
      this.#upsert(identity, parts)
    }
    return identity
  }

  #upsert(id: number, { labels, names = [] }: IdentityParts): void {
    const namedPorts = this.#portsOf.get(id) ?? []
    for (const engine of this.#engines()) engine.upsertIdentity({ id, labels, names, namedPorts })
  }

  #groupFor(identity: number, namedPorts: readonly NamedPortNumber[], audit: boolean): number {
    const key = `${identity} ${JSON.stringify(namedPorts)} ${audit}`
    let group = this.#subjects.get(key)
    if (group === undefined) {
      group = this.#nextGroup++
      this.#subjects.set(key, group)
      this.#engine.addSubject({ group, identity, namedPorts, audit })
    }
    return group
  }

  #engines(): readonly PolicyEngine[] {
    return this.#nodeEngine === undefined ? [this.#engine] : [this.#engine, this.#nodeEngine]
  }

  #commit(): void {
    for (const [engine, groups] of [[this.#engine, this.#groups] as const, [this.#nodeEngine, this.#nodeGroups] as const]) {
      const { changed, removed } = engine?.commit() ?? { changed: [], removed: [] }
      for (const group of changed) groups.set(group.group, group)
      for (const group of removed) groups.delete(group)
    }
  }
}

const noSecret: SecretLookup = () => undefined

const NOBODY = { prefixes: [], names: [], namedPorts: [], subject: undefined, searchDomains: [] }

/** Nothing but a name has this form: dots, and a last label that no address has. */
function isBareName(text: string): boolean {
  return text.includes('.') && /^[a-z0-9_.-]+$/i.test(text) && !/(?:^|\.)\d+\.?$/.test(text)
}

/** Its specs for nodes, with nodes for endpoints; the others are left out. */
function asPolicyOfEndpoints(policy: Policy): Policy {
  const specs = policy.specs.flatMap((spec) =>
    spec.subject.kind === 'nodes'
      ? selectorsOfNodes(spec.subject.selector).map((selector) => ({ ...spec, subject: { kind: 'endpoints' as const, selector } }))
      : [],
  )
  return { ...policy, specs }
}

/** Equal for equal addresses, however they are written. */
function canonical(address: string): string {
  const prefix = parsePrefix(address, true)
  return prefix === undefined ? address : formatPrefix(prefix)
}

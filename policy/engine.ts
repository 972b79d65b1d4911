/**
 * The policy engine: documents and identities in, rows of policy maps out. Changes are collected and resolved by `commit`, which
 * touches only the groups that they can concern, and reports only those that came out different. No I/O; numbers of CIDR identities
 * are the caller's to allocate (`cidrPrefixes`).
 */
import { parsePrefix } from './cidr.ts'
import { type CompiledPolicyRule, type CompiledSpec, compileDocument } from './compile.ts'
import { PolicyError } from './errors.ts'
import { GroupRows, type LiveRule } from './group-rows.ts'
import { LabelSet } from './labels.ts'
import { documentName, type Peer, type PolicyDocument, type RefusedDocument } from './model.ts'
import { RESERVED_IDENTITIES, selectorsOfEntity } from './reserved.ts'
import { DIRECTIONS, type Direction, type PeerClass, type PolicyDelta, type PolicyRow, type ResolvedGroup } from './resolved.ts'
import { type SelectorEntry, SelectorIndex } from './selector-index.ts'

/** An identity as the caller knows it. */
export interface EngineIdentity {
  readonly id: number
  /** source:key=value; a CIDR identity has to carry reserved:world. */
  readonly labels: readonly string[]
  /** Canonical prefix, of a CIDR identity. */
  readonly cidr?: string
}

export interface EngineOptions {
  /** Name of the local cluster, for the entity `cluster`. */
  readonly clusterName?: string
}

/** Something that holds for the identities of one selector. */
interface LiveSubject {
  readonly policy: string
  readonly entry: SelectorEntry
  readonly rules: readonly LiveRule[]
  readonly defaultDeny: Readonly<Record<Direction, boolean>>
}

interface LiveFile {
  readonly documents: readonly PolicyDocument[]
  readonly refused: readonly RefusedDocument[]
  readonly subjects: readonly LiveSubject[]
  readonly prefixes: readonly string[]
}

/** A group whose policy is resolved here. */
interface Group {
  readonly rows: Readonly<Record<Direction, GroupRows>>
  /** What the last commit told of it. */
  resolved: ResolvedGroup | undefined
}

/** What of a group is to be resolved anew: everything, or rows of some peers. */
type Staleness = 'all' | Set<number>

export class PolicyEngine {
  #clusterName: string
  readonly #files = new Map<string, LiveFile>()
  readonly #index = new SelectorIndex()
  /** What holds for whom, by the selector of its subjects. */
  readonly #bySubject = new Map<SelectorEntry, Set<LiveSubject>>()
  /** Whose rules name a selector as a peer; with how many rules, because a subject may do so in several. */
  readonly #byPeer = new Map<SelectorEntry, Map<LiveSubject, number>>()
  readonly #prefixUses = new Map<string, number>()
  readonly #subjects = new Map<number, Group>()
  /** Subjects that the last commit told of and that are none any more. */
  readonly #removedSubjects = new Map<number, Group>()
  readonly #dirty = new Map<number, Staleness>()
  #revision = 0
  #lastSerial = 0

  constructor(options: EngineOptions = {}) {
    this.#clusterName = options.clusterName ?? 'default'
    for (const [name, id] of Object.entries(RESERVED_IDENTITIES)) {
      this.#index.upsertIdentity({ id, labels: new LabelSet([`reserved:${name}`]), prefix: undefined })
    }
  }

  /** Name of the local cluster, which the entity `cluster` goes by. */
  setClusterName(name: string): void {
    if (name === this.#clusterName) return
    this.#clusterName = name
    for (const [file, { documents, refused }] of [...this.#files]) this.upsertFile(file, documents, refused)
  }

  /** Replaces what a file says. @param refused documents that are not in force: their subjects are at default deny */
  upsertFile(file: string, documents: readonly PolicyDocument[], refused: readonly RefusedDocument[]): void {
    const before = this.#files.get(file)
    // New before old: what both use keeps its members.
    this.#files.set(file, this.#takeIn(documents, refused))
    if (before !== undefined) this.#takeOut(before)
  }

  removeFile(file: string): void {
    const before = this.#files.get(file)
    if (before === undefined) return
    this.#files.delete(file)
    this.#takeOut(before)
  }

  /** @throws PolicyError bad-identity for a prefix that is none */
  upsertIdentity({ id, labels, cidr }: EngineIdentity): void {
    const prefix = cidr === undefined ? undefined : parsePrefix(cidr)
    if (cidr !== undefined && prefix === undefined) throw new PolicyError('bad-identity', `not a prefix: ${cidr}`, id)
    this.#markConcerned(id, this.#index.upsertIdentity({ id, labels: new LabelSet(labels), prefix }))
  }

  /** @throws PolicyError identity-in-use while it is a subject */
  removeIdentity(id: number): void {
    if (this.#subjects.has(id)) throw new PolicyError('identity-in-use', `identity is a subject: ${id}`, id)
    this.#markConcerned(id, this.#index.removeIdentity(id))
  }

  /**
   * Makes an identity one whose endpoints are judged here. Not counted: the caller knows how many endpoints have it.
   * @throws PolicyError unknown-identity
   */
  addSubject(id: number): void {
    if (this.#index.identity(id) === undefined) throw new PolicyError('unknown-identity', `no identity: ${id}`, id)
    if (this.#subjects.has(id)) return
    // One that comes back before anybody heard that it had gone is compared with what it was.
    const fresh = { rows: { ingress: new GroupRows('ingress'), egress: new GroupRows('egress') }, resolved: undefined }
    this.#subjects.set(id, this.#removedSubjects.get(id) ?? fresh)
    this.#removedSubjects.delete(id)
    this.#dirty.set(id, 'all')
  }

  removeSubject(id: number): void {
    const group = this.#subjects.get(id)
    this.#subjects.delete(id)
    this.#dirty.delete(id)
    if (group?.resolved !== undefined) this.#removedSubjects.set(id, group)
  }

  /** Canonical prefixes that policies mention, exceptions included: each is to have an identity before `commit`. */
  cidrPrefixes(): ReadonlySet<string> {
    return new Set(this.#prefixUses.keys())
  }

  /** The subjects that each policy (namespace/name) of a file selects; those of refused documents too, whom they put at default deny. */
  subjectsByPolicy(file: string): ReadonlyMap<string, ReadonlySet<number>> {
    const selected = new Map<string, Set<number>>()
    for (const { policy, entry } of this.#files.get(file)?.subjects ?? []) {
      const subjects = selected.get(policy) ?? new Set()
      for (const id of this.#subjectsIn(entry)) subjects.add(id)
      selected.set(policy, subjects)
    }
    return selected
  }

  /** Resolves what changed since the last time. */
  commit(): PolicyDelta {
    const changed: ResolvedGroup[] = []
    for (const [id, stale] of this.#dirty) {
      const group = this.#subjects.get(id)
      if (group === undefined) continue
      const { resolved: before } = group
      const resolved = stale === 'all' || before === undefined ? this.#resolve(id, group.rows) : resolvePeers(before, group.rows, stale)
      if (before !== undefined && sameGroup(before, resolved)) continue
      group.resolved = resolved
      changed.push(resolved)
    }
    this.#dirty.clear()
    const removed = [...this.#removedSubjects.keys()]
    this.#removedSubjects.clear()
    if (changed.length > 0 || removed.length > 0) this.#revision += 1
    return { revision: this.#revision, changed, removed }
  }

  #takeIn(documents: readonly PolicyDocument[], refused: readonly RefusedDocument[]): LiveFile {
    const subjects: LiveSubject[] = []
    const prefixes: string[] = []
    for (const spec of documents.flatMap(compileDocument)) {
      subjects.push(this.#subjectOf(spec))
      for (const { rule } of spec.rules) {
        if (rule.peers.kind !== 'members') continue
        for (const peer of rule.peers.members) if (peer.kind === 'cidr') prefixes.push(peer.cidr, ...peer.except)
      }
    }
    for (const document of refused) {
      for (const { selector, directions } of document.subjects) {
        const defaultDeny = { ingress: directions.includes('ingress'), egress: directions.includes('egress') }
        subjects.push({ policy: documentName(document), entry: this.#index.useLabels(selector), rules: [], defaultDeny })
      }
    }
    for (const subject of subjects) this.#attach(subject)
    for (const prefix of prefixes) this.#prefixUses.set(prefix, (this.#prefixUses.get(prefix) ?? 0) + 1)
    return { documents, refused, subjects, prefixes }
  }

  #takeOut({ subjects, prefixes }: LiveFile): void {
    for (const subject of subjects) this.#detach(subject)
    for (const prefix of prefixes) {
      const count = (this.#prefixUses.get(prefix) ?? 0) - 1
      if (count > 0) this.#prefixUses.set(prefix, count)
      else this.#prefixUses.delete(prefix)
    }
  }

  #subjectOf({ policy, spec, rules }: CompiledSpec): LiveSubject {
    const entry = this.#index.useLabels(spec.subject.selector)
    return { policy, entry, rules: rules.map((rule) => this.#liveRule(rule)), defaultDeny: spec.defaultDeny }
  }

  #liveRule({ direction, rule, compiled }: CompiledPolicyRule): LiveRule {
    const peers =
      rule.peers.kind === 'members' && !compiled.isForAnyPeer ? rule.peers.members.flatMap((peer) => this.#selectorsOf(peer)) : []
    return { serial: ++this.#lastSerial, direction, compiled, peers }
  }

  #selectorsOf(peer: Peer): SelectorEntry[] {
    switch (peer.kind) {
      case 'endpoints':
        return [this.#index.useLabels(peer.selector)]
      case 'entity':
        return selectorsOfEntity(peer.entity, this.#clusterName).map((selector) => this.#index.useLabels(selector))
      case 'cidr':
        return [this.#index.useCidr(peer.cidr, peer.except)]
    }
  }

  #attach(subject: LiveSubject): void {
    const sharing = this.#bySubject.get(subject.entry)
    if (sharing === undefined) this.#bySubject.set(subject.entry, new Set([subject]))
    else sharing.add(subject)
    for (const entry of subject.rules.flatMap(({ peers }) => peers)) {
      const users = this.#byPeer.get(entry) ?? new Map<LiveSubject, number>()
      users.set(subject, (users.get(subject) ?? 0) + 1)
      this.#byPeer.set(entry, users)
    }
    this.#markSubjects(subject)
  }

  #detach(subject: LiveSubject): void {
    this.#markSubjects(subject)
    const sharing = this.#bySubject.get(subject.entry)
    sharing?.delete(subject)
    if (sharing?.size === 0) this.#bySubject.delete(subject.entry)
    for (const entry of subject.rules.flatMap(({ peers }) => peers)) {
      const users = this.#byPeer.get(entry)
      const count = (users?.get(subject) ?? 0) - 1
      if (count > 0) users?.set(subject, count)
      else users?.delete(subject)
      if (users?.size === 0) this.#byPeer.delete(entry)
      this.#index.release(entry)
    }
    this.#index.release(subject.entry)
  }

  #markSubjects({ entry }: LiveSubject, peer?: number): void {
    for (const id of this.#subjectsIn(entry)) this.#mark(id, peer)
  }

  *#subjectsIn({ members }: SelectorEntry): Generator<number> {
    // Whichever is fewer: a selector can select thousands of identities of other nodes.
    if (members.size < this.#subjects.size) {
      for (const id of members) if (this.#subjects.has(id)) yield id
    } else {
      for (const id of this.#subjects.keys()) if (members.has(id)) yield id
    }
  }

  /** @param peer whose rows alone are to be resolved anew; absent: all */
  #mark(id: number, peer?: number): void {
    const stale = this.#dirty.get(id)
    if (peer === undefined) this.#dirty.set(id, 'all')
    else if (stale === undefined) this.#dirty.set(id, new Set([peer]))
    else if (stale !== 'all') stale.add(peer)
  }

  /** @param entries selectors that began or ceased to select the identity */
  #markConcerned(id: number, entries: ReadonlySet<SelectorEntry>): void {
    for (const entry of entries) {
      if (this.#subjects.has(id) && this.#bySubject.has(entry)) this.#mark(id)
      for (const subject of this.#byPeer.get(entry)?.keys() ?? []) this.#markSubjects(subject, id)
    }
  }

  #resolve(id: number, groupRows: Group['rows']): ResolvedGroup {
    const enforced: Record<Direction, boolean> = { ingress: false, egress: false }
    const defaultDeny: Record<Direction, boolean> = { ingress: false, egress: false }
    const rules: Record<Direction, LiveRule[]> = { ingress: [], egress: [] }
    const policies = new Set<string>()
    for (const entry of this.#index.entriesOf(id)) {
      for (const subject of this.#bySubject.get(entry) ?? []) {
        policies.add(subject.policy)
        for (const rule of subject.rules) rules[rule.direction].push(rule)
        for (const direction of DIRECTIONS) defaultDeny[direction] ||= subject.defaultDeny[direction]
      }
    }
    for (const direction of DIRECTIONS) {
      enforced[direction] = defaultDeny[direction] || rules[direction].length > 0
      // In one order, so that what was compiled in another round is found again.
      rules[direction].sort((a, b) => a.serial - b.serial)
      if (enforced[direction]) groupRows[direction].setRules(rules[direction], defaultDeny[direction])
      else groupRows[direction].clear()
    }
    return { identity: id, enforced, ...collect(groupRows), policies: [...policies].sort() }
  }
}

/** The same rules as before; some peers came or went. */
function resolvePeers(before: ResolvedGroup, groupRows: Group['rows'], peers: ReadonlySet<number>): ResolvedGroup {
  for (const direction of DIRECTIONS) groupRows[direction].updatePeers(peers)
  return { ...before, ...collect(groupRows) }
}

function collect(groupRows: Group['rows']): Pick<ResolvedGroup, 'rows' | 'classes'> {
  const rows = new Map<string, PolicyRow>()
  const classes = new Map<string, PeerClass>()
  for (const direction of DIRECTIONS) groupRows[direction].addTo(rows, classes)
  return { rows, classes }
}

function sameGroup(a: ResolvedGroup, b: ResolvedGroup): boolean {
  if (DIRECTIONS.some((direction) => a.enforced[direction] !== b.enforced[direction])) return false
  if (a.rows.size !== b.rows.size || a.classes.size !== b.classes.size || a.policies.join() !== b.policies.join()) return false
  for (const [key, row] of a.rows) {
    const other = b.rows.get(key)
    if (other === row) continue
    if (other === undefined || other.verdict !== row.verdict || other.explicitDeny !== row.explicitDeny || other.classKey !== row.classKey)
      return false
    if (other.origins !== row.origins && other.origins.join('\n') !== row.origins.join('\n')) return false
  }
  return [...a.classes.keys()].every((key) => b.classes.has(key))
}

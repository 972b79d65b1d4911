/**
 * The policy engine: documents and identities in, rows of policy maps out. Changes are collected and resolved by `commit`, which
 * touches only the groups and peers that they can concern, and reports only what came out different. No I/O; numbers of CIDR
 * identities are the caller's to allocate (`cidrPrefixes`).
 */
import { DnsMatcher } from '#parsers/dns/match.ts'
import { isMatchAll } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import type { CompiledRule, RuleScope } from './blocks.ts'
import { parsePrefix } from './cidr.ts'
import { type CompiledPolicyRule, type CompiledSpec, compileNameQueries, compilePolicy } from './compile.ts'
import { PolicyError } from './errors.ts'
import { GroupRows, type LivePeer, type LiveRule, RowTable, type RuleContext } from './group-rows.ts'
import { LabelSet } from './labels.ts'
import { documentName, isPolicy, type LabelSelector, type Peer, type PeerSet, type PolicyDocument, type RefusedDocument } from './model.ts'
import { hostsOf } from './named-hosts.ts'
import { isReferencePeer, References } from './references.ts'
import { NAMESPACE_LABEL_KEY, prefixesOf, RESERVED_IDENTITIES, selectorsOfEntity, selectorsOfNodes } from './reserved.ts'
import { DIRECTIONS, type Direction, httpRules, type PolicyDelta, type ResolvedGroup } from './resolved.ts'
import type { L7Part } from './rulesets.ts'
import { type NamedPortNumber, type SelectorEntry, SelectorIndex } from './selector-index.ts'

/** An identity as the caller knows it. */
export interface EngineIdentity {
  readonly id: number
  /** source:key=value. Prefixes match it by its labels cidr:PREFIX; one of the world carries reserved:world. */
  readonly labels: readonly string[]
  /** Of all endpoints that have it; what egress rules with named ports mean. */
  readonly namedPorts?: readonly NamedPortNumber[]
  /** DNS names that it is known by, lower-case, with a trailing dot. */
  readonly names?: readonly string[]
  /** Key of the condition on names that it stands for (nameSelectors): rules on that condition are about it, whatever its names. */
  readonly nameSelector?: string
}

/** Endpoints that are judged alike: by identity, by their own named ports, and by whether policy only reports on them. */
export interface EngineSubject {
  /** Number of the group, always the same for the same properties. */
  readonly group: number
  readonly identity: number
  readonly namedPorts: readonly NamedPortNumber[]
  readonly audit: boolean
}

export const ENFORCEMENT_MODES = ['default', 'always', 'never'] as const
export type EnforcementMode = (typeof ENFORCEMENT_MODES)[number]

export interface EngineOptions {
  /** Name of the local cluster, for the entity `cluster`. */
  readonly clusterName?: string
  /** Who is restricted: whom a policy selects, everybody, nobody. */
  readonly enforcement?: EnforcementMode
  /** Verdicts of all policies are reported only. */
  readonly audit?: boolean
  /** Identities come with the DNS names that they are known by. Without, a deny of names denies the whole world on its ports. */
  readonly knowsNames?: boolean
  /**
   * Rules with names make the queries of their endpoints go through the DNS process: seen where no rule of theirs is about DNS, refused for
   * names that are denied. Without, only rules about DNS do.
   */
  readonly observesQueries?: boolean
}

/**
 * Condition (EngineIdentity.nameSelector) of an address that conditions match whose rules on requests are not the same. For the identity that
 * stands for it, those rules hold that are bound to the hosts of their names, or that hold for every name, and all rules that deny requests by
 * name. Where a rule by names allows requests in another way, its rows deny: nobody could tell then what is meant for which name, and the
 * rules of one of the conditions are to be taken.
 */
export const SEVERAL_NAMES = 'several names'

/** A condition on names that rules name peers by, and whether a deny rule does. */
export interface NameUse {
  readonly rule: DnsRule
  readonly denies: boolean
}

/** Something that holds for the identities of one selector. */
interface LiveSubject {
  readonly policy: string
  readonly audit: boolean
  /** Undefined for nodes, whose policy is not enforced. */
  readonly entry: SelectorEntry | undefined
  readonly rules: readonly (LiveRule & { readonly digest: string })[]
  readonly requires: Readonly<Record<Direction, Readonly<Record<'allow' | 'deny', readonly SelectorEntry[]>>>>
  readonly defaultDeny: Readonly<Record<Direction, boolean>>
}

interface LiveFile {
  readonly documents: readonly PolicyDocument[]
  readonly refused: readonly RefusedDocument[]
  readonly subjects: readonly LiveSubject[]
  readonly prefixes: readonly string[]
  readonly names: readonly NameUse[]
  /** What it refers to (References.keysOf). */
  readonly keys: ReadonlySet<string>
}

/** A group whose policy is resolved here. */
interface Group {
  readonly subject: EngineSubject
  readonly table: RowTable
  readonly rows: Readonly<Record<Direction, GroupRows>>
  /** What the last commit told of it. */
  resolved: ResolvedGroup | undefined
}

/** What of a group is to be resolved anew: its rules, and rows of some peers. */
interface Staleness {
  hasOtherRules: boolean
  readonly peers: Set<number>
}

export class PolicyEngine {
  #clusterName: string
  readonly #options: Required<Omit<EngineOptions, 'clusterName'>>
  readonly #files = new Map<string, LiveFile>()
  readonly #references = new References()
  readonly #index = new SelectorIndex()
  /** What holds for whom, by the selector of its subjects. */
  readonly #bySubject = new Map<SelectorEntry, Set<LiveSubject>>()
  /** Whose rules name a selector as a peer, or require it; with how many, because a subject may do so in several. */
  readonly #byPeer = new Map<SelectorEntry, Map<LiveSubject, number>>()
  readonly #prefixUses = new Map<string, number>()
  readonly #nameUses = new Map<string, { readonly rule: DnsRule; count: number; denyCount: number }>()
  readonly #groups = new Map<number, Group>()
  readonly #groupsOf = new Map<number, Set<number>>()
  /** Groups that the last commit told of and that are none any more. */
  readonly #removedGroups = new Map<number, Group>()
  readonly #dirty = new Map<number, Staleness>()
  #revision = 0
  #lastSerial = 0

  constructor({
    clusterName = 'default',
    enforcement = 'default',
    audit = false,
    knowsNames = false,
    observesQueries = false,
  }: EngineOptions = {}) {
    this.#clusterName = clusterName
    this.#options = { enforcement, audit, knowsNames, observesQueries }
    for (const [name, id] of Object.entries(RESERVED_IDENTITIES)) this.upsertIdentity({ id, labels: [`reserved:${name}`] })
  }

  /** Name of the local cluster, which the entity `cluster` goes by. */
  setClusterName(name: string): void {
    if (name === this.#clusterName) return
    this.#clusterName = name
    for (const [file, { documents, refused }] of [...this.#files]) this.#replace(file, documents, refused)
  }

  /**
   * Replaces what a file says. What other files refer to by name may mean something else then, and is resolved again.
   * @param refused documents that are not in force: their subjects are at default deny
   */
  upsertFile(file: string, documents: readonly PolicyDocument[], refused: readonly RefusedDocument[]): void {
    const changedKeys = this.#references.replace(file, documents, refused)
    this.#replace(file, documents, refused)
    this.#resolveReferences(changedKeys, file)
  }

  removeFile(file: string): void {
    const before = this.#files.get(file)
    if (before === undefined) return
    const changedKeys = this.#references.replace(file, [])
    this.#files.delete(file)
    this.#takeOut(before)
    this.#resolveReferences(changedKeys, file)
  }

  /** @throws PolicyError bad-identity for a prefix that is none */
  upsertIdentity({ id, labels, namedPorts = [], names = [], nameSelector }: EngineIdentity): void {
    const prefixes = prefixesOf(labels).map((text) => {
      const prefix = parsePrefix(text)
      if (prefix === undefined) throw new PolicyError('bad-identity', `not a prefix: ${text}`, id)
      return prefix
    })
    const before = this.#index.identity(id)
    const concerned = this.#index.upsertIdentity({ id, labels: new LabelSet(labels), prefixes, namedPorts, names, nameSelector })
    // Rules that name ports mean others for it then, whichever selector they name it by.
    const isRenamed = before !== undefined && JSON.stringify(before.namedPorts) !== JSON.stringify(namedPorts)
    this.#markConcerned(id, isRenamed ? new Set([...concerned, ...this.#index.entriesOf(id)]) : concerned)
  }

  /** @throws PolicyError identity-in-use while it is a subject */
  removeIdentity(id: number): void {
    if (this.#groupsOf.has(id)) throw new PolicyError('identity-in-use', `identity is a subject: ${id}`, id)
    this.#markConcerned(id, this.#index.removeIdentity(id))
  }

  /**
   * Makes endpoints ones that are judged here. Not counted: the caller knows how many are in the group.
   * @throws PolicyError unknown-identity
   */
  addSubject(subject: EngineSubject): void {
    const { group, identity } = subject
    if (this.#index.identity(identity) === undefined) throw new PolicyError('unknown-identity', `no identity: ${identity}`, identity)
    if (this.#groups.has(group)) return
    // One that comes back before anybody heard that it had gone is compared with what it was.
    const known = this.#removedGroups.get(group)
    if (known !== undefined) for (const direction of DIRECTIONS) known.rows[direction].invalidate()
    this.#groups.set(group, known ?? this.#createGroup(subject))
    this.#removedGroups.delete(group)
    this.#groupsOf.set(identity, (this.#groupsOf.get(identity) ?? new Set()).add(group))
    this.#mark(group)
  }

  removeSubject(group: number): void {
    const known = this.#groups.get(group)
    if (known === undefined) return
    const { identity } = known.subject
    this.#groups.delete(group)
    const others = this.#groupsOf.get(identity)
    others?.delete(group)
    if (others?.size === 0) this.#groupsOf.delete(identity)
    this.#dirty.delete(group)
    if (known.resolved !== undefined) this.#removedGroups.set(group, known)
  }

  /** Canonical prefixes that policies mention, exceptions included: each is to have an identity before `commit`. */
  cidrPrefixes(): ReadonlySet<string> {
    return new Set(this.#prefixUses.keys())
  }

  /**
   * Conditions on DNS names that rules name peers by, by their keys. Where names are learned one by one, each is to have an identity
   * (EngineIdentity.nameSelector) before `commit`; that of one name has the name too, so that patterns hold for it.
   */
  nameSelectors(): ReadonlyMap<string, NameUse> {
    return new Map([...this.#nameUses].map(([key, { rule, denyCount }]) => [key, { rule, denies: denyCount > 0 }]))
  }

  /** The groups that each policy (documentName) of a file selects; those of refused documents too, whom they put at default deny. */
  subjectsByPolicy(file: string): ReadonlyMap<string, ReadonlySet<number>> {
    const selected = new Map<string, Set<number>>()
    for (const { policy, entry } of this.#files.get(file)?.subjects ?? []) {
      const groups = selected.get(policy) ?? new Set()
      if (entry !== undefined) for (const group of this.#groupsIn(entry)) groups.add(group)
      selected.set(policy, groups)
    }
    return selected
  }

  /** Resolves what changed since the last time. */
  commit(): PolicyDelta {
    const changed: ResolvedGroup[] = []
    for (const [number, stale] of this.#dirty) {
      const group = this.#groups.get(number)
      if (group === undefined) continue
      const { resolved: before } = group
      const resolved = this.#resolve(group, stale)
      if (before !== undefined && resolved.changedRows.size === 0 && sameSubject(before, resolved)) continue
      group.resolved = resolved
      changed.push(resolved)
    }
    this.#dirty.clear()
    const removed = [...this.#removedGroups.keys()]
    this.#removedGroups.clear()
    if (changed.length > 0 || removed.length > 0) this.#revision += 1
    return { revision: this.#revision, changed, removed }
  }

  #createGroup(subject: EngineSubject): Group {
    const table = new RowTable()
    const ingress = new GroupRows('ingress', table, () => subject.namedPorts)
    const egress = new GroupRows('egress', table, (peer) => this.#index.identity(peer)?.namedPorts ?? [])
    return { subject, table, rows: { ingress, egress }, resolved: undefined }
  }

  #replace(file: string, documents: readonly PolicyDocument[], refused: readonly RefusedDocument[]): void {
    const before = this.#files.get(file)
    // New before old: what both use keeps its members.
    this.#files.set(file, this.#takeIn(documents, refused, before))
    if (before !== undefined) this.#takeOut(before)
  }

  #resolveReferences(changedKeys: ReadonlySet<string>, except: string): void {
    if (changedKeys.size === 0) return
    for (const [file, { documents, refused, keys }] of [...this.#files]) {
      if (file !== except && [...keys].some((key) => changedKeys.has(key))) this.#replace(file, documents, refused)
    }
  }

  #takeIn(documents: readonly PolicyDocument[], refused: readonly RefusedDocument[], before: LiveFile | undefined): LiveFile {
    const known = new Map(before?.subjects.flatMap(({ rules }) => rules.map((rule) => [rule.digest + rule.compiled.name, rule] as const)))
    const subjects: LiveSubject[] = []
    const prefixes: string[] = []
    const names: NameUse[] = []
    const keys = new Set<string>()
    for (const spec of documents.filter(isPolicy).flatMap(compilePolicy)) {
      subjects.push(this.#subjectOf(spec, known))
      for (const { rule } of spec.rules) {
        if (rule.peers.kind !== 'members') continue
        for (const peer of rule.peers.members) {
          prefixes.push(...this.#prefixesOf(peer))
          if (peer.kind === 'fqdn') names.push({ rule: peer.name, denies: rule.verdict === 'deny' })
          for (const key of this.#references.keysOf(peer)) keys.add(key)
        }
      }
    }
    for (const document of refused) {
      for (const { selector, directions } of document.subjects) {
        const defaultDeny = { ingress: directions.includes('ingress'), egress: directions.includes('egress') }
        const entry = this.#index.useLabels(selector)
        subjects.push({ policy: documentName(document), audit: false, entry, rules: [], requires: NO_REQUIRES, defaultDeny })
      }
    }
    for (const subject of subjects) this.#attach(subject)
    for (const prefix of prefixes) this.#prefixUses.set(prefix, (this.#prefixUses.get(prefix) ?? 0) + 1)
    for (const { rule, denies } of names) {
      const key = nameKey(rule)
      const use = this.#nameUses.get(key) ?? { rule, count: 0, denyCount: 0 }
      use.count += 1
      if (denies) use.denyCount += 1
      this.#nameUses.set(key, use)
    }
    return { documents, refused, subjects, prefixes, names, keys }
  }

  #takeOut({ subjects, prefixes, names }: LiveFile): void {
    for (const subject of subjects) this.#detach(subject)
    for (const prefix of prefixes) {
      const count = (this.#prefixUses.get(prefix) ?? 0) - 1
      if (count > 0) this.#prefixUses.set(prefix, count)
      else this.#prefixUses.delete(prefix)
    }
    for (const { rule, denies } of names) {
      const key = nameKey(rule)
      const use = this.#nameUses.get(key)
      if (use === undefined) continue
      if (denies) use.denyCount -= 1
      if (--use.count === 0) this.#nameUses.delete(key)
    }
  }

  #subjectOf({ policy, audit, spec, rules }: CompiledSpec, known: ReadonlyMap<string, LiveSubject['rules'][number]>): LiveSubject {
    if (spec.subject.kind === 'nodes')
      return { policy, audit, entry: undefined, rules: [], requires: NO_REQUIRES, defaultDeny: { ingress: false, egress: false } }
    const entry = this.#index.useLabels(spec.subject.selector)
    const requiresOf = (direction: Direction, verdict: 'allow' | 'deny') =>
      rules
        .filter(({ rule }) => rule.direction === direction && rule.verdict === verdict)
        .flatMap(({ rule }) => rule.requires.map((selector) => this.#index.useLabels(selector)))
    return {
      policy,
      audit,
      entry,
      rules: rules.flatMap((rule) => [...this.#liveRules(rule, known), ...this.#queryRules(rule, policy, known)]),
      requires: {
        ingress: { allow: requiresOf('ingress', 'allow'), deny: requiresOf('ingress', 'deny') },
        egress: { allow: requiresOf('egress', 'allow'), deny: requiresOf('egress', 'deny') },
      },
      defaultDeny: spec.defaultDeny,
    }
  }

  /** A rule, and where it is about whoever has a port of some name, another one for that. */
  #liveRules(rule: CompiledPolicyRule, known: ReadonlyMap<string, LiveSubject['rules'][number]>): LiveSubject['rules'][number][] {
    const { direction, compiled, digest } = rule
    const live = (its: typeof compiled, peers: readonly LivePeer[], part: string) => {
      const before = known.get(digest + part + its.name)
      const isSame = before?.peers.length === peers.length && before.peers.every(({ entry }, index) => entry === peers[index]?.entry)
      return {
        serial: isSame && before !== undefined ? before.serial : ++this.#lastSerial,
        direction,
        compiled: its,
        peers,
        digest: digest + part,
      }
    }
    if (compiled.isForAnyPeer && compiled.named.length > 0 && direction === 'egress') {
      const names = [...new Set(compiled.named.map(({ name }) => name))]
      const peers = names.map((name) => ({ entry: this.#index.useNamedPort(name), isEndpoint: false }))
      return [live({ ...compiled, named: [] }, [], ''), live({ ...compiled, traffic: [], isForAnyPeer: false }, peers, '/named')]
    }
    const { peers } = rule.rule
    const members = peers.kind === 'members' && !compiled.isForAnyPeer ? peers.members : []
    const lives = [
      live(
        compiled,
        members.flatMap((peer) => this.#livePeers(peer, rule.rule.verdict)),
        '',
      ),
    ]
    const several = this.#options.knowsNames ? forSeveralNames(compiled, peers) : []
    for (const [index, its] of several.entries()) {
      lives.push(live(its, [{ entry: this.#index.useName(SEVERAL_NAMES, () => false), isEndpoint: false }], `/several-${index}`))
    }
    return lives
  }

  /** What a rule with names makes of queries for them. */
  #queryRules(
    rule: CompiledPolicyRule,
    policy: string,
    known: ReadonlyMap<string, LiveSubject['rules'][number]>,
  ): LiveSubject['rules'][number][] {
    const compiled = this.#options.observesQueries ? compileNameQueries(rule, policy) : undefined
    if (compiled === undefined) return []
    const digest = `${rule.digest}/queries`
    const serial = known.get(digest + compiled.name)?.serial ?? ++this.#lastSerial
    return [{ serial, direction: rule.direction, compiled, peers: [], digest }]
  }

  #livePeers(peer: Peer, verdict: 'allow' | 'deny'): LivePeer[] {
    const byLabels = (selectors: readonly LabelSelector[], isEndpoint = false): LivePeer[] =>
      selectors.map((selector) => ({ entry: this.#index.useLabels(selector), isEndpoint }))
    const byCidr = (cidr: string, except: readonly string[] = []): LivePeer => ({
      entry: this.#index.useCidr(cidr, except),
      isEndpoint: false,
    })
    switch (peer.kind) {
      case 'endpoints':
        return byLabels([peer.selector], true)
      case 'entity':
        return byLabels(selectorsOfEntity(peer.entity, this.#clusterName))
      case 'nodes':
        return byLabels(selectorsOfNodes(peer.selector))
      case 'cidr':
        return [byCidr(peer.cidr, peer.except)]
      case 'fqdn': {
        const named = { entry: this.#index.useName(nameKey(peer.name), nameMatcher(peer.name)), isEndpoint: false }
        // Which addresses a denied name has is not known, so none of the world may be reached.
        return verdict === 'deny' && !this.#options.knowsNames ? [named, ...byLabels(WORLD)] : [named]
      }
      default: {
        const { selectors, cidrs } = this.#references.resolve(peer)
        const known = [...byLabels(selectors, true), ...cidrs.map((cidr) => byCidr(cidr))]
        // Whom else a refused document means is not known: a deny rule denies whoever it may be.
        if (verdict === 'allow' || !this.#references.isRefused(peer)) return known
        return [...known, ...byLabels(peer.kind === 'service' ? [...WORLD, ENDPOINTS] : WORLD)]
      }
    }
  }

  #prefixesOf(peer: Peer): readonly string[] {
    if (peer.kind === 'cidr') return [peer.cidr, ...peer.except]
    return isReferencePeer(peer) ? this.#references.resolve(peer).cidrs : []
  }

  #attach(subject: LiveSubject): void {
    const { entry } = subject
    if (entry === undefined) return
    const sharing = this.#bySubject.get(entry)
    if (sharing === undefined) this.#bySubject.set(entry, new Set([subject]))
    else sharing.add(subject)
    for (const peer of peerEntriesOf(subject)) {
      const users = this.#byPeer.get(peer) ?? new Map<LiveSubject, number>()
      users.set(subject, (users.get(subject) ?? 0) + 1)
      this.#byPeer.set(peer, users)
    }
    this.#markSubjects(entry)
  }

  #detach(subject: LiveSubject): void {
    const { entry } = subject
    if (entry === undefined) return
    this.#markSubjects(entry)
    const sharing = this.#bySubject.get(entry)
    sharing?.delete(subject)
    if (sharing?.size === 0) this.#bySubject.delete(entry)
    for (const peer of peerEntriesOf(subject)) {
      const users = this.#byPeer.get(peer)
      const count = (users?.get(subject) ?? 0) - 1
      if (count > 0) users?.set(subject, count)
      else users?.delete(subject)
      if (users?.size === 0) this.#byPeer.delete(peer)
      this.#index.release(peer)
    }
    this.#index.release(entry)
  }

  #markSubjects(entry: SelectorEntry, peer?: number): void {
    for (const group of this.#groupsIn(entry)) this.#mark(group, peer)
  }

  *#groupsIn({ members }: SelectorEntry): Generator<number> {
    // Whichever is fewer: a selector can select thousands of identities of other nodes.
    if (members.size < this.#groupsOf.size) {
      for (const id of members) yield* this.#groupsOf.get(id) ?? []
    } else {
      for (const [id, groups] of this.#groupsOf) if (members.has(id)) yield* groups
    }
  }

  /** @param peer whose rows are to be resolved anew; absent: its rules are others */
  #mark(group: number, peer?: number): void {
    let stale = this.#dirty.get(group)
    if (stale === undefined) {
      stale = { hasOtherRules: false, peers: new Set() }
      this.#dirty.set(group, stale)
    }
    if (peer === undefined) stale.hasOtherRules = true
    else stale.peers.add(peer)
  }

  /** @param entries selectors that began or ceased to select the identity */
  #markConcerned(id: number, entries: ReadonlySet<SelectorEntry>): void {
    for (const entry of entries) {
      if (this.#bySubject.has(entry)) {
        for (const group of this.#groupsOf.get(id) ?? []) {
          // While it was no subject of the rules it was not told of their peers, and it may be one again before the next commit.
          for (const direction of DIRECTIONS) this.#groups.get(group)?.rows[direction].invalidate()
          this.#mark(group)
        }
      }
      for (const subject of this.#byPeer.get(entry)?.keys() ?? []) {
        if (subject.entry !== undefined) this.#markSubjects(subject.entry, id)
      }
    }
  }

  #resolve(group: Group, { hasOtherRules, peers }: Staleness): ResolvedGroup {
    const { subject, table, rows, resolved: before } = group
    const { group: number, identity } = subject
    if (!hasOtherRules && before !== undefined) {
      for (const direction of DIRECTIONS) if (before.enforced[direction]) rows[direction].updatePeers(peers)
      return { ...before, changedRows: table.takeChanges() }
    }
    const { enforcement } = this.#options
    const subjects = this.#subjectsOf(identity)
    const enforced: Record<Direction, boolean> = { ingress: false, egress: false }
    for (const direction of DIRECTIONS) {
      const context = this.#contextOf(direction, subjects, subject)
      enforced[direction] =
        enforcement !== 'never' && (context.rules.length > 0 || !context.defaultAllow.audit || !context.defaultAllow.enforced)
      if (enforced[direction]) rows[direction].setRules(context, peers)
      else rows[direction].clear()
    }
    const policies = [...new Set(subjects.map(({ policy }) => policy))].sort()
    return { group: number, identity, enforced, rows: table.rows, changedRows: table.takeChanges(), classes: table.classes, policies }
  }

  #subjectsOf(identity: number): LiveSubject[] {
    const subjects: LiveSubject[] = []
    for (const entry of this.#index.entriesOf(identity)) subjects.push(...(this.#bySubject.get(entry) ?? []))
    return subjects
  }

  #contextOf(direction: Direction, subjects: readonly LiveSubject[], { audit }: EngineSubject): RuleContext {
    const isAudited = audit || this.#options.audit
    const isAlways = this.#options.enforcement === 'always'
    const rules: (LiveRule & { readonly scope: RuleScope })[] = []
    const requires = { allow: noRequirements(), deny: noRequirements() }
    const denied = { enforced: isAlways && !isAudited, audit: isAlways }
    for (const { rules: its, requires: required, defaultDeny, audit: isPolicyAudited } of subjects) {
      const scope: RuleScope = isAudited || isPolicyAudited ? 'audit' : 'both'
      for (const rule of its) if (rule.direction === direction) rules.push({ ...rule, scope })
      for (const verdict of ['allow', 'deny'] as const) {
        requires[verdict].audit.push(...required[direction][verdict])
        if (scope === 'both') requires[verdict].enforced.push(...required[direction][verdict])
      }
      if (!defaultDeny[direction]) continue
      denied.audit = true
      if (scope === 'both') denied.enforced = true
    }
    // Whoever states rules for DNS says which queries are seen.
    const hasDnsRules = rules.some(({ compiled }) => compiled.verdict === 'allow' && isAboutDns(compiled))
    const counted = hasDnsRules ? rules.filter(({ compiled }) => compiled.verdict !== 'observe') : rules
    // In one order, so that what was compiled in another round is found again.
    counted.sort((a, b) => a.serial - b.serial)
    return {
      rules: counted,
      requires,
      defaultAllow: { enforced: !denied.enforced, audit: !denied.audit },
    }
  }
}

const WORLD = selectorsOfEntity('world', '')
const ENDPOINTS: LabelSelector = { requirements: [{ source: 'k8s', key: NAMESPACE_LABEL_KEY, operator: 'Exists', values: [] }] }
const NO_REQUIRES = { ingress: { allow: [], deny: [] }, egress: { allow: [], deny: [] } } as const

function noRequirements(): { enforced: SelectorEntry[]; audit: SelectorEntry[] } {
  return { enforced: [], audit: [] }
}

/** What a rule is for SEVERAL_NAMES. */
function forSeveralNames(compiled: CompiledRule, peers: PeerSet): CompiledRule[] {
  const names = peers.kind === 'members' ? peers.members.flatMap((peer) => (peer.kind === 'fqdn' ? [peer.name] : [])) : []
  const onRequests = names.length === 0 ? [] : compiled.traffic.filter(({ l7 }) => l7 !== undefined)
  if (onRequests.length === 0) return []
  const its = (traffic: CompiledRule['traffic'], verdict = compiled.verdict): CompiledRule[] =>
    traffic.length === 0 ? [] : [{ ...compiled, verdict, traffic, named: [] }]
  if (compiled.verdict === 'deny') return its(onRequests.filter(({ l7 }) => l7?.shape.kind === 'http'))
  const host = hostsOf(peers)
  const isForEveryName = names.some(({ matchPattern }) => matchPattern !== undefined && isMatchAll(matchPattern))
  const holds = ({ l7 }: { readonly l7: L7Part | undefined }): boolean =>
    l7?.shape.kind === 'http' &&
    (isForEveryName || (host !== undefined && l7.rules.length > 0 && httpRules(l7.rules).every(({ rule }) => rule.host === host)))
  const others = onRequests.filter((part) => !holds(part)).map((part) => ({ ...part, l7: undefined }))
  return [...its(onRequests.filter(holds)), ...its(others, 'deny')]
}

function isAboutDns({ traffic, named }: CompiledRule): boolean {
  return [...traffic, ...named].some(({ l7 }) => l7?.shape.kind === 'dns')
}

/** Equal for equal conditions. */
function nameKey({ matchName, matchPattern }: DnsRule): string {
  return JSON.stringify([matchName ?? null, matchPattern ?? null])
}

function nameMatcher(rule: DnsRule): (name: string) => boolean {
  const matcher = new DnsMatcher([rule], 'peers')
  return (name) => matcher.matching(name).length > 0
}

function* peerEntriesOf({ rules, requires }: LiveSubject): Generator<SelectorEntry> {
  for (const { peers } of rules) for (const { entry } of peers) yield entry
  for (const direction of DIRECTIONS) {
    yield* requires[direction].allow
    yield* requires[direction].deny
  }
}

function sameSubject(a: ResolvedGroup, b: ResolvedGroup): boolean {
  return DIRECTIONS.every((direction) => a.enforced[direction] === b.enforced[direction]) && a.policies.join() === b.policies.join()
}

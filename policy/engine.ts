/**
 * The policy engine: documents and identities in, rows of policy maps out. Changes are collected and resolved by `commit`, which
 * touches only the groups that they can concern, and reports only those that came out different. No I/O; numbers of CIDR identities
 * are the caller's to allocate (`cidrPrefixes`).
 */
import { createHash } from 'node:crypto'
import { type CompiledRule, compileBlocks, PROTOCOL_NUMBERS } from './blocks.ts'
import { containsPrefix, type Prefix, parsePrefix } from './cidr.ts'
import { PolicyError } from './errors.ts'
import { LabelSet } from './labels.ts'
import {
  documentName,
  type Peer,
  type PolicyDocument,
  type PolicyRule,
  type PolicySpec,
  type PortRange,
  type RefusedDocument,
} from './model.ts'
import { RESERVED_IDENTITIES, selectorsOfEntity } from './reserved.ts'
import {
  ANY_IDENTITY,
  ANY_PROTOCOL,
  DIRECTIONS,
  type Direction,
  type NamedHttpRule,
  type PeerClass,
  type PolicyDelta,
  type PolicyRow,
  type ResolvedGroup,
  type ResolvedRuleset,
  rowKey,
} from './resolved.ts'
import { selects } from './selector.ts'

/** An identity as the caller knows it. */
export interface EngineIdentity {
  readonly id: number
  /** source:key=value */
  readonly labels: readonly string[]
  /** Canonical prefix, of a CIDR identity. */
  readonly cidr?: string
}

export interface EngineOptions {
  /** Name of the local cluster, for the entity `cluster`. */
  readonly clusterName?: string
}

interface KnownIdentity {
  readonly id: number
  readonly labels: LabelSet
  readonly prefix: Prefix | undefined
}

/** A spec with what resolving needs of it made once. */
interface CompiledSpec {
  readonly policy: string
  readonly spec: PolicySpec
  readonly rules: readonly { readonly direction: Direction; readonly rule: PolicyRule; readonly compiled: CompiledRule }[]
}

interface FileContent {
  readonly specs: readonly CompiledSpec[]
  readonly refused: readonly RefusedDocument[]
  readonly prefixes: readonly string[]
}

const EVERYTHING = { protocol: ANY_PROTOCOL, first: 0, last: 65535 } as const

/** Stands for "nothing puts this direction at default deny" where rules exist all the same. */
const DEFAULT_ALLOW: CompiledRule = {
  name: '(default allow)',
  verdict: 'allow',
  isForAnyPeer: true,
  traffic: [{ ...EVERYTHING, http: undefined }],
}

export class PolicyEngine {
  #clusterName: string
  readonly #files = new Map<string, FileContent>()
  readonly #identities = new Map<number, KnownIdentity>()
  readonly #subjects = new Map<number, ResolvedGroup | undefined>()
  readonly #removedSubjects = new Set<number>()
  /** Subjects to resolve anew. */
  readonly #dirty = new Set<number>()
  #revision = 0

  constructor(options: EngineOptions = {}) {
    this.#clusterName = options.clusterName ?? 'default'
    for (const [name, id] of Object.entries(RESERVED_IDENTITIES)) {
      this.#identities.set(id, { id, labels: new LabelSet([`reserved:${name}`]), prefix: undefined })
    }
  }

  /** Name of the local cluster, which the entity `cluster` goes by. */
  setClusterName(name: string): void {
    if (name === this.#clusterName) return
    this.#clusterName = name
    for (const id of this.#subjects.keys()) this.#dirty.add(id)
  }

  /** Replaces what a file says. @param refused documents that are not in force: their subjects are at default deny */
  upsertFile(file: string, documents: readonly PolicyDocument[], refused: readonly RefusedDocument[]): void {
    const before = this.#files.get(file)
    const specs = documents.flatMap((document) => document.specs.map((spec) => compileSpec(documentName(document), spec)))
    const content = { specs, refused, prefixes: documents.flatMap(prefixesOf) }
    this.#files.set(file, content)
    this.#markSubjectsOf(before)
    this.#markSubjectsOf(content)
  }

  removeFile(file: string): void {
    this.#markSubjectsOf(this.#files.get(file))
    this.#files.delete(file)
  }

  /** @throws PolicyError bad-identity for a prefix that is none */
  upsertIdentity({ id, labels, cidr }: EngineIdentity): void {
    const prefix = cidr === undefined ? undefined : parsePrefix(cidr)
    if (cidr !== undefined && prefix === undefined) throw new PolicyError('bad-identity', `not a prefix: ${cidr}`, id)
    const known = { id, labels: new LabelSet(labels), prefix }
    const before = this.#identities.get(id)
    this.#identities.set(id, known)
    if (before?.labels.equals(known.labels)) return
    this.#markPeersOf(known)
    if (before !== undefined) this.#markPeersOf(before)
    if (this.#subjects.has(id)) this.#dirty.add(id)
  }

  /** @throws PolicyError identity-in-use while it is a subject */
  removeIdentity(id: number): void {
    const known = this.#identities.get(id)
    if (known === undefined) return
    if (this.#subjects.has(id)) throw new PolicyError('identity-in-use', `identity is a subject: ${id}`, id)
    this.#identities.delete(id)
    this.#markPeersOf(known)
  }

  /** Makes an identity one whose endpoints are judged here. @throws PolicyError unknown-identity */
  addSubject(id: number): void {
    if (!this.#identities.has(id)) throw new PolicyError('unknown-identity', `no identity: ${id}`, id)
    if (this.#subjects.has(id)) return
    this.#subjects.set(id, undefined)
    this.#removedSubjects.delete(id)
    this.#dirty.add(id)
  }

  removeSubject(id: number): void {
    if (!this.#subjects.delete(id)) return
    this.#dirty.delete(id)
    this.#removedSubjects.add(id)
  }

  /** Canonical prefixes that policies mention, exceptions included: each is to have an identity before `commit`. */
  cidrPrefixes(): ReadonlySet<string> {
    const prefixes = new Set<string>()
    for (const content of this.#files.values()) for (const prefix of content.prefixes) prefixes.add(prefix)
    return prefixes
  }

  /** Resolves what changed since the last time. */
  commit(): PolicyDelta {
    const changed: ResolvedGroup[] = []
    for (const id of this.#dirty) {
      const before = this.#subjects.get(id)
      const group = this.#resolve(id)
      if (before !== undefined && sameGroup(before, group)) continue
      this.#subjects.set(id, group)
      changed.push(group)
    }
    this.#dirty.clear()
    const removed = [...this.#removedSubjects]
    this.#removedSubjects.clear()
    if (changed.length > 0 || removed.length > 0) this.#revision += 1
    return { revision: this.#revision, changed, removed }
  }

  #resolve(id: number): ResolvedGroup {
    const labels = this.#identities.get(id)?.labels ?? new LabelSet([])
    const enforced: Record<Direction, boolean> = { ingress: false, egress: false }
    const defaultDeny: Record<Direction, boolean> = { ingress: false, egress: false }
    const rules: Record<Direction, CompiledSpec['rules'][number][]> = { ingress: [], egress: [] }
    const policies = new Set<string>()
    for (const { specs, refused } of this.#files.values()) {
      for (const compiled of specs) {
        if (!selects(compiled.spec.subject.selector, labels)) continue
        policies.add(compiled.policy)
        for (const entry of compiled.rules) rules[entry.direction].push(entry)
        for (const direction of DIRECTIONS) defaultDeny[direction] ||= compiled.spec.defaultDeny[direction]
      }
      for (const document of refused) {
        for (const { selector, directions } of document.subjects) {
          if (!selects(selector, labels)) continue
          policies.add(documentName(document))
          for (const direction of directions) defaultDeny[direction] = true
        }
      }
    }
    const rows = new Map<string, PolicyRow>()
    const classes = new Map<string, PeerClass>()
    for (const direction of DIRECTIONS) {
      enforced[direction] = defaultDeny[direction] || rules[direction].length > 0
      if (!enforced[direction]) continue
      this.#addRows(direction, rules[direction], defaultDeny[direction], rows, classes)
    }
    return { identity: id, enforced, rows, classes, policies: [...policies].sort() }
  }

  #addRows(
    direction: Direction,
    entries: readonly CompiledSpec['rules'][number][],
    defaultDeny: boolean,
    rows: Map<string, PolicyRow>,
    classes: Map<string, PeerClass>,
  ): void {
    const forAny = entries.filter(({ compiled }) => compiled.isForAnyPeer).map(({ compiled }) => compiled)
    if (!defaultDeny) forAny.push(DEFAULT_ALLOW)
    const specific = entries.filter(({ compiled }) => !compiled.isForAnyPeer)
    this.#addBlocks(direction, [ANY_IDENTITY], forAny, false, rows, classes)

    // Peers that the same rules name have the same rows: they are compiled once.
    const byRules = new Map<string, { readonly rules: readonly CompiledRule[]; readonly ids: number[] }>()
    for (const identity of this.#identities.values()) {
      const matching = specific.flatMap(({ rule, compiled }, index) => (this.#names(rule, identity) ? [{ index, compiled }] : []))
      if (matching.length === 0) continue
      const key = matching.map(({ index }) => index).join()
      const same = byRules.get(key)
      if (same === undefined) byRules.set(key, { rules: matching.map(({ compiled }) => compiled), ids: [identity.id] })
      else same.ids.push(identity.id)
    }
    for (const { rules, ids } of byRules.values()) this.#addBlocks(direction, ids, [...forAny, ...rules], true, rows, classes)
  }

  #addBlocks(
    direction: Direction,
    identities: readonly number[],
    rules: readonly CompiledRule[],
    onlyWithSpecific: boolean,
    rows: Map<string, PolicyRow>,
    classes: Map<string, PeerClass>,
  ): void {
    for (const { ruleset, ...block } of compileBlocks(rules, onlyWithSpecific)) {
      const classKey = ruleset === undefined ? undefined : classKeyOf(direction, ruleset)
      if (classKey !== undefined && ruleset !== undefined && !classes.has(classKey))
        classes.set(classKey, { key: classKey, direction, ruleset })
      for (const identity of identities) {
        const row = { direction, identity, ...block, ...(classKey === undefined ? {} : { classKey }) }
        rows.set(rowKey(row), row)
      }
    }
  }

  /** Whether a rule's peers include an identity. */
  #names(rule: PolicyRule, identity: KnownIdentity): boolean {
    return rule.peers.kind === 'members' && rule.peers.members.some((peer) => this.#includes(peer, identity))
  }

  #includes(peer: Peer, identity: KnownIdentity): boolean {
    switch (peer.kind) {
      case 'endpoints':
        return identity.prefix === undefined && selects(peer.selector, identity.labels)
      case 'entity':
        return selectorsOfEntity(peer.entity, this.#clusterName).some((selector) => selects(selector, identity.labels))
      case 'cidr': {
        const prefix = parsePrefix(peer.cidr)
        if (prefix === undefined) return false
        if (identity.prefix === undefined) return prefix.family === 4 && prefix.length === 0 && identity.id === RESERVED_IDENTITIES.world
        const own = identity.prefix
        if (!containsPrefix(prefix, own)) return false
        return !peer.except.some((text) => {
          const except = parsePrefix(text)
          return except !== undefined && containsPrefix(except, own)
        })
      }
    }
  }

  #markSubjectsOf(content: FileContent | undefined): void {
    if (content === undefined) return
    const selectors = [
      ...content.specs.map(({ spec }) => spec.subject.selector),
      ...content.refused.flatMap(({ subjects }) => subjects.map(({ selector }) => selector)),
    ]
    for (const id of this.#subjects.keys()) {
      const labels = this.#identities.get(id)?.labels
      if (labels !== undefined && selectors.some((selector) => selects(selector, labels))) this.#dirty.add(id)
    }
  }

  /** Subjects with a rule that names an identity. */
  #markPeersOf(identity: KnownIdentity): void {
    for (const id of this.#subjects.keys()) {
      if (this.#dirty.has(id)) continue
      const labels = this.#identities.get(id)?.labels
      if (labels === undefined) continue
      const concerns = [...this.#files.values()].some(({ specs }) =>
        specs.some(({ spec, rules }) => selects(spec.subject.selector, labels) && rules.some(({ rule }) => this.#names(rule, identity))),
      )
      if (concerns) this.#dirty.add(id)
    }
  }
}

function classKeyOf(direction: Direction, { allowAll, http }: ResolvedRuleset): string {
  const names = createHash('sha256')
    .update(http.map(({ name }) => name).join('\n'))
    .digest('hex')
    .slice(0, 16)
  return `${direction}/http/${allowAll ? 'all' : 'some'}/${names}`
}

/** Names rules by what they say; equal ones of a policy are told apart by an ordinal. */
function compileSpec(policy: string, spec: PolicySpec): CompiledSpec {
  const ordinals = new Map<string, number>()
  const nameOf = (direction: Direction, content: unknown): string => {
    const base = `${policy}/${direction}/${digestOf(content)}`
    const ordinal = ordinals.get(base) ?? 0
    ordinals.set(base, ordinal + 1)
    return `${base}-${ordinal}`
  }
  const rules = spec.rules.map((rule) => {
    const name = nameOf(rule.direction, [rule.verdict, rule.peers, rule.traffic])
    const isForAnyPeer =
      rule.peers.kind === 'any' ||
      (rule.peers.kind === 'members' && rule.peers.members.some((peer) => peer.kind === 'entity' && peer.entity === 'all'))
    const traffic =
      rule.traffic.kind === 'any'
        ? [{ ...EVERYTHING, http: undefined }]
        : rule.traffic.rules.flatMap(({ ranges, l7 }) => {
            const http = l7?.rules.map((httpRule): NamedHttpRule => ({ ...httpRule, name: nameOf(rule.direction, ['http', httpRule]) }))
            return ranges.flatMap(trafficOf).map((range) => ({ ...range, http }))
          })
    // Nobody is meant: the rule only switches default deny on.
    const compiled: CompiledRule = { name, verdict: rule.verdict, isForAnyPeer, traffic: rule.peers.kind === 'none' ? [] : traffic }
    return { direction: rule.direction, rule, compiled }
  })
  return { policy, spec, rules }
}

function trafficOf({ protocol, first, last }: PortRange): { protocol: number; first: number; last: number }[] {
  const protocols = protocol === 'ANY' ? [PROTOCOL_NUMBERS.TCP, PROTOCOL_NUMBERS.UDP, PROTOCOL_NUMBERS.SCTP] : [PROTOCOL_NUMBERS[protocol]]
  return protocols.map((number) => ({ protocol: number, first, last }))
}

function prefixesOf(document: PolicyDocument): string[] {
  return document.specs.flatMap(({ rules }) =>
    rules.flatMap(({ peers }) =>
      peers.kind === 'members' ? peers.members.flatMap((peer) => (peer.kind === 'cidr' ? [peer.cidr, ...peer.except] : [])) : [],
    ),
  )
}

/** Of the content alone: where it stands in the file does not matter. */
function digestOf(content: unknown): string {
  const text = JSON.stringify(content, (key, value: unknown) => (key === 'at' ? undefined : value))
  return createHash('sha256').update(text).digest('hex').slice(0, 8)
}

function sameGroup(a: ResolvedGroup, b: ResolvedGroup): boolean {
  if (DIRECTIONS.some((direction) => a.enforced[direction] !== b.enforced[direction])) return false
  if (a.rows.size !== b.rows.size || a.classes.size !== b.classes.size || a.policies.join() !== b.policies.join()) return false
  for (const [key, row] of a.rows) {
    const other = b.rows.get(key)
    if (other === undefined || other.verdict !== row.verdict || other.explicitDeny !== row.explicitDeny || other.classKey !== row.classKey)
      return false
    if (other.origins.join('\n') !== row.origins.join('\n')) return false
  }
  return [...a.classes.keys()].every((key) => b.classes.has(key))
}

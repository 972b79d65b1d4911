/**
 * All rules of all files, filed so that a rule is held only against those that may be about the same endpoints: by namespace and by a
 * label that their subjects need. Where even that leaves too many pairs, the budget ends and the author is told.
 */
import { formatPrefix, parsePrefix, widenPrefix } from '../cidr.ts'
import { documentName, isPolicy, type PeerSet, type Policy, type PolicyDocument, type PolicyRule, type PolicySpec } from '../model.ts'
import type { Direction } from '../resolved.ts'
import { exactLabels, implies, mayBothSelect, namespacesOf } from './selectors.ts'

export interface FiledRule {
  readonly policy: Policy
  readonly spec: PolicySpec
  readonly rule: PolicyRule
  /** Position in the order of files. */
  readonly serial: number
}

const COMPARISONS_MAX = 4_000_000
const EVERYWHERE = ''

export class RuleIndex {
  readonly policies: readonly Policy[]
  readonly rules: readonly FiledRule[]
  readonly #byPlace = new Map<string, FiledRule[]>()
  readonly #byNamespace = new Map<string, FiledRule[]>()
  readonly #budget: { comparisonsLeft: number }

  /** @param rules of these policies @param budget shared with the index that these rules were taken from */
  private constructor(policies: readonly Policy[], rules: readonly FiledRule[], budget: { comparisonsLeft: number }) {
    this.policies = policies
    this.rules = rules
    this.#budget = budget
    for (const filed of this.rules) {
      const { spec, rule } = filed
      const [label = EVERYWHERE] = exactLabels(spec.subject.selector)
      for (const namespace of namespacesOf(spec.subject.selector) ?? [EVERYWHERE]) {
        file(this.#byNamespace, placeOf(filed, namespace), filed)
        for (const peer of new Set(peerPlaces(rule.peers))) file(this.#byPlace, placeOf(filed, namespace, label, rule.verdict, peer), filed)
      }
    }
  }

  static of(documents: readonly PolicyDocument[]): RuleIndex {
    const policies = documents.filter(isPolicy)
    let serial = 0
    const rules = policies.flatMap((policy) =>
      policy.specs.flatMap((spec) => spec.rules.map((rule): FiledRule => ({ policy, spec, rule, serial: serial++ }))),
    )
    return new RuleIndex(policies, rules, { comparisonsLeft: COMPARISONS_MAX })
  }

  /** An index of some of the rules. */
  only(rules: readonly FiledRule[]): RuleIndex {
    return new RuleIndex(this.policies, rules, this.#budget)
  }

  get isExhausted(): boolean {
    return this.#budget.comparisonsLeft <= 0
  }

  /** Counts comparisons. @returns whether they may be made */
  spend(count = 1): boolean {
    this.#budget.comparisonsLeft -= count
    return this.#budget.comparisonsLeft >= 0
  }

  /** Rules of the same direction that hold for every subject of this one, and for its first peer perhaps; in their order, itself among them. */
  *holdingForAll(filed: FiledRule, verdict: PolicyRule['verdict']): Generator<FiledRule> {
    const { policy, spec, rule } = filed
    const namespaces = namespacesOf(spec.subject.selector) ?? []
    for (const namespace of new Set([...(namespaces.length === 1 ? namespaces : []), EVERYWHERE])) {
      for (const label of new Set([...exactLabels(spec.subject.selector), EVERYWHERE])) {
        for (const peer of new Set(coveringPlaces(rule.peers))) {
          for (const other of this.#byPlace.get(placeOf(filed, namespace, label, verdict, peer)) ?? []) {
            if (!this.spend()) return
            if (other.policy.audit && !policy.audit) continue
            if (implies(spec.subject.selector, other.spec.subject.selector)) yield other
          }
        }
      }
    }
  }

  /** Rules of the same direction that may hold for a subject of this one. */
  *perhapsHolding(filed: FiledRule): Generator<FiledRule> {
    const namespaces = namespacesOf(filed.spec.subject.selector)
    const lists =
      namespaces === undefined
        ? [this.rules.filter((other) => kindOf(other) === kindOf(filed))]
        : [...namespaces, EVERYWHERE].map((namespace) => this.#byNamespace.get(placeOf(filed, namespace)) ?? [])
    for (const list of lists) {
      for (const other of list) {
        if (!this.spend()) return
        if (mayBothSelect(filed.spec.subject.selector, other.spec.subject.selector)) yield other
      }
    }
  }
}

/** A policy is called by its name, a rule by its place. */
export function nameOf({ policy }: FiledRule): string {
  return documentName(policy)
}

function file<T>(shelf: Map<string, T[]>, place: string, item: T): void {
  const filed = shelf.get(place)
  if (filed === undefined) shelf.set(place, [item])
  else filed.push(item)
}

function placeOf(filed: FiledRule, ...parts: readonly string[]): string {
  return [kindOf(filed), ...parts].join(' ')
}

/** Where a rule is filed by its peers. */
function peerPlaces(peers: PeerSet): string[] {
  if (peers.kind !== 'members') return [peers.kind]
  return peers.members.map((peer) => {
    switch (peer.kind) {
      case 'endpoints':
      case 'nodes':
        return `${peer.kind} ${exactLabels(peer.selector)[0] ?? EVERYWHERE}`
      case 'entity':
        return peer.entity === 'all' ? 'any' : `entity ${peer.entity}`
      case 'cidr':
        return `cidr ${peer.cidr}`
      case 'fqdn':
        return `fqdn ${JSON.stringify(peer.name)}`
      default:
        return peer.kind
    }
  })
}

/** Where every rule is filed whose peers may cover these: by the first of them. */
function coveringPlaces(peers: PeerSet): string[] {
  if (peers.kind !== 'members') return peers.kind === 'any' ? ['any'] : []
  const [first] = peers.members
  if (first === undefined) return []
  const own = peerPlaces({ kind: 'members', members: [first] })
  switch (first.kind) {
    case 'endpoints':
    case 'nodes':
      return ['any', ...exactLabels(first.selector).map((label) => `${first.kind} ${label}`), `${first.kind} ${EVERYWHERE}`]
    case 'entity':
      return ['any', ...own, 'entity cluster']
    case 'cidr': {
      const prefix = parsePrefix(first.cidr)
      const wider =
        prefix === undefined
          ? []
          : Array.from({ length: prefix.length }, (_, length) => `cidr ${formatPrefix(widenPrefix(prefix, length))}`)
      return ['any', ...own, ...wider, 'entity world']
    }
    default:
      return ['any', ...own, 'entity world']
  }
}

/** Rules of different directions, or for nodes and for endpoints, have nothing to do with one another. */
function kindOf({ spec, rule }: FiledRule): `${PolicySpec['subject']['kind']} ${Direction}` {
  return `${spec.subject.kind} ${rule.direction}`
}

/**
 * All rules of all files, filed so that a rule is held only against those that may be about the same endpoints: by namespace and by a
 * label that their subjects need. Where even that leaves too many pairs, the budget ends and the author is told.
 */
import { documentName, isPolicy, type Policy, type PolicyDocument, type PolicyRule, type PolicySpec } from '../model.ts'
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
  #comparisonsLeft = COMPARISONS_MAX

  constructor(documents: readonly PolicyDocument[]) {
    this.policies = documents.filter(isPolicy)
    let serial = 0
    this.rules = this.policies.flatMap((policy) =>
      policy.specs.flatMap((spec) => spec.rules.map((rule) => ({ policy, spec, rule, serial: serial++ }))),
    )
    for (const filed of this.rules) {
      const namespaces = namespacesOf(filed.spec.subject.selector) ?? [EVERYWHERE]
      const [label = EVERYWHERE] = exactLabels(filed.spec.subject.selector)
      for (const namespace of namespaces) {
        file(this.#byPlace, placeOf(filed, namespace, label), filed)
        file(this.#byNamespace, placeOf(filed, namespace, EVERYWHERE), filed)
      }
    }
  }

  get isExhausted(): boolean {
    return this.#comparisonsLeft <= 0
  }

  /** Rules of the same direction that hold for every subject of this one, itself among them. */
  *holdingForAll(filed: FiledRule): Generator<FiledRule> {
    const namespaces = namespacesOf(filed.spec.subject.selector) ?? []
    for (const namespace of new Set([...(namespaces.length === 1 ? namespaces : []), EVERYWHERE])) {
      for (const label of new Set([...exactLabels(filed.spec.subject.selector), EVERYWHERE])) {
        for (const other of this.#byPlace.get(placeOf(filed, namespace, label)) ?? []) {
          if (--this.#comparisonsLeft < 0) return
          if (other.policy.audit && !filed.policy.audit) continue
          if (implies(filed.spec.subject.selector, other.spec.subject.selector)) yield other
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
        : [...namespaces, EVERYWHERE].map((namespace) => this.#byNamespace.get(placeOf(filed, namespace, EVERYWHERE)) ?? [])
    for (const list of lists) {
      for (const other of list) {
        if (--this.#comparisonsLeft < 0) return
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

function placeOf(filed: FiledRule, namespace: string, label: string): string {
  return `${kindOf(filed)} ${namespace} ${label}`
}

/** Rules of different directions, or for nodes and for endpoints, have nothing to do with one another. */
function kindOf({ spec, rule }: FiledRule): `${PolicySpec['subject']['kind']} ${Direction}` {
  return `${spec.subject.kind} ${rule.direction}`
}

/**
 * From a list of rules to a tree in which a request meets only the few that can be meant (matcher.ts). Any rule that matches will do:
 * which of several is found first is the tree's choice, whether one is found is not.
 *
 * Recipe, after what was measured on Envoy 1.40: values that are stated plainly become keys of a hash map; beginnings become keys of a
 * trie, whose leaves run the expression itself, since a dot of RE2 is neither a line break nor invalid UTF-8; of many expressions
 * without a beginning to tell them apart, a few dozen are joined as one that lets a request through to them, and these are halved down
 * to the one that matches. The field that leaves the smallest heaps is taken first, then the next one inside of each heap.
 */
import { shapeOfPattern } from '#parsers/http/pattern-shape.ts'
import { ANY_VALUE, allOf, anyOf, type Condition, type Field, holds, not, type Predicate, type Tree } from './matcher.ts'
import { sizeOfPattern } from './pattern-size.ts'

/** What a rule asks of one field. */
export type Term =
  /** One of these, none empty. @property pattern the same as an expression */
  | { readonly kind: 'texts'; readonly field: Field; readonly texts: readonly string[]; readonly pattern: string }
  /** @property prefix what every match begins with; empty when that is not known, or known to hold already */
  | { readonly kind: 'regex'; readonly field: Field; readonly pattern: string; readonly prefix: string }
  | { readonly kind: 'present'; readonly field: Field }
  /** Anything but this, or nothing. */
  | { readonly kind: 'other'; readonly field: Field; readonly text: string }

export interface TreeRule<Action> {
  /** All have to hold. */
  readonly terms: readonly Term[]
  readonly action: Action
}

/** So few are asked one after the other. */
const LIST_MAX = 4
/** More alternatives than these are one expression where they are not keys of a map. */
const ALTERNATIVES_MAX = 8
/** Keys of maps in one tree; beyond, rules with many texts are expressions. */
const KEYS_MAX = 60_000
/** Expressions joined as one, and their size in RE2's instructions: a larger one makes more states than RE2 keeps. */
const JOINED_MAX = 128
const JOINED_SIZE_MAX = 12_000
/** A field is worth a map when it leaves less than this share of the rules in the largest heap. */
const WORTHWHILE_SHARE = 0.75

/** @returns undefined when there are no rules */
export function treeOf<Action>(rules: readonly TreeRule<Action>[]): Tree<Action> | undefined {
  return build(withinKeys(rules))
}

/** Pattern of a policy on a field. */
export function termsOfPattern(field: Field, pattern: string): Term[] {
  const shape = shapeOfPattern(pattern)
  if (shape.kind === 'regex') return [{ kind: 'regex', field, pattern, prefix: shape.prefix }]
  const texts = shape.texts.map(({ text }) => text)
  if (shape.texts.every(({ text, isPrefix }) => !isPrefix && text !== '')) return [{ kind: 'texts', field, texts, pattern }]
  return [{ kind: 'regex', field, pattern, prefix: commonPrefix(texts) }]
}

/** The conditions of a rule, as one question. */
export function predicateOf(terms: readonly Term[]): Predicate | undefined {
  if (terms.length === 0) return undefined
  // All have to hold: the cheapest first.
  const predicates = terms.map(predicateOfTerm)
  return allOf([...predicates.filter(isCheap), ...predicates.filter((predicate) => !isCheap(predicate))])
}

function isCheap({ kind, ...rest }: Predicate): boolean {
  return kind === 'field' && 'condition' in rest && rest.condition.kind === 'exact'
}

function predicateOfTerm(term: Term): Predicate {
  switch (term.kind) {
    case 'present':
      return holds(term.field, ANY_VALUE)
    case 'other':
      return not(holds(term.field, { kind: 'exact', text: term.text }))
    case 'regex':
      return holds(term.field, { kind: 'regex', pattern: term.pattern })
    case 'texts': {
      if (term.texts.length > ALTERNATIVES_MAX) return holds(term.field, { kind: 'regex', pattern: term.pattern })
      return anyOf(term.texts.map((text) => holds(term.field, { kind: 'exact', text } satisfies Condition)))
    }
  }
}

function withinKeys<Action>(rules: readonly TreeRule<Action>[]): readonly TreeRule<Action>[] {
  const count = rules.reduce((sum, { terms }) => sum + terms.reduce((most, term) => Math.max(most, keysOf(term)), 1), 0)
  if (count <= KEYS_MAX) return rules
  return rules.map(({ terms, action }) => ({
    action,
    terms: terms.map((term) =>
      keysOf(term) > ALTERNATIVES_MAX && term.kind === 'texts'
        ? ({ kind: 'regex', field: term.field, pattern: term.pattern, prefix: commonPrefix(term.texts) } as const)
        : term,
    ),
  }))
}

function keysOf(term: Term): number {
  return term.kind === 'texts' ? term.texts.length : 1
}

function build<Action>(rules: readonly TreeRule<Action>[]): Tree<Action> | undefined {
  if (rules.length === 0) return undefined
  const free = rules.find(({ terms }) => terms.length === 0)
  if (free !== undefined) return { kind: 'leaf', action: free.action }
  if (rules.length <= LIST_MAX) return listOf(rules)
  const field = bestField(rules)
  return field === undefined ? gated(rules) : indexed(rules, field)
}

function listOf<Action>(rules: readonly TreeRule<Action>[], otherwise?: Tree<Action>): Tree<Action> {
  const branches = rules.map(({ terms, action }) => ({
    predicate: predicateOf(terms) as Predicate,
    onMatch: { kind: 'leaf', action } as const,
  }))
  return { kind: 'list', branches, ...(otherwise === undefined ? {} : { otherwise }) }
}

// ---- maps and tries

interface Heaps {
  readonly exact: Map<string, number>
  readonly prefix: Map<string, number>
  rest: number
}

/** The field whose values divide the rules best; undefined when none does. */
function bestField(rules: readonly TreeRule<unknown>[]): Field | undefined {
  const heapsByField = new Map<Field, Heaps>()
  const mentions = new Map<Field, number>()
  for (const { terms } of rules) {
    for (const [field, term] of indexTerms(terms)) {
      const heaps = heapsByField.get(field) ?? { exact: new Map(), prefix: new Map(), rest: 0 }
      heapsByField.set(field, heaps)
      mentions.set(field, (mentions.get(field) ?? 0) + 1)
      if (term.kind === 'texts') for (const text of term.texts) increment(heaps.exact, text)
      else increment(heaps.prefix, term.prefix)
    }
  }
  let best: { readonly field: Field; readonly largest: number } | undefined
  for (const [field, { exact, prefix }] of heapsByField) {
    const rest = rules.length - (mentions.get(field) ?? 0)
    const largest = rest + largestOf(exact) + largestOf(prefix)
    if (best === undefined || largest < best.largest) best = { field, largest }
  }
  return best !== undefined && best.largest < rules.length * WORTHWHILE_SHARE ? best.field : undefined
}

type IndexTerm = Exclude<Term, { kind: 'present' | 'other' }>

/** The term of each field by which a rule can be found. */
function indexTerms(terms: readonly Term[]): Map<Field, IndexTerm> {
  const byField = new Map<Field, IndexTerm>()
  for (const term of terms) {
    if (term.kind === 'present' || term.kind === 'other' || (term.kind === 'regex' && term.prefix === '')) continue
    if (byField.get(term.field)?.kind !== 'texts') byField.set(term.field, term)
  }
  return byField
}

function indexed<Action>(rules: readonly TreeRule<Action>[], field: Field): Tree<Action> | undefined {
  const exact = new Map<string, TreeRule<Action>[]>()
  const prefix = new Map<string, TreeRule<Action>[]>()
  const rest: TreeRule<Action>[] = []
  for (const rule of rules) {
    const term = indexTerms(rule.terms).get(field)
    if (term === undefined) {
      rest.push(rule)
    } else if (term.kind === 'texts') {
      const known = { ...rule, terms: rule.terms.filter((other) => other !== term) }
      for (const text of term.texts) append(exact, text, known)
    } else {
      const known = { ...rule, terms: rule.terms.map((other) => (other === term ? { ...term, prefix: '' } : other)) }
      append(prefix, term.prefix, known)
    }
  }
  const byRest = build(rest)
  const byPrefix = mapOf('prefix', field, prefix, byRest)
  return mapOf('exact', field, exact, byPrefix)
}

function mapOf<Action>(
  kind: 'exact' | 'prefix',
  field: Field,
  heaps: ReadonlyMap<string, readonly TreeRule<Action>[]>,
  otherwise: Tree<Action> | undefined,
): Tree<Action> | undefined {
  if (heaps.size === 0) return otherwise
  const branches = new Map<string, Tree<Action>>()
  for (const [key, rules] of heaps) {
    const tree = build(rules)
    if (tree !== undefined) branches.set(key, tree)
  }
  return { kind, field, branches, ...(otherwise === undefined ? {} : { otherwise }) }
}

// ---- expressions joined

/** Rules that no map tells apart. */
function gated<Action>(rules: readonly TreeRule<Action>[]): Tree<Action> {
  const field = gateField(rules)
  if (field === undefined) return listOf(rules)
  const joinable: GatedRule<Action>[] = []
  const others: TreeRule<Action>[] = []
  for (const rule of rules) {
    const term = gateTerm(rule.terms, field)
    if (term === undefined) others.push(rule)
    else joinable.push({ rule, pattern: term.pattern, size: sizeOfPattern(term.pattern) })
  }
  // Like expressions together, so that most groups fail early.
  joinable.sort((a, b) => (a.pattern < b.pattern ? -1 : 1))
  const branches = groupsOf(joinable).map((group) => ({
    predicate: holds(field, { kind: 'regex', pattern: joined(group) }),
    onMatch: halved(group, field),
  }))
  return others.length === 0 ? { kind: 'list', branches } : { kind: 'list', branches, otherwise: listOf(others) }
}

interface GatedRule<Action> {
  readonly rule: TreeRule<Action>
  readonly pattern: string
  readonly size: number
}

/** One of them matches on the field: when it is none of the first half, it is one of the second. */
function halved<Action>(group: readonly GatedRule<Action>[], field: Field): Tree<Action> {
  if (group.length <= LIST_MAX) return listOf(group.map(({ rule }) => rule))
  const middle = Math.ceil(group.length / 2)
  const first = group.slice(0, middle)
  const predicate = holds(field, { kind: 'regex', pattern: joined(first) })
  return { kind: 'list', branches: [{ predicate, onMatch: halved(first, field) }], otherwise: halved(group.slice(middle), field) }
}

function groupsOf<Action>(rules: readonly GatedRule<Action>[]): GatedRule<Action>[][] {
  const groups: GatedRule<Action>[][] = []
  let size = 0
  for (const rule of rules) {
    const last = groups.at(-1)
    if (last === undefined || last.length >= JOINED_MAX || size + rule.size > JOINED_SIZE_MAX) {
      groups.push([rule])
      size = rule.size
    } else {
      last.push(rule)
      size += rule.size
    }
  }
  return groups
}

function joined(group: readonly GatedRule<unknown>[]): string {
  return [...new Set(group.map(({ pattern }) => pattern))].map((pattern) => `(?:${pattern})`).join('|')
}

/** The field that most different expressions are about that can be joined with others. */
function gateField(rules: readonly TreeRule<unknown>[]): Field | undefined {
  const patterns = new Map<Field, Set<string>>()
  for (const { terms } of rules) {
    for (const field of new Set(terms.map((term) => term.field))) {
      const term = gateTerm(terms, field)
      if (term === undefined) continue
      const known = patterns.get(field)
      if (known === undefined) patterns.set(field, new Set([term.pattern]))
      else known.add(term.pattern)
    }
  }
  const [best] = [...patterns].sort(([, a], [, b]) => b.size - a.size)
  return best !== undefined && best[1].size > LIST_MAX ? best[0] : undefined
}

function gateTerm(terms: readonly Term[], field: Field): { readonly pattern: string } | undefined {
  for (const term of terms) if (term.field === field && 'pattern' in term && isJoinable(term.pattern)) return term
  return undefined
}

/** A quotation would go on behind the end of its group, and names of groups may be there once. */
function isJoinable(pattern: string): boolean {
  return !pattern.includes('\\Q') && !pattern.includes('(?P<') && !pattern.includes('(?<')
}

function commonPrefix(texts: readonly string[]): string {
  let prefix = texts[0] ?? ''
  for (const text of texts) while (!text.startsWith(prefix)) prefix = prefix.slice(0, -1)
  // Half of a character is none.
  return /[\uD800-\uDBFF]$/.test(prefix) ? prefix.slice(0, -1) : prefix
}

function increment<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function largestOf(counts: ReadonlyMap<unknown, number>): number {
  let largest = 0
  for (const count of counts.values()) if (count > largest) largest = count
  return largest
}

function append<Value>(heaps: Map<string, Value[]>, key: string, value: Value): void {
  const heap = heaps.get(key)
  if (heap === undefined) heaps.set(key, [value])
  else heap.push(value)
}

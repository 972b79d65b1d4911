/**
 * Rules about names, found by name: thousands of them cost what those of one name cost. Exact names are in a map; patterns are in a tree of
 * labels from the right, in which only patterns with the name's own suffix are met, so the cost of a name is bounded by its length and by how
 * many patterns share its suffix. What a pattern means is name-pattern.ts's to say; here is only the order in which it is asked.
 */
import { compileLabel, hasWholeLabels, isMatchAll, isPeerName, type NameUse, normalizeName, splitPattern } from './name-pattern.ts'
import type { DnsRule } from './rules.ts'

/** From so many values on, a set finds the ones that several rules have. */
const VALUE_COUNT_COMPARED = 16

const DOT = 0x2e

/** The values of one name or pattern, counted, because rules can share a part and differ in the other. */
class Bucket<Value> {
  readonly #counts = new Map<Value, number>()
  #values: readonly Value[] | undefined

  get isEmpty(): boolean {
    return this.#counts.size === 0
  }

  /** Never changed once given. */
  get values(): readonly Value[] {
    this.#values ??= [...this.#counts.keys()]
    return this.#values
  }

  add(value: Value): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1)
    this.#values = undefined
  }

  /** @returns whether it was there */
  remove(value: Value): boolean {
    const count = this.#counts.get(value)
    if (count === undefined) return false
    if (count > 1) this.#counts.set(value, count - 1)
    else this.#counts.delete(value)
    this.#values = undefined
    return true
  }
}

/** A label of patterns, with the labels to its right above it. */
class Node<Value> {
  /** Labels without a star. */
  readonly names = new Map<string, Node<Value>>()
  /** Labels with stars, by their text. */
  readonly patterns = new Map<string, Node<Value>>()
  readonly matches: (label: string) => boolean
  /** Of the pattern that ends here. */
  closed: Bucket<Value> | undefined
  /** Of the pattern that goes on with whole labels, one or more. */
  open: Bucket<Value> | undefined

  constructor(label: string) {
    this.matches = compileLabel(label)
  }

  get isEmpty(): boolean {
    return this.closed === undefined && this.open === undefined && this.names.size === 0 && this.patterns.size === 0
  }

  childrenOf(label: string): Map<string, Node<Value>> {
    return label.includes('*') ? this.patterns : this.names
  }
}

/** Values by the rules that match a name. A rule with a name and a pattern matches what either matches. */
export class NameIndex<Value> {
  readonly #use: NameUse
  readonly #exact = new Map<string, Bucket<Value>>()
  readonly #all = new Bucket<Value>()
  readonly #root = new Node<Value>('')
  /** The nodes that the labels so far lead to, and those of the next label. Counted beside: an array of no length gives its memory away. */
  #reached: Node<Value>[] = []
  #reachedCount = 0
  #next: Node<Value>[] = []
  #nextCount = 0
  /** The values found, one list a bucket. */
  readonly #found: (readonly Value[])[] = []
  #foundCount = 0

  constructor(use: NameUse) {
    this.#use = use
  }

  /** Adds a value under a rule. What is added twice has to be removed twice. */
  add({ matchName, matchPattern }: DnsRule, value: Value): void {
    if (matchName !== undefined) {
      const name = normalizeName(matchName)
      const bucket = this.#exact.get(name) ?? new Bucket<Value>()
      this.#exact.set(name, bucket)
      bucket.add(value)
    }
    if (matchPattern === undefined) return
    if (isMatchAll(matchPattern)) {
      this.#all.add(value)
      return
    }
    const { isOpen, labels } = splitPattern(matchPattern)
    let node = this.#root
    for (const label of labels.toReversed()) {
      const children = node.childrenOf(label)
      const child = children.get(label) ?? new Node<Value>(label)
      children.set(label, child)
      node = child
    }
    const end = isOpen ? 'open' : 'closed'
    node[end] ??= new Bucket<Value>()
    node[end].add(value)
  }

  /** Takes back one add() of the same rule and value. Without one nothing happens. */
  remove({ matchName, matchPattern }: DnsRule, value: Value): void {
    if (matchName !== undefined) {
      const name = normalizeName(matchName)
      const bucket = this.#exact.get(name)
      bucket?.remove(value)
      if (bucket?.isEmpty) this.#exact.delete(name)
    }
    if (matchPattern === undefined) return
    if (isMatchAll(matchPattern)) this.#all.remove(value)
    else this.#removePattern(matchPattern, value)
  }

  /**
   * The values of rules for this name alone; without any, of all that match. For whoever keeps with a name what the patterns that match it say.
   * @param name as of matching
   */
  narrowest(name: string): readonly Value[] {
    return this.#exact.get(name)?.values ?? this.matching(name)
  }

  /**
   * The values of all rules that match, each once, in no order that means anything.
   * @param name in lower case, with a trailing dot, as wire-name.ts gives it
   * @returns a list that later changes leave as it is
   */
  matching(name: string): readonly Value[] {
    this.#foundCount = 0
    const exact = this.#exact.get(name)
    if (exact !== undefined) this.#find(exact)
    if (!this.#all.isEmpty && (this.#use === 'queries' || isPeerName(name))) this.#find(this.#all)
    if (this.#root.names.size > 0 || this.#root.patterns.size > 0) this.#findPatterns(name)
    if (this.#foundCount === 0) return []
    return this.#foundCount === 1 ? (this.#found[0] as readonly Value[]) : distinct(this.#found.slice(0, this.#foundCount))
  }

  #find(bucket: Bucket<Value>): void {
    this.#found[this.#foundCount++] = bucket.values
  }

  #findPatterns(name: string): void {
    let labelEnd = name.length - 1
    this.#reached[0] = this.#root
    this.#reachedCount = 1
    while (labelEnd >= 0 && this.#reachedCount > 0) {
      let labelOffset = labelEnd
      while (labelOffset > 0 && name.charCodeAt(labelOffset - 1) !== DOT) labelOffset -= 1
      const label = name.slice(labelOffset, labelEnd)
      this.#nextCount = 0
      for (let index = 0; index < this.#reachedCount; index++) this.#descend(this.#reached[index] as Node<Value>, label)
      labelEnd = labelOffset - 1
      for (let index = 0; index < this.#nextCount; index++) {
        const { closed, open } = this.#next[index] as Node<Value>
        if (closed !== undefined && labelEnd < 0) this.#find(closed)
        if (open !== undefined && labelEnd >= 0 && hasWholeLabels(name.slice(0, labelOffset))) this.#find(open)
      }
      const reached = this.#reached
      this.#reached = this.#next
      this.#reachedCount = this.#nextCount
      this.#next = reached
    }
  }

  #descend(node: Node<Value>, label: string): void {
    const named = node.names.get(label)
    if (named !== undefined) this.#next[this.#nextCount++] = named
    if (node.patterns.size === 0) return
    for (const child of node.patterns.values()) if (child.matches(label)) this.#next[this.#nextCount++] = child
  }

  #removePattern(pattern: string, value: Value): void {
    const { isOpen, labels } = splitPattern(pattern)
    const path = [this.#root]
    for (const label of labels.toReversed()) {
      const child = path.at(-1)?.childrenOf(label).get(label)
      if (child === undefined) return
      path.push(child)
    }
    const end = isOpen ? 'open' : 'closed'
    const last = path.at(-1) as Node<Value>
    if (last[end]?.remove(value) && last[end].isEmpty) last[end] = undefined
    // What nothing is below goes, so that policies that come and go leave nothing behind.
    for (const label of labels) {
      const node = path.pop() as Node<Value>
      if (!node.isEmpty) return
      path.at(-1)?.childrenOf(label).delete(label)
    }
  }
}

function distinct<Value>(lists: readonly (readonly Value[])[]): readonly Value[] {
  const count = lists.reduce((sum, list) => sum + list.length, 0)
  if (count > VALUE_COUNT_COMPARED) return [...new Set(lists.flat())]
  const values: Value[] = []
  for (const list of lists) for (const value of list) if (!values.includes(value)) values.push(value)
  return values
}

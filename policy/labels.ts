/**
 * Labels as Cilium writes them, `source:key=value`, and sets of them. A set is what an identity stands for; it is kept parsed,
 * because selectors look keys up far more often than sets are made.
 */

export interface Label {
  readonly source: string
  readonly key: string
  readonly value: string
}

/** Source that in a selector means whatever source. */
export const ANY_SOURCE = 'any'

/**
 * Parses `source:key=value`; a label without a source is of source unspec, one without `=` has an empty value. The source ends
 * at the first colon before any `=`.
 */
export function parseLabel(text: string): Label {
  const equals = text.indexOf('=')
  const name = equals < 0 ? text : text.slice(0, equals)
  const value = equals < 0 ? '' : text.slice(equals + 1)
  const colon = name.indexOf(':')
  if (colon < 0) return { source: 'unspec', key: name, value }
  return { source: name.slice(0, colon), key: name.slice(colon + 1), value }
}

/** `source:key=value`, or `source:key` when the value is empty, as Cilium prints reserved labels. */
export function formatLabel({ source, key, value }: Label): string {
  return value === '' ? `${source}:${key}` : `${source}:${key}=${value}`
}

/** An immutable set of labels. */
export class LabelSet {
  readonly #byKey = new Map<string, Label[]>()
  /** Canonical text, sorted; equal for equal sets. */
  readonly text: readonly string[]

  constructor(labels: Iterable<string>) {
    const texts = new Set<string>()
    for (const text of labels) {
      const label = parseLabel(text)
      const canonical = formatLabel(label)
      if (texts.has(canonical)) continue
      texts.add(canonical)
      const others = this.#byKey.get(label.key)
      if (others === undefined) this.#byKey.set(label.key, [label])
      else others.push(label)
    }
    this.text = [...texts].sort()
  }

  /** Labels with this key and, unless it is `any`, this source. */
  find(source: string, key: string): readonly Label[] {
    const labels = this.#byKey.get(key)
    if (labels === undefined) return []
    return source === ANY_SOURCE ? labels : labels.filter((label) => label.source === source)
  }

  has(source: string, key: string): boolean {
    return this.find(source, key).length > 0
  }

  *[Symbol.iterator](): Generator<Label> {
    for (const labels of this.#byKey.values()) yield* labels
  }

  equals(other: LabelSet): boolean {
    return this.text.length === other.text.length && this.text.every((text, index) => text === other.text[index])
  }
}

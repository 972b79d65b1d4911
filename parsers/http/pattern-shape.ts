/**
 * What a pattern is when it is looked at once: a few fixed texts, beginnings of texts, or a real regular expression with a fixed
 * beginning. Most patterns of policies are no more than the first two, and those need no regular expression to be matched, only a
 * look-up. Whatever is not plainly understood here is a regular expression: RE2 knows best.
 */

/** The whole text, or with `isPrefix` its beginning, whatever follows on the line. */
export interface FixedText {
  readonly text: string
  readonly isPrefix: boolean
}

export type PatternShape =
  | { readonly kind: 'fixed'; readonly texts: readonly FixedText[] }
  /** Every match begins with `prefix`, which may be empty. */
  | { readonly kind: 'regex'; readonly prefix: string }

/** Alternatives multiply: beyond this many, a regular expression is the smaller thing. */
export const FIXED_TEXTS_MAX = 64
const PATTERN_LENGTH_MAX = 2048
const PUNCTUATION = /^[!-/:-@[-`{-~]$/
const META = new Set('\\.+*?()|[]{}^$')

/** @param pattern of RE2, which matches the whole value however it is anchored */
export function shapeOfPattern(pattern: string): PatternShape {
  if (pattern.length > PATTERN_LENGTH_MAX) return { kind: 'regex', prefix: '' }
  const unanchored = withoutAnchors(pattern)
  const reader = new Reader(unanchored)
  const texts = reader.alternation()
  if (texts !== undefined && reader.isAtEnd) return { kind: 'fixed', texts: distinct(texts) }
  return { kind: 'regex', prefix: literalPrefix(unanchored) }
}

/** An anchor binds to one alternative only, so those of an alternation are left alone. */
function withoutAnchors(pattern: string): string {
  if (hasAlternatives(pattern)) return pattern
  const start = pattern.startsWith('^') ? 1 : 0
  const isEnded = pattern.endsWith('$') && !/\\*$/.exec(pattern.slice(0, -1))?.[0].length
  return pattern.slice(start, isEnded ? -1 : undefined)
}

class Reader {
  readonly #pattern: string
  #offset = 0

  constructor(pattern: string) {
    this.#pattern = pattern
  }

  get isAtEnd(): boolean {
    return this.#offset === this.#pattern.length
  }

  /** @returns undefined as soon as anything is met that is more than fixed text */
  alternation(): FixedText[] | undefined {
    const texts: FixedText[] = []
    for (;;) {
      const sequence = this.#sequence()
      if (sequence === undefined) return undefined
      texts.push(...sequence)
      if (texts.length > FIXED_TEXTS_MAX) return undefined
      if (this.#peek() !== '|') return texts
      this.#offset += 1
    }
  }

  #sequence(): FixedText[] | undefined {
    let texts: FixedText[] = [{ text: '', isPrefix: false }]
    for (let next = this.#peek(); next !== undefined && next !== '|' && next !== ')'; next = this.#peek()) {
      const item = this.#item()
      if (item === undefined) return undefined
      // What follows the beginning of a text would have to be searched for.
      if (texts.some(({ isPrefix }) => isPrefix)) return undefined
      texts = texts.flatMap(({ text }) => item.map((part) => ({ text: text + part.text, isPrefix: part.isPrefix })))
      if (texts.length > FIXED_TEXTS_MAX) return undefined
    }
    return texts
  }

  #item(): FixedText[] | undefined {
    if (this.#pattern.startsWith('.*', this.#offset)) {
      this.#offset += 2
      return this.#isQuantified() ? undefined : [{ text: '', isPrefix: true }]
    }
    const atom = this.#peek() === '(' ? this.#group() : this.#literal()
    if (atom === undefined) return undefined
    if (this.#peek() === '?') {
      this.#offset += 1
      return this.#isQuantified() ? undefined : [{ text: '', isPrefix: false }, ...atom]
    }
    return this.#isQuantified() ? undefined : atom
  }

  #group(): FixedText[] | undefined {
    this.#offset += this.#pattern.startsWith('(?:', this.#offset) ? 3 : 1
    if (this.#peek() === '?') return undefined
    const texts = this.alternation()
    if (texts === undefined || this.#peek() !== ')') return undefined
    this.#offset += 1
    return texts
  }

  #literal(): FixedText[] | undefined {
    const literal = literalAt(this.#pattern, this.#offset)
    if (literal === undefined) return undefined
    this.#offset += literal.length
    return [{ text: literal.text, isPrefix: false }]
  }

  #isQuantified(): boolean {
    return '?*+{'.includes(this.#peek() ?? ' ')
  }

  #peek(): string | undefined {
    return this.#pattern[this.#offset]
  }
}

/** A character that stands for itself, escaped or not. */
function literalAt(pattern: string, offset: number): { readonly text: string; readonly length: number } | undefined {
  const first = pattern[offset] ?? ''
  if (first === '\\') {
    const escaped = pattern[offset + 1] ?? ''
    return PUNCTUATION.test(escaped) ? { text: escaped, length: 2 } : undefined
  }
  const text = String.fromCodePoint(pattern.codePointAt(offset) ?? 0)
  return first === '' || META.has(first) ? undefined : { text, length: text.length }
}

/** Whether there is a bar outside of groups and classes; where that is not plain to see, there may be. */
function hasAlternatives(pattern: string): boolean {
  if (!pattern.includes('|')) return false
  if (pattern.includes('\\Q')) return true
  let depth = 0
  let isInClass = false
  for (let offset = 0; offset < pattern.length; offset++) {
    const character = pattern[offset]
    if (character === '\\') offset += 1
    else if (isInClass) isInClass = character !== ']'
    else if (character === '[') {
      isInClass = true
      // A bracket that comes first closes nothing.
      if (pattern[offset + 1] === '^') offset += 1
      if (pattern[offset + 1] === ']') offset += 1
    } else if (character === '(') depth += 1
    else if (character === ')') depth -= 1
    else if (character === '|' && depth === 0) return true
  }
  return false
}

/** Text that every match begins with: what stands before anything that is not itself. */
function literalPrefix(pattern: string): string {
  if (hasAlternatives(pattern)) return ''
  let prefix = ''
  for (let offset = 0; offset < pattern.length; ) {
    const literal = literalAt(pattern, offset)
    if (literal === undefined) break
    const next = pattern[offset + literal.length] ?? ''
    if ('?*{'.includes(next) && next !== '') break
    prefix += literal.text
    offset += literal.length
    if (next === '+') break
  }
  return prefix
}

function distinct(texts: readonly FixedText[]): FixedText[] {
  return [...new Map(texts.map((text) => [`${text.isPrefix} ${text.text}`, text])).values()]
}

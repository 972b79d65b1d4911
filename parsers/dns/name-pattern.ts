/**
 * Names and patterns of names as policy writes them, with the semantics of Cilium's pkg/fqdn/matchpattern: `*` is any part of one
 * label, `**.` in front is one or more whole labels, stars alone are every name. Cilium makes a regular expression of a pattern; here it is
 * compared label by label, so that its cost is bounded by the length of both and nothing of a user's is ever compiled.
 */

import type { DnsRule } from './rules.ts'

/** Longest name or pattern that policy may state. */
const NAME_LENGTH_MAX = 255

const LABEL = /^[-a-z0-9_]*$/
const WHOLE_LABELS = /^(?:[-a-z0-9_]+\.)+$/
const NAME_CHARACTERS = /^[-a-zA-Z0-9_.]+$/
const PATTERN_CHARACTERS = /^[-a-zA-Z0-9_.*]+$/

/** Whether the text can be a matchName: labels with dots between, one more dot at the end at most. */
export function isMatchName(text: string): boolean {
  return text.length <= NAME_LENGTH_MAX && NAME_CHARACTERS.test(text) && hasFilledLabels(text)
}

/** Whether the text can be a matchPattern: a name in which any part may be a star. */
export function isMatchPattern(text: string): boolean {
  return text.length <= NAME_LENGTH_MAX && PATTERN_CHARACTERS.test(text) && hasFilledLabels(text)
}

function hasFilledLabels(text: string): boolean {
  return (text.endsWith('.') ? text.slice(0, -1) : text).split('.').every((label) => label !== '')
}

/** Lower-case, with a trailing dot. */
export function normalizeName(name: string): string {
  const lower = name.toLowerCase()
  return lower.endsWith('.') ? lower : `${lower}.`
}

/** Whether the pattern is one of those that mean every name: `*`, `**`, `*.`… */
export function isMatchAll(pattern: string): boolean {
  return /^\*+\.?$/.test(pattern)
}

/** What is matched: names of peers (`toFQDNs`), or whatever is asked of a server (`rules.dns`). Only the latter takes names that are none. */
export type NameUse = 'peers' | 'queries'

/**
 * Compiles a pattern into a test of names; both may be in any case, with or without the trailing dot.
 * @param pattern that isMatchPattern accepts
 */
export function compileNamePattern(pattern: string, use: NameUse): (name: string) => boolean {
  if (isMatchAll(pattern)) {
    if (use === 'queries') return () => true
    return (name) => isPeerName(normalizeName(name))
  }
  return compileLabels(labelsOf(normalizeName(pattern)), normalizeName)
}

/** Compiles a rule into a test of names, in any case, with or without the trailing dot; with a name and a pattern it takes what either takes. */
export function compileName({ matchName, matchPattern }: DnsRule, use: NameUse): (name: string) => boolean {
  const expected = matchName === undefined ? undefined : normalizeName(matchName)
  const isOfPattern = matchPattern === undefined ? undefined : compileNamePattern(matchPattern, use)
  return (name) => (expected !== undefined && normalizeName(name) === expected) || isOfPattern?.(name) === true
}

/** The labels of a name in normal form. */
function labelsOf(name: string): string[] {
  return name.slice(0, -1).split('.')
}

/** Whether a name can be a peer's: the root, or whole labels. @param name in normal form */
export function isPeerName(name: string): boolean {
  return name === '.' || hasWholeLabels(name)
}

/** Whether all of a name is labels, one or more, none of them empty. @param name in normal form */
export function hasWholeLabels(name: string): boolean {
  return WHOLE_LABELS.test(name)
}

/** What the labels of a pattern say: whether whole labels, one or more, come first (`**.`), and which labels follow. */
export interface PatternLabels {
  readonly isOpen: boolean
  readonly labels: readonly string[]
}

/** @param pattern that isMatchPattern accepts, and that is not for every name */
export function splitPattern(pattern: string): PatternLabels {
  return splitLabels(labelsOf(normalizeName(pattern)))
}

function splitLabels(labels: readonly string[]): PatternLabels {
  const [first = '', ...others] = labels
  return /^\*\*+$/.test(first) && others.length > 0 ? { isOpen: true, labels: others } : { isOpen: false, labels }
}

/** @param labels of the pattern @param normalize what a name is brought to before it is compared, with a trailing dot */
export function compileLabels(labels: readonly string[], normalize: (name: string) => string): (name: string) => boolean {
  const { isOpen, labels: own } = splitLabels(labels)
  const fixed = own.map(compileLabel)
  return (name) => {
    const actual = labelsOf(normalize(name))
    const openCount = actual.length - fixed.length
    if (isOpen ? openCount < 1 : openCount !== 0) return false
    return actual.every((label, index) => {
      const test = fixed[index - openCount]
      return test === undefined ? label !== '' && LABEL.test(label) : test(label)
    })
  }
}

/** Compiles a label of a pattern into a test of labels; its stars take any part of one. @param pattern in lower case */
export function compileLabel(pattern: string): (label: string) => boolean {
  const [head = '', ...parts] = pattern.split(/\*+/)
  const tail = parts.pop()
  if (tail === undefined) return (label) => label === pattern
  return (label) => {
    if (!LABEL.test(label) || label.length < head.length + tail.length) return false
    if (!label.startsWith(head) || !label.endsWith(tail)) return false
    // Each part at its first place leaves the most room for the next.
    let offset = head.length
    const end = label.length - tail.length
    for (const part of parts) {
      const found = label.indexOf(part, offset)
      if (found < 0 || found + part.length > end) return false
      offset = found + part.length
    }
    return true
  }
}

/**
 * What a name is that a resolver has put a search domain behind.
 * @param name and domain in lower case, with a trailing dot @returns undefined when it does not end so
 */
export function withoutDomain(name: string, domain: string): string | undefined {
  return name.endsWith(domain) && name.at(-domain.length - 1) === '.' ? name.slice(0, -domain.length) : undefined
}

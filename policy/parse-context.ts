/** What every part of the parser of `spec` shares: where a rule stands, which language is read, and how long lists may be. */
import type { Cursor } from './cursor.ts'
import type { PolicySpec } from './model.ts'
import type { ParseOptions } from './options.ts'
import type { SelectorScope } from './parse-selector.ts'
import type { ProblemList } from './problems.ts'
import type { Direction } from './resolved.ts'

/** What a document says about all of its specs. */
export interface RuleContext {
  readonly subjects: SelectorScope
  readonly peers: SelectorScope
  readonly options: ParseOptions
  readonly problems: ProblemList
}

/** The same, inside one rule. */
export interface MemberContext extends RuleContext {
  readonly subjectKind: PolicySpec['subject']['kind']
  readonly direction: Direction
  readonly verdict: 'allow' | 'deny'
}

/** Members that any one list may have, of those without a limit of their own. */
export const LIST_LENGTH_MAX = 10_000
/** Characters that a name or a value may have, of those without a limit of their own. */
export const TEXT_LENGTH_MAX = 1024

/** The members of a list, as many as may be. @param what they are called, in the plural */
export function boundedList(cursor: Cursor, what: string, max = LIST_LENGTH_MAX, hint = ''): readonly Cursor[] | undefined {
  const items = cursor.list()
  if (items === undefined || items.length <= max) return items
  cursor.error(`more ${what} than ${max}: ${items.length}`, hint)
  return items.slice(0, max)
}

/** A text that is neither empty nor longer than may be. */
export function boundedString(cursor: Cursor | undefined, max = TEXT_LENGTH_MAX): string | undefined {
  const text = cursor?.string()
  if (cursor === undefined || text === undefined) return undefined
  if (text === '') {
    cursor.error('must not be empty', 'give it a value, or remove the field')
    return undefined
  }
  if (text.length <= max) return text
  cursor.error(`longer than ${max} characters: ${text.length}`)
  return undefined
}

/** Whether the document is clusterwide, which has no namespace of its own. */
export function isClusterwide({ subjects }: RuleContext): boolean {
  return subjects.kind === 'cluster-subject'
}

/** Namespace of the policy; empty for a clusterwide one. */
export function namespaceOf({ subjects }: RuleContext): string {
  return subjects.kind === 'subject' ? subjects.namespace : ''
}

/** Reports what Cilium does not have, where only its own language is read. @returns whether it may be read */
export function isExtended(cursor: Cursor, what: string, { options }: RuleContext): boolean {
  if (options.dialect === 'extended') return true
  cursor.error(`only the dialect extended has this: ${what}`, 'set policy.dialect: extended (--dialect extended), or remove it')
  return false
}

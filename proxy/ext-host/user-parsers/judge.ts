/** What the connection of a user's parser offers beside the contract: a verdict by rules whose keys and values only the parser understands. */
import type { RE2JS } from 're2js'

/** Rules of a slot, as they come to a parser. */
export interface UserRules {
  /** What no deny rule matches is allowed. */
  readonly allowAll: boolean
  readonly allow: readonly UserRule[]
  readonly deny: readonly UserRule[]
  /** What policies in audit would make of what is allowed. */
  readonly shadow?: UserRules
}

export interface UserRule {
  readonly name: string
  readonly values: Readonly<Record<string, string>>
}

export interface UserVerdict {
  readonly isAllowed: boolean
  /** The rule that decided; empty when none matched, and where everything is allowed. */
  readonly rule: string
  /** Allowed, and policies in audit would have denied it. */
  readonly isAudited: boolean
}

/** Whether a request is one that a rule with these values is about. */
export type Holds = (values: UserRule['values']) => boolean

/**
 * What a deny rule matches is denied, else what an allow rule matches is allowed.
 * @param keys that the parser knows; of a rule with another, nobody can say what it means: it allows nothing, and denies everything
 */
export function judge(rules: UserRules, holds: Holds, keys?: ReadonlySet<string>): UserVerdict {
  const isKnown = ({ values }: UserRule): boolean => keys === undefined || Object.keys(values).every((key) => keys.has(key))
  const denied = rules.deny.find((rule) => !isKnown(rule) || holds(rule.values))
  if (denied !== undefined) return { isAllowed: false, rule: denied.name, isAudited: false }
  const allowed = rules.allow.find((rule) => isKnown(rule) && holds(rule.values))
  const isAllowed = allowed !== undefined || rules.allowAll
  const isAudited = isAllowed && rules.shadow !== undefined && !judge(rules.shadow, holds, keys).isAllowed
  return { isAllowed, rule: allowed?.name ?? '', isAudited }
}

const PATTERNS_MAX = 4096

/** Patterns of rules, compiled once: RE2, over the whole text. */
export class Patterns {
  readonly #compile: typeof RE2JS.compile
  readonly #compiled = new Map<string, ReturnType<typeof RE2JS.compile>>()

  constructor(compile: typeof RE2JS.compile) {
    this.#compile = compile
  }

  /** @throws RE2JSException for a pattern that is none: its connection is closed */
  matches(pattern: string, text: string): boolean {
    let compiled = this.#compiled.get(pattern)
    if (compiled === undefined) {
      if (this.#compiled.size >= PATTERNS_MAX) this.#compiled.clear()
      compiled = this.#compile(pattern)
      this.#compiled.set(pattern, compiled)
    }
    return compiled.matches(text)
  }
}

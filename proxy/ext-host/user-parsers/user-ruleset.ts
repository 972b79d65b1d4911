/** Rules of a slot for a user's parser, as they are sent to its process, and what of them is kept here. */
import type { KeyValueRule, ParserRuleset } from '#api/gen/headgate/v1/control_pb.js'
import type { UserRule, UserRules } from './judge.ts'

export class UserRuleset {
  /** UserRules. */
  readonly json: string
  readonly #names: ReadonlySet<string>
  readonly #keys: ReadonlySet<string>

  constructor(ruleset: ParserRuleset) {
    const rules = rulesOf(ruleset)
    const all = [...rules.allow, ...rules.deny]
    this.json = JSON.stringify(rules)
    this.#names = new Set(all.map(({ name }) => name))
    this.#keys = new Set(all.flatMap(({ values }) => Object.keys(values)))
  }

  /** A parser may tell of a rule of this ruleset only: what it says ends up beside a policy's name. */
  nameOf(rule: string): string {
    return this.#names.has(rule) ? rule : ''
  }

  /** @returns keys that the parser says it does not know */
  unknownKeys(known: readonly string[]): string[] {
    return [...this.#keys].filter((key) => !known.includes(key))
  }
}

function rulesOf({ allowAll, rules, denyRules, shadow }: ParserRuleset): UserRules {
  return {
    allowAll,
    allow: rules.map(ruleOf),
    deny: denyRules.map(ruleOf),
    ...(shadow === undefined ? {} : { shadow: rulesOf(shadow) }),
  }
}

function ruleOf({ name, values }: KeyValueRule): UserRule {
  return { name, values: Object.fromEntries(values.map(({ key, value }) => [key, value])) }
}

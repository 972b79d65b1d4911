/**
 * The rulesets that requests are judged by, compiled. Those that the agent has taken back are still served for a while, as many as
 * RETIRED_MAX: an agent that has just started does not know what Envoy still asks for, and Envoy asks by what it was told itself.
 */
import type { HttpRule, Ruleset } from '#api/gen/headgate/v1/control_pb.js'
import { actionWord } from '#api/mismatch-actions.ts'
import { HttpJudge, type NamedHttpRule, type SecretLookup } from '#parsers/http/judge.ts'
import type { HeaderMatch } from '#parsers/http/rules.ts'
import type { LoadedRuleset } from './http-service.ts'
import { Answers } from './processing.ts'
import type { SecretName } from './secrets.ts'

const RETIRED_MAX = 256

interface Entry extends LoadedRuleset {
  readonly secrets: readonly SecretName[]
}

export class Rulesets {
  readonly #secretOf: SecretLookup
  readonly #onBroken: (key: string, error: Error) => void
  readonly #current = new Map<string, Entry>()
  /** The oldest first. */
  readonly #retired = new Map<string, Entry>()

  /** @param onBroken a ruleset cannot be compiled: requests that ask for it are refused */
  constructor(secretOf: SecretLookup, onBroken: (key: string, error: Error) => void) {
    this.#secretOf = secretOf
    this.#onBroken = onBroken
  }

  get(key: string): LoadedRuleset | undefined {
    return this.#current.get(key) ?? this.#retired.get(key)
  }

  set(rulesets: ReadonlyMap<string, Ruleset>): void {
    for (const [key, entry] of this.#current) {
      if (rulesets.has(key)) continue
      this.#current.delete(key)
      this.#retired.set(key, entry)
    }
    for (const [key, ruleset] of rulesets) {
      if (this.#current.has(key)) continue
      const entry = this.#retired.get(key) ?? this.#compile(key, ruleset)
      this.#retired.delete(key)
      if (entry !== undefined) this.#current.set(key, entry)
    }
    for (const key of this.#retired.keys()) {
      if (this.#retired.size <= RETIRED_MAX) break
      this.#retired.delete(key)
    }
  }

  /** That rules refer to, some several times. */
  secrets(): SecretName[] {
    return [...this.#current.values(), ...this.#retired.values()].flatMap(({ secrets }) => secrets)
  }

  #compile(key: string, { allowAll, http, httpDeny }: Ruleset): Entry | undefined {
    const allow = http.map(ruleOf)
    const deny = httpDeny.map(ruleOf)
    const secrets = [...allow, ...deny].flatMap(({ headerMatches = [] }) => headerMatches.flatMap(({ secret }) => secret ?? []))
    try {
      const rules = [...allow, ...deny]
      const needs = { path: rules.some(({ path }) => path !== undefined), host: rules.some(asksHost) }
      return { judge: new HttpJudge({ allowAll, allow, deny }, this.#secretOf), needs, answers: new Answers(), secrets }
    } catch (error) {
      this.#onBroken(key, error as Error)
      return undefined
    }
  }
}

function ruleOf({ name, path, method, host, headers, headerMatches }: HttpRule): NamedHttpRule {
  return {
    name,
    ...(path === undefined ? {} : { path }),
    ...(method === undefined ? {} : { method }),
    ...(host === undefined ? {} : { host }),
    headers: headers.map((header) => (header.value === undefined ? { name: header.name } : { name: header.name, value: header.value })),
    headerMatches: headerMatches.map(({ name: header, value, secret, mismatch }): HeaderMatch => {
      // Of a newer agent this may be an action that is not known here: then the rule fails.
      const action = actionWord(mismatch)
      return {
        name: header,
        ...(value === undefined ? {} : { value }),
        ...(secret === undefined ? {} : { secret: { namespace: secret.namespace, name: secret.name } }),
        ...(action === undefined ? {} : { mismatch: action }),
      }
    }),
  }
}

function asksHost({ host }: NamedHttpRule): boolean {
  return host !== undefined
}

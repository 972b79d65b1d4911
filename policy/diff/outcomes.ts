/** Verdicts of one side, numbered so that equal ones are told by their numbers, whichever set of policies they come from. */
import type { NamedRule, PolicyRow, ResolvedRuleset } from '../resolved.ts'
import { describeL7Rule } from '../trace/explain.ts'

export interface Outcome {
  readonly number: number
  readonly verdict: 'allowed' | 'denied' | 'redirected'
  /** Allowed, and reported only because of audit. */
  readonly audit: boolean
  /** What requests have to meet, in words; of a redirect. */
  readonly rules: readonly string[]
}

export class Outcomes {
  readonly #byKey = new Map<string, Outcome>()
  readonly #byRuleset = new WeakMap<ResolvedRuleset, Outcome>()

  readonly allowed = this.#of('allowed', false, [])
  readonly denied = this.#of('denied', false, [])

  ofRow(row: PolicyRow | undefined, ruleset: ResolvedRuleset | undefined): Outcome {
    if (row === undefined || row.verdict === 'deny') return this.denied
    if (row.verdict === 'allow') return row.audit ? this.#of('allowed', true, []) : this.allowed
    if (ruleset === undefined || ruleset.kind === 'conflict') return this.denied
    let outcome = this.#byRuleset.get(ruleset)
    if (outcome === undefined) {
      outcome = this.#of('redirected', ruleset.shadow === 'deny-all', describeRuleset(ruleset))
      this.#byRuleset.set(ruleset, outcome)
    }
    return outcome
  }

  #of(verdict: Outcome['verdict'], audit: boolean, rules: readonly string[]): Outcome {
    const key = JSON.stringify([verdict, audit, rules])
    let outcome = this.#byKey.get(key)
    if (outcome === undefined) {
      outcome = { number: this.#byKey.size, verdict, audit, rules }
      this.#byKey.set(key, outcome)
    }
    return outcome
  }
}

/** What it lets through, a line each, sorted; names of rules and policies do not matter. */
function describeRuleset(ruleset: ResolvedRuleset): string[] {
  const { kind, parser, allowAll, allow, deny, serverNames, terminatingTls, originatingTls, listener, shadow } = ruleset
  const secret = ({ namespace, name }: { readonly namespace: string; readonly name: string }) => `${namespace}/${name}`
  return [
    ...new Set([
      ...(allowAll ? ['every request'] : []),
      ...texts(allow, kind === 'http' ? '' : `${kind === 'parser' ? parser : kind}: `),
      ...texts(deny, 'deny '),
      ...(allowAll ? [] : serverNames.map((name) => `server name ${name}`)),
      ...(terminatingTls === undefined ? [] : [`terminating TLS with ${secret(terminatingTls.secret)}`]),
      ...(originatingTls === undefined ? [] : [`originating TLS with ${secret(originatingTls.secret)}`]),
      ...(listener === undefined ? [] : [`listener ${listener.name}`]),
      ...(typeof shadow === 'object' ? describeRuleset(shadow).map((text) => `in audit ${text}`) : []),
    ]),
  ].sort()
}

function texts(rules: readonly NamedRule[], before: string): string[] {
  return rules.map(({ rule }) => `${before}${requestText(rule) || describeL7Rule(rule) || 'any request'}`)
}

/** `GET /path host` of an HTTP rule that says no more. */
function requestText(rule: NamedRule['rule']): string {
  const {
    method,
    path,
    host,
    headers = [],
    headerMatches,
    ...others
  } = rule as Readonly<Record<string, unknown>> & {
    readonly headers?: readonly unknown[]
  }
  if (headers.length > 0 || headerMatches !== undefined || Object.keys(others).length > 0) return ''
  return [method, path, host === undefined ? undefined : `host ${host}`].filter((part) => part !== undefined).join(' ')
}

/**
 * What an HTTP ruleset says of a request and does to its headers, by the judge that the extension host runs. Secrets are those that the
 * asker gave; a rule on another one is judged as on a node that cannot read it, and the answer tells which.
 */
import { type HeaderNote, HttpJudge, type NamedHttpRule, type SecretLookup } from '#parsers/http/judge.ts'
import { type HttpRequest, TargetIndex } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { httpRules, type NamedRule, type ResolvedRuleset } from '../resolved.ts'

export interface HttpAnswer {
  readonly verdict: 'allowed' | 'denied' | 'denied by a rule'
  /** What rules ask for about headers that are not as wanted. */
  readonly headers: readonly HeaderNote[]
  /** NAMESPACE/NAME of those that rules for the request ask for and that are not known, each once. */
  readonly unknownSecrets: readonly string[]
}

interface Compiled {
  readonly secretOf: SecretLookup
  readonly judge: HttpJudge
  /** Rules that ask for a secret. */
  readonly asking: TargetIndex
}

/** A ruleset can hold thousands of rules, and is asked about with every question. */
const compiled = new WeakMap<ResolvedRuleset, Compiled>()

export function judgeHttp(ruleset: ResolvedRuleset, request: HttpRequest, secretOf: SecretLookup): HttpAnswer {
  let known = compiled.get(ruleset)
  if (known?.secretOf !== secretOf) {
    known = compile(ruleset, secretOf)
    compiled.set(ruleset, known)
  }
  const { judge, asking } = known
  const { allowed, rule, notes } = judge.judge(request)
  const unknown = asking.matching(request).flatMap((index) => secretsOf(asking.rules[index]).filter(({ value }) => value === undefined))
  return {
    verdict: allowed ? 'allowed' : rule === '' ? 'denied' : 'denied by a rule',
    headers: notes,
    unknownSecrets: [...new Set(unknown.map(({ name }) => name))],
  }

  function secretsOf(of: HttpRule | undefined): readonly { readonly name: string; readonly value: string | undefined }[] {
    return (of?.headerMatches ?? []).flatMap(({ secret }) =>
      secret === undefined ? [] : [{ name: `${secret.namespace}/${secret.name}`, value: secretOf(secret.namespace, secret.name) }],
    )
  }
}

function compile({ allowAll, allow, deny }: ResolvedRuleset, secretOf: SecretLookup): Compiled {
  const named = (rules: readonly NamedRule[]): NamedHttpRule[] => httpRules(rules).map(({ name, rule }) => ({ ...rule, name }))
  const asking = httpRules([...allow, ...deny]).flatMap(({ rule }) => (rule.headerMatches?.some(({ secret }) => secret) ? [rule] : []))
  return {
    secretOf,
    judge: new HttpJudge({ allowAll, allow: named(allow), deny: named(deny) }, secretOf),
    // Whoever may be meant: the side that means more.
    asking: new TargetIndex(asking, 'deny'),
  }
}

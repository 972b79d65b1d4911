/**
 * Which L7 rules a request matches. Compiled rules are kept for as long as the rules themselves: questions come by the thousand. What a
 * request is not about (an HTTP request where DNS rules stand) matches none.
 */
import { CassandraMatcher, type CassandraRequest } from '#parsers/cassandra/match.ts'
import type { CassandraRule } from '#parsers/cassandra/rules.ts'
import { DnsMatcher } from '#parsers/dns/match.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { HttpJudge, type SecretLookup } from '#parsers/http/judge.ts'
import { type HttpRequest, TargetIndex } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { KafkaMatcher, type KafkaRequest } from '#parsers/kafka/match.ts'
import type { KafkaRule } from '#parsers/kafka/rules.ts'
import { ServerNameMatcher } from '#parsers/tls/server-name.ts'
import type { L7Kind, L7Rule, PolicyRule } from '../model.ts'
import type { NamedRule } from '../resolved.ts'

/** A request as rules of its kind see it. */
export type TracedRequest =
  | { readonly kind: 'http'; readonly request: HttpRequest }
  /** Lower-case, with a trailing dot. */
  | { readonly kind: 'dns'; readonly name: string }
  | { readonly kind: 'kafka'; readonly request: KafkaRequest }
  | { readonly kind: 'cassandra'; readonly request: CassandraRequest }

/** Allow rules have to cover a request together, a deny rule any part of it: with doubt on the side of denying. */
export type Purpose = PolicyRule['verdict']

interface Matching {
  /** Undefined where they do not allow it. */
  readonly allowing: (request: TracedRequest) => readonly L7Rule[] | undefined
  readonly denying: (request: TracedRequest) => readonly L7Rule[]
}

const matchings = new WeakMap<readonly unknown[], Matching & { readonly secretOf: SecretLookup }>()
const serverNames = new WeakMap<readonly string[], ServerNameMatcher>()

/**
 * The rules that allow or deny a request; undefined where they do neither. Allowed without any is what no rule is needed for.
 * @param list kept as the key: the same list for the same rules
 */
export function matchingRules(
  kind: L7Kind,
  list: readonly (L7Rule | NamedRule)[],
  request: TracedRequest,
  purpose: Purpose,
  secretOf: SecretLookup,
): readonly L7Rule[] | undefined {
  if (request.kind !== kind) return undefined
  let matching = matchings.get(list)
  if (matching?.secretOf !== secretOf) {
    matching = { secretOf, ...compile(kind, list.map(ruleOf), secretOf) }
    matchings.set(list, matching)
  }
  if (purpose === 'allow') return matching.allowing(request)
  const denying = matching.denying(request)
  return denying.length === 0 ? undefined : denying
}

function ruleOf(item: L7Rule | NamedRule): L7Rule {
  return isNamed(item) ? item.rule : item
}

function isNamed(item: L7Rule | NamedRule): item is NamedRule {
  return 'rule' in item && typeof item.rule === 'object'
}

/** @param name undefined where the connection states none */
export function isServerNameAllowed(patterns: readonly string[], name: string | undefined): boolean {
  let matcher = serverNames.get(patterns)
  if (matcher === undefined) {
    matcher = new ServerNameMatcher(patterns)
    serverNames.set(patterns, matcher)
  }
  return matcher.matching(name).length > 0
}

function compile(kind: L7Kind, rules: readonly L7Rule[], secretOf: SecretLookup): Matching {
  switch (kind) {
    case 'http': {
      const holding = httpMatching(rules as readonly HttpRule[], secretOf)
      return {
        allowing: (request) => someOf(request.kind === 'http' ? holding(request.request, 'allow') : []),
        denying: (request) => (request.kind === 'http' ? holding(request.request, 'deny') : []),
      }
    }
    case 'dns': {
      const matcher = new DnsMatcher(rules as readonly DnsRule[])
      return anyOf((request) => (request.kind === 'dns' ? matcher.matching(request.name) : []))
    }
    case 'kafka': {
      const matcher = new KafkaMatcher(rules as readonly KafkaRule[])
      return {
        allowing: (request) => (request.kind === 'kafka' ? matcher.allowing(request.request) : undefined),
        denying: (request) => (request.kind === 'kafka' ? matcher.denying(request.request) : []),
      }
    }
    case 'cassandra': {
      const matcher = new CassandraMatcher(rules as readonly CassandraRule[])
      return {
        allowing: (request) => (request.kind === 'cassandra' ? matcher.allowing(request.request) : undefined),
        denying: (request) => (request.kind === 'cassandra' ? matcher.denying(request.request) : []),
      }
    }
    case 'parser':
      return { allowing: () => undefined, denying: () => [] }
  }
}

/** Rules by themselves: each is judged as if it were alone, and only once its path, method and host are met. */
function httpMatching(rules: readonly HttpRule[], secretOf: SecretLookup): (request: HttpRequest, purpose: Purpose) => readonly HttpRule[] {
  const indices = { allow: new TargetIndex(rules, 'allow'), deny: new TargetIndex(rules, 'deny') }
  const judges = { allow: new Map<HttpRule, HttpJudge>(), deny: new Map<HttpRule, HttpJudge>() }
  const judgeOf = (rule: HttpRule, purpose: Purpose): HttpJudge => {
    let judge = judges[purpose].get(rule)
    if (judge === undefined) {
      const alone = [{ ...rule, name: 'rule' }]
      judge = new HttpJudge({ allowAll: purpose === 'deny', allow: [], deny: [], [purpose]: alone }, secretOf)
      judges[purpose].set(rule, judge)
    }
    return judge
  }
  return (request, purpose) => {
    const met = indices[purpose].matching(request).flatMap((at) => rules[at] ?? [])
    return met.filter((rule) => judgeOf(rule, purpose).judge(request).allowed === (purpose === 'allow'))
  }
}

/** One rule that matches is enough, whatever for. */
function anyOf(matching: (request: TracedRequest) => readonly L7Rule[]): Matching {
  return { allowing: (request) => someOf(matching(request)), denying: matching }
}

function someOf(rules: readonly L7Rule[]): readonly L7Rule[] | undefined {
  return rules.length === 0 ? undefined : rules
}

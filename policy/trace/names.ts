/**
 * DNS names in questions: what a name and an answer must look like, and the selectors of policy that match names. Each selector has
 * an identity, as on a node: an address with names is judged by its own identity, and by those of the selectors that match them.
 */
import { ADDRESS_COUNT_MAX, CHAIN_NAME_COUNT_MAX } from '#parsers/dns/answers.ts'
import { NameIndex } from '#parsers/dns/name-index.ts'
import { isMatchName, normalizeName } from '#parsers/dns/name-pattern.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { parsePrefix } from '../cidr.ts'
import type { NameUse } from '../engine.ts'

/** In front of a name in place of whom a question is about, where another meaning is nearer. */
export const NAME_PREFIX = 'fqdn:'

/** Selectors of names that an address can have on a node (bpf/src/abi.h, LEARNED_SELECTORS_MAX). */
export const SELECTORS_OF_ADDRESS_MAX = 8

/** What one name can be an alias of, one after the other: the name itself is one of the chain. */
export const ALIASES_MAX = CHAIN_NAME_COUNT_MAX - 1

/** Octets of a name and of a label (RFC 1035 2.3.4): of the name's, one is the length of its first label and one that of the root. */
const NAME_LENGTH_MAX = 253
const LABEL_LENGTH_MAX = 63

/** Why nobody can ask for a name; undefined when somebody can. */
export function nameProblem(text: string): string | undefined {
  const name = text.endsWith('.') ? text.slice(0, -1) : text
  if (name.length > NAME_LENGTH_MAX) return `a DNS name has at most ${NAME_LENGTH_MAX} characters: ${text.slice(0, 40)}…`
  const long = name.split('.').find((label) => label.length > LABEL_LENGTH_MAX)
  if (long !== undefined) return `a label of a DNS name has at most ${LABEL_LENGTH_MAX} characters: ${text}`
  return isMatchName(text) ? undefined : `not a DNS name: ${text}`
}

/** Why something is no answer to be judged; undefined when it is one. */
export function answerProblem(text: string): string | undefined {
  const address = text.includes('/') ? undefined : parsePrefix(text, true)
  if (address === undefined) return `not an address: ${text}`
  return address.family === 6 ? `this version drops IPv6 whatever policy says, so only addresses of IPv4 are judged: ${text}` : undefined
}

/** Why there are too many answers or aliases for one question; undefined when there are not. */
export function countProblem(
  answerCount: number,
  aliasCount: number,
): { readonly field: 'answers' | 'cnames'; readonly problem: string } | undefined {
  if (answerCount > ADDRESS_COUNT_MAX)
    return { field: 'answers', problem: `of one answer, at most ${ADDRESS_COUNT_MAX} addresses are learned: ${answerCount}` }
  if (aliasCount > ALIASES_MAX)
    return { field: 'cnames', problem: `a chain of more than ${CHAIN_NAME_COUNT_MAX} names teaches nothing: ${aliasCount + 1}` }
  return undefined
}

/** A name or a pattern that rules name peers by. */
export interface NameSelector {
  readonly identity: number
  readonly rule: DnsRule
  /** A deny rule has it. */
  readonly denies: boolean
}

/** Those that match the names of an address. */
export interface MetSelectors {
  /** In the order in which policies name them. */
  readonly matching: readonly NameSelector[]
  /** What an address has of them: of too many those that deny come first, as the DNS process has it (dns-proxy/learned-names.ts). */
  readonly kept: readonly NameSelector[]
}

export class NameSelectors {
  readonly #index = new NameIndex<NameSelector>('peers')

  /** @param uses by the engine's keys @param identify gives a selector its identity */
  constructor(uses: Iterable<readonly [string, NameUse]>, identify: (key: string, rule: DnsRule) => number) {
    for (const [key, { rule, denies }] of uses) this.#index.add(rule, { identity: identify(key, rule), rule, denies })
  }

  /** @param names of a chain, lower-case, with a trailing dot */
  of(names: readonly string[]): MetSelectors {
    // The rules for a name alone are complete: those for patterns that match it are among them.
    const found = new Set(names.flatMap((name) => this.#index.narrowest(name)))
    const all = [...found].sort((a, b) => a.identity - b.identity)
    if (all.length <= SELECTORS_OF_ADDRESS_MAX) return { matching: all, kept: all }
    const first = [...all.filter(({ denies }) => denies), ...all.filter(({ denies }) => !denies)].slice(0, SELECTORS_OF_ADDRESS_MAX)
    return { matching: all, kept: first.sort((a, b) => a.identity - b.identity) }
  }
}

/** The chain of a question in normal form, each name once. */
export function chainOf(name: string, aliases: readonly string[]): readonly [string, ...string[]] {
  const first = normalizeName(name)
  return [first, ...new Set(aliases.map(normalizeName).filter((alias) => alias !== first))]
}

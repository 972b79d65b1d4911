/**
 * What resolving policy yields: the contract between policy/ and everything that enforces.
 *
 * A *group* is all endpoints that have the same identity, the same named ports and the same audit mode: the same policy. For each group
 * the rows say, per peer identity, direction, protocol and port block, what happens; redirect rows name a *peer class*, whose ruleset a
 * proxy runs behind a slot of its own.
 * Rows are complete: whatever covers a row (a deny on all ports, a rule for any peer) is merged into it already, so a reader takes
 * the longest match of the peer's identity and, only if there is none, the longest match of identity 0.
 */
import type { DnsRule } from '#parsers/dns/rules.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import type { KafkaRule } from '#parsers/kafka/rules.ts'
import type { TlsContext } from '#parsers/tls/rules.ts'
import { DIRECTIONS, type Direction } from './direction.ts'
import type { L7Kind, L7Rule, ListenerRef, ParserRule } from './model.ts'

export { DIRECTIONS, type Direction }

/** Identity of rows that hold for every peer without rows of its own. */
export const ANY_IDENTITY = 0

/** IP protocol number of rows that hold for every protocol. */
export const ANY_PROTOCOL = 0

export type RowVerdict = 'deny' | 'allow' | 'redirect'

/** One entry of a group's policy map. */
export interface PolicyRow {
  readonly direction: Direction
  /** Peer's numeric identity, or ANY_IDENTITY. */
  readonly identity: number
  /** IP protocol number, or ANY_PROTOCOL (then portPrefixLength is 0). */
  readonly protocol: number
  /** First port of the block, host order; the low (16 - portPrefixLength) bits are zero. For ICMP: type * 256. */
  readonly port: number
  /** Significant bits of port, 0 (any port) to 16 (one port). */
  readonly portPrefixLength: number
  readonly verdict: RowVerdict
  /** A deny that a deny rule asks for, as opposed to one that only keeps a hole in a wider row. */
  readonly explicitDeny: boolean
  /** Allowed, and to be reported: the policies in audit would deny it. Never with verdict deny or redirect. */
  readonly audit: boolean
  /** Key into ResolvedGroup.classes; only with verdict redirect. */
  readonly classKey?: string
  /** Names of all rules that had a part in it, sorted; shown in flows. */
  readonly origins: readonly string[]
}

/** The L7 rules that hold for one block of peers and ports of a group. */
export interface PeerClass {
  /** Stable while the ruleset is the same: direction, kind and a digest. Not stable over edits (agent/datapath/slots.ts matches by overlap). */
  readonly key: string
  readonly direction: Direction
  readonly ruleset: ResolvedRuleset
  /** Keys of the rows that lead to it. */
  readonly rows: ReadonlySet<string>
}

/**
 * Who runs a ruleset: the parser of an L7 kind; `tls`: nobody reads beyond the ClientHello; `listener`: an Envoy listener of the user's
 * own; `conflict`: nobody, because its rules cannot hold together, and its traffic is denied.
 */
export type RulesetKind = L7Kind | 'tls' | 'listener' | 'conflict'

/**
 * What L7 rules say of a class: a request is denied that a deny rule matches, else allowed that an allow rule matches, else allowed with
 * allowAll, else denied. With server names a connection needs one that matches first, unless allowAll.
 */
export interface ResolvedRuleset {
  readonly kind: RulesetKind
  /** Of kind parser; else empty. */
  readonly parser: string
  /** A rule without L7 part covers the class too: everything that no rule denies is allowed, and seen. */
  readonly allowAll: boolean
  /** Union of the L7 rules, in the order of their names. */
  readonly allow: readonly NamedRule[]
  readonly deny: readonly NamedRule[]
  /** Patterns, sorted; empty: any, TLS or not. */
  readonly serverNames: readonly string[]
  readonly terminatingTls?: TlsContext
  readonly originatingTls?: TlsContext
  readonly listener?: ListenerRef
  /** What cannot hold together, of kind conflict; else empty. */
  readonly conflict: string
  /**
   * What the policies in audit would make of what this allows: requests that it denies are reported and not denied. deny-all: they
   * would not let the connection through at all. Absent: the same.
   */
  readonly shadow?: ResolvedRuleset | 'deny-all'
}

export interface NamedRule<Rule extends L7Rule = L7Rule> {
  /** Name of the policy, direction and a digest of what the rule says: equal ones of a policy are one. */
  readonly name: string
  readonly rule: Rule
}

/** The rules of a ruleset of kind http. */
export function httpRules(rules: readonly NamedRule[]): readonly NamedRule<HttpRule>[] {
  return rules as readonly NamedRule<HttpRule>[]
}

/** The rules of a ruleset of kind dns. */
export function dnsRules(rules: readonly NamedRule[]): readonly NamedRule<DnsRule>[] {
  return rules as readonly NamedRule<DnsRule>[]
}

/** The rules of a ruleset of kind kafka. */
export function kafkaRules(rules: readonly NamedRule[]): readonly NamedRule<KafkaRule>[] {
  return rules as readonly NamedRule<KafkaRule>[]
}

/** The rules of a ruleset of kind parser. */
export function parserRules(rules: readonly NamedRule[]): readonly NamedRule<ParserRule>[] {
  return rules as readonly NamedRule<ParserRule>[]
}

/** Policy of all endpoints that are alike. Its maps are live: the engine goes on with the same ones. */
export interface ResolvedGroup {
  /** Number of the group; that of the identity where nothing else tells its endpoints apart. */
  readonly group: number
  readonly identity: number
  readonly enforced: Readonly<Record<Direction, boolean>>
  /** By rowKey. */
  readonly rows: ReadonlyMap<string, PolicyRow>
  /** Keys of rows that came, went or changed with this commit. */
  readonly changedRows: ReadonlySet<string>
  /** By PeerClass.key. */
  readonly classes: ReadonlyMap<string, PeerClass>
  /** Documents that select it, by documentName; shown by `endpoint get`. */
  readonly policies: readonly string[]
}

/** The policy (documentName) that a rule's name begins with; undefined for what is no rule of a policy. */
export function policyOfRule(rule: string): string | undefined {
  return /^(.+)\/(?:ingress|egress)\/[^/]+$/.exec(rule)?.[1]
}

/** What changed by one commit of the engine. */
export interface PolicyDelta {
  /** Grows by one with each commit that changed anything. */
  readonly revision: number
  readonly changed: readonly ResolvedGroup[]
  /** Groups that are no subjects any more. */
  readonly removed: readonly number[]
}

/** Key of a row inside its group; equal keys are the same map entry. */
export function rowKey(row: Pick<PolicyRow, 'direction' | 'identity' | 'protocol' | 'port' | 'portPrefixLength'>): string {
  return `${row.direction === 'ingress' ? 'i' : 'e'}/${row.identity}/${row.protocol}/${row.port}/${row.portPrefixLength}`
}

/**
 * What resolving policy yields: the contract between policy/ and everything that enforces.
 *
 * A *group* is all endpoints of one identity: same labels, same policy. For each group the rows say, per peer identity, direction,
 * protocol and port block, what happens; redirect rows name a *peer class*, whose ruleset the proxy runs behind a slot of its own.
 * Rows are complete: whatever covers a row (a deny on all ports, a rule for any peer) is merged into it already, so a reader takes
 * the longest match of the peer's identity and, only if there is none, the longest match of identity 0.
 */
import type { HttpRule } from '#parsers/http/rules.ts'

export const DIRECTIONS = ['ingress', 'egress'] as const
export type Direction = (typeof DIRECTIONS)[number]

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
  /** Key into ResolvedGroup.classes; only with verdict redirect. */
  readonly classKey?: string
  /** Names of all rules that had a part in it, sorted; shown in flows. */
  readonly origins: readonly string[]
}

/** The L7 rules that hold for one block of peers and ports of a group. */
export interface PeerClass {
  /** Stable while the set of rules is the same: direction, protocol, rule names, allowAll. Not stable over edits (agent/datapath/slots.ts matches by overlap). */
  readonly key: string
  readonly direction: Direction
  readonly ruleset: ResolvedRuleset
}

/** Union of L7 rules, in the order of their names. */
export interface ResolvedRuleset {
  /** A rule without L7 part covers the class too: everything is allowed, and seen. */
  readonly allowAll: boolean
  readonly http: readonly NamedHttpRule[]
}

export interface NamedHttpRule extends HttpRule {
  /** namespace/policy, direction and a digest of what the rule says: equal ones of a policy are one. */
  readonly name: string
}

/** Policy of all endpoints that have one identity. */
export interface ResolvedGroup {
  readonly identity: number
  readonly enforced: Readonly<Record<Direction, boolean>>
  /** By rowKey. */
  readonly rows: ReadonlyMap<string, PolicyRow>
  readonly classes: ReadonlyMap<string, PeerClass>
  /** Documents that select it, as namespace/name; shown by `endpoint get`. */
  readonly policies: readonly string[]
}

/** The policy (namespace/name) that a rule's name begins with; undefined for what is no rule of a policy. */
export function policyOfRule(rule: string): string | undefined {
  return /^(.+)\/(?:ingress|egress)\/[^/]+$/.exec(rule)?.[1]
}

/** What changed by one commit of the engine. */
export interface PolicyDelta {
  /** Grows by one with each commit that changed anything. */
  readonly revision: number
  readonly changed: readonly ResolvedGroup[]
  /** Identities that are no subjects any more. */
  readonly removed: readonly number[]
}

/** Key of a row inside its group; equal keys are the same map entry. */
export function rowKey(row: Pick<PolicyRow, 'direction' | 'identity' | 'protocol' | 'port' | 'portPrefixLength'>): string {
  return `${row.direction === 'ingress' ? 'i' : 'e'}/${row.identity}/${row.protocol}/${row.port}/${row.portPrefixLength}`
}

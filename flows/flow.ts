/**
 * The Flow: one connection verdict of the kernel, one HTTP request of Envoy or one DNS query, in the one shape that the ring, the command line,
 * `-o json` and later the Observer API share. Plain data, JSON-safe: times are ISO strings, numbers stay below 2^53.
 */

import type { MismatchAction } from '#parsers/http/rules.ts'

/** audit: forwarded, and policy in audit would have denied it. error: refused, because the extension host was needed and did not answer. */
export const FLOW_VERDICTS = ['forwarded', 'dropped', 'redirected', 'audit', 'error'] as const
export type FlowVerdict = (typeof FLOW_VERDICTS)[number]

export const FLOW_KINDS = ['l3l4', 'http', 'dns', 'kafka', 'parsed'] as const
export type FlowKind = (typeof FLOW_KINDS)[number]

/** One side of a flow. */
export interface FlowPeer {
  readonly address: string
  /** 0 where the protocol has none. */
  readonly port: number
  readonly identity: number
  /** Security-relevant labels; empty when the identity is not known any more. */
  readonly labels: readonly string[]
  /** Only for endpoints of this node. */
  readonly endpoint?: { readonly id: number; readonly namespace: string; readonly name: string }
}

/** A rule that had a part in the verdict. */
export interface FlowOrigin {
  /** namespace/name of the policy. */
  readonly policy: string
  /** Full name of the rule (policy/resolved.ts). */
  readonly rule: string
  /** Word that the policy wants in its flows (`log.value`); absent when it has none. */
  readonly log?: string
}

/** A header that was not as a rule wants it, and what was done about it. Never its value. */
export interface HeaderNote {
  readonly name: string
  readonly action: MismatchAction
}

export interface HttpRequestSummary {
  readonly method: string
  readonly scheme: string
  readonly authority: string
  /** With the query string. */
  readonly path: string
  readonly protocol: string
  /** 0 when the client never got an answer. */
  readonly status: number
  readonly durationMs: number
  /** Absent when there are none. */
  readonly headers?: readonly HeaderNote[]
}

export interface DnsQuerySummary {
  /** Lower case, with a trailing dot; bytes that are no letter, digit, hyphen or underscore as \\DDD. */
  readonly query: string
  /** A, AAAA, HTTPS …, or TYPE and the number. */
  readonly type: string
  /** NOERROR, REFUSED …; empty when the client got no answer. */
  readonly rcode: string
  readonly addresses: readonly string[]
  /** What the name is an alias of, from one to the next. */
  readonly cnames: readonly string[]
  /** In seconds, of the first address. */
  readonly ttl: number
  /** Until the server's answer came; 0 when it was not asked. */
  readonly durationMs: number
  /** Addresses that taught nothing, with the reason, and what else went wrong; absent when there is nothing. */
  readonly notes?: readonly string[]
}

export interface KafkaRequestSummary {
  /** Name of the kind of request in lower case, or its number. */
  readonly apiKey: string
  readonly apiVersion: number
  readonly correlationId: number
  readonly clientId: string
  readonly topics: readonly string[]
  /** Of Kafka, told in place of the broker's answer; 0: none was. */
  readonly errorCode: number
}

/** A request of a protocol that a parser of a user reads, or its connection. */
export interface ParsedRequestSummary {
  /** Name of the parser, as policy has it. */
  readonly parser: string
  /** What it tells of the request; nothing in a flow of a connection that was closed. */
  readonly fields: Readonly<Record<string, string>>
}

export interface Flow {
  /** RFC 3339 with milliseconds, UTC. */
  readonly time: string
  readonly kind: FlowKind
  readonly verdict: FlowVerdict
  /**
   * Lower-case name of the drop reason (bpf/src/abi.h), Envoy's response code details, the DNS answer's code or why the relay closed the connection; empty when forwarded, and for
   * audit of a proxy.
   */
  readonly reason: string
  /** Who took the verdict. */
  readonly where: 'kernel' | 'envoy' | 'dns-proxy' | 'relay'
  /** Seen from the endpoint whose policy decided. */
  readonly direction: 'ingress' | 'egress'
  readonly source: FlowPeer
  readonly destination: FlowPeer
  /** TCP, UDP, ICMPv4, or the number. */
  readonly protocol: string
  readonly http?: HttpRequestSummary
  readonly dns?: DnsQuerySummary
  /** Absent from a flow of a connection that was closed. */
  readonly kafka?: KafkaRequestSummary
  readonly parsed?: ParsedRequestSummary
  readonly origins: readonly FlowOrigin[]
  readonly node: string
}

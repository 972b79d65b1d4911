/** Counters of queries and of learned names, under the names that Cilium has for them, and those that it has not. */
import type { LearnedNames } from './learned-names.ts'
import type { QueryCounts } from './query-judge.ts'

const ENOUGH_DIGITS = 1e6

export interface MetricsSource {
  readonly names: LearnedNames
  readonly queryCounts: QueryCounts
  /** Queries that there was no room for. */
  readonly overLimitCount: number
}

/** @param source undefined before queries are served @returns values by names, with labels as Prometheus writes them */
export function metricsOf(source: MetricsSource | undefined): Readonly<Record<string, number>> {
  const { names, queryCounts, overLimitCount = 0 } = source ?? {}
  const l7 = (rule: string): string => `policy_l7_total{proxy_type="fqdn",rule="${rule}"}`
  const reply = (part: string): string => `proxy_upstream_reply_seconds_${part}{protocol_l7="dns",scope="upstreamTime"}`
  return {
    [l7('received')]: queryCounts?.received ?? 0,
    [l7('forwarded')]: queryCounts?.forwarded ?? 0,
    [l7('denied')]: queryCounts?.denied ?? 0,
    [l7('parse_errors')]: queryCounts?.malformed ?? 0,
    [reply('count')]: queryCounts?.answered ?? 0,
    [reply('sum')]: Math.round(((queryCounts?.answeredMs ?? 0) / 1000) * ENOUGH_DIGITS) / ENOUGH_DIGITS,
    'proxy_upstream_reply_timeouts_total{protocol_l7="dns"}': queryCounts?.timedOut ?? 0,
    fqdn_active_names: names?.nameCount ?? 0,
    fqdn_active_ips: names?.addressCount ?? 0,
    fqdn_alive_zombie_connections: names?.zombieCount ?? 0,
    fqdn_gc_deletions_total: names?.totals.expiredCount ?? 0,
    fqdn_selectors: names?.selectorCount ?? 0,
    fqdn_semaphore_rejected_total: overLimitCount,
    fqdn_zombies_evicted_total: names?.totals.zombiesEvictedCount ?? 0,
    fqdn_addresses_refused_total: names?.totals.addressesRefusedCount ?? 0,
    fqdn_names_displaced_total: names?.totals.claimsDisplacedCount ?? 0,
    fqdn_selectors_cut_total: names?.totals.selectorsCutCount ?? 0,
  }
}

/** Counters of learned names under the names that Cilium has for them, and those that it has not. */
import type { LearnedNames } from './learned-names.ts'

/** @param names undefined before there are any @param overLimitCount queries that there was no room for */
export function metricsOf(names: LearnedNames | undefined, overLimitCount: number): Readonly<Record<string, number>> {
  return {
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

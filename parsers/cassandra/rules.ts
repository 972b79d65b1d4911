/** A Cassandra rule as policy states it; what is absent is not asked about. */

export interface CassandraRule {
  /** Kind of statement in lower case, words joined with hyphens: select, insert, create-table… */
  readonly action?: string
  /** RE2, over the whole of `keyspace.table`. */
  readonly table?: string
}

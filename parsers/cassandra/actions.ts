/** Kinds of CQL statements, as policy names them: the words that a statement begins with, joined with hyphens. */

/**
 * What a statement of the kind names: tables, which a rule can ask about; a keyspace, which is `keyspace.` to a rule about tables; or
 * nothing that is a table, so that a rule about tables never matches it.
 */
type Target = 'table' | 'keyspace' | 'other'

export const CASSANDRA_ACTIONS: ReadonlyMap<string, Target> = new Map(
  Object.entries({
    table: [
      'select',
      'insert',
      'update',
      'delete',
      'truncate',
      'create-table',
      'alter-table',
      'drop-table',
      'create-index',
      'create-materialized-view',
      'alter-materialized-view',
      'drop-materialized-view',
      'create-trigger',
      'drop-trigger',
    ],
    keyspace: ['use', 'create-keyspace', 'alter-keyspace', 'drop-keyspace'],
    other: [
      'drop-index',
      'create-type',
      'alter-type',
      'drop-type',
      'create-function',
      'drop-function',
      'create-aggregate',
      'drop-aggregate',
      'create-role',
      'alter-role',
      'drop-role',
      'create-user',
      'alter-user',
      'drop-user',
      'add-identity',
      'drop-identity',
      'grant',
      'revoke',
      'list-roles',
      'list-users',
      'list-permissions',
      'list-superusers',
      'describe',
    ],
  }).flatMap(([target, actions]) => actions.map((action) => [action, target as Target] as const)),
)

/** Whether statements of the kind can be told by table. */
export function isTableAction(action: string): boolean {
  return CASSANDRA_ACTIONS.get(action) !== 'other'
}

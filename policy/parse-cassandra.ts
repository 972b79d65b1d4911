/** Cassandra rules of a document, with the keys that Cilium's parser had (query_action, query_table) or their short forms. */
import { CASSANDRA_ACTIONS, isTableAction } from '#parsers/cassandra/actions.ts'
import type { CassandraRule } from '#parsers/cassandra/rules.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import type { CassandraRules } from './model.ts'
import { boundedList, type MemberContext } from './parse-context.ts'
import { checkPattern } from './pattern.ts'

/** @returns undefined when the list is empty: no L7 rules at all */
export function parseCassandraRules(cursor: Cursor, context: MemberContext): CassandraRules | undefined {
  const items = boundedList(cursor, 'rules') ?? []
  if (items.length === 0) return undefined
  return { kind: 'cassandra', rules: items.flatMap((item) => parseRule(item, context) ?? []) }
}

function parseRule(cursor: Cursor, { options }: MemberContext): CassandraRule | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const actionCursor = eitherOf(map, 'query_action', 'action')
  const tableCursor = eitherOf(map, 'query_table', 'table')
  map.finish()
  // As in Cilium, what is empty is not there.
  const action = actionCursor?.string()?.toLowerCase().replaceAll('columnfamily', 'table') || undefined
  const table = tableCursor?.string() || undefined
  if (action !== undefined && !CASSANDRA_ACTIONS.has(action)) {
    actionCursor?.error(`no such kind of statement: ${action}`, `one of ${[...CASSANDRA_ACTIONS.keys()].join(', ')}`)
    return undefined
  }
  if (action !== undefined && table !== undefined && !isTableAction(action))
    tableCursor?.error(`statements of this kind name no table: ${action}`, 'remove the table')
  if (table !== undefined) {
    const problem = checkPattern(table, options.regexProgramSizeMax)
    if (problem !== undefined) tableCursor?.error(problem.message, problem.hint)
    else if (/^\w+$/.test(table))
      tableCursor?.warning(`a table is keyspace.table, so this matches none: ${table}`, `write ${table}\\..* or .*\\.${table}`)
  }
  return { ...(action === undefined ? {} : { action }), ...(table === undefined ? {} : { table }) }
}

function eitherOf(map: MapCursor, long: string, short: string): Cursor | undefined {
  const cursor = map.get(long)
  const other = map.get(short)
  if (cursor !== undefined && other !== undefined) other.error(`the same as ${long}, which is there as well: ${short}`, 'remove one')
  return cursor ?? other
}

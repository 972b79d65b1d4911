/**
 * What a CQL statement does, and to which tables: as much of the grammar as policy needs (Parser.g of Cassandra). A statement that this
 * does not know for certain has no answer, and whoever asks has to deny it where tables matter. The keywords that it looks for are
 * reserved ones, which cannot be names without quotes.
 */
import { CASSANDRA_ACTIONS } from './actions.ts'
import { type CqlToken, tokenizeCql } from './tokens.ts'

export interface CassandraTable {
  /** Absent when the statement leaves it to the session. */
  readonly keyspace?: string
  /** Empty: the keyspace itself. */
  readonly name: string
}

export interface CassandraStatement {
  /** One of CASSANDRA_ACTIONS. */
  readonly action: string
  /** Absent when they cannot be told, as of an index, or when it is about nothing that is a table. */
  readonly tables?: readonly CassandraTable[]
}

const NAME = /^\w{1,255}$/
const NOUNS: Readonly<Record<string, string>> = { schema: 'keyspace', columnfamily: 'table' }

/** @returns the statements, several of a batch; undefined when the text cannot be read as one statement or one batch */
export function parseStatements(text: string): readonly CassandraStatement[] | undefined {
  const all = tokenizeCql(text)
  if (all === undefined) return undefined
  let end = all.length
  while (end > 0 && isSign(all[end - 1], ';')) end -= 1
  const tokens = all.slice(0, end)
  if (wordAt(tokens, 0) === 'begin') return parseBatch(tokens)
  const statement = parseStatement(tokens)
  return statement === undefined ? undefined : [statement]
}

/** `BEGIN [UNLOGGED | COUNTER] BATCH [USING TIMESTAMP t] (statement [;])… APPLY BATCH` */
function parseBatch(tokens: readonly CqlToken[]): readonly CassandraStatement[] | undefined {
  const kind = wordAt(tokens, 1)
  let first = kind === 'unlogged' || kind === 'counter' ? 2 : 1
  const last = tokens.length - 2
  if (wordAt(tokens, first) !== 'batch' || wordAt(tokens, last) !== 'apply' || wordAt(tokens, last + 1) !== 'batch') return undefined
  first += 1
  const begins: number[] = []
  for (let index = first; index < last; index++) {
    const word = wordAt(tokens, index)
    // A semicolon between statements may be left out.
    if (word === 'insert' || word === 'update' || word === 'delete') begins.push(index)
    if (word === 'apply' || word === 'begin') return undefined
  }
  const head = tokens.slice(first, begins[0] ?? last)
  if (head.length > 0 && !(wordAt(head, 0) === 'using' && wordAt(head, 1) === 'timestamp' && head.length <= 4)) return undefined
  const statements: CassandraStatement[] = []
  for (const [index, begin] of begins.entries()) {
    let end = begins[index + 1] ?? last
    if (isSign(tokens[end - 1], ';')) end -= 1
    const statement = parseStatement(tokens.slice(begin, end))
    if (statement === undefined) return undefined
    statements.push(statement)
  }
  return statements
}

function parseStatement(tokens: readonly CqlToken[]): CassandraStatement | undefined {
  if (tokens.some((token) => isSign(token, ';')) || !isBalanced(tokens)) return undefined
  const verb = wordAt(tokens, 0)
  switch (verb) {
    case 'select':
    case 'delete':
      return aboutTables(verb, [tableAt(tokens, after(tokens, 'from', 1))])
    case 'insert':
      return wordAt(tokens, 1) === 'into' ? aboutTables(verb, [tableAt(tokens, 2)]) : undefined
    case 'update':
      return aboutTables(verb, [tableAt(tokens, 1)])
    case 'truncate':
      return aboutTables(verb, [tableAt(tokens, nounOf(wordAt(tokens, 1)) === 'table' ? 2 : 1)])
    case 'use':
      return aboutTables(verb, [keyspaceAt(tokens, 1)])
    case 'create':
    case 'alter':
    case 'drop':
      return parseDefinition(verb, tokens)
    case 'grant':
    case 'revoke':
    case 'describe':
      return { action: verb }
    case 'desc':
      return { action: 'describe' }
    case 'add':
      return known(`add-${wordAt(tokens, 1)}`)
    case 'list': {
      const what = wordAt(tokens, 1)
      return known(what === 'roles' || what === 'users' || what === 'superusers' ? `list-${what}` : 'list-permissions')
    }
    default:
      return undefined
  }
}

/** `CREATE`, `ALTER` and `DROP` of things. */
function parseDefinition(verb: 'create' | 'alter' | 'drop', tokens: readonly CqlToken[]): CassandraStatement | undefined {
  let index = 1
  if (verb === 'create' && wordAt(tokens, index) === 'or' && wordAt(tokens, index + 1) === 'replace') index += 2
  if (verb === 'create' && wordAt(tokens, index) === 'custom' && wordAt(tokens, index + 1) === 'index') index += 1
  const isView = wordAt(tokens, index) === 'materialized' && wordAt(tokens, index + 1) === 'view'
  const noun = isView ? 'materialized-view' : nounOf(wordAt(tokens, index))
  const action = `${verb}-${noun}`
  index = skipCondition(tokens, index + (isView ? 2 : 1))
  switch (action) {
    case 'create-keyspace':
    case 'alter-keyspace':
    case 'drop-keyspace':
      return aboutTables(action, [keyspaceAt(tokens, index)])
    case 'alter-table':
    case 'drop-table':
    case 'alter-materialized-view':
    case 'drop-materialized-view':
      return aboutTables(action, [tableAt(tokens, index)])
    case 'create-table': {
      const table = tableAt(tokens, index)
      const behind = index + (table?.keyspace === undefined ? 1 : 3)
      return aboutTables(action, wordAt(tokens, behind) === 'like' ? [table, tableAt(tokens, behind + 1)] : [table])
    }
    case 'create-materialized-view':
      return aboutTables(action, [tableAt(tokens, index), tableAt(tokens, after(tokens, 'from', index))])
    case 'create-index':
    case 'create-trigger':
    case 'drop-trigger':
      return aboutTables(action, [tableAt(tokens, after(tokens, 'on', index))])
    default:
      return known(action)
  }
}

/** A statement about things that are no tables. */
function known(action: string): CassandraStatement | undefined {
  return CASSANDRA_ACTIONS.has(action) ? { action } : undefined
}

function aboutTables(action: string, tables: readonly (CassandraTable | undefined)[]): CassandraStatement | undefined {
  const found = tables.filter((table) => table !== undefined)
  return found.length === tables.length ? { action, tables: found } : undefined
}

/** Behind the first such keyword that stands in no brackets; past the end when there is none. */
function after(tokens: readonly CqlToken[], keyword: string, from: number): number {
  let depth = 0
  for (let index = from; index < tokens.length; index++) {
    depth += depthOf(tokens[index])
    if (depth === 0 && wordAt(tokens, index) === keyword) return index + 1
  }
  return tokens.length
}

function depthOf(token: CqlToken | undefined): number {
  if (token?.kind !== 'sign') return 0
  if ('([{'.includes(token.text)) return 1
  return ')]}'.includes(token.text) ? -1 : 0
}

function isBalanced(tokens: readonly CqlToken[]): boolean {
  let depth = 0
  for (const token of tokens) {
    depth += depthOf(token)
    if (depth < 0) return false
  }
  return depth === 0
}

function skipCondition(tokens: readonly CqlToken[], index: number): number {
  if (wordAt(tokens, index) !== 'if') return index
  const behind = wordAt(tokens, index + 1) === 'not' ? index + 2 : index + 1
  return wordAt(tokens, behind) === 'exists' ? behind + 1 : index
}

/** `[keyspace .] table` */
function tableAt(tokens: readonly CqlToken[], index: number): CassandraTable | undefined {
  const first = nameAt(tokens, index)
  if (first === undefined || !isSign(tokens[index + 1], '.')) return first === undefined ? undefined : { name: first }
  const second = nameAt(tokens, index + 2)
  return second === undefined || isSign(tokens[index + 3], '.') ? undefined : { keyspace: first, name: second }
}

function keyspaceAt(tokens: readonly CqlToken[], index: number): CassandraTable | undefined {
  const keyspace = nameAt(tokens, index)
  return keyspace === undefined || isSign(tokens[index + 1], '.') ? undefined : { keyspace, name: '' }
}

/** A name of a keyspace or table has letters, digits and _ only, in quotes too: otherwise a dot inside one would look like two names. */
function nameAt(tokens: readonly CqlToken[], index: number): string | undefined {
  const token = tokens[index]
  if (token?.kind !== 'word' && token?.kind !== 'quoted') return undefined
  return NAME.test(token.text) && (token.kind === 'quoted' || /^[a-z]/.test(token.text)) ? token.text : undefined
}

function nounOf(word: string): string {
  return Object.hasOwn(NOUNS, word) ? (NOUNS[word] ?? word) : word
}

/** The unquoted word at the place; empty when there is none. */
function wordAt(tokens: readonly CqlToken[], index: number): string {
  const token = tokens[index]
  return token?.kind === 'word' ? token.text : ''
}

function isSign(token: CqlToken | undefined, text: string): boolean {
  return token?.kind === 'sign' && token.text === text
}

/**
 * Which Cassandra rules a request matches, as the simulator asks it. A batch is allowed when each of its statements is, a statement when
 * each of its tables is. What cannot be read, or whose table cannot be told, is allowed by rules that do not ask about it only.
 */
import { RE2JS } from 're2js'
import type { CassandraRule } from './rules.ts'
import { type CassandraStatement, type CassandraTable, parseStatements } from './statement.ts'

export interface CassandraRequest {
  /** Undefined when it could not be read. */
  readonly statements: readonly CassandraStatement[] | undefined
  /** Of the session, which unqualified tables are in; absent when it is not known. */
  readonly keyspace?: string
}

/** One statement and one of its tables; without what cannot be told. */
interface Piece {
  readonly action?: string
  /** keyspace.table */
  readonly table?: string
}

/** Rules, compiled. A rule that states nothing matches everything. */
export class CassandraMatcher<Rule extends CassandraRule = CassandraRule> {
  readonly #rules: readonly { readonly rule: Rule; readonly table?: RE2JS }[]

  /** @throws RE2JSException for a pattern that is none; the parser of policies refuses those */
  constructor(rules: readonly Rule[]) {
    this.#rules = rules.map((rule) => ({ rule, ...(rule.table === undefined ? {} : { table: RE2JS.compile(rule.table) }) }))
  }

  /**
   * The rules that together allow the request, in their order; undefined when some part of it is allowed by none. None are needed to
   * choose a keyspace (`USE`), which gives no access to it.
   */
  allowing(request: CassandraRequest): Rule[] | undefined {
    const used = new Set<Rule>()
    for (const piece of piecesOf(request)) {
      if (piece.action === 'use') continue
      const covering = this.#rules.filter(({ rule, table }) => isMet(rule, table, piece, false))
      if (covering.length === 0) return undefined
      for (const { rule } of covering) used.add(rule)
    }
    return this.#rules.map(({ rule }) => rule).filter((rule) => used.has(rule))
  }

  /** The rules, read as deny rules, that match any part of the request or cannot be told not to; it is denied if there is one. */
  denying(request: CassandraRequest): Rule[] {
    const pieces = piecesOf(request)
    return this.#rules.filter(({ rule, table }) => pieces.some((piece) => isMet(rule, table, piece, true))).map(({ rule }) => rule)
  }
}

/** Reads the text of a query. */
export function parseCassandraRequest(text: string, keyspace?: string): CassandraRequest {
  return { statements: parseStatements(text), ...(keyspace === undefined ? {} : { keyspace }) }
}

function piecesOf({ statements, keyspace }: CassandraRequest): Piece[] {
  if (statements === undefined) return [{}]
  return statements.flatMap(({ action, tables }) => {
    if (tables === undefined) return [{ action }]
    return tables.map((table) => {
      const text = textOf(table, keyspace)
      return text === undefined ? { action } : { action, table: text }
    })
  })
}

function textOf({ keyspace, name }: CassandraTable, ofSession: string | undefined): string | undefined {
  const actual = keyspace ?? ofSession
  return actual === undefined ? undefined : `${actual}.${name}`
}

/** @param inDoubt whether a condition on what cannot be told is met */
function isMet({ action }: CassandraRule, table: RE2JS | undefined, piece: Piece, inDoubt: boolean): boolean {
  if (action !== undefined && !(piece.action === undefined ? inDoubt : piece.action === action)) return false
  return table === undefined || (piece.table === undefined ? inDoubt : table.testExact(piece.table))
}

import test from 'ava'
import fc from 'fast-check'
import { CASSANDRA_ACTIONS } from '#parsers/cassandra/actions.ts'
import { CassandraMatcher, parseCassandraRequest } from '#parsers/cassandra/match.ts'
import type { CassandraRule } from '#parsers/cassandra/rules.ts'
import { parseStatements } from '#parsers/cassandra/statement.ts'

/** Statements as `action keyspace.table`, with - for what is left to the session and ? for what cannot be told. */
function read(text: string): string | undefined {
  return parseStatements(text)
    ?.map(({ action, tables }) => `${action} ${tables?.map(({ keyspace = '-', name }) => `${keyspace}.${name}`).join(' ') ?? '?'}`)
    .join('; ')
}

function allows(rules: readonly CassandraRule[], text: string, keyspace?: string): boolean {
  return new CassandraMatcher(rules).allowing(parseCassandraRequest(text, keyspace)) !== undefined
}

test('statements tell their kind and tables', (t) => {
  const known: readonly (readonly [string, string])[] = [
    ['SELECT * FROM ks.t WHERE a = 1', 'select ks.t'],
    ['select json a, count(*) as n from T;', 'select -.t'],
    ['SELECT CAST(a AS int), m[\'from\'] FROM "Ks"."T" ALLOW FILTERING', 'select Ks.T'],
    ['INSERT INTO ok.t(a,b) VALUES (1,2) IF NOT EXISTS USING TTL 5', 'insert ok.t'],
    ["INSERT INTO ks.t JSON '{}'", 'insert ks.t'],
    ['UPDATE ks.t USING TTL 4 SET a = 1 WHERE b = 2', 'update ks.t'],
    ['DELETE a, b[1] FROM ks.t WHERE a = 1', 'delete ks.t'],
    ['TRUNCATE secret.t', 'truncate secret.t'],
    ['TRUNCATE TABLE secret.t', 'truncate secret.t'],
    ['USE "Ks"', 'use Ks.'],
    ['CREATE KEYSPACE IF NOT EXISTS k WITH replication = {}', 'create-keyspace k.'],
    ['DROP SCHEMA k', 'drop-keyspace k.'],
    ['CREATE TABLE IF NOT EXISTS ks.t (a int PRIMARY KEY)', 'create-table ks.t'],
    ['CREATE TABLE ks.a LIKE secret.b', 'create-table ks.a secret.b'],
    ['ALTER COLUMNFAMILY t ADD a int', 'alter-table -.t'],
    ['DROP TABLE IF EXISTS ks.t', 'drop-table ks.t'],
    ["CREATE CUSTOM INDEX i ON ks.t (a) USING 'x'", 'create-index ks.t'],
    ['CREATE INDEX ON t (a)', 'create-index -.t'],
    ['CREATE MATERIALIZED VIEW ks.v AS SELECT a FROM ks.t WHERE a IS NOT NULL', 'create-materialized-view ks.v ks.t'],
    ['DROP MATERIALIZED VIEW v', 'drop-materialized-view -.v'],
    ['DROP INDEX ks.i', 'drop-index ?'],
    [
      'CREATE OR REPLACE FUNCTION ks.f (a int) RETURNS NULL ON NULL INPUT RETURNS int LANGUAGE java AS $$ return 1; $$',
      'create-function ?',
    ],
    ['ALTER ROLE r WITH SUPERUSER = true', 'alter-role ?'],
    ['GRANT SELECT ON ks.t TO r', 'grant ?'],
    ['LIST ALL PERMISSIONS OF r', 'list-permissions ?'],
    ['DESC TABLES', 'describe ?'],
    ['BEGIN BATCH INSERT INTO a.b (c) VALUES (1); UPDATE d.e SET f = 1 WHERE g = 2; APPLY BATCH;', 'insert a.b; update d.e'],
    [
      'BEGIN UNLOGGED BATCH USING TIMESTAMP 5 DELETE FROM a.b WHERE c = 1 INSERT INTO d.e (f) VALUES (1) APPLY BATCH',
      'delete a.b; insert d.e',
    ],
    ['-- a comment\nSELECT /* FROM secret.t */ a FROM ks.t // the end\n', 'select ks.t'],
  ]
  for (const [text, expected] of known) {
    t.is(read(text), expected, text)
    for (const statement of parseStatements(text) ?? []) t.true(CASSANDRA_ACTIONS.has(statement.action), statement.action)
  }
})

test('what is in strings, quotes and comments is not read as a table', (t) => {
  t.is(read("SELECT * FROM secret.t WHERE a='x from ok.t y'"), 'select secret.t')
  t.is(read("SELECT 'it''s from ok.t', $$ from ok.t $$ FROM secret.t"), 'select secret.t')
  t.is(read('SELECT "from" FROM secret.t'), 'select secret.t')
  t.is(read('SELECT (SELECT a FROM ok.t) FROM secret.t'), 'select secret.t')
  t.is(read('SELECT a -- FROM ok.t\n FROM secret.t'), 'select secret.t')
})

test('what is not certain has no answer', (t) => {
  for (const text of [
    '',
    ';',
    'SELECT 1',
    'SELECT * FROM ?',
    'SELECT * FROM ks.t.u',
    'SELECT * FROM "a.b"',
    'SELECT * FROM "a""b".t',
    'SELECT * FROM ks.t; DROP TABLE ks.t',
    "SELECT * FROM ks.t WHERE a = 'open",
    'SELECT * FROM ks.t -- no line after it',
    'SELECT * FROM ks.t /* open',
    'SELECT * FROM ks.t WHERE a = (1',
    'SELECT * FROM ks.t WHERE a = 1)',
    'SELECT * FROM ks.té',
    'INSERT ks.t (a) VALUES (1)',
    'BEGIN BATCH INSERT INTO a.b (c) VALUES (1)',
    'BEGIN BATCH SELECT * FROM a.b; APPLY BATCH',
    'BEGIN BATCH INSERT INTO a.b (c) VALUES (1); APPLY BATCH; BEGIN BATCH APPLY BATCH',
    'CREATE SOMETHING a',
    'EXPLAIN SELECT * FROM ks.t',
    'x'.repeat(1024 * 1024 + 1),
  ])
    t.is(read(text), undefined, text.slice(0, 80))
})

test('a statement is allowed when each of its tables is, and a batch when each statement is', (t) => {
  const rules: CassandraRule[] = [
    { action: 'select', table: 'ok\\..*' },
    { action: 'insert', table: 'ok\\.(a|b)' },
  ]
  t.true(allows(rules, 'SELECT * FROM ok.t'))
  t.false(allows(rules, 'SELECT * FROM notok.t'))
  t.false(allows(rules, 'UPDATE ok.t SET a = 1 WHERE b = 1'))
  t.true(allows(rules, 'INSERT INTO ok.a(x) VALUES (1)'))
  t.true(allows(rules, 'BEGIN BATCH INSERT INTO ok.a (x) VALUES (1); INSERT INTO ok.b (x) VALUES (1) APPLY BATCH'))
  t.false(allows(rules, 'BEGIN BATCH INSERT INTO ok.a (x) VALUES (1); INSERT INTO ok.c (x) VALUES (1) APPLY BATCH'))
  const view = 'CREATE MATERIALIZED VIEW ok.v AS SELECT a FROM secret.t WHERE a IS NOT NULL'
  t.false(allows([{ table: 'ok\\..*' }], view))
  t.true(allows([{ table: 'ok\\..*' }, { table: 'secret\\.t' }], view))
})

test('a rule about tables allows nothing whose table cannot be told', (t) => {
  const rules: CassandraRule[] = [{ table: '.*' }]
  for (const text of [
    'ALTER ROLE r WITH SUPERUSER = true',
    'CREATE FUNCTION ks.f () RETURNS int',
    'DROP INDEX ks.i',
    'GRANT ALL ON ks.t TO r',
    'no CQL',
  ])
    t.false(allows(rules, text), text)
  t.true(allows(rules, 'TRUNCATE ks.t'))
  t.false(allows([{ table: 'ok\\..*' }], 'TRUNCATE secret.t'))
  t.true(allows([{ action: 'grant' }], 'GRANT ALL ON ks.t TO r'))
  t.true(allows([{}], 'no CQL'))
  t.false(allows([{ action: 'select' }], 'no CQL'))
  t.false(allows([], 'SELECT * FROM ks.t'))
})

test('a table without keyspace is in that of the session, which choosing is always allowed', (t) => {
  const rules: CassandraRule[] = [{ table: 'ok\\..*' }]
  t.true(allows(rules, 'SELECT * FROM t', 'ok'))
  t.false(allows(rules, 'SELECT * FROM t', 'other'))
  t.false(allows(rules, 'SELECT * FROM t'))
  t.true(allows(rules, 'USE other'))
  t.true(allows([], 'USE other'))
})

test('a deny rule denies what it names any part of, and what it cannot be told not to name', (t) => {
  const matcher = new CassandraMatcher([{ table: 'secret\\..*' }])
  const denies = (text: string) => matcher.denying(parseCassandraRequest(text)).length > 0
  t.true(denies('SELECT * FROM secret.t'))
  t.false(denies('SELECT * FROM ok.t'))
  t.true(denies('BEGIN BATCH INSERT INTO ok.a (x) VALUES (1); DELETE FROM secret.b WHERE x = 1; APPLY BATCH'))
  t.true(denies('SELECT * FROM t'))
  t.true(denies('DROP INDEX secret.i'))
  t.true(denies('no CQL'))
})

test('no text makes the reader throw, or see a table that is in a string', (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.constantFrom(
          'SELECT',
          'FROM',
          'ok.t',
          "'",
          '"',
          '--',
          '\n',
          '/*',
          '*/',
          '$$',
          '(',
          ')',
          ';',
          ' ',
          'x',
          '.',
          'BEGIN',
          'BATCH',
          'APPLY',
        ),
      ),
      (parts) => {
        parseStatements(parts.join(' '))
        return true
      },
    ),
    { numRuns: 2000 },
  )
  fc.assert(
    fc.property(fc.string(), (text) => read(`SELECT '${text.replaceAll("'", "''")}' FROM secret.t`) === 'select secret.t'),
    { numRuns: 1000 },
  )
  t.pass()
})

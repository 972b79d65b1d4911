import test from 'ava'
import { enforceable, gapWarnings } from '#agent/datapath/enforceable.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { type PeerClass, type PolicyRow, type ResolvedGroup, type ResolvedRuleset, rowKey } from '#policy/resolved.ts'

const NONE: ResolvedRuleset = { kind: 'http', parser: '', allowAll: false, allow: [], deny: [], serverNames: [], conflict: '' }
const TLS = { secret: { namespace: 'shop', name: 'cert' } }
const GET: HttpRule = { method: 'GET', headers: [] }
const named = (rule: object, policy = 'shop/web') => ({ name: `${policy}/ingress/0123456789ab`, rule })

/** A group with one class on 9092/TCP. */
function groupOf(ruleset: ResolvedRuleset): ResolvedGroup {
  const row: PolicyRow = {
    direction: 'ingress',
    identity: 300,
    protocol: 6,
    port: 9092,
    portPrefixLength: 16,
    verdict: 'redirect',
    explicitDeny: false,
    audit: false,
    classKey: 'class',
    origins: ['shop/kafka/ingress/0-0'],
  }
  const peerClass: PeerClass = { key: 'class', direction: 'ingress', ruleset, rows: new Set([rowKey(row)]) }
  return {
    group: 256,
    identity: 256,
    enforced: { ingress: true, egress: false },
    rows: new Map([[rowKey(row), row]]),
    changedRows: new Set([rowKey(row)]),
    classes: new Map([['class', peerClass]]),
    policies: ['shop/kafka'],
  }
}

function outcomeOf(ruleset: ResolvedRuleset): string {
  const { group } = enforceable(groupOf(ruleset))
  const [row] = group.rows.values()
  if (row?.classKey !== undefined) return group.classes.has(row.classKey) ? 'slot' : 'lost'
  if (group.classes.size > 0) return 'class without rows'
  return `${row?.verdict}${row?.audit ? ' audited' : ''}${row?.explicitDeny ? ' explicit' : ''}`
}

const CASES: readonly (readonly [string, Partial<ResolvedRuleset>, string])[] = [
  ['HTTP rules', { allow: [named(GET)] }, 'slot'],
  ['HTTP rules with a shadow', { allow: [named(GET)], shadow: 'deny-all' }, 'slot'],
  ['Kafka rules', { kind: 'kafka', allow: [named({ topic: 'orders' })] }, 'slot'],
  ['Cassandra rules', { kind: 'cassandra', allow: [named({ action: 'select' })] }, 'deny'],
  ['Cassandra rules beside a plain allow', { kind: 'cassandra', allow: [named({ action: 'select' })], allowAll: true }, 'allow'],
  ['Cassandra deny rules beside a plain allow', { kind: 'cassandra', deny: [named({ action: 'select' })], allowAll: true }, 'deny'],
  ['DNS rules', { kind: 'dns' }, 'slot'],
  ['rules of a parser of a user', { kind: 'parser', parser: 'x' }, 'slot'],
  ['server names', { kind: 'tls', serverNames: ['a.example'] }, 'deny'],
  ['server names beside a plain allow', { kind: 'tls', serverNames: ['a.example'], allowAll: true }, 'allow'],
  ['TLS interception beside a plain allow', { terminatingTls: TLS, allowAll: true }, 'deny'],
  ['a listener beside a plain allow', { kind: 'listener', allowAll: true }, 'deny'],
  ['a conflict beside a plain allow', { kind: 'conflict', conflict: 'dns and http rules', allowAll: true }, 'deny'],
  ['what only audit has rules for', { kind: 'cassandra', allowAll: true, shadow: { ...NONE, kind: 'cassandra' } }, 'allow'],
  ['what audit would not let through at all', { kind: 'cassandra', allowAll: true, shadow: 'deny-all' }, 'allow audited'],
]

for (const [what, ruleset, expected] of CASES) {
  test(`${what}: ${expected}`, (t) => t.is(outcomeOf({ ...NONE, ...ruleset }), expected))
}

test('header actions and secrets are enforced; a shadow takes both for granted, but for a deny rule on a secret', (t) => {
  const acting = named({ ...GET, headerMatches: [{ name: 'x-a', value: '1', mismatch: 'ADD' }] })
  const secret = named({ ...GET, headerMatches: [{ name: 'x-a', secret: { namespace: 'a', name: 'b' } }] })
  const both = { ...NONE, allow: [acting, secret], deny: [secret] }
  const { group, gaps } = enforceable(groupOf({ ...both, shadow: { ...both, deny: [acting, secret] } }))
  const ruleset = group.classes.get('class')?.ruleset
  t.like(ruleset, both)
  t.deepEqual(gaps, [])
  const shadow = ruleset?.shadow as ResolvedRuleset
  t.deepEqual(
    shadow.allow.map(({ rule }) => rule),
    [GET, GET],
  )
  t.deepEqual(
    shadow.deny.map(({ rule }) => rule),
    [GET],
  )
})

test('a shadow that cannot be enforced is left out, and nothing is denied for its sake', (t) => {
  const { group, gaps } = enforceable(groupOf({ ...NONE, allow: [named(GET)], shadow: { ...NONE, kind: 'kafka' } }))
  t.is(group.classes.get('class')?.ruleset.shadow, undefined)
  t.deepEqual(gaps, [])
})

test('there is one warning for each policy and kind, with some of its ports', (t) => {
  const gap = (policy: string, ...traffic: string[]) => ({ policy, what: 'cassandra rules are not enforced yet', traffic })
  t.deepEqual(gapWarnings([gap('a', '1/TCP', '2/TCP'), gap('b', '1/TCP'), gap('a', '2/TCP', '3/TCP', '4/TCP', '5/TCP')]), [
    'policy a: cassandra rules are not enforced yet: traffic to 1/TCP, 2/TCP, 3/TCP, and 2 more is denied',
    'policy b: cassandra rules are not enforced yet: traffic to 1/TCP is denied',
  ])
  const { gaps } = enforceable(groupOf({ ...NONE, kind: 'conflict', conflict: 'dns and http rules for the same traffic' }))
  t.deepEqual(gapWarnings(gaps), [
    'policy shop/kafka: dns and http rules for the same traffic cannot hold together: traffic to 9092/TCP is denied',
  ])
})

test('a group that can be enforced as it is stays itself', (t) => {
  const group = groupOf({ ...NONE, allow: [named(GET)], deny: [named({ path: '/x', headers: [] })], shadow: 'deny-all' })
  t.is(enforceable(group).group, group)
})

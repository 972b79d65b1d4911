import test from 'ava'
import { enforceable } from '#agent/datapath/enforceable.ts'
import { type NamedRule, type PeerClass, type PolicyRow, type ResolvedGroup, type ResolvedRuleset, rowKey } from '#policy/resolved.ts'
import { notEnforced, notReported } from '#policy/trace/not-enforced.ts'

const TLS = { secret: { namespace: 'shop', name: 'cert' } }
const KINDS = ['http', 'dns', 'kafka', 'cassandra', 'parser', 'tls', 'listener'] as const
const RULE: NamedRule = { name: 'shop/web/ingress/0', rule: { method: 'GET', headers: [] } }
const WITH_ACTION: NamedRule = {
  name: 'shop/web/ingress/1',
  rule: { headers: [], headerMatches: [{ name: 'x-token', value: 'v', mismatch: 'LOG' }] },
}

/** Every kind of ruleset with every combination of what matters. */
function* rulesets(): Generator<ResolvedRuleset> {
  for (const kind of KINDS) {
    for (const allowAll of [false, true]) {
      for (const serverNames of [[], ['a.example']]) {
        for (const terminatingTls of [undefined, TLS]) {
          for (const [allow, deny] of [
            [[], []],
            [[RULE], []],
            [[], [RULE]],
            [[WITH_ACTION], []],
            [[RULE], [WITH_ACTION]],
          ] as const) {
            if (kind !== 'http' && [...allow, ...deny].includes(WITH_ACTION)) continue
            yield { kind, parser: 'x', allowAll, allow, deny, serverNames, conflict: '', ...(terminatingTls && { terminatingTls }) }
          }
        }
      }
    }
  }
}

/** What becomes of a class on a node: its slot, with all of its rules or not, or a verdict. */
function outcomeOf(ruleset: ResolvedRuleset): string {
  const row: PolicyRow = {
    direction: 'ingress',
    identity: 300,
    protocol: 6,
    port: 443,
    portPrefixLength: 16,
    verdict: 'redirect',
    explicitDeny: false,
    audit: false,
    classKey: 'class',
    origins: [],
  }
  const key = rowKey(row)
  const peerClass: PeerClass = { key: 'class', direction: 'ingress', ruleset, rows: new Set([key]) }
  const asked: ResolvedGroup = {
    group: 256,
    identity: 256,
    enforced: { ingress: true, egress: false },
    rows: new Map([[key, row]]),
    changedRows: new Set(),
    classes: new Map([['class', peerClass]]),
    policies: [],
  }
  const { group } = enforceable(asked)
  const own = group.classes.get('class')?.ruleset
  if (own === undefined) return group.rows.get(key)?.verdict ?? 'no row'
  return own === ruleset ? 'slot' : 'slot without some rules'
}

test('a trace says what a node cannot do where the node does not do it, and nowhere else', (t) => {
  for (const ruleset of rulesets()) {
    const note = notEnforced(ruleset)
    const outcome = outcomeOf(ruleset)
    t.is(note !== undefined, outcome === 'deny', JSON.stringify({ ruleset, outcome }))
    t.not(outcome, 'slot without some rules')
  }
})

test('a trace says what a node does not report of audit where the node has less to report by, and nowhere else', (t) => {
  const of = (allow: readonly NamedRule[], deny: readonly NamedRule[] = []): ResolvedRuleset => ({
    ...{ kind: 'http', parser: '', allowAll: false, allow, deny, serverNames: [], conflict: '' },
  })
  const withSecret: NamedRule = {
    name: 'shop/web/ingress/2',
    rule: { headers: [], headerMatches: [{ name: 'x-token', secret: { namespace: 'shop', name: 'token' } }] },
  }
  for (const [shadow, isTold] of [
    [of([RULE]), false],
    [of([RULE, WITH_ACTION]), false],
    [of([RULE, withSecret]), true],
    [of([RULE], [withSecret]), true],
  ] as const)
    t.is(notReported(shadow) !== undefined, isTold)
})

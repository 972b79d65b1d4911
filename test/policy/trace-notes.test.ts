import test from 'ava'
import { enforceable } from '#agent/datapath/enforceable.ts'
import { type NamedRule, type PeerClass, type PolicyRow, type ResolvedGroup, type ResolvedRuleset, rowKey } from '#policy/resolved.ts'
import { notEnforced } from '#policy/trace/not-enforced.ts'

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
    const told = note === undefined ? 'nothing' : note.endsWith('their requests') ? 'requests' : 'traffic'
    const outcome = outcomeOf(ruleset)
    // Where everything is allowed, it does not matter which rules allow it.
    const isOpen = ruleset.allowAll && ruleset.deny.length === 0
    const expected = outcome === 'deny' ? 'traffic' : outcome === 'slot without some rules' && !isOpen ? 'requests' : 'nothing'
    t.is(told, expected, JSON.stringify({ ruleset, outcome }))
  }
})

import test from 'ava'
import { RE2JS } from 're2js'
import { judge, Patterns, type UserRules } from '#proxy/ext-host/user-parsers/judge.ts'

const KEYS = new Set(['cmd'])
const rule = (name: string, values: Record<string, string>) => ({ name, values })
const rules = (parts: Partial<UserRules>): UserRules => ({ allowAll: false, allow: [], deny: [], ...parts })
const READ = (values: Readonly<Record<string, string>>) => (values['cmd'] ?? 'READ') === 'READ'

test('what a deny rule matches is denied, else what an allow rule matches is allowed, else what everything is', (t) => {
  const [read, write] = [rule('r', { cmd: 'READ' }), rule('w', { cmd: 'WRITE' })]
  const verdict = (parts: Partial<UserRules>) => judge(rules(parts), READ, KEYS)
  t.like(verdict({}), { isAllowed: false, rule: '' })
  t.like(verdict({ allow: [write, read] }), { isAllowed: true, rule: 'r' })
  t.like(verdict({ allow: [write] }), { isAllowed: false, rule: '' })
  t.like(verdict({ allow: [read], deny: [read] }), { isAllowed: false, rule: 'r' })
  t.like(verdict({ allowAll: true }), { isAllowed: true, rule: '' })
  t.like(verdict({ allowAll: true, deny: [read] }), { isAllowed: false, rule: 'r' })
})

test('a rule with a key that the parser does not know allows nothing and denies everything', (t) => {
  const strange = rule('s', { cmd: 'READ', colour: 'red' })
  t.like(judge(rules({ allow: [strange] }), READ, KEYS), { isAllowed: false })
  t.like(
    judge(rules({ allowAll: true, deny: [strange] }), () => false, KEYS),
    { isAllowed: false, rule: 's' },
  )
  t.like(judge(rules({ allow: [strange] }), READ), { isAllowed: true })
})

test('what policies in audit would deny is allowed and said', (t) => {
  const allow = [rule('r', {})]
  t.like(judge(rules({ allow, shadow: rules({}) }), READ, KEYS), { isAllowed: true, isAudited: true })
  t.like(judge(rules({ allow, shadow: rules({ allow }) }), READ, KEYS), { isAllowed: true, isAudited: false })
  t.like(judge(rules({ shadow: rules({}) }), READ, KEYS), { isAllowed: false, isAudited: false })
})

test('patterns are RE2, over the whole text, and take no longer for being evil', (t) => {
  const patterns = new Patterns(RE2JS.compile.bind(RE2JS))
  t.true(patterns.matches('public/.*', 'public/a'))
  t.false(patterns.matches('public', 'public/a'))
  t.throws(() => patterns.matches('(?=a)', 'a'))
  const startMs = performance.now()
  t.false(patterns.matches('(a+)+b', 'a'.repeat(1000)))
  t.true(performance.now() - startMs < 1000)
})

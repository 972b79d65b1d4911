import test from 'ava'
import fc from 'fast-check'
import { type HeaderEdit, HttpJudge, type JudgedRules, type Judgement, type NamedHttpRule } from '#parsers/http/judge.ts'
import type { HttpRequest } from '#parsers/http/match.ts'
import { type HeaderMatch, MISMATCH_ACTIONS } from '#parsers/http/rules.ts'

type Secrets = Readonly<Record<string, string>>

function request(headers: Record<string, string[]> = {}, path = '/'): HttpRequest {
  return { method: 'GET', path, authority: 'shop.example', headers: new Map(Object.entries(headers)) }
}

function judge(rules: Partial<JudgedRules>, asked: HttpRequest, secrets: Secrets = {}): Judgement {
  const secretOf = (namespace: string, name: string) => secrets[`${namespace}/${name}`]
  return new HttpJudge({ allowAll: false, allow: [], deny: [], ...rules }, secretOf).judge(asked)
}

function rule(name: string, ...headerMatches: HeaderMatch[]): NamedHttpRule {
  return { name, headers: [], headerMatches }
}

const SECRET = { namespace: 'default', name: 'token' }

/** As Envoy carries edits out: what is to be removed first, then the others in their order. */
function carryOut(headers: ReadonlyMap<string, readonly string[]>, edits: readonly HeaderEdit[]): Map<string, string[]> {
  const result = new Map([...headers].map(([name, values]) => [name, [...values]]))
  for (const edit of edits) if (edit.kind === 'remove') result.delete(edit.name)
  for (const edit of edits) {
    if (edit.kind === 'set') result.set(edit.name, [edit.value])
    if (edit.kind === 'add') result.set(edit.name, [...(result.get(edit.name) ?? []), edit.value])
  }
  return result
}

test('without rules everything is denied, or allowed where everything is', (t) => {
  t.deepEqual(judge({}, request()), { allowed: false, rule: '', edits: [], notes: [] })
  t.deepEqual(judge({ allowAll: true }, request()), { allowed: true, rule: '', edits: [], notes: [] })
})

test('a deny rule that matches is the answer, whatever else does', (t) => {
  const deny = [rule('b', { name: 'x-a', value: '1' }), rule('a', { name: 'x-a', value: '2' })]
  const rules = { allowAll: true, allow: [rule('c', { name: 'x-b', value: '1', mismatch: 'ADD' as const })], deny }
  t.deepEqual(judge(rules, request({ 'x-a': ['1, 2'] })), { allowed: false, rule: 'a', edits: [], notes: [] })
  t.deepEqual(judge(rules, request({ 'x-a': ['1'] })), { allowed: false, rule: 'b', edits: [], notes: [] })
  t.true(judge(rules, request({ 'x-a': ['3'] })).allowed)
})

test('the rule that is told is the first by name that matches the request as it came', (t) => {
  const allow = [rule('b'), rule('a', { name: 'x-a' }), rule('c')]
  t.is(judge({ allow }, request()).rule, 'b')
  t.is(judge({ allow }, request({ 'x-a': [''] })).rule, 'a')
})

for (const [values, isRight] of [
  [[], false],
  [['right'], true],
  [['wrong'], false],
  [['right', 'right'], false],
  [['wrong', 'right'], false],
  [[''], false],
] as const) {
  for (const wanted of [{ value: 'right' }, { secret: SECRET }, { secret: SECRET, value: 'other' }]) {
    const title = `${JSON.stringify(values)} where ${Object.keys(wanted).join(' and ')} wants one`
    const asked = request(values.length === 0 ? {} : { 'x-a': [...values] })
    const secrets = { 'default/token': 'right' }

    test(`without an action the rule fails for all but the right value: ${title}`, (t) => {
      t.is(judge({ allow: [rule('a', { name: 'x-a', ...wanted })] }, asked, secrets).allowed, isRight)
    })

    for (const mismatch of MISMATCH_ACTIONS) {
      test(`${mismatch} lets the request pass, and is noted where the value is not right: ${title}`, (t) => {
        const { allowed, rule: name, edits, notes } = judge({ allow: [rule('a', { name: 'x-a', mismatch, ...wanted })] }, asked, secrets)
        t.deepEqual([allowed, name], [true, 'a'])
        t.deepEqual(notes, isRight ? [] : [{ name: 'x-a', action: mismatch }])
        const after = carryOut(asked.headers, edits).get('x-a') ?? []
        const expected = { LOG: values, ADD: [...values, 'right'], DELETE: [], REPLACE: ['right'] }[mismatch]
        t.deepEqual(after, isRight ? [...values] : [...expected])
      })
    }
  }
}

for (const mismatch of MISMATCH_ACTIONS) {
  test(`${mismatch} for a header that only has to be there changes nothing`, (t) => {
    const allow = [rule('a', { name: 'x-a', mismatch })]
    t.deepEqual(judge({ allow }, request({ 'x-a': ['any'] })), { allowed: true, rule: 'a', edits: [], notes: [] })
    t.deepEqual(judge({ allow }, request()), { allowed: true, rule: 'a', edits: [], notes: [{ name: 'x-a', action: mismatch }] })
  })

  test(`${mismatch} does not let anybody in for a secret that is not there, unless a value stands in for it`, (t) => {
    t.false(judge({ allow: [rule('a', { name: 'x-a', secret: SECRET, mismatch })] }, request({ 'x-a': [''] })).allowed)
    t.true(judge({ allow: [rule('a', { name: 'x-a', secret: SECRET, value: 'v', mismatch })] }, request()).allowed)
  })
}

test('a deny rule on a secret finds it among other values, and denies everybody while it is not there', (t) => {
  const deny = [rule('d', { name: 'x-a', secret: SECRET })]
  const denies = (value: string, secret?: string) =>
    !judge({ allowAll: true, deny }, request({ 'x-a': [value] }), secret === undefined ? {} : { 'default/token': secret }).allowed
  t.true(denies('s', 's'))
  t.true(denies('a, s ,b', 's'))
  t.true(denies('a, s,t', 's,t'))
  t.false(denies('a, st', 's'))
  t.false(denies('x', 's'))
  t.true(denies('x'))
})

test('each rule sees what those before it have left', (t) => {
  const allow = [
    rule('1', { name: 'x-a', value: 'set', mismatch: 'REPLACE' }),
    rule('2', { name: 'x-a', value: 'set' }, { name: 'x-b', value: 'seen', mismatch: 'ADD' }),
    rule('3', { name: 'x-a', value: 'old' }, { name: 'x-c', value: 'not', mismatch: 'ADD' }),
  ]
  const asked = request({ 'x-a': ['old'] })
  const { rule: name, edits } = judge({ allow }, asked)
  t.is(name, '1')
  t.deepEqual(
    [...carryOut(asked.headers, edits)],
    [
      ['x-a', ['set']],
      ['x-b', ['seen']],
    ],
  )
})

test('a host that a rule has written is what the next one sees', (t) => {
  const allow = [
    rule('1', { name: 'host', value: 'inside.example', mismatch: 'REPLACE' }),
    rule('2', { name: 'host', value: 'inside.example', mismatch: 'REPLACE' }, { name: 'x-a', value: '1', mismatch: 'ADD' }),
  ]
  t.deepEqual(judge({ allow }, request()).edits, [
    { kind: 'set', name: 'host', value: 'inside.example' },
    { kind: 'add', name: 'x-a', value: '1' },
  ])
})

test('what one rule removes and the next adds is set', (t) => {
  const allow = [rule('1', { name: 'x-a', value: '1', mismatch: 'DELETE' }), rule('2', { name: 'x-a', value: '2', mismatch: 'ADD' })]
  t.deepEqual(judge({ allow }, request({ 'x-a': ['x', 'y'] })).edits, [{ kind: 'set', name: 'x-a', value: '2' }])
})

test('a note of a change is not hidden by one that nothing was done', (t) => {
  const allow = [
    rule('1', { name: 'x-a', value: '1', mismatch: 'LOG' }),
    rule('2', { name: 'x-a', value: '2', mismatch: 'REPLACE' }),
    rule('3', { name: 'x-a', value: '3', mismatch: 'LOG' }),
  ]
  t.deepEqual(judge({ allow }, request()).notes, [{ name: 'x-a', action: 'REPLACE' }])
})

test('a secret that changes is compared as it is now', (t) => {
  const secrets: Record<string, string> = { 'default/token': 'one' }
  const held = new HttpJudge(
    { allowAll: false, allow: [rule('a', { name: 'x-a', secret: SECRET })], deny: [] },
    (namespace, name) => secrets[`${namespace}/${name}`],
  )
  t.true(held.judge(request({ 'x-a': ['one'] })).allowed)
  secrets['default/token'] = 'two'
  t.false(held.judge(request({ 'x-a': ['one'] })).allowed)
  t.true(held.judge(request({ 'x-a': ['two'] })).allowed)
})

/** The same by another way: lines of headers in a list, every rule asked one after the other, nothing indexed. */
function naive({ allowAll, allow, deny }: JudgedRules, asked: HttpRequest, secrets: Secrets) {
  let lines = [...asked.headers].flatMap(([name, values]) => values.map((value) => [name, value] as const))
  const valueIn = (of: typeof lines, name: string) => {
    const values = of.filter(([each]) => each === name).map(([, value]) => value)
    return values.length === 0 ? null : values.join(',')
  }
  const wantedOf = (match: HeaderMatch) => {
    const secret = match.secret && secrets[`${match.secret.namespace}/${match.secret.name}`]
    return secret ?? match.value ?? (match.secret ? null : '*')
  }
  const isMet = (of: typeof lines, name: string, wanted: string | null, denies: boolean) => {
    const value = valueIn(of, name)
    if (wanted === null) return denies
    if (value === null) return false
    if (wanted === '*' || value === wanted) return true
    return denies && value.split(',').some((part) => part.replace(/^[ \t]+|[ \t]+$/g, '') === wanted)
  }
  const holds = (of: typeof lines, named: NamedHttpRule, denies: boolean) =>
    (named.path === undefined || named.path === asked.path) &&
    named.headers.every(({ name, value }) => isMet(of, name, value ?? '*', denies)) &&
    (named.headerMatches ?? []).every((match) =>
      match.mismatch !== undefined ? wantedOf(match) !== null : isMet(of, match.name, wantedOf(match), denies),
    )
  const byName = (rules: readonly NamedHttpRule[]) => [...rules].sort((a, b) => a.name.localeCompare(b.name))
  const original = lines
  const denying = byName(deny).find((named) => holds(original, named, true))
  if (denying) return { allowed: false, rule: denying.name, headers: original }
  const allowing = byName(allow).find((named) => holds(original, named, false))
  if (!allowAll && !allowing) return { allowed: false, rule: '', headers: original }
  for (const named of byName(allow)) {
    if (!holds(lines, named, false)) continue
    for (const match of named.headerMatches ?? []) {
      const wanted = wantedOf(match)
      if (match.mismatch === undefined || wanted === null || isMet(lines, match.name, wanted, false)) continue
      if (match.mismatch === 'DELETE') lines = lines.filter(([name]) => name !== match.name)
      if (match.mismatch === 'REPLACE' && wanted !== '*')
        lines = [...lines.filter(([name]) => name !== match.name), [match.name, wanted] as const]
      if (match.mismatch === 'ADD' && wanted !== '*') lines = [...lines, [match.name, wanted] as const]
    }
  }
  return { allowed: true, rule: allowAll ? '' : (allowing?.name ?? ''), headers: lines }
}

const name = fc.constantFrom('x-a', 'x-b')
const value = fc.constantFrom('1', '2', '3')
const headerRule = fc.record({ name, value }, { requiredKeys: ['name'] })
const matchOf = (withAction: boolean) =>
  fc.record(
    {
      name,
      value,
      secret: fc.record({ namespace: fc.constant('n'), name: fc.constantFrom('s', 't', 'missing') }),
      ...(withAction ? { mismatch: fc.constantFrom(...MISMATCH_ACTIONS) } : {}),
    },
    { requiredKeys: ['name'] },
  )
const rulesOf = (prefix: string, withAction: boolean) =>
  fc
    .array(
      fc.record(
        {
          path: fc.constantFrom('/', '/b'),
          headers: fc.array(headerRule, { maxLength: 1 }),
          headerMatches: fc.array(matchOf(withAction) as fc.Arbitrary<HeaderMatch>, { maxLength: 2 }),
        },
        { requiredKeys: ['headers'] },
      ),
      { maxLength: withAction ? 4 : 1 },
    )
    .chain((rules) =>
      fc
        .shuffledSubarray(
          rules.map((_rule, index) => index),
          { minLength: rules.length },
        )
        .map((order) => rules.map((each, index): NamedHttpRule => ({ ...each, name: `${prefix}${order[index]}` }))),
    )
const asked = fc
  .record(
    {
      'x-a': fc.array(fc.constantFrom('1', '2', '3', '1, 2', '1,1'), { minLength: 1, maxLength: 2 }),
      'x-b': fc.array(fc.constantFrom('1', '2', '3'), { minLength: 1, maxLength: 2 }),
    },
    { requiredKeys: [] },
  )
  .map((headers) => request(headers as Record<string, string[]>))

test('the judge says what a naive one says', (t) => {
  const seen = { allowed: 0, denied: 0, edited: 0 }
  fc.assert(
    fc.property(
      fc.record({ allowAll: fc.boolean(), allow: rulesOf('a', true), deny: rulesOf('d', false) }),
      fc.array(asked, { minLength: 10, maxLength: 10 }),
      fc.constantFrom<Secrets>({}, { 'n/s': '1' }, { 'n/s': '1', 'n/t': '3' }),
      (rules, requests, secrets) => {
        for (const each of requests) {
          const actual = judge(rules, each, secrets)
          const expected = naive(rules, each, secrets)
          seen[actual.allowed ? 'allowed' : 'denied'] += 1
          if (actual.edits.length > 0) seen.edited += 1
          t.deepEqual([actual.allowed, actual.rule], [expected.allowed, expected.rule])
          const after = carryOut(each.headers, actual.edits)
          for (const header of ['x-a', 'x-b'])
            t.deepEqual(
              after.get(header) ?? [],
              expected.headers.filter(([line]) => line === header).map(([, text]) => text),
            )
        }
      },
    ),
    { numRuns: 1000, includeErrorInReport: true },
  )
  t.true(Math.min(seen.allowed, seen.denied, seen.edited) > 500, JSON.stringify(seen))
})

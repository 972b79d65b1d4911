import { create } from '@bufbuild/protobuf'
import test from 'ava'
import fc from 'fast-check'
import { RE2JS } from 're2js'
import { HttpRuleSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { Condition, Predicate, Tree } from '#proxy/xds/matcher.ts'
import { sizeOfPattern } from '#proxy/xds/pattern-size.ts'
import { quote, termsOf } from '#proxy/xds/rule-terms.ts'
import { termsOfPattern, treeOf } from '#proxy/xds/rule-tree.ts'
import { matchesNaively, type PlainRequest, type PlainRule, request, ruleParts, rulesOf } from '../support/http-rules.ts'

type Values = ReadonlyMap<string, string>

function valuesOf({ method, path, authority, headers }: PlainRequest): Values {
  const values = new Map([
    [':method', method],
    [':path', path],
    [':authority', authority],
  ])
  for (const [name, value] of headers) values.set(name, [values.get(name), value.trim()].filter((line) => line !== undefined).join(','))
  return values
}

const compiled = new Map<string, RE2JS>()
function fullMatch(pattern: string, value: string): boolean {
  // What this engine lacks: any byte is any character here.
  const known = compiled.get(pattern) ?? RE2JS.compile(pattern.replaceAll('\\C', '(?s:.)'))
  compiled.set(pattern, known)
  return known.testExact(value)
}

/** Counts what is asked on the way. */
class Walker {
  asked = 0
  readonly #values: Values

  constructor(values: Values) {
    this.#values = values
  }

  walk<Action>(tree: Tree<Action> | undefined): Action | undefined {
    if (tree === undefined) return undefined
    if (tree.kind === 'leaf') return tree.action
    for (const branch of this.#branches(tree)) {
      const action = this.walk(branch)
      if (action !== undefined) return action
    }
    return this.walk(tree.otherwise)
  }

  *#branches<Action>(tree: Exclude<Tree<Action>, { kind: 'leaf' }>): Generator<Tree<Action>> {
    if (tree.kind === 'list') {
      for (const { predicate, onMatch } of tree.branches) if (this.#holds(predicate)) yield onMatch
      return
    }
    this.asked += 1
    const value = this.#values.get(tree.field)
    if (value === undefined) return
    if (tree.kind === 'exact') {
      const branch = tree.branches.get(value)
      if (branch !== undefined) yield branch
      return
    }
    for (let length = value.length; length > 0; length--) {
      const branch = tree.branches.get(value.slice(0, length))
      if (branch !== undefined) yield branch
    }
  }

  #holds(predicate: Predicate): boolean {
    switch (predicate.kind) {
      case 'all':
        return predicate.of.every((each) => this.#holds(each))
      case 'any':
        return predicate.of.some((each) => this.#holds(each))
      case 'not':
        return !this.#holds(predicate.of)
      case 'field':
        this.asked += 1
        return this.#meets(predicate.condition, this.#values.get(predicate.field))
    }
  }

  #meets(condition: Condition, value: string | undefined): boolean {
    if (value === undefined) return false
    return condition.kind === 'exact' ? condition.text === value : fullMatch(condition.pattern, value)
  }
}

const treeOfRules = (rules: readonly PlainRule[], verdict: 'allow' | 'deny') =>
  treeOf(
    rules.map((rule) => ({
      terms: termsOf(create(HttpRuleSchema, { ...rule, headers: rule.headers.map((header) => ({ ...header })) }), verdict),
      action: rule.name,
    })),
  )

for (const verdict of ['allow', 'deny'] as const) {
  test(`the tree finds a rule exactly when one matches, and only one that does: ${verdict}`, (t) => {
    fc.assert(
      fc.property(fc.array(ruleParts, { maxLength: 120 }), fc.array(request, { minLength: 1, maxLength: 20 }), (parts, requests) => {
        const rules = rulesOf(parts)
        const tree = treeOfRules(rules, verdict)
        for (const asked of requests) {
          const expected = rules.filter((rule) => matchesNaively(rule, asked, verdict)).map(({ name }) => name)
          const found = new Walker(valuesOf(asked)).walk(tree)
          if (found === undefined ? expected.length > 0 : !expected.includes(found))
            throw new Error(`${JSON.stringify(asked)} found ${found}, expected one of ${expected}`)
        }
      }),
      { numRuns: 150, includeErrorInReport: true },
    )
    t.pass()
  })
}

const askedOf = (rules: readonly Partial<PlainRule>[], asked: Partial<PlainRequest>) => {
  const walker = new Walker(valuesOf({ method: 'GET', path: '/', authority: 'h', headers: [], ...asked }))
  const found = walker.walk(treeOfRules(rulesOf(rules), 'allow'))
  return { asked: walker.asked, found }
}

test('a thousand rules ask a request no more than a few questions, whatever they are about', (t) => {
  const numbers = Array.from({ length: 1000 }, (_, index) => index)
  const exact = numbers.map((n) => ({ path: `/p/${n}`, method: 'GET' }))
  t.true(askedOf(exact, { path: '/p/999' }).asked <= 2)
  t.true(askedOf(exact, { path: '/q' }).asked <= 1)
  t.true(
    askedOf(
      numbers.map((n) => ({ path: `/p${n}/.*` })),
      { path: '/p777/x/y' },
    ).asked <= 5,
  )
  t.true(
    askedOf(
      numbers.map((n) => ({ host: `h${n}\\.example`, path: '/.*' })),
      { authority: 'h500.example', path: '/x' },
    ).asked <= 3,
  )
  t.true(
    askedOf(
      numbers.map((n) => ({ path: '/graphql', headers: [{ name: 'x-key', value: `k${n}` }] })),
      { path: '/graphql', headers: [['x-key', 'k998']] },
    ).asked <= 3,
  )
  t.true(
    askedOf(
      numbers.map((n) => ({ path: `/item/${n}/[a-z]+/edit` })),
      { path: '/item/500/abc/edit' },
    ).asked <= 8,
  )
  // Nothing plain to begin with: a gate for each few dozen, then halves.
  const suffixes = numbers.map((n) => ({ path: `/.*/file${n}\\.(txt|pdf)` }))
  const { asked, found } = askedOf(suffixes, { path: '/a/b/file998.pdf' })
  t.is(found, 'r00998')
  t.true(asked <= 30, String(asked))
})

test('a pattern with more alternatives than are worth a map is still one rule', (t) => {
  const path = Array.from({ length: 60 }, (_, index) => `/p${index}`).join('|')
  const rules = Array.from({ length: 2000 }, (_, index) => ({ path, host: `h${index}` }))
  t.is(askedOf(rules, { path: '/p59', authority: 'h1999' }).found, 'r01999')
  t.is(askedOf(rules, { path: '/p60', authority: 'h1999' }).found, undefined)
})

test('a text is quoted so that it matches itself alone', (t) => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme' }),
      fc.string(),
      (text, other) => fullMatch(quote(text), text) && fullMatch(quote(text), other) === (text === other),
    ),
  )
  t.pass()
})

test('patterns are told apart by how they begin', (t) => {
  const [plain] = termsOfPattern(':path', '/a|/b')
  t.like(plain, { kind: 'texts', texts: ['/a', '/b'] })
  t.like(termsOfPattern(':path', '/a(\\?.*)?')[0], { kind: 'regex', prefix: '/a' })
  t.like(termsOfPattern(':path', '(?i)/a')[0], { kind: 'regex', prefix: '' })
  t.like(termsOfPattern(':path', '/a|')[0], { kind: 'regex', prefix: '' })
})

test('the size of what is joined is never estimated far below what RE2 makes of it', (t) => {
  const patterns = [
    '/plain/text',
    '/[a-z0-9-]+/(item|thing)17/[0-9]{1,6}(/.*)?',
    '(?:a{100}){10}',
    '(?:a|bb|ccc){20,30}',
    '[^/]{40}',
    '.{30}x',
    '\\pL{3}',
    '[\\p{Greek}a]{4}',
    '(?i)/straße/[a-z]+',
    '[]^a-z]+[^]]*',
    '[[:alpha:]]{10}[[:^digit:]]{3}',
    '\\w{20}\\W{20}',
    '(((((a|b)*c)?d)+){5})',
    '\\{5}x{3}',
  ]
  for (const pattern of patterns) {
    const size = programSizeOf(pattern)
    t.true(sizeOfPattern(pattern) >= size * 0.7, `${pattern}: ${sizeOfPattern(pattern)} for ${size}`)
    // Characters of a large class are many sequences of bytes.
    if (!pattern.includes('\\p')) t.true(sizeOfPattern(pattern) <= size * 40 + 100, `${pattern}: ${sizeOfPattern(pattern)} for ${size}`)
  }
  t.true(sizeOfPattern('/[a-z0-9-]+/(item|thing)17/[0-9]{1,6}(/.*)?') < 120)
})

/** In instructions of the other engine, which match characters where RE2's match bytes: a lower bound. */
function programSizeOf(pattern: string): number {
  return (RE2JS.compile(pattern) as unknown as { re2(): { prog: { inst: unknown[] } } }).re2().prog.inst.length
}

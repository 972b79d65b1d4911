/** Files as they come: what YAML allows, what it means by surprise, and what must not hurt. */
import { readFileSync } from 'node:fs'
import test from 'ava'
import fc from 'fast-check'
import { isPolicy, type PolicyDocument } from '#policy/model.ts'
import { messagesOf, parse, policy, problemsOf } from './support.ts'

const SHOP = readFileSync(new URL('../fixtures/policy/shop.yaml', import.meta.url), 'utf8')
const SIMPLE = policy('ingress: [{fromEntities: [host]}]')

/** What a document says, without where it stands. */
function contentOf(documents: readonly PolicyDocument[]): string {
  return JSON.stringify(documents, (key, value: unknown) => (key === 'at' ? undefined : value))
}

test('the fixture is accepted without a word but about the query string', (t) => {
  t.deepEqual(messagesOf(SHOP), [])
  t.deepEqual(messagesOf(SHOP, 'warning'), ['path matches the whole of it, query string included: /orders'])
  t.deepEqual(
    parse(SHOP)
      .documents.filter(isPolicy)
      .map(({ name, specs }) => [name, specs.length]),
    [
      ['api', 1],
      ['outbound', 2],
    ],
  )
})

test('JSON, CRLF and a byte order mark mean the same as plain YAML', (t) => {
  const expected = contentOf(parse(SIMPLE).documents)
  const json = `{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "default"},
\t"spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromEntities": ["host"]}]}}`
  for (const text of [json, SIMPLE.replaceAll('\n', '\r\n'), `\ufeff${SIMPLE}`, `---\n${SIMPLE}...\n`, `%YAML 1.1\n---\n${SIMPLE}`]) {
    t.deepEqual(problemsOf(text), [])
    t.is(contentOf(parse(text).documents), expected)
  }
})

test('lists of policies are read as their members', (t) => {
  const item = SIMPLE.trimEnd().replaceAll('\n', '\n    ')
  for (const kind of ['List', 'CiliumNetworkPolicyList']) {
    const text = `apiVersion: v1\nkind: ${kind}\nmetadata: {resourceVersion: ""}\nitems:\n  - ${item}\n`
    t.deepEqual(problemsOf(text), [])
    t.is(contentOf(parse(text).documents), contentOf(parse(SIMPLE).documents))
  }
  t.deepEqual(messagesOf('kind: List\nitems: 1\n'), ['must be a list, is a number: 1'])
  t.deepEqual(messagesOf('kind: List\nitems: []\n'), ['the file holds no policy'])
})

test('what the API server adds is let through', (t) => {
  const added =
    'uid: a, resourceVersion: "1", generation: 2, creationTimestamp: "2026-01-01T00:00:00Z", annotations: {a: b}, managedFields: [], '
  t.deepEqual(problemsOf(`${SIMPLE.replace('metadata: {', `metadata: {${added}`)}status: {conditions: []}\n`), [])
})

test('empty documents count for nothing, and a file of nothing else is refused', (t) => {
  t.deepEqual(problemsOf(`---\n---\n${SIMPLE}---\n# the end\n`), [])
  for (const text of ['', '\n', '---\n', '# nothing\n', 'null\n', '~\n', '---\n---\n'])
    t.deepEqual(messagesOf(text), ['the file holds no policy'])
})

test('a key may stand once', (t) => {
  t.deepEqual(problemsOf(policy('ingress: [{}]\negress: [{}]\ningress: []')), [
    '8:3 error spec.ingress: key occurs twice: ingress (keep one of them)',
  ])
  t.deepEqual(messagesOf(policy('ingress: [{"fromCIDR": [], fromCIDR: []}]')), ['key occurs twice: fromCIDR'])
})

test('keys that YAML 1.1 reads as something else are refused, not turned into text', (t) => {
  t.deepEqual(messagesOf(policy('endpointSelector: {matchLabels: {yes: a}}\ningress: [{}]')), ['key is not a string in YAML 1.1: yes'])
  t.deepEqual(messagesOf(policy('endpointSelector: {matchLabels: {1: a}}\ningress: [{}]')), ['key is not a string in YAML 1.1: 1'])
  t.deepEqual(messagesOf(policy('endpointSelector: {? [a] : b}\ningress: [{}]')), ['key is not a string'])
})

test('values that YAML 1.1 reads as something else are refused where text belongs', (t) => {
  const value = (text: string) => messagesOf(policy(`endpointSelector: {matchLabels: {app: ${text}}}\ningress: [{}]`))
  t.deepEqual(value('no'), ['must be a string, is a boolean in YAML 1.1: false'])
  t.deepEqual(value('Yes'), ['must be a string, is a boolean in YAML 1.1: true'])
  t.deepEqual(value('1.10'), ['must be a string, is a number in YAML 1.1: 1.1'])
  t.deepEqual(value('010'), ['must be a string, is a number in YAML 1.1: 8'])
  t.deepEqual(value('~'), ['has no value'])
  t.deepEqual(value(''), ['has no value'])
  t.deepEqual(value('"no"'), [])
  // kubectl's reader knows neither times nor numbers of base sixty.
  t.deepEqual(value('2026-01-01'), [])
})

test('a number of base sixty is text, as in kubectl', (t) => {
  t.deepEqual(messagesOf(policy('ingress: [{toPorts: [{ports: [{port: 1:30}]}]}]')), ['not a port: 1:30'])
})

test('a tab as indentation is refused where it stands', (t) => {
  const text = policy('ingress: [{}]').replace('  ingress', '\tingress')
  t.true(messagesOf(text).length > 0)
  t.regex(problemsOf(text).join('\n'), /^6:1 error : not valid YAML: .*tab.* \(indent with spaces\)/im)
})

test('tags of types that JSON does not know are refused', (t) => {
  t.deepEqual(messagesOf(policy('ingress: [{fromEntities: [!secret host]}]')), ['tag is not allowed: !secret'])
  t.deepEqual(messagesOf(policy('ingress: [{fromEntities: [!!str host]}]')), [])
  t.true(messagesOf(policy('ingress: [{fromEntities: !!set {host}}]')).length > 0)
})

test('another version of YAML is refused', (t) => {
  t.deepEqual(messagesOf(`%YAML 1.2\n---\n${SIMPLE}`), ['YAML version must be 1.1: 1.2'])
})

test('anchors and merge keys are expanded, and an alias means the last anchor before it', (t) => {
  const text = policy('endpointSelector: &a {matchLabels: {app: web}}\ningress:\n  - fromEndpoints: [*a, {<<: *a, matchExpressions: []}]')
  t.deepEqual(problemsOf(text), [])
  t.deepEqual(messagesOf(policy('ingress: [{fromEndpoints: [*nobody]}]')), ['alias of an anchor that is not set before it: nobody'])
})

test('aliases of aliases do not grow without a bound', (t) => {
  const bomb = ['a: &a [x, x, x, x, x, x, x, x, x, x]']
  for (const [index, name] of ['b', 'c', 'd', 'e', 'f', 'g', 'h'].entries()) {
    const before = 'abcdefg'[index]
    bomb.push(`${name}: &${name} [${Array.from({ length: 10 }, () => `*${before}`).join()}]`)
  }
  t.deepEqual(
    messagesOf(`${bomb.join('\n')}\n`).filter((message) => message.startsWith('file ')),
    ['file uses more aliases than 1000'],
  )
})

test('an anchor that holds itself is refused', (t) => {
  t.true(messagesOf('a: &a [*a]\n').length > 0)
})

test('nesting is bounded', (t) => {
  for (const depth of [100, 1_000, 200_000]) {
    t.true(messagesOf(`a: ${'['.repeat(depth)}${']'.repeat(depth)}\n`).includes('document is nested deeper than 64 levels'))
    t.true(messagesOf(`a: ${'{a: '.repeat(depth)}`).length > 0)
  }
  t.true(messagesOf(`${Array.from({ length: 200 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n')}\n`).length > 0)
})

test('a file is bounded in bytes, documents and values', (t) => {
  t.deepEqual(messagesOf(`# ${'x'.repeat(4 << 20)}\n`), [`file is larger than 4194304 bytes: ${(4 << 20) + 3}`])
  t.deepEqual(messagesOf(`# ${'é'.repeat(2 << 20)}\n`), [`file is larger than 4194304 bytes: ${(4 << 20) + 3}`])
  t.deepEqual(messagesOf('---\n'.repeat(10_001)), ['file holds more documents than 10000'])
  t.is(messagesOf(`a: [${'1,'.repeat(500_001)}]\n`).filter((message) => message === 'file holds more values than 500000').length, 1)
})

test('of many problems the first are told, and how many more there are', (t) => {
  const { problems } = parse(policy(`ingress:\n${'- {nope: 1}\n'.repeat(300)}`))
  t.is(problems.length, 201)
  t.deepEqual([problems[200]?.severity, problems[200]?.message], ['error', 'more problems are not shown: 100'])
})

test('bytes that are no text are refused', (t) => {
  t.deepEqual(messagesOf(`${SIMPLE}\0`), [`file holds a NUL character at offset ${SIMPLE.length}`])
  t.deepEqual(messagesOf(policy('ingress: [{}]\ndescription: "\\ud800"')), ['text holds half of a character (an unpaired surrogate)'])
})

test('names of objects’ own properties are nothing special', (t) => {
  t.true(messagesOf('__proto__: {a: 1}\nconstructor: 1\ntoString: 1\n').includes('unknown field: __proto__'))
  t.deepEqual(messagesOf(policy('ingress: [{constructor: 1}]')), ['unknown field: constructor'])
})

/**
 * A file cut short: what is left of it is refused, or says that it may be incomplete. Nothing tells a file that was cut at the end of
 * a line, where a list may end too: what is accepted then is what stands there, a beginning of the whole.
 */
test('a file that was cut short inside a line is never accepted without a word', (t) => {
  const bytes = Buffer.from(SHOP)
  const accepted: number[] = []
  for (let length = 0; length < bytes.length; length++) {
    const { documents, problems } = parse(bytes.subarray(0, length).toString('utf8'))
    if (documents.length === 0) continue
    accepted.push(length)
    const isAtLineEnd = bytes[length - 1] === 0x0a
    t.true(isAtLineEnd || problems.some(({ message }) => message.includes('may be incomplete')), `${length}`)
    t.true(documents.every(({ name }, index) => name === ['api', 'outbound'][index]))
  }
  t.true(accepted.length > 0)
})

test('a file of JSON that was cut short is refused at every byte', (t) => {
  const text = JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'p' },
    spec: { endpointSelector: {}, ingress: [{ fromCIDR: ['10.0.0.0/8'] }], ingressDeny: [{ fromEntities: ['host'] }] },
  })
  t.is(parse(text).documents.length, 1)
  for (let length = 0; length < text.length; length++) t.is(parse(text.slice(0, length)).documents.length, 0)
})

test('damaged files never throw, and are accepted only without errors', (t) => {
  const bytes = Buffer.from(SHOP)
  const damage = fc.array(
    fc.record({ offset: fc.nat(bytes.length - 1), change: fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from(':-[]{}&*!|>\'"#\n\t '))) }),
    { minLength: 1, maxLength: 4 },
  )
  fc.assert(
    fc.property(damage, (changes) => {
      const copy = Buffer.from(bytes)
      for (const { offset, change } of changes) copy[offset] = change
      const { documents, refused, problems } = parse(copy.toString('utf8'))
      const hasError = problems.some(({ severity }) => severity === 'error')
      if (hasError !== (documents.length === 0)) throw new Error('documents and errors do not agree')
      if (!hasError && refused.length > 0) throw new Error('refused without an error')
      for (const { line, column } of problems) if (!(line >= 1 && column >= 1)) throw new Error('no place')
    }),
    { numRuns: 1500 },
  )
  t.pass()
})

test('any text at all is read without throwing', (t) => {
  const piece = fc.constantFrom(
    'a',
    ': ',
    '- ',
    '\n',
    '  ',
    '[',
    ']',
    '{',
    '}',
    ',',
    '&a ',
    '*a',
    '<<: ',
    '? ',
    '|',
    '>',
    '"',
    "'",
    '---\n',
    '...\n',
    '!!',
    '%',
    '#',
    '\t',
    '@',
    '~',
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
      parse(pieces.join(''))
    }),
    { numRuns: 3000 },
  )
  t.pass()
})

test('words that look like numbers to some are words to kubectl', (t) => {
  const errors = (word: string) => messagesOf(policy(`description: ${word}\ningress: [{}]`))
  for (const word of ['e0', 'e1', 'E3', '.e1', '.', '1:30', '2001-01-01', '0o7', '_1']) t.deepEqual(errors(word), [], word)
  for (const number of ['1e3', '.5', '5.', '010', '1_000']) t.is(errors(number).length, 1, number)
})

import test from 'ava'
import fc from 'fast-check'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from './world.ts'

const MEBIBYTE = 1024 * 1024

function messagesOf(text: string): string[] {
  const { documents, problems } = parsePolicyFile(text, 'p.yaml', LIMITS)
  return documents.length > 0 ? [] : problems.map(({ message }) => message)
}

const policy = (body: string): string => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  ingress:
    - ${body}
`

test('files that are made to be slow are refused before they are parsed', (t) => {
  const hostile = {
    brackets: '['.repeat(4 * MEBIBYTE),
    braces: '{a: '.repeat(MEBIBYTE),
    dashes: '- '.repeat(2 * MEBIBYTE),
    keys: '? '.repeat(MEBIBYTE),
    items: `a: [${'1,'.repeat(2 * MEBIBYTE - 8)}]`,
    comments: '#\n'.repeat(2 * MEBIBYTE),
    quotes: '"'.repeat(4 * MEBIBYTE),
    documents: '---\n'.repeat(MEBIBYTE),
  }
  for (const [name, text] of Object.entries(hostile)) {
    const start = performance.now()
    const messages = messagesOf(text)
    t.is(messages.length, 1, name)
    t.regex(messages[0] ?? '', /nested deeper than 64 levels|more YAML tokens than|more documents than/, name)
    // Without the check, the slowest takes a minute.
    t.true(performance.now() - start < 10_000, name)
  }
})

test('a file larger than 4 MiB is refused, and one with a NUL character', (t) => {
  t.deepEqual(messagesOf('#'.repeat(4 * MEBIBYTE + 1)), [`file is larger than ${4 * MEBIBYTE} bytes: ${4 * MEBIBYTE + 1}`])
  t.deepEqual(messagesOf('a: \0'), ['file holds a NUL character at offset 3'])
})

test('brackets in quotes, and flow collections one after the other, are not nesting', (t) => {
  const path = '/[[]'.repeat(100)
  t.deepEqual(messagesOf(policy(`toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "${path}"}]}}]`)), [])
  const ports = Array.from({ length: 40 }, (_, index) => `{port: "${index + 1}"}`).join()
  t.deepEqual(messagesOf(policy(`toPorts: [${Array.from({ length: 100 }, () => `{ports: [${ports}]}`).join()}]`)), [])
})

test('aliases that multiply, or lead to themselves, are refused', (t) => {
  const lines = ['a: &a [x, x, x, x, x, x, x, x, x]']
  for (const [index, name] of [...'bcdefgh'].entries()) lines.push(`${name}: &${name} [${Array(9).fill(`*${'abcdefg'[index]}`).join()}]`)
  t.true(messagesOf(`${lines.join('\n')}\n`).some((message) => message.startsWith('file uses more aliases than')))
  t.true(
    messagesOf('a: &a [*a, *a]\n').some(
      (message) => message.startsWith('document is nested deeper') || message.startsWith('file uses more aliases'),
    ),
  )
})

test('a message that ends in the offending value is cut short', (t) => {
  for (const message of messagesOf(policy(`fromEntities: ["${'x'.repeat(100_000)}"]`))) t.true(message.length < 500)
})

test('a file with thousands of problems tells of the first and counts the rest', (t) => {
  const messages = messagesOf(policy(`fromEntities: [${Array(5_000).fill('nobody').join()}]`))
  t.is(messages.length, 201)
  t.is(messages.at(-1), 'more problems are not shown: 4800')
})

test('whatever a file holds, reading it returns and says why it is refused', (t) => {
  const sample = policy('{fromEndpoints: [{matchLabels: {app: &a web}}], toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]}')
  const fragment = fc.constantFrom(
    ...[
      '\t',
      '- ',
      '{',
      '}',
      '[',
      ']',
      ':',
      '"',
      "'",
      '&a ',
      '*a',
      '!!binary ',
      '!x ',
      '|',
      '>',
      '#',
      '\n',
      '---\n',
      '...\n',
      '? ',
      '<<: ',
    ],
    ...['%YAML 1.2\n', '%TAG ! x\n', '\ud800', 'null', '~', '1e999', '.nan', '0x', '😀', 'yes', '\r', '\u2028', '\ufeff'],
  )
  const edit = fc.record({ at: fc.nat(sample.length), length: fc.nat(30), text: fragment })
  fc.assert(
    fc.property(fc.array(edit, { minLength: 1, maxLength: 5 }), (edits) => {
      const text = edits.reduce((before, { at, length, text: part }) => before.slice(0, at) + part + before.slice(at + length), sample)
      const { documents, problems } = parsePolicyFile(text, 'p.yaml', LIMITS)
      return documents.length > 0 || problems.some(({ severity, line, column }) => severity === 'error' && line > 0 && column > 0)
    }),
    { numRuns: 2_000 },
  )
  t.pass()
})

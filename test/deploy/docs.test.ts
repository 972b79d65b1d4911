import { globSync, readFileSync } from 'node:fs'
import test from 'ava'
import { currentDoc, errorTables, generateDocs } from '../../deploy/docs.ts'

test('the documents that are made from the source are current (else: npm run docs)', async (t) => {
  for (const [path, text] of await generateDocs()) t.is(currentDoc(path), text, `${path} is not current: run npm run docs`)
})

test('no code is declared twice, and every code has a cause and a next step', async (t) => {
  const entries = (await errorTables()).flatMap((table) => Object.entries(table.entries))
  t.is(new Set(entries.map(([code]) => code)).size, entries.length)
  for (const [code, { cause, next }] of entries) {
    t.regex(code, /^HG-\d{4}$/)
    t.regex(cause, /\S\.$/, code)
    t.regex(next, /\S\.$/, code)
  }
})

test('every code that the source uses is declared', async (t) => {
  const declared = new Set((await errorTables()).flatMap((table) => Object.keys(table.entries)))
  const files = globSync('{config,sys,api,parsers,tls,bpf,policy,flows,proxy,dns-proxy,agent,cli}/**/*.ts', { exclude: ['api/gen/**'] })
  for (const file of files) {
    for (const [code] of readFileSync(file, 'utf8').matchAll(/HG-[A-Z0-9][A-Z0-9-]*/g))
      t.true(declared.has(code) || code === 'HG-XXXX', `${file}: ${code}`)
  }
})

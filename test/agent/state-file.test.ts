import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { z } from 'zod'
import { PolicyFolder } from '#agent/policies/folder.ts'
import { readText, StateFile, writeText } from '#agent/state-file.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from '../policy/world.ts'

const schema = z.strictObject({ version: z.literal(1), labels: z.array(z.string()) })
const VALUE = { version: 1 as const, labels: ['k8s:app=server', 'k8s:app=straße'] }

function folderOf(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-state-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Every file that one flipped bit or a lost end makes. */
function* damages(bytes: Buffer): Generator<Buffer> {
  for (let index = 0; index < bytes.length; index++) {
    for (let bit = 0; bit < 8; bit++) {
      const damaged = Buffer.from(bytes)
      damaged[index] = (damaged[index] ?? 0) ^ (1 << bit)
      yield damaged
    }
    yield bytes.subarray(0, index)
  }
}

test('a JSON file with any bit flipped or its end lost is refused, or says what it said', (t) => {
  const file = new StateFile(join(folderOf(t), 'state.json'), schema)
  file.write(VALUE)
  const bytes = readFileSync(file.path)
  t.deepEqual(JSON.parse(bytes.toString()).labels, VALUE.labels)
  for (const damaged of damages(bytes)) {
    writeFileSync(file.path, damaged)
    try {
      t.deepEqual(file.read(), VALUE)
    } catch (error) {
      t.regex((error as Error).message, /state\.json/)
      t.is((error as { code?: string }).code, 'HG-2006')
    }
  }
})

test('a JSON file of a version that knew no digest is read', (t) => {
  const file = new StateFile(join(folderOf(t), 'state.json'), schema)
  writeFileSync(file.path, `${JSON.stringify(VALUE)}\n`)
  t.deepEqual(file.read(), VALUE)
})

test('a text comes back byte for byte, whatever its end, and with any bit flipped or its end lost not at all', (t) => {
  const path = join(folderOf(t), 'text')
  t.is(readText(path), undefined)
  for (const text of ['', '\n', 'a: ß', 'a: b\n', 'a: b\n# sha256:0\n', '{"a": 1}']) {
    writeText(path, text)
    t.is(readText(path), text)
    for (const damaged of damages(readFileSync(path))) {
      writeFileSync(path, damaged)
      t.throws(() => readText(path), { code: 'HG-2006' })
    }
  }
})

test('an accepted policy that was damaged or lost stops the start instead of leaving its endpoints without policy', (t) => {
  const root = folderOf(t)
  const policies = join(root, 'policies')
  const open = () => new PolicyFolder(policies, join(root, 'state'), 'keep', (text, file) => parsePolicyFile(text, file, LIMITS))
  mkdirSync(policies)
  writeFileSync(
    join(policies, 'a.yaml'),
    'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {matchLabels: {app: a}}\n  ingress: [{}]\n',
  )
  // As one that was written some time ago.
  utimesSync(join(policies, 'a.yaml'), 1, 1)
  const folder = open()
  folder.scan()
  folder.accept(['a.yaml'])
  rmSync(policies, { recursive: true })
  t.is(open().restore().changed[0]?.documents.length, 1)
  const kept = join(root, 'state/policies/a.yaml.accepted')
  writeFileSync(kept, readFileSync(kept, 'utf8').replace('app: a', 'app: b'))
  t.throws(() => open().restore(), { code: 'HG-2006', message: /a\.yaml\.accepted/ })
  rmSync(kept)
  t.throws(() => open().restore(), { code: 'HG-2006', message: /a\.yaml\.accepted/ })
})

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { digestOfKeys } from '#api/digest.ts'
import {
  type ExtHostUpdate,
  ExtHostUpdateSchema,
  type MismatchAction,
  type Ruleset,
  RulesetSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import type { HttpRequest } from '#parsers/http/match.ts'
import { RulesetStore } from '#proxy/ext-host/http/ruleset-store.ts'
import { Rulesets } from '#proxy/ext-host/http/rulesets.ts'

function storePath(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-rulesets-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return join(folder, 'ext-host/rulesets.bin')
}

function update(keys: readonly string[], more: Partial<Omit<ExtHostUpdate, '$typeName' | 'rulesets'>> = {}, all = keys): ExtHostUpdate {
  const rulesets = keys.map((key) => ({ key, ruleset: { http: [{ name: key }] } }))
  return create(ExtHostUpdateSchema, { epoch: 1n, revision: 5n, full: true, rulesets, digest: digestOfKeys(all), ...more })
}

test('what is written is read back', async (t) => {
  const path = storePath(t)
  const store = new RulesetStore(path)
  store.load()
  t.true(store.apply(update(['a', 'b'])))
  t.true(store.apply(update(['c'], { full: false, revision: 6n, removedKeys: ['a'] }, ['b', 'c'])))
  await store.persist()
  const next = new RulesetStore(path)
  next.load()
  t.deepEqual([next.epoch, next.revision, [...next.rulesets.keys()]], [1n, 6n, ['b', 'c']])
  t.is(next.rulesets.get('c')?.http[0]?.name, 'c')
})

test('an update that does not fit changes nothing', (t) => {
  const store = new RulesetStore(storePath(t))
  t.false(store.apply(update(['a'], { full: false })))
  t.true(store.apply(update(['a'])))
  t.false(store.apply(update(['b'], { full: false, epoch: 2n }, ['a', 'b'])))
  t.false(store.apply(update(['b'], { full: false }, ['a', 'b', 'c'])))
  t.false(store.apply(update(['b'], { digest: new Uint8Array(32) })))
  t.deepEqual([...store.rulesets.keys()], ['a'])
})

test('a damaged copy stops the process with its path', async (t) => {
  const path = storePath(t)
  const store = new RulesetStore(path)
  store.apply(update(['a']))
  await store.persist()
  const bytes = readFileSync(path)
  bytes[bytes.length - 1]! ^= 1
  writeFileSync(path, bytes)
  t.throws(() => new RulesetStore(path).load(), { message: new RegExp(`damaged: ${path}$`) })
})

const REQUEST: HttpRequest = { method: 'GET', path: '/', authority: 'a', headers: new Map() }

function rulesetOf(init: Parameters<typeof create<typeof RulesetSchema>>[1]): Ruleset {
  return create(RulesetSchema, init)
}

test('a ruleset that was taken back is served on, the last of them', (t) => {
  const rulesets = new Rulesets(
    () => undefined,
    () => t.fail(),
  )
  rulesets.set(new Map([['first', rulesetOf({ allowAll: true })]]))
  for (let index = 0; index < 300; index++) {
    rulesets.set(new Map([[`k${index}`, rulesetOf({ allowAll: true })]]))
    t.true(rulesets.get(`k${index}`)?.judge.judge(REQUEST).allowed)
  }
  t.is(rulesets.get('first'), undefined)
  t.not(rulesets.get('k250'), undefined)
  const before = rulesets.get('k250')
  rulesets.set(new Map([['k250', rulesetOf({ allowAll: true })]]))
  t.is(rulesets.get('k250'), before)
})

test('a ruleset that cannot be compiled is nobody’s, and the others are served', (t) => {
  const broken: string[] = []
  const rulesets = new Rulesets(
    () => undefined,
    (key) => broken.push(key),
  )
  rulesets.set(
    new Map([
      ['bad', rulesetOf({ http: [{ name: 'r', path: '(' }] })],
      ['good', rulesetOf({ allowAll: true })],
    ]),
  )
  t.deepEqual(broken, ['bad'])
  t.is(rulesets.get('bad'), undefined)
  t.true(rulesets.get('good')?.judge.judge(REQUEST).allowed)
})

test('an action that is not known fails its rule where the header is not right', (t) => {
  const rulesets = new Rulesets(
    () => undefined,
    () => t.fail(),
  )
  const headerMatches = [{ name: 'x-a', value: 'v', mismatch: 99 as MismatchAction }]
  rulesets.set(new Map([['k', rulesetOf({ http: [{ name: 'r', headerMatches }] })]]))
  t.false(rulesets.get('k')?.judge.judge(REQUEST).allowed)
  t.true(rulesets.get('k')?.judge.judge({ ...REQUEST, headers: new Map([['x-a', ['v']]]) }).allowed)
})

test('the secrets that rules ask for are known', (t) => {
  const rulesets = new Rulesets(
    (namespace, name) => `${namespace}-${name}`,
    () => t.fail(),
  )
  const asking = (name: string) => ({ name, headerMatches: [{ name: 'x-a', secret: { namespace: 'n', name } }] })
  rulesets.set(new Map([['k', rulesetOf({ http: [asking('s')], httpDeny: [asking('d')] })]]))
  t.deepEqual(rulesets.secrets(), [
    { namespace: 'n', name: 's' },
    { namespace: 'n', name: 'd' },
  ])
  t.true(rulesets.get('k')?.judge.judge({ ...REQUEST, headers: new Map([['x-a', ['n-s']]]) }).allowed)
})

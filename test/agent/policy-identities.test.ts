import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { PolicyIdentities } from '#agent/policies/policy-identities.ts'
import { EmbeddedAllocator } from '#agent/workloads/identities.ts'
import { PolicyEngine } from '#policy/engine.ts'
import { parse, policy } from '../policy/support.ts'

interface Scene {
  readonly engine: PolicyEngine
  readonly identities: PolicyIdentities
  readonly ipcache: Map<string, number>
  /** Of the allocator, over a restart. */
  readonly labelsKept: (ids: readonly number[]) => (readonly string[] | undefined)[]
  /** What a change of the folder does. */
  readonly put: (...egress: readonly string[]) => boolean
}

function open(t: ExecutionContext): Scene {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-identities-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const engine = new PolicyEngine()
  const ipcache = new Map<string, number>()
  const identities = new PolicyIdentities(engine, new EmbeddedAllocator(folder), {
    set: (prefix, _source, id) => {
      ipcache.set(prefix, id)
    },
    delete: (prefix) => {
      ipcache.delete(prefix)
    },
  })
  const put = (...egress: readonly string[]): boolean => {
    engine.upsertFile('a.yaml', parse(policy(egress.length === 0 ? 'egress: []' : `egress:\n${egress.join('\n')}`)).documents, [])
    identities.bringIn()
    engine.commit()
    return identities.settle()
  }
  const labelsKept = (ids: readonly number[]) => {
    const kept = new EmbeddedAllocator(folder)
    return ids.map((id) => kept.get(id)?.labels)
  }
  return { engine, identities, ipcache, put, labelsKept }
}

const names = (text: string) => `- toFQDNs: [${text}]`

test('conditions on names and prefixes get identities, and lose them with the last policy that has them', (t) => {
  const { identities, ipcache, put } = open(t)
  t.false(put(names('{matchName: api.test}, {matchPattern: "*.cdn.test"}'), '- toCIDR: [192.0.2.0/24]'))
  const told = identities.selectors()
  t.deepEqual(
    told.map(({ matchName, matchPattern, denies }) => [matchName, matchPattern, denies]),
    [
      ['api.test.', undefined, false],
      [undefined, '*.cdn.test.', false],
    ],
  )
  t.true(identities.hasNames)
  t.deepEqual([...ipcache.keys()], ['192.0.2.0/24'])

  t.true(put(names('{matchName: api.test}')), 'there are rows to take away')
  t.deepEqual(
    identities.selectors().map(({ id }) => id),
    told.slice(0, 1).map(({ id }) => id),
    'only what is still asked for, with the same number',
  )
  t.deepEqual([...ipcache.keys()], [])

  t.true(put())
  t.deepEqual(identities.selectors(), [])
  t.false(identities.hasNames)
  t.false(put(), 'nothing is left to go')
})

test('what comes back soon has its number, what does not is forgotten, and no number is given twice', (t) => {
  const { identities, put, labelsKept } = open(t)
  const idOf = (name: string): number => {
    put(names(`{matchName: ${name}}`))
    identities.tidy()
    return identities.selectors()[0]?.id ?? 0
  }
  const first = idOf('first.test')
  const second = idOf('second.test')
  t.is(idOf('first.test'), first)
  // Many at once, as one policy that is written anew each day makes them over time.
  for (let round = 0; round < 3; round++) {
    put(names(Array.from({ length: 500 }, (_, index) => `{matchName: n${round}-${index}.test}`).join(', ')))
  }
  const last = idOf('last.test')
  t.deepEqual(labelsKept([first, second, last]), [undefined, undefined, ['fqdn:last.test.']])
  const again = idOf('first.test')
  t.true(again > last)
  t.deepEqual(labelsKept([again]), [['fqdn:first.test.']])
})

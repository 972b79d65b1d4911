import test from 'ava'
import fc from 'fast-check'
import { PolicyEngine } from '#policy/engine.ts'
import type { ResolvedGroup } from '#policy/resolved.ts'
import { judge, type RawDocument, type RawIdentity } from './naive.ts'
import { apply, document, ENDPOINTS, lookUp, Prefixes, probe, RESERVED, verdictOf } from './world.ts'

/** Groups by identity, kept up to date by deltas as a reader of the engine keeps them. Nothing in a delta may be no news. */
class Reader {
  readonly groups = new Map<number, ResolvedGroup>()
  #revision = 0

  commit(engine: PolicyEngine): void {
    const { revision, changed, removed } = engine.commit()
    for (const id of removed) if (!this.groups.delete(id)) throw new Error(`removed but never told of: ${id}`)
    for (const group of changed) {
      const before = this.groups.get(group.identity)
      if (before !== undefined && textOf(before) === textOf(group)) throw new Error(`told of without a change: ${group.identity}`)
      this.groups.set(group.identity, group)
    }
    const expected = changed.length + removed.length === 0 ? this.#revision : this.#revision + 1
    if (revision !== expected) throw new Error(`revision is ${revision}, not ${expected}`)
    this.#revision = revision
  }
}

function startEngine(): PolicyEngine {
  const engine = new PolicyEngine()
  for (const endpoint of ENDPOINTS) {
    engine.upsertIdentity(endpoint)
    engine.addSubject(endpoint.id)
  }
  return engine
}

const documents = fc.tuple(document('one'), document('two'), document('three')).chain((all) => fc.subarray(all, { minLength: 1 }))

test('rows say of every flow what a walk through all rules says', (t) => {
  fc.assert(
    fc.property(documents, fc.array(probe, { minLength: 40, maxLength: 40 }), (policies, flows) => {
      const engine = startEngine()
      const prefixes = new Prefixes()
      for (const raw of policies) apply(engine, raw.metadata.name, raw)
      prefixes.sync(engine)
      const reader = new Reader()
      reader.commit(engine)
      const peers = [...ENDPOINTS, ...RESERVED, ...prefixes.identities.values()]
      for (const { subject, direction, protocol, port } of flows) {
        const group = reader.groups.get(subject.id)
        if (group === undefined) throw new Error(`no group: ${subject.id}`)
        for (const peer of peers) {
          const actual = verdictOf(group, direction, lookUp(group, direction, peer.id, protocol, port))
          const expected = judge(policies, { subject, direction, peer, protocol, port })
          if (JSON.stringify(actual) === JSON.stringify(expected)) continue
          throw new Error(`${direction} ${subject.id} ${peer.id} ${protocol}/${port}: ${JSON.stringify({ actual, expected })}`)
        }
      }
    }),
    { numRuns: 300 },
  )
  t.pass()
})

type Edit =
  | { readonly kind: 'put'; readonly file: string; readonly raw: RawDocument }
  | { readonly kind: 'delete'; readonly file: string }
  | { readonly kind: 'leave' | 'join'; readonly index: number }
  | { readonly kind: 'relabel'; readonly index: number; readonly as: number }
  | { readonly kind: 'cluster'; readonly name: string }
  | { readonly kind: 'commit' }

const file = fc.constantFrom('one', 'two', 'three')
const edit: fc.Arbitrary<Edit> = fc.oneof(
  { weight: 4, arbitrary: file.chain((name) => document(name).map((raw) => ({ kind: 'put' as const, file: name, raw }))) },
  file.map((name) => ({ kind: 'delete' as const, file: name })),
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('leave' as const, 'join' as const), index: fc.nat(ENDPOINTS.length - 1) }) },
  fc.record({ kind: fc.constant('relabel' as const), index: fc.nat(ENDPOINTS.length - 1), as: fc.nat(ENDPOINTS.length - 1) }),
  fc.record({ kind: fc.constant('cluster' as const), name: fc.constantFrom('default', 'far') }),
  { weight: 3, arbitrary: fc.constant({ kind: 'commit' as const }) },
)

test('after any edits the engine says what one that starts with their result says', (t) => {
  fc.assert(
    fc.property(fc.array(edit, { minLength: 1, maxLength: 20 }), (edits) => {
      const engine = startEngine()
      const prefixes = new Prefixes()
      const reader = new Reader()
      const inForce = new Map<string, RawDocument>()
      const present = new Map<number, RawIdentity>(ENDPOINTS.entries())
      let clusterName = 'default'
      for (const step of edits) {
        if (step.kind === 'put') {
          apply(engine, step.file, step.raw)
          inForce.set(step.file, step.raw)
        } else if (step.kind === 'delete') {
          engine.removeFile(step.file)
          inForce.delete(step.file)
        } else if (step.kind === 'commit') {
          prefixes.sync(engine)
          reader.commit(engine)
        } else if (step.kind === 'cluster') {
          clusterName = step.name
          engine.setClusterName(clusterName)
        } else {
          const endpoint = ENDPOINTS[step.index]
          if (endpoint === undefined) continue
          if (step.kind === 'relabel') {
            const relabelled = { id: endpoint.id, labels: ENDPOINTS[step.as]?.labels ?? [] }
            if (!present.has(step.index)) continue
            engine.upsertIdentity(relabelled)
            present.set(step.index, relabelled)
          } else if (step.kind === 'join') {
            engine.upsertIdentity(endpoint)
            engine.addSubject(endpoint.id)
            present.set(step.index, endpoint)
          } else {
            engine.removeSubject(endpoint.id)
            engine.removeIdentity(endpoint.id)
            present.delete(step.index)
          }
        }
      }
      prefixes.sync(engine)
      reader.commit(engine)

      const fresh = new PolicyEngine({ clusterName })
      const freshReader = new Reader()
      for (const [name, raw] of inForce) apply(fresh, name, raw)
      for (const identity of prefixes.identities.values()) fresh.upsertIdentity(identity)
      for (const endpoint of present.values()) {
        fresh.upsertIdentity(endpoint)
        fresh.addSubject(endpoint.id)
      }
      freshReader.commit(fresh)
      const actual = [...reader.groups.values()].map(textOf).sort()
      const expected = [...freshReader.groups.values()].map(textOf).sort()
      if (JSON.stringify(actual) !== JSON.stringify(expected))
        throw new Error(`not the same:\n${actual.join('\n')}\n---\n${expected.join('\n')}`)
    }),
    { numRuns: 300 },
  )
  t.pass()
})

test('a commit without a change tells nothing, and neither does an equal file or one under another name', (t) => {
  fc.assert(
    fc.property(document('one'), (raw) => {
      const engine = startEngine()
      const prefixes = new Prefixes()
      apply(engine, 'a.yaml', raw)
      prefixes.sync(engine)
      const { revision } = engine.commit()
      apply(engine, 'a.yaml', raw)
      if (engine.commit().changed.length > 0) throw new Error('an equal file changes something')
      apply(engine, 'b.yaml', raw)
      if (engine.commit().changed.length > 0) throw new Error('a copy changes something')
      engine.removeFile('a.yaml')
      const last = engine.commit()
      if (last.changed.length > 0 || last.revision !== revision) throw new Error('a new name changes something')
    }),
    { numRuns: 100 },
  )
  t.pass()
})

test('no row repeats what the row around it says', (t) => {
  fc.assert(
    fc.property(documents, (policies) => {
      const engine = startEngine()
      const prefixes = new Prefixes()
      for (const raw of policies) apply(engine, raw.metadata.name, raw)
      prefixes.sync(engine)
      for (const group of engine.commit().changed) {
        for (const row of group.rows.values()) {
          if (row.protocol === 0) continue
          const others = new Map([...group.rows].filter(([, other]) => other !== row))
          const around = lookUp({ ...group, rows: others }, row.direction, row.identity, row.protocol, row.port)
          // What shows in its place may lie inside it: only one that covers it all can make it needless.
          if (around === undefined || around.identity !== row.identity || around.portPrefixLength >= row.portPrefixLength) continue
          const isSame = around.verdict === row.verdict && around.classKey === row.classKey && around.origins.join() === row.origins.join()
          if (isSame) throw new Error(`needless: ${JSON.stringify(row)}`)
        }
      }
    }),
    { numRuns: 100 },
  )
  t.pass()
})

function textOf(group: ResolvedGroup): string {
  return JSON.stringify({
    ...group,
    rows: [...group.rows].sort(([a], [b]) => (a < b ? -1 : 1)),
    classes: [...group.classes].sort(([a], [b]) => (a < b ? -1 : 1)),
  })
}

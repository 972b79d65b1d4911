import test from 'ava'
import fc from 'fast-check'
import { PolicyEngine } from '#policy/engine.ts'
import type { PolicyRow, ResolvedGroup } from '#policy/resolved.ts'
import { isInAudit, judge, type RawDocument, type RawIdentity } from './naive.ts'
import { apply, document, ENDPOINTS, lookUp, Prefixes, probe, RESERVED, startEngine, subjectOf, verdictOf } from './world.ts'

/** Groups by identity, kept up to date by deltas as a reader of the engine keeps them. Nothing in a delta may be no news. */
class Reader {
  readonly groups = new Map<number, ResolvedGroup>()
  #revision = 0

  commit(engine: PolicyEngine): void {
    const { revision, changed, removed } = engine.commit()
    for (const id of removed) if (!this.groups.delete(id)) throw new Error(`removed but never told of: ${id}`)
    for (const group of changed) {
      const before = this.groups.get(group.group)
      const now = snapshot(group)
      if (before !== undefined && textOf(before) === textOf(now)) throw new Error(`told of without a change: ${group.group}`)
      checkChanges(before, now)
      this.groups.set(group.group, now)
    }
    const expected = changed.length + removed.length === 0 ? this.#revision : this.#revision + 1
    if (revision !== expected) throw new Error(`revision is ${revision}, not ${expected}`)
    this.#revision = revision
  }
}

/** The engine's maps are live. */
function snapshot(group: ResolvedGroup): ResolvedGroup {
  const classes = new Map([...group.classes].map(([key, peerClass]) => [key, { ...peerClass, rows: new Set(peerClass.rows) }]))
  return { ...group, rows: new Map(group.rows), classes, changedRows: new Set(group.changedRows) }
}

/** What a group says has changed is exactly what has, and classes know their rows. */
function checkChanges(before: ResolvedGroup | undefined, now: ResolvedGroup): void {
  for (const key of new Set([...(before?.rows.keys() ?? []), ...now.rows.keys()])) {
    const isSame = JSON.stringify(before?.rows.get(key)) === JSON.stringify(now.rows.get(key))
    if (isSame === now.changedRows.has(key)) throw new Error(`${key} is ${isSame ? 'not ' : ''}changed, and told of otherwise`)
  }
  for (const { key, rows } of now.classes.values()) {
    const actual = [...now.rows].filter(([, row]) => row.classKey === key).map(([rowKey]) => rowKey)
    if (actual.sort().join() !== [...rows].sort().join()) throw new Error(`rows of class ${key} are not its rows`)
  }
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
      for (const {
        subject,
        direction,
        traffic: { protocol, port },
      } of flows) {
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
    { numRuns: 300, includeErrorInReport: true },
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
            const { labels = [], namedPorts = [] } = ENDPOINTS[step.as] ?? {}
            // Its identity's, as its peers see it; the group's own stay.
            const relabelled = { ...endpoint, labels, namedPorts }
            if (!present.has(step.index)) continue
            engine.upsertIdentity(relabelled)
            present.set(step.index, relabelled)
          } else if (step.kind === 'join') {
            engine.upsertIdentity(endpoint)
            engine.addSubject(subjectOf(endpoint))
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
        fresh.addSubject(subjectOf(ENDPOINTS.find(({ id }) => id === endpoint.id) ?? endpoint))
      }
      freshReader.commit(fresh)
      const actual = [...reader.groups.values()].map(textOf).sort()
      const expected = [...freshReader.groups.values()].map(textOf).sort()
      if (JSON.stringify(actual) !== JSON.stringify(expected))
        throw new Error(`not the same:\n${actual.join('\n')}\n---\n${expected.join('\n')}`)
    }),
    { numRuns: 300, includeErrorInReport: true },
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
    { numRuns: 100, includeErrorInReport: true },
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
          const isSame =
            around.verdict === row.verdict &&
            around.audit === row.audit &&
            around.classKey === row.classKey &&
            around.origins.join() === row.origins.join()
          if (isSame) throw new Error(`needless: ${JSON.stringify(row)}`)
        }
      }
    }),
    { numRuns: 100, includeErrorInReport: true },
  )
  t.pass()
})

const BLUE = new Set(ENDPOINTS.filter(({ labels }) => labels.includes('k8s:io.kubernetes.pod.namespace=blue')).map(({ id }) => id))

/** The rows of all groups under these documents. */
function resolveAll(policies: readonly RawDocument[]): readonly ResolvedGroup[] {
  const engine = startEngine()
  const prefixes = new Prefixes()
  for (const raw of policies) apply(engine, raw.metadata.name, raw)
  prefixes.sync(engine)
  return engine.commit().changed
}

/** Whether a packet that meets the inner row would meet the outer one if there were no longer match. */
function covers(outer: PolicyRow, inner: PolicyRow): boolean {
  if (outer === inner || outer.direction !== inner.direction) return false
  if (outer.identity !== inner.identity && outer.identity !== 0) return false
  if (outer.protocol === 0) return true
  if (outer.protocol !== inner.protocol || outer.portPrefixLength > inner.portPrefixLength) return false
  return inner.port >> (16 - outer.portPrefixLength) === outer.port >> (16 - outer.portPrefixLength)
}

test('a longer row says what every row around it says: no deny is hidden, and no origin', (t) => {
  let pairs = 0
  fc.assert(
    fc.property(documents, (policies) => {
      for (const group of resolveAll(policies.filter((raw) => !isInAudit(raw)))) {
        const rows = [...group.rows.values()].filter(({ audit }) => !audit)
        for (const outer of rows) {
          for (const inner of rows) {
            if (!covers(outer, inner)) continue
            pairs += 1
            const both = JSON.stringify({ outer, inner })
            if (outer.explicitDeny && !inner.explicitDeny) throw new Error(`a deny is hidden: ${both}`)
            if (outer.verdict === 'deny' || inner.explicitDeny) continue
            if (inner.verdict === 'deny') throw new Error(`an allow is hidden: ${both}`)
            if (!outer.origins.every((origin) => inner.origins.includes(origin))) throw new Error(`an origin is hidden: ${both}`)
            if (outer.verdict === 'redirect' && inner.verdict !== 'redirect') throw new Error(`rules are hidden: ${both}`)
          }
        }
      }
    }),
    { numRuns: 100, includeErrorInReport: true },
  )
  t.log({ pairs })
  t.true(pairs > 100, `${pairs} pairs`)
})

test('where nothing switches default deny on, L7 rules deny only what a deny rule says', (t) => {
  let redirects = 0
  fc.assert(
    fc.property(documents, (policies) => {
      const open = policies.map((raw) => ({
        ...raw,
        specs: raw.specs.map((spec) => ({ ...spec, enableDefaultDeny: { ingress: false, egress: false } })),
      }))
      for (const group of resolveAll(open)) {
        for (const row of group.rows.values()) {
          if (row.verdict === 'deny' && !row.explicitDeny) throw new Error(`denied by nobody: ${JSON.stringify(row)}`)
          if (row.verdict !== 'redirect') continue
          redirects += 1
          if (group.classes.get(row.classKey ?? '')?.ruleset.allowAll !== true)
            throw new Error(`not all is allowed: ${JSON.stringify(row)}`)
        }
      }
    }),
    { numRuns: 150, includeErrorInReport: true },
  )
  t.log({ redirects })
  t.true(redirects > 50, `${redirects} redirects`)
})

test('an allow without L7 part takes the effect of L7 allow rules away wherever both hold', (t) => {
  let redirects = 0
  const plain: RawDocument = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'plain', namespace: 'blue' },
    specs: [{ endpointSelector: {}, ingress: [{ fromEndpoints: [{ matchLabels: { app: 'web' } }] }] }],
  }
  const withoutRequires = documents.filter((policies) => !/"(?:from|to)Requires"/.test(JSON.stringify(policies)))
  const web = ENDPOINTS[0] as RawIdentity
  fc.assert(
    fc.property(withoutRequires, (policies) => {
      for (const group of resolveAll([...policies, plain])) {
        for (const row of group.rows.values()) {
          const isOfBlue = BLUE.has(group.identity)
          if (!isOfBlue || row.direction !== 'ingress' || row.identity !== web.id) continue
          if (row.verdict === 'deny' && !row.explicitDeny) throw new Error(`not allowed: ${JSON.stringify(row)}`)
          if (row.verdict !== 'redirect') continue
          redirects += 1
          if (group.classes.get(row.classKey ?? '')?.ruleset.allowAll !== true)
            throw new Error(`L7 rules still count: ${JSON.stringify(row)}`)
        }
      }
    }),
    { numRuns: 300, includeErrorInReport: true },
  )
  t.log({ redirects })
  t.true(redirects > 20, `${redirects} redirects`)
})

function textOf(group: ResolvedGroup): string {
  return JSON.stringify({
    ...group,
    changedRows: [],
    rows: [...group.rows].sort(([a], [b]) => (a < b ? -1 : 1)),
    classes: [...group.classes].map(([key, { ruleset }]) => [key, ruleset]).sort(([a], [b]) => ((a as string) < (b as string) ? -1 : 1)),
  })
}

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { enforceable } from '#agent/datapath/enforceable.ts'
import { isSuperset, type Slot, SlotAllocator } from '#agent/datapath/slots.ts'
import type { PolicyDelta, ResolvedRuleset } from '#policy/resolved.ts'
import type { RawDocument } from '../policy/naive.ts'
import { apply, document, Prefixes, startEngine } from '../policy/world.ts'

/** Slots of groups, as policy is put in force step by step. */
class Allocation {
  /** Which slot each row leads to, by group and row. */
  readonly slots = new Map<string, Slot>()
  readonly #allocator: SlotAllocator

  constructor(folder: string) {
    this.#allocator = new SlotAllocator(folder, 20_000, 4_000)
  }

  take({ changed }: PolicyDelta): void {
    for (const resolved of changed) {
      const { group } = enforceable(resolved)
      const { byClass, orphans } = this.#allocator.assign(group, group.changedRows)
      for (const slot of orphans) this.#allocator.release(slot)
      for (const key of [...this.slots.keys()]) if (key.startsWith(`${group.group} `)) this.slots.delete(key)
      for (const [key, { classKey }] of group.rows) {
        const slot = classKey === undefined ? undefined : byClass.get(classKey)
        if (slot !== undefined) this.slots.set(`${group.group} ${key}`, slot)
      }
    }
    this.#allocator.save()
  }
}

/** Rows by the slot that they lead to, as id/generation. */
function rowsBySlot(slots: ReadonlyMap<string, Slot>): Map<string, string[]> {
  const rows = new Map<string, string[]>()
  for (const [key, { id, generation }] of slots) {
    const name = `${id}/${generation}`
    rows.set(name, [...(rows.get(name) ?? []), key])
  }
  return rows
}

/** Policies that only ever allow more, on top of whatever is there. */
const additive = document('extra')
  .filter((raw) => !/"(?:ingressDeny|egressDeny|kafka|serverNames|fromRequires|toRequires)"|"true"/.test(JSON.stringify(raw)))
  .map(
    (raw): RawDocument => ({
      ...raw,
      specs: raw.specs.map((spec) => ({ ...spec, enableDefaultDeny: { ingress: false, egress: false } })),
    }),
  )

function redPolicy(name: string, spec: RawDocument['specs'][number]): RawDocument {
  return { apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata: { name, namespace: 'red', annotations: {} }, specs: [spec] }
}

/** The rules of 10.0.0.0/8 become wider, but for a hole in it, which keeps those that there were. */
const NARROWER_PREFIX: [[RawDocument, RawDocument], RawDocument] = [
  [
    redPolicy('one', {
      endpointSelector: {},
      ingress: [{ fromCIDR: ['10.0.0.0/8'], toPorts: [{ ports: [{ port: '79', protocol: 'TCP' }], rules: { http: [{}] } }] }],
    }),
    redPolicy('two', { endpointSelector: {}, egress: [{}] }),
  ],
  redPolicy('extra', {
    endpointSelector: { matchLabels: { app: 'web' } },
    ingress: [{ fromCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.1.2.0/24'] }] }],
    enableDefaultDeny: { ingress: false, egress: false },
  }),
]

test('slots outlive policies that only add: what stays one class keeps its slot, and the slot allows no less', (t) => {
  let kept = 0
  const folder = mkdtempSync(join(tmpdir(), 'headgate-slots-'))
  fc.assert(
    fc.property(fc.tuple(document('one'), document('two')), additive, (base, extra) => {
      rmSync(folder, { recursive: true, force: true })
      const engine = startEngine()
      const prefixes = new Prefixes()
      const allocation = new Allocation(folder)
      for (const raw of base) apply(engine, raw.metadata.name, raw)
      prefixes.sync(engine)
      allocation.take(engine.commit())
      const before = new Map(allocation.slots)
      const rulesets = new Map<string, ResolvedRuleset>([...before].map(([key, { ruleset }]) => [key, ruleset]))

      apply(engine, 'extra', extra)
      prefixes.sync(engine)
      allocation.take(engine.commit())
      const after = rowsBySlot(allocation.slots)
      const slotsBefore = rowsBySlot(before)
      for (const [name, rows] of slotsBefore) {
        const now = new Set(rows.map((key) => allocation.slots.get(key)).map((slot) => (slot ? `${slot.id}/${slot.generation}` : '')))
        const [only = ''] = now
        if (now.size !== 1 || only === '') continue
        const ruleset = allocation.slots.get(rows[0] ?? '')?.ruleset
        const old = rulesets.get(rows[0] ?? '')
        if (ruleset === undefined || old === undefined || !isSuperset(ruleset, old)) throw new Error(`${rows.join(', ')}: less than before`)
        if (only !== name) {
          // Two that become one have one slot. And where a narrower prefix comes with the rules that its wider one had, the slot goes on for it.
          const isMerged = slotsBefore.has(only)
          const isInherited = after.get(name)?.every((key) => !before.has(key)) ?? false
          if (!isMerged && !isInherited) throw new Error(`the rows of ${name} lead to ${only}: ${rows.join(', ')}`)
          continue
        }
        kept += 1
      }
    }),
    {
      numRuns: 300,
      includeErrorInReport: true,
      examples: [NARROWER_PREFIX],
    },
  )
  rmSync(folder, { recursive: true, force: true })
  t.log({ kept })
  t.true(kept > 100, `${kept} slots`)
})

test('the same policies give the same slots after a restart, in whatever order they come', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-slots-'))
  fc.assert(
    fc.property(fc.tuple(document('one'), document('two')), (base) => {
      rmSync(folder, { recursive: true, force: true })
      // Identities of prefixes are on disk too: they are the same after a restart.
      const prefixes = new Prefixes()
      const slotsOf = (documents: readonly RawDocument[]) => {
        const engine = startEngine()
        for (const identity of prefixes.identities.values()) engine.upsertIdentity(identity)
        const allocation = new Allocation(folder)
        for (const raw of documents) apply(engine, raw.metadata.name, raw)
        prefixes.sync(engine)
        allocation.take(engine.commit())
        return [...allocation.slots].map(([key, { id, generation }]) => `${key} ${id}/${generation}`).sort()
      }
      const [before, after] = [slotsOf(base), slotsOf(base.toReversed())]
      if (before.join() !== after.join()) throw new Error(`${before.join('\n')}\n---\n${after.join('\n')}`)
    }),
    { numRuns: 100, includeErrorInReport: true },
  )
  rmSync(folder, { recursive: true, force: true })
  t.pass()
})

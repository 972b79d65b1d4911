import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { digestOfSlots } from '#api/digest.ts'
import { ApiError } from '#api/errors.ts'
import { type ProxyUpdate, ProxyUpdateSchema, type Slot } from '#api/gen/headgate/v1/control_pb.js'
import { SlotStore } from '#proxy/slot-store.ts'
import { slotOf } from './support/stack.ts'

const folder = mkdtempSync(join(tmpdir(), 'hg-store-'))
test.after.always(() => rmSync(folder, { recursive: true, force: true }))

function update(part: Partial<Omit<ProxyUpdate, '$typeName' | '$unknown'>>, after: readonly Slot[]): ProxyUpdate {
  return create(ProxyUpdateSchema, { epoch: 7n, revision: 1n, ...part, digest: digestOfSlots(after) })
}

const one = slotOf(1, { http: [{ name: 'a', path: '/a' }] })
const two = slotOf(2, { allowAll: true })

test('what is written is read back, and says what changed since', async (t) => {
  const path = join(folder, 'a/snapshot.bin')
  const store = new SlotStore(path)
  store.load()
  t.false(store.holdsEpoch)
  t.is(store.takeChange(), undefined)
  t.true(store.apply(update({ full: true, slots: [one, two] }, [one, two])))
  await store.persist()

  const next = new SlotStore(path)
  next.load()
  t.is(next.epoch, 7n)
  t.deepEqual(
    next.takeChange()?.changed.map(({ id }) => id),
    [1, 2],
  )
  t.true(next.apply(update({ revision: 2n, full: true, slots: [one] }, [one])))
  const change = next.takeChange()
  t.deepEqual([change?.revision, change?.changed, change?.removedIds], [2n, [], [2]])
})

test('deny rules and the shadow are kept, and a change of them is a change', async (t) => {
  const path = join(folder, 'deny.bin')
  const full = { http: [{ name: 'a', path: '/a' }], httpDeny: [{ name: 'd' }], shadow: { httpDeny: [{ name: 's' }] } }
  const store = new SlotStore(path)
  store.apply(update({ full: true, slots: [slotOf(1, full)] }, [slotOf(1, full)]))
  await store.persist()
  const next = new SlotStore(path)
  next.load()
  t.deepEqual(next.takeChange()?.changed, [slotOf(1, full)])
  for (const ruleset of [{ ...full, httpDeny: [{ name: 'e' }] }, { ...full, shadow: {} }, { http: full.http }]) {
    t.true(next.apply(update({ full: true, slots: [slotOf(1, ruleset)] }, [slotOf(1, ruleset)])))
    t.deepEqual(next.takeChange()?.changed, [slotOf(1, ruleset)])
  }
})

test('a delta that does not fit, of another epoch, or before there is anything changes nothing', (t) => {
  const store = new SlotStore(join(folder, 'b.bin'))
  t.false(store.apply(update({ slots: [one] }, [one])))
  t.true(store.apply(update({ full: true, slots: [one] }, [one])))
  t.false(store.apply(update({ revision: 2n, slots: [two] }, [two])))
  t.false(store.apply(update({ revision: 2n, epoch: 8n, slots: [two] }, [one, two])))
  t.is(store.revision, 1n)
  t.true(store.apply(update({ revision: 2n, slots: [two], removedSlotIds: [1] }, [two])))
  t.is(store.revision, 2n)
})

test('a damaged, foreign or newer copy stops the process with its path', async (t) => {
  const path = join(folder, 'c.bin')
  const store = new SlotStore(path)
  store.apply(update({ full: true, slots: [one] }, [one]))
  await store.persist()
  const whole = readFileSync(path)
  const damaged = Buffer.from(whole)
  damaged.writeUInt8(damaged.readUInt8(damaged.length - 1) ^ 1, damaged.length - 1)
  const newer = Buffer.from(whole)
  newer.writeUInt32BE(2, 4)
  for (const bytes of [damaged, newer, whole.subarray(0, 20), Buffer.from('hello'), Buffer.alloc(0)]) {
    writeFileSync(path, bytes)
    const error = t.throws(() => new SlotStore(path).load(), { instanceOf: ApiError })
    t.is(error?.code, 'HG-5904')
    t.true(error?.message.endsWith(path))
  }
})

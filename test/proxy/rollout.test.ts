import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import type { Slot } from '#api/gen/headgate/v1/control_pb.js'
import { ProxyError } from '#proxy/errors.ts'
import { Refusals } from '#proxy/refusals.ts'
import { Rollout } from '#proxy/rollout.ts'
import { slotName } from '#proxy/slot-name.ts'
import type { Snapshot } from '#proxy/xds/snapshot.ts'
import { EXTENSION_CONFIG_TYPE, LISTENER_TYPE, type TypeUrl } from '#proxy/xds/type-urls.ts'
import { slotOf } from './support/stack.ts'

const folder = mkdtempSync(join(tmpdir(), 'hg-rollout-'))
test.after.always(() => rmSync(folder, { recursive: true, force: true }))
let files = 0

class Bench {
  readonly refusals: Refusals
  snapshot: Snapshot | undefined
  readonly rollout: Rollout
  revision = 0n
  progress = 0

  constructor() {
    files += 1
    this.refusals = new Refusals(join(folder, `${files}.json`))
    this.rollout = new Rollout({
      settings: {
        ingressNetns: '/run/netns/i',
        denied: { status: 403, body: 'no' },
        accessLog: { mode: 'all', sampleRate: 1 },
        extHostSocket: '/run/ext-host.sock',
        l7Transport: 'relay',
        extProcKbps: 1024,
        relaySockets: ['/run/relay/0.sock'],
        extHostTimeoutMs: 1000,
        ruleCounters: false,
      },
      refusals: this.refusals,
      publish: (snapshot) => {
        this.snapshot = snapshot
      },
      onProgress: () => {
        this.progress += 1
      },
      onRefusal: () => {},
      onIgnored: () => {},
    })
  }

  change(changed: Slot[], removedIds: number[] = [], epoch = 1n): bigint {
    this.revision += 1n
    this.rollout.apply({ epoch, revision: this.revision, changed, removedIds })
    return this.revision
  }

  version(typeUrl: TypeUrl, slot: Slot): string {
    return this.snapshot?.get(typeUrl, slotName(slot))?.version ?? ''
  }

  acknowledge(typeUrl: TypeUrl, slot: Slot): void {
    this.rollout.acknowledged({ typeUrl, name: slotName(slot), version: this.version(typeUrl, slot) })
  }

  refuse(typeUrl: TypeUrl, slot: Slot, reason = 'bad'): void {
    this.rollout.refused([{ typeUrl, name: slotName(slot), version: this.version(typeUrl, slot) }], reason)
  }

  get applied(): bigint {
    return this.rollout.status().appliedRevision
  }
}

const node = { id: 'n', version: '1.40.0' }
const rule = (name: string) => ({ name, path: `/${name}` })

test('a revision is applied when its listener and its rules are acknowledged, not before', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { http: [rule('a')] })
  const first = bench.change([slot])
  t.is(bench.applied, 0n)
  bench.acknowledge(LISTENER_TYPE, slot)
  t.deepEqual(
    bench.rollout.status().listening.map(({ id }) => id),
    [1],
  )
  t.is(bench.applied, 0n)
  bench.acknowledge(EXTENSION_CONFIG_TYPE, slot)
  t.is(bench.applied, first)
})

test('an acknowledgement of an older version does not make the newer one applied', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { http: [rule('a')] })
  const first = bench.change([slot])
  bench.acknowledge(LISTENER_TYPE, slot)
  bench.acknowledge(EXTENSION_CONFIG_TYPE, slot)
  const older = { typeUrl: EXTENSION_CONFIG_TYPE, name: slotName(slot), version: bench.version(EXTENSION_CONFIG_TYPE, slot) } as const
  bench.change([slotOf(1, { http: [rule('b')] })])
  bench.rollout.acknowledged(older)
  t.is(bench.applied, first)
  bench.acknowledge(EXTENSION_CONFIG_TYPE, slot)
  t.is(bench.applied, 2n)
})

test('one slot that is not in force holds back the revision of its change, not those before', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const [one, two] = [slotOf(1, { allowAll: true }), slotOf(2, { allowAll: true })]
  bench.change([one])
  bench.change([two])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, two)
  t.is(bench.applied, 0n)
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, one)
  t.is(bench.applied, 2n)
})

test('a removal is applied when Envoy says so, and the rules stay until it lets go of them', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { allowAll: true })
  bench.change([slot])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slot)
  bench.change([], [1])
  t.is(bench.applied, 1n)
  t.is(bench.version(LISTENER_TYPE, slot), '')
  t.not(bench.version(EXTENSION_CONFIG_TYPE, slot), '')
  bench.rollout.acknowledged({ typeUrl: LISTENER_TYPE, name: slotName(slot), version: undefined })
  t.is(bench.applied, 2n)
  bench.rollout.unsubscribed(EXTENSION_CONFIG_TYPE, slotName(slot))
  t.is(bench.version(EXTENSION_CONFIG_TYPE, slot), '')
})

test('a listener that Envoy brings back and that is gone has to be taken away before the revision counts', (t) => {
  const bench = new Bench()
  bench.change([])
  t.is(bench.applied, 1n)
  bench.rollout.connected(node)
  bench.rollout.acknowledged({ typeUrl: LISTENER_TYPE, name: 'slot-9-1', version: 'x' })
  const slot = slotOf(1, { allowAll: true })
  bench.change([slot])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slot)
  t.is(bench.applied, 1n)
  bench.rollout.acknowledged({ typeUrl: LISTENER_TYPE, name: 'slot-9-1', version: undefined })
  t.is(bench.applied, 2n)
})

test('an Envoy that starts again takes nothing back from what was applied, and has to acknowledge what comes after', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { allowAll: true })
  bench.change([slot])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slot)
  bench.rollout.disconnected()
  t.false(bench.rollout.status().connected)
  bench.rollout.connected(node)
  t.is(bench.applied, 1n)
  t.deepEqual(bench.rollout.status().listening, [])
  bench.change([slotOf(2, { allowAll: true })])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slotOf(2, {}))
  t.is(bench.applied, 1n)
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slot)
  t.is(bench.applied, 2n)
})

test('revisions of another epoch start from nothing', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { allowAll: true })
  bench.revision = 41n
  bench.change([slot])
  for (const type of [LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const) bench.acknowledge(type, slot)
  t.is(bench.applied, 42n)
  bench.revision = 0n
  bench.change([slotOf(1, { http: [rule('a')] })], [], 2n)
  t.is(bench.applied, 0n)
  bench.acknowledge(EXTENSION_CONFIG_TYPE, slot)
  t.is(bench.applied, 1n)
})

test('a ruleset of which Envoy takes nothing ends with the listener on its own default', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { http: [rule('a'), rule('b')] })
  bench.change([slot])
  bench.acknowledge(LISTENER_TYPE, slot)
  for (let round = 0; round < 20 && bench.version(EXTENSION_CONFIG_TYPE, slot) !== ''; round++) bench.refuse(EXTENSION_CONFIG_TYPE, slot)
  t.is(bench.version(EXTENSION_CONFIG_TYPE, slot), '')
  bench.rollout.acknowledged({ typeUrl: EXTENSION_CONFIG_TYPE, name: slotName(slot), version: undefined })
  t.is(bench.applied, 1n)
  t.true(bench.rollout.status().refused.some((one) => one.rule === ''))
})

test('nothing that was refused is published again, under another slot or after a restart', (t) => {
  const bench = new Bench()
  bench.rollout.connected(node)
  const slot = slotOf(1, { http: [rule('a')] })
  bench.change([slot])
  bench.acknowledge(LISTENER_TYPE, slot)
  const refusedVersion = bench.version(EXTENSION_CONFIG_TYPE, slot)
  bench.refuse(EXTENSION_CONFIG_TYPE, slot, 'why')
  t.not(bench.version(EXTENSION_CONFIG_TYPE, slot), refusedVersion)
  const other = slotOf(2, { http: [rule('a'), rule('b')] })
  bench.change([other])
  t.deepEqual(
    bench.rollout
      .status()
      .refused.filter(({ slotId }) => slotId === 2)
      .map(({ rule, reason }) => [rule, reason]),
    [['a', 'why']],
  )

  const later = new Refusals(join(folder, `${files}.json`))
  later.load()
  t.is(later.size, bench.refusals.size)
  t.false(later.useVersion('1.40.0'))
  t.true(later.useVersion('1.41.0'))
  t.is(later.size, 0)
})

test('a damaged list of refusals stops the process with its path', (t) => {
  const path = join(folder, 'damaged.json')
  writeFileSync(path, '{"version": 2}')
  const error = t.throws(() => new Refusals(path).load(), { instanceOf: ProxyError })
  t.is(error?.code, 'HG-5001')
  t.true(error?.message.includes(path))
})

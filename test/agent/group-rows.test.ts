import test from 'ava'
import fc from 'fast-check'
import { GroupRows, type WantedRow } from '#agent/datapath/group-rows.ts'
import { DIRECTION_EGRESS, DIRECTION_INGRESS, type PolicyKey, type PolicyValue, VERDICT_ALLOW, VERDICT_DENY } from '#bpf/gen/abi.ts'
import type { PolicyRowsMap } from '#bpf/maps.ts'
import { blockStart } from '#policy/blocks.ts'
import { PolicyEngine } from '#policy/engine.ts'
import { DIRECTIONS, type Direction, type PolicyRow, type ResolvedGroup, rowKey } from '#policy/resolved.ts'
import { apply, document, ENDPOINTS, Prefixes, RESERVED, subjectOf } from '../policy/world.ts'

const ENFORCED = { ingress: true, egress: true }

/** As the kernel's map, which finds the longest row; `onWrite` sees it after each single change. */
class FakeMap {
  readonly rows = new Map<string, { key: PolicyKey; value: PolicyValue }>()
  onWrite: () => unknown = () => {};

  *keys(): Generator<PolicyKey> {
    for (const { key } of this.rows.values()) yield key
  }

  get(key: PolicyKey): PolicyValue | undefined {
    return this.rows.get(JSON.stringify(key))?.value
  }

  set(key: PolicyKey, value: PolicyValue): void {
    this.rows.set(JSON.stringify(key), { key, value })
    this.onWrite()
  }

  delete(key: PolicyKey): boolean {
    const had = this.rows.delete(JSON.stringify(key))
    this.onWrite()
    return had
  }

  /** bpf/src/policy.h: the peer's longest row, else the longest of any peer. */
  verdict(direction: Direction, identity: number, protocol: number, port: number): number {
    const number = direction === 'ingress' ? DIRECTION_INGRESS : DIRECTION_EGRESS
    for (const peer of [identity, 0]) {
      const found = [...this.rows.values()]
        .filter(({ key }) => {
          if (key.direction !== number || key.identity !== peer || (key.prefixLength > 40 && key.protocol !== protocol)) return false
          const bits = key.prefixLength - 48
          return bits <= 0 || blockStart(port, bits) === key.port
        })
        .sort((a, b) => b.key.prefixLength - a.key.prefixLength)[0]
      if (found !== undefined) return found.value.verdict
    }
    return VERDICT_DENY
  }
}

const documents = fc.tuple(document('one'), document('two'), document('three')).chain((all) => fc.subarray(all, { minLength: 1 }))

/** How much a verdict lets through. */
const width = (verdict: number): number => (verdict === VERDICT_DENY ? 0 : verdict === VERDICT_ALLOW ? 2 : 1)

const PACKETS = [79, 80, 81, 443, 8080].flatMap((port) => [6, 17].map((protocol) => [protocol, port] as const))

function wantedOf(group: ResolvedGroup | undefined): Map<string, WantedRow> {
  const slot = { port: 20000, generation: 1 }
  return new Map(
    [...(group?.rows ?? [])].map(([key, row]) => [key, { row, cookie: 0, slot: row.verdict === 'redirect' ? slot : undefined }]),
  )
}

/** As the whole of what is wanted. */
function want(rows: GroupRows, wanted: ReadonlyMap<string, WantedRow>): void {
  for (const key of new Set([...rows.wantedKeys(), ...wanted.keys()])) rows.want(key, wanted.get(key))
}

test('on the way from one policy to another, every packet meets one of the two', (t) => {
  fc.assert(
    fc.property(documents, documents, fc.nat(ENDPOINTS.length - 1), (before, after, index) => {
      const engine = new PolicyEngine()
      const prefixes = new Prefixes()
      for (const endpoint of ENDPOINTS) engine.upsertIdentity(endpoint)
      const endpoint = ENDPOINTS[index]
      if (endpoint !== undefined) engine.addSubject(subjectOf(endpoint))
      const map = new FakeMap()
      const rows = new GroupRows(map as unknown as PolicyRowsMap, ENFORCED)
      const [old, wanted] = [before, after].map((raws) => {
        for (const name of ['one', 'two', 'three']) engine.removeFile(name)
        for (const raw of raws) apply(engine, raw.metadata.name, raw)
        prefixes.sync(engine)
        return engine.commit().changed[0]
      })
      want(rows, wantedOf(old))
      rows.step(() => 'ready', false)
      if (wanted === undefined) return
      const peers = [...ENDPOINTS, ...RESERVED, ...prefixes.identities.values()].map(({ id }) => id)
      const directions = DIRECTIONS.filter((direction) => old?.enforced[direction] && wanted.enforced[direction])
      const packets = directions.flatMap((direction) =>
        peers.flatMap((peer) => PACKETS.map((packet) => [direction, peer, ...packet] as const)),
      )
      const verdicts = (of: FakeMap): number[] => packets.map((packet) => width(of.verdict(...packet)))
      const target = new FakeMap()
      const fresh = new GroupRows(target as unknown as PolicyRowsMap, ENFORCED)
      want(fresh, wantedOf(wanted))
      fresh.step(() => 'ready', false)
      const [start, end] = [verdicts(map), verdicts(target)]
      map.onWrite = () => {
        for (const [at, now] of verdicts(map).entries()) {
          if (now !== start[at] && now !== end[at]) throw new Error(`${packets[at]}: ${start[at]}, then ${now}, then ${end[at]}`)
        }
      }
      want(rows, wantedOf(wanted))
      rows.step(() => 'ready', false)
      t.deepEqual([...map.rows.keys()].sort(), [...target.rows.keys()].sort())
      for (const [direction, identity, protocol, port] of packets) {
        t.is(rows.lookup(direction, { identity, selectors: [] }, protocol, port).verdict, map.verdict(direction, identity, protocol, port))
      }
    }),
    { numRuns: 500 },
  )
})

test('a redirect of a peer does not hide a deny for any peer before the peer’s own deny is there', (t) => {
  const rowAt = (identity: number, port: number, portPrefixLength: number, verdict: PolicyRow['verdict']): [string, WantedRow] => {
    const block = { direction: 'ingress', identity, protocol: 6, port, portPrefixLength } as const
    const slot = verdict === 'redirect' ? { port: 20000, generation: 1 } : undefined
    return [rowKey(block), { row: { ...block, verdict, explicitDeny: false, audit: false, origins: [] }, cookie: 0, slot }]
  }
  const map = new FakeMap()
  const rows = new GroupRows(map as unknown as PolicyRowsMap, ENFORCED)
  const before = [rowAt(0, 0, 0, 'allow'), rowAt(0, 80, 16, 'deny')]
  want(rows, new Map(before))
  rows.step(() => 'ready', false)
  const seen = new Set<number>()
  map.onWrite = () => seen.add(map.verdict('ingress', 300, 6, 80))
  want(rows, new Map([...before, rowAt(300, 80, 12, 'redirect'), rowAt(300, 80, 16, 'deny')]))
  rows.step(() => 'ready', false)
  t.deepEqual([...seen], [VERDICT_DENY])
})

test('thousands of listeners’ rows are compared in less than their square', (t) => {
  const at = (first: number): Map<string, WantedRow> =>
    new Map(
      Array.from({ length: 8000 }, (_, index) => {
        const block = { direction: 'ingress', identity: 300, protocol: 6, port: first + index * 4, portPrefixLength: 16 } as const
        const row = { ...block, verdict: 'redirect', explicitDeny: false, audit: false, origins: [] } as const
        return [rowKey(block), { row, cookie: 0, slot: { port: 20000, generation: 1 } }]
      }),
    )
  const rows = new GroupRows(new FakeMap() as unknown as PolicyRowsMap, ENFORCED)
  const started = performance.now()
  for (const first of [1, 2, 3]) {
    want(rows, at(first))
    rows.step(() => 'ready', false)
  }
  const ms = performance.now() - started
  t.true(ms < 3000, `${ms} ms`)
})

import { create } from '@bufbuild/protobuf'
import test from 'ava'
import fc from 'fast-check'
import { type NameSelector, NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import {
  type ConstructorOptions,
  DEFAULT_LIMITS,
  LearnedNames,
  type LearnedNamesSettings,
  type TaughtClaim,
} from '#dns-proxy/learned-names.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { FakeMaps } from './fake-maps.ts'

const SETTINGS: LearnedNamesSettings = { minTtlSeconds: 0, addressesOfNameMax: 1000, zombiesMax: 10_000, graceSeconds: 0 }

function selector(id: number, rule: { matchName?: string; matchPattern?: string }): NameSelector {
  return create(NameSelectorSchema, { id, ...rule })
}

const A = selector(101, { matchName: 'a.test.' })
const B = selector(102, { matchName: 'b.test.' })
const ALL = selector(103, { matchPattern: '*.test.' })

interface Scene {
  readonly fake: FakeMaps
  readonly names: LearnedNames
  /** In seconds since the start. */
  learn(name: string | readonly string[], address: string, ttlSeconds: number, atSeconds?: number, endpointId?: number): string
  /** A step, and a whole look at conntrack, if one is due. */
  pass(atSeconds: number): void
  come(...selectors: NameSelector[]): void
  go(...selectors: NameSelector[]): void
}

function scene(
  settings: Partial<LearnedNamesSettings> = {},
  selectors: readonly NameSelector[] = [A, B],
  options: Partial<ConstructorOptions> & { fake?: FakeMaps } = {},
): Scene {
  const { fake = new FakeMaps(), ...rest } = options
  const names = new LearnedNames(fake.maps, { ...SETTINGS, ...settings }, { nowMs: 0, ...rest })
  names.changeSelectors({ gone: [], come: selectors })
  return {
    fake,
    names,
    learn: (name, address, ttlSeconds, atSeconds = 0, endpointId = 0) =>
      names.learn(endpointId, typeof name === 'string' ? [name] : name, addressToBytes(address), ttlSeconds, atSeconds * 1000),
    pass: (atSeconds) => pass(names, atSeconds),
    come: (...come) => names.changeSelectors({ gone: [], come }),
    go: (...gone) => names.changeSelectors({ gone, come: [] }),
  }
}

function pass(names: LearnedNames, atSeconds: number): void {
  while (!names.expire(atSeconds * 1000));
  const look = names.beginLook(atSeconds * 1000)
  if (look === undefined) return
  while (!look.step());
  while (!names.endLook(look, atSeconds * 1000));
}

test('only names that a selector matches are kept, and an address belongs to every such name of its chain', (t) => {
  const { fake, names, learn } = scene()
  t.is(learn('other.test.', '1.1.1.1', 60), 'not selected')
  t.is(names.nameCount, 0)
  t.is(learn(['a.test.', 'cdn.net.', 'b.test.'], '1.1.1.1', 60), 'learned')
  t.is(names.nameCount, 2)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102] })
})

test('an address without connections goes when two looks have not seen it', (t) => {
  const { fake, names, learn, pass } = scene()
  learn('a.test.', '1.1.1.1', 60)
  pass(59)
  t.is(names.zombieCount, 0)
  pass(60)
  t.is(names.zombieCount, 1)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101] }, 'one look is not enough')
  const { revision } = fake
  pass(61)
  t.deepEqual(fake.rows(), {})
  t.is(names.nameCount, 0)
  t.is(names.totals.expiredCount, 1)
  t.is(fake.revision, revision + 1, 'connections are judged again')
})

test('an address stays while it has a connection, and a look that sees one begins the count anew', (t) => {
  const { fake, learn, pass } = scene()
  learn('a.test.', '1.1.1.1', 60)
  fake.connect('1.1.1.1')
  for (const at of [60, 61, 62, 1000]) pass(at)
  fake.disconnect('1.1.1.1')
  pass(1001)
  fake.connect('1.1.1.1')
  pass(1002)
  fake.disconnect('1.1.1.1')
  pass(1003)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101] })
  pass(1004)
  t.deepEqual(fake.rows(), {})
})

test('what one endpoint knows stays for the connections of that endpoint only', (t) => {
  const { fake, learn, pass } = scene()
  learn('a.test.', '1.1.1.1', 60, 0, 7)
  learn('a.test.', '1.1.1.2', 60, 0, 7)
  fake.connect('1.1.1.1', 8)
  fake.connect('1.1.1.2', 7)
  pass(60)
  pass(61)
  t.deepEqual(fake.rows(), { '7/1.1.1.2': [101] })
})

test('a connection keeps the name that ran out, beside one that did not', (t) => {
  const { fake, learn, pass } = scene()
  learn('a.test.', '1.1.1.1', 60)
  learn('b.test.', '1.1.1.1', 600)
  fake.connect('1.1.1.1')
  pass(100)
  pass(101)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102] })
  fake.disconnect('1.1.1.1')
  pass(102)
  pass(103)
  t.deepEqual(fake.rows(), { '1.1.1.1': [102] })
})

test('a name that is answered again is no zombie any more', (t) => {
  const { names, learn, pass, fake } = scene()
  learn('a.test.', '1.1.1.1', 60)
  pass(60)
  learn('a.test.', '1.1.1.1', 60, 61)
  t.is(names.zombieCount, 0)
  pass(62)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101] })
  learn('a.test.', '1.1.1.1', 1, 63)
  pass(120)
  t.is(names.zombieCount, 0, 'a shorter answer does not take back the longer one')
})

test('tofqdnsMinTtl is a floor', (t) => {
  const { fake, learn, pass } = scene({ minTtlSeconds: 100 })
  learn('a.test.', '1.1.1.1', 5)
  learn('b.test.', '1.1.1.2', 200)
  pass(99)
  pass(100)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101], '1.1.1.2': [102] })
  pass(101)
  t.deepEqual(fake.rows(), { '1.1.1.2': [102] })
})

test('tofqdnsIdleConnectionGracePeriodSeconds counts from the end of the answer', (t) => {
  const { fake, learn, pass } = scene({ graceSeconds: 30 })
  learn('a.test.', '1.1.1.1', 60)
  for (const at of [60, 70, 80, 89]) pass(at)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101] })
  pass(90)
  pass(91)
  t.deepEqual(fake.rows(), {})
})

test('tofqdnsEndpointMaxIpPerHostname: the address goes that runs out first, never the latest', (t) => {
  const { fake, names, learn } = scene({ addressesOfNameMax: 2 })
  learn('a.test.', '1.1.1.1', 100)
  learn('a.test.', '1.1.1.2', 50)
  learn('a.test.', '1.1.1.3', 10)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101], '1.1.1.3': [101] })
  t.is(names.totals.claimsDisplacedCount, 1)
  learn('a.test.', '1.1.1.4', 10, 0, 7)
  t.deepEqual(Object.keys(fake.rows()), ['1.1.1.1', '1.1.1.3', '7/1.1.1.4'], 'what one endpoint was told displaces nothing of everybody')
})

test('tofqdnsMaxDeferredConnectionDeletes: the zombies go that ran out first, connections or not', (t) => {
  const { fake, names, learn, pass } = scene({ zombiesMax: 2 })
  for (const [address, ttlSeconds] of [
    ['1.1.1.1', 30],
    ['1.1.1.2', 10],
    ['1.1.1.3', 20],
  ] as const) {
    learn('a.test.', address, ttlSeconds)
    fake.connect(address)
  }
  pass(100)
  t.deepEqual(Object.keys(fake.rows()), ['1.1.1.1', '1.1.1.3'])
  t.is(names.totals.zombiesEvictedCount, 1)
})

test('a row has the selectors with the lowest numbers, whatever came first, and the lesson says when there are more', (t) => {
  const selectors = Array.from({ length: 10 }, (_, index) => selector(200 - index, { matchName: `n${index}.test.` }))
  const { fake, names, learn } = scene({}, selectors)
  const lessons = selectors.map((_, index) => learn(`n${index}.test.`, '1.1.1.1', 60))
  t.deepEqual(lessons, [...Array.from({ length: 8 }, () => 'learned'), 'selectors cut', 'selectors cut'])
  t.deepEqual(fake.rows(), { '1.1.1.1': [191, 192, 193, 194, 195, 196, 197, 198] })
  t.is(names.totals.selectorsCutCount, 2)
  names.changeSelectors({ gone: selectors.slice(8), come: [] })
  t.deepEqual(fake.rows(), { '1.1.1.1': [193, 194, 195, 196, 197, 198, 199, 200] }, 'what was cut comes back')
})

test('a selector that denies is in the row whatever its number, and one that begins to deny comes in', (t) => {
  const many = Array.from({ length: 9 }, (_, index) => selector(101 + index, { matchName: `n${index}.test.` }))
  const denying = { ...selector(300, { matchName: 'deny.test.' }), denies: true }
  const { fake, names, learn } = scene({}, [...many, denying])
  for (let index = 0; index < 9; index++) learn(`n${index}.test.`, '1.1.1.1', 60)
  t.is(learn('deny.test.', '1.1.1.1', 60), 'selectors cut')
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102, 103, 104, 105, 106, 107, 300] })
  const [last] = many.slice(-1) as [NameSelector]
  names.changeSelectors({ gone: [last], come: [{ ...last, denies: true }] })
  learn('n8.test.', '1.1.1.1', 60)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102, 103, 104, 105, 106, 109, 300] })
})

test('selectors that come and go change the rows of their own names only', (t) => {
  const { fake, names, learn, come, go } = scene({}, [A, B, ALL])
  for (let index = 0; index < 1000; index++) learn(`x${index}.test.`, `2.0.${index >> 8}.${index & 255}`, 60)
  learn('a.test.', '1.1.1.1', 60)
  learn('b.test.', '1.1.1.2', 60)
  const before = fake.learned.writeCount
  go(A)
  t.deepEqual(fake.rows()['1.1.1.1'], [103])
  const other = selector(104, { matchPattern: 'a*.test.' })
  come(other)
  t.deepEqual(fake.rows()['1.1.1.1'], [103, 104])
  t.is(fake.learned.writeCount, before + 2)
  t.deepEqual(
    names.selectors().map(({ id, nameCount, addressCount }) => [id, nameCount, addressCount]),
    [
      [102, 1, 1],
      [103, 1001, 1001],
      [104, 1, 1],
    ],
  )
  go(ALL, other)
  t.deepEqual(fake.rows(), { '1.1.1.2': [102] })
  t.is(names.nameCount, 1)
})

test('without room an address is not learned, unless a zombie can make some', (t) => {
  const limits = { ...DEFAULT_LIMITS, addressesMax: 2 }
  const { fake, names, learn, pass } = scene({}, [A, B], { limits })
  learn('a.test.', '1.1.1.1', 60)
  learn('a.test.', '1.1.1.2', 100)
  t.is(learn('a.test.', '1.1.1.3', 100), 'no room')
  t.is(learn('b.test.', '1.1.1.2', 100), 'learned')
  t.is(names.totals.addressesRefusedCount, 1)
  fake.connect('1.1.1.1')
  pass(60)
  t.is(learn('a.test.', '1.1.1.3', 100, 61), 'learned')
  t.deepEqual(Object.keys(fake.rows()), ['1.1.1.2', '1.1.1.3'])
})

test('a full map of the kernel is no room either, and nothing is left of the attempt', (t) => {
  const { names, learn } = scene({}, [A, B], { fake: new FakeMaps(1) })
  learn('a.test.', '1.1.1.1', 60)
  t.is(learn('b.test.', '1.1.1.2', 60), 'no room')
  t.is(names.addressCount, 1)
  t.is(names.nameCount, 1)
})

test('names are limited as a whole and for each address; a name goes whose selectors others still have', (t) => {
  const limits = { ...DEFAULT_LIMITS, namesOfAddressMax: 3, namesMax: 5 }
  const { fake, names, learn } = scene({}, [A, ALL], { limits })
  learn('a.test.', '1.1.1.1', 1)
  for (const name of ['x1.test.', 'x2.test.', 'x3.test.', 'x4.test.']) learn(name, '1.1.1.1', 1000)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 103] }, 'the exact name is still there')
  t.is(names.nameCount, 3)
  t.is(learn('y1.test.', '1.1.1.2', 60), 'learned')
  t.is(learn('y2.test.', '1.1.1.3', 60), 'learned')
  t.is(learn('y3.test.', '1.1.1.4', 60), 'no room')
  t.is(names.addressCount, 3)
})

test('one endpoint has its own limit of addresses', (t) => {
  const { learn } = scene({}, [ALL], { limits: { ...DEFAULT_LIMITS, addressesOfEndpointMax: 1 } })
  t.is(learn('a.test.', '1.1.1.1', 60, 0, 7), 'learned')
  t.is(learn('a.test.', '1.1.1.2', 60, 0, 7), 'no room')
  t.is(learn('a.test.', '1.1.1.2', 60, 0, 8), 'learned')
  t.is(learn('a.test.', '1.1.1.2', 60), 'learned')
})

test('forgotten names take their rows along at once', (t) => {
  const { fake, names, learn } = scene({}, [A, B])
  learn(['a.test.', 'b.test.'], '1.1.1.1', 60)
  learn('a.test.', '1.1.1.2', 60)
  const { revision } = fake
  t.is(
    names.forget((name) => name === 'a.test.'),
    1,
  )
  t.deepEqual(fake.rows(), { '1.1.1.1': [102] })
  t.is(fake.revision, revision + 1, 'once for all of them')
})

test('rows of an earlier process stay for five minutes, by the selectors that there still are', (t) => {
  const fake = new FakeMaps()
  fake.put('1.1.1.1', [101, 999])
  fake.put('1.1.1.2', [999])
  fake.put('1.1.1.3', [101], 7)
  const { names, pass } = scene({}, [A, B], { fake })
  t.deepEqual(fake.rows(), { '1.1.1.1': [101], '7/1.1.1.3': [101] })
  t.is(fake.revision, 1)
  t.deepEqual(
    [...names.known()].map(({ name }) => name),
    ['', ''],
  )
  pass(299)
  pass(300)
  t.is(Object.keys(fake.rows()).length, 2)
  pass(301)
  t.deepEqual(fake.rows(), {})
  const other = new FakeMaps()
  other.put('1.1.1.1', [101, 102])
  const again = scene({}, [A, B], { fake: other })
  again.go(A)
  t.deepEqual(other.rows(), { '1.1.1.1': [102] })
})

test('names of an earlier process are known again, with what their rows have beside them', (t) => {
  const fake = new FakeMaps()
  fake.put('1.1.1.1', [101, 102])
  fake.put('1.1.1.2', [101])
  const kept = [
    { endpointId: 0, address: addressToBytes('1.1.1.1'), name: 'a.test.', expiresMs: 1_000_000 },
    { endpointId: 0, address: addressToBytes('1.1.1.3'), name: 'b.test.', expiresMs: 1_000_000 },
    { endpointId: 0, address: addressToBytes('1.1.1.4'), name: 'gone.test.', expiresMs: 1_000_000 },
    { endpointId: 0, address: addressToBytes('1.1.1.2'), name: '', expiresMs: 100_000 },
    { endpointId: 0, address: addressToBytes('1.1.1.5'), name: '', expiresMs: 100_000 },
  ]
  const { pass } = scene({}, [A, B], { fake, kept })
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102], '1.1.1.2': [101], '1.1.1.3': [102] })
  pass(100)
  pass(101)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102], '1.1.1.3': [102] }, 'what was unknown before does not begin anew')
  pass(300)
  pass(301)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101], '1.1.1.3': [102] })
})

test('a new pattern finds the names that it matches among those that are known', (t) => {
  const { fake, learn, come, go } = scene({}, [selector(200, { matchPattern: '*' })])
  for (const name of ['a.test.', 'ab.test.', 'x.ab.test.', 'test.', 'b.a.other.']) learn(name, '1.1.1.1', 60)
  const matchedBy = (matchPattern: string): string[] => {
    come(selector(7, { matchPattern }))
    const isFound = fake.rows()['1.1.1.1']?.includes(7)
    go(selector(7, { matchPattern }))
    t.deepEqual(fake.rows(), { '1.1.1.1': [200] })
    return isFound ? [matchPattern] : []
  }
  for (const pattern of ['a*.test', '*b.test', '**.ab.test', 'test', '*', '**', '*.*.other.', 'b.*.other'])
    t.deepEqual(matchedBy(pattern), [pattern])
})

test('a pattern that matches no known name changes no row', (t) => {
  const { fake, learn, come } = scene({}, [selector(200, { matchPattern: '**' })])
  for (const name of ['a.test.', 'x.ab.test.']) learn(name, '1.1.1.1', 60)
  for (const [index, matchPattern] of ['b*.test', '**.b.test', 'ab.test', '*.a.test', 'a.test*.x'].entries())
    come(selector(index + 1, { matchPattern }))
  t.deepEqual(fake.rows(), { '1.1.1.1': [200] })
})

const NAMES = ['a.test.', 'b.test.', 'c.test.', 'a.other.']
const SELECTORS = [A, B, ALL, selector(104, { matchPattern: '**.other.' }), selector(105, { matchPattern: '*' })]
const ADDRESSES = ['1.1.1.1', '1.1.1.2', '1.1.1.3']

type Step =
  | { do: 'learn'; name: number; address: number; ttl: number; scope: number }
  | { do: 'pass'; seconds: number }
  | { do: 'connect'; address: number }
  | { do: 'disconnect'; address: number }
  | { do: 'come'; selector: number }
  | { do: 'go'; selector: number }

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('learn' as const),
    name: fc.nat(NAMES.length - 1),
    address: fc.nat(ADDRESSES.length - 1),
    ttl: fc.integer({ min: 0, max: 20 }),
    scope: fc.constantFrom(0, 0, 1),
  }),
  fc.record({ do: fc.constant('pass' as const), seconds: fc.integer({ min: 0, max: 12 }) }),
  fc.record({ do: fc.constant('connect' as const), address: fc.nat(ADDRESSES.length - 1) }),
  fc.record({ do: fc.constant('disconnect' as const), address: fc.nat(ADDRESSES.length - 1) }),
  fc.record({ do: fc.constant('come' as const), selector: fc.nat(SELECTORS.length - 1) }),
  fc.record({ do: fc.constant('go' as const), selector: fc.nat(SELECTORS.length - 1) }),
)

/** The same, by walking over everything at each step. */
class Naive {
  claims: { scope: number; name: string; address: string; expires: number }[] = []
  readonly missed = new Map<string, number>()
  readonly selectors = new Set<NameSelector>()
  readonly connected = new Set<string>()
  now = 0

  matching(name: string): number[] {
    const tests: Record<number, boolean> = {
      101: name === 'a.test.',
      102: name === 'b.test.',
      103: name.endsWith('.test.'),
      104: name.endsWith('.other.'),
      105: true,
    }
    const matching = [...this.selectors].map(({ id }) => id).filter((id) => tests[id])
    // Rules for a name alone have those for patterns in them.
    const exact = matching.filter((id) => id === 101 || id === 102)
    return exact.length > 0 ? exact : matching
  }

  rows(): Record<string, number[]> {
    const rows: Record<string, number[]> = {}
    for (const { scope, address, name } of this.claims) {
      const key = scope === 0 ? address : `${scope}/${address}`
      rows[key] = [...new Set([...(rows[key] ?? []), ...this.matching(name)])].sort()
    }
    return Object.fromEntries(Object.entries(rows).sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  run(step: Step): void {
    if (step.do === 'learn') {
      const [name, address] = [NAMES[step.name] as string, ADDRESSES[step.address] as string]
      if (this.matching(name).length === 0) return
      const same = this.claims.find((claim) => claim.scope === step.scope && claim.name === name && claim.address === address)
      const expires = this.now + step.ttl
      if (same === undefined) this.claims.push({ scope: step.scope, name, address, expires })
      else same.expires = Math.max(same.expires, expires)
      if (!this.#hasExpired(step.scope, address)) this.missed.delete(`${step.scope}/${address}`)
    } else if (step.do === 'pass') {
      this.now += step.seconds
      for (const key of new Set(this.claims.map(({ scope, address }) => `${scope}/${address}`))) {
        const [scope = '', address = ''] = key.split('/')
        if (!this.#hasExpired(Number(scope), address)) this.missed.delete(key)
        else if (this.connected.has(address)) this.missed.set(key, 0)
        else this.missed.set(key, (this.missed.get(key) ?? 0) + 1)
        if ((this.missed.get(key) ?? 0) < 2) continue
        this.missed.delete(key)
        this.claims = this.claims.filter(
          (claim) => !(claim.scope === Number(scope) && claim.address === address && claim.expires <= this.now),
        )
      }
    } else if (step.do === 'connect') this.connected.add(ADDRESSES[step.address] as string)
    else if (step.do === 'disconnect') this.connected.delete(ADDRESSES[step.address] as string)
    else {
      const changed = SELECTORS[step.selector] as NameSelector
      if (step.do === 'come') this.selectors.add(changed)
      else this.selectors.delete(changed)
      this.claims = this.claims.filter(({ name }) => this.matching(name).length > 0)
      for (const key of this.missed.keys()) {
        const [scope, address] = key.split('/')
        if (!this.claims.some((claim) => claim.scope === Number(scope) && claim.address === address)) this.missed.delete(key)
      }
    }
  }

  /** A claim that ran out between passes is noticed by the next. */
  #hasExpired(scope: number, address: string): boolean {
    return this.claims.some((claim) => claim.scope === scope && claim.address === address && claim.expires <= this.now)
  }
}

test('the kernel has the rows that a walk over everything would give, after any steps', (t) => {
  const property = fc.property(fc.array(stepArbitrary, { maxLength: 60 }), (steps) => {
    const naive = new Naive()
    const { fake, learn, names, pass } = scene({}, [])
    for (const step of steps) {
      naive.run(step)
      if (step.do === 'learn') learn(NAMES[step.name] as string, ADDRESSES[step.address] as string, step.ttl, naive.now, step.scope)
      else if (step.do === 'pass') pass(naive.now)
      else if (step.do === 'connect' || step.do === 'disconnect') fake[step.do](ADDRESSES[step.address] as string)
      else {
        const changed = [SELECTORS[step.selector] as NameSelector]
        const has = names.selectors().some(({ id }) => id === changed[0]?.id)
        if (step.do === 'come' && !has) names.changeSelectors({ gone: [], come: changed })
        if (step.do === 'go') names.changeSelectors({ gone: changed, come: [] })
      }
      t.deepEqual(fake.rows(), naive.rows())
      if (names.addressCount !== Object.keys(fake.rows()).length) throw new Error('an address without a row')
    }
  })
  fc.assert(property, { numRuns: 300 })
  t.pass()
})

test('an answer that comes again renews its claims, and a claim that went has to be learned anew', (t) => {
  const { fake, names, learn, pass } = scene()
  const taught: TaughtClaim[] = []
  names.learn(0, ['a.test.', 'b.test.'], addressToBytes('1.1.1.1'), 60, 0, taught)
  t.is(taught.length, 2)
  pass(61)
  t.is(names.zombieCount, 1)
  t.true(names.renew(taught, 61_000))
  t.is(names.zombieCount, 0)
  pass(120)
  pass(121)
  t.deepEqual(fake.rows(), { '1.1.1.1': [101, 102] }, 'for another minute')
  names.forget((name) => name === 'b.test.')
  t.false(names.renew(taught, 121_000))
  t.is(names.zombieCount, 1, 'the other one was not renewed either')
  t.is(learn(['a.test.', 'b.test.'], '1.1.1.1', 60, 122), 'learned')
  t.is(names.zombieCount, 0)
})

import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import { decodeJournal, encodeHeader, FrameWriter, type JournalRecord } from '#dns-proxy/journal-format.ts'
import { LearnedNames } from '#dns-proxy/learned-names.ts'
import { type JournalClock, NamesJournal, readJournal } from '#dns-proxy/names-journal.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { FakeMaps } from './fake-maps.ts'

const BOOT = Buffer.alloc(16, 1)
const OTHER_BOOT = Buffer.alloc(16, 2)
const SETTINGS = { minTtlSeconds: 0, addressesOfNameMax: 1000, zombiesMax: 10_000, graceSeconds: 0 }
const ALL = create(NameSelectorSchema, { id: 101, matchPattern: '*' })

function record(name: string, address = '1.1.1.1', endpointId = 0): JournalRecord {
  return { endpointId, address: addressToBytes(address), name }
}

/** Three frames of two records each. */
function journal(): { bytes: Buffer; ends: number[] } {
  const parts = [encodeHeader(BOOT)]
  const frames = new FrameWriter()
  frames.setTimes({ wallMs: 1_000_000, monotonicMs: 5000 })
  for (let index = 0; index < 6; index++) {
    frames.set(record(`n${index}.test.`, `1.1.1.${index}`), 10_000 + index)
    if (index % 2 === 1) parts.push(frames.take())
  }
  let end = 0
  return { bytes: Buffer.concat(parts), ends: parts.map(({ length }) => (end += length)) }
}

function namesIn(bytes: Buffer): string[] {
  return decodeJournal(bytes).claims.map(({ name }) => name)
}

function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'headgate-names-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return join(path, 'names.journal')
}

function clockAt(nowMs: number, { wallMs = 1_000_000, bootId = BOOT, offsetMs = 0 } = {}): JournalClock & { add(ms: number): void } {
  let passedMs = 0
  return {
    nowMs: () => nowMs + passedMs,
    wallMs: () => wallMs + passedMs,
    monotonicOffsetMs: offsetMs,
    bootId,
    add: (ms) => {
      passedMs += ms
    },
  }
}

const LOG = { error: () => {}, info: () => {} }

test('what was set last counts, and what was removed is not there', (t) => {
  const frames = new FrameWriter()
  frames.setTimes({ wallMs: 1, monotonicMs: 2 })
  frames.set(record('a.test.'), 10)
  frames.set(record('b.test.', '1.1.1.1', 7), 20)
  frames.set(record('b.test.'), 30)
  const first = frames.take()
  frames.remove(record('a.test.'))
  frames.set(record('b.test.'), 40)
  frames.set(record(''), 50)
  const { bootId, claims, problems } = decodeJournal(Buffer.concat([encodeHeader(BOOT), first, frames.take()]))
  t.deepEqual(bootId, BOOT)
  t.deepEqual(problems, [])
  t.deepEqual(
    claims.map(({ name, endpointId, address, expiresMs, written }) => [
      name,
      endpointId,
      bytesToAddress(address),
      expiresMs,
      written.monotonicMs,
    ]),
    [
      ['b.test.', 7, '1.1.1.1', 20, 2],
      ['b.test.', 0, '1.1.1.1', 40, 2],
      ['', 0, '1.1.1.1', 50, 2],
    ],
  )
})

test('a journal that is cut anywhere says what its whole frames say', (t) => {
  const { bytes, ends } = journal()
  for (let length = 0; length < bytes.length; length++) {
    const cut = bytes.subarray(0, length)
    const wholeCount = ends.filter((end) => end <= length).length - 1
    t.is(namesIn(cut).length, Math.max(0, wholeCount) * 2, `cut at ${length}`)
    t.is(decodeJournal(cut).problems.length > 0, !ends.includes(length), `cut at ${length}`)
  }
})

test('a bit that flipped costs one frame, or nothing but the boot', (t) => {
  const { bytes, ends } = journal()
  const [headerEnd = 0] = ends
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    const { bootId, claims, problems } = decodeJournal(flipped)
    t.is(problems.length, 1)
    t.is(claims.length, bit >> 3 < headerEnd ? 6 : 4, `bit ${bit}`)
    t.is(bootId === undefined, bit >> 3 < headerEnd)
  }
})

test('a journal of another version, or of something else, says nothing and why', (t) => {
  const { bytes } = journal()
  // Tests of the checksum stand above; a sound header of another version has a sound checksum.
  t.deepEqual(decodeJournal(Buffer.from('something else that is long enough')).claims, [])
  t.regex(decodeJournal(Buffer.alloc(3)).problems[0] ?? '', /no header in 3 bytes/)
  t.is(namesIn(bytes).length, 6)
})

test('no bytes make the reader fail or hang', (t) => {
  const { bytes } = journal()
  const property = fc.property(
    fc.array(fc.record({ at: fc.nat(bytes.length - 1), with: fc.uint8Array({ maxLength: 40 }) }), { maxLength: 4 }),
    (changes) => {
      const changed = Buffer.from(bytes)
      for (const { at, with: what } of changes) changed.set(what.subarray(0, changed.length - at), at)
      decodeJournal(changed)
    },
  )
  fc.assert(property, { numRuns: 2000 })
  t.pass()
})

test('in the same boot, lifetimes go on by the monotonic clock, whatever the time of day is', (t) => {
  const path = folder(t)
  writeFileSync(path, journal().bytes)
  // Written at 5000 with ends at 10000 and after; this process began at 6000 of the machine.
  const { kept, problems } = readJournal(path, clockAt(500, { wallMs: 1, offsetMs: 6000 }))
  t.deepEqual(problems, [])
  t.deepEqual(
    kept.map(({ expiresMs }) => expiresMs),
    [4000, 4001, 4002, 4003, 4004, 4005],
  )
  t.is(readJournal(path, clockAt(50_000, { offsetMs: 6000 })).kept.length, 6, 'what ran out may still have connections')
})

test('after a boot, only what has not run out by the time of day is known, and nothing when that went back', (t) => {
  const path = folder(t)
  writeFileSync(path, journal().bytes)
  const readAt = (wallMs: number) => readJournal(path, clockAt(300, { wallMs, bootId: OTHER_BOOT }))
  t.deepEqual(
    readAt(1_004_000).kept.map(({ expiresMs }) => expiresMs),
    [1300, 1301, 1302, 1303, 1304, 1305],
  )
  t.is(readAt(1_005_002).kept.length, 3)
  t.is(readAt(1_006_000).kept.length, 0)
  const { kept, problems } = readAt(999_999)
  t.is(kept.length, 0)
  t.regex(problems[0] ?? '', /6 lifetimes were written at a time that is still to come/)
})

test('without a file nothing is known, and a folder in its place is a problem and no end', (t) => {
  const path = folder(t)
  t.deepEqual(readJournal(path, clockAt(0)), { kept: [], problems: [] })
  t.regex(readJournal(tmpdir(), clockAt(0)).problems[0] ?? '', /EISDIR/)
})

interface Kept {
  readonly names: LearnedNames
  readonly fake: FakeMaps
  readonly journal: NamesJournal
}

function open(path: string, clock: JournalClock, fake = new FakeMaps()): Kept {
  const { kept } = readJournal(path, clock)
  const names = new LearnedNames(fake.maps, SETTINGS, { kept, nowMs: clock.nowMs() })
  names.changeSelectors({ gone: [], come: [ALL] })
  const journal = new NamesJournal({ path, clock, log: LOG, claims: () => names.claims() })
  names.keepIn(journal)
  return { names, fake, journal }
}

function knownIn({ names }: Kept): string[] {
  return [...names.known()].map(({ name, address, expiresMs }) => `${name} ${bytesToAddress(address)} ${Math.round(expiresMs)}`).sort()
}

test('a process that follows knows what the one before knew, killed or not', async (t) => {
  const path = folder(t)
  const clock = clockAt(0)
  const first = open(path, clock)
  for (let index = 0; index < 3000; index++)
    first.names.learn(0, [`n${index}.test.`], addressToBytes(`1.1.${index >> 8}.${index & 255}`), 60, 0)
  first.names.learn(7, ['own.test.'], addressToBytes('2.2.2.2'), 30, 0)
  first.names.forget((name) => name === 'n5.test.')
  await delay(500)
  const expected = knownIn(first)
  // Killed: nothing more is written.
  const copy = folder(t)
  writeFileSync(copy, readFileSync(path))
  t.deepEqual(knownIn(open(copy, clock, first.fake)), expected)
  first.names.learn(0, ['late.test.'], addressToBytes('3.3.3.3'), 60, 0)
  first.journal.close()
  const second = open(path, clock, first.fake)
  t.deepEqual(knownIn(second), knownIn(first))
  second.journal.close()
  t.deepEqual(knownIn(open(path, clock, first.fake)), knownIn(first), 'closed before it was written anew')
})

test('any changes are read back as they were', async (t) => {
  const steps = fc.array(
    fc.record({
      kind: fc.constantFrom('learn', 'learn', 'forget', 'flush'),
      name: fc.nat(5),
      address: fc.nat(3),
      ttl: fc.integer({ min: 1, max: 99 }),
    }),
    { maxLength: 40 },
  )
  await fc.assert(
    fc.asyncProperty(steps, async (list) => {
      const path = folder(t)
      const clock = clockAt(0)
      const first = open(path, clock)
      for (const { kind, name, address, ttl } of list) {
        if (kind === 'learn') first.names.learn(0, [`n${name}.test.`], addressToBytes(`1.1.1.${address}`), ttl * 2, 0)
        else if (kind === 'forget') first.names.forget((text) => text === `n${name}.test.`)
        else await delay(ttl % 3 === 0 ? 110 : 0)
      }
      first.journal.close()
      t.deepEqual(knownIn(open(path, clock, first.fake)), knownIn(first))
    }),
    { numRuns: 15 },
  )
})

test('the file is written anew before it is several times what it says', async (t) => {
  const path = folder(t)
  const clock = clockAt(0)
  const { names, journal } = open(path, clock)
  for (let round = 1; round <= 30; round++) {
    for (let index = 0; index < 2000; index++)
      names.learn(0, [`n${index}.test.`], addressToBytes(`1.1.${index >> 8}.${index & 255}`), 60 * round, 0)
    await delay(120)
  }
  await delay(300)
  // 30 rounds of 2000 records of about 50 bytes would be 3 MB.
  t.true(statSync(path).size < 1_500_000, String(statSync(path).size))
  journal.close()
  t.is(readJournal(path, clock).kept.length, 2000)
})

test('a tail that a crash has cut is passed over, and the next process writes on behind what it knew', async (t) => {
  const path = folder(t)
  const clock = clockAt(0)
  const first = open(path, clock)
  first.names.learn(0, ['a.test.'], addressToBytes('1.1.1.1'), 60, 0)
  await delay(200)
  first.journal.close()
  appendFileSync(path, Buffer.from('HGf1\0\0\0\x40half'))
  const second = open(path, clock, first.fake)
  second.names.learn(0, ['b.test.'], addressToBytes('1.1.1.2'), 60, 0)
  second.journal.close()
  t.deepEqual(readJournal(path, clock).problems, [])
  t.deepEqual(
    readJournal(path, clock).kept.map(({ name }) => name),
    ['a.test.', 'b.test.'],
  )
})

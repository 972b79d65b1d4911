/**
 * The learning code of the DNS process under names that nobody asked for before: half of them match a selector. Time is the workload's own,
 * so that lifetimes pass as fast as names come; the journal is a real file, the kernel's maps are in memory. Started by bench/dns-memory.ts
 * and by a test with the Node flags that bin/headgate gives; its last line is what it measured.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import '#dns-proxy/main.ts'
import { LearnedNames } from '#dns-proxy/learned-names.ts'
import { machineClock, NamesJournal } from '#dns-proxy/names-journal.ts'
import { shrinkMemory } from '#sys/memory.ts'
import { FakeMaps } from '../../test/dns-proxy/fake-maps.ts'
import { residentMb } from '../../test/support/memory.ts'

const NAMES_PER_SECOND = 500
const TTL_SECONDS = 30
const STEP_MS = 1000
const LOOK_EVERY_STEPS = 5
/** Several times as many as are known at once with these lifetimes. */
const WARM_UP_COUNT = 60_000

const count = Number(process.argv[2])
/** Names a second of everybody's time; 0: as fast as they can be learned. */
const pace = Number(process.argv[3])
const folder = mkdtempSync(join(tmpdir(), 'headgate-dns-memory-'))
const path = join(folder, 'names.journal')
const fake = new FakeMaps()
const names = new LearnedNames(fake.maps, { minTtlSeconds: 0, addressesOfNameMax: 1000, zombiesMax: 10_000, graceSeconds: 0 }, { nowMs: 0 })
names.changeSelectors({ gone: [], come: [create(NameSelectorSchema, { id: 101, matchPattern: '*.selected.test' })] })
let nowMs = 0
const clock = { ...machineClock(), nowMs: () => nowMs, monotonicOffsetMs: 0 }
const log = { error: (error: unknown) => process.stderr.write(`${JSON.stringify(error)}\n`), info: () => {} }
const journal = new NamesJournal({ path, clock, log, claims: () => names.claims() })
names.keepIn(journal)

const address = Buffer.alloc(16)
address.writeUInt16BE(0xffff, 10)
let index = 0
let knownMax = 0

async function learn(total: number): Promise<void> {
  const beginMs = performance.now()
  const first = index
  for (const end = index + total; index < end; ) {
    for (let each = 0; each < NAMES_PER_SECOND; each++, index++) {
      address.writeUInt32BE(0x0b000000 + index, 12)
      names.learn(0, [`name-${index}.${index % 2 === 0 ? 'selected' : 'other'}.test.`], address, TTL_SECONDS, nowMs + each)
    }
    nowMs += STEP_MS
    while (!names.expire(nowMs));
    if ((nowMs / STEP_MS) % LOOK_EVERY_STEPS === 0) {
      const look = names.beginLook(nowMs)
      while (look?.step() === false);
      while (look !== undefined && !names.endLook(look, nowMs));
    }
    knownMax = Math.max(knownMax, names.addressCount)
    const aheadMs = pace === 0 ? 0 : ((index - first) * 1000) / pace - (performance.now() - beginMs)
    await (aheadMs > 1 ? delay(aheadMs) : turn())
  }
}

await learn(WARM_UP_COUNT)
shrinkMemory()
const before = residentMb(process.pid)
const startedMs = performance.now()
await learn(count)
const seconds = (performance.now() - startedMs) / 1000
const atOnce = residentMb(process.pid)
shrinkMemory()
const after = residentMb(process.pid)
journal.close()
const journalBytes = statSync(path).size
rmSync(folder, { recursive: true })
const wrong = fake.learned.rows.size === names.addressCount && names.addressCount === names.nameCount ? 0 : 1
process.stdout.write(
  `${JSON.stringify({ count, seconds, before, atOnce, after, known: names.addressCount, knownMax, journalBytes, wrong, totals: names.totals })}\n`,
)

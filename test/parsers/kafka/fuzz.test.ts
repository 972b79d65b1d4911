import { setImmediate } from 'node:timers/promises'
import test from 'ava'
import { residentMb } from '../../support/memory.ts'
import { type FuzzTotals, fuzzKafka } from './fuzz.ts'

const SECONDS = process.env['HEADGATE_TEST_LONG'] ? 600 : 10
const GROWTH_MB_MAX = 200

test('whatever is said, nothing about a topic that is denied passes, and a parser closes with its own reasons only', async (t) => {
  t.timeout((SECONDS + 60) * 1000)
  const seed = Date.now() % 2 ** 31
  t.log({ seed })
  fuzzKafka(seed, 1000)
  const before = residentMb(process.pid).rss
  const totals: FuzzTotals = { conversations: 0, passed: 0, closed: 0 }
  for (let second = 0; second < SECONDS; second++) {
    const { conversations, passed, closed } = fuzzKafka(seed + 2 ** 20 + totals.conversations, 1000)
    totals.conversations += conversations
    totals.passed += passed
    totals.closed += closed
    // Whoever waits for the test hears of its timeout.
    await setImmediate()
  }
  t.log(totals)
  t.true(totals.conversations > 1000 && totals.passed > totals.conversations / 2 && totals.closed > 100)
  const grown = residentMb(process.pid).rss - before
  t.true(grown < GROWTH_MB_MAX, `${grown} MB`)
})

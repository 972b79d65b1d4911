import test from 'ava'
import { growthOf, measureNames } from '../../bench/dns-memory.ts'

const UNPACED = 0

test('a hundred thousand names that nobody asked for before change resident memory by less than a tenth', (t) => {
  const measured = measureNames(100_000, UNPACED)
  t.log(`${measured.before.rss} MB before, ${measured.after.rss} MB after, ${measured.knownMax} known at most`)
  t.is(measured.wrong, 0)
  t.true(growthOf(measured) < 0.1, `${measured.before.rss} MB before, ${measured.after.rss} MB after`)
})

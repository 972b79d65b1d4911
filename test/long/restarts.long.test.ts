/** The restart bench at full length, judged: what it measures is in bench/RESULTS.md, what it must never see is here. */
import test from 'ava'
import { g16 } from '../../bench/g16.ts'

test.serial('agent, proxy process and up are killed 20 times each under load while policy changes, and no answer is wrong', async (t) => {
  t.timeout(20 * 60_000)
  const seed = Date.now() % 2 ** 31
  t.log({ seed })
  const result = await g16.run({ pairs: undefined, seconds: undefined, count: 20, seed, long: true })
  t.log(result)
  const { failed, wronglyAllowed, wronglyDenied, changesNotApplied } = result
  t.deepEqual(
    { failed, wronglyAllowed, wronglyDenied, changesNotApplied },
    { failed: 0, wronglyAllowed: 0, wronglyDenied: 0, changesNotApplied: 0 },
    result.oracle.samples?.join('\n'),
  )
  t.true(result.oracle.checked > 10_000)
})

import test from 'ava'
import { TapReader } from './report.ts'

function read(tap: string, exitCode: number | undefined) {
  let printed = ''
  const reader = new TapReader((text) => {
    printed += text
  })
  for (const line of tap.split('\n')) reader.line(line)
  return { totals: reader.end(exitCode), printed, failures: reader.failures() }
}

test('passed, failed and skipped tests are counted and failures kept whole', (t) => {
  const { totals, failures } = read(
    'TAP version 13\nok 1 - a\nok 2 - b # SKIP\nnot ok 3 - c\n  ---\n    message: why\n  ...\n\n1..3\n# tests 3\n# pass 1\n# skip 1\n# fail 1\n',
    1,
  )
  t.deepEqual(totals, { passed: 1, failed: 1, skipped: 1 })
  t.deepEqual(
    failures.map((lines) => lines.filter((line) => line !== '')),
    [['c', '  ---', '    message: why', '  ...']],
  )
})

test('what a failed test logged stays with its diagnostics', (t) => {
  const { failures } = read('not ok 1 - c\n#   logged\n  ---\n    message: why\n  ...\nok 2 - d\n# tests 2\n', 1)
  t.deepEqual(failures, [['c', '#   logged', '  ---', '    message: why', '  ...']])
})

test('a test process that was killed is a failure', (t) => {
  t.is(read('TAP version 13\nnot ok 1 - x.test.ts exited due to SIGKILL\n\n1..1\n# tests 1\n# pass 0\n# fail 2\n', 1).totals.failed, 2)
})

test('no test at all is a failure', (t) => {
  t.deepEqual(read('TAP version 13\n\n1..0\n# tests 0\n# pass 0\n# fail 0\n', 0).totals, { passed: 0, failed: 1, skipped: 0 })
})

test('a runner that ends badly after good tests is a failure', (t) => {
  t.is(read('TAP version 13\nok 1 - a\n', undefined).totals.failed, 1)
  t.is(read('TAP version 13\nok 1 - a\n', 1).totals.failed, 1)
})

test('a title may hold a number sign', (t) => {
  t.deepEqual(read('ok 1 - issue # 5\nok 2 - why # SKIPPED it is not\n', 0).totals, { passed: 2, failed: 0, skipped: 0 })
})

import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { processStartTime } from '#sys/pidfd.ts'
import { Machine } from '../support/machine.ts'

const NAMES = ['agent', 'proxy', 'ext-host', 'dns-proxy', 'envoy'] as const

function pidsOf(machine: Machine): number[] {
  return NAMES.map((name) => (JSON.parse(readFileSync(join(machine.folder, 'run/up', `${name}.json`), 'utf8')) as { pid: number }).pid)
}

test.serial('up runs everything, survives its own death, refuses a twin, stops in order and cleans up', async (t) => {
  t.timeout(180_000)
  const machine = new Machine()
  t.teardown(() => machine.dispose())

  const first = machine.headgate('up')
  const ready = await machine.cli('policy', 'wait', '--timeout', '60s')
  t.is(ready.code, 0, `${ready.stderr}\n${first.log}`)
  const pids = pidsOf(machine)
  t.true(pids.every((pid) => processStartTime(pid) !== undefined))

  const twin = await machine.cli('up')
  t.is(twin.code, 2)
  t.regex(twin.stderr, /^error HG-1105: another headgate up \(pid \d+\) runs with /)
  const cleanup = await machine.cli('cleanup')
  t.is(cleanup.code, 2)
  t.regex(cleanup.stderr, /^error HG-1105: still running: up \(pid \d+\), envoy /)

  first.kill('SIGKILL')
  await once(first, 'exit')
  t.true(pids.every((pid) => processStartTime(pid) !== undefined))

  const second = machine.headgate('up')
  t.is((await machine.cli('policy', 'wait', '--timeout', '60s')).code, 0)
  while (!/envoy found running, adopted/.test(second.log)) await once(second.stderr as never, 'data')
  t.deepEqual(pidsOf(machine), pids)

  second.kill('SIGTERM')
  const [code] = (await once(second, 'exit')) as [number]
  t.is(code, 0, second.log)
  t.true(pids.every((pid) => processStartTime(pid) === undefined))
  t.regex(second.log, /envoy stopped[\s\S]*proxy stopped[\s\S]*agent stopped/)

  const cleaned = await machine.cli('cleanup', '--state')
  t.is(cleaned.code, 0, cleaned.stderr)
  t.false(existsSync(join(machine.folder, 'run')))
  t.false(existsSync(join(machine.folder, 'state')))
  t.is((await machine.cli('cleanup')).code, 0)
})

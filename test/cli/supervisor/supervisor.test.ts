import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { backoffMs, type ChildSpec, DEFAULT_BACKOFF, type KeeperEvent } from '#cli/supervisor/child-keeper.ts'
import { findChild, isAlive, writeRecord } from '#cli/supervisor/child-record.ts'
import { Supervisor } from '#cli/supervisor/supervisor.ts'
import { processStartTime } from '#sys/pidfd.ts'

const SLEEP = ['sleep', '600'] as const
const HOST = fileURLToPath(new URL('host.ts', import.meta.url))

type NamedEvent = KeeperEvent & { readonly name: string }

/** Events as they come, and a way to wait for the next one of a kind. */
class Events {
  readonly all: (NamedEvent & { readonly atMs: number })[] = []
  #wake: () => void = () => {}

  push(event: NamedEvent): void {
    this.all.push({ ...event, atMs: performance.now() })
    this.#wake()
  }

  async next(kind: KeeperEvent['kind'], after = 0): Promise<NamedEvent & { readonly atMs: number }> {
    for (;;) {
      const found = this.all.slice(after).find((event) => event.kind === kind)
      if (found !== undefined) return found
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-up-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

function childSpec(command: readonly string[], overrides: Partial<ChildSpec> = {}): ChildSpec {
  return { name: 'agent', command, environment: { PATH: process.env.PATH }, digest: 'one', stopTimeoutMs: 5000, ...overrides }
}

function supervise(t: ExecutionContext, folder: string, children: readonly ChildSpec[]): { supervisor: Supervisor; events: Events } {
  const events = new Events()
  const supervisor = new Supervisor({ folder, children, onEvent: (name, event) => events.push({ name, ...event }) })
  supervisor.start()
  t.teardown(() => supervisor.stop())
  return { supervisor, events }
}

function pidOf(event: KeeperEvent): number {
  return 'pid' in event ? event.pid : 0
}

/** A supervisor in another process. */
function host(t: ExecutionContext, folder: string, children: readonly ChildSpec[]) {
  const child = spawn(process.execPath, ['--conditions=headgate-source', HOST, folder, JSON.stringify(children)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const events = new Events()
  createInterface({ input: child.stdout }).on('line', (line) => events.push(JSON.parse(line) as NamedEvent))
  return { child, events, gone: once(child, 'exit') }
}

test('a started child is recorded with pid and start time', async (t) => {
  const folder = temporaryFolder(t)
  const { events } = supervise(t, folder, [childSpec(SLEEP)])
  const pid = pidOf(await events.next('started'))
  const record = JSON.parse(readFileSync(join(folder, 'agent.json'), 'utf8')) as Record<string, unknown>
  t.like(record, { version: 1, name: 'agent', pid, startTime: processStartTime(pid) })
})

test('a killed child is started again at once', async (t) => {
  const { events } = supervise(t, temporaryFolder(t), [childSpec(SLEEP)])
  const pid = pidOf(await events.next('started'))
  const killedAtMs = performance.now()
  process.kill(pid, 'SIGKILL')
  const died = await events.next('died')
  t.like(died, { pid, reason: 'SIGKILL', restartInMs: 0 })
  const restarted = await events.next('started', events.all.indexOf(died))
  t.not(pidOf(restarted), pid)
  const tookMs = restarted.atMs - killedAtMs
  t.log(`${tookMs.toFixed(1)} ms`)
  t.true(tookMs < 500, `${tookMs} ms`)
})

test('children outlive a killed supervisor and the next one adopts them and sees their death', async (t) => {
  const folder = temporaryFolder(t)
  const spec = childSpec(SLEEP)
  const first = host(t, folder, [spec])
  const pid = pidOf(await first.events.next('started'))
  first.child.kill('SIGKILL')
  await first.gone
  t.not(processStartTime(pid), undefined)

  const { supervisor, events } = supervise(t, folder, [spec])
  t.is(pidOf(await events.next('adopted')), pid)
  process.kill(pid, 'SIGKILL')
  const died = await events.next('died')
  t.is(pidOf(died), pid)
  const again = await events.next('started', events.all.indexOf(died))
  t.true(again.atMs - died.atMs < 500)
  await supervisor.stop()
  t.is(processStartTime(pidOf(again)), undefined)
})

test('a child whose record was never written is found by its mark, and what it started is not taken for it', async (t) => {
  const folder = temporaryFolder(t)
  const spec = childSpec(['sh', '-c', 'sleep 600 & wait'])
  const first = host(t, folder, [spec])
  const pid = pidOf(await first.events.next('started'))
  first.child.kill('SIGKILL')
  await first.gone
  rmSync(join(folder, 'agent.json'))
  t.is(findChild(folder, 'agent')?.pid, pid)
  const { events } = supervise(t, folder, [spec])
  t.is(pidOf(await events.next('adopted')), pid)
  t.true(existsSync(join(folder, 'agent.json')))
})

test('a process that has a recorded pid but another start time is neither adopted nor stopped', async (t) => {
  const folder = temporaryFolder(t)
  const stranger = spawn('sleep', ['600'])
  await once(stranger, 'spawn')
  t.teardown(() => stranger.kill('SIGKILL'))
  writeRecord(folder, { name: 'agent', pid: stranger.pid ?? 0, startTime: '1' })
  const { supervisor, events } = supervise(t, folder, [childSpec(SLEEP)])
  const pid = pidOf(await events.next('started'))
  t.not(pid, stranger.pid)
  await supervisor.stop()
  t.not(processStartTime(stranger.pid ?? 0), undefined)
})

test('a damaged record stops nothing', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'agent.json'), '{"version":1,"pi')
  const { events } = supervise(t, folder, [childSpec(SLEEP)])
  t.true(pidOf(await events.next('started')) > 0)
})

test('a child that runs with another configuration is replaced', async (t) => {
  const folder = temporaryFolder(t)
  const first = host(t, folder, [childSpec(SLEEP)])
  const pid = pidOf(await first.events.next('started'))
  first.child.kill('SIGKILL')
  await first.gone
  const { events } = supervise(t, folder, [childSpec(SLEEP, { digest: 'two' })])
  t.is(pidOf(await events.next('replaced')), pid)
  t.is(processStartTime(pid), undefined)
  t.not(pidOf(await events.next('started')), pid)
})

test('a crash loop backs off, and a command that does not exist does not end the supervisor', async (t) => {
  const folder = temporaryFolder(t)
  const { events } = supervise(t, folder, [childSpec(['false']), childSpec(['/nonexistent'], { name: 'envoy' })])
  await events.next('failed')
  let died: NamedEvent = await events.next('died')
  const delays: number[] = []
  for (let count = 0; count < 4; count += 1) {
    died = await events.next('died', count === 0 ? 0 : events.all.indexOf(died as never) + 1)
    delays.push('restartInMs' in died ? died.restartInMs : -1)
  }
  t.deepEqual(delays, [0, 100, 200, 400])
})

test('the delay before a restart doubles up to its maximum', (t) => {
  t.deepEqual(
    [1, 2, 3, 4, 8, 9, 1000].map((deaths) => backoffMs(DEFAULT_BACKOFF, deaths)),
    [0, 100, 200, 400, 5000, 5000, 5000],
  )
})

test('stopping goes in reverse order, and a child that ignores SIGTERM is killed with what it started', async (t) => {
  const folder = temporaryFolder(t)
  const stubborn = childSpec(
    ['sh', '-c', 'trap "" TERM; sleep 600 & echo $! > "$0"; while :; do sleep 1; done', join(folder, 'grandchild')],
    {
      name: 'proxy',
      stopTimeoutMs: 300,
    },
  )
  const { supervisor, events } = supervise(t, folder, [childSpec(SLEEP), stubborn, childSpec(SLEEP, { name: 'envoy' })])
  while (events.all.filter((event) => event.kind === 'started').length < 3) await new Promise((resolve) => setImmediate(resolve))
  while (!existsSync(join(folder, 'grandchild'))) await new Promise((resolve) => setImmediate(resolve))
  await supervisor.stop()
  const ends = events.all
    .filter((event) => event.kind === 'stopped' || event.kind === 'killed')
    .map((event) => `${event.name} ${event.kind}`)
  t.deepEqual(ends, ['envoy stopped', 'proxy killed', 'agent stopped'])
  const grandchild = Number(readFileSync(join(folder, 'grandchild'), 'utf8'))
  t.is(processStartTime(grandchild), undefined)
  t.false(existsSync(join(folder, 'proxy.json')))
})

test('a process that is gone is not alive', async (t) => {
  const child = spawn('true')
  await once(child, 'exit')
  t.false(isAlive({ pid: child.pid ?? 0, startTime: '1' }))
})

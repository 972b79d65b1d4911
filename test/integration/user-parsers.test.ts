import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { installParser, installR2d2, R2D2_PORT, R2d2Client, startR2d2 } from '../support/r2d2.ts'
import { policyOf, withMachine } from '../support/running.ts'

const TRANSPORTS = ['relay', 'ext-proc'] as const

function serverPolicy(l7proto: string, ...l7: readonly Record<string, string>[]): Record<string, unknown> {
  const toPorts = [{ ports: [{ port: String(R2D2_PORT), protocol: 'TCP' }], rules: { l7proto, l7 } }]
  return policyOf('files', 'files', { ingress: [{ fromEndpoints: [{ matchLabels: { app: 'droid' } }], toPorts }] })
}

for (const l7Transport of TRANSPORTS) {
  test.serial(`commands of r2d2 pass as rules say, and the others are answered in their turn (${l7Transport})`, async (t) => {
    t.timeout(60_000)
    await withMachine(async (machine, headgate) => {
      const droid = machine.addWorkload('droid')
      const files = machine.addWorkload('files')
      machine.writeWorkloads()
      machine.setConfig({ flows: { mode: 'all' }, relay: { workers: 1 }, l7Transport })
      installR2d2(machine)
      headgate.start()
      const server = await startR2d2(machine, files)
      await headgate.wait()
      await headgate.apply('files.json', serverPolicy('r2d2', { cmd: 'READ', file: 'public/.*' }, { cmd: 'HALT' }))
      const client = new R2d2Client(machine, droid, files)

      t.deepEqual(await client.say('READ public/plans'), ['OK READ public/plans'])
      t.deepEqual(await client.say('WRITE public/plans'), ['ERROR'])
      t.deepEqual(await client.say('READ public/a', 'WRITE b', 'READ secret', 'HALT', 'RESET', 'READ public/c'), [
        'OK READ public/a',
        'ERROR',
        'ERROR',
        'OK HALT',
        'ERROR',
        'OK READ public/c',
      ])
      t.false(server.lines.some((line) => /WRITE|secret|RESET/.test(line)))
      const denied = await headgate.flowThat(({ parsed, verdict }) => verdict === 'dropped' && parsed?.fields['cmd'] === 'WRITE')
      t.like(denied, { kind: 'parsed', where: 'relay', direction: 'ingress', parsed: { parser: 'r2d2', fields: { file: 'public/plans' } } })
      const allowed = await headgate.flowThat(({ parsed, verdict }) => verdict === 'forwarded' && parsed?.fields['cmd'] === 'HALT')
      t.deepEqual(
        allowed.origins.map(({ policy }) => policy),
        ['default/files'],
      )
      t.regex(
        (await machine.cli('observe', '--kind', 'parsed', '--last', '0')).stdout,
        /r2d2 cmd=WRITE file=public\/plans dropped by relay/,
      )

      // Rules hold for the next command of a connection that is open.
      await headgate.apply('files.json', serverPolicy('r2d2', { cmd: 'WRITE' }))
      t.deepEqual(await client.say('READ public/plans', 'WRITE b'), ['ERROR', 'OK WRITE b'])
    })
  })
}

interface Hostile {
  readonly name: string
  readonly port: number
  readonly onData: string
  /** Of the flow that tells of it. */
  readonly reason: RegExp
}

const HOSTILE: readonly Hostile[] = [
  { name: 'loops', port: 4041, onData: 'for (;;);', reason: /^the parser loops failed: it took longer than 3000 ms over a call$/ },
  { name: 'exits', port: 4042, onData: 'process.exit(1)', reason: /^the parser exits failed: its process ended with code 1$/ },
  {
    name: 'hogs',
    port: 4043,
    onData: 'const all = []; for (;;) all.push([all])',
    reason: /^the parser hogs failed: (its process ended|it took)/,
  },
  { name: 'throws', port: 4044, onData: 'throw new Error("what now")', reason: /^the parser failed: Error: what now$/ },
  {
    name: 'pries',
    port: 4045,
    onData: 'process.getBuiltinModule("fs").readFileSync("/etc/passwd")',
    reason: /^the parser failed: Error: Access to this API has been restricted/,
  },
]

test.serial('whatever parsers do to themselves, connections of others go on meanwhile', async (t) => {
  t.timeout(90_000)
  await withMachine(async (machine, headgate) => {
    const droid = machine.addWorkload('droid')
    const files = machine.addWorkload('files')
    machine.writeWorkloads()
    machine.setConfig({ relay: { workers: 1 }, parsers: { callTimeoutMs: 3000, memoryMb: 32 } })
    installR2d2(machine)
    for (const { name, onData } of HOSTILE) installParser(machine, name, onData)
    headgate.start()
    await startR2d2(machine, files)
    await headgate.wait()
    const peers = [{ matchLabels: { app: 'droid' } }]
    const portOf = (port: number, l7proto: string) => ({
      fromEndpoints: peers,
      toPorts: [{ ports: [{ port: String(port), protocol: 'TCP' }], rules: { l7proto } }],
    })
    const ingress = [portOf(R2D2_PORT, 'r2d2'), ...HOSTILE.map(({ name, port }) => portOf(port, name))]
    await headgate.apply('files.json', policyOf('files', 'files', { ingress }))

    const calm = new R2d2Client(machine, droid, files)
    t.deepEqual(await calm.say('READ first'), ['OK READ first'])
    let answered = 0
    let isDone = false
    const goesOn = (async () => {
      for (let count = 0; !isDone; count++) {
        t.deepEqual(await calm.say(`READ ${count}`), [`OK READ ${count}`])
        answered++
        await delay(10)
      }
    })()
    for (const { name, port, reason } of HOSTILE) {
      await startR2d2(machine, files, port)
      const answeredBefore = answered
      t.deepEqual(await new R2d2Client(machine, droid, files, port).say('READ a'), ['closed'], name)
      const flow = await headgate.flowThat(({ parsed }) => parsed?.parser === name, 5000)
      t.like(flow, { kind: 'parsed', verdict: 'error', parsed: { fields: {} } })
      t.regex(flow.reason, reason)
      if (name === 'loops') t.true(answered - answeredBefore > 10, `${answered - answeredBefore} answers while a parser looped for 3 s`)
    }
    isDone = true
    await goesOn
    const { warnings } = await headgate.status()
    t.true(warnings.some((warning) => warning.includes('the parser loops: it took longer than 3000 ms over a call')))
  })
})

test.serial('a process that is killed, or loses its worker, takes its own connections with it; the next ones find another', async (t) => {
  t.timeout(60_000)
  await withMachine(async (machine, headgate) => {
    const droid = machine.addWorkload('droid')
    const files = machine.addWorkload('files')
    machine.writeWorkloads()
    machine.setConfig({ relay: { workers: 1 }, parsers: { callTimeoutMs: 60_000 } })
    installR2d2(machine)
    installParser(machine, 'loops', 'for (;;);')
    headgate.start()
    await startR2d2(machine, files)
    await startR2d2(machine, files, 4041)
    await headgate.wait()
    const portOf = (port: number, l7proto: string) => ({ ports: [{ port: String(port), protocol: 'TCP' }], rules: { l7proto } })
    const toPorts = [portOf(R2D2_PORT, 'r2d2'), portOf(4041, 'loops')]
    await headgate.apply('files.json', policyOf('files', 'files', { ingress: [{ fromEndpoints: [{}], toPorts }] }))
    const worker = Number(readFileSync(join(machine.folder, 'run/relay/0.lock'), 'utf8'))
    const processes = (of: number) => readFileSync(`/proc/${of}/task/${of}/children`, 'utf8').trim().split(' ').map(Number)
    const pidOf = (parser: string) =>
      processes(worker).find((pid) => readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(`/parsers/${parser} /parser `)) ?? 0

    const first = new R2d2Client(machine, droid, files)
    t.deepEqual(await first.say('READ a'), ['OK READ a'])
    process.kill(pidOf('r2d2'), 'SIGKILL')
    await first.peer.saw('closed')
    const flow = await headgate.flowThat(({ verdict }) => verdict === 'error')
    t.is(flow.reason, 'the parser r2d2 failed: its process ended with SIGKILL')
    const second = new R2d2Client(machine, droid, files)
    t.deepEqual(await second.say('READ b'), ['OK READ b'])

    const stuck = new R2d2Client(machine, droid, files, 4041)
    await stuck.peer.saw('open')
    stuck.peer.write('READ a\r\n')
    const looping = pidOf('loops')
    await delay(200)
    process.kill(worker, 'SIGKILL')
    await Promise.all([second.peer.saw('closed'), stuck.peer.saw('closed')])
    const isGone = (pid: number) =>
      !/^State:\s+[^Z]/m.test(existsSync(`/proc/${pid}/status`) ? readFileSync(`/proc/${pid}/status`, 'utf8') : '')
    for (const deadline = performance.now() + 3000; !isGone(looping) && performance.now() < deadline; ) await delay(20)
    t.true(isGone(looping), 'a loop does not outlive its worker')
    let answers: string[] = []
    for (const deadline = performance.now() + 10_000; answers[0] !== 'OK READ c' && performance.now() < deadline; )
      answers = await new R2d2Client(machine, droid, files).say('READ c')
    t.deepEqual(answers, ['OK READ c'])
  })
})

test.serial('a name that no folder has lets nobody by and is told of, until there is one', async (t) => {
  t.timeout(60_000)
  await withMachine(async (machine, headgate) => {
    const droid = machine.addWorkload('droid')
    const files = machine.addWorkload('files')
    machine.writeWorkloads()
    machine.setConfig({ relay: { workers: 1 } })
    headgate.start()
    await startR2d2(machine, files)
    await headgate.wait()
    await headgate.apply('files.json', serverPolicy('r2d2', { file: 'public/.*' }))
    t.deepEqual(await new R2d2Client(machine, droid, files).say('READ public/a'), ['closed'])
    const { warnings } = await headgate.status()
    t.true(warnings.some((warning) => /^worker 0 of the relay: there is no .*\/parsers\/r2d2$/.test(warning)))

    const closed = await headgate.flowThat(({ verdict }) => verdict === 'error')
    t.regex(closed.reason, /^there is no .*\/parsers\/r2d2$/)

    installR2d2(machine)
    let answers: string[] = []
    for (const deadline = performance.now() + 5000; answers[0] !== 'OK READ public/a' && performance.now() < deadline; )
      answers = await new R2d2Client(machine, droid, files).say('READ public/a')
    t.deepEqual(answers, ['OK READ public/a'])
    t.deepEqual((await headgate.status()).warnings, [])

    // Deny rules, and policies in audit.
    const port = [{ port: String(R2D2_PORT), protocol: 'TCP' }]
    const fromEndpoints = [{ matchLabels: { app: 'droid' } }]
    const toPorts = [{ ports: port, rules: { l7proto: 'r2d2', l7: [{ file: '.*secret.*' }] } }]
    await headgate.apply('deny.json', policyOf('deny', 'files', { ingressDeny: [{ fromEndpoints, toPorts }] }))
    const client = new R2d2Client(machine, droid, files)
    t.deepEqual(await client.say('READ public/a', 'READ public/secret'), ['OK READ public/a', 'ERROR'])
    const audited = policyOf('deny', 'files', { ingressDeny: [{ fromEndpoints, toPorts }] })
    await headgate.apply('deny.json', {
      ...audited,
      metadata: { ...(audited['metadata'] as object), annotations: { 'headgate.io/audit': 'true' } },
    })
    t.deepEqual(await client.say('READ public/secret'), ['OK READ public/secret'])
    const flow = await headgate.flowThat(({ verdict }) => verdict === 'audit')
    t.like(flow.parsed, { fields: { cmd: 'READ', file: 'public/secret' } })

    await headgate.apply('files.json', serverPolicy('r2d2', { cmd: 'READ', colour: 'red' }))
    t.deepEqual(await client.say('READ public/a'), ['ERROR'])
    t.regex((await headgate.status()).warnings.join('\n'), /^worker 0 of the relay: the parser r2d2 knows no colour: /m)
  })
})

import test from 'ava'
import { installR2d2, R2D2_PORT, R2d2Client, startR2d2 } from '../support/r2d2.ts'
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

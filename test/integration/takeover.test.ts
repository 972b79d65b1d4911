import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { startLoad } from '../support/load.ts'
import { type Machine, ROOT } from '../support/machine.ts'
import { policyOf, type Running, rule, serve, withMachine } from '../support/running.ts'
import { connectTcp, listenTcp } from '../support/tcp.ts'

/** Restarts the agent under load in a way that changes the map layout; connections of every kind must go on. */
async function takeOver(t: ExecutionContext, restart: (machine: Machine, headgate: Running) => void): Promise<void> {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    await listenTcp(machine, server, 7000)
    headgate.start()
    await headgate.apply(
      'all.json',
      policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])),
      policyOf('server-direct', 'server', rule('ingress', 'client', 7000)),
      policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])),
      policyOf('client-direct', 'client', rule('egress', 'server', 7000)),
      policyOf('server-closed', 'server', { egress: [{}] }),
    )
    const direct = connectTcp(machine, client, server.address, 7000)
    await direct.saw('open')
    const folders = (): string[] => readdirSync(`/sys/fs/bpf/${machine.id}`)
    const [before] = folders()
    const load = await startLoad(machine, client, `http://${server.address}`, 60, 150)
    await new Promise((resolve) => setTimeout(resolve, 500))
    await headgate.kill('agent')
    restart(machine, headgate)
    await headgate.wait()
    await new Promise((resolve) => setTimeout(resolve, 500))
    load.stop()
    const result = await load.result
    t.log(result)
    t.deepEqual([result.failed, result.wronglyAllowed, result.wronglyDenied], [0, 0, 0], result.samples.join('\n'))
    t.true(result.slowestMs < 900, `a packet was lost on the way: ${result.slowestMs} ms`)
    // The server may not speak first: only the carried entry lets its answers pass.
    direct.write('after\n')
    await direct.saw('data after')
    t.is(folders().length, 1)
    t.not(folders()[0], before)
  })
}

test.serial('another map size is swapped in under load, and every connection goes on', (t) =>
  takeOver(t, (machine, headgate) => {
    machine.setConfig({ datapath: { conntrackEntriesMax: 32768, ipcacheEntriesMax: 16384 } })
    headgate.start('agent')
  }),
)

test.serial('another version of the conntrack layout is swapped in under load, and every connection goes on', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'headgate-next-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  for (const name of readdirSync(ROOT)) {
    if (['.git', '.cache', 'node_modules', 'dist'].includes(name)) continue
    cpSync(join(ROOT, name), join(root, name), { recursive: true })
  }
  for (const name of ['.cache', 'node_modules']) if (existsSync(join(ROOT, name))) symlinkSync(join(ROOT, name), join(root, name))
  const abi = join(root, 'bpf/src/abi.h')
  const changed = readFileSync(abi, 'utf8').replace('struct ct_value {\n', 'struct ct_value {\n\t__u64 created_ns;\n')
  writeFileSync(abi, changed)
  execFileSync('sh', [join(root, 'bpf/build.sh')], { stdio: 'pipe' })
  await takeOver(t, (_machine, headgate) => headgate.start('agent', root))
})

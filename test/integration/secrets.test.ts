import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'ava'
import type { Machine } from '../support/machine.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

const SECRET = { namespace: 'default', name: 'token' }
const WARNING = 'the extension host is not connected: requests that need it are refused'

function writeSecret(machine: Machine, value: string): void {
  const path = join(machine.folder, 'secrets', SECRET.namespace, SECRET.name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, value)
}

test.serial('a secret decides who may pass, from the policy to the packet', async (t) => {
  t.timeout(120_000)
  await withMachine(async (machine, headgate) => {
    const web = machine.addWorkload('web')
    const api = machine.addWorkload('api')
    machine.writeWorkloads()
    await serve(machine, api, 80)
    headgate.start()
    const ask = async (path: string, ...options: string[]) => (await get(machine, web, `http://${api.address}${path}`, ...options)).status
    const warnings = async () => (await headgate.status()).warnings
    const until = async (isSo: () => Promise<boolean>) => {
      for (const deadline = performance.now() + 5000; !(await isSo()); )
        if (performance.now() > deadline) throw new Error('it did not come to be')
    }

    const match = { name: 'X-Token', secret: SECRET }
    const http = [
      { path: '/open' },
      { path: '/bearer', headerMatches: [match] },
      { path: '/write', headerMatches: [{ ...match, mismatch: 'REPLACE' }] },
    ]
    await headgate.apply('api.json', policyOf('api', 'api', rule('ingress', 'web', 80, http)))
    t.is(await ask('/open'), 200)
    t.is(await ask('/bearer', '-H', 'X-Token: sesame'), 403)
    t.true((await warnings()).includes('secret default/token cannot be used: there is no such file'))

    writeSecret(machine, 'sesame\n')
    await until(async () => (await ask('/bearer', '-H', 'X-Token: sesame')) === 200)
    t.is(await ask('/bearer', '-H', 'X-Token: wrong'), 403)
    t.is(await ask('/bearer'), 403)
    t.is(await ask('/write'), 200)
    t.is((await warnings()).filter((warning) => warning.includes('secret')).length, 0)
    const row = (await headgate.status()).processes.find(({ name }) => name === 'ext-host')
    t.deepEqual([row?.connected, row?.appliedRevision], [true, row?.revision])

    await headgate.kill('ext-host')
    t.is(await ask('/bearer', '-H', 'X-Token: sesame'), 503)
    t.is(await ask('/open'), 200)
    await until(async () => (await warnings()).includes(WARNING))
    // By its copy on disk.
    await headgate.kill('agent')
    headgate.start('ext-host')
    await until(async () => (await ask('/bearer', '-H', 'X-Token: sesame')) === 200)
    headgate.start('agent')
    await until(async () =>
      headgate.status().then(
        () => true,
        () => false,
      ),
    )
    await headgate.wait()

    await headgate.apply('api.json', policyOf('api', 'api', rule('ingress', 'web', 80, [{ path: '/open' }])))
    t.is(await ask('/bearer', '-H', 'X-Token: sesame'), 403)
    await headgate.kill('ext-host')
    await until(async () => (await headgate.status()).processes.some(({ name, connected }) => name === 'ext-host' && !connected))
    t.false((await warnings()).includes(WARNING))
  })
})

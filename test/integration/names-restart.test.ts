/** What is learned outlives the processes: rows in the kernel, their names and lifetimes on disk. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { decodeJournal } from '#dns-proxy/journal-format.ts'
import { readFileIfPresent } from '#sys/atomic-file.ts'
import { headgate as headgateCommand } from '../cli/run-headgate.ts'
import { addWorld, ask, namesPolicy, reaches, toDns, WORLD } from '../support/dns-scene.ts'
import { startDnsmasq } from '../support/dnsmasq.ts'
import { withKernelMaps } from '../support/kernel-maps.ts'
import type { Machine } from '../support/machine.ts'
import { withMachine } from '../support/running.ts'

const [LONG, SHORT, PRE_CACHED] = WORLD

/** Names in the journal of the machine's DNS process. */
function namesOnDisk(machine: Machine): string[] {
  const bytes = readFileIfPresent(join(machine.folder, 'state/dns-proxy/names.journal'))
  return bytes === undefined ? [] : decodeJournal(bytes).claims.map(({ name }) => name)
}

function rowCount(machine: Machine): number {
  return withKernelMaps(machine, ({ learnedAddresses }) => learnedAddresses.count())
}

async function until(isSo: () => boolean | Promise<boolean>, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs
  while (!(await isSo())) {
    if (performance.now() > deadline) return false
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return true
}

test.serial(
  'names learned before kill -9 of the DNS process and of the agent are known without a new query, and run out in time',
  async (t) => {
    await withMachine(async (machine, headgate) => {
      const client = machine.addWorkload('client')
      const dns = machine.addWorkload('dns')
      await addWorld(machine)
      machine.writeWorkloads()
      await startDnsmasq(machine, dns, `--host-record=long.test,${LONG},600`, `--host-record=short.test,${SHORT},6`)
      const preCache = join(machine.folder, 'precache.json')
      writeFileSync(preCache, JSON.stringify({ names: [{ name: 'pre.test', addresses: [PRE_CACHED], ttlSeconds: 600 }] }))
      machine.setConfig({ dns: { tofqdnsPreCache: preCache } })
      headgate.start()
      await headgate.apply('client.json', namesPolicy('client', [{ matchPattern: '*.test' }], toDns()))
      const rcodeOf = async (name: string) => (await ask(machine, client, dns.address, name)).rcode
      t.true(await reaches(machine, client, PRE_CACHED), 'from the start')
      t.is(await rcodeOf('long.test'), 'NOERROR')
      t.is(await rcodeOf('short.test'), 'NOERROR')
      t.true(await until(() => namesOnDisk(machine).length === 3, 2000), 'written within moments')

      await headgate.kill('dns-proxy')
      t.true(await reaches(machine, client, LONG), 'nobody is needed for what is known')
      await headgate.kill('agent')
      headgate.start('dns-proxy')
      t.true(await until(async () => (await rcodeOf('long.test')) === 'NOERROR', 5000), 'the rules on disk do without the agent')
      t.true(await reaches(machine, client, LONG))
      const { stdout } = await headgateCommand(['fqdn', 'cache', 'list', '--set', `paths.run=${join(machine.folder, 'run')}`])
      t.regex(stdout, /^long\.test\. +10\.88\.0\.2 /m, 'its name is known again, and there is no agent')
      t.true(await until(() => rowCount(machine) === 2, 25_000), 'the short lifetime goes on and ends')
      t.true(await reaches(machine, client, LONG))
      t.true(await until(() => namesOnDisk(machine).sort().join() === 'long.test.,pre.test.', 2000), 'on disk too')
    })
  },
)

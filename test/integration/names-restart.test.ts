/** What is learned outlives the processes: rows in the kernel, their names and lifetimes on disk. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { decodeJournal } from '#dns-proxy/journal-format.ts'
import { readFileIfPresent } from '#sys/atomic-file.ts'
import { headgate as headgateCommand } from '../cli/run-headgate.ts'
import { dig, startDnsmasq } from '../support/dnsmasq.ts'
import { withKernelMaps } from '../support/kernel-maps.ts'
import { ip, type Machine } from '../support/machine.ts'
import { get, policyOf, serve, withMachine } from '../support/running.ts'

const WORLD = ['10.88.0.2', '10.88.0.3'] as const
const PRE_CACHED = '10.88.0.4'
const HTTP = [{ ports: [{ port: '80', protocol: 'TCP' }] }]
const TO_DNS = { toEndpoints: [{ matchLabels: { app: 'dns' } }], toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }] }] }

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
      const world = machine.addNeighbour('world', '10.88.0.1', WORLD[0])
      for (const address of [WORLD[1], PRE_CACHED]) ip('-n', world.netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
      ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
      machine.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=1')
      await serve(machine, world, 80)
      machine.writeWorkloads()
      await startDnsmasq(machine, dns, `--host-record=long.test,${WORLD[0]},600`, `--host-record=short.test,${WORLD[1]},6`)
      const preCache = join(machine.folder, 'precache.json')
      writeFileSync(preCache, JSON.stringify({ names: [{ name: 'pre.test', addresses: [PRE_CACHED], ttlSeconds: 600 }] }))
      machine.setConfig({ dns: { tofqdnsPreCache: preCache } })
      headgate.start()
      await headgate.apply(
        'client.json',
        policyOf('client', 'client', { egress: [TO_DNS, { toFQDNs: [{ matchPattern: '*.test' }], toPorts: HTTP }] }),
      )
      const ask = async (name: string) => (await dig(machine, client, dns.address, name, '+tries=1', '+time=1')).rcode
      const reaches = async (address: string) => (await get(machine, client, `http://${address}/`, '-m', '0.7')).status === 200
      t.true(await reaches(PRE_CACHED), 'from the start')
      t.is(await ask('long.test'), 'NOERROR')
      t.is(await ask('short.test'), 'NOERROR')
      t.true(await until(() => namesOnDisk(machine).length === 3, 2000), 'written within moments')

      await headgate.kill('dns-proxy')
      t.true(await reaches(WORLD[0]), 'nobody is needed for what is known')
      await headgate.kill('agent')
      headgate.start('dns-proxy')
      t.true(await until(async () => (await ask('long.test')) === 'NOERROR', 5000), 'the rules on disk do without the agent')
      t.true(await reaches(WORLD[0]))
      const { stdout } = await headgateCommand(['fqdn', 'cache', 'list', '--set', `paths.run=${join(machine.folder, 'run')}`])
      t.regex(stdout, /^long\.test\. +10\.88\.0\.2 /m, 'its name is known again, and there is no agent')
      t.true(await until(() => rowCount(machine) === 2, 25_000), 'the short lifetime goes on and ends')
      t.true(await reaches(WORLD[0]))
      t.true(await until(() => namesOnDisk(machine).sort().join() === 'long.test.,pre.test.', 2000), 'on disk too')
    })
  },
)

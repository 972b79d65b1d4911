import { chmodSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { ROOT } from '../support/machine.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

test.serial('a policy with more rows than a group may have is refused whole, with its reason; the version before it holds', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.setConfig({ policy: { mapEntriesMax: 64 } })
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80)))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
    const ports = Array.from({ length: 30 }, (_, index) => ({ port: String(1001 + index * 2), protocol: 'TCP' }))
    const wide = Array.from({ length: 3 }, (_, index) => ({
      ports: ports.map(({ port, protocol }) => ({ port: String(Number(port) + index * 100), protocol })),
    }))
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{ toPorts: wide }] }))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
    const { refusedPolicies, warnings } = await headgate.status()
    t.is(refusedPolicies[0]?.state, 'last-accepted')
    t.regex(refusedPolicies[0]?.problems[0]?.message ?? '', /90 rows are needed and policy\.mapEntriesMax is 64/)
    t.true(warnings.some((warning) => warning.includes('server.json')))
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 81)))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
  })
})

test.serial('a document that was never accepted puts whom it selects at default deny, in the directions that it names', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    for (const workload of [client, server]) await serve(machine, workload, 80)
    headgate.start()
    await headgate.wait()
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
    await headgate.apply('broken.json', policyOf('broken', 'server', rule('ingress', 'client', -5)))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
    t.is((await get(machine, server, `http://${client.address}/`)).status, 200)
    t.is((await headgate.status()).refusedPolicies[0]?.name, 'broken')
    await headgate.remove('broken.json').catch(() => {})
    await headgate.apply('other.json', policyOf('other', 'nobody', { ingress: [{}] }))
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
  })
})

test.serial('a policy folder that cannot be read leaves what was accepted in force, over restarts', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{}] }))
    rmSync(machine.policiesFolder, { recursive: true })
    await headgate.wait()
    await headgate.kill('agent')
    headgate.start('agent')
    await headgate.wait()
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
    t.true((await headgate.status()).warnings.some((warning) => warning.includes('cannot be read (ENOENT)')))
  })
})

test.serial('a second agent, and a user without privileges, are turned away before anything is touched', async (t) => {
  await withMachine(async (machine, headgate) => {
    headgate.start('agent')
    await headgate.status()
    const second = await machine.cli('agent')
    t.not(second.code, 0)
    t.regex(second.stderr, /HG-2007.*process \d+/)
    chmodSync(machine.folder, 0o755)
    const nobody = await machine.run(machine.hostNetns, [
      'setpriv',
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      // The checkout may lie where only root can look.
      '--inh-caps=-all,+dac_read_search',
      '--ambient-caps=-all,+dac_read_search',
      join(ROOT, 'bin/headgate'),
      'up',
      '--config',
      machine.configFile,
    ])
    t.is(nobody.code, 2)
    t.regex(nobody.stderr, /HG-1102/)
  })
})

test.serial('a kernel without BTF is named as what is missing, before anything is touched', async (t) => {
  await withMachine(async (machine) => {
    machine.writeWorkloads()
    const hidden = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', 'sh']
    const command = (name: string) => [...hidden, join(ROOT, 'bin/headgate'), name, '--config', machine.configFile]
    for (const [name, code] of [
      ['agent', 'HG-2010'],
      ['up', 'HG-1106'],
    ] as const) {
      const { code: exitCode, stderr } = await machine.run(machine.hostNetns, command(name))
      t.not(exitCode, 0)
      t.regex(stderr, new RegExp(code))
      t.regex(stderr, /btf: no \/sys\/kernel\/btf\/vmlinux/)
    }
    t.false(existsSync(`/sys/fs/bpf/${machine.id}`))
    t.false(existsSync(`/run/netns/${machine.id}-egress`))
  })
})

test.serial('cleanup removes every trace, and the machine is as before', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    const links = (): string => machine.inHost('ip', '-o', 'link')
    const rules = (): string =>
      `${machine.inHost('ip', 'rule')}${machine.inHost('ip', '-4', 'route', 'show', 'table', 'all')}${machine.inHost('nft', 'list', 'ruleset')}`
    const before = [links().replaceAll(/<[^>]*>/g, ''), rules()]
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply(
      'all.json',
      policyOf('server', 'server', { ingress: [{}] }),
      policyOf('client', 'client', rule('egress', 'server', 80, [{}])),
    )
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
    for (const name of ['envoy', 'dns-proxy', 'ext-host', 'proxy', 'agent'] as const) await headgate.kill(name)
    const cleaned = await machine.cli('cleanup')
    t.is(cleaned.code, 0, cleaned.stderr)
    t.is((await get(machine, client, `http://${server.address}/`)).status, 200)
    t.deepEqual([links().replaceAll(/<[^>]*>/g, ''), rules()], before)
    t.false(existsSync(`/sys/fs/bpf/${machine.id}`))
    t.false(existsSync(join(machine.folder, 'run')))
    t.deepEqual(
      readdirSync('/run/netns').filter((name) => name.startsWith(machine.id) && /-(egress|ingress)$/.test(name)),
      [],
    )
  })
})

test.serial('a workloads file that is broken or gone when the agent starts leaves its endpoints under policy', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{}] }))
    for (const damage of [() => writeFileSync(machine.workloadsFile, 'endpoints: ['), () => rmSync(machine.workloadsFile)]) {
      await headgate.kill('agent')
      damage()
      headgate.start('agent')
      await headgate.wait()
      t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
      t.is((await headgate.endpoints()).filter(({ state }) => state === 'ready').length, 2)
      t.true((await headgate.status()).warnings.some((warning) => warning.includes('workloads')))
    }
  })
})

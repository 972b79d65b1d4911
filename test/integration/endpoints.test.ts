import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { startLoad } from '../support/load.ts'
import { ip } from '../support/machine.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

const SERVER_POLICY = policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }]))

test.serial('an endpoint added at run time is enforced, kept over a restart, and gone when it is removed', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', SERVER_POLICY)
    for (const { name, netns } of [client, server]) {
      const added = await machine.cli('endpoint', 'add', name, '--netns', netns, '--label', `app=${name}`)
      t.is(added.code, 0, added.stderr)
    }
    await headgate.wait()
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 200)
    t.is((await get(machine, client, `http://${server.address}/other`)).status, 403)
    const before = await headgate.endpoints()
    await headgate.kill('agent')
    headgate.start('agent')
    await headgate.wait()
    const after = await headgate.endpoints()
    t.deepEqual(
      after.map(({ id, identity }) => [id, identity]),
      before.map(({ id, identity }) => [id, identity]),
    )
    const removed = await machine.cli('endpoint', 'remove', 'server')
    t.is(removed.code, 0, removed.stderr)
    t.is((await get(machine, client, `http://${server.address}/other`)).status, 200)
    const again = await machine.cli('endpoint', 'remove', 'server')
    t.is(again.code, 1)
    t.regex(again.stderr, /HG-2004/)
  })
})

test.serial('new labels change what an endpoint may do at once, without a moment of neither', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', SERVER_POLICY)
    const { id, identity } = await headgate.waitForEndpoint('client')
    const load = await startLoad(machine, client, `http://${server.address}`, 30, 200)
    for (let round = 0; round < 5; round++) {
      machine.writeWorkloads({ server: { round: String(round) } })
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    load.stop()
    const result = await load.result
    // Another identity is another policy group with slots of its own: open redirected connections end, and nothing else goes wrong.
    t.deepEqual([result.wronglyAllowed, result.wronglyDenied], [0, 0], result.samples.join('\n'))
    t.false(
      result.samples.some((line) => line.includes('timeout')),
      result.samples.join('\n'),
    )
    machine.writeWorkloads({ client: { app: 'stranger' } })
    for (let tries = 0; tries < 100 && (await headgate.waitForEndpoint('client')).identity === identity; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 0)
    t.is((await headgate.waitForEndpoint('client')).id, id)
  })
})

test.serial('what cannot be enforced is refused with its reason, and what is missing is waited for', async (t) => {
  await withMachine(async (machine, headgate) => {
    const late = machine.addWorkload('late')
    machine.writeWorkloads()
    machine.removeWorkload('late')
    machine.inHost('ip', 'link', 'add', 'br9', 'type', 'bridge')
    machine.inHost('ip', 'link', 'add', 'in0', 'type', 'veth', 'peer', 'name', 'in1')
    headgate.start()
    await headgate.wait()
    const [waiting] = await headgate.endpoints()
    t.is(waiting?.state, 'waiting')
    t.regex(waiting?.reason ?? '', /no network namespace/)
    for (const [args, pattern] of [
      [['--interface', 'br9'], /HG-2002.*not a veth device: br9/],
      [['--interface', 'in0'], /HG-2002.*host’s own namespace: in0/],
      [['--interface', 'none'], /HG-2002.*no device none/],
      [['--netns', 'none-such'], /HG-2002.*no network namespace/],
    ] as const) {
      const { code, stderr } = await machine.cli('endpoint', 'add', 'x', ...args, '--ip', '10.70.9.9')
      t.is(code, 1, stderr)
      t.regex(stderr, pattern)
    }
    machine.addWorkload('late', late.address)
    t.is((await headgate.waitForEndpoint('late')).state, 'ready')
    const twin = await machine.cli('endpoint', 'add', 'twin', '--netns', late.netns)
    t.regex(twin.stderr, /HG-2003/)
  })
})

test.serial('a name of a namespace that leads nowhere is waited for like one that is not there', async (t) => {
  await withMachine(async (machine, headgate) => {
    const half = machine.addWorkload('half')
    machine.writeWorkloads()
    machine.removeWorkload('half')
    // What `ip netns` shows for a moment while it makes or deletes one: a file that can be opened and is no network namespace.
    const path = `/run/netns/${half.netns}`
    writeFileSync(path, '')
    execFileSync('mount', ['--bind', '/proc/self/ns/uts', path])
    try {
      headgate.start()
      await headgate.wait()
      t.is((await headgate.endpoints())[0]?.state, 'waiting')
      machine.inHost('ip', 'link', 'add', 'some0', 'type', 'bridge')
      t.regex((await machine.cli('endpoint', 'add', 'x', '--netns', half.netns)).stderr, /HG-2002/)
      t.is((await headgate.status()).endpointCount, 1)
    } finally {
      execFileSync('umount', [path])
      rmSync(path)
    }
    machine.addWorkload('half', half.address)
    t.is((await headgate.waitForEndpoint('half')).state, 'ready')
  })
})

test.serial('an endpoint given by its host-side device is found with its addresses', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{}] }))
    const added = await machine.cli('endpoint', 'add', 'server', '--interface', server.device, '--label', 'app=server', '-o', 'json')
    t.is(added.code, 0, added.stderr)
    t.deepEqual((await headgate.waitForEndpoint('server')).spec?.ipv4, [server.address])
    t.is((await get(machine, client, `http://${server.address}/`)).status, 0)
    ip('-n', server.netns, 'addr', 'add', '10.70.0.99/32', 'dev', 'eth0')
    t.is((await headgate.endpoints()).length, 1)
  })
})

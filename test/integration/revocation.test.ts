import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { startLoad } from '../support/load.ts'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'
import { connectTcp, listenTcp } from '../support/tcp.ts'

/** A request on a connection that stays open, spoken by hand. */
const REQUEST = 'GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n'

test.serial('a quiet direct connection is reset on both ends within a second when policy stops allowing it', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    const listener = await listenTcp(machine, server, 7000)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 7000)))
    const connection = connectTcp(machine, client, server.address, 7000)
    await connection.saw('open')
    connection.write('hello\n')
    await connection.saw('data hello')

    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 7001)))
    const ends = await Promise.all([connection.saw('error', 1000), listener.saw('error', 1000)])
    t.deepEqual(
      ends.map((line) => /ECONNRESET|ECONNABORTED/.test(line)),
      [true, true],
    )
  })
})

test.serial('a redirected connection ends on both legs, pooled upstream ones too, when its peer moves to deny', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/allowed' }])))
    const connection = connectTcp(machine, client, server.address, 80)
    await connection.saw('open')
    connection.write(REQUEST)
    await connection.saw('data HTTP/1.1 200')
    const upstream = async (): Promise<string> => (await machine.run(`${machine.id}-egress`, ['ss', '-Htn', 'state', 'established'])).stdout
    t.true((await upstream()).includes(`${server.address}:80`))

    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 81)))
    await connection.saw('error ECONNRESET', 1000)
    t.false((await upstream()).includes(`${server.address}:80`))
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 0)
  })
})

test.serial('a direct connection ends when its peer is sent to a proxy from now on', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80)))
    const connection = connectTcp(machine, client, server.address, 80)
    await connection.saw('open')
    connection.write(REQUEST)
    await connection.saw('data HTTP/1.1 200')
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/other' }])))
    await connection.saw('error', 1500)
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 403)
  })
})

test.serial('an edited rule judges the next request on a connection that stays open', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed' }])))
    const connection = connectTcp(machine, client, server.address, 80)
    await connection.saw('open')
    connection.write(REQUEST)
    await connection.saw('data HTTP/1.1 200')
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/other' }])))
    connection.write(REQUEST)
    await connection.saw('data HTTP/1.1 403')
    t.false(connection.lines.includes('closed'))
  })
})

test.serial('additions fail no request and end no connection: another policy, another rule, a renamed file', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    const third = machine.addWorkload('third')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    await listenTcp(machine, server, 7000)
    headgate.start()
    const ingress = rule('ingress', 'client', 80, [{ path: '/allowed.*' }])
    await headgate.apply('server.json', policyOf('server', 'server', ingress), policyOf('plain', 'server', rule('ingress', 'client', 7000)))
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])),
      policyOf('plain-out', 'client', rule('egress', 'server', 7000)),
    )
    const direct = connectTcp(machine, client, server.address, 7000)
    await direct.saw('open')
    const load = await startLoad(machine, client, `http://${server.address}`, 60, 150)
    // Each change meets traffic of its own.
    const underLoad = (): Promise<void> => delay(300)
    await underLoad()
    await headgate.apply('more.json', policyOf('more', 'server', rule('ingress', 'third', 80)))
    await underLoad()
    await headgate.apply(
      'server.json',
      policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }, { path: '/extra' }])),
      policyOf('plain', 'server', rule('ingress', 'client', 7000)),
    )
    await underLoad()
    await headgate.apply('again.json', policyOf('again', 'server', rule('ingress', 'client', 80, [{ path: '/again' }])))
    await underLoad()
    await headgate.apply('renamed.json', policyOf('more', 'server', rule('ingress', 'third', 80)))
    await underLoad()
    await headgate.remove('more.json')
    await underLoad()
    machine.addWorkload('fourth')
    machine.writeWorkloads()
    await headgate.wait()
    await underLoad()
    load.stop()
    const result = await load.result
    t.log(result)
    t.deepEqual([result.failed, result.wronglyAllowed, result.wronglyDenied], [0, 0, 0], result.samples.join('\n'))
    t.false(direct.lines.includes('closed'))
    direct.write('still\n')
    await direct.saw('data still')
    t.is((await get(machine, third, `http://${server.address}/anything`)).status, 200)
  })
})

import test from 'ava'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

test.serial('a request passes the kernel and two proxies, or gets its 403 from the one whose policy says no', async (t) => {
  await withMachine(async (machine, headgate) => {
    const web = machine.addWorkload('web')
    const api = machine.addWorkload('api')
    const other = machine.addWorkload('other')
    machine.writeWorkloads()
    await serve(machine, api, 80)
    headgate.start()
    await headgate.apply('api.json', policyOf('api', 'api', rule('ingress', 'web', 80, [{ method: 'GET', path: '/products.*' }])))
    await headgate.apply('web.json', policyOf('web', 'web', rule('egress', 'api', 80, [{ path: '/(products|admin).*' }])))

    const allowed = await get(machine, web, `http://${api.address}/products/1?x=y`)
    t.is(allowed.status, 200)
    t.is((JSON.parse(allowed.body) as { peer: string }).peer, web.address)
    const deniedByIngress = await get(machine, web, `http://${api.address}/admin`)
    t.deepEqual([deniedByIngress.status, deniedByIngress.body], [403, 'Access denied'])
    t.is((await get(machine, web, `http://${api.address}/secret`)).status, 403)
    t.is((await get(machine, web, `http://${api.address}/products`, '-X', 'POST')).status, 403)
    t.is((await get(machine, other, `http://${api.address}/products/1`)).status, 0)

    const { stdout: status } = await machine.cli('status')
    t.regex(status, /^proxy +\d+ +\d+\.\d+\.\d+ +yes +(\d+) +\1$/m)
    t.regex(status, /^envoy +1\.\d+\.\d+ +yes$/m)
    t.regex(status, /^connections +[1-9]\d* +65536 /m)
    t.regex(status, /^policy groups +3 +16384 /m)
    t.regex(status, /^rows, largest group +[1-9]\d* +16384 /m)
    t.regex(status, /^slots +2 +4000 /m)
    const list = await machine.cli('policy', 'list')
    t.regex(list.stdout, /^default\/api +CiliumNetworkPolicy +api\.json +in-force +1$/m)
    t.regex((await machine.cli('policy', 'get', 'default/web')).stdout, /^endpoints: +1$/m)

    const flows = await headgate.flows()
    const drop = flows.find((flow) => flow.source.endpoint?.name === 'other' && flow.verdict === 'dropped')
    t.is(drop?.reason, 'policy-denied')
    t.is(drop?.where, 'kernel')
    t.true(
      flows.some(
        (flow) => flow.kind === 'http' && flow.verdict === 'dropped' && flow.http?.path === '/admin' && flow.direction === 'ingress',
      ),
    )
    const granted = flows.find((flow) => flow.kind === 'http' && flow.verdict === 'forwarded' && flow.direction === 'ingress')
    t.is(granted?.origins[0]?.policy, 'default/api')

    // A second policy that looks at no requests: all pass now, and both stand behind that.
    await headgate.apply('plain.json', policyOf('plain', 'api', rule('ingress', 'web', 80)))
    t.is((await get(machine, web, `http://${api.address}/admin`)).status, 200)
    const passed = await headgate.flowThat(
      ({ kind, verdict, direction, http }) =>
        kind === 'http' && verdict === 'forwarded' && direction === 'ingress' && http?.path === '/admin',
    )
    t.deepEqual(
      passed.origins.map(({ policy }) => policy),
      ['default/api', 'default/plain'],
    )
  })
})

test.serial('a client that comes back with the port of a connection just closed is served again', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    // The client forgets its own closed connections at once, so what refuses the port, if anything does, is ours.
    await machine.run(client.netns, ['sysctl', '-qw', 'net.ipv4.tcp_max_tw_buckets=0'])
    headgate.start()
    await headgate.apply(
      'all.json',
      policyOf('server', 'server', rule('ingress', 'client', 80, [{}])),
      policyOf('client', 'client', rule('egress', 'server', 80, [{}])),
    )
    for (let round = 0; round < 10; round++) {
      // In turns the proxy closes first and the client does.
      const closing = round % 2 === 0 ? ['-H', 'Connection: close'] : []
      const answer = await get(machine, client, `http://${server.address}/`, '--local-port', '5555', ...closing)
      t.is(answer.status, 200, `round ${round}`)
    }
  })
})

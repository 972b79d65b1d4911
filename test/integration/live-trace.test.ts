import test from 'ava'
import { get, policyOf, rule, serve, withMachine } from '../support/running.ts'

const SERVER_POLICY = policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }]))
const STATUS = { allowed: 200, denied: 403 } as const

test.serial('a trace of what the agent has in force says what requests then meet', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const stranger = machine.addWorkload('stranger')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    headgate.start()
    await headgate.apply('server.json', SERVER_POLICY)
    await headgate.wait()
    const ask = async (from: string, path: string) => {
      const args = ['--from', from, '--to', server.address, '--port', '80', '--http', `GET ${path}`]
      const { stdout, stderr } = await machine.cli('policy', 'trace', '--live', ...args, '-o', 'json')
      t.is(stderr, '')
      return JSON.parse(stdout) as { verdict: keyof typeof STATUS; ingress: { verdict: string; l7: string | null } }
    }
    for (const path of ['/allowed/x', '/other']) {
      const { verdict, ingress } = await ask(client.address, path)
      t.is(ingress.verdict, 'redirected')
      t.is((await get(machine, client, `http://${server.address}${path}`)).status, STATUS[verdict])
    }
    // A connection that is denied has no answer at all.
    t.like(await ask(stranger.address, '/allowed/x'), { verdict: 'denied', ingress: { verdict: 'denied', l7: null } })
    t.is((await get(machine, stranger, `http://${server.address}/allowed/x`)).status, 0)
  })
})

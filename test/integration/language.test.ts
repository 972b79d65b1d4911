import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { ExportPolicyRequestSchema, type ExportPolicyResponse } from '#api/gen/headgate/v1/local_pb.js'
import type { Flow } from '#flows/flow.ts'
import { ethernet, ipv4Packet, sendFrame } from '../support/frames.ts'
import { ip, type Machine, ROOT, type Workload } from '../support/machine.ts'
import { get, policyOf, type Running, rule, serve, withMachine } from '../support/running.ts'
import { TcpPeer } from '../support/tcp.ts'

const RAW_PEER = join(ROOT, 'test/support/raw-peer.py')
const GRE = 47
const SCTP = 132

async function reaches(machine: Machine, from: Workload, to: Workload, port: number): Promise<boolean> {
  return (await get(machine, from, `http://${to.address}:${port}/`, '-m', '0.5')).status !== 0
}

async function listenRaw(machine: Machine, workload: Workload, protocol: number): Promise<void> {
  await new TcpPeer(machine.start(workload.netns, ['python3', RAW_PEER, 'listen', String(protocol)])).saw('listening', 5000)
}

async function asksRaw(machine: Machine, from: Workload, to: Workload, protocol: number, payload: Buffer): Promise<boolean> {
  const command = ['python3', RAW_PEER, 'ask', to.address, String(protocol), payload.toString('hex')]
  return (await machine.run(from.netns, command)).code === 0
}

/** The common header of an SCTP packet, and a chunk. */
function sctp(port: number): Buffer {
  const bytes = Buffer.alloc(28)
  bytes.writeUInt16BE(40000, 0)
  bytes.writeUInt16BE(port, 2)
  return bytes
}

function writeEndpoints(machine: Machine, endpoints: readonly Record<string, unknown>[]): void {
  writeFileSync(machine.workloadsFile, JSON.stringify({ apiVersion: 'headgate.io/v1', endpoints }))
}

const specOf = ({ name, netns, address }: Workload, more: Record<string, unknown> = {}) => ({
  name,
  labels: { app: name },
  netns,
  ipv4: [address],
  ...more,
})

/** Waits for the workloads file to be taken as it is. */
async function taken(headgate: Running, isTaken: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 3000
  while (!(await isTaken())) {
    if (performance.now() > deadline) throw new Error('the workloads file is not taken')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  await headgate.wait()
}

test.serial('an endpoint in audit reaches what policy denies it, which is told, until it is in audit no more', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    writeEndpoints(machine, [specOf(client), specOf(server, { audit: true })])
    await serve(machine, server, 80, 81)
    await listenRaw(machine, server, GRE)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed' }])))
    await headgate.waitForEndpoint('server')
    t.is((await get(machine, client, `http://${server.address}:81/`)).status, 200)
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 200)
    t.is((await get(machine, client, `http://${server.address}/other`)).status, 200)
    t.true(await asksRaw(machine, client, server, GRE, Buffer.alloc(24)))
    await headgate.flowThat(({ kind, verdict, http }) => kind === 'http' && verdict === 'audit' && http?.path === '/other')
    const { stdout } = await machine.cli('observe', '-o', 'json')
    const flows = stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Flow)
    const audited = flows.filter(({ verdict }) => verdict === 'audit')
    t.true(audited.some(({ kind, destination, reason }) => kind === 'l3l4' && destination.port === 81 && reason === 'policy-denied'))
    t.true(audited.some(({ protocol }) => protocol === String(GRE) || protocol === 'GRE'))
    t.false(audited.some(({ http }) => http?.path === '/allowed'))
    t.false(flows.some(({ verdict }) => verdict === 'dropped'))
    const { counters } = await headgate.status()
    t.true(counters.some(({ verdict, reason }) => verdict === 'audited' && reason === 'policy-denied'))
    t.regex((await machine.cli('endpoint', 'list')).stdout, /default\/server .*ingress \(audit\)/)

    writeEndpoints(machine, [specOf(client), specOf(server)])
    await taken(headgate, async () => (await headgate.endpoints()).every(({ spec }) => spec?.audit === false))
    t.false(await reaches(machine, client, server, 81))
    t.is((await get(machine, client, `http://${server.address}/other`)).status, 403)
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 200)
  })
})

test.serial('a policy in audit denies nothing, and what it would deny is told beside what others deny', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    machine.writeWorkloads()
    await serve(machine, server, 80, 81, 82)
    headgate.start()
    const audited = policyOf('audited', 'server', rule('ingress', 'client', 80))
    const metadata = { name: 'audited', namespace: 'default', annotations: { 'headgate.io/audit': 'true' } }
    await headgate.apply('audited.json', { ...audited, metadata })
    await headgate.waitForEndpoint('server')
    for (const port of [80, 81]) t.true(await reaches(machine, client, server, port))
    await headgate.flowThat(({ verdict, destination }) => verdict === 'audit' && destination.port === 81)
    t.false((await headgate.flows()).some(({ verdict, destination }) => verdict === 'audit' && destination.port === 80))
    // Nothing can be asked about a fragment: it passes while only policies in audit restrict its receiver.
    const macOf = (netns: string, device: string): string =>
      (JSON.parse(ip('-n', netns, '-j', 'link', 'show', device)) as { address: string }[])[0]?.address ?? ''
    const payload = ipv4Packet(17, client.address, server.address, Buffer.alloc(24), 0x2000)
    const frame = ethernet(macOf(machine.hostNetns, client.device), macOf(client.netns, 'eth0'), 0x0800, payload)
    const fragments = async (verdict: string): Promise<number> => {
      sendFrame(client.netns, 'eth0', frame)
      const { counters } = await headgate.status()
      return Number(counters.find((row) => row.verdict === verdict && row.reason === 'fragment')?.packets ?? 0)
    }
    t.deepEqual([await fragments('audited'), await fragments('denied')], [1, 0])
    const all = policyOf('audited', 'server', { ingress: [{ fromEntities: ['all'] }], log: { value: 'trial' } })
    await headgate.apply('audited.json', { ...all, metadata })
    await headgate.apply('audited.json', all)
    t.deepEqual([await fragments('denied'), await fragments('audited')], [1, 2])
    t.true(await reaches(machine, client, server, 80))
    await headgate.flowThat(({ verdict, origins }) => verdict === 'forwarded' && origins.some(({ log }) => log === 'trial'))
    await headgate.apply('audited.json', { ...audited, metadata })
    const denying = policyOf('denying', 'server', { ingressDeny: [{ toPorts: [{ ports: [{ port: '82', protocol: 'TCP' }] }] }] })
    await headgate.apply('denying.json', { ...denying, spec: { ...(denying['spec'] as object), enableDefaultDeny: { ingress: false } } })
    t.false(await reaches(machine, client, server, 82))
    t.true(await reaches(machine, client, server, 81))
  })
})

test.serial('protocols without ports and SCTP pass where a rule allows them, as long as it does', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    machine.writeWorkloads()
    for (const protocol of [GRE, SCTP]) await listenRaw(machine, server, protocol)
    headgate.start()
    const allow = async (...ports: readonly Record<string, string>[]): Promise<boolean[]> => {
      const ingress = [{ fromEndpoints: [{ matchLabels: { app: 'client' } }], toPorts: [{ ports }] }]
      await headgate.apply('server.json', policyOf('server', 'server', { ingress }))
      await headgate.waitForEndpoint('server')
      return [
        await asksRaw(machine, client, server, GRE, Buffer.alloc(24)),
        await asksRaw(machine, client, server, SCTP, sctp(3868)),
        await asksRaw(machine, client, server, SCTP, sctp(3869)),
      ]
    }
    t.deepEqual(await allow({ port: '80', protocol: 'TCP' }), [false, false, false])
    t.deepEqual(await allow({ port: '0', protocol: 'GRE' }), [true, false, false])
    t.deepEqual(await allow({ port: '3868', protocol: 'SCTP' }), [false, true, false])
    t.deepEqual(await allow({ port: '3869', protocol: 'ANY' }), [false, false, true])
    t.is(await headgate.dropped('unknown-protocol'), 0)
  })
})

test.serial('a named port means each endpoint’s own, among endpoints of one identity too', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, one, two] = [machine.addWorkload('client'), machine.addWorkload('one'), machine.addWorkload('two')]
    const labels = { app: 'server' }
    writeEndpoints(machine, [
      specOf(client),
      specOf(one, { labels, ports: { web: '80/TCP' } }),
      specOf(two, { labels, ports: { web: '8080/TCP' } }),
    ])
    for (const server of [one, two]) await serve(machine, server, 80, 8080)
    headgate.start()
    const toPorts = [{ ports: [{ port: 'web', protocol: 'TCP' }] }]
    const from = [{ matchLabels: { app: 'client' } }]
    await headgate.apply('server.json', policyOf('server', 'server', { ingress: [{ fromEndpoints: from, toPorts }] }))
    const { identity } = await headgate.waitForEndpoint('one')
    t.is((await headgate.waitForEndpoint('two')).identity, identity)
    const reached = async (): Promise<string[]> => {
      const found: string[] = []
      for (const server of [one, two])
        for (const port of [80, 8080]) if (await reaches(machine, client, server, port)) found.push(`${server.name}:${port}`)
      return found
    }
    t.deepEqual(await reached(), ['one:80', 'two:8080'])
    // The same groups, so the same rows, after a restart.
    await headgate.kill('agent')
    t.deepEqual(await reached(), ['one:80', 'two:8080'])
    headgate.start('agent')
    await headgate.wait()
    t.deepEqual(await reached(), ['one:80', 'two:8080'])
    // For egress a peer's identity is known, and the ports of all endpoints that have it.
    await headgate.apply('server.json', policyOf('client', 'client', { egress: [{ toEndpoints: [{ matchLabels: labels }], toPorts }] }))
    t.deepEqual(await reached(), ['one:80', 'one:8080', 'two:80', 'two:8080'])
    writeEndpoints(machine, [specOf(client), specOf(one, { labels, ports: { web: '80/TCP' } })])
    await taken(headgate, async () => (await headgate.endpoints()).length === 2)
    t.deepEqual(
      (await reached()).filter((text) => text.startsWith('one')),
      ['one:80'],
    )
  })
})

test.serial('traffic of rules that are not enforced yet is denied, and status says so', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    machine.writeWorkloads()
    await serve(machine, server, 80, 9092)
    headgate.start()
    const from = [{ matchLabels: { app: 'client' } }]
    const cassandra = { ports: [{ port: '9092', protocol: 'TCP' }], rules: { cassandra: [{ action: 'select' }] } }
    const web = { ports: [{ port: '80', protocol: 'TCP' }] }
    await headgate.apply('store.json', policyOf('store', 'server', { ingress: [{ fromEndpoints: from, toPorts: [cassandra, web] }] }))
    await headgate.waitForEndpoint('server')
    t.true(await reaches(machine, client, server, 80))
    t.false(await reaches(machine, client, server, 9092))
    const warning = 'policy default/store: cassandra rules are not enforced yet: traffic to 9092/TCP is denied'
    t.deepEqual(
      (await headgate.status()).warnings.filter((text) => text.startsWith('policy ')),
      [warning],
    )
    t.true((await machine.cli('status')).stdout.includes(warning))
    t.is((await headgate.status()).slotCount, 0)
    // What another rule allows whatever is in it needs nobody who reads it.
    await headgate.apply('plain.json', policyOf('plain', 'server', rule('ingress', 'client', 9092)))
    t.true(await reaches(machine, client, server, 9092))
    t.deepEqual(
      (await headgate.status()).warnings.filter((text) => text.startsWith('policy ')),
      [],
    )
  })
})

test.serial('enforcement restricts whom policies select, everybody, or nobody', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [client, server] = [machine.addWorkload('client'), machine.addWorkload('server')]
    machine.writeWorkloads()
    await serve(machine, server, 80, 81)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80)))
    await headgate.waitForEndpoint('server')
    const under = async (policy: Record<string, unknown>): Promise<boolean[]> => {
      await headgate.kill('agent')
      machine.setConfig({ policy })
      headgate.start('agent')
      await headgate.wait()
      return [await reaches(machine, client, server, 80), await reaches(machine, client, server, 81)]
    }
    t.deepEqual(await under({ enforcement: 'default' }), [true, false])
    t.deepEqual(await under({ enforcement: 'always' }), [false, false])
    t.deepEqual(await under({ enforcement: 'always', audit: true }), [true, true])
    t.deepEqual(await under({ enforcement: 'never' }), [true, true])
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80)))
    t.deepEqual(await under({ enforcement: 'always' }), [true, false])
  })
})

test.serial('what is in force is exported as its texts, with addresses, as long as it is, refused or not', async (t) => {
  await withMachine(async (machine, headgate) => {
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    headgate.start()
    await headgate.apply('good.json', policyOf('good', 'server', { ingress: [{}] }))
    await headgate.waitForEndpoint('server')
    const good = readFileSync(join(machine.policiesFolder, 'good.json'), 'utf8')
    headgate.write('good.json', 'no policy')
    headgate.write('bad.json', 'no policy either')
    await headgate.wait()
    const exported = await new Promise<ExportPolicyResponse>((resolve, reject) =>
      headgate.local.exportPolicy(create(ExportPolicyRequestSchema), (error, response) =>
        error || response === undefined ? reject(error) : resolve(response),
      ),
    )
    t.deepEqual(
      exported.files.map(({ file, text, refusedText }) => ({ file, text, refusedText })).sort((a, b) => (a.file < b.file ? -1 : 1)),
      [
        { file: 'bad.json', text: '', refusedText: 'no policy either' },
        { file: 'good.json', text: good, refusedText: '' },
      ],
    )
    t.deepEqual(
      exported.endpoints.map(({ spec, addresses }) => [spec?.name, addresses]),
      [['server', [server.address]]],
    )
    t.like(exported, {
      cluster: 'default',
      dialect: 'extended',
      enforcement: 'default',
      audit: false,
      l7Proxy: true,
      allowLocalhost: false,
    })
    t.true(exported.nodes.some(({ labels }) => labels.includes('reserved:host')))
  })
})

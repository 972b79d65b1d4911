/** Thousands of changes: what Headgate holds afterwards is what it held before, in memory, in the kernel and in Envoy. */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { AddEndpointRequestSchema, EndpointSpecSchema, RemoveEndpointRequestSchema } from '#api/gen/headgate/v1/local_pb.js'
import { pinsOf, withKernelMaps } from '../support/kernel-maps.ts'
import { Machine, type Workload } from '../support/machine.ts'
import { residentMb } from '../support/memory.ts'
import { createRandom } from '../support/random.ts'
import { get, PROCESSES, type ProcessName, policyOf, Running, rule, serve } from '../support/running.ts'

const POLICY_CHANGE_COUNT = 2000
const WORKLOAD_CYCLE_COUNT = 300
const SAMPLES_MIN = 40
/** How much more a process may have resident at the end than in the middle: what a heap swings by. A leak of 25 KB a change is more. */
const GROWTH_MB_MAX: Readonly<Record<ProcessName, number>> = { agent: 20, proxy: 20, 'ext-host': 20, 'dns-proxy': 20, envoy: 10 }

interface Scene {
  readonly machine: Machine
  readonly headgate: Running
  readonly client: Workload
  readonly server: Workload
  readonly random: () => number
}

async function withScene(t: ExecutionContext, run: (scene: Scene) => Promise<void>): Promise<void> {
  const seed = Date.now() % 2 ** 31
  t.log({ seed })
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    machine.setConfig({ flows: {} })
    await serve(machine, server, 80, 81)
    headgate.start()
    await headgate.apply(
      'base.json',
      policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])),
      policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])),
      policyOf('guests', 'server', {
        ingress: [
          { fromEndpoints: [{ matchLabels: { role: 'guest' } }], toPorts: [{ ports: [{ port: '81', protocol: 'TCP' }] }] },
          {
            fromEndpoints: [{ matchLabels: { role: 'guest' } }],
            toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ path: '/guest' }] } }],
          },
        ],
      }),
    )
    t.is((await get(machine, client, `http://${server.address}/allowed`)).status, 200)
    await run({ machine, headgate, client, server, random: createRandom(seed) })
  } finally {
    headgate.close()
    await machine.dispose()
  }
}

/** Everything that is counted, and must be the same before and after. */
async function holdings({ machine, headgate }: Scene): Promise<Record<string, unknown>> {
  const status = await headgate.status()
  const { stdout } = await machine.run(machine.hostNetns, [
    'curl',
    '-s',
    '--unix-socket',
    join(machine.folder, 'run/envoy-admin.sock'),
    'http://envoy/listeners',
  ])
  return {
    ...withKernelMaps(machine, (maps) => ({
      endpoints: maps.endpoints.keys().length,
      endpointAddresses: maps.endpointAddresses.keys().length,
      ipcache: maps.ipcache.keys().length,
      policyGroups: maps.policyGroups.keys().length,
      slotPairs: maps.slotPairs.keys().length,
    })),
    pins: pinsOf(machine),
    slots: status.slotCount,
    identities: status.identityCount,
    endpointCount: status.endpointCount,
    refused: status.refusedPolicies.map(({ name }) => name),
    listeners: stdout.trim().split('\n').length,
    openFiles: Object.fromEntries(PROCESSES.map((name) => [name, readdirSync(`/proc/${pidOf(headgate, name)}/fd`).length])),
  }
}

/** Waits for what is let go with a delay: slots whose listeners drain, connections that are swept. */
async function settled(t: ExecutionContext, scene: Scene, before: Record<string, unknown>): Promise<void> {
  // A few descriptors come and go: connections of clients, timers.
  const comparable = ({ openFiles, ...rest }: Record<string, unknown>): string => JSON.stringify(rest)
  let after = await holdings(scene)
  for (let tries = 0; tries < 60 && comparable(after) !== comparable(before); tries++) {
    await delay(500)
    after = await holdings(scene)
  }
  const { openFiles: filesBefore, ...rest } = before
  const { openFiles: filesAfter, ...restAfter } = after
  t.log('open files', filesBefore, filesAfter)
  t.deepEqual(restAfter, rest)
  for (const name of PROCESSES) {
    const [was = 0, is = 0] = [filesBefore, filesAfter].map((files) => (files as Record<string, number>)[name])
    t.true(is <= was + 10, `${name} had ${was} files open, and has ${is}`)
  }
}

function pidOf(headgate: Running, name: ProcessName): number {
  return headgate.processes.get(name)?.pid ?? 0
}

/** Resident memory over a run. */
class Memory {
  readonly #headgate: Running
  readonly #samples: Record<ProcessName, number[]> = { agent: [], proxy: [], 'ext-host': [], 'dns-proxy': [], envoy: [] }

  constructor(headgate: Running) {
    this.#headgate = headgate
  }

  sample(): void {
    for (const name of PROCESSES) this.#samples[name].push(residentMb(pidOf(this.#headgate, name)).rss)
  }

  /** Of windows, the least: what is left after a collection. */
  judge(t: ExecutionContext): void {
    for (const name of PROCESSES) {
      const values = this.#samples[name]
      t.true(values.length >= SAMPLES_MIN)
      const least = (from: number, to: number): number => Math.min(...values.slice(values.length * from, values.length * to))
      const [first = 0] = values
      const figures = { first, middle: least(0.4, 0.55), last: least(0.85, 1), peak: Math.max(...values) }
      t.log(`${name} MB`, figures)
      t.true(figures.last - figures.middle < GROWTH_MB_MAX[name], `${name}: ${values.join(' ')}`)
    }
  }
}

const FILES = ['a.json', 'b.json', 'c.json', 'd.json'] as const

/** A file of policies that nobody has had before, of every kind; now and then one that is refused. */
function randomDocuments(change: number, random: () => number): Record<string, unknown>[] {
  const pick = (count: number): number => Math.floor(random() * count)
  const name = `p${change}`
  const paths = Array.from({ length: 1 + pick(5) }, (_, index) => ({ path: `/churn-${change}/${index}.*` }))
  const cidrs = Array.from({ length: 1 + pick(4) }, () => `10.${pick(256)}.${pick(256)}.0/24`)
  const kinds = [
    () => rule('ingress', 'client', 1000 + pick(1000)),
    () => rule('ingress', 'client', 80, paths),
    () => rule('ingress', `app-${pick(1e6)}`, 2000 + pick(100), paths),
    () => rule('egress', 'server', 3000 + pick(5), paths),
    () => ({ ingress: [{ fromCIDR: cidrs, toPorts: [{ ports: [{ port: '9000', endPort: 9000 + pick(900), protocol: 'TCP' }] }] }] }),
    () => ({
      egress: [
        {
          toCIDRSet: [{ cidr: '10.0.0.0/8', except: [cidrs[0]] }],
          toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: paths } }],
        },
      ],
    }),
    () => ({ ingressDeny: [{ fromEndpoints: [{ matchLabels: { app: `bad-${change}` } }] }], ingress: [{}] }),
    () => rule('ingress', 'client', -1),
  ]
  return Array.from({ length: 1 + pick(3) }, (_, index) => {
    const make = kinds[pick(kinds.length)] as () => Record<string, unknown>
    return policyOf(`${name}-${index}`, random() < 0.7 ? 'server' : 'client', make())
  })
}

test.serial(`after ${POLICY_CHANGE_COUNT} changes of policy nothing is left of them`, async (t) => {
  t.timeout(20 * 60_000)
  await withScene(t, async (scene) => {
    const { machine, headgate, client, server, random } = scene
    const url = `http://${server.address}`
    const memory = new Memory(headgate)
    const before = await holdings(scene)
    const startedMs = performance.now()
    const present = new Set<string>()
    for (let change = 0; change < POLICY_CHANGE_COUNT; change++) {
      const file = FILES[Math.floor(random() * FILES.length)] as string
      if (present.has(file) && random() < 0.2) {
        rmSync(join(machine.policiesFolder, file))
        present.delete(file)
        await headgate.wait()
      } else {
        await headgate.apply(file, ...randomDocuments(change, random))
        present.add(file)
      }
      if (change % 20 !== 0) continue
      memory.sample()
      const probe = `/probe-${change}`
      await headgate.apply('probe.json', policyOf('probe', 'server', rule('ingress', 'client', 80, [{ path: probe }])))
      t.is((await get(machine, client, `${url}/allowed`)).status, 200, `change ${change}`)
      t.is((await get(machine, client, `${url}${probe}`)).status, 200, `change ${change}`)
      t.is((await get(machine, client, `${url}/probe-none`)).status, 403, `change ${change}`)
    }
    t.log(`${Math.round((performance.now() - startedMs) / POLICY_CHANGE_COUNT)} ms a change`)
    for (const file of [...present, 'probe.json']) rmSync(join(machine.policiesFolder, file))
    await headgate.wait()
    memory.judge(t)
    await settled(t, scene, before)
  })
})

test.serial(`after ${WORKLOAD_CYCLE_COUNT} workloads have come and gone nothing is left of them`, async (t) => {
  t.timeout(20 * 60_000)
  await withScene(t, async (scene) => {
    const { machine, headgate, server } = scene
    const url = `http://${server.address}`
    const memory = new Memory(headgate)
    const before = await holdings(scene)
    const startedMs = performance.now()
    const ids = new Set<number>()
    for (let cycle = 0; cycle < WORKLOAD_CYCLE_COUNT; cycle++) {
      const name = `g${cycle}`
      // Few addresses, so that each passes on often.
      const guest = machine.addWorkload(name, `10.70.1.${1 + (cycle % 20)}`)
      const labels = { app: name, role: cycle % 3 === 0 ? 'stranger' : 'guest', ...(cycle % 2 === 0 ? { serial: String(cycle) } : {}) }
      const isByCommand = cycle % 2 === 1
      if (isByCommand) await addEndpoint(headgate, guest, labels)
      else machine.writeWorkloads({ [name]: labels })
      ids.add((await headgate.waitForEndpoint(name, 60_000)).id)
      await headgate.wait()
      const statuses = await Promise.all(
        [`${url}/guest`, `${url}/other`, `${url}:81/`].map(async (asked) => (await get(machine, guest, asked, '-m', '0.5')).status),
      )
      t.deepEqual(statuses, labels.role === 'guest' ? [200, 403, 200] : [0, 0, 0], `cycle ${cycle}`)
      // In turns the device goes first and Headgate is told first.
      if (cycle % 4 < 2) machine.removeWorkload(name)
      if (isByCommand) await removeEndpoint(headgate, name)
      if (cycle % 4 >= 2) machine.removeWorkload(name)
      if (!isByCommand) machine.writeWorkloads()
      if (cycle % 5 === 0) memory.sample()
    }
    t.log(`${Math.round((performance.now() - startedMs) / WORKLOAD_CYCLE_COUNT)} ms a cycle`)
    memory.judge(t)
    await settled(t, scene, before)
    const leftOf = (): number =>
      withKernelMaps(machine, (maps) => maps.conntrack.keys().filter(({ endpointId }) => ids.has(endpointId)).length)
    t.is(leftOf(), 0)
  })
})

function addEndpoint(headgate: Running, { name, netns, address }: Workload, labels: Record<string, string>): Promise<void> {
  const spec = create(EndpointSpecSchema, {
    name,
    namespace: 'default',
    labels,
    attachment: { case: 'netns', value: netns },
    ipv4: [address],
  })
  return new Promise((resolve, reject) => {
    headgate.local.addEndpoint(create(AddEndpointRequestSchema, { spec }), (error) => (error ? reject(error) : resolve()))
  })
}

function removeEndpoint(headgate: Running, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    headgate.local.removeEndpoint(create(RemoveEndpointRequestSchema, { namespace: 'default', name }), (error) =>
      error ? reject(error) : resolve(),
    )
  })
}

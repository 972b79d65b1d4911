/** Everything dies at once. What policy said before, or what it was about to say, is what it says afterwards: whole, and never open. */
import { once } from 'node:events'
import { watch, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { startLoad } from '../support/load.ts'
import { Machine, ROOT, type Workload } from '../support/machine.ts'
import { createRandom } from '../support/random.ts'
import { get, PROCESSES, policyOf, Running, rule, serve } from '../support/running.ts'
import { Supervised } from '../support/supervised.ts'

const NAMES = ['old', 'new'] as const
type Name = (typeof NAMES)[number]
const FILE = 'shop.json'
const DEATH_COUNT = 8
/** Short: a probe that policy drops in the kernel costs as much. */
const ANSWER_SECONDS = '0.4'

/** One whole policy: what a path of the server, a port of it and a port of the database may be asked for is said in documents of their own. */
function shop(name: Name): Record<string, unknown>[] {
  const port = name === 'old' ? 81 : 82
  // So that reading, compiling and writing rows take long enough to be interrupted.
  const others = Array.from({ length: 60 }, (_, index) =>
    policyOf(`other-${index}`, 'server', rule('ingress', `${name}-${index}`, 90 + index)),
  )
  return [
    policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: `/${name}` }])),
    ...others,
    policyOf('server-direct', 'server', rule('ingress', 'client', port)),
    policyOf('database', 'database', rule('ingress', 'client', port)),
    policyOf('client', 'client', { egress: [{}, { toEndpoints: [{}] }] }),
  ]
}

interface Scene {
  readonly machine: Machine
  readonly client: Workload
  readonly server: Workload
  readonly database: Workload
}

/** What the client gets, as one line. */
async function seen({ machine, client, server, database }: Scene): Promise<string> {
  const asked = [
    `${server.address}/old`,
    `${server.address}/new`,
    `${server.address}:81/`,
    `${server.address}:82/`,
    `${database.address}:81/`,
    `${database.address}:82/`,
  ]
  return (await Promise.all(asked.map((url) => get(machine, client, `http://${url}`, '-m', ANSWER_SECONDS))))
    .map(({ status }) => status)
    .join(' ')
}

const SEEN: Readonly<Record<Name, string>> = { old: '200 403 200 0 200 0', new: '403 200 0 200 0 200' }

/** Asks all the time, until it is stopped, for what neither policy allows. @returns how often it was asked and how often answered */
async function askForbidden(
  machine: Machine,
  from: Workload,
  stop: AbortSignal,
  ...urls: readonly string[]
): Promise<{ asked: number; open: number }> {
  const counts = { asked: 0, open: 0 }
  const ask = async (url: string): Promise<void> => {
    while (!stop.aborted) {
      const { status } = await get(machine, from, url, '-m', '0.2')
      counts.asked++
      if (status === 200) counts.open++
      await delay(50)
    }
  }
  await Promise.all(urls.map(ask))
  return counts
}

test.serial('when everything is killed while policy is applied, the old policy or the new one is in force afterwards, whole', async (t) => {
  const seed = Date.now() % 2 ** 31
  const random = createRandom(seed)
  t.log({ seed })
  const stop = new AbortController()
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    const [client, server, database] = ['client', 'server', 'database'].map((name) => machine.addWorkload(name)) as [
      Workload,
      Workload,
      Workload,
    ]
    const scene: Scene = { machine, client, server, database }
    machine.writeWorkloads()
    await serve(machine, server, 80, 81, 82, 83)
    await serve(machine, database, 81, 82, 83)
    const fileOf = (name: Name): string => join(machine.folder, `${name}.json`)
    for (const name of NAMES) {
      const text = shop(name).map((document) => JSON.stringify(document))
      writeFileSync(fileOf(name), text.join('\n---\n'))
    }
    headgate.start()
    await headgate.apply(FILE, ...shop('old'))
    t.is(await seen(scene), SEEN.old)

    const asking = askForbidden(
      machine,
      client,
      stop.signal,
      `http://${server.address}/never`,
      `http://${server.address}:83/`,
      `http://${database.address}:83/`,
    )
    const outcomes: string[] = []
    let inForce: Name = 'old'
    let writesAfterMs = 0
    for (let round = 0; round < DEATH_COUNT; round++) {
      const next: Name = inForce === 'old' ? 'new' : 'old'
      writesAfterMs = await applyAndKill(headgate, fileOf(next), random, round % 2 === 0 ? undefined : writesAfterMs)
      headgate.start()
      await headgate.wait()
      const now = await seen(scene)
      const found = NAMES.find((name) => SEEN[name] === now)
      outcomes.push(found === next ? 'new' : 'old')
      t.not(found, undefined, `round ${round}, from ${inForce} to ${next}: ${now}`)
      inForce = found ?? inForce
    }
    stop.abort()
    const asked = await asking
    t.log(outcomes.join(' '), asked)
    t.is(asked.open, 0)
    t.true(asked.asked > 100)
  } finally {
    stop.abort()
    headgate.close()
    await machine.dispose()
  }
})

/**
 * Starts `policy apply` and kills it, and everything else, at a moment around that at which it writes.
 * @param beforeMs to do so at any moment until then, whether it has written or not
 * @returns after what time it wrote
 */
async function applyAndKill(headgate: Running, file: string, random: () => number, beforeMs?: number): Promise<number> {
  const { machine } = headgate
  const apply = machine.start(machine.hostNetns, [
    join(ROOT, 'bin/headgate'),
    'policy',
    'apply',
    '--config',
    machine.configFile,
    '--name',
    FILE,
    '--file',
    file,
  ])
  const startedMs = performance.now()
  let writesAfterMs = beforeMs ?? 0
  const end = once(apply, 'exit')
  const watcher = watch(machine.policiesFolder)
  try {
    // The first event is the temporary file's; all is read and in force within some 100 ms.
    const writing = Promise.race([once(watcher, 'change'), end])
    if (beforeMs !== undefined) await Promise.race([end, delay(random() * beforeMs)])
    else {
      await writing
      writesAfterMs = performance.now() - startedMs
      await delay(random() * 120)
    }
  } finally {
    watcher.close()
  }
  apply.kill('SIGKILL')
  await Promise.all([end, ...PROCESSES.map((name) => headgate.kill(name))])
  return writesAfterMs
}

test.serial('killing `up` again and again fails no request, whatever the next one finds', async (t) => {
  const machine = new Machine()
  const headgate = new Running(machine)
  const supervised = new Supervised(machine)
  try {
    const client = machine.addWorkload('client')
    const server = machine.addWorkload('server')
    machine.writeWorkloads()
    await serve(machine, server, 80)
    supervised.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed.*' }])))
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])))
    const load = await startLoad(machine, client, `http://${server.address}`, 60, 150)
    const envoy = supervised.pidOf('envoy')
    await killUp(t, supervised, [])
    await killUp(t, supervised, ['proxy'])
    await killUp(t, supervised, ['agent'])
    await killUp(t, supervised, ['agent', 'proxy'])
    await headgate.apply('extra.json', policyOf('extra', 'server', rule('ingress', 'client', 80, [{ path: '/extra' }])))
    t.is((await get(machine, client, `http://${server.address}/extra`)).status, 200)
    t.is(supervised.pidOf('envoy'), envoy)
    load.stop()
    const result = await load.result
    t.log(result)
    t.deepEqual([result.failed, result.wronglyAllowed, result.wronglyDenied], [0, 0, 0], result.samples.join('\n'))
    t.true(result.allowed > 100 && result.denied > 30)
  } finally {
    headgate.close()
    await machine.dispose()
  }
})

/** Kills `up`, then some of what it ran, and starts another `up`, which adopts what lives and starts what does not. */
async function killUp(t: ExecutionContext, supervised: Supervised, orphans: readonly ('agent' | 'proxy')[]): Promise<void> {
  await supervised.killUp()
  const before = new Map(PROCESSES.map((name) => [name, supervised.pidOf(name)]))
  for (const name of orphans) process.kill(before.get(name) ?? 0, 'SIGKILL')
  supervised.start()
  const isSettled = (): boolean =>
    PROCESSES.every((name) =>
      new RegExp(`${name} ${(orphans as readonly string[]).includes(name) ? 'started' : 'found running'}`).test(supervised.log),
    )
  for (let tries = 0; tries < 1000 && !isSettled(); tries++) await delay(10)
  t.true(isSettled(), supervised.log)
  for (const name of PROCESSES) t.is(supervised.pidOf(name) === before.get(name), !(orphans as readonly string[]).includes(name), name)
}

/** Damaged input of every kind: policy files, state files and frames. Nothing crashes, and nothing is ever wider than policy. */
import { once } from 'node:events'
import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { parseAllDocuments, stringify } from 'yaml'
import { PolicyEngine } from '#policy/engine.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { PROBLEM_COUNT_MAX } from '#policy/problems.ts'
import { SystemCallError } from '#sys/errors.ts'
import { LIMITS, subjectOf } from '../policy/world.ts'
import { ethernet, ipv4Packet, macBytes, PacketSocket, TCP_ACK, TCP_SYN, tcpFrame } from '../support/frames.ts'
import { ip, Machine, ROOT, type Workload } from '../support/machine.ts'
import { createRandom } from '../support/random.ts'
import { get, policyOf, Running, rule, serve } from '../support/running.ts'

const POLICY_FILE_COUNT = 20_000
const PARSE_MS_MAX = 2000
const STATE_DAMAGE_COUNT = 80
const FRAME_COUNT = 40_000
const FRAMES_AT_ONCE = 50

type Random = () => number

function startRandom(t: ExecutionContext): Random {
  const seed = Date.now() % 2 ** 31
  t.log({ seed })
  return createRandom(seed)
}

function below(random: Random, count: number): number {
  return Math.floor(random() * count)
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[below(random, values.length)] as T
}

/** Some damage: bits, bytes, pieces lost, doubled or moved, an end that is missing. Never the same bytes. */
function damaged(bytes: Buffer, random: Random): Buffer {
  for (;;) {
    const result = damagedOnce(bytes, random)
    if (!result.equals(bytes)) return result
  }
}

function damagedOnce(bytes: Buffer, random: Random): Buffer {
  const at = below(random, bytes.length + 1)
  const length = below(random, Math.min(64, bytes.length - at + 1))
  const changed = Buffer.from(bytes)
  const ways: (() => Buffer)[] = [
    () => {
      for (let count = 1 + below(random, 8); count > 0 && changed.length > 0; count--) {
        const index = below(random, changed.length)
        changed[index] = (changed[index] ?? 0) ^ (1 << below(random, 8))
      }
      return changed
    },
    () => changed.fill(below(random, 256), at, at + length),
    () => changed.subarray(0, at),
    () => Buffer.concat([changed.subarray(0, at), changed.subarray(at + length)]),
    () => Buffer.concat([changed.subarray(0, at + length), changed.subarray(at)]),
    () => Buffer.concat([changed.subarray(0, at), Buffer.from(pick(random, PIECES)), changed.subarray(at)]),
  ]
  return pick(random, ways)()
}

/** What means something to YAML or to policy. */
const PIECES = [
  '"',
  "'",
  '\n',
  '\t',
  ': ',
  '- ',
  '---\n',
  '&a ',
  '*a',
  '<<: *a\n',
  '!!binary ',
  '{',
  '}',
  '[',
  ']',
  '|',
  '>',
  '#',
  '%YAML 1.2\n',
  '\0',
  '\u{feff}',
  '\u{1f600}',
  '\ud800',
  '0x',
  '1e999',
  '-1',
  '~',
  '*',
  '(',
  '(?i)',
  '.*'.repeat(20),
  'a{1000}{1000}',
  '0.0.0.0/0',
  '::/0',
  '999.1.1.1/40',
  'x'.repeat(300),
]

/** The same for a document's tree: values of other types, keys of others, parts lost, doubled, nested. */
function mutated(value: unknown, random: Random, depth = 0): unknown {
  if (random() < 0.03)
    return pick<unknown>(random, [
      null,
      true,
      0,
      -1,
      65536,
      1e21,
      '',
      '80',
      'TCP',
      [],
      {},
      [{}],
      [null],
      { a: [] },
      [[value]],
      { value },
      pick(random, PIECES),
    ])
  if (depth > 20) return value
  if (Array.isArray(value)) {
    const items = value.filter(() => random() > 0.03).map((item) => mutated(item, random, depth + 1))
    return random() < 0.05 ? [...items, ...items] : items
  }
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).filter(() => random() > 0.03)
  return Object.fromEntries(entries.map(([key, item]) => [random() < 0.02 ? pick(random, FIELDS) : key, mutated(item, random, depth + 1)]))
}

const FIELDS = [
  'ingress',
  'egress',
  'ingressDeny',
  'fromEndpoints',
  'toCIDRSet',
  'toPorts',
  'ports',
  'rules',
  'http',
  'matchLabels',
  'matchExpressions',
  'operator',
  'values',
  'except',
  'endPort',
  'spec',
  'specs',
  'items',
  '__proto__',
  'constructor',
  'toString',
  '',
]

function policySeeds(): string[] {
  const folder = join(ROOT, 'examples/policies')
  return [...readdirSync(folder).map((name) => join(folder, name)), join(ROOT, 'test/fixtures/policy/shop.yaml')].map((file) =>
    readFileSync(file, 'utf8'),
  )
}

test.serial('whatever becomes of a policy file, its reader says what is wrong and where, in bounded time', (t) => {
  t.timeout(15 * 60_000)
  const random = startRandom(t)
  const seeds = policySeeds()
  const trees = seeds.map((text) => parseAllDocuments(text).map((document) => document.toJS() as unknown))
  const counts = { accepted: 0, refused: 0, problems: 0 }
  let slowestMs = 0
  for (let index = 0; index < POLICY_FILE_COUNT; index++) {
    let text: string
    if (random() < 0.5) {
      text = pick(random, trees)
        .map((tree) => mutated(tree, random))
        .map((tree) => (random() < 0.3 ? JSON.stringify(tree) : stringify(tree ?? null)))
        .join('---\n')
    } else {
      let bytes: Buffer = Buffer.from(random() < 0.2 ? pick(random, seeds) + pick(random, seeds) : pick(random, seeds))
      for (let times = 1 + below(random, 4); times > 0; times--) bytes = damaged(bytes, random)
      text = bytes.toString('utf8')
    }
    const startedMs = performance.now()
    try {
      const { documents, refused, problems } = parsePolicyFile(text, 'fuzzed.yaml', LIMITS)
      const lineCount = text.split(/\r\n|\r|\n/).length
      for (const { file, line, column, message, severity } of problems) {
        const isPlaced = file === 'fuzzed.yaml' && line >= 1 && line <= lineCount && column >= 1
        if (!isPlaced || message === '' || !['error', 'warning'].includes(severity))
          throw new Error(`${file}:${line}:${column} ${severity} ${message}, of ${lineCount} lines`)
      }
      const isRefused = problems.some(({ severity }) => severity === 'error')
      if (isRefused !== (documents.length === 0)) throw new Error(`refused ${isRefused} with ${documents.length} documents`)
      if (problems.length > PROBLEM_COUNT_MAX + 1) throw new Error(`${problems.length} problems`)
      const engine = new PolicyEngine()
      engine.upsertFile('fuzzed.yaml', documents, refused)
      engine.upsertIdentity({ id: 300, labels: ['k8s:io.kubernetes.pod.namespace=default', 'k8s:app=api'] })
      engine.addSubject(subjectOf({ id: 300, labels: [] }))
      engine.commit()
      if (isRefused) counts.refused++
      else counts.accepted++
      counts.problems += problems.length
    } catch (error) {
      t.log(JSON.stringify(text))
      throw new Error(`file ${index}`, { cause: error })
    }
    const ms = performance.now() - startedMs
    slowestMs = Math.max(slowestMs, ms)
    if (ms > PARSE_MS_MAX) t.fail(`${ms} ms: ${JSON.stringify(text)}`)
  }
  t.log({ ...counts, slowestMs })
  t.true(counts.accepted > 100 && counts.refused > 1000)
})

/** Files below a folder, relative to it. */
function filesBelow(folder: string): string[] {
  return (readdirSync(folder, { recursive: true }) as string[]).filter((name) => statSync(join(folder, name)).isFile()).sort()
}

test.serial('whatever becomes of a state file, its process starts as before or names it and stops, and nothing is wider', async (t) => {
  t.timeout(20 * 60_000)
  const random = startRandom(t)
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    const client = machine.addWorkload('client')
    machine.writeWorkloads()
    const server = machine.addWorkload('server')
    await serve(machine, server, 80, 81)
    headgate.start()
    await headgate.apply('server.json', policyOf('server', 'server', rule('ingress', 'client', 80, [{ path: '/allowed' }])))
    await headgate.apply('client.json', policyOf('client', 'client', rule('egress', 'server', 80, [{ path: '/.*' }])))
    const added = await machine.cli('endpoint', 'add', 'server', '--netns', server.netns, '--label', 'app=server')
    t.is(added.code, 0, added.stderr)
    await headgate.wait()
    // From now on everything comes from the state alone: no policy folder, no workloads file that can be read.
    rmSync(machine.policiesFolder, { recursive: true })
    writeFileSync(machine.workloadsFile, 'endpoints: [')
    const url = `http://${server.address}`
    const statusesOf = () =>
      Promise.all(
        [`${url}/allowed`, `${url}/denied`, `${url}:81/`].map(async (asked) => (await get(machine, client, asked, '-m', '0.3')).status),
      )
    const known = async () => (await headgate.endpoints()).map(({ id, identity, spec, state }) => [id, identity, spec?.labels, state])
    const start = async (name: 'agent' | 'proxy'): Promise<'up' | 'refused'> => {
      headgate.start(name)
      const child = headgate.processes.get(name)
      if (child === undefined) throw new Error(`no ${name}`)
      const outcome = await Promise.race([once(child, 'exit').then(() => 'refused' as const), headgate.wait().then(() => 'up' as const)])
      if (outcome === 'refused') t.regex(child.log, name === 'agent' ? /HG-2006/ : /HG-5(?:001|904)/)
      return outcome
    }
    const kill = async (): Promise<void> => {
      await headgate.kill('agent')
      await headgate.kill('proxy')
    }
    await kill()
    headgate.start('proxy')
    t.is(await start('agent'), 'up')
    t.deepEqual(await statusesOf(), [200, 403, 0])
    const endpointsBefore = await known()
    await kill()

    const state = join(machine.folder, 'state')
    const good = join(machine.folder, 'good')
    cpSync(state, good, { recursive: true })
    const outcomes: Record<string, { up: number; refused: number }> = {}
    for (let index = 0; index < STATE_DAMAGE_COUNT; index++) {
      rmSync(state, { recursive: true })
      cpSync(good, state, { recursive: true })
      const file = pick(random, filesBelow(state))
      const bytes = readFileSync(join(state, file))
      const changed = damaged(bytes, random)
      writeFileSync(join(state, file), changed)
      const about = `${file}: ${JSON.stringify(changed.toString('latin1').slice(0, 4000))}`
      const isProxys = file.startsWith('proxy/')
      let outcome: 'up' | 'refused'
      if (isProxys) {
        // The agent, which would tell the proxy process everything anew, comes later.
        headgate.start('proxy')
        const child = headgate.processes.get('proxy')
        if (child === undefined) throw new Error('no proxy')
        const isRefused = await Promise.race([once(child, 'exit').then(() => true), connected(machine).then(() => false)])
        outcome = isRefused ? 'refused' : 'up'
        if (isRefused) t.regex(child.log, /HG-5(?:001|904)/, about)
      } else {
        headgate.start('proxy')
        outcome = await start('agent')
      }
      const counts = outcomes[file] ?? { up: 0, refused: 0 }
      counts[outcome]++
      outcomes[file] = counts
      const [allowed, ...others] = await statusesOf()
      t.deepEqual(others, [403, 0], about)
      if (outcome === 'up') t.is(allowed, 200, about)
      if (outcome === 'up' && !isProxys) t.deepEqual(await known(), endpointsBefore, about)
      await kill()
    }
    t.log(outcomes)
  } finally {
    headgate.close()
    await machine.dispose()
  }
})

/** Resolves when the proxy process serves Envoy. */
async function connected(machine: Machine): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const { stdout } = await machine.run(machine.hostNetns, ['ss', '-Hxl', 'src', join(machine.folder, 'run/xds.sock')])
    if (stdout.trim() !== '') return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const OPEN_PORT = 9000

interface Place {
  readonly attacker: Workload
  readonly server: Workload
  readonly ownMac: string
  readonly hostMac: string
}

/** A frame that somebody with a raw socket may think of: nearly right, and then damaged. */
function randomFrame({ attacker, server, ownMac, hostMac }: Place, random: Random): Buffer {
  const source =
    random() < 0.8 ? attacker.address : pick(random, [server.address, '10.70.0.99', '127.0.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255'])
  const destination =
    random() < 0.7
      ? server.address
      : pick(random, [attacker.address, '10.70.0.99', '127.0.0.1', '255.255.255.255', '224.0.0.1', '169.254.1.1'])
  const port = random() < 0.5 ? OPEN_PORT : below(random, 65536)
  const payload = Buffer.from(Array.from({ length: below(random, 64) }, () => below(random, 256)))
  const udp = (length = payload.length + 8): Buffer => {
    const header = Buffer.alloc(8)
    header.writeUInt16BE(below(random, 65536), 0)
    header.writeUInt16BE(port, 2)
    header.writeUInt16BE(length & 0xffff, 4)
    return Buffer.concat([header, payload])
  }
  const ipv4 = (protocol: number, body: Buffer, fragment = 0): Buffer =>
    ethernet(hostMac, ownMac, 0x0800, ipv4Packet(protocol, source, destination, body, fragment))
  const kinds: (() => Buffer)[] = [
    () => ipv4(17, udp()),
    () => ipv4(17, udp(below(random, 65536))),
    () => ipv4(17, udp(), pick(random, [0x2000, 0x4000, 1, 0x1fff, 0x2001])),
    () =>
      tcpFrame({
        destinationMac: hostMac,
        sourceMac: ownMac,
        source,
        destination,
        sourcePort: below(random, 65536),
        destinationPort: port,
        flags: pick(random, [TCP_SYN, TCP_ACK, TCP_SYN | TCP_ACK, 0, 0xff, 1, 4]),
        payload,
      }),
    () =>
      ipv4(
        1,
        Buffer.concat([
          Buffer.from([below(random, 20), below(random, 4), 0, 0, 0, 1, 0, 1]),
          ipv4Packet(17, server.address, attacker.address, udp()),
        ]),
      ),
    () => ipv4(below(random, 256), payload),
    () => ethernet(hostMac, ownMac, below(random, 65536), payload),
    () =>
      ethernet(
        hostMac,
        ownMac,
        0x8100,
        Buffer.concat([Buffer.from([0, below(random, 256), 8, 0]), ipv4Packet(17, source, destination, udp())]),
      ),
    () =>
      ethernet(
        hostMac,
        ownMac,
        0x86dd,
        Buffer.concat([Buffer.from([0x60, 0, 0, 0, 0, payload.length, 17, 64]), Buffer.alloc(32, 0xfe), payload]),
      ),
    () =>
      ethernet(
        hostMac,
        ownMac,
        0x0806,
        Buffer.concat([
          Buffer.from([0, 1, 8, 0, 6, 4, 0, 2]),
          macBytes(ownMac),
          Buffer.from(source.split('.').map(Number)),
          macBytes(hostMac),
          Buffer.from([169, 254, 1, 1]),
        ]),
      ),
    () => Buffer.from(Array.from({ length: 14 + below(random, 200) }, () => below(random, 256))),
  ]
  const frame = pick(random, kinds)()
  if (random() < 0.4) return frame
  // The kernel takes nothing shorter than an Ethernet header.
  const changed = damaged(frame, random).subarray(0, 1500)
  return changed.length < 14 ? frame : changed
}

/** Whether policy lets the server have it: UDP of the attacker's to the open port, whole. */
function isAllowed(frame: Buffer, { attacker, server }: Place): boolean {
  return (
    frame.length >= 42 &&
    frame.readUInt16BE(12) === 0x0800 &&
    frame[14] === 0x45 &&
    frame[23] === 17 &&
    (frame.readUInt16BE(20) & 0x3fff) === 0 &&
    [...frame.subarray(26, 30)].join('.') === attacker.address &&
    [...frame.subarray(30, 34)].join('.') === server.address &&
    frame.readUInt16BE(36) === OPEN_PORT
  )
}

/** What goes without a count: ARP in the sender's own name or in nobody's, and VLAN tags cut short, which no program gets to see. */
function isUncounted(frame: Buffer, { attacker }: Place): boolean {
  const type = frame.readUInt16BE(12)
  if (type === 0x8100 || type === 0x88a8) return frame.length < 20
  return (
    type === 0x0806 &&
    frame.length >= 32 &&
    frame.subarray(16, 20).equals(Buffer.from([8, 0, 6, 4])) &&
    [attacker.address, '0.0.0.0'].includes([...frame.subarray(28, 32)].join('.'))
  )
}

test.serial('of any frames that a workload sends only those arrive that policy allows, and the kernel counts each', async (t) => {
  t.timeout(15 * 60_000)
  const random = startRandom(t)
  const machine = new Machine()
  const headgate = new Running(machine)
  const sockets: PacketSocket[] = []
  try {
    const attacker = machine.addWorkload('attacker')
    const server = machine.addWorkload('server')
    const bystander = machine.addWorkload('bystander')
    for (const { netns } of [attacker, server, bystander]) await machine.run(netns, ['sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1'])
    machine.inHost('sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1')
    machine.writeWorkloads()
    // Silent: an answer, or an error because nobody listens, would be counted too.
    const script = `require('node:dgram').createSocket('udp4').bind(${OPEN_PORT}, () => console.log('listening'))`
    const listener = machine.start(server.netns, [join(ROOT, 'bin/node'), '-e', script])
    await once(listener.stdout as NodeJS.ReadableStream, 'data')
    headgate.start()
    const open = { toPorts: [{ ports: [{ port: String(OPEN_PORT), protocol: 'UDP' }] }] }
    await headgate.apply(
      'all.json',
      policyOf('attacker', 'attacker', { ingress: [{}], egress: [{ toEndpoints: [{ matchLabels: { app: 'server' } }], ...open }] }),
      policyOf('server', 'server', { egress: [{}], ingress: [{ fromEndpoints: [{ matchLabels: { app: 'attacker' } }], ...open }] }),
    )
    const macOf = (netns: string, device: string): string =>
      (JSON.parse(ip('-n', netns, '-j', 'link', 'show', device)) as { address: string }[])[0]?.address ?? ''
    const place: Place = { attacker, server, ownMac: macOf(attacker.netns, 'eth0'), hostMac: macOf(machine.hostNetns, attacker.device) }
    const sender = new PacketSocket(attacker.netns, 'eth0')
    const others = [server, bystander].map((workload) => ({
      workload,
      mac: macBytes(macOf(workload.netns, 'eth0')),
      socket: new PacketSocket(workload.netns, 'eth0'),
    }))
    sockets.push(sender, ...others.map(({ socket }) => socket))
    const counted = async (): Promise<number> =>
      (await headgate.status()).counters.filter(({ direction }) => direction === 2).reduce((sum, { packets }) => sum + Number(packets), 0)

    const before = await counted()
    const counts = { sent: 0, uncounted: 0, arrived: 0, arp: 0 }
    for (let index = 0; index < FRAME_COUNT; index += FRAMES_AT_ONCE) {
      const batch = Array.from({ length: FRAMES_AT_ONCE }, () => randomFrame(place, random))
      for (const frame of batch) {
        try {
          sender.send(frame)
          counts.sent++
          if (isUncounted(frame, place)) counts.uncounted++
        } catch (error) {
          // What the sender's own kernel does not take has not been sent.
          if (!(error instanceof SystemCallError)) throw error
        }
      }
      for (const { workload, mac, socket } of others) {
        for (const frame of socket.receiveAll()) {
          // What the workload sends itself is seen too.
          if (frame.subarray(6, 12).equals(mac)) continue
          if (frame.readUInt16BE(12) === 0x0806) counts.arp++
          else if (workload === server && isAllowed(frame, place)) counts.arrived++
          else t.fail(`${workload.name} got ${frame.toString('hex')}, after ${batch.map((each) => each.toString('hex')).join(' ')}`)
        }
      }
    }
    const after = await counted()
    t.log(
      { ...counts, counted: after - before },
      (await headgate.status()).counters.map(({ verdict, reason, direction, packets }) => `${direction} ${verdict} ${reason} ${packets}`),
    )
    t.is(after - before, counts.sent - counts.uncounted)
    t.true(counts.arrived > FRAME_COUNT / 100)
  } finally {
    for (const socket of sockets) socket.close()
    headgate.close()
    await machine.dispose()
  }
})

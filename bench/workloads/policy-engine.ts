/**
 * The agent's way from policy to the kernel's maps without its endpoints: engine, slots and rows as the agent puts them together, on maps
 * of their own. Started by bench/g10.ts with the agent's own Node flags; its last line is what it measured.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import '#agent/agent.ts'
import { ControlServer } from '#agent/control-server.ts'
import { EndpointRows } from '#agent/datapath/endpoint-rows.ts'
import { PolicySync } from '#agent/datapath/policy-sync.ts'
import { SlotAllocator } from '#agent/datapath/slots.ts'
import { policyKeyCodec, policyValueCodec, VERDICT_ALLOW, VERDICT_DENY } from '#bpf/gen/abi.ts'
import { Kernel, removePins } from '#bpf/kernel.ts'
import { policyRowsMap } from '#bpf/maps.ts'
import { PROGRAMS_PATH } from '#config/package.ts'
import { PolicyEngine } from '#policy/engine.ts'
import type { PolicyDocument } from '#policy/model.ts'
import type { ParseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import type { PolicyDelta } from '#policy/resolved.ts'
import { mapFdById } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { shrinkMemory, shrinkMemoryIfGrown } from '#sys/memory.ts'
import { residentMb } from '../../test/support/memory.ts'
import { createRandom } from '../../test/support/random.ts'

const IDENTITIES = 10_000
const POLICIES = 1_000
const ENDPOINTS = 32
const APPS = 500
const TIERS = 50
const FIRST_IDENTITY = 1_000
const FIRST_SUBJECT = 100_000
const TCP = 6
const IDLE_MS = 10_000
const PARSE: ParseOptions = { dialect: 'extended', regexProgramSizeMax: 10_000, l7Proxy: true, extendedIpProtocols: false }
const NAMESPACE = 'k8s:io.kubernetes.pod.namespace=default'

/** One rule: a wide one about a tier of 200 identities now and then, else about an app of 20; every fifth with HTTP rules. */
function textOf(index: number, version: number): string {
  const who = index % 10 === 9 ? { tier: `t${(index + version) % TIERS}` } : { app: `a${(index * 7 + version * 13) % APPS}` }
  const port = { port: String(8_000 + ((index + version) % 50)), protocol: 'TCP' }
  const rules = index % 5 === 4 ? { rules: { http: [{ method: 'GET', path: `/v${version}/items/${index}` }] } } : {}
  return JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: `p${index}` },
    spec: {
      endpointSelector: { matchLabels: { subject: `s${index % ENDPOINTS}` } },
      ingress: [{ fromEndpoints: [{ matchLabels: who }], toPorts: [{ ports: [port], ...rules }] }],
    },
  })
}

function parse(index: number, version: number): readonly PolicyDocument[] {
  const { documents, problems } = parsePolicyFile(textOf(index, version), `p${index}.json`, PARSE)
  if (documents.length === 0) throw new Error(`the bench's own policy is refused: ${JSON.stringify(problems)}`)
  return documents
}

function startEngine(): PolicyEngine {
  const engine = new PolicyEngine()
  for (let index = 0; index < IDENTITIES; index++) {
    engine.upsertIdentity({ id: FIRST_IDENTITY + index, labels: [NAMESPACE, `k8s:app=a${index % APPS}`, `k8s:tier=t${index % TIERS}`] })
  }
  for (let index = 0; index < ENDPOINTS; index++) {
    const identity = FIRST_SUBJECT + index
    engine.upsertIdentity({ id: identity, labels: [NAMESPACE, `k8s:subject=s${index}`] })
    engine.addSubject({ group: identity, identity, namedPorts: [], audit: false })
  }
  return engine
}

class Machine {
  readonly kernel: Kernel
  readonly sync: PolicySync
  readonly #pins: string
  readonly #state: string
  readonly #control: ControlServer

  constructor(pins: string) {
    this.#pins = pins
    this.#state = mkdtempSync(join(tmpdir(), 'headgate-g10-'))
    this.kernel = Kernel.load(PROGRAMS_PATH, pins, { conntrack: 1024, ipcache: 1024 })
    const slots = new SlotAllocator(this.#state, 20_000, 4_000)
    this.#control = new ControlServer(slots.epoch, slots.firstRevision, { onListenersReport: () => {}, onFlows: () => {} })
    const endpoints = new EndpointRows(this.kernel, false)
    this.sync = new PolicySync(this.kernel, slots, this.#control, endpoints, 16_384, { onWritten: () => {}, isOnlyAudited: () => false })
  }

  get revision(): bigint {
    return this.#control.revision
  }

  close(): void {
    this.sync.stop()
    removePins(this.#pins)
    rmSync(this.#state, { recursive: true })
  }
}

function apply(machine: Machine, engine: PolicyEngine): PolicyDelta {
  const delta = engine.commit()
  machine.sync.apply(delta)
  return delta
}

/** Everything from nothing, into maps that are empty. */
function fullMs(pins: string, documents: readonly (readonly PolicyDocument[])[]): number {
  const engine = startEngine()
  const machine = new Machine(pins)
  const before = performance.now()
  for (const [index, its] of documents.entries()) engine.upsertFile(`p${index}.json`, its, [])
  apply(machine, engine)
  const ms = performance.now() - before
  machine.close()
  return ms
}

/** What the kernel's maps say of flows, against an engine that starts with the result. @returns what differs */
function check(machine: Machine, versions: readonly number[], random: () => number): { checked: number; wrong: string[] } {
  const fresh = startEngine()
  for (const [index, version] of versions.entries()) fresh.upsertFile(`p${index}.json`, parse(index, version), [])
  const groups = new Map(fresh.commit().changed.map((group) => [group.group, group]))
  const wrong: string[] = []
  let checked = 0
  for (const [number, group] of groups) {
    const id = machine.kernel.maps.policyGroups.get(number)
    const fd = id === undefined ? undefined : mapFdById(id)
    if (fd === undefined) {
      wrong.push(`group ${number} is not in the kernel`)
      continue
    }
    const rows = policyRowsMap(fd)
    for (let count = 0; count < 500; count++) {
      const identity = FIRST_IDENTITY + Math.floor(random() * IDENTITIES)
      const port = 8_000 + Math.floor(random() * 50)
      const row = group.rows.get(`i/${identity}/${TCP}/${port}/16`)
      const value = rows.get({ prefixLength: policyKeyCodec.size * 8 - 32, identity, direction: 0, protocol: TCP, port })
      // Redirects wait for listeners that nobody answers for here: until then a deny holds their place.
      const [expected, actual] = [row?.verdict === 'allow', value?.verdict === VERDICT_ALLOW]
      checked += 1
      if (expected !== actual || (row === undefined) !== (value === undefined))
        wrong.push(`${number} ${identity} ${port}: ${expected}, in the kernel ${value?.verdict ?? VERDICT_DENY}`)
    }
    close(fd)
  }
  return { checked, wrong }
}

const [mode = '', pins = '', count = '1'] = process.argv.slice(2)
if (policyValueCodec.size !== 16) throw new Error('the layout of policy rows is another one: adapt the check')
const result = mode === 'full' ? measureFull() : await measureChanges()
process.stdout.write(`${JSON.stringify(result)}\n`)

function measureFull(): { readonly full: readonly number[] } {
  const documents = Array.from({ length: POLICIES }, (_, index) => parse(index, 0))
  return { full: Array.from({ length: Number(count) }, () => fullMs(pins, documents)) }
}

async function measureChanges(): Promise<object> {
  const random = createRandom(7)
  const versions = Array.from({ length: POLICIES }, () => 0)
  const engine = startEngine()
  const machine = new Machine(pins)
  for (const [index, version] of versions.entries()) engine.upsertFile(`p${index}.json`, parse(index, version), [])
  apply(machine, engine)
  shrinkMemory()
  const rowsInKernel = machine.sync.rowCounts.reduce((sum, rows) => sum + rows, 0)
  const parseMs: number[] = []
  const changeMs: number[] = []
  let rowCount = 0
  for (let time = 0; time < Number(count); time++) {
    const index = Math.floor(random() * POLICIES)
    versions[index] = (versions[index] ?? 0) + 1
    const before = performance.now()
    const changed = parse(index, versions[index])
    const parsed = performance.now()
    engine.upsertFile(`p${index}.json`, changed, [])
    const delta = apply(machine, engine)
    changeMs.push(performance.now() - parsed)
    parseMs.push(parsed - before)
    rowCount += delta.changed.reduce((sum, { changedRows }) => sum + changedRows.size, 0)
  }
  const rssAtOnceMb = residentMb(process.pid)
  // As the agent does when policy has not changed for a while (agent/agent.ts).
  shrinkMemoryIfGrown()
  await delay(IDLE_MS)
  const rssMb = residentMb(process.pid)
  const oracle = check(machine, versions, random)
  machine.close()
  return { changeMs, parseMs, rowsInKernel, rowsWrittenAChange: rowCount / Number(count), rssMb, rssAtOnceMb, oracle }
}

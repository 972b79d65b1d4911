import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { ControlServer } from '#agent/control-server.ts'
import type { Slot } from '#agent/datapath/slots.ts'
import {
  Control,
  DnsEndpointSchema,
  type DnsReport,
  DnsReportSchema,
  type DnsUpdate,
  NameSelectorSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { createClient } from '#api/grpc.ts'
import { DesiredState } from '#dns-proxy/desired-state.ts'
import type { ResolvedRuleset } from '#policy/resolved.ts'

const EPOCH = 7n

function slot(id: number, kind: 'dns' | 'http', names: readonly string[] = [], more: Partial<ResolvedRuleset> = {}): Slot {
  const allow = names.map((matchName) => ({ name: `shop/web/egress/${matchName}`, rule: kind === 'dns' ? { matchName } : { headers: [] } }))
  const ruleset = { kind, parser: '', allowAll: false, allow, deny: [], serverNames: [], conflict: '', ...more }
  return { id, generation: 1, direction: 'egress', port: 20_000 + id, group: 300, classKey: '', ruleset }
}

const selector = (id: number, matchName: string) => create(NameSelectorSchema, { id, matchName })
const endpoint = (id: number, address: string) => create(DnsEndpointSchema, { id, addresses: [address] })

class Node {
  readonly server = new ControlServer(EPOCH, 100n, { onListenersReport: () => {}, onFlows: () => {} })
  readonly folder = mkdtempSync(join(tmpdir(), 'headgate-dns-feed-'))
  #client: ReturnType<typeof createClient<typeof Control.method>> | undefined
  #close: (() => void) | undefined

  async start(t: ExecutionContext): Promise<this> {
    this.#close = await this.server.listen(join(this.folder, 'control.sock'))
    this.#client = createClient(Control, join(this.folder, 'control.sock'))
    t.teardown(() => {
      this.#client?.close()
      this.#close?.()
      rmSync(this.folder, { recursive: true })
    })
    return this
  }

  /** A DNS process as far as the agent sees one. */
  process(state = new DesiredState(join(this.folder, 'desired.bin'))): Process {
    return new Process(this.#client!.syncDns(), state)
  }
}

class Process {
  readonly state: DesiredState
  readonly call: ClientDuplexStream<DnsReport, DnsUpdate>
  readonly updates: DnsUpdate[] = []
  refused = 0

  constructor(call: ClientDuplexStream<DnsReport, DnsUpdate>, state: DesiredState) {
    this.call = call
    this.state = state
    call.on('error', () => {})
    call.on('data', (update: DnsUpdate) => {
      this.updates.push(update)
      if (this.state.apply(update) === undefined) this.refused += 1
    })
    this.report()
  }

  report(listening: readonly number[] = []): void {
    const { epoch, revision } = this.state
    this.call.write(create(DnsReportSchema, { epoch, appliedRevision: revision, listening: [...listening], pid: 5, version: 'v' }))
  }

  async has(revision: bigint): Promise<void> {
    const deadline = performance.now() + 5000
    while (this.state.revision !== revision) {
      if (performance.now() > deadline) throw new Error(`revision ${this.state.revision}, not ${revision}`)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }
}

test('slots about DNS go to the DNS process, others to the proxy, and one that changes its kind moves', async (t) => {
  const node = await new Node().start(t)
  const { dns } = node.server
  const process = node.process()
  node.server.update([slot(1, 'dns', ['a.test.']), slot(2, 'http')], [])
  await process.has(dns.revision)
  t.deepEqual([...process.state.slots.keys()], [1])
  t.deepEqual(
    process.state.slots.get(1)?.ruleset?.rules.map(({ matchName }) => matchName),
    ['a.test.'],
  )
  t.false(node.server.isListening(1, 1))
  process.report([(1 << 12) | 1])
  while (!node.server.isListening(1, 1)) await new Promise((resolve) => setTimeout(resolve, 2))
  t.true(node.server.isApplied(1, 1))
  t.false(node.server.isListening(1, 2), 'another life of the slot')
  node.server.update([slot(1, 'http')], [])
  await process.has(dns.revision)
  t.is(process.state.slots.size, 0)
  t.false(node.server.isApplied(1, 1))
})

test('whatever changes, the process holds what the agent means, and one that comes back late gets everything', async (t) => {
  const node = await new Node().start(t)
  const { dns } = node.server
  const id = fc.integer({ min: 1, max: 4 })
  const name = fc.constantFrom('a.test.', 'b.test.', 'c.test.')
  const step = fc.oneof(
    fc.tuple(fc.constant('slot' as const), id, name),
    fc.tuple(fc.constant('noSlot' as const), id, name),
    fc.tuple(fc.constant('selectors' as const), id, name),
    fc.tuple(fc.constant('endpoint' as const), id, name),
    fc.tuple(fc.constant('noEndpoint' as const), id, name),
    fc.tuple(fc.constant('reconnect' as const), id, name),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      let process = node.process()
      for (const [what, number, text] of steps) {
        if (what === 'slot') node.server.update([slot(number, 'dns', [text])], [])
        else if (what === 'noSlot') node.server.update([], [slot(number, 'dns')])
        else if (what === 'selectors')
          dns.setSelectors(Array.from({ length: number }, (_, index) => selector(index + 1, `${index}.${text}`)))
        else if (what === 'endpoint') dns.upsertEndpoints([endpoint(number, `10.0.0.${text.charCodeAt(0)}`)])
        else if (what === 'noEndpoint') dns.removeEndpoints([number])
        else {
          process.call.end()
          process = node.process(process.state)
        }
      }
      dns.setLists({ claimedPrefixes: ['10.9.0.1'], trustedServers: [], mapsFolder: '/m' })
      await process.has(dns.revision)
      if (process.refused > 0) throw new Error(`${process.refused} updates did not fit`)
      process.call.end()
    }),
    { numRuns: 60, includeErrorInReport: true },
  )
  t.pass()
})

test('the copy on disk is what was stated, and a process that has it is told only what is new', async (t) => {
  const node = await new Node().start(t)
  const { dns } = node.server
  const process = node.process()
  node.server.update([slot(1, 'dns', ['a.test.'])], [])
  dns.setSelectors([selector(1 << 25, 'a.test.')])
  dns.setLists({ claimedPrefixes: ['10.9.0.1'], trustedServers: ['10.9.0.2'], mapsFolder: '/maps' })
  await process.has(dns.revision)
  await process.state.persist()
  const next = new DesiredState(join(node.folder, 'desired.bin'))
  const change = next.load()
  t.deepEqual(
    change?.selectors.come.map(({ matchName }) => matchName),
    ['a.test.'],
  )
  t.deepEqual([next.mapsFolder, next.claimedPrefixes, next.trustedServers], ['/maps', ['10.9.0.1'], ['10.9.0.2']])
  process.call.end()
  while (dns.state.connected) await new Promise((resolve) => setTimeout(resolve, 2))
  const again = node.process(next)
  while (!dns.state.connected) await new Promise((resolve) => setTimeout(resolve, 2))
  dns.setSelectors([])
  await again.has(dns.revision)
  t.is(again.updates.filter(({ full }) => full).length, 0, 'it had everything but the last step')
})

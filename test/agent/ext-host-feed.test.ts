import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { ControlServer } from '#agent/control-server.ts'
import type { Slot } from '#agent/datapath/slots.ts'
import { digestOfKeys, digestOfSlots } from '#api/digest.ts'
import {
  Control,
  type ExtHostReport,
  ExtHostReportSchema,
  type ExtHostUpdate,
  MismatchAction,
  ProxyCapability,
  type ProxyReport,
  ProxyReportSchema,
  type ProxyUpdate,
} from '#api/gen/headgate/v1/control_pb.js'
import { createClient } from '#api/grpc.ts'
import type { HeaderMatch, HttpRule } from '#parsers/http/rules.ts'
import type { NamedRule, ResolvedRuleset } from '#policy/resolved.ts'

const CAPABILITIES = [ProxyCapability.HTTP_DENY, ProxyCapability.HTTP_HEADER_MATCHES]

function named(name: string, rule: Partial<HttpRule>): NamedRule<HttpRule> {
  return { name, rule: { headers: [], ...rule } }
}

function ruleset(more: Partial<ResolvedRuleset> = {}): ResolvedRuleset {
  return { kind: 'http', parser: '', allowAll: false, allow: [], deny: [], serverNames: [], conflict: '', ...more }
}

/** Rules that ask for a secret of that name. */
function asking(name: string, match: Partial<HeaderMatch> = {}): ResolvedRuleset {
  return ruleset({ allow: [named('a', { headerMatches: [{ name: 'x-a', secret: { namespace: 'n', name }, ...match }] })] })
}

function slot(id: number, rules: ResolvedRuleset): Slot {
  return { id, generation: 1, direction: 'ingress', port: 20_000 + id, group: 300, classKey: '', ruleset: rules }
}

/** Updates in the order of their coming. */
class Peer<R, U> {
  readonly updates: U[] = []
  readonly call: ClientDuplexStream<R, U>

  constructor(call: ClientDuplexStream<R, U>) {
    this.call = call
    call.on('error', () => {})
    call.on('data', (update: U) => this.updates.push(update))
  }

  async next(): Promise<U> {
    while (this.updates.length === 0) await once(this.call, 'data')
    return this.updates.shift()!
  }
}

class Node {
  readonly server = new ControlServer(7n, 100n, { onListenersReport: () => {}, onFlows: () => {} })
  readonly #folder = mkdtempSync(join(tmpdir(), 'headgate-feed-'))
  #client: ReturnType<typeof createClient<typeof Control.method>> | undefined
  #close: (() => void) | undefined

  async start(t: ExecutionContext): Promise<this> {
    this.#close = await this.server.listen(join(this.#folder, 'control.sock'))
    this.#client = createClient(Control, join(this.#folder, 'control.sock'))
    t.teardown(() => {
      this.#client?.close()
      this.#close?.()
      rmSync(this.#folder, { recursive: true })
    })
    return this
  }

  proxy(capabilities: readonly ProxyCapability[] = CAPABILITIES): Peer<ProxyReport, ProxyUpdate> {
    const peer = new Peer(this.#client!.syncProxy())
    peer.call.write(create(ProxyReportSchema, { capabilities: [...capabilities] }))
    return peer
  }

  extHost(appliedRevision = 0n): Peer<ExtHostReport, ExtHostUpdate> {
    const peer = new Peer(this.#client!.syncExtHost())
    peer.call.write(create(ExtHostReportSchema, { epoch: 7n, appliedRevision, pid: 5, version: 'v' }))
    return peer
  }
}

function extHostHas(peer: Peer<ExtHostReport, ExtHostUpdate>, appliedRevision: bigint): void {
  peer.call.write(create(ExtHostReportSchema, { epoch: 7n, appliedRevision, pid: 5, version: 'v' }))
}

async function until(isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error('it did not come to be')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

test('a slot whose rules need it has a key, by which the extension host has the rules', async (t) => {
  const node = await new Node().start(t)
  node.server.update([slot(1, { ...asking('s'), shadow: ruleset() }), slot(2, ruleset()), slot(3, asking('s'))], [])
  const { slots } = await node.proxy().next()
  const [first, second, third] = slots
  t.regex(first!.extHostKey, /^[0-9a-f]{32}$/)
  t.is(second!.extHostKey, '')
  t.is(third!.extHostKey, first!.extHostKey)
  const update = await node.extHost().next()
  t.true(update.full)
  t.deepEqual(
    update.rulesets.map(({ key }) => key),
    [first!.extHostKey],
  )
  const [{ ruleset: judged } = { ruleset: undefined }] = update.rulesets
  t.is(judged?.shadow, undefined)
  t.deepEqual(judged?.http[0]?.headerMatches[0]?.secret?.name, 's')
  t.deepEqual(Buffer.from(update.digest), Buffer.from(digestOfKeys([first!.extHostKey])))
})

test('conditions on headers reach the proxy as they are', async (t) => {
  const node = await new Node().start(t)
  const headerMatches: HeaderMatch[] = [
    { name: 'x-a', value: '1', mismatch: 'ADD' },
    { name: 'x-b', mismatch: 'LOG' },
  ]
  node.server.update([slot(1, ruleset({ allow: [named('a', { headerMatches })] }))], [])
  const { slots } = await node.proxy().next()
  t.is(slots[0]?.extHostKey, '')
  t.deepEqual(
    slots[0]?.ruleset?.http[0]?.headerMatches.map(({ name, value, mismatch }) => [name, value, mismatch]),
    [
      ['x-a', '1', MismatchAction.ADD],
      ['x-b', undefined, MismatchAction.LOG],
    ],
  )
})

test('a proxy that knows no conditions on headers is told less, never more', async (t) => {
  const node = await new Node().start(t)
  const headerMatches: HeaderMatch[] = [{ name: 'x-a', secret: { namespace: 'n', name: 's' } }]
  const allow = [named('a', { headerMatches }), named('b', { path: '/b' })]
  node.server.update([slot(1, ruleset({ allow, deny: [named('d', { path: '/d', headerMatches })] }))], [])
  const { slots, digest } = await node.proxy([ProxyCapability.HTTP_DENY]).next()
  const [only] = slots
  t.is(only?.extHostKey, '')
  t.deepEqual(
    only?.ruleset?.http.map(({ name }) => name),
    ['b'],
  )
  t.deepEqual(
    only?.ruleset?.httpDeny.map(({ path, headerMatches: matches }) => [path, matches.length]),
    [['/d', 0]],
  )
  t.deepEqual(Buffer.from(digest), Buffer.from(digestOfSlots(slots)))
})

test('a proxy is told of a key when the extension host has its rules', async (t) => {
  const node = await new Node().start(t)
  const proxy = node.proxy()
  await proxy.next()
  const extHost = node.extHost()
  await extHost.next()
  extHostHas(extHost, 100n)
  node.server.update([slot(1, asking('s'))], [])
  const offered = await extHost.next()
  t.deepEqual([offered.full, offered.rulesets.length], [false, 1])
  t.is(proxy.updates.length, 0)
  // Nor of anything else, for the updates of a proxy are in one order.
  node.server.update([slot(2, ruleset())], [])
  t.is(proxy.updates.length, 0)
  extHostHas(extHost, offered.revision)
  t.is((await proxy.next()).slots.length, 2)
})

test('an extension host that does not answer is waited for once, half a second', async (t) => {
  const node = await new Node().start(t)
  const proxy = node.proxy()
  await proxy.next()
  const extHost = node.extHost()
  await extHost.next()
  const started = performance.now()
  node.server.update([slot(1, asking('s'))], [])
  await proxy.next()
  t.true(performance.now() - started > 450)
  const again = performance.now()
  node.server.update([slot(2, asking('t'))], [])
  await proxy.next()
  t.true(performance.now() - again < 250)
})

test('an extension host that is not there, or goes, is not waited for', async (t) => {
  const node = await new Node().start(t)
  const proxy = node.proxy()
  await proxy.next()
  const started = performance.now()
  node.server.update([slot(1, asking('s'))], [])
  await proxy.next()
  const extHost = node.extHost()
  extHostHas(extHost, (await extHost.next()).revision)
  await until(() => node.server.extHost.isApplied)
  node.server.update([slot(2, asking('t'))], [])
  await extHost.next()
  extHost.call.cancel()
  await proxy.next()
  t.true(performance.now() - started < 450)
  t.false(node.server.extHost.state.connected)
})

test('rules are taken back when the proxy has applied that no slot has them', async (t) => {
  const node = await new Node().start(t)
  const proxy = node.proxy()
  const extHost = node.extHost()
  await proxy.next()
  await extHost.next()
  const one = slot(1, asking('s'))
  node.server.update([one], [])
  const offered = await extHost.next()
  extHostHas(extHost, offered.revision)
  await proxy.next()
  node.server.update([], [one])
  const { revision } = await proxy.next()
  t.false(node.server.extHost.isNeeded)
  proxy.call.write(create(ProxyReportSchema, { epoch: 7n, appliedRevision: revision - 1n, capabilities: CAPABILITIES }))
  await until(() => node.server.proxy.appliedRevision === revision - 1n)
  t.is(extHost.updates.length, 0)
  proxy.call.write(create(ProxyReportSchema, { epoch: 7n, appliedRevision: revision, capabilities: CAPABILITIES }))
  const taken = await extHost.next()
  t.deepEqual([taken.full, taken.removedKeys], [false, [offered.rulesets[0]!.key]])
  t.deepEqual(Buffer.from(taken.digest), Buffer.from(digestOfKeys([])))
})

test('rules that are needed again before they were taken back stay', async (t) => {
  const node = await new Node().start(t)
  const proxy = node.proxy()
  const extHost = node.extHost()
  await proxy.next()
  await extHost.next()
  const one = slot(1, asking('s'))
  node.server.update([one], [])
  extHostHas(extHost, (await extHost.next()).revision)
  await proxy.next()
  node.server.update([], [one])
  node.server.update([slot(2, asking('s'))], [])
  const revision = node.server.revision
  proxy.call.write(create(ProxyReportSchema, { epoch: 7n, appliedRevision: revision, capabilities: CAPABILITIES }))
  await until(() => node.server.proxy.appliedRevision === revision)
  t.is(extHost.updates.length, 0)
  t.true(node.server.extHost.isNeeded)
})

test('an extension host that holds everything is told nothing, another one everything', async (t) => {
  const node = await new Node().start(t)
  node.server.update([slot(1, asking('s'))], [])
  const first = node.extHost()
  const { revision } = await first.next()
  const second = node.extHost(revision)
  await until(() => node.server.extHost.isApplied)
  t.is(second.updates.length, 0)
  t.true((await node.extHost(revision - 1n).next()).full)
})

test('all is applied when the extension host has what slots need', async (t) => {
  const node = await new Node().start(t)
  node.server.update([slot(1, asking('s'))], [])
  const proxy = node.proxy()
  const { revision } = await proxy.next()
  let isApplied = false
  void node.server.applied().then(() => {
    isApplied = true
  })
  proxy.call.write(create(ProxyReportSchema, { epoch: 7n, appliedRevision: revision, capabilities: CAPABILITIES }))
  await until(() => node.server.proxy.appliedRevision === revision)
  t.false(isApplied)
  const extHost = node.extHost()
  extHostHas(extHost, (await extHost.next()).revision)
  await until(() => isApplied)
  t.pass()
})

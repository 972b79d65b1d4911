import { createServer as createTcpServer } from 'node:net'
import { join } from 'node:path'
import type { Server } from '@grpc/grpc-js'
import test from 'ava'
import { closeServer, createServer, listenOnSocket } from '#api/grpc.ts'
import { slotName } from '#proxy/slot-name.ts'
import type { Resource } from '#proxy/xds/resource.ts'
import { clusterResources, listenerResource, rulesetResource } from '#proxy/xds/resources.ts'
import { XdsServer } from '#proxy/xds/server.ts'
import { Snapshot } from '#proxy/xds/snapshot.ts'
import { EXTENSION_CONFIG_TYPE, LISTENER_TYPE, type TypeUrl } from '#proxy/xds/type-urls.ts'
import { Stack, slotOf } from '../support/stack.ts'

const stack = new Stack({ upstreamPort: 18085, withoutProxy: true })
const settings = {
  ingressNetns: undefined,
  denied: { status: 403, body: 'no' },
  accessLog: { mode: 'denied', sampleRate: 0 },
  extHostSocket: '/run/ext-host.sock',
  l7Transport: 'relay',
  extProcKbps: 1024,
  relaySockets: ['/run/relay/0.sock'],
  extHostTimeoutMs: 1000,
  ruleCounters: false,
} as const

test.before(() => stack.start())
test.after.always(() => stack.close())

/** Serves a snapshot until Envoy has said what it thinks of one resource in it, then goes away as a killed process does. */
async function verdictOn(name: string, snapshot: Snapshot, typeUrl: TypeUrl = EXTENSION_CONFIG_TYPE): Promise<'acknowledged' | 'refused'> {
  const path = join(stack.config.paths.run, 'xds.sock')
  const verdict = Promise.withResolvers<'acknowledged' | 'refused'>()
  const xds = new XdsServer({
    connected: () => {},
    disconnected: () => {},
    acknowledged: (one) => one.typeUrl === typeUrl && one.name === name && verdict.resolve('acknowledged'),
    refused: (list) => list.some((one) => one.typeUrl === typeUrl && one.name === name) && verdict.resolve('refused'),
    unsubscribed: () => {},
    ignored: () => {},
  })
  const server: Server = createServer()
  xds.register(server)
  xds.setSnapshot(snapshot)
  await listenOnSocket(server, path, { mode: 0o600 })
  const result = await verdict.promise
  closeServer(server, path)
  return result
}

function snapshotOf(id: number, seal: (rules: Resource) => Resource): Snapshot {
  const slot = slotOf(id, { http: [{ name: 'bad', path: '(' }] })
  return Snapshot.of([
    ...clusterResources(settings),
    listenerResource(slot, settings),
    seal(rulesetResource(slot, slot.ruleset!, settings)),
  ])
}

test.serial('without a seal Envoy acknowledges on the next stream what it refused on the last: the trap that seals are for', async (t) => {
  const snapshot = snapshotOf(1, (rules) => ({ ...rules, encode: () => rules.encode('always the same') }))
  t.is(await verdictOn(slotName(slotOf(1, {})), snapshot), 'refused')
  t.is(await verdictOn(slotName(slotOf(1, {})), snapshot), 'acknowledged')
})

test.serial('with a seal it refuses again', async (t) => {
  const snapshot = snapshotOf(2, (rules) => rules)
  t.is(await verdictOn(slotName(slotOf(2, {})), snapshot), 'refused')
  t.is(await verdictOn(slotName(slotOf(2, {})), snapshot), 'refused')
})

test.serial('a listener needs none: as long as its port is taken it is refused on every stream', async (t) => {
  const squatter = createTcpServer().listen(20003, '127.0.0.1')
  const name = slotName(slotOf(3, {}))
  const snapshot = snapshotOf(3, (rules) => rules)
  for (const _ of [1, 2]) t.is(await verdictOn(name, snapshot, LISTENER_TYPE), 'refused')
  squatter.close()
  t.is(await verdictOn(name, snapshot, LISTENER_TYPE), 'acknowledged')
})

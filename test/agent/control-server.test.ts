import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { ControlServer } from '#agent/control-server.ts'
import type { Slot } from '#agent/datapath/slots.ts'
import { digestOfSlots } from '#api/digest.ts'
import { Control, ProxyCapability, ProxyReportSchema, type ProxyUpdate } from '#api/gen/headgate/v1/control_pb.js'
import { createClient } from '#api/grpc.ts'
import type { ResolvedRuleset } from '#policy/resolved.ts'

const RULESET: ResolvedRuleset = {
  kind: 'http',
  parser: '',
  allowAll: true,
  allow: [],
  deny: [{ name: 'default/p/ingress/1', rule: { path: '/admin', headers: [] } }],
  serverNames: [],
  conflict: '',
}

function slot(id: number, ruleset: ResolvedRuleset): Slot {
  return { id, generation: 1, direction: 'ingress', port: 20_000 + id, group: 300, classKey: '', ruleset }
}

/** What a proxy with these capabilities is told first. */
async function firstUpdate(t: ExecutionContext, capabilities: readonly ProxyCapability[]): Promise<ProxyUpdate> {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-control-'))
  const server = new ControlServer(1n, 1n, { onListenersReport: () => {}, onFlows: () => {} })
  const close = await server.listen(join(folder, 'control.sock'))
  server.update([slot(1, RULESET), slot(2, { ...RULESET, deny: [] })], [])
  const client = createClient(Control, join(folder, 'control.sock'))
  const call = client.syncProxy()
  t.teardown(() => {
    call.cancel()
    client.close()
    close()
    rmSync(folder, { recursive: true })
  })
  call.on('error', () => {})
  call.write(create(ProxyReportSchema, { capabilities: [...capabilities] }))
  const [update] = (await once(call, 'data')) as [ProxyUpdate]
  return update
}

test('a proxy is told the deny rules of a ruleset', async (t) => {
  const { slots, digest } = await firstUpdate(t, [ProxyCapability.HTTP_DENY])
  t.deepEqual(
    slots.map(({ ruleset }) => [ruleset?.allowAll, ruleset?.httpDeny.map(({ path }) => path)]),
    [
      [true, ['/admin']],
      [true, []],
    ],
  )
  t.deepEqual(Buffer.from(digest), Buffer.from(digestOfSlots(slots)))
})

test('one that does not know deny rules gets a ruleset that denies everything in place of one with them', async (t) => {
  const { slots, digest } = await firstUpdate(t, [])
  t.deepEqual(
    slots.map(({ ruleset }) => [ruleset?.allowAll, ruleset?.http.length, ruleset?.httpDeny.length]),
    [
      [false, 0, 0],
      [true, 0, 0],
    ],
  )
  t.deepEqual(Buffer.from(digest), Buffer.from(digestOfSlots(slots)))
})

import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { FlowBuilder, type FlowContext } from '#agent/flows/flow-builder.ts'
import { HTTPAccessLogEntrySchema } from '#api/gen/envoy/data/accesslog/v3/accesslog_pb.js'
import { HttpFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import { flowOf } from '#proxy/access-log/entry.ts'

const SLOT = 7
const ROW = ['default/plain/ingress/0123456789ab-0', 'shop/strict/ingress/ba9876543210-0']

/** Knows one slot, and the row that leads 10.0.0.1 to it at port 80. */
const context = (direction: 'ingress' | 'egress'): FlowContext => ({
  node: 'node',
  endpointById: () => undefined,
  endpointByAddress: () => undefined,
  identityOf: () => 2,
  labelsOf: () => [],
  originsOf: () => [],
  originsOfConnection: (slotId, remote, servicePort) => (slotId === SLOT && remote === '10.0.0.1' && servicePort === 80 ? ROW : []),
  directionOfSlot: (id) => (id === SLOT ? direction : undefined),
})

function originsOf(rule: string, allowed = true, direction: 'ingress' | 'egress' = 'ingress'): unknown {
  const [near, far] = ['10.0.0.2', '10.0.0.1']
  const [sourceAddress, destinationAddress] = direction === 'ingress' ? [far, near] : [near, far]
  const http = create(HttpFlowSchema, {
    slotId: SLOT,
    sourceAddress,
    destinationAddress,
    sourcePort: 4711,
    destinationPort: 80,
    allowed,
    rule,
  })
  return new FlowBuilder(context(direction)).fromEnvoy(http)?.origins
}

const BEHIND_THE_ROW = [
  { policy: 'default/plain', rule: ROW[0] },
  { policy: 'shop/strict', rule: ROW[1] },
]

test('a request that an HTTP rule allows has that rule’s policy', (t) => {
  const rule = 'shop/strict/ingress/0123456789ab'
  t.deepEqual(originsOf(rule), [{ policy: 'shop/strict', rule }])
})

test('a request that is allowed whatever it asks for has the policies of its connection', (t) => {
  t.deepEqual(originsOf(''), BEHIND_THE_ROW)
  t.deepEqual(originsOf('', true, 'egress'), BEHIND_THE_ROW)
})

test('what is no rule of a policy is none, whatever an older proxy calls it', (t) => {
  t.deepEqual(originsOf('*'), BEHIND_THE_ROW)
})

test('a denied request has no rule behind it', (t) => {
  t.deepEqual(originsOf('', false), [])
})

test('Envoy’s name for "everything is allowed" does not leave the proxy', (t) => {
  const entryOf = (policy: string) =>
    create(HTTPAccessLogEntrySchema, {
      commonProperties: {
        metadata: {
          filterMetadata: {
            'envoy.filters.http.rbac': { enforced_engine_result: 'allowed', enforced_effective_policy_id: policy },
          },
        },
      },
    })
  t.like(flowOf(entryOf('*')), { allowed: true, rule: '' })
  t.like(flowOf(entryOf('a/b/ingress/0123456789ab')), { allowed: true, rule: 'a/b/ingress/0123456789ab' })
})

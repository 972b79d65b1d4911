import { create, type MessageInitShape } from '@bufbuild/protobuf'
import test from 'ava'
import { FlowBuilder, type FlowContext } from '#agent/flows/flow-builder.ts'
import { HTTPAccessLogEntrySchema } from '#api/gen/envoy/data/accesslog/v3/accesslog_pb.js'
import { HttpFlowSchema, MismatchAction, RelayFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import { eventCodec, VERDICT_ALLOW, VERDICT_AUDIT, VERDICT_DENY, VERDICT_REDIRECT } from '#bpf/gen/abi.ts'
import { flowOf } from '#proxy/access-log/entry.ts'
import { addressToBytes } from '#sys/addresses.ts'

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

const POLICY_RULE = 'shop/strict/ingress/0123456789ab'

test('a request is denied by the deny rule that matches it', (t) => {
  t.deepEqual(originsOf(POLICY_RULE, false), [{ policy: 'shop/strict', rule: POLICY_RULE }])
})

test('a request that only policy in audit denies is passed and told as audit, with the rule that would deny it', (t) => {
  const flow = (rule: string, audit: boolean, allowed = true) =>
    new FlowBuilder(context('ingress')).fromEnvoy(
      create(HttpFlowSchema, {
        slotId: SLOT,
        sourceAddress: '10.0.0.1',
        destinationPort: 80,
        allowed,
        audit,
        rule,
        details: 'via_upstream',
      }),
    )
  t.like(flow(POLICY_RULE, true), { verdict: 'audit', reason: '', origins: [{ policy: 'shop/strict', rule: POLICY_RULE }] })
  // The lack of a rule denies it; what lets its connection through has no part in that.
  t.like(flow('', true), { verdict: 'audit', origins: [] })
  t.like(flow('', false), { verdict: 'forwarded' })
  t.like(flow('', false, false), { verdict: 'dropped' })
})

test('a verdict of the kernel is told by its own word, an unknown one as a drop', (t) => {
  const builder = new FlowBuilder(context('ingress'))
  const bytes = addressToBytes('10.0.0.1')
  const verdictOf = (verdict: number) =>
    builder.fromKernel({ ...eventCodec.decode(Buffer.alloc(eventCodec.size)), local: bytes, remote: bytes, verdict }).verdict
  t.deepEqual([VERDICT_ALLOW, VERDICT_REDIRECT, VERDICT_AUDIT, VERDICT_DENY, 99].map(verdictOf), [
    'forwarded',
    'redirected',
    'audit',
    'dropped',
    'dropped',
  ])
})

test('a request of a user’s parser has its fields and the policy of its rule, and a closed connection its reason', (t) => {
  const builder = new FlowBuilder(context('ingress'))
  const relayed = (rest: MessageInitShape<typeof RelayFlowSchema>) =>
    builder.fromRelay(create(RelayFlowSchema, { slotId: SLOT, parser: 'r2d2', ...rest }))
  const fields = [{ key: 'cmd', value: 'READ' }]
  const rule = 'default/files/ingress/0123456789ab-0'
  t.like(relayed({ allowed: true, rule, request: { case: 'parsed', value: { fields } } }), {
    kind: 'parsed',
    verdict: 'forwarded',
    parsed: { parser: 'r2d2', fields: { cmd: 'READ' } },
    origins: [{ policy: 'default/files', rule }],
  })
  t.like(relayed({ closed: 'it failed' }), {
    kind: 'parsed',
    verdict: 'error',
    reason: 'it failed',
    parsed: { parser: 'r2d2', fields: {} },
  })
})

test('an origin has the word that its policy wants in its flows', (t) => {
  const words = { ...context('ingress'), logOf: (policy: string) => (policy === 'shop/strict' ? 'PCI' : undefined) }
  const http = create(HttpFlowSchema, { slotId: SLOT, sourceAddress: '10.0.0.1', destinationPort: 80, allowed: true })
  t.deepEqual(new FlowBuilder(words).fromEnvoy(http)?.origins, [BEHIND_THE_ROW[0]!, { ...BEHIND_THE_ROW[1]!, log: 'PCI' }])
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

test('a request that nobody judged is an error and not a denial', (t) => {
  const verdictOf = (fields: object) =>
    new FlowBuilder(context('ingress')).fromEnvoy(create(HttpFlowSchema, { slotId: SLOT, ...fields }))?.verdict
  t.is(verdictOf({ details: 'headgate_denied' }), 'dropped')
  t.is(verdictOf({ details: 'ext_proc_error_gRPC_error_14', failed: true }), 'error')
  t.is(verdictOf({ allowed: true }), 'forwarded')
})

test('headers that were not as wanted are told with what was done about them', (t) => {
  const headersOf = (headerNotes: { name: string; action: number }[]) =>
    new FlowBuilder(context('ingress')).fromEnvoy(create(HttpFlowSchema, { slotId: SLOT, headerNotes }))?.http?.headers
  t.is(headersOf([]), undefined)
  t.deepEqual(
    headersOf([
      { name: 'x-b', action: MismatchAction.REPLACE },
      { name: 'x-a', action: MismatchAction.LOG },
      { name: 'x-new', action: 99 },
    ]),
    [
      { name: 'x-b', action: 'REPLACE' },
      { name: 'x-a', action: 'LOG' },
    ],
  )
})

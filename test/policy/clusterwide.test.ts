import test from 'ava'
import { compilePolicy } from '#policy/compile.ts'
import { isPolicy } from '#policy/model.ts'
import { messagesOf, parse, policy, Resolved } from './support.ts'

/** A clusterwide policy with the given lines as its spec. */
function clusterwide(spec: string): string {
  return policy(spec, { name: 'all', namespace: 'x' })
    .replace('kind: CiliumNetworkPolicy', 'kind: CiliumClusterwideNetworkPolicy')
    .replace(', namespace: x', '')
}

test('a clusterwide policy selects endpoints of every namespace', (t) => {
  const resolved = new Resolved(clusterwide('endpointSelector: {}\ningress: [{fromEndpoints: [{matchLabels: {app: api}}]}]'))
  t.is(resolved.ingress('api'), 'allow')
  t.is(resolved.ingress('far'), 'allow')
  t.is(resolved.ingress('web'), 'deny')
  t.is(resolved.ingress('world'), 'deny')
  const named = 'endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\ningress: [{}]'
  t.is(new Resolved(clusterwide(named)).ingress('api'), 'allow')
})

test('an empty peer of a clusterwide policy is every endpoint, and nobody without a namespace', (t) => {
  const resolved = new Resolved(clusterwide('ingress: [{fromEndpoints: [{}]}]'))
  for (const peer of ['web', 'api', 'far'] as const) t.is(resolved.ingress(peer), 'allow', peer)
  for (const peer of ['host', 'world', 'remote-node', 'init'] as const) t.is(resolved.ingress(peer), 'deny', peer)
})

test('peers of a clusterwide policy may name a namespace or a reserved label', (t) => {
  const far = new Resolved(clusterwide('ingress: [{fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: other}}]}]'))
  t.deepEqual([far.ingress('far'), far.ingress('api')], ['allow', 'deny'])
  const host = new Resolved(clusterwide('ingress: [{fromEndpoints: [{matchLabels: {"reserved:host": ""}}]}]'))
  t.deepEqual([host.ingress('host'), host.ingress('api')], ['allow', 'deny'])
})

test('a clusterwide policy and one of a namespace are merged', (t) => {
  const resolved = new Resolved(
    clusterwide('ingressDeny: [{fromEndpoints: [{matchLabels: {app: api}}]}]'),
    policy('ingress: [{fromEndpoints: [{}]}]'),
  )
  t.deepEqual([resolved.ingress('web'), resolved.ingress('api'), resolved.ingress('far')], ['allow', 'deny', 'deny'])
})

test('a clusterwide policy is known by its name alone, and so are its rules', (t) => {
  const { documents, problems } = parse(clusterwide('ingress: [{fromEntities: [world]}]'))
  t.deepEqual(problems, [])
  const [document] = documents
  t.like(document, { kind: 'CiliumClusterwideNetworkPolicy', namespace: '', name: 'all' })
  const [spec] = document === undefined || !isPolicy(document) ? [] : compilePolicy(document)
  t.is(spec?.policy, 'all')
  t.regex(spec?.rules[0]?.compiled.name ?? '', /^all\/ingress\/[0-9a-f]{12}-0$/)
})

test('what does not belong into a clusterwide policy is refused, and whom it selects is at default deny', (t) => {
  t.deepEqual(messagesOf(clusterwide('ingress: [{}]').replace('{name: all}', '{name: all, namespace: x}')), [
    'a clusterwide policy has no namespace',
  ])
  const nodes = clusterwide('nodeSelector: {}\ningress: [{}]')
  t.deepEqual(messagesOf(nodes), ['endpointSelector and nodeSelector cannot stand in one policy'])
  t.is(new Resolved(nodes).ingress('api'), 'deny')
  const list = `apiVersion: v1\nkind: CiliumClusterwideNetworkPolicyList\nitems: [${JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumClusterwideNetworkPolicy',
    metadata: { name: 'a' },
    spec: { endpointSelector: {}, ingress: [{}] },
  })}]\n`
  t.is(parse(list).documents[0]?.name, 'a')
  t.deepEqual(
    messagesOf(`${list.replace('CiliumClusterwideNetworkPolicy"', 'CiliumNetworkPolicy"')}---\n${clusterwide('ingress: [{}]')}`),
    [],
  )
})

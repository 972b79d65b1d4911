import test from 'ava'
import { AgentError } from '#agent/errors.ts'
import { parseWorkloads } from '#agent/workloads/file.ts'
import { endpointLabels } from '#agent/workloads/identities.ts'
import { LabelFilter } from '#policy/label-filter.ts'

const HEAD = 'apiVersion: headgate.io/v1\n'

/** What a file with this endpoint is refused for. */
function problemsOf(rest: string): string[] {
  try {
    parseWorkloads(HEAD + rest, 'w.yaml')
    return []
  } catch (error) {
    if (!(error instanceof AgentError)) throw error
    return error.message.split('\n')
  }
}

function endpoint(fields: string): string {
  return `endpoints: [{name: a, interface: eth0, ${fields}}]\n`
}

test('an endpoint is not in audit unless it says so', (t) => {
  t.is(parseWorkloads(HEAD + endpoint('labels: {}'), 'w.yaml').endpoints[0]?.audit, false)
  t.is(parseWorkloads(HEAD + endpoint('audit: true'), 'w.yaml').endpoints[0]?.audit, true)
  t.is(problemsOf(endpoint('audit: "yes"')).length, 1)
})

test('labels of endpoints may say their source, those of nodes and namespaces not', (t) => {
  t.deepEqual(problemsOf(endpoint('labels: {app: a, "container:app": b, "k8s:team/owner": c, "cni:x": d, "unspec:y": ""}')), [])
  for (const key of ['reserved:host', 'cidr:10.0.0.0/8', 'node:zone', 'a:b', 'k8s:', ':a', 'k8s:a:b', 'a=b', 'a b'])
    t.deepEqual(
      problemsOf(endpoint(`labels: {"${key}": a}`)).map((problem) => problem.replace(/^.*: KEY/, 'KEY')),
      ['KEY or SOURCE:KEY is needed, SOURCE one of k8s, container, cni, unspec'],
      key,
    )
  t.regex(problemsOf(endpoint('labels: {app: a, "k8s:app": b}'))[0] ?? '', /there are two labels k8s:app$/)
  t.regex(problemsOf('nodes: [{name: far, labels: {"k8s:zone": a}}]\n')[0] ?? '', /a key without :, = and spaces is needed$/)
  t.regex(problemsOf('namespaces: [{name: far, labels: {"k8s:zone": a}}]\n')[0] ?? '', /a key without :, = and spaces is needed$/)
})

test('addresses of the API server are listed', (t) => {
  t.deepEqual(parseWorkloads(HEAD, 'w.yaml').kubeApiserver, [])
  t.deepEqual(parseWorkloads(`${HEAD}kubeApiserver: [10.0.0.1, "fd00::1"]\n`, 'w.yaml').kubeApiserver, ['10.0.0.1', 'fd00::1'])
  t.is(problemsOf('kubeApiserver: [api.example]\n').length, 1)
  t.is(problemsOf(`kubeApiserver: [${'10.0.0.1, '.repeat(65)}]\n`).length, 1)
})

test('labels of an identity carry their source and pass the filter', (t) => {
  const spec = {
    namespace: 'shop',
    labels: { app: 'web', 'container:app': 'sidecar', 'pod-template-hash': '5d4f', version: '1' },
    serviceAccount: 'web',
  }
  const own = [
    'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop',
    'k8s:io.cilium.k8s.namespace.labels.team=a',
    'k8s:io.cilium.k8s.policy.cluster=default',
    'k8s:io.cilium.k8s.policy.serviceaccount=web',
    'k8s:io.kubernetes.pod.namespace=shop',
  ]
  const labelsWith = (patterns: readonly string[]) => endpointLabels(spec, 'default', { team: 'a' }, new LabelFilter(patterns))
  t.deepEqual(labelsWith([]), ['container:app=sidecar', 'k8s:app=web', ...own, 'k8s:version=1'])
  t.deepEqual(labelsWith(['!version']), ['container:app=sidecar', 'k8s:app=web', ...own])
  t.deepEqual(labelsWith(['k8s:app']), ['k8s:app=web', ...own])
})

import test from 'ava'
import { ConfigError, formatProblem } from '#config/errors.ts'
import { DEFAULT_LABEL_PATTERNS, LabelFilter } from '#policy/label-filter.ts'
import { parseLabel } from '#policy/labels.ts'

/** Those of the labels that make an identity. */
function kept(patterns: readonly string[], ...labels: readonly string[]): string[] {
  return new LabelFilter(patterns).filter(labels)
}

test('by default all labels are kept but those that tell instances apart or are Kubernetes’ own', (t) => {
  const labels = [
    'k8s:app=web',
    'container:app=web',
    'k8s:app.kubernetes.io/name=web',
    'k8s:team/owner=shop',
    'k8s:version=1',
    'k8s:io.kubernetes.pod.namespace=shop',
    'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop',
    'k8s:io.cilium.k8s.policy.cluster=default',
    'k8s:io.cilium.k8s.policy.serviceaccount=web',
    'reserved:host',
    'k8s:my.k8s.io/x=a',
  ]
  t.deepEqual(kept([], ...labels), labels)
  for (const label of [
    'k8s:pod-template-hash=5d4f',
    'k8s:pod-template-generation=1',
    'k8s:controller-revision-hash=a',
    'k8s:statefulset.kubernetes.io/pod-name=web-0',
    'k8s:apps.kubernetes.io/pod-index=0',
    'k8s:batch.kubernetes.io/job-completion-index=0',
    'k8s:batch.kubernetes.io/controller-uid=a',
    'k8s:controller-uid=a',
    'k8s:io.kubernetes.pod.name=web-0',
    'k8s:kubernetes.io/arch=amd64',
    'k8s:beta.kubernetes.io/arch=amd64',
    'k8s:failure-domain.beta.kubernetes.io/zone=a',
    'k8s:k8s.io/x=a',
    'k8s:annotation.x=a',
    'k8s:etcd_node=a',
  ])
    t.deepEqual(kept([], label), [], label)
})

test('patterns that leave out are added to the default list', (t) => {
  t.deepEqual(
    kept(['!version', 'k8s:!track'], 'k8s:app=a', 'k8s:version=1', 'k8s:track=b', 'container:track=b', 'k8s:pod-template-hash=a'),
    ['k8s:app=a', 'container:track=b'],
  )
  t.deepEqual(kept(['!k8s:version'], 'k8s:version=1', 'container:version=1'), ['container:version=1'])
})

test('a pattern that keeps makes the list one of what is kept, beside what the default list keeps', (t) => {
  t.deepEqual(kept(['k8s:app'], 'k8s:app=a', 'k8s:application=b', 'container:app=a', 'k8s:team=c', 'k8s:app.kubernetes.io/name=d'), [
    'k8s:app=a',
    'k8s:application=b',
    'k8s:app.kubernetes.io/name=d',
  ])
  t.deepEqual(kept(['k8s:app$'], 'k8s:app=a', 'k8s:application=b'), ['k8s:app=a'])
  t.deepEqual(kept(['any:app'], 'container:app=a'), ['container:app=a'])
})

test('a pattern counts from the key’s beginning, and the longer match wins', (t) => {
  t.deepEqual(kept(['!hash'], 'k8s:my-hash=a'), ['k8s:my-hash=a'])
  t.deepEqual(kept([String.raw`kubernetes\.io/role`, '.*'], 'k8s:kubernetes.io/role=a', 'k8s:kubernetes.io/arch=b'), [
    'k8s:kubernetes.io/role=a',
    'k8s:kubernetes.io/arch=b',
  ])
  t.deepEqual(kept([String.raw`kubernetes\.io/role`], 'k8s:kubernetes.io/role=a', 'k8s:kubernetes.io/arch=b'), ['k8s:kubernetes.io/role=a'])
  t.deepEqual(kept(['!app', String.raw`app\.`], 'k8s:app=a', 'k8s:app.x=b'), ['k8s:app.x=b'])
  // Equally long: left out.
  t.deepEqual(kept(['!app', 'app'], 'k8s:app=a'), [])
  // A match of nothing is none.
  t.deepEqual(kept(['!x*'], 'k8s:app=a'), ['k8s:app=a'])
})

test('where an endpoint belongs is always kept', (t) => {
  const labels = [
    'k8s:io.kubernetes.pod.namespace=shop',
    'k8s:io.cilium.k8s.policy.cluster=default',
    'k8s:io.cilium.k8s.policy.serviceaccount=web',
    'reserved:init',
  ]
  t.deepEqual(kept(['!.*'], ...labels, 'k8s:app=a'), labels)
  t.deepEqual(kept(['app'], ...labels), labels)
  // Of another source the keys are nothing special.
  t.deepEqual(kept(['!.*'], 'container:io.cilium.k8s.policy.serviceaccount=web'), [])
})

test('every pattern that is none is told with the place of the setting', (t) => {
  const error = t.throws(() => new LabelFilter(['app', 'k8s:(', 'k8s:', '(?:a|b)', `k8s:${'x{900}'.repeat(20)}`, '!']), {
    instanceOf: ConfigError,
  })
  t.is(error.code, 'HG-1002')
  const lines = error.problems.map(formatProblem)
  t.regex(lines[0] ?? '', /^configuration: policy\.labels\[1\]: not a regular expression of RE2: \(; /)
  t.is(lines[1], 'configuration: policy.labels[2]: no expression: k8s:; for example k8s:app or !k8s:version')
  t.regex(lines[2] ?? '', /^configuration: policy\.labels\[3\]: not a source of labels: \(\?; /)
  t.regex(lines[3] ?? '', /^configuration: policy\.labels\[4\]: regular expression is too large/)
  t.is(lines[4], 'configuration: policy.labels[5]: no expression: !; for example k8s:app or !k8s:version')
  t.is(lines.length, 5)
  t.notThrows(() => new LabelFilter(['k8s:(?:a|b)']))
})

test('the default list is made of patterns', (t) => {
  t.notThrows(() => new LabelFilter(DEFAULT_LABEL_PATTERNS))
})

test('more keys than are remembered are judged like others', (t) => {
  const filter = new LabelFilter(['!version'])
  for (let index = 0; index < 20_001; index++) filter.keeps(parseLabel(`k8s:key-${index}=a`))
  t.false(filter.keeps({ source: 'k8s', key: 'version' }))
  t.true(filter.keeps({ source: 'k8s', key: 'key-1' }))
})

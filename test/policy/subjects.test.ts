import test from 'ava'
import { PolicyEngine } from '#policy/engine.ts'
import { parse, policy } from './support.ts'
import { subjectOf } from './world.ts'

function labels(app: string): string[] {
  return ['k8s:io.kubernetes.pod.namespace=default', 'k8s:io.cilium.k8s.policy.cluster=default', `k8s:app=${app}`]
}

/** What each policy of the file selects, as `name: ids`. */
function selected(engine: PolicyEngine, file = 'a.yaml'): string[] {
  return [...engine.subjectsByPolicy(file)].map(([name, ids]) => `${name}: ${[...ids].sort().join()}`)
}

test('a policy tells which subjects it selects, whatever it says about them, as they come and go', (t) => {
  const engine = new PolicyEngine()
  for (const [id, app] of [
    [300, 'web'],
    [301, 'api'],
    [302, 'web'],
  ] as const)
    engine.upsertIdentity({ id, labels: labels(app) })
  for (const id of [300, 301]) engine.addSubject(subjectOf({ id: id, labels: [] }))
  const all = policy('endpointSelector: {}\nenableDefaultDeny: {ingress: false}\ningress: [{}]', { name: 'all' })
  const text = [policy('egress: [{}]', { name: 'web' }), policy('endpointSelector: {matchLabels: {app: none}}\ningress: [{}]'), all].join(
    '---\n',
  )
  engine.upsertFile('a.yaml', parse(text).documents, [])

  // 302 is an identity of another node: nobody's endpoint here.
  t.deepEqual(selected(engine), ['default/web: 300', 'default/p: ', 'default/all: 300,301'])
  engine.addSubject(subjectOf({ id: 302, labels: [] }))
  t.deepEqual(selected(engine), ['default/web: 300,302', 'default/p: ', 'default/all: 300,301,302'])
  engine.removeSubject(300)
  t.deepEqual(selected(engine), ['default/web: 302', 'default/p: ', 'default/all: 301,302'])
  engine.removeFile('a.yaml')
  t.deepEqual(selected(engine), [])
})

test('several specs of a policy select each subject once', (t) => {
  const engine = new PolicyEngine()
  for (const [id, app] of [
    [300, 'web'],
    [301, 'api'],
  ] as const) {
    engine.upsertIdentity({ id, labels: labels(app) })
    engine.addSubject(subjectOf({ id: id, labels: [] }))
  }
  const spec = (selector: string) => `  - endpointSelector: ${selector}\n    ingress: [{}]\n`
  const text = `${policy('').split('spec:')[0]}specs:\n${spec('{matchLabels: {app: web}}')}${spec('{}')}`
  engine.upsertFile('a.yaml', parse(text).documents, [])
  t.deepEqual(selected(engine), ['default/p: 300,301'])
})

test('a refused document selects those whom it puts at default deny', (t) => {
  const engine = new PolicyEngine()
  engine.upsertIdentity({ id: 300, labels: labels('web') })
  engine.addSubject(subjectOf({ id: 300, labels: [] }))
  const { documents, refused } = parse(policy('ingress: [{fromNobody: []}]'))
  t.is(documents.length, 0)
  engine.upsertFile('a.yaml', documents, refused)
  t.deepEqual(selected(engine), ['default/p: 300'])
})

import test from 'ava'
import { PolicyEngine } from '#policy/engine.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS, subjectOf } from './world.ts'

const POLICIES = 1_000
const IDENTITIES = 200

function policy(index: number, path = `/v1/items/${index}`): string {
  return `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p${index}}
spec:
  endpointSelector: {matchLabels: {app: a${index % IDENTITIES}}}
  ingress:
    - fromEndpoints:
        - matchExpressions: [{key: tier, operator: In, values: [t${index % 7}, t${index % 5}]}]
      toPorts:
        - ports: [{port: "${8000 + (index % 50)}", protocol: TCP}]
          rules:
            http: [{method: GET, path: ${path}}]
    - fromCIDR: [10.${index % 250}.0.0/16]
`
}

function start(): PolicyEngine {
  const engine = new PolicyEngine()
  for (let index = 0; index < IDENTITIES; index++) {
    const id = 1000 + index
    const labels = ['k8s:io.kubernetes.pod.namespace=default', `k8s:app=a${index}`, `k8s:tier=t${index % 7}`]
    engine.upsertIdentity({ id, labels })
    engine.addSubject(subjectOf({ id: id, labels: [] }))
  }
  return engine
}

function put(engine: PolicyEngine, file: string, text: string): void {
  engine.upsertFile(file, parsePolicyFile(text, file, LIMITS).documents, [])
}

// Bounds are ten times and more of what it takes on a slow machine: they tell a wrong order of growth, not a bad day. bench/ has the numbers.
test('a thousand policies on two hundred identities are resolved at once in seconds, and one that changes in much less', (t) => {
  const engine = start()
  put(engine, 'all.yaml', Array.from({ length: POLICIES }, (_, index) => policy(index)).join(''))
  let lastId = 1 << 24
  for (const cidr of engine.cidrPrefixes()) engine.upsertIdentity({ id: ++lastId, labels: [`cidr:${cidr}`, 'reserved:world'] })
  const beforeFull = performance.now()
  t.is(engine.commit().changed.length, IDENTITIES)
  const fullMs = performance.now() - beforeFull
  t.true(fullMs < 10_000, `${fullMs} ms`)

  put(engine, 'one.yaml', policy(POLICIES))
  engine.commit()
  const beforeEdit = performance.now()
  put(engine, 'one.yaml', policy(POLICIES, '/v2/items'))
  const { changed } = engine.commit()
  const editMs = performance.now() - beforeEdit
  t.deepEqual(
    changed.map(({ identity }) => identity),
    [1000],
  )
  t.true(editMs < 1_000, `${editMs} ms`)
  t.log(`full ${fullMs.toFixed(0)} ms, one edit ${editMs.toFixed(1)} ms`)
})

test('an identity that comes and goes concerns only the subjects whose rules name it', (t) => {
  const engine = start()
  put(engine, 'one.yaml', policy(3))
  engine.commit()
  engine.upsertIdentity({ id: 5000, labels: ['k8s:io.kubernetes.pod.namespace=default', 'k8s:tier=t3'] })
  t.deepEqual(
    engine.commit().changed.map(({ identity }) => identity),
    [1003],
  )
  engine.upsertIdentity({ id: 5001, labels: ['k8s:io.kubernetes.pod.namespace=other', 'k8s:tier=t3'] })
  t.deepEqual(engine.commit().changed, [])
  engine.removeIdentity(5000)
  t.deepEqual(
    engine.commit().changed.map(({ identity }) => identity),
    [1003],
  )
})

test('thousands of ports, ranges that overlap, and rules around all of them are resolved at once', (t) => {
  const count = 5_000
  const one = (index: number): string => `{port: "${1 + index * 3}", protocol: TCP}`
  const range = (index: number): string => `{port: "${1 + index * 3}", endPort: ${Math.min(65535, 20_000 + index * 3)}, protocol: TCP}`
  const inMembers = (make: (index: number) => string): string =>
    `    - toPorts:\n${Array.from({ length: count / 40 }, (_, member) => `        - ports: [${Array.from({ length: 40 }, (_, index) => make(member * 40 + index)).join(', ')}]\n`).join('')}`
  const around = Array.from(
    { length: count / 2 },
    (_, index) => `    - fromEndpoints: [{matchLabels: {x${index}: on-it}}]\n    - toPorts: [{ports: [${one(index)}]}]\n`,
  )
  for (const [what, rules] of Object.entries({ ports: inMembers(one), ranges: inMembers(range), around: around.join('') })) {
    const engine = new PolicyEngine()
    engine.upsertIdentity({ id: 1000, labels: ['k8s:io.kubernetes.pod.namespace=default', 'k8s:app=a'] })
    const labels = Array.from({ length: count / 2 }, (_, index) => `k8s:x${index}=on-it`)
    engine.upsertIdentity({ id: 1001, labels: ['k8s:io.kubernetes.pod.namespace=default', ...labels] })
    engine.addSubject(subjectOf({ id: 1000, labels: [] }))
    const text = `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  endpointSelector: {matchLabels: {app: a}}\n  ingress:\n${rules}`
    put(engine, 'p.yaml', text)
    const before = performance.now()
    t.true((engine.commit().changed[0]?.rows.size ?? 0) > 10, what)
    const ms = performance.now() - before
    t.true(ms < 1_000, `${what}: ${ms} ms`)
    t.log(`${what} ${ms.toFixed(0)} ms`)
  }
})

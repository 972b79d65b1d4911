import test from 'ava'
import { HttpMatcher } from '#parsers/http/match.ts'
import type { HttpRule } from '#parsers/http/rules.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { answerQuestion, QuestionError } from '#policy/trace/question.ts'
import { Scene } from '#policy/trace/scene.ts'
import { portRuleOf, said, type Variant, warned } from './spec.ts'
import { LIMITS } from './world.ts'

const rule = (rules: string, section = 'ingress') =>
  `${section}: [{toPorts: [{ports: [{port: "50051", protocol: TCP}], rules: {${rules}}}]}]`
const grpc = (item: string, section?: string) => rule(`grpc: [${item}]`, section)

function rulesOf(spec: string, variant?: Variant): readonly HttpRule[] {
  const { l7 } = portRuleOf(spec, variant)
  return l7?.kind === 'http' ? l7.rules : []
}

function isCalled(item: string, path: string, { method = 'POST', section = 'ingress' } = {}): boolean {
  return new HttpMatcher(rulesOf(grpc(item, section)), 'allow').matches({ method, path, authority: 'a', headers: new Map() })
}

test('a rule on calls is the rule on requests that says the same', (t) => {
  t.deepEqual(rulesOf(grpc('{service: shop.Cart, method: GetUser}')), [{ method: 'POST', path: '/shop\\.Cart/GetUser', headers: [] }])
  t.deepEqual(rulesOf(rule('http: [{method: GET}], grpc: [{service: Cart, method: Add}]')), [
    { method: 'GET', headers: [] },
    { method: 'POST', path: '/Cart/Add', headers: [] },
  ])
  t.deepEqual(rulesOf(rule('http: [], grpc: []')), [])
})

test('a star is any part of a name, and what is not stated is any name', (t) => {
  for (const [item, yes, no] of [
    [
      '{service: shop.Cart, method: Get}',
      ['/shop.Cart/Get'],
      ['/shopxCart/Get', '/shop.Cart/GetUser', '/shop.Cart/Get/', '/shop.Cart/get'],
    ],
    ['{service: shop.Cart}', ['/shop.Cart/Get', '/shop.Cart/x'], ['/shop.Cart/', '/shop.Cart', '/shop.Carts/Get', '/shop.Cart/a/b']],
    ['{service: shop.*, method: Get*}', ['/shop.Cart/Get', '/shop.v1.Cart/GetUser'], ['/shop/Get', '/shop.Cart/Set', '/shop.a/b/Get']],
    ['{service: "*.Health", method: "*"}', ['/grpc.health.v1.Health/Check'], ['/Health/Check']],
    ['{service: "*"}', ['/a/b'], ['/a', '/a/b/c', '//b', '/a/']],
    ['{}', ['/a/b'], ['/', '/a/b?c=d']],
    ['{service: "shop.**", method: G*t*}', ['/shop.a/Get', '/shop.a/GreatThing'], ['/shop.a/Ge']],
  ] as const) {
    for (const path of yes) t.true(isCalled(item, path), `${item} ${path}`)
    for (const path of no) t.false(isCalled(item, path), `${item} ${path}`)
    for (const path of yes) t.false(isCalled(item, path, { method: 'GET' }), `GET ${item} ${path}`)
  }
})

test('a deny rule holds for every form of the call', (t) => {
  const section = 'ingressDeny'
  for (const method of ['POST', 'GET']) {
    for (const path of ['/shop.Cart/Drop', '/shop.Cart/Drop?encoding=json&message=%7B%7D', '/shop.Cart/Drop?a=/b/c'])
      t.true(isCalled('{service: shop.Cart, method: Drop}', path, { method, section }), path)
    t.false(isCalled('{service: shop.Cart, method: Drop}', '/shop.Cart/Drops', { method, section }))
  }
})

test('what is no name is refused, with what to write', (t) => {
  for (const [item, message] of [
    ['{service: ""}', 'must not be empty'],
    ['{method: ""}', 'must not be empty'],
    ['{service: /shop.Cart}', 'not the name of a service: /shop.Cart'],
    ['{service: shop.Cart/Get}', 'not the name of a service: shop.Cart/Get'],
    ['{service: .shop}', 'not the name of a service: .shop'],
    ['{service: shop..Cart}', 'not the name of a service: shop..Cart'],
    ['{service: shop.Cart.}', 'not the name of a service: shop.Cart.'],
    ['{service: "shop.(Cart|Order)"}', 'not the name of a service: shop.(Cart|Order)'],
    ['{service: shop.Cart, method: Get.*}', 'not the name of a method: Get.*'],
    ['{service: shop.Cart, method: Get User}', 'not the name of a method: Get User'],
    ['{service: shop.Cart, method: Gét}', 'not the name of a method: Gét'],
    ['{service: 7}', 'must be a string, is a number in YAML 1.1: 7'],
    ['{services: a}', 'unknown field: services'],
    ['shop.Cart', 'must be a map, is a string: shop.Cart'],
  ] as const)
    t.deepEqual(said(grpc(item)), [message], item)
  t.regex(said(grpc(`{service: "${'a'.repeat(1100)}"}`)).join(), /^longer than 1024 characters/)
  t.regex(said(grpc(`{service: shop.Cart, method: "${'G*'.repeat(40)}"}`), { regexProgramSizeMax: 100 }).join(), /regular expression/)
  t.deepEqual(said(grpc('{service: a}'), { dialect: 'cilium' }), ['only the dialect extended has this: grpc'])
  t.deepEqual(warned(grpc('{method: GetUser}')), ['without a service, this is the method of every service: GetUser'])
  for (const item of ['{}', '{method: "*"}', '{service: "*", method: GetUser}']) t.deepEqual(warned(grpc(item)), [], item)
})

const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
  - toPorts: [{ports: [{port: "50051", protocol: TCP}], rules: {grpc: [{service: shop.Cart, method: "Get*"}]}}]
  - toPorts: [{ports: [{port: "50051", protocol: TCP}], rules: {http: [{path: /ready, headers: ["Content-Type: application/grpc"]}]}}]
`

test('a call is asked about by its name, with rules on requests beside', (t) => {
  const { documents, refused } = parsePolicyFile(POLICY, 'api.yaml', LIMITS)
  const scene = new Scene({ files: [{ file: 'api.yaml', documents, refused }] })
  const flow = { from: 'app=web', to: 'app=api', port: '50051' }
  const ask = (call: string) => answerQuestion(scene, { ...flow, grpc: call }).verdict
  t.is(ask('shop.Cart/GetItems'), 'allowed')
  t.is(ask('/shop.Cart/GetItems'), 'allowed')
  t.is(ask('shop.Cart/Drop'), 'denied')
  const http = { method: 'POST', path: '/ready', headers: { 'Content-Type': 'application/grpc' } }
  t.is(answerQuestion(scene, { ...flow, http }).verdict, 'allowed')
  for (const [wrong, message] of [
    [{ grpc: 'shop.Cart' }, /^expected package.Service\/Method, not shop.Cart$/],
    [{ grpc: 'a/b/c' }, /^expected package.Service\/Method/],
    [{ grpc: 'a/b', http }, /about one request, not about http and grpc/],
    [{ grpc: 1 }, /^grpc is a string/],
  ] as const)
    t.throws(() => answerQuestion(scene, { ...flow, ...wrong }), { instanceOf: QuestionError, message })
})

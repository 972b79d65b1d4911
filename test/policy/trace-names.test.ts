import test from 'ava'
import fc from 'fast-check'
import { GroupRows } from '#agent/datapath/group-rows.ts'
import { dnsSlotMessage } from '#agent/slot-messages.ts'
import { IDENTITY_SEVERAL_NAMES, LEARNED_SELECTORS_MAX, VERDICT_ALLOW, VERDICT_DENY } from '#bpf/gen/abi.ts'
import type { PolicyRowsMap } from '#bpf/maps.ts'
import { LearnedNames } from '#dns-proxy/learned-names.ts'
import { SlotRules } from '#dns-proxy/slot-rules.ts'
import { Teachable } from '#dns-proxy/teachable.ts'
import { HttpJudge } from '#parsers/http/judge.ts'
import type { HttpRequest } from '#parsers/http/match.ts'
import { PolicyEngine, SEVERAL_NAMES } from '#policy/engine.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { httpRules, type NamedRule, type ResolvedGroup } from '#policy/resolved.ts'
import { SELECTORS_OF_ADDRESS_MAX } from '#policy/trace/names.ts'
import { answerQuestion, type Question, QuestionError } from '#policy/trace/question.ts'
import { Scene, type SceneEndpoint, type SceneInput } from '#policy/trace/scene.ts'
import type { TraceAnswer } from '#policy/trace/trace-name.ts'
import { addressKey, addressToBytes } from '#sys/addresses.ts'
import { FakeMaps } from '../dns-proxy/fake-maps.ts'
import { policy } from './support.ts'
import { LIMITS } from './world.ts'

const WEB = 'k8s:app=web'
const labelsOf = (app: string) => [`k8s:app=${app}`, 'k8s:io.cilium.k8s.policy.cluster=default', 'k8s:io.kubernetes.pod.namespace=default']
const DNS: SceneEndpoint = { name: 'default/dns', labels: labelsOf('dns'), addresses: ['10.0.0.53'] }
const API: SceneEndpoint = { name: 'default/api', labels: labelsOf('api'), addresses: ['10.0.0.7'] }
const NODE = { name: 'n', labels: ['reserved:remote-node'], addresses: ['10.8.0.1'] }

function sceneOf(specs: readonly string[], more: Partial<SceneInput> = {}): Scene {
  const files = specs.map((spec, index) => {
    const file = `${index}.yaml`
    const { documents, refused, problems } = parsePolicyFile(policy(spec, { name: `p${index}` }), file, LIMITS)
    const errors = problems.filter(({ severity }) => severity === 'error')
    if (errors.length > 0) throw new Error(JSON.stringify(errors))
    return { file, documents, refused }
  })
  return new Scene({ files, endpoints: [DNS, API], nodes: [NODE], ...more })
}

function ask(scene: Scene, to: string, more: Partial<Question> = {}): TraceAnswer {
  return answerQuestion(scene, { from: WEB, to, port: '443/TCP', ...more })
}

/** The query and each address, in words. */
function told({ verdict, query, answers = [] }: TraceAnswer): string[] {
  return [
    `${query?.server} ${query?.port} ${query?.verdict}${query?.seen ? ' seen' : ''}: ${query?.selectors.map(({ name, denies }) => (denies ? `!${name}` : name)).join()}`,
    ...answers.map(({ address, reason, selectors, verdict: its }) => `${address} ${its}: ${reason || selectors.join()}`),
    verdict,
  ]
}

const TO_DNS = '- toEndpoints: [{matchLabels: {app: dns}}]\n  toPorts: [{ports: [{port: "53", protocol: ANY}]}]'
const ASK_EXAMPLE = `${TO_DNS.slice(0, -2)}, rules: {dns: [{matchPattern: "*.example"}]}}]`
const toName = (rule: string, ports = '"443"') => `- toFQDNs: [{${rule}}]\n  toPorts: [{ports: [{port: ${ports}, protocol: TCP}]}]`

test('a flow to a name is the query for it, what the answer teaches, and the flow to each address', (t) => {
  const scene = sceneOf([
    `egress:\n${ASK_EXAMPLE}\n${toName('matchName: api.example')}\n${toName('matchPattern: "*.net.example"', '"80"')}`,
  ])
  const answers = ['192.0.2.7', '10.0.0.7', '10.8.0.1', '169.254.169.254']
  const answer = ask(scene, 'api.example', { answers, cnames: ['a.net.example'] })
  t.deepEqual(told(answer), [
    'default/dns 53/UDP allowed seen: api.example,*.net.example',
    '192.0.2.7 allowed: api.example,*.net.example',
    '10.0.0.7 denied: an endpoint has it',
    '10.8.0.1 denied: a node or a service has it',
    '169.254.169.254 denied: not an address of the world',
    'denied',
  ])
  t.deepEqual(answer.query?.names, ['api.example', 'a.net.example'])
  t.like(answer.query?.egress, { verdict: 'redirected', l7: 'allowed', reason: 'a DNS rule allows it' })
  t.like(answer.answers?.[0]?.egress, { verdict: 'allowed', reason: 'a rule allows a name that it is known by' })
  t.like(answer.answers?.[0]?.egress.matched[0], { reason: 'the receiver is the name api.example, on 443/TCP' })
  // What is told of the whole is the first that is denied.
  t.like(answer.egress, { verdict: 'denied', reason: 'no rule allows it' })
  t.is(ask(scene, 'fqdn:API.Example.', { answers: ['192.0.2.7'] }).verdict, 'allowed')
  t.is(ask(scene, 'a.net.example', { answers: ['192.0.2.7'] }).verdict, 'denied')
})

test('an address belongs to every name of its chain that a selector matches, and to no other', (t) => {
  const scene = sceneOf([`egress:\n${TO_DNS}\n${toName('matchName: cdn.example')}`])
  t.is(ask(scene, 'www.example', { answers: ['192.0.2.7'] }).verdict, 'denied')
  t.is(ask(scene, 'www.example', { answers: ['192.0.2.7'], cnames: ['x.example', 'CDN.example'] }).verdict, 'allowed')
})

test('without an answer a name is judged by itself, as an address of the world', (t) => {
  const scene = sceneOf([`egress:\n${ASK_EXAMPLE}\n${toName('matchName: api.example')}`])
  const answer = ask(scene, 'api.example')
  t.is(answer.answers, undefined)
  t.like(answer, {
    verdict: 'allowed',
    egress: { verdict: 'allowed' },
    query: { seen: true, selectors: [{ name: 'api.example', denies: false }] },
  })
  t.deepEqual(told(ask(scene, 'api.example.org')), ['default/dns 53/UDP denied: ', 'denied'])
  t.like(ask(scene, 'other.example'), { verdict: 'denied', query: { verdict: 'allowed', selectors: [] } })
})

test('a query is refused by rules for DNS, by a denied name, and where no rule lets it go', (t) => {
  const deny = 'egressDeny:\n- toFQDNs: [{matchPattern: "**.ads.example"}]'
  const open = sceneOf([`egress:\n- toEntities: [world]\n${TO_DNS}\n${deny}`])
  const refused = ask(open, 'a.ads.example')
  t.deepEqual(told(refused), ['default/dns 53/UDP denied: !**.ads.example', 'denied'])
  t.like(refused.query?.egress, { verdict: 'redirected', l7: 'denied', reason: 'a deny rule matches the request' })
  t.like(
    refused.query?.egress.matched.find(({ action }) => action === 'deny'),
    {
      reason: 'queries for the name **.ads.example are refused',
    },
  )
  // The address of a name that may be asked for, and is an alias of one that may not.
  const alias = ask(open, 'pay.example', { answers: ['192.0.2.7'], cnames: ['a.ads.example'] })
  t.deepEqual(told(alias), ['default/dns 53/UDP allowed seen: !**.ads.example', '192.0.2.7 denied: **.ads.example', 'denied'])
  t.is(alias.egress.reason, 'a deny rule is about a name that it is known by')
  t.is(ask(open, 'pay.example', { answers: ['192.0.2.7'] }).verdict, 'allowed')
  // A question about the query alone says the same.
  t.like(answerQuestion(open, { from: WEB, to: 'default/dns', dns: 'a.ads.example' }), { verdict: 'denied', egress: { l7: 'denied' } })
  const mute = sceneOf([`egress:\n${toName('matchName: api.example')}`])
  t.deepEqual(told(ask(mute, 'api.example', { answers: ['192.0.2.7'] })), [
    'reserved:world 53/UDP denied: api.example',
    // As if it were answered.
    '192.0.2.7 allowed: api.example',
    'denied',
  ])
})

test('a deny of one name holds while no other name of the address is allowed, and a deny of the address always', (t) => {
  const rules = `egress:\n${TO_DNS}\n${toName('matchName: api.example')}\n- toCIDR: [198.51.100.0/24]\negressDeny:\n- toFQDNs: [{matchName: ads.example}]\n- toCIDR: [203.0.113.0/24]`
  const scene = sceneOf([rules])
  const verdictOf = (address: string, ...cnames: string[]) =>
    ask(scene, 'www.example', { answers: [address], cnames }).answers?.[0]?.verdict
  t.is(verdictOf('198.51.100.1'), 'allowed')
  t.is(verdictOf('198.51.100.1', 'ads.example'), 'denied')
  t.is(verdictOf('198.51.100.1', 'ads.example', 'api.example'), 'allowed')
  t.is(verdictOf('203.0.113.1', 'api.example'), 'denied')
  t.is(verdictOf('192.0.2.1', 'ads.example', 'api.example'), 'allowed')
  const { egress } = ask(scene, 'www.example', { answers: ['192.0.2.1'], cnames: ['ads.example', 'api.example'] })
  t.is(egress.reason, 'a rule allows a name that it is known by, which beats the deny of another')
})

test('a query that the DNS process does not see teaches nothing, and the answer says so', (t) => {
  const rules = `egress:\n${TO_DNS}\n${toName('matchName: api.example')}`
  const observed = ask(sceneOf([rules]), 'api.example', { answers: ['192.0.2.7'] })
  t.is(observed.verdict, 'allowed')
  t.deepEqual(observed.query?.notes, ['seen though no rule is about DNS, because rules have names (dns.observeQueries)'])
  const unseen = ask(sceneOf([rules], { observesQueries: false }), 'api.example', { answers: ['192.0.2.7'] })
  t.deepEqual(told(unseen), [
    'default/dns 53/UDP allowed: api.example',
    '192.0.2.7 denied: the query does not pass the DNS process',
    'denied',
  ])
  t.deepEqual(unseen.query?.notes, ['the query does not pass the DNS process: no address becomes known by its names'])
  t.is(ask(sceneOf([rules], { observesQueries: false }), 'api.example').verdict, 'denied')
  // What is not restricted needs no names.
  t.deepEqual(told(ask(sceneOf(['ingress: [{}]']), 'api.example')), ['reserved:world 53/UDP allowed: ', 'allowed'])
  t.is(answerQuestion(sceneOf([]), { from: '8.8.8.8', to: 'api.example', port: '80' }).verdict, 'allowed')
})

test('the server is the one that is named, else one that rules for DNS are about', (t) => {
  const rules = `egress:\n- toEntities: [world]\n${ASK_EXAMPLE}\n${toName('matchName: api.example')}`
  const scene = sceneOf([rules])
  t.is(ask(scene, 'api.example').query?.server, 'default/dns')
  t.like(ask(scene, 'api.example', { dnsServer: '10.0.0.53' }), { verdict: 'allowed', query: { server: '10.0.0.53', seen: true } })
  t.like(ask(scene, 'api.example', { dnsServer: '8.8.8.8' }), { verdict: 'allowed', query: { seen: false } })
  t.like(ask(scene, 'api.org', { dnsServer: '8.8.8.8' }), { verdict: 'allowed' })
  t.like(ask(scene, 'api.org'), { verdict: 'denied', query: { server: 'default/dns', seen: false } })
  // Its own policy has a say as well.
  const closed = policy('endpointSelector: {matchLabels: {app: dns}}\ningress: [{}]', { name: 'closed' })
  const { documents } = parsePolicyFile(closed, 'closed.yaml', LIMITS)
  const files = parsePolicyFile(policy(rules), 'p.yaml', LIMITS)
  const both = new Scene({
    files: [
      { file: 'p.yaml', ...files },
      { file: 'closed.yaml', documents, refused: [] },
    ],
    endpoints: [DNS],
  })
  t.like(ask(both, 'api.example'), {
    verdict: 'denied',
    query: { verdict: 'denied', egress: { l7: 'allowed' }, ingress: { verdict: 'denied' } },
  })
})

test('rules find a server whoever they mean, known or not, and whatever port they say', (t) => {
  const dns = (ports: string, peer: string) => `egress:\n- ${peer}\n  toPorts: [{ports: [${ports}], rules: {dns: [{matchPattern: "*"}]}}]`
  const on53 = '{port: "53", protocol: ANY}'
  for (const [spec, expected] of [
    [dns(on53, 'toEndpoints: [{matchLabels: {app: nobody}}]'), 'k8s:app=nobody,k8s:io.kubernetes.pod.namespace=default 53/UDP'],
    [dns(on53, 'toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.0/25]}]'), '192.0.2.255 53/UDP'],
    [dns(on53, 'toEntities: [none, host]'), 'reserved:host 53/UDP'],
    [dns(on53, 'toNodes: [{}]'), 'reserved:host 53/UDP'],
    [dns(on53, 'toEntities: [all]'), 'reserved:world 53/UDP'],
    [dns('{port: "53", protocol: TCP}', 'toEndpoints: [{matchLabels: {app: dns}}]'), 'default/dns 53/TCP'],
    [dns('{port: "5353", protocol: UDP}', 'toEndpoints: [{matchLabels: {app: dns}}]'), 'default/dns 5353/UDP'],
    [dns('{port: names, protocol: UDP}', 'toEndpoints: [{matchLabels: {app: dns}}]'), 'default/dns 1053/UDP'],
  ] as const) {
    const scene = sceneOf([spec], { endpoints: [{ ...DNS, namedPorts: [{ name: 'names', protocol: 'UDP', port: 1053 }] }] })
    t.is(told(ask(scene, 'a.example'))[0], `${expected} allowed seen: `, spec)
  }
  const given = sceneOf([dns('{port: "5353", protocol: UDP}', 'toEndpoints: [{matchLabels: {app: dns}}]')])
  t.is(ask(given, 'a.example', { dnsServer: 'default/dns' }).query?.port, '5353/UDP')
})

test('requests to a name are for its host, and are judged by the rules beside it', (t) => {
  const scene = sceneOf([
    `egress:\n${TO_DNS}\n- toFQDNs: [{matchName: api.example}]\n  toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]`,
  ])
  const request = (method: string, host?: string) =>
    ask(scene, 'api.example', { port: '80', answers: ['192.0.2.7'], http: { method, ...(host !== undefined && { host }) } })
  t.like(request('GET').answers?.[0]?.egress, { verdict: 'redirected', l7: 'allowed' })
  t.is(request('PUT').verdict, 'denied')
  t.is(request('GET', 'other.example').verdict, 'denied')
})

test('an address of several names with different rules on requests is judged by those of each for its own host', (t) => {
  const get = (name: string, method: string) =>
    `- toFQDNs: [{${name}}]\n  toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: ${method}}]}}]`
  const scene = sceneOf([`egress:\n${TO_DNS}\n${get('matchName: a.example', 'GET')}\n${get('matchName: b.example', 'PUT')}`])
  const verdictOf = (method: string, host: string) =>
    ask(scene, 'a.example', { port: '80', answers: ['192.0.2.7'], cnames: ['b.example'], http: { method, host } }).verdict
  t.deepEqual(
    [verdictOf('GET', 'a.example'), verdictOf('PUT', 'a.example'), verdictOf('GET', 'b.example'), verdictOf('PUT', 'b.example')],
    ['allowed', 'denied', 'denied', 'allowed'],
  )
  // What holds for every name holds for each of several.
  const any = sceneOf([`egress:\n${TO_DNS}\n${get('matchPattern: "*"', 'GET')}\n${get('matchName: b.example', 'PUT')}`])
  const ofEvery = (method: string, host: string) =>
    ask(any, 'b.example', { port: '80', answers: ['192.0.2.7'], http: { method, host } }).verdict
  t.deepEqual(
    [ofEvery('GET', 'b.example'), ofEvery('PUT', 'b.example'), ofEvery('GET', 'x.example'), ofEvery('PUT', 'x.example')],
    ['allowed', 'allowed', 'allowed', 'denied'],
  )
})

/** A rule with names, on port 80: `allow` or `deny`, of requests or of everything. */
function nameRule(name: string, http = ''): string {
  const rules = http === '' ? '' : `, rules: {http: [{${http}}]}`
  return `- toFQDNs: [{${name.includes('*') ? `matchPattern: "${name}"` : `matchName: ${name}`}}]\n  toPorts: [{ports: [{port: "80", protocol: TCP}]${rules}}]`
}

/** Whether requests to an address of these names pass. */
function requestsTo(scene: Scene, names: readonly [string, ...string[]]): (method: string, path: string, host: string) => string {
  return (method, path, host) => {
    const [to, ...cnames] = names
    const { answers } = ask(scene, to, { port: '80', answers: ['192.0.2.7'], cnames, http: { method, path, host } })
    return answers?.[0]?.verdict ?? ''
  }
}

test('what a rule denies of requests to a name stays denied where another name has the address too', (t) => {
  const allow = `egress:\n${TO_DNS}\n${nameRule('*.example', 'path: "/.*"')}\n${nameRule('b.other', 'path: "/.*"')}`
  const scene = sceneOf([`${allow}\negressDeny:\n${nameRule('a.example', 'path: "/admin.*"')}`])
  const own = requestsTo(scene, ['a.example'])
  const alias = requestsTo(scene, ['www.example', 'a.example'])
  const shared = requestsTo(scene, ['b.other', 'a.example'])
  for (const request of [own, alias, shared]) {
    t.is(request('GET', '/admin/x', 'a.example'), 'denied')
    t.is(request('GET', '/x', 'a.example'), 'allowed')
  }
  t.is(shared('GET', '/admin/x', 'b.other'), 'denied', 'a host is what a client claims')
  t.is(requestsTo(scene, ['b.other'])('GET', '/admin/x', 'b.other'), 'allowed')
})

test('a rule that states a host itself lets nothing through to addresses of other names', (t) => {
  const two = [nameRule('a.example', 'method: GET, path: /a'), nameRule('*b.*', 'method: GET, path: /b')]
  for (const host of ['".*"', '"a\\\\.example"', 'z.other']) {
    const scene = sceneOf([`egress:\n${TO_DNS}\n${[...two, nameRule('z.other', `host: ${host}`)].join('\n')}`])
    const request = requestsTo(scene, ['a.example', 'b.example'])
    for (const claimed of ['a.example', 'evil', 'z.other']) t.is(request('DELETE', '/x', claimed), 'denied', `${host} ${claimed}`)
  }
})

test('a name whose every request is allowed takes nothing from what another name forbids, and loses nothing to it', (t) => {
  const scene = sceneOf([
    `egress:\n${TO_DNS}\n${nameRule('a.example')}\n${nameRule('*.example', 'method: GET')}\n${nameRule('c.other', 'method: PUT')}`,
  ])
  t.is(requestsTo(scene, ['a.example'])('POST', '/', 'a.example'), 'allowed')
  t.is(requestsTo(scene, ['c.other', 'a.example'])('POST', '/', 'a.example'), 'allowed')
  t.is(requestsTo(scene, ['x.example'])('POST', '/', 'x.example'), 'denied')
  t.is(requestsTo(scene, ['c.other', 'x.example'])('POST', '/', 'x.example'), 'denied')
  t.is(requestsTo(scene, ['c.other', 'x.example'])('PUT', '/', 'c.other'), 'allowed')
})

test('rules for a name alone have those for patterns in them, whichever verdict they are of', (t) => {
  const allowed = `egress:\n${TO_DNS}\n${nameRule('*.example')}\n${nameRule('www.test')}`
  const scene = sceneOf([`${allowed}\negressDeny:\n${nameRule('ads.example')}`])
  const egressOf = (to: string, ...cnames: readonly string[]) =>
    ask(scene, to, { port: '80', answers: ['192.0.2.7'], cnames }).answers?.[0]?.verdict
  t.is(egressOf('ads.example'), 'denied')
  t.is(egressOf('other.test', 'ads.example'), 'denied', 'an alias that no rule names')
  t.is(egressOf('www.test', 'ads.example'), 'allowed', 'a name that is allowed has the address too')
})

test('an address of two names lets through what one of the two does, whatever rules there are', (t) => {
  const name = fc.constantFrom('a.example', 'b.example', 'c.other', '*.example', '*b.*', '**')
  const http = fc.constantFrom('', 'method: GET', 'path: /a', 'method: GET, path: /a', 'host: ".*"', 'host: a.example, method: PUT')
  const rule = fc.tuple(name, http).map(([of, l7]) => nameRule(of, l7))
  const denied = fc.tuple(name, fc.constantFrom('path: /a', 'method: GET')).map(([of, l7]) => nameRule(of, l7))
  let allowedCount = 0
  fc.assert(
    fc.property(fc.array(rule, { minLength: 2, maxLength: 5 }), fc.array(denied, { maxLength: 2 }), (allow, deny) => {
      const scene = sceneOf([`egress:\n${TO_DNS}\n${allow.join('\n')}${deny.length === 0 ? '' : `\negressDeny:\n${deny.join('\n')}`}`])
      for (const names of [
        ['a.example', 'b.example'],
        ['b.example', 'c.other'],
      ] as const) {
        for (const method of ['GET', 'PUT']) {
          for (const path of ['/a', '/b']) {
            for (const host of [...names, 'evil']) {
              const of = (known: readonly [string, ...string[]]) => requestsTo(scene, known)(method, path, host) === 'allowed'
              if (!of(names)) continue
              allowedCount++
              if (!of([names[0]]) && !of([names[1]]))
                throw new Error(`${method} ${path} of ${host} passes at an address of ${names.join(' and ')} alone`)
            }
          }
        }
      }
    }),
    { numRuns: 200, includeErrorInReport: true },
  )
  t.true(allowedCount > 500)
})

test('of more selectors than an address has room for, those that deny come first', (t) => {
  t.is(SELECTORS_OF_ADDRESS_MAX, LEARNED_SELECTORS_MAX)
  const patterns = Array.from({ length: LEARNED_SELECTORS_MAX }, (_, index) => `${'*'.repeat(index + 1)}a.example`)
  const allow = patterns.map((pattern) => `{matchPattern: "${pattern}"}`).join(', ')
  const scene = sceneOf([
    `egress:\n${TO_DNS}\n- toFQDNs: [${allow}]\negressDeny:\n- toFQDNs: [{matchPattern: aa.ex*}]\n  toPorts: [{ports: [{port: "22"}]}]`,
  ])
  const answer = ask(scene, 'x.example', { answers: ['192.0.2.7'], cnames: ['aa.example'] })
  t.is(answer.query?.selectors.length, 9)
  t.is(answer.answers?.[0]?.selectors.length, 8)
  t.true(answer.answers?.[0]?.selectors.includes('aa.ex*'))
  t.true(answer.query?.notes?.some((note) => /8 selectors at most.*9 match/.test(note)))
})

test('policy in audit reports queries and addresses, and lets them through', (t) => {
  const rules = `egress:\n${ASK_EXAMPLE}\n${toName('matchName: api.example')}`
  t.like(ask(sceneOf([rules], { audit: true }), 'other.org', { answers: ['192.0.2.7'] }), {
    verdict: 'allowed',
    audit: true,
    query: { verdict: 'allowed', audit: true },
  })
})

test('what cannot be asked of a name is refused with its field', (t) => {
  const scene = sceneOf(['egress: [{}]'])
  for (const [to, more, message] of [
    ['fqdn:', {}, /^not a DNS name: $/],
    ['a..example', {}, /^not a DNS name: a\.\.example$/],
    ['fqdn:a b', {}, /^not a DNS name: a b$/],
    [`${'a'.repeat(64)}.example`, {}, /^a label of a DNS name has at most 63 characters/],
    [Array.from({ length: 64 }, () => 'abc').join('.'), {}, /^a DNS name has at most 253 characters: abc\.abc.{32,}…$/],
    ['10.0.0.256', {}, /it is no endpoint/],
    ['a.example', { answers: ['192.0.2'] }, /^answers: not an address: 192\.0\.2$/],
    ['a.example', { answers: ['192.0.2.0/24'] }, /^answers: not an address/],
    ['a.example', { answers: ['2001:db8::1'] }, /^answers: this version drops IPv6 .*: 2001:db8::1$/],
    ['a.example', { answers: '192.0.2.1' }, /^answers: a list of strings$/],
    ['a.example', { answers: Array.from({ length: 1001 }, () => '192.0.2.1') }, /^answers: of one answer, at most 1000 addresses/],
    ['a.example', { cnames: ['-x.example', 'a b'] }, /^cnames: not a DNS name: a b$/],
    ['a.example', { cnames: Array.from({ length: 16 }, () => 'b.example') }, /^cnames: a chain of more than 16 names teaches nothing: 17$/],
    ['a.example', { dnsServer: 'shop/nobody' }, /^dnsServer: shop\/nobody: no endpoint has that name$/],
    ['a.example', { resolve: true }, /^no such field: resolve$/],
    ['10.0.0.7', { answers: ['192.0.2.1'] }, /^answers: goes with a DNS name .*, not with 10\.0\.0\.7$/],
    ['default/api', { dnsServer: 'default/dns' }, /^dnsServer: goes with a DNS name/],
    ['default/dns', { dns: `${'a'.repeat(64)}.example` }, /^a label of a DNS name/],
  ] as const) {
    t.throws(() => ask(scene, to, more as Partial<Question>), { instanceOf: QuestionError, message }, to)
  }
  // An endpoint may be called like a name.
  const named = sceneOf(['egress: [{}]'], { endpoints: [{ ...API, name: 'default/api.example' }] })
  t.is(ask(named, 'api.example').query, undefined)
  t.is(ask(named, 'fqdn:api.example').query?.names[0], 'api.example')
  t.is(ask(named, 'fqdn:intranet').query?.names[0], 'intranet')
})

test('an address teaches in a trace what it teaches on a node', (t) => {
  const scene = sceneOf([])
  const teachable = new Teachable(new Set([...DNS.addresses, ...API.addresses].map((address) => addressKey(addressToBytes(address)))))
  teachable.setClaimed(NODE.addresses)
  const address = fc.oneof(
    fc.ipV4(),
    fc.constantFrom('10.0.0.7', '10.0.0.53', '10.8.0.1', '10.8.0.2', '100.100.100.200', '100.100.100.201', '0.0.0.0', '255.255.255.255'),
    fc
      .tuple(fc.constantFrom(0, 1, 126, 127, 128, 169, 223, 224, 239, 240), fc.nat(255), fc.nat(255), fc.nat(255))
      .map((bytes) => bytes.join('.')),
  )
  fc.assert(
    fc.property(address, (text) => scene.reasonAgainstTeaching(text) === teachable.reasonAgainst(addressToBytes(text))),
    { numRuns: 2000 },
  )
  t.pass()
})

const NAMES = ['a.test', 'b.test', 'c.test', 'x.a.test', 'other.org'] as const
const PATTERNS = ['*.test', '**.test', 'a*.test', '*', '*.a.test', '*b.*'] as const
const CIDRS = ['192.0.2.0/24', '192.0.2.7/32', '198.51.100.0/24'] as const
const ADDRESSES = ['192.0.2.7', '192.0.2.8', '198.51.100.1', '203.0.113.1'] as const
const NAME_SERVER = '10.53.0.1'

const dnsRule = fc.oneof(
  fc.constantFrom(...NAMES).map((matchName) => ({ matchName })),
  fc.constantFrom(...PATTERNS).map((matchPattern) => ({ matchPattern })),
)
const tcp = fc.oneof(
  fc.constant({}),
  fc.constantFrom('80', '443').map((port) => ({ toPorts: [{ ports: [{ port, protocol: 'TCP' }] }] })),
)
const some = <T>(item: fc.Arbitrary<T>) => fc.array(item, { minLength: 1, maxLength: 3 })
const people = fc.oneof(
  { weight: 4, arbitrary: some(dnsRule).map((toFQDNs) => ({ toFQDNs })) },
  fc.subarray([...CIDRS], { minLength: 1 }).map((toCIDR) => ({ toCIDR })),
  fc.constant({ toEntities: ['world'] }),
)
const http = fc
  .constantFrom('GET', 'PUT')
  .map((method) => ({ toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ method }] } }] }))
const allowed = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(people, fc.oneof(tcp, http)).map(([whom, what]) => ({ ...whom, ...what })) },
  {
    weight: 3,
    arbitrary: fc
      .oneof(
        fc.constant({}),
        some(dnsRule).map((dns) => ({ rules: { dns } })),
      )
      .map((rules) => ({
        toCIDR: [`${NAME_SERVER}/32`],
        toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }], ...rules }],
      })),
  },
)
const denied = fc.tuple(people, tcp).map(([whom, what]) => ({ ...whom, ...what }))
const document = fc
  .tuple(fc.array(allowed, { maxLength: 4 }), fc.array(denied, { maxLength: 2 }))
  .filter(([egress, egressDeny]) => egress.length + egressDeny.length > 0)
  .map(([egress, egressDeny]) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'p', namespace: 'default' },
    spec: { endpointSelector: {}, ...(egress.length > 0 && { egress }), ...(egressDeny.length > 0 && { egressDeny }) },
  }))
const question = fc.record({
  names: fc.uniqueArray(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }),
  address: fc.constantFrom(...ADDRESSES),
  port: fc.constantFrom(80, 80, 443, 22),
  method: fc.constantFrom('GET', 'PUT'),
  host: fc.constantFrom(...NAMES),
})
type Asked = typeof question extends fc.Arbitrary<infer T> ? T : never

/** As the agent and the DNS process have it: identities, rows in a map, and names learned from an answer. */
class Node {
  readonly group: ResolvedGroup
  readonly #rows: GroupRows
  readonly #identities = new Map<string, number>()
  readonly #selectors: { id: number; denies: boolean; matchName?: string; matchPattern?: string }[] = []

  constructor(text: string, observesQueries: boolean) {
    const engine = new PolicyEngine({ knowsNames: true, observesQueries })
    engine.upsertFile('p.yaml', parsePolicyFile(text, 'p.yaml', LIMITS).documents, [])
    engine.upsertIdentity({ id: 1000, labels: labelsOf('web') })
    engine.addSubject({ group: 1000, identity: 1000, namedPorts: [], audit: false })
    let id = 1 << 24
    for (const prefix of engine.cidrPrefixes()) {
      this.#identities.set(prefix, ++id)
      engine.upsertIdentity({ id, labels: [`cidr:${prefix}`, 'reserved:world'] })
    }
    id = 1 << 25
    for (const [key, { rule, denies }] of engine.nameSelectors()) {
      this.#selectors.push({ id: ++id, denies, ...rule })
      engine.upsertIdentity({ id, labels: [`fqdn:${key}`], nameSelector: key, names: rule.matchName === undefined ? [] : [rule.matchName] })
    }
    engine.upsertIdentity({ id: IDENTITY_SEVERAL_NAMES, labels: [], nameSelector: SEVERAL_NAMES })
    const group = engine.commit().changed.find((changed) => changed.group === 1000)
    if (group === undefined) throw new Error('no group')
    this.group = group
    const map = { keys: () => [], set: () => {}, delete: () => true, get: () => undefined } as unknown as PolicyRowsMap
    this.#rows = new GroupRows(map, group.enforced)
    const classes = [...group.classes.keys()]
    for (const [key, row] of group.rows) {
      const slot = { port: classes.indexOf(row.classKey ?? ''), generation: 1 }
      const allowsAll = group.classes.get(row.classKey ?? '')?.ruleset.allowAll === true
      this.#rows.want(key, { row, cookie: 0, slot: row.verdict === 'redirect' ? slot : undefined, allowsAll })
    }
    this.#rows.step(() => 'ready', false)
  }

  /** The longest prefix of policy that has the address, as the ipcache finds it. */
  #identityOf(address: string): number {
    const found = [`${address}/32`, `${address.split('.').slice(0, 3).join('.')}.0/24`].find((prefix) => this.#identities.has(prefix))
    return this.#identities.get(found ?? '') ?? 2
  }

  query(name: string): { allowed: boolean; seen: boolean } {
    const identity = this.#identityOf(NAME_SERVER)
    if (!this.group.enforced.egress) return { allowed: true, seen: false }
    const { verdict } = this.#rows.lookup('egress', { identity, selectors: [] }, 17, 53)
    if (verdict !== VERDICT_ALLOW && verdict !== VERDICT_DENY) {
      const row = [identity, 0]
        .flatMap((peer) => [`e/${peer}/17/53/16`, `e/${peer}/17/0/0`, `e/${peer}/0/0/0`])
        .find((key) => this.group.rows.has(key))
      const ruleset = this.group.classes.get(this.group.rows.get(row ?? '')?.classKey ?? '')?.ruleset
      if (ruleset?.kind !== 'dns') throw new Error(`not for DNS: ${row}`)
      const slot = { id: 1, generation: 1, port: 20000, direction: 'egress', ruleset } as unknown as Parameters<typeof dnsSlotMessage>[0]
      const { isAllowed } = new SlotRules(dnsSlotMessage(slot)).judgeName(`${name}.`)
      return { allowed: isAllowed, seen: isAllowed }
    }
    return { allowed: verdict === VERDICT_ALLOW, seen: false }
  }

  flow(names: readonly string[], { address, port, method, host }: Pick<Asked, 'address' | 'port' | 'method' | 'host'>): string {
    const fake = new FakeMaps()
    const learned = new LearnedNames(fake.maps, { minTtlSeconds: 0, addressesOfNameMax: 10, zombiesMax: 10, graceSeconds: 0 })
    learned.changeSelectors({ gone: [], come: this.#selectors as unknown as Parameters<LearnedNames['changeSelectors']>[0]['come'] })
    if (names.length > 0)
      learned.learn(
        0,
        names.map((name) => `${name}.`),
        addressToBytes(address),
        60,
        0,
      )
    const peer = { identity: this.#identityOf(address), selectors: fake.rows()[address] ?? [] }
    const { verdict, slotPort } = this.#rows.lookup('egress', peer, 6, port)
    if (verdict === VERDICT_ALLOW || verdict === VERDICT_DENY) return verdict === VERDICT_ALLOW ? 'allowed null' : 'denied null'
    const ruleset = [...this.group.classes.values()][slotPort]?.ruleset
    if (ruleset?.kind !== 'http') throw new Error(`not for HTTP: ${slotPort}`)
    const named = (rules: readonly NamedRule[]) => httpRules(rules).map(({ name, rule }) => ({ ...rule, name }))
    const request: HttpRequest = { method, path: '/', authority: host, headers: new Map() }
    const rules = { allowAll: ruleset.allowAll, allow: named(ruleset.allow), deny: named(ruleset.deny) }
    return `redirected ${new HttpJudge(rules, () => undefined).judge(request).allowed ? 'allowed' : 'denied'}`
  }
}

test('a trace to a name says what the agent’s rows, the DNS process and the kernel’s judgement make of it', (t) => {
  const seen = { 'allowed null': 0, 'denied null': 0, 'redirected allowed': 0, 'redirected denied': 0, refused: 0, byName: 0 }
  fc.assert(
    fc.property(document, fc.boolean(), fc.array(question, { minLength: 10, maxLength: 10 }), (raw, observesQueries, questions) => {
      const text = `${JSON.stringify(raw)}\n`
      const node = new Node(text, observesQueries)
      const { documents } = parsePolicyFile(text, 'p.yaml', LIMITS)
      const scene = new Scene({ files: [{ file: 'p.yaml', documents, refused: [] }], observesQueries })
      for (const { names, ...asked } of questions) {
        const [to = '', ...cnames] = names
        const { address, port, method, host } = asked
        const about = { from: WEB, to, cnames, answers: [address], port: `${port}/TCP`, dnsServer: NAME_SERVER, http: { method, host } }
        const answer = answerQuestion(scene, about)
        const query = node.query(to)
        // A query that is refused is told as if it were answered.
        const flow = node.flow(query.seen || !query.allowed ? names : [], asked)
        const expected = { allowed: query.allowed, seen: query.seen, flow }
        const [its] = answer.answers ?? []
        const actual = {
          allowed: answer.query?.verdict === 'allowed',
          seen: answer.query?.seen,
          flow: `${its?.egress.verdict} ${its?.egress.l7}`,
        }
        if (JSON.stringify(actual) !== JSON.stringify(expected))
          throw new Error(`${text}${JSON.stringify(about)} ${observesQueries}: ${JSON.stringify({ actual, expected })}`)
        seen[flow as 'allowed null'] += 1
        if (!query.allowed) seen.refused += 1
        if (/name that it is known by/.test(its?.egress.reason ?? '')) seen.byName += 1
      }
    }),
    { numRuns: 1000, includeErrorInReport: true },
  )
  t.log(seen)
  for (const count of Object.values(seen)) t.true(count > 100, JSON.stringify(seen))
})

test('a query with a search domain of the client behind an allowed name is judged as the DNS process judges it', (t) => {
  const rules = `egress:\n${TO_DNS.slice(0, -2)}, rules: {dns: [{matchName: api.example}, {matchName: no.example}]}}]\negressDeny:\n- toFQDNs: [{matchName: no.example.corp.test}, {matchName: never.example}]`
  const client: SceneEndpoint = { name: 'default/client', labels: labelsOf('web'), addresses: ['10.0.0.9'], searchDomains: ['Corp.test'] }
  const scene = sceneOf([rules], { endpoints: [DNS, client], searchDomains: ['svc.test'] })
  const verdictOf = (from: string, name: string) => {
    const { query } = ask(scene, `fqdn:${name}`, { from })
    return `${query?.verdict} ${query?.egress.reason}`
  }
  t.is(verdictOf('default/client', 'api.example.corp.test'), 'allowed a DNS rule allows it, without the search domain corp.test')
  t.is(verdictOf('default/client', 'api.example.svc.test'), 'denied no DNS rule allows it')
  t.is(verdictOf(WEB, 'api.example.svc.test'), 'allowed a DNS rule allows it, without the search domain svc.test')
  t.is(verdictOf(WEB, 'api.example.corp.test'), 'denied no DNS rule allows it')
  t.is(verdictOf('default/client', 'other.corp.test'), 'denied no DNS rule allows it')
  // What a rule denies as it is asked for stays denied, and so does what it denies without the domain.
  t.regex(verdictOf('default/client', 'no.example.corp.test'), /^denied a deny rule/)
  t.regex(verdictOf('default/client', 'never.example.corp.test'), /^denied/)
  // The name is judged once: not with two domains behind it.
  t.regex(verdictOf('default/client', 'api.example.corp.test.corp.test'), /^denied/)
})

/**
 * What trips people about Cilium's language, as far as its documents and its issues tell (docs/policy-reference.md, "What surprises"): a
 * test for each case, named after it, of what holds once the policies are resolved.
 */
import test from 'ava'
import { lintPolicies } from '#policy/lint/lint.ts'
import { DIALECTS } from '#policy/model.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import type { ResolvedRuleset } from '#policy/resolved.ts'
import { answerQuestion, type Question } from '#policy/trace/question.ts'
import { Scene } from '#policy/trace/scene.ts'
import type { TraceAnswer } from '#policy/trace/trace-name.ts'
import { said } from './spec.ts'
import { messagesOf, parse, policy, Resolved } from './support.ts'
import { LIMITS } from './world.ts'

const PORT = '{ports: [{port: "80", protocol: TCP}]}'

/** A rule for the port 80/TCP. @param peers with a comma at the end */
function rule(rules = '', peers = ''): string {
  return `{${peers}toPorts: [{ports: [{port: "80", protocol: TCP}]${rules === '' ? '' : `, rules: {http: ${rules}}`}}]}`
}

function http(...paths: readonly string[]): string {
  return `[${paths.map((path) => `{path: ${path}}`).join()}]`
}

const API = 'fromEndpoints: [{matchLabels: {app: api}}], '

/** The only ruleset. */
function rulesetOf(...texts: readonly string[]): ResolvedRuleset {
  const rulesets = [...new Resolved(...texts).group.classes.values()].map(({ ruleset }) => ruleset)
  const [first] = rulesets
  if (rulesets.length !== 1 || first === undefined) throw new Error(`${rulesets.length} rulesets`)
  return first
}

function egressRuleset(...members: readonly string[]): ResolvedRuleset {
  return rulesetOf(policy(`egress: [${members.map((member) => `{toEntities: [world], toPorts: [${member}]}`).join()}]`))
}

/** Asked of policies for web and api of the namespace default. */
function ask(question: Question, texts: readonly string[], audit = false): TraceAnswer {
  const files = texts.map((text, index) => ({ file: `${index}.yaml`, ...parsePolicyFile(text, `${index}.yaml`, LIMITS) }))
  return answerQuestion(new Scene({ files, audit }), question)
}

test('fromEndpoints: [] selects nothing, omitted with toPorts any peer and the world, [{}] all of the namespace', (t) => {
  const verdicts = (peers: string) => {
    const resolved = new Resolved(policy(`ingress: [${rule('', peers)}]`))
    return (['api', 'far', 'world', 'host'] as const).map((peer) => resolved.ingress(peer))
  }
  t.deepEqual(verdicts('fromEndpoints: [], '), ['deny', 'deny', 'deny', 'deny'])
  t.deepEqual(verdicts(''), ['allow', 'allow', 'allow', 'allow'])
  t.deepEqual(verdicts('fromEndpoints: [{}], '), ['allow', 'deny', 'deny', 'deny'])
})

test('ingress: [] alone is rejected, and enableDefaultDeny does not rescue it', (t) => {
  for (const more of ['', '\nenableDefaultDeny: {ingress: true}']) {
    const text = policy(`ingress: []${more}`)
    t.deepEqual(messagesOf(text), ['a policy needs at least one member in ingress, ingressDeny, egress or egressDeny'])
    // Cilium leaves the endpoint open, which was taken for default deny. Here whom a refused policy selects is at default deny.
    t.is(new Resolved(text).ingress('api'), 'deny')
  }
})

test('ingress: [{}] matches nothing and switches default deny on', (t) => {
  const resolved = new Resolved(policy('ingress: [{}]'))
  t.deepEqual(resolved.group.enforced, { ingress: true, egress: false })
  for (const peer of ['web', 'api', 'host', 'world'] as const) t.is(resolved.ingress(peer), 'deny')
})

test('a policy of denies alone enables default deny, unless enableDefaultDeny is false', (t) => {
  const deny = `ingressDeny: [${rule('', 'fromEntities: [world], ')}]`
  const on = new Resolved(policy(deny))
  t.deepEqual([on.ingress('world'), on.ingress('world', '81/TCP'), on.ingress('api')], ['deny', 'deny', 'deny'])
  const off = new Resolved(policy(`${deny}\nenableDefaultDeny: {ingress: false}`))
  t.deepEqual([off.ingress('world'), off.ingress('world', '81/TCP'), off.ingress('api')], ['deny', 'allow', 'allow'])
})

test('rules: {http: []} is no L7 enforcement, http: [{}] allows every request', (t) => {
  t.is(new Resolved(policy(`ingress: [${rule('[]')}]`)).ingress('api'), 'allow')
  t.is(new Resolved(policy(`ingress: [${rule('[{}]')}]`)).ingress('api'), '* *')
})

test('L4-only and L7 for the same selector and port: L7 has no effect', (t) => {
  t.is(new Resolved(policy(`ingress: [${rule(http('/a'), API)}, ${rule('', API)}]`)).ingress('api'), '*, * /a')
  t.is(
    ask({ from: 'app=api', to: 'app=web', port: '80', http: { path: '/b' } }, [
      policy(`ingress: [${rule(http('/a'), API)}, ${rule('', API)}]`),
    ]).verdict,
    'allowed',
  )
})

test('L4-only for every peer and L7 for one: its traffic goes to the proxy, which allows the union', (t) => {
  const resolved = new Resolved(policy(`ingress: [${rule(http('/a'), API)}, ${rule()}]`))
  t.is(resolved.ingress('api'), '*, * /a')
  t.is(resolved.ingress('far'), 'allow')
})

test('mixed L7 types on one port and selector cannot hold together: such traffic is denied, and the folder is told of', (t) => {
  const conflicts = [
    [`{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}`, `{ports: [{port: "80", protocol: TCP}], rules: {kafka: [{}]}}`],
    [
      `{ports: [{port: "80", protocol: TCP}], terminatingTLS: {secret: {name: a}}}`,
      `{ports: [{port: "80", protocol: TCP}], terminatingTLS: {secret: {name: b}}}`,
    ],
    [
      `{ports: [{port: "80", protocol: TCP}], listener: {name: a, envoyConfig: {name: c}}}`,
      `{ports: [{port: "80", protocol: TCP}], listener: {name: b, envoyConfig: {name: c}}}`,
    ],
    [`{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}`, `{ports: [{port: "80", protocol: TCP}], serverNames: [a.example]}`],
  ] as const
  for (const [one, two] of conflicts) {
    const ruleset = egressRuleset(one, two)
    t.is(ruleset.kind, 'conflict', ruleset.conflict)
    const text = policy(`egress: [{toEntities: [world], toPorts: [${one}]}, {toEntities: [world], toPorts: [${two}]}]`)
    t.is(ask({ from: 'app=web', to: '198.51.100.7', port: '80', http: {} }, [text]).verdict, 'denied')
    t.deepEqual(
      lintPolicies({ files: [{ file: 'p.yaml', documents: parse(text).documents }], dialect: 'extended' }).map(({ lint, severity }) => [
        lint,
        severity,
      ]),
      [['policy/conflict', 'error']],
    )
  }
  // The better priority decides, and modes of authentication other than disabled are refused at once.
  const listener = (name: string, priority: string) =>
    `{ports: [{port: "80", protocol: TCP}], listener: {name: ${name}, envoyConfig: {name: c}${priority}}}`
  t.like(egressRuleset(listener('a', ', priority: 2'), listener('b', ', priority: 1'), listener('c', '')), {
    kind: 'listener',
    listener: { name: 'b' },
  })
  t.is(said('ingress: [{fromEndpoints: [{}], authentication: {mode: required}}]').length, 1)
})

test('SNI lists of several rules are merged, and all L7 rules apply to all of them', (t) => {
  const member = (name: string, path: string) =>
    `{ports: [{port: "443", protocol: TCP}], serverNames: [${name}], terminatingTLS: {secret: {name: s}}, rules: {http: [{path: ${path}}]}}`
  const ruleset = egressRuleset(member('a.example', '/a'), member('b.example', '/b'))
  t.deepEqual(ruleset.serverNames, ['a.example', 'b.example'])
  t.is(ruleset.allow.length, 2)
  const text = policy(`egress: [{toPorts: [${member('a.example', '/a')}, ${member('b.example', '/b')}]}]`)
  const verdict = (sni: string, path: string) =>
    ask({ from: 'app=web', to: '198.51.100.7', port: '443', sni, http: { path } }, [text]).verdict
  t.deepEqual([verdict('a.example', '/b'), verdict('b.example', '/a'), verdict('c.example', '/a')], ['allowed', 'allowed', 'denied'])
})

test('a deny beats every allow, and has neither L7 nor toFQDNs where Cilium’s language is read', (t) => {
  const resolved = new Resolved(
    policy(`ingress: [${rule(http('/a'), API)}, {fromEntities: [all]}]`),
    policy(`ingressDeny: [${rule('', API)}]`, { name: 'deny' }),
  )
  t.deepEqual([resolved.ingress('api'), resolved.ingress('api', '81/TCP'), resolved.ingress('far')], ['deny', 'allow', 'allow'])
  for (const spec of [`ingressDeny: [${rule(http('/a'))}]`, 'egressDeny: [{toFQDNs: [{matchName: a.example}]}]'])
    t.deepEqual([said(spec, { dialect: 'cilium' }).length, said(spec).length], [1, 0])
})

test('enableDefaultDeny: false with L7 adds an L7 wildcard, unless another policy of that direction has default deny', (t) => {
  const soft = policy(`enableDefaultDeny: {ingress: false}\ningress: [${rule(http('/a'), API)}]`)
  const alone = new Resolved(soft)
  t.deepEqual([alone.ingress('api'), alone.ingress('far'), alone.ingress('api', '81/TCP')], ['*, * /a', 'allow', 'allow'])
  const beside = new Resolved(soft, policy('ingress: [{}]', { name: 'hard' }))
  t.deepEqual([beside.ingress('api'), beside.ingress('far'), beside.ingress('api', '81/TCP')], ['* /a', 'deny', 'deny'])
  // Default deny of the other direction is none of its business.
  t.is(new Resolved(soft, policy('egress: [{}]', { name: 'other' })).ingress('api'), '*, * /a')
})

test('http without a protocol is rejected', (t) => {
  const text = policy('ingress: [{toPorts: [{ports: [{port: "80"}], rules: {http: [{}]}}]}]')
  t.deepEqual(messagesOf(text), ['L7 rules can only apply to TCP, not ANY'])
  t.is(new Resolved(text).ingress('api'), 'deny')
})

test('DNS rules are of egress, need ports and take no ranges; HTTP rules are of both directions; of nodes only the former', (t) => {
  const dns = (ports: string) => `toPorts: [{${ports}rules: {dns: [{matchPattern: "*"}]}}]`
  const port = 'ports: [{port: "53"}], '
  t.deepEqual(said(`egress: [{${dns(port)}}]`), [])
  for (const spec of [
    `ingress: [{${dns(port)}}]`,
    `egress: [{${dns('')}}]`,
    `egress: [{${dns('ports: [{port: "53", endPort: 54}], ')}}]`,
    `egress: [{${dns('ports: [{port: "0"}], ')}}]`,
  ])
    t.is(said(spec).length, 1, spec)
  const both = new Resolved(policy(`ingress: [${rule(http('/a'))}]\negress: [${rule(http('/b'))}]`))
  t.deepEqual([both.ingress('api'), both.verdict('egress', 'api', '80/TCP')], ['* /a', '* /b'])
  const node = (spec: string) => said(`nodeSelector: {}\n${spec}`, { clusterwide: true }).length
  t.deepEqual([node(`egress: [{${dns(port)}}]`), node(`egress: [${rule('[{}]')}]`), node(`ingress: [${rule('[{}]')}]`)], [0, 1, 1])
})

test('a listener is of egress, not beside L7 rules, and a clusterwide policy cannot use one of a namespace', (t) => {
  const member = (more = '', kind = 'CiliumEnvoyConfig') =>
    `toPorts: [{ports: [{port: "80", protocol: TCP}], listener: {name: l, envoyConfig: {kind: ${kind}, name: c}}${more}}]`
  t.like(rulesetOf(policy(`egress: [{toEntities: [world], ${member()}}]`)), { kind: 'listener', listener: { name: 'l' } })
  t.is(said(`ingress: [{${member()}}]`).length, 1)
  t.is(said(`egress: [{${member(', rules: {http: [{}]}')}}]`).length, 1)
  t.is(said(`egress: [{${member()}}]`, { clusterwide: true }).length, 1)
  t.deepEqual(said(`egress: [{${member('', 'CiliumClusterwideEnvoyConfig')}}]`, { clusterwide: true }), [])
})

test('a port "010" is 8, "0080" is refused, and 0x10 is a name', (t) => {
  const port = (text: string) => new Resolved(policy(`ingress: [{toPorts: [{ports: [{port: "${text}", protocol: TCP}]}]}]`))
  t.deepEqual([port('010').ingress('api', '8/TCP'), port('010').ingress('api', '10/TCP')], ['allow', 'deny'])
  t.deepEqual(said('ingress: [{toPorts: [{ports: [{port: "0080"}]}]}]'), ['not a port: 0080'])
  // web has no port of that name.
  t.deepEqual([port('0x10').ingress('api', '16/TCP'), port('0x10').ingress('api', '10/TCP')], ['deny', 'deny'])
})

test('an endPort at or below port leaves a single port, and a named port ignores it', (t) => {
  for (const endPort of [80, 79, 1]) {
    const resolved = new Resolved(policy(`ingress: [{toPorts: [{ports: [{port: "80", endPort: ${endPort}, protocol: TCP}]}]}]`))
    t.deepEqual(
      ['79/TCP', '80/TCP', '81/TCP'].map((port) => resolved.ingress('api', port as '80/TCP')),
      ['deny', 'allow', 'deny'],
    )
  }
  t.deepEqual(said('ingress: [{toPorts: [{ports: [{port: web, endPort: 90}]}]}]'), [])
})

test('CIDR rules match neither endpoints nor nodes', (t) => {
  const resolved = new Resolved(policy('ingress: [{fromCIDR: [0.0.0.0/0]}, {fromCIDR: [10.0.0.0/8]}]'))
  t.deepEqual([resolved.ingress('world'), resolved.ingress('10.0.0.0/8')], ['allow', 'allow'])
  for (const peer of ['api', 'far', 'host', 'remote-node', 'init'] as const) t.is(resolved.ingress(peer), 'deny', peer)
})

test('L7 rules are rejected where the proxy is off', (t) => {
  for (const dialect of DIALECTS) {
    t.is(said(`ingress: [${rule('[{}]')}]`, { dialect, l7Proxy: false }).length, 1)
    t.deepEqual(said(`ingress: [${rule('[]')}]`, { dialect, l7Proxy: false }), [])
  }
})

test('audit is of L7 as of L3 and L4: what would be denied is allowed and reported', (t) => {
  const text = policy(`ingress: [${rule(http('/a'), API)}]`)
  const asked = (from: string, path: string, audit: boolean) => {
    const { verdict, ingress } = ask({ from, to: 'app=web', port: '80', http: { path } }, [text], audit)
    return [verdict, ingress.audit === true]
  }
  t.deepEqual(
    [asked('app=api', '/b', false), asked('app=db', '/a', false)],
    [
      ['denied', false],
      ['denied', false],
    ],
  )
  t.deepEqual(
    [asked('app=api', '/b', true), asked('app=db', '/a', true)],
    [
      ['allowed', true],
      ['allowed', true],
    ],
  )
  t.deepEqual(asked('app=api', '/a', true), ['allowed', false])
})

test('policies of the sender and of the receiver must both allow, and each may redirect to a proxy of its own', (t) => {
  const web = policy(
    `egress: [{toEndpoints: [{matchLabels: {app: api}}], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: ${http('/a', '/b')}}}]}]`,
  )
  const api = policy(
    `endpointSelector: {matchLabels: {app: api}}\ningress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: ${http('/b', '/c')}}}]}]`,
    { name: 'api' },
  )
  const asked = (path: string) => {
    const { verdict, egress, ingress } = ask({ from: 'app=web', to: 'app=api', port: '80', http: { path } }, [web, api])
    return [verdict, egress.verdict, egress.l7, ingress.verdict, ingress.l7]
  }
  t.deepEqual(asked('/a'), ['denied', 'redirected', 'allowed', 'redirected', 'denied'])
  t.deepEqual(asked('/b'), ['allowed', 'redirected', 'allowed', 'redirected', 'allowed'])
  t.deepEqual(asked('/c'), ['denied', 'redirected', 'denied', 'redirected', 'allowed'])
})

test('limits: 40 ports and ICMP fields, 32 characters of log, priorities up to 100; more ports go into more members', (t) => {
  const ports = (count: number, first = 1) =>
    Array.from({ length: count }, (_, index) => `{port: "${first + index}", protocol: TCP}`).join()
  t.is(said(`ingress: [{toPorts: [{ports: [${ports(41)}]}]}]`).length, 1)
  const resolved = new Resolved(policy(`ingress: [{toPorts: [{ports: [${ports(40)}]}, {ports: [${ports(40, 41)}]}]}]`))
  t.deepEqual(
    [resolved.ingress('api', '1/TCP'), resolved.ingress('api', '80/TCP'), resolved.ingress('api', '81/TCP')],
    ['allow', 'allow', 'deny'],
  )
  t.is(said(`ingress: [{icmps: [{fields: [${Array(41).fill('{type: 8}').join()}]}]}]`).length, 1)
  t.is(said(`ingress: [{}]\nlog: {value: ${'a'.repeat(33)}}`).length, 1)
  t.is(said(`egress: [{toPorts: [{ports: [{port: "80"}], listener: {name: l, priority: 101, envoyConfig: {name: c}}}]}]`).length, 1)
})

test('kinds of peers exclude one another in a rule, all take toPorts; an exception lies inside its prefix, and groups have none', (t) => {
  t.is(said('ingress: [{fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]}]').length, 1)
  t.deepEqual(said(`egress: [{toFQDNs: [{matchName: a.example}], toPorts: [${PORT}]}]`), [])
  t.is(said('ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]').length, 1)
  t.is(said('ingress: [{fromCIDRSet: [{cidrGroupRef: g, except: [10.0.0.0/16]}]}]').length, 1)
})

/** Cilium's semantics, one sentence each; the first part is the table of what trips people. */
import test from 'ava'
import { isPolicy } from '#policy/model.ts'
import { messagesOf, parse, policy, Resolved } from './support.ts'

const WEB = 'toPorts: [{ports: [{port: "80", protocol: TCP}]}]'

function httpRule(rules: string, peers = ''): string {
  return `- ${peers}toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: ${rules}}}]`
}

// ---- peers

test('an empty list of peers selects nobody, also with ports', (t) => {
  const resolved = new Resolved(policy(`ingress: [{fromEndpoints: [], ${WEB}}]`))
  t.is(resolved.ingress('api'), 'deny')
  t.is(resolved.ingress('world'), 'deny')
  t.deepEqual(messagesOf(policy(`ingress: [{fromEndpoints: [], ${WEB}}]`), 'warning'), ['an empty list selects nobody'])
})

test('an empty list of peers makes the rule one about nobody, whatever stands beside it', (t) => {
  t.is(new Resolved(policy('ingress: [{fromEndpoints: [], fromEntities: [all]}]')).ingress('api'), 'deny')
})

test('ports without peers mean everybody, the world included', (t) => {
  const resolved = new Resolved(policy(`ingress: [{${WEB}}]`))
  t.is(resolved.ingress('api'), 'allow')
  t.is(resolved.ingress('world'), 'allow')
  t.is(resolved.ingress('host'), 'allow')
  t.is(resolved.ingress('api', '81/TCP'), 'deny')
})

test('an empty selector of peers means every endpoint of the namespace, and no host and no world', (t) => {
  const resolved = new Resolved(policy('ingress: [{fromEndpoints: [{}]}]'))
  t.is(resolved.ingress('api'), 'allow')
  t.is(resolved.ingress('far'), 'deny')
  for (const peer of ['host', 'world', 'remote-node', 'init'] as const) t.is(resolved.ingress(peer), 'deny')
})

test('a selector that names a namespace is not bound to the policy’s own', (t) => {
  const byName = new Resolved(policy('ingress: [{fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: other}}]}]'))
  t.deepEqual([byName.ingress('api'), byName.ingress('far')], ['deny', 'allow'])
  const bySource = new Resolved(policy('ingress: [{fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": other, app: api}}]}]'))
  t.deepEqual([bySource.ingress('api'), bySource.ingress('far')], ['deny', 'allow'])
  const byLabel = new Resolved(policy('ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.team: shop}}]}]'))
  t.deepEqual([byLabel.ingress('api'), byLabel.ingress('far')], ['allow', 'deny'])
})

test('a key that only looks like the namespace’s, of another source, does not unbind a selector', (t) => {
  const spec = 'ingress: [{fromEndpoints: [{matchExpressions: [{key: "container:io.kubernetes.pod.namespace", operator: DoesNotExist}]}]}]'
  const resolved = new Resolved(policy(spec))
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far'), resolved.ingress('world')], ['allow', 'deny', 'deny'])
})

test('a selector that only says what not to be selects the host and the world too, and is told of', (t) => {
  const spec = 'ingress: [{fromEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [other]}]}]}]'
  const resolved = new Resolved(policy(spec))
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far'), resolved.ingress('world')], ['allow', 'deny', 'allow'])
  t.deepEqual(messagesOf(policy(spec), 'warning'), ['this selects everybody without these labels: the host and the world too'])
})

test('a key without a source, or of the source any, matches labels of every source; one with a source only its own', (t) => {
  const matched = ['app', '"any:app"', '"container:app"', '"k8s:app"'].map((key) =>
    new Resolved(policy(`ingress: [{fromEndpoints: [{matchLabels: {${key}: sidecar}}]}]`)).ingress('api'),
  )
  t.deepEqual(matched, ['allow', 'allow', 'allow', 'deny'])
})

test('reserved labels in a selector of peers mean reserved identities, and CIDR identities as the world that they are', (t) => {
  const resolved = new Resolved(
    policy('ingress: [{fromEndpoints: [{matchLabels: {"reserved:world": ""}}]}]'),
    policy('endpointSelector: {matchLabels: {app: other}}\negress: [{toCIDR: [10.0.0.0/8]}]', { name: 'mentions' }),
  )
  t.deepEqual([resolved.ingress('world'), resolved.ingress('10.0.0.0/8'), resolved.ingress('host')], ['allow', 'allow', 'deny'])
})

test('a deny for the world holds for addresses that another policy mentions by prefix', (t) => {
  const resolved = new Resolved(
    policy('ingressDeny: [{fromEndpoints: [{matchLabels: {"reserved:world": ""}}]}]\ningress: [{fromEntities: [all]}]'),
    policy('ingress: [{fromCIDR: [10.0.0.0/8]}]', { name: 'more' }),
  )
  t.deepEqual([resolved.ingress('10.0.0.0/8'), resolved.ingress('world'), resolved.ingress('api')], ['deny', 'deny', 'allow'])
})

test('entities: all is everybody, world is what no endpoint or node is, cluster is the rest, none is nobody', (t) => {
  const of = (entity: string) => {
    const resolved = new Resolved(policy(`ingress: [{fromEntities: [${entity}], ${WEB}}]`))
    return (['api', 'far', 'host', 'remote-node', 'world', 'init'] as const).filter((peer) => resolved.ingress(peer) === 'allow')
  }
  t.deepEqual(of('all'), ['api', 'far', 'host', 'remote-node', 'world', 'init'])
  t.deepEqual(of('world'), ['world'])
  t.deepEqual(of('cluster'), ['api', 'far', 'host', 'remote-node', 'init'])
  t.deepEqual(of('host'), ['host'])
  t.deepEqual(of('none'), [])
})

test('the entity all with ports holds for those ports only', (t) => {
  const resolved = new Resolved(policy(`egress: [{toEntities: [all], ${WEB}}]`))
  t.is(resolved.verdict('egress', 'world', '80/TCP'), 'allow')
  t.is(resolved.verdict('egress', 'world', '80/UDP'), 'deny')
  t.is(resolved.verdict('egress', 'api', 'ICMP'), 'deny')
})

test('prefixes match neither endpoints nor nodes, whatever their addresses', (t) => {
  const resolved = new Resolved(policy('ingress: [{fromCIDR: [0.0.0.0/0]}]'))
  t.is(resolved.ingress('world'), 'allow')
  for (const peer of ['api', 'host', 'remote-node'] as const) t.is(resolved.ingress(peer), 'deny')
})

test('the prefix of all IPv6 does not mean IPv4', (t) => {
  const resolved = new Resolved(policy('ingress: [{fromCIDR: ["::/0"]}]'))
  t.deepEqual([resolved.ingress('world'), resolved.ingress('world-ipv6')], ['deny', 'allow'])
})

test('an exception is no deny: another rule may allow what it leaves out', (t) => {
  const set = 'ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]'
  const alone = new Resolved(policy(set))
  t.deepEqual([alone.ingress('10.0.0.0/8'), alone.ingress('10.1.0.0/16')], ['allow', 'deny'])
  const with2 = new Resolved(policy(set), policy('ingress: [{fromCIDR: [10.1.2.0/24]}]', { name: 'more' }))
  t.deepEqual([with2.ingress('10.1.0.0/16'), with2.ingress('10.1.2.0/24')], ['deny', 'allow'])
})

test('kinds of peers cannot stand together in one rule', (t) => {
  t.deepEqual(messagesOf(policy('ingress: [{fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]}]')), [
    'fromEndpoints and fromCIDR cannot stand in one rule',
  ])
})

// ---- default deny

test('empty sections alone are refused, and enableDefaultDeny does not change that', (t) => {
  const message = 'a policy needs at least one member in ingress, ingressDeny, egress or egressDeny'
  t.deepEqual(messagesOf(policy('ingress: []')), [message])
  t.deepEqual(messagesOf(policy('ingress: []\nenableDefaultDeny: {ingress: true}')), [message])
})

test('a rule that says nothing allows nothing and switches default deny on, in its direction', (t) => {
  for (const rule of ['{}', '{toPorts: []}']) {
    const resolved = new Resolved(policy(`ingress: [${rule}]`))
    t.is(resolved.ingress('api'), 'deny')
    t.is(resolved.verdict('egress', 'api', '80/TCP'), 'allow')
  }
})

test('a policy of denies alone switches default deny on, unless it says otherwise', (t) => {
  const deny = `ingressDeny: [{fromEndpoints: [{}], ${WEB}}]`
  t.is(new Resolved(policy(deny)).ingress('world', '443/TCP'), 'deny')
  const open = new Resolved(policy(`${deny}\nenableDefaultDeny: {ingress: false}`))
  t.is(open.ingress('world', '443/TCP'), 'allow')
  t.is(open.ingress('api'), 'deny')
})

test('one policy that switches default deny on is enough', (t) => {
  const open = policy(`ingressDeny: [{fromEntities: [host]}]\nenableDefaultDeny: {ingress: false}`, { name: 'open' })
  t.is(new Resolved(open, policy('ingress: [{}]')).ingress('api'), 'deny')
})

test('HTTP rules without default deny do not restrict, unless another policy has it', (t) => {
  const visible = policy(`ingress:\n${httpRule('[{method: GET}]')}\nenableDefaultDeny: {ingress: false}`, { name: 'visible' })
  t.is(new Resolved(visible).ingress('api'), '*, GET *')
  t.is(new Resolved(visible, policy('ingress: [{}]')).ingress('api'), 'GET *')
})

test('enableDefaultDeny for a direction without rules has no effect, and is told of', (t) => {
  const spec = 'ingress: [{}]\nenableDefaultDeny: {egress: true}'
  t.is(new Resolved(policy(spec)).verdict('egress', 'api', '80/TCP'), 'allow')
  t.deepEqual(messagesOf(policy(spec), 'warning'), ['has no effect without egress rules: egress'])
})

// ---- ports

test('a member of toPorts without ports matches nothing, while an empty toPorts matches everything', (t) => {
  for (const member of ['{}', '{ports: []}']) {
    const spec = `ingress: [{fromEndpoints: [{}], toPorts: [${member}]}]`
    t.is(new Resolved(policy(spec)).ingress('api'), 'deny')
    t.deepEqual(messagesOf(policy(spec), 'warning'), ['without ports this matches nothing'])
  }
  const all = new Resolved(policy('ingress: [{fromEndpoints: [{}], toPorts: []}]'))
  t.deepEqual([all.ingress('api'), all.ingress('api', 'ICMP')], ['allow', 'allow'])
})

test('port 0 of protocol ANY is every port of TCP, UDP and SCTP, but not ICMP', (t) => {
  const resolved = new Resolved(policy('ingress: [{toPorts: [{ports: [{port: "0"}]}]}]'))
  t.deepEqual(
    (['1/TCP', '65535/UDP', '80/SCTP', 'ICMP'] as const).map((traffic) => resolved.ingress('api', traffic)),
    ['allow', 'allow', 'allow', 'deny'],
  )
})

test('a rule without toPorts is about ICMP too', (t) => {
  t.is(new Resolved(policy('ingress: [{fromEndpoints: [{}]}]')).ingress('api', 'ICMP'), 'allow')
  t.is(new Resolved(policy('ingressDeny: [{fromEndpoints: [{}]}]\ningress: [{fromEntities: [all]}]')).ingress('api', 'ICMP'), 'deny')
})

test('a port with a leading zero is octal, and one that is no octal number is refused', (t) => {
  t.is(new Resolved(policy('ingress: [{toPorts: [{ports: [{port: "010"}]}]}]')).ingress('api', '8/TCP'), 'allow')
  t.deepEqual(messagesOf(policy('ingress: [{toPorts: [{ports: [{port: "0080"}]}]}]')), ['not a port: 0080'])
})

test('a number in another base is a name', (t) => {
  t.is(new Resolved(policy('ingress: [{toPorts: [{ports: [{port: "0x10"}]}]}]')).ingress('api', '16/TCP'), 'deny')
})

test('endPort ends a range, and one that is not above port means nothing', (t) => {
  const range = new Resolved(policy('ingress: [{toPorts: [{ports: [{port: "8000", endPort: 8010}]}]}]'))
  t.deepEqual(
    (['7999/TCP', '8000/TCP', '8010/UDP', '8011/TCP'] as const).map((traffic) => range.ingress('api', traffic)),
    ['deny', 'allow', 'allow', 'deny'],
  )
  const below = policy('ingress: [{toPorts: [{ports: [{port: "8000", endPort: 80}]}]}]')
  t.deepEqual([new Resolved(below).ingress('api', '8000/TCP'), new Resolved(below).ingress('api', '80/TCP')], ['allow', 'deny'])
  t.deepEqual(messagesOf(below, 'warning'), ['endPort is below port and means nothing: 80'])
})

test('a range cannot begin at port 0, which means every port', (t) => {
  t.deepEqual(messagesOf(policy('ingress: [{toPorts: [{ports: [{port: "0", endPort: 1023}]}]}]')), [
    'port 0 means every port and cannot begin a range: 1023',
  ])
})

test('at most 40 ports stand in one member', (t) => {
  const ports = (count: number) => Array.from({ length: count }, (_, index) => `{port: "${index + 1}"}`).join()
  t.deepEqual(messagesOf(policy(`ingress: [{toPorts: [{ports: [${ports(40)}]}]}]`)), [])
  t.deepEqual(messagesOf(policy(`ingress: [{toPorts: [{ports: [${ports(41)}]}]}]`)), ['more ports than 40: 41'])
})

// ---- deny

test('a deny beats every allow, of whatever width and policy', (t) => {
  const resolved = new Resolved(
    policy(`ingress: [{fromEndpoints: [{matchLabels: {app: api}}], ${WEB}}]`),
    policy('ingressDeny: [{fromEndpoints: [{}]}]', { name: 'deny' }),
  )
  t.is(resolved.ingress('api'), 'deny')
})

test('a deny of one port leaves the others of a wider allow', (t) => {
  const resolved = new Resolved(policy(`ingress: [{fromEntities: [all]}]\ningressDeny: [{fromEndpoints: [{}], ${WEB}}]`))
  t.deepEqual([resolved.ingress('api'), resolved.ingress('api', '81/TCP'), resolved.ingress('world')], ['deny', 'allow', 'allow'])
})

test('a deny for everybody holds for peers with rules of their own', (t) => {
  const resolved = new Resolved(policy(`ingress: [{fromEndpoints: [{}]}]\ningressDeny: [{${WEB}}]`))
  t.deepEqual([resolved.ingress('api'), resolved.ingress('api', '81/TCP')], ['deny', 'allow'])
})

// ---- HTTP

test('an empty list of HTTP rules is none, and an empty HTTP rule allows every request', (t) => {
  t.is(new Resolved(policy(`ingress:\n${httpRule('[]')}`)).ingress('api'), 'allow')
  t.is(new Resolved(policy(`ingress:\n${httpRule('[{}]')}`)).ingress('api'), '* *')
})

test('a rule without HTTP rules for the same peers and port makes those of others moot', (t) => {
  const l4 = policy(`ingress: [{fromEndpoints: [{}], ${WEB}}]`, { name: 'l4' })
  t.is(new Resolved(policy(`ingress:\n${httpRule('[{method: GET}]', 'fromEndpoints: [{}]\n  ')}`), l4).ingress('api'), '*, GET *')
})

test('a rule without HTTP rules for everybody makes those of one peer moot, though requests go through the proxy', (t) => {
  const resolved = new Resolved(
    policy(`ingress:\n${httpRule('[{method: GET}]', 'fromEndpoints: [{}]\n  ')}`),
    policy(`ingress: [{${WEB}}]`, { name: 'l4' }),
  )
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far')], ['*, GET *', 'allow'])
})

test('a rule about peers alone makes their HTTP rules moot on every port', (t) => {
  const resolved = new Resolved(
    policy(`ingress:\n${httpRule('[{method: GET}]')}`),
    policy('ingress: [{fromEndpoints: [{}]}]', { name: 'l3' }),
  )
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far'), resolved.ingress('api', '81/TCP')], ['*, GET *', 'GET *', 'allow'])
})

test('HTTP rules of all that match add up', (t) => {
  const resolved = new Resolved(
    policy(`ingress:\n${httpRule('[{method: GET}]')}`),
    policy(`ingress:\n${httpRule('[{method: PUT}]', 'fromEndpoints: [{}]\n  ')}`, { name: 'more' }),
  )
  t.deepEqual([resolved.ingress('api'), resolved.ingress('far')], ['GET *, PUT *', 'GET *'])
})

test('HTTP rules need the protocol TCP, and a port', (t) => {
  const rules = 'rules: {http: [{}]}'
  t.deepEqual(messagesOf(policy(`ingress: [{toPorts: [{ports: [{port: "80"}], ${rules}}]}]`)), ['L7 rules can only apply to TCP, not ANY'])
  t.deepEqual(messagesOf(policy(`ingress: [{toPorts: [{ports: [{port: "80", protocol: ANY}], ${rules}}]}]`)), [
    'L7 rules can only apply to TCP, not ANY',
  ])
  t.deepEqual(messagesOf(policy(`ingress: [{toPorts: [{ports: [{port: "0", protocol: TCP}], ${rules}}]}]`)), [
    'L7 rules cannot apply to every port',
  ])
})

test('HTTP rules hold on a range of ports, in both directions', (t) => {
  const ports = 'toPorts: [{ports: [{port: "8000", endPort: 8100, protocol: TCP}], rules: {http: [{method: GET}]}}]'
  const resolved = new Resolved(policy(`ingress: [{${ports}}]\negress: [{${ports}}]`))
  t.deepEqual([resolved.ingress('api', '8050/TCP'), resolved.verdict('egress', 'api', '8050/TCP')], ['GET *', 'GET *'])
})

test('a header without the space asks for a header of that whole name: it is told of, and the rule allows nothing', (t) => {
  for (const header of ['X-Key:true', 'X-Key:', 'X-Key:a:b']) {
    const text = policy(`ingress:\n${httpRule(`[{headers: ["${header}"]}]`)}`)
    t.is(new Resolved(text).ingress('api'), 'redirect: nothing')
    t.deepEqual(messagesOf(text, 'warning'), [`without a space this asks for a header of that whole name, which no request has: ${header}`])
  }
})

test('a rule that no request can match leaves those beside it, and takes nothing away from L4 rules', (t) => {
  const text = policy(`ingress:\n${httpRule('[{headers: ["X-Key:true"]}, {method: GET}]')}`)
  t.is(new Resolved(text).ingress('api'), 'GET *')
  t.is(new Resolved(text, policy(`ingress: [{${WEB}}]`, { name: 'l4' })).ingress('api'), '*, GET *')
})

test('a header with a space is split there, and sheds the colons of its name', (t) => {
  const text = policy(`ingress:\n${httpRule('[{headers: ["X-Key: a b", "X-Plain c", "X-Odd:: d", X-There]}]')}`)
  const rule = parse(text).documents.filter(isPolicy)[0]?.specs[0]?.rules[0]
  const l7 = rule?.traffic.kind === 'ports' ? rule.traffic.rules[0]?.l7 : undefined
  t.deepEqual(l7?.kind === 'http' ? l7.rules[0]?.headers : undefined, [
    { name: 'x-key', value: 'a b' },
    { name: 'x-plain', value: 'c' },
    { name: 'x-odd', value: 'd' },
    { name: 'x-there' },
  ])
})

test('an empty pattern means any', (t) => {
  t.is(new Resolved(policy(`ingress:\n${httpRule('[{path: "", method: "", host: ""}]')}`)).ingress('api'), '* *')
})

// ---- subjects

test('a policy selects endpoints of its own namespace only', (t) => {
  t.is(new Resolved(policy('endpointSelector: {}\ningress: [{}]', { namespace: 'other' })).ingress('api'), 'allow')
  t.is(
    new Resolved(policy('endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: default}}\ningress: [{}]')).ingress('api'),
    'deny',
  )
  t.deepEqual(messagesOf(policy('endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\ningress: [{}]')), [
    'a policy selects endpoints of its own namespace only: other',
  ])
})

test('reserved labels in endpointSelector select no endpoint', (t) => {
  t.is(new Resolved(policy('endpointSelector: {matchLabels: {"reserved:host": ""}}\ningress: [{}]')).ingress('api'), 'allow')
})

test('server names on ports of any protocol allow TCP to them, and nothing else', (t) => {
  const resolved = new Resolved(policy('ingress: [{toPorts: [{ports: [{port: "443"}], serverNames: [a.example]}]}]'))
  t.is(resolved.ingress('api', '443/TCP'), 'redirect: nothing')
  for (const traffic of ['443/UDP', '443/SCTP'] as const) t.is(resolved.ingress('api', traffic), 'deny', traffic)
  const dns = new Resolved(policy('egress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*"}]}}]}]'))
  for (const traffic of ['53/TCP', '53/UDP'] as const) t.not(dns.verdict('egress', 'api', traffic), 'deny', traffic)
  t.is(dns.verdict('egress', 'api', '53/SCTP'), 'deny')
})

test('a deny rule about a document that was refused denies whoever that may be, and an allow rule nobody', (t) => {
  const group = (prefix: string) =>
    `apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: bad}\nspec: {externalCIDRs: ["${prefix}"]}\n`
  const peers = 'toCIDRSet: [{cidrGroupRef: bad}]'
  const deny = policy(`egress: [{toEntities: [all]}]\negressDeny: [{${peers}}]`)
  t.is(new Resolved(deny, group('10.0.0.0/8')).verdict('egress', 'world', '80/TCP'), 'allow')
  t.is(new Resolved(deny, group('10.0.0.0/99')).verdict('egress', 'world', '80/TCP'), 'deny')
  t.is(new Resolved(deny, group('10.0.0.0/99')).verdict('egress', 'api', '80/TCP'), 'allow')
  t.is(new Resolved(deny).verdict('egress', 'world', '80/TCP'), 'allow')
  t.is(new Resolved(policy(`egress: [{${peers}}]`), group('10.0.0.0/99')).verdict('egress', 'world', '80/TCP'), 'deny')
  const service = 'apiVersion: v1\nkind: Service\nmetadata: {name: api}\nspec: {selector: [wrong]}\n'
  const denied = policy('egress: [{toEntities: [all]}]\negressDeny: [{toServices: [{k8sService: {serviceName: api, namespace: default}}]}]')
  for (const peer of ['world', 'api', 'far'] as const) t.is(new Resolved(denied, service).verdict('egress', peer, '80/TCP'), 'deny', peer)
  t.is(new Resolved(denied, service).verdict('egress', 'host', '80/TCP'), 'allow')
})

test('every spec of a policy counts, spec and specs together', (t) => {
  const text = `${policy(`ingress: [{${WEB}}]`)}specs:\n  - {endpointSelector: {}, egress: [{}]}\n`
  const resolved = new Resolved(text)
  t.deepEqual([resolved.ingress('api'), resolved.verdict('egress', 'api', '80/TCP')], ['allow', 'deny'])
})

import test from 'ava'
import { portRuleOf, portsOf, read, ruleOf, said, type Variant, warned } from './spec.ts'

const CILIUM: Variant = { dialect: 'cilium' }

const ports = (list: string) => `ingress: [{toPorts: [{ports: [${list}]}]}]`
/** A rule on 443/TCP that says more. */
const more = (text: string, section = 'egress') => `${section}: [{toPorts: [{ports: [{port: "443", protocol: TCP}], ${text}}]}]`
const icmps = (fields: string, section = 'ingress') => `${section}: [{icmps: [{fields: [${fields}]}]}]`

test('ports are numbers, ranges, or names in any case', (t) => {
  t.deepEqual(portsOf('{port: "80"}, {port: "010", protocol: udp}, {port: "0", protocol: SCTP}, {port: "5", endPort: 9}'), [
    '80-80/ANY',
    '8-8/UDP',
    '0-65535/SCTP',
    '5-9/ANY',
  ])
  t.deepEqual(portsOf('{port: HTTP-Alt, protocol: ""}, {port: "0x10", protocol: TCP}'), ['http-alt/ANY', '0x10/TCP'])
})

test('a name of a port is one of IANA', (t) => {
  for (const name of ['a--b', '-a', 'a-', 'a_b', 'abcdefghijklmnop', '', '0080', '65536', '99999999999999999999'])
    t.deepEqual(said(ports(`{port: "${name}"}`)), [`not a port: ${name}`])
  t.deepEqual(warned(ports('{port: http, endPort: 90}')), ['endPort means nothing beside a named port: 90'])
})

test('protocols without ports need none', (t) => {
  t.deepEqual(portsOf('{protocol: VRRP}, {port: "0", protocol: gre}, {port: "", protocol: ESP}'), [
    '0-65535/VRRP',
    '0-65535/GRE',
    '0-65535/ESP',
  ])
  t.deepEqual(said(ports('{port: "80", protocol: AH}')), ['AH has no ports: 80'])
  t.deepEqual(said(ports('{port: http, protocol: IGMP}')), ['IGMP has no ports: http'])
  t.deepEqual(said(ports('{port: "0", endPort: 5, protocol: IPIP}')), ['IPIP has no ports: 5'])
  t.deepEqual(said(ports('{protocol: IPV6}'), CILIUM), [
    'the dialect cilium has protocols without ports only when policy.extendedIpProtocols is set: IPV6',
  ])
  t.deepEqual(portsOf('{protocol: IPv6}', { ...CILIUM, extendedIpProtocols: true }), ['0-65535/IPV6'])
  t.deepEqual(said(ports('{protocol: TCP}')), ['port is needed'])
})

test('ICMP as a protocol is told where it belongs', (t) => {
  const hints = read(ports('{port: "8", protocol: ICMP}, {port: "128", protocol: ICMPv6}')).problems.map(({ hint }) => hint)
  t.deepEqual(hints, [
    'write icmps: [{fields: [{family: IPv4, type: 8}]}] in place of toPorts',
    'write icmps: [{fields: [{family: IPv6, type: 128}]}] in place of toPorts',
  ])
})

test('ICMP types are numbers or names of their family', (t) => {
  const fields = (text: string) => {
    const { traffic } = ruleOf(icmps(text, 'ingressDeny'), CILIUM)
    return traffic.kind === 'icmps' ? traffic.fields.map(({ family, type }) => `${family}/${type}`) : []
  }
  t.deepEqual(fields('{type: 8}, {type: "0"}, {type: EchoRequest}, {family: IPv6, type: EchoRequest}, {family: IPv6, type: 255}'), [
    '4/8',
    '4/0',
    '4/8',
    '6/128',
    '6/255',
  ])
  t.deepEqual(said(icmps('{type: 256}, {type: "256"}, {type: PacketTooBig}, {type: constructor}, {}, {family: IP, type: 1}')), [
    'must be between 0 and 255: 256',
    'no such ICMP type of IPv4: 256',
    'no such ICMP type of IPv4: PacketTooBig',
    'no such ICMP type of IPv4: constructor',
    'type is needed',
    'no such family: IP',
  ])
})

test('ICMP and ports exclude one another, and there are at most 40 fields', (t) => {
  t.deepEqual(said('ingress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: "80"}]}]}]'), [
    'toPorts and icmps cannot stand in one rule',
  ])
  t.deepEqual(said(icmps(Array(41).fill('{type: 8}').join())), ['more fields than 40: 41'])
  t.deepEqual(warned('ingress: [{icmps: [{fields: []}, {}]}]'), [
    'without fields this matches nothing',
    'without fields this matches nothing',
  ])
  t.is(ruleOf('ingress: [{icmps: []}]').peers.kind, 'none')
  t.is(ruleOf(icmps('{type: 8}')).peers.kind, 'any')
})

test('certificates come from a secret, in the policy’s namespace unless it names one', (t) => {
  const rule = portRuleOf(
    more(
      'terminatingTLS: {secret: {name: web}}, originatingTLS: {secret: {namespace: pki, name: ca}, trustedCA: bundle.pem, certificate: c, privateKey: k}',
    ),
    CILIUM,
  )
  t.deepEqual(rule.terminatingTls, { secret: { namespace: 'shop', name: 'web' } })
  t.deepEqual(rule.originatingTls, {
    secret: { namespace: 'pki', name: 'ca' },
    trustedCa: 'bundle.pem',
    certificate: 'c',
    privateKey: 'k',
  })
  t.deepEqual(said(more('terminatingTLS: {trustedCA: a}')), ['secret is needed'])
  t.deepEqual(said(more('terminatingTLS: {secret: {}}')), ['name is needed'])
  t.deepEqual(said(more('terminatingTLS: {secret: {name: a}}'), { clusterwide: true }), ['namespace is needed, as the policy has none'])
  t.deepEqual(warned('egress: [{toPorts: [{ports: [{port: "443"}], originatingTLS: {secret: {name: a}}}]}]'), [
    'originatingTLS applies to TCP only: what else comes to these ports is not allowed by this',
  ])
})

test('server names are of TLS over TCP, and without L7 rules unless TLS ends here', (t) => {
  t.deepEqual(portRuleOf(more('serverNames: ["*.Example.com", "**.a.example", "*"]'), CILIUM).serverNames, [
    '*.example.com',
    '**.a.example',
    '*',
  ])
  t.deepEqual(said(more('serverNames: ["", "a b", "[a]"]')), ['must not be empty', 'not a server name: a b', 'not a server name: [a]'])
  t.deepEqual(said(more('serverNames: [a.example], rules: {http: [{}]}')), [
    'serverNames cannot stand with L7 rules, which cannot be read inside TLS',
  ])
  t.deepEqual(said(more('serverNames: [a.example], terminatingTLS: {secret: {name: a}}, rules: {http: [{}]}')), [])
  t.deepEqual(said(more('serverNames: [a.example], rules: {http: []}')), [])
  t.deepEqual(warned('egress: [{toPorts: [{ports: [{port: https, protocol: UDP}], serverNames: [a.example]}]}]'), [
    'serverNames applies to TCP only: what else comes to these ports is not allowed by this',
  ])
  t.deepEqual(warned(more('serverNames: []')), ['an empty list asks for no server name, nor for TLS'])
})

test('a listener is for egress, without L7 rules, of a configuration that the policy can use', (t) => {
  const listener = (text: string) => more(`listener: ${text}`)
  t.deepEqual(portRuleOf(listener('{name: l, envoyConfig: {name: c}, priority: 7}'), CILIUM).listener, {
    name: 'l',
    envoyConfig: { kind: 'CiliumEnvoyConfig', name: 'c' },
    priority: 7,
  })
  t.deepEqual(portRuleOf(listener('{name: l, envoyConfig: {name: c}}'), { clusterwide: true }).listener, {
    name: 'l',
    envoyConfig: { kind: 'CiliumClusterwideEnvoyConfig', name: 'c' },
    priority: 0,
  })
  t.deepEqual(said(listener('{name: l, envoyConfig: {kind: CiliumEnvoyConfig, name: c}}'), { clusterwide: true }), [
    'a clusterwide policy cannot use what is in a namespace',
  ])
  t.deepEqual(said(listener('{envoyConfig: {kind: Envoy}, priority: 101}')), [
    'name is needed',
    'name is needed',
    'not a kind of Envoy configuration: Envoy',
    'must be between 1 and 100: 101',
  ])
  for (const dialect of ['cilium', 'extended'] as const) {
    t.deepEqual(said(more('listener: {name: l, envoyConfig: {name: c}}', 'ingress'), { dialect }), ['a listener is for egress only'])
    t.deepEqual(said(more('listener: {name: l, envoyConfig: {name: c}}, rules: {http: [{}]}'), { dialect }), [
      'a listener cannot stand with L7 rules',
    ])
  }
})

test('deny rules say nothing of connections', (t) => {
  const text = 'serverNames: [a.example], listener: {}, terminatingTLS: {}, originatingTLS: {}'
  t.deepEqual(said(more(text, 'egressDeny')).sort(), [
    'not supported: listener',
    'not supported: originatingTLS',
    'not supported: serverNames',
    'not supported: terminatingTLS',
  ])
})

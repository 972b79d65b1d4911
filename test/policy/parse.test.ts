import test from 'ava'
import { messagesOf, parse, policy, problemsOf, Resolved } from './support.ts'
import { LIMITS } from './world.ts'

test('every problem of a file is told at once, each with line, column, path and what to write instead', (t) => {
  const text = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: Web}
spec:
  endpointSelektor: {}
  ingress:
    - fromEndpoint: [{}]
      fromEntities: [everybody]
      toPorts:
        - ports:
            - port: 80
              protocol: HTTP
    - fromCIDR: [10.1.0]
      toFQDNs: []
`
  t.deepEqual(problemsOf(text), [
    '3:12 error metadata.name: not a name: Web (lower-case letters, digits, - and .)',
    '4:1 error spec: endpointSelector is needed (write endpointSelector: {} to select every endpoint of the namespace)',
    '5:3 error spec.endpointSelektor: unknown field: endpointSelektor (fields that can stand here: description, egress, egressDeny, enableDefaultDeny, endpointSelector, ingress, ingressDeny, labels, log, nodeSelector)',
    '7:7 error spec.ingress[0].fromEndpoint: unknown field: fromEndpoint (write fromEndpoints)',
    '8:22 error spec.ingress[0].fromEntities[0]: no such entity: everybody (one of all, world, cluster, cluster-mesh, host, init, ingress, unmanaged, remote-node, health, none, kube-apiserver)',
    '11:15 error spec.ingress[0].toPorts[0].ports[0].port: must be a string, is a number in YAML 1.1: 80 (put the value in quotes)',
    '12:15 error spec.ingress[0].toPorts[0].ports[0].protocol: protocol is not supported: HTTP (one of TCP, UDP, SCTP, ANY, VRRP, IGMP, GRE, IPIP, IPV6, ESP, AH)',
    '13:18 error spec.ingress[1].fromCIDR[0]: not a CIDR prefix: 10.1.0 (for example 10.0.0.0/8)',
    '14:7 error spec.ingress[1].toFQDNs: unknown field: toFQDNs (fields that can stand here: authentication, fromCIDR, fromCIDRSet, fromEndpoints, fromEntities, fromGroups, fromNodes, fromRequires, icmps, toPorts)',
  ])
})

test('typical mistakes are told with what to write', (t) => {
  const hints = (text: string) => parse(text).problems.map(({ message, hint }) => [message, hint])
  t.deepEqual(hints(policy('ingress: [{toPorts: [{ports: [{protocol: TCP}]}]}]')), [
    ['port is needed', 'write port: "0" to mean every port'],
  ])
  t.deepEqual(hints(policy('ingress: [{fromCIDRSet: [{cidr: 10.0.0.1}]}]')), [['not a CIDR prefix: 10.0.0.1', 'write 10.0.0.1/32']])
  t.deepEqual(hints(policy('ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [192.168.0.0/16]}]}]')), [
    ['an exception must lie inside 10.0.0.0/8: 192.168.0.0/16', ''],
  ])
  t.deepEqual(hints(policy('ingress: [{fromEndpoints: [{matchLabels: {"kube:app": a}}]}]')), [
    ['no such label source: kube', 'write app alone, or k8s:app'],
  ])
  t.deepEqual(hints(policy('ingress: [{fromEndpoints: [{app: a}]}]')), [
    ['unknown field: app', 'fields that can stand here: matchExpressions, matchLabels'],
  ])
  t.deepEqual(hints(policy('ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]}]')), [
    ['no such operator: in', 'one of In, NotIn, Exists, DoesNotExist'],
  ])
  t.deepEqual(hints(policy('ingress: [{}]').replace('spec:', 'description: d\nspec:')), [
    ['not supported: description', 'write it inside spec'],
  ])
  t.deepEqual(hints(policy('ingress: [{}]\nendpointSelector: {matchLabels: {reserved.init: ""}}')), [
    ['an old spelling of reserved:init: reserved.init', 'write "reserved:init"'],
  ])
  t.deepEqual(hints(policy('ingress: {fromEndpoints: [{}]}')), [['must be a list, is a map', '']])
  t.deepEqual(hints(policy('ingress: [{}]\nenableDefaultDeny: {ingress: "yes"}')), [['must be true or false, is a string: yes', '']])
})

test('a path is warned of where it is surely not meant, and of the query string once a file', (t) => {
  const warnings = (...paths: readonly string[]) =>
    messagesOf(
      policy(
        `ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [${paths.map((path) => `{path: '${path}'}`).join()}]}}]}]`,
      ),
      'warning',
    )
  t.deepEqual(warnings('/public?x=1'), ['the question mark makes what stands before it optional: /public?x=1'])
  t.deepEqual(warnings('/api/*'), ['the star repeats what stands before it, here the slash: /api/*'])
  t.deepEqual(warnings('api/.*'), ['a path begins with a slash, so this matches none: api/.*'])
  t.deepEqual(warnings('/a', '/b', '/c'), ['path matches the whole of it, query string included: /a'])
  t.deepEqual(warnings('/a(\\?.*)?', '/b/.*', '.*', '/v[0-9]+', '/(a|b)', '(?i)/x'), [])
})

test('a pattern that Envoy would refuse is refused with its rule', (t) => {
  const errors = (path: string) =>
    messagesOf(policy(`ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: '${path}'}]}}]}]`))
  t.deepEqual(errors('/('), ['not a regular expression of RE2: /('])
  t.deepEqual(errors('/(?=a)'), ['not a regular expression of RE2: /(?=a)'])
  t.deepEqual(errors('/a{1001}'), ['not a regular expression of RE2: /a{1001}'])
  t.deepEqual(errors('/\\C'), ['not a regular expression of RE2: /\\C'])
  t.deepEqual(errors('/\\1'), ['not a regular expression of RE2: /\\1'])
  t.deepEqual(errors('/\\p{Garay}'), ['Envoy knows no such class of characters: Garay'])
  t.deepEqual(errors('/[^\\P{^Cn}]'), ['Envoy knows no such class of characters: Cn'])
  t.deepEqual(errors('/\\\\p{Cn}'), [])
  for (const path of ['/(?P<n>a)', '/(?<n>a)', '/\\pN', '/\\p{Greek}', '/[[:alpha:]]', '/a{1000}', '(?i)/k', '/\\Qa.b\\E'])
    t.deepEqual(errors(path), [], path)
})

test('a pattern is measured as RE2 measures it, in bytes', (t) => {
  const errors = (path: string, regexProgramSizeMax: number) =>
    parse(policy(`ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: '${path}'}]}}]}]`), {
      ...LIMITS,
      regexProgramSizeMax,
    })
      .problems.filter(({ severity }) => severity === 'error')
      .map(({ message }) => message.replace(/\d+(?=,)/, 'N'))
  t.deepEqual(errors('/a{900}', 1000), [])
  t.deepEqual(errors('/a{900}', 900), ['regular expression is too large when compiled (N, at most 900)'])
  // 1,000 instructions in re2js, and more than RE2 has memory for.
  t.deepEqual(errors('/\\pL{1000}', 10_000), ['regular expression is too large when compiled (N, at most 10000)'])
  t.deepEqual(errors('/\\pL{1000}', 1_000_000), ['regular expression is too large when compiled (N, at most 80000)'])
})

test('names of header fields that cannot be are refused', (t) => {
  const errors = (header: string) =>
    messagesOf(policy(`ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{headers: ['${header}']}]}}]}]`))
  t.deepEqual(errors(':path /x'), ['not a header name: :path'])
  t.deepEqual(errors('Ü: 1'), ['not a header name: Ü'])
  t.deepEqual(errors(': 1'), ['not a header name: '])
})

test('two policies of one file must not share their name', (t) => {
  const text = `${policy('ingress: [{}]')}---\n${policy('egress: [{}]')}`
  t.deepEqual(messagesOf(text), ['two policies of one file have the same name: default/p'])
  t.deepEqual(messagesOf(`${policy('ingress: [{}]')}---\n${policy('egress: [{}]', { namespace: 'other' })}`), [])
})

// ---- refused files

test('one wrong document refuses its file, and every document of it says whom it is about', (t) => {
  const good = policy('egress: [{}]', { name: 'good' })
  const bad = policy('endpointSelector: {matchLabels: {app: api}}\ningress: [{toEverybody: true}]\negressDeny: [{}]', { name: 'bad' })
  const { documents, refused } = parse(`${good}---\n${bad}`)
  t.deepEqual(documents, [])
  t.deepEqual(
    refused.map(({ kind, namespace, name, at, subjects }) => [
      `${kind} ${namespace}/${name} ${at.line}`,
      subjects.map(({ selector, directions }) => [selector.requirements.map(({ key, values }) => `${key}=${values}`), directions]),
    ]),
    [
      ['CiliumNetworkPolicy default/good 1', [[['app=web', 'io.kubernetes.pod.namespace=default'], ['egress']]]],
      [
        'CiliumNetworkPolicy default/bad 8',
        [
          [
            ['app=api', 'io.kubernetes.pod.namespace=default'],
            ['ingress', 'egress'],
          ],
        ],
      ],
    ],
  )
})

test('subjects of a refused file are at default deny in the directions that it names, whatever enableDefaultDeny says', (t) => {
  const resolved = new Resolved(policy('ingress: [{fromEntities: [everybody]}]\nenableDefaultDeny: {ingress: false}'))
  t.is(resolved.ingress('api'), 'deny')
  t.is(resolved.verdict('egress', 'api', '80/TCP'), 'allow')
  t.deepEqual(resolved.group.policies, ['default/p'])
})

test('a condition that cannot be read is left out, so that the refused document selects more, within its namespace', (t) => {
  t.is(new Resolved(policy('endpointSelector: {matchLabels: {app: 1}}\ningress: [{}]')).ingress('api'), 'deny')
  t.is(new Resolved(policy('endpointSelector: {matchLabels: {app: 1}}\ningress: [{}]', { namespace: 'other' })).ingress('api'), 'allow')
})

test('a namespace that cannot be read is nobody’s, not the default one', (t) => {
  const text = policy('ingress: [{}]', { namespace: '12' })
  t.deepEqual(messagesOf(text), ['must be a string, is a number in YAML 1.1: 12'])
  t.is(new Resolved(text).ingress('api'), 'allow')
})

test('a misspelt kind is told of together with everything else', (t) => {
  t.deepEqual(messagesOf(policy('ingres: [{}]').replace('CiliumNetworkPolicy', 'CiliumNetworkpolicy')), [
    'not a kind of policy: CiliumNetworkpolicy',
    'a policy needs at least one member in ingress, ingressDeny, egress or egressDeny',
    'unknown field: ingres',
  ])
})

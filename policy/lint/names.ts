/** What rules name and nothing has: DNS names that nobody can ask for, labels, namespaces, documents; and documents of one name. */

import { LabelSet } from '../labels.ts'
import type { Dialect } from '../model.ts'
import { documentName, isPolicy, type LabelRequirement, type LabelSelector, type Peer, type PolicyDocument } from '../model.ts'
import type { Position } from '../problems.ts'
import { References } from '../references.ts'
import { NAMESPACE_LABEL_KEY, NAMESPACE_LABELS_PREFIX } from '../reserved.ts'
import { type Findings, placeOf } from './findings.ts'
import type { FiledRule, RuleIndex } from './rule-index.ts'
import { namespacesOf } from './selectors.ts'
import { mayHavePort } from './traffic.ts'

const DNS_PORT = 53

/**
 * toFQDNs needs the answers to be seen. Cilium sees those of queries that go through a DNS rule; Headgate sees all answers, so there
 * it is enough that the queries are let through.
 */
export function findFqdnsWithoutDns(index: RuleIndex, dialect: Dialect, findings: Findings): void {
  const paths = index.only(index.rules.filter((filed) => isDnsPath(filed, dialect)))
  for (const filed of index.rules) {
    const { rule } = filed
    if (rule.direction !== 'egress' || rule.verdict !== 'allow' || fqdnsOf(rule.peers).length === 0) continue
    if (!filed.spec.defaultDeny.egress && dialect === 'extended') continue
    const [path] = paths.perhapsHolding(filed)
    if (path !== undefined || index.isExhausted) continue
    const [message, hint] =
      dialect === 'cilium'
        ? [
            'no rule with rules.dns on port 53 is there for these endpoints, so the addresses of the names are never learned',
            'add one: toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]',
          ]
        : ['no rule lets these endpoints ask a DNS server, so the names stay unknown to them', 'allow port 53 to the DNS server']
    findings.add('policy/fqdn-without-dns', 'warning', rule.at, message, hint)
  }
}

function isDnsPath({ rule }: FiledRule, dialect: Dialect): boolean {
  if (rule.verdict !== 'allow' || rule.peers.kind === 'none') return false
  // The server itself is not found by a name.
  if (rule.peers.kind === 'members' && fqdnsOf(rule.peers).length === rule.peers.members.length) return false
  if (dialect === 'extended') return mayHavePort(rule.traffic, 'UDP', DNS_PORT) || mayHavePort(rule.traffic, 'TCP', DNS_PORT)
  if (rule.traffic.kind !== 'ports') return false
  return rule.traffic.rules.some(
    (port) =>
      port.l7?.kind === 'dns' &&
      (['UDP', 'TCP'] as const).some((protocol) => mayHavePort({ kind: 'ports', rules: [port] }, protocol, DNS_PORT)),
  )
}

function fqdnsOf(peers: FiledRule['rule']['peers']): readonly Peer[] {
  return peers.kind === 'members' ? peers.members.filter(({ kind }) => kind === 'fqdn') : []
}

/** Labels that a party to traffic can have. */
export interface KnownEndpoints {
  /** source:key=value, a list for each endpoint or node. */
  readonly labels: readonly (readonly string[])[]
  readonly namespaces: readonly string[]
}

export function findUnknownLabels(index: RuleIndex, known: KnownEndpoints, findings: Findings): void {
  const all = new LabelSet(known.labels.flat())
  const namespaces = new Set(known.namespaces)
  const sayOfSelector = (selector: LabelSelector, at: Position, except: string) => {
    for (const namespace of namespacesOf(selector) ?? []) {
      if (namespace === except || namespaces.has(namespace)) continue
      findings.add(
        'policy/unknown-namespace',
        'warning',
        at,
        `no endpoint is in this namespace: ${namespace}`,
        known.namespaces.length === 0 ? '' : `there are ${few(known.namespaces)}`,
      )
    }
    for (const requirement of selector.requirements) {
      const what = unknownOf(requirement, all)
      if (what !== undefined)
        findings.add('policy/unknown-label', 'warning', at, `no endpoint has the label ${what}`, hintOf(requirement, all))
    }
  }
  for (const policy of index.policies) {
    if (policy.namespace !== '' && !namespaces.has(policy.namespace))
      findings.add(
        'policy/unknown-namespace',
        'warning',
        policy.at,
        `no endpoint is in the namespace of this policy: ${policy.namespace}`,
        '',
      )
    for (const { at, subject, rules } of policy.specs) {
      if (subject.kind === 'endpoints') sayOfSelector(subject.selector, at, policy.namespace)
      for (const { peers, requires, at: ruleAt } of rules) {
        for (const peer of peers.kind === 'members' ? peers.members : [])
          if (peer.kind === 'endpoints') sayOfSelector(peer.selector, peer.at, policy.namespace)
        for (const selector of requires) sayOfSelector(selector, ruleAt, policy.namespace)
      }
    }
  }
}

/** Labels that every endpoint gets, or nobody knows before there is one. */
function isGiven({ source, key }: LabelRequirement): boolean {
  return (
    source === 'reserved' ||
    key === NAMESPACE_LABEL_KEY ||
    key.startsWith(NAMESPACE_LABELS_PREFIX) ||
    key.startsWith('io.cilium.k8s.policy.')
  )
}

function unknownOf(requirement: LabelRequirement, all: LabelSet): string | undefined {
  const { source, key, operator, values } = requirement
  if (isGiven(requirement) || (operator !== 'In' && operator !== 'Exists')) return undefined
  const found = all.find(source, key)
  const name = source === 'any' ? key : `${source}:${key}`
  if (found.length === 0) return name
  if (operator === 'Exists' || found.some(({ value }) => values.includes(value))) return undefined
  return `${name}=${values.join('|')}`
}

function hintOf({ source, key }: LabelRequirement, all: LabelSet): string {
  const values = all.find(source, key).map(({ value }) => value)
  return values.length === 0 ? 'the rule selects nobody until one has it' : `there are ${few(values)}`
}

const NAMED_MAX = 5

function few(texts: readonly string[]): string {
  const unique = [...new Set(texts)].sort()
  const rest = unique.length - NAMED_MAX
  return rest > 0 ? `${unique.slice(0, NAMED_MAX).join(', ')} and ${rest} more` : unique.join(', ')
}

export function findUnknownReferences(
  files: readonly { readonly file: string; readonly documents: readonly PolicyDocument[] }[],
  index: RuleIndex,
  findings: Findings,
): void {
  const references = new References()
  for (const { file, documents } of files) references.replace(file, documents)
  for (const { rule } of index.rules) {
    for (const peer of rule.peers.kind === 'members' ? rule.peers.members : []) {
      if (!references.isMissing(peer)) continue
      const message = `no file given here defines the ${describeReference(peer)}`
      findings.add('policy/unknown-reference', 'warning', peer.at, message, 'it stands for nobody unless it exists elsewhere')
    }
  }
}

function describeReference(peer: Peer): string {
  switch (peer.kind) {
    case 'cidr-group':
      return 'name' in peer.group ? `CIDR group ${peer.group.name}` : 'CIDR groups that this selects'
    case 'service':
      if (!('name' in peer.service)) return 'services that this selects'
      return `service ${peer.namespace === '' ? '' : `${peer.namespace}/`}${peer.service.name}`
    default:
      return 'instances of this group'
  }
}

/** Of one file, the parser tells. */
export function findTwins(documents: readonly PolicyDocument[], findings: Findings): void {
  const seen = new Map<string, PolicyDocument>()
  for (const document of documents) {
    const key = `${document.kind} ${document.namespace}/${document.name}`
    const first = seen.get(key)
    if (first === undefined) seen.set(key, document)
    else if (first.at.file !== document.at.file) {
      const name = isPolicy(document) ? documentName(document) : `${document.kind} ${document.name}`
      findings.add(
        'policy/duplicate-name',
        'error',
        document.at,
        `another file has a document of this kind and name: ${name} (${placeOf(first.at)})`,
        'rename one of them',
      )
    }
  }
}

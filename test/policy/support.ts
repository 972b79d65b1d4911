/** Policies for tests that state one thing each, and flows judged by what the engine makes of them. */
import { PolicyEngine } from '#policy/engine.ts'
import { type ParsedPolicyFile, parsePolicyFile } from '#policy/parse.ts'
import { type Direction, httpRules, type ResolvedGroup } from '#policy/resolved.ts'
import { LIMITS, lookUp, Prefixes } from './world.ts'

/** A policy with the given lines as its spec, which selects endpoints with app=web unless it says whom. */
export function policy(spec: string, { name = 'p', namespace = 'default' } = {}): string {
  const selector = spec.includes('endpointSelector') ? '' : 'endpointSelector: {matchLabels: {app: web}}\n'
  const body = `${selector}${spec}`.trim().split('\n')
  return `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: ${namespace}}
spec:
${body.map((line) => `  ${line}\n`).join('')}`
}

export function parse(text: string, limits = LIMITS): ParsedPolicyFile {
  return parsePolicyFile(text, 'p.yaml', limits)
}

/** Problems as an editor would list them. */
export function problemsOf(text: string): string[] {
  return parse(text).problems.map(
    ({ severity, line, column, path, message, hint }) =>
      `${line}:${column} ${severity} ${path}: ${message}${hint === '' ? '' : ` (${hint})`}`,
  )
}

export function messagesOf(text: string, severity: 'error' | 'warning' = 'error'): string[] {
  return parse(text)
    .problems.filter((problem) => problem.severity === severity)
    .map(({ message }) => message)
}

const PEERS = {
  web: ['k8s:io.kubernetes.pod.namespace=default', 'k8s:io.cilium.k8s.policy.cluster=default', 'k8s:app=web'],
  api: [
    'k8s:io.kubernetes.pod.namespace=default',
    'k8s:io.cilium.k8s.policy.cluster=default',
    'k8s:app=api',
    'container:app=sidecar',
    'k8s:io.cilium.k8s.namespace.labels.team=shop',
  ],
  far: ['k8s:io.kubernetes.pod.namespace=other', 'k8s:io.cilium.k8s.policy.cluster=default', 'k8s:app=api'],
  host: ['reserved:host'],
  world: ['reserved:world'],
  'remote-node': ['reserved:remote-node'],
  init: ['reserved:init'],
  'world-ipv6': ['reserved:world-ipv6'],
} as const
export type PeerName = keyof typeof PEERS
const IDS: Readonly<Record<PeerName, number>> = {
  web: 300,
  api: 301,
  far: 302,
  host: 1,
  world: 2,
  'remote-node': 6,
  init: 5,
  'world-ipv6': 10,
}

/** The group of the endpoint `web` under these files, and what its rows say. */
export class Resolved {
  readonly group: ResolvedGroup
  readonly #prefixes = new Prefixes()

  constructor(...texts: readonly string[]) {
    const engine = new PolicyEngine()
    for (const [name, labels] of Object.entries(PEERS)) {
      const id = IDS[name as PeerName]
      if (id >= 256) engine.upsertIdentity({ id, labels })
    }
    for (const [index, text] of texts.entries()) {
      const { documents, refused } = parse(text)
      engine.upsertFile(`${index}.yaml`, documents, refused)
    }
    this.#prefixes.sync(engine)
    engine.addSubject({ group: IDS.web, identity: IDS.web, namedPorts: [], audit: false })
    const [group] = engine.commit().changed
    if (group === undefined) throw new Error('no group')
    this.group = group
  }

  /** Deny, allow, or the HTTP rules as `METHOD path`, with `*` for everything. @param peer by name, or the prefix of a CIDR identity */
  verdict(direction: Direction, peer: PeerName | (string & {}), traffic: `${number}/${'TCP' | 'UDP' | 'SCTP'}` | 'ICMP'): string {
    if (!this.group.enforced[direction]) return 'allow'
    const id = peer in IDS ? IDS[peer as PeerName] : this.#prefixes.identities.get(peer)?.id
    if (id === undefined) throw new Error(`no such peer: ${peer}`)
    const [port = '', name = ''] = traffic.split('/')
    const protocol = traffic === 'ICMP' ? 1 : { TCP: 6, UDP: 17, SCTP: 132 }[name]
    const row = lookUp(this.group, direction, id, protocol ?? 0, traffic === 'ICMP' ? 8 << 8 : Number(port))
    if (row?.classKey === undefined) return row?.verdict ?? 'deny'
    const ruleset = this.group.classes.get(row.classKey)?.ruleset
    const rules = httpRules(ruleset?.allow ?? []).map(({ rule: { method = '*', path = '*' } }) => `${method} ${path}`)
    return [...(ruleset?.allowAll === true ? ['*'] : []), ...rules.sort()].join(', ') || 'redirect: nothing'
  }

  ingress(peer: PeerName | (string & {}), traffic: Parameters<Resolved['verdict']>[2] = '80/TCP'): string {
    return this.verdict('ingress', peer, traffic)
  }
}

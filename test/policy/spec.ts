/** What the parser makes of one spec, in either dialect and of either kind of policy. */
import type { PeerSet, PolicyRule, PolicySpec, PortRule } from '#policy/model.ts'
import { isPolicy } from '#policy/model.ts'
import type { ParseOptions } from '#policy/options.ts'
import { type ParsedPolicyFile, parsePolicyFile } from '#policy/parse.ts'

const EXTENDED: ParseOptions = { dialect: 'extended', regexProgramSizeMax: 10_000, l7Proxy: true, extendedIpProtocols: false }

export interface Variant extends Partial<ParseOptions> {
  readonly clusterwide?: boolean
}

/** @param spec lines of YAML; every endpoint is selected unless they say whom */
export function read(spec: string, { clusterwide = false, ...options }: Variant = {}): ParsedPolicyFile {
  const selector = /^(?:endpoint|node)Selector:/m.test(spec) ? '' : '  endpointSelector: {}\n'
  const [kind, metadata] = clusterwide
    ? ['CiliumClusterwideNetworkPolicy', '{name: p}']
    : ['CiliumNetworkPolicy', '{name: p, namespace: shop}']
  const lines = spec.split('\n').map((line) => `  ${line}\n`)
  const text = `apiVersion: cilium.io/v2\nkind: ${kind}\nmetadata: ${metadata}\nspec:\n${selector}${lines.join('')}`
  return parsePolicyFile(text, 'p.yaml', { ...EXTENDED, ...options })
}

/** Messages of one severity, with their hints after an arrow. */
export function said(spec: string, variant: Variant = {}, severity: 'error' | 'warning' = 'error'): string[] {
  return read(spec, variant)
    .problems.filter((problem) => problem.severity === severity)
    .map(({ message }) => message)
}

export function warned(spec: string, variant: Variant = {}): string[] {
  return [...said(spec, variant).map((message) => `error: ${message}`), ...said(spec, variant, 'warning')]
}

/** The spec, which has to be accepted. */
export function specOf(spec: string, variant: Variant = {}): PolicySpec {
  const { documents, problems } = read(spec, variant)
  const [document] = documents
  const first = document !== undefined && isPolicy(document) ? document.specs[0] : undefined
  if (first === undefined) throw new Error(`refused: ${problems.map(({ path, message }) => `${path}: ${message}`).join('; ')}`)
  return first
}

/** Its only rule. */
export function ruleOf(spec: string, variant: Variant = {}): PolicyRule {
  const [rule] = specOf(spec, variant).rules
  if (rule === undefined) throw new Error('no rule')
  return rule
}

/** The peers of the only rule, without their places. */
export function peersOf(spec: string, variant: Variant = {}): PeerSet['kind'] | readonly object[] {
  const { peers } = ruleOf(spec, variant)
  return peers.kind === 'members' ? peers.members.map(({ at: _, ...peer }) => peer) : peers.kind
}

/** The only member of toPorts of the only rule. */
export function portRuleOf(spec: string, variant: Variant = {}): PortRule {
  const { traffic } = ruleOf(spec, variant)
  const first = traffic.kind === 'ports' ? traffic.rules[0] : undefined
  if (first === undefined) throw new Error('no ports')
  return first
}

/** Ports as first-last/PROTOCOL or name/PROTOCOL. */
export function portsOf(ports: string, variant: Variant = {}): string[] {
  const { ranges, names } = portRuleOf(`ingress: [{toPorts: [{ports: [${ports}]}]}]`, variant)
  return [
    ...ranges.map(({ first, last, protocol }) => `${first}-${last}/${protocol}`),
    ...names.map(({ name, protocol }) => `${name}/${protocol}`),
  ]
}

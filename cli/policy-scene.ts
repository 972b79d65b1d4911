/** What `policy trace`, `test` and `diff` ask: a scene made of files or of what an agent has in force, and answers made readable. */
import type { Config } from '#config/schema.ts'
import { LabelFilter } from '#policy/label-filter.ts'
import type { Dialect } from '#policy/model.ts'
import { observesQueries, type ParseOptions, parseOptions } from '#policy/options.ts'
import type { Problem } from '#policy/problems.ts'
import { addressLabel, apiServerLabels, nodeLabels } from '#policy/reserved.ts'
import { Scene, type SceneEndpoint, type SceneFile, type SceneNode } from '#policy/trace/scene.ts'
import type { TracedFlow, TracedRule, TracedSide } from '#policy/trace/trace.ts'
import type { TraceAnswer, TracedAddress, TracedQuery } from '#policy/trace/trace-name.ts'
import { sanitize } from './output.ts'
import { formatProblem, policyFilesOf, readText } from './policy-files.ts'
import { type KnownSecrets, secretsIn } from './policy-secrets.ts'
import { loadIdentities, loadWorkloadsFile } from './processes.ts'

export interface SceneSource {
  /** Files, and folders of them. */
  readonly policies: readonly string[]
  /** Workloads file. */
  readonly endpoints?: string | undefined
  /** Folder of secrets. */
  readonly secrets?: string | undefined
  readonly config: Config
  /** Instead of the configured one. */
  readonly dialect?: Dialect | undefined
}

/** Who is there, beside policies. */
export interface People {
  readonly endpoints: readonly SceneEndpoint[]
  readonly nodes: readonly SceneNode[]
  readonly namespaces: readonly string[]
  readonly clusterName: string
}

/** Says what is refused, on standard error. @throws CliError HG-1111, AgentError HG-2001 */
export async function createScene({ policies, endpoints, secrets, config, dialect }: SceneSource): Promise<Scene> {
  const { files, errors } = await readPolicies(policies, parseOptions(config, dialect))
  for (const problem of errors) process.stderr.write(`${sanitize(formatProblem(problem))}\n`)
  for (const file of new Set(errors.map((problem) => problem.file)))
    process.stderr.write(`${sanitize(file)}: refused; endpoints that it selects are at default deny\n`)
  return sceneOf(files, await loadPeople(endpoints, config), config, await secretsIn(secrets), observesQueries(config, dialect))
}

/** @param isObserved whether rules with names make queries pass the DNS process */
export function sceneOf(
  files: readonly SceneFile[],
  { endpoints, nodes, clusterName }: People,
  config: Config,
  secrets: KnownSecrets,
  isObserved = observesQueries(config),
): Scene {
  const { enforcement, audit, ...policy } = config.policy
  // Offline there is no Kubernetes to ask, so auto is what it is without.
  const allowLocalhost = policy.allowLocalhost === 'always'
  const { searchDomains } = config.dns
  return new Scene({
    files,
    endpoints,
    nodes,
    clusterName,
    enforcement,
    audit,
    allowLocalhost,
    observesQueries: isObserved,
    searchDomains,
    ...secrets,
  })
}

/** Files as they were read. */
interface PolicyFiles {
  readonly files: readonly SceneFile[]
  /** Why some of them are refused. */
  readonly errors: readonly Problem[]
}

/** @throws CliError HG-1111 */
export async function readPolicies(policies: readonly string[], options: ParseOptions): Promise<PolicyFiles> {
  const { parsePolicyFile } = await import('#policy/parse.ts')
  const errors: Problem[] = []
  const files = policies.flatMap(policyFilesOf).map((file): SceneFile => {
    const { documents, refused, problems } = parsePolicyFile(readText(file), file, options)
    errors.push(...problems.filter(({ severity }) => severity === 'error'))
    return { file, documents, refused }
  })
  return { files, errors }
}

interface WorkloadsNode {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly addresses: readonly string[]
}

const API_SERVER_LABEL = 'reserved:kube-apiserver'
const NOBODY: People = { endpoints: [], nodes: [], namespaces: [], clusterName: 'default' }

/** @param file workloads file @throws CliError HG-1111, AgentError HG-2001, ConfigError */
export async function loadPeople(file: string | undefined, config: Config): Promise<People> {
  if (file === undefined) return NOBODY
  const [{ namedPortsOf, parseWorkloads }, { endpointLabels }] = await Promise.all([loadWorkloadsFile(), loadIdentities()])
  const { cluster, namespaces, nodes, endpoints, kubeApiserver } = parseWorkloads(readText(file), file)
  const filter = new LabelFilter(config.policy.labels)
  const labelsOf = new Map(namespaces.map(({ name, labels }) => [name, labels]))
  return {
    clusterName: cluster,
    namespaces: [...new Set([...namespaces.map(({ name }) => name), ...endpoints.map(({ namespace }) => namespace)])],
    endpoints: endpoints.map((spec) => ({
      name: `${spec.namespace}/${spec.name}`,
      labels: endpointLabels(spec, cluster, labelsOf.get(spec.namespace) ?? {}, filter),
      addresses: [...spec.ipv4, ...spec.ipv6],
      namedPorts: namedPortsOf(spec),
      audit: spec.audit,
      ...(spec.searchDomains !== undefined && { searchDomains: spec.searchDomains }),
    })),
    nodes: nodesOf(nodes, kubeApiserver, config.policy.cidrMatchMode.includes('nodes')),
  }
}

/** An address of the API server that is no node's is one of its own. */
function nodesOf(nodes: readonly WorkloadsNode[], kubeApiserver: readonly string[], matchesPrefixes: boolean): SceneNode[] {
  const apiServers = new Set(kubeApiserver)
  const known = nodes.flatMap(({ name, labels, addresses }): SceneNode[] => {
    const isApiServer = addresses.some((address) => apiServers.has(address))
    for (const address of addresses) apiServers.delete(address)
    const all = ['reserved:remote-node', ...nodeLabels(labels), ...(isApiServer ? [API_SERVER_LABEL] : [])]
    if (!matchesPrefixes || addresses.length === 0) return [{ name, labels: all, addresses }]
    // Each address is an identity of its own then.
    return addresses.map((address) => ({ name, labels: [...all, addressLabel(address)], addresses: [address] }))
  })
  return [...known, ...[...apiServers].map((address) => ({ name: '', labels: apiServerLabels(address), addresses: [address] }))]
}

const ACTIONS = {
  LOG: 'the flow says so',
  ADD: 'the wanted value is added',
  DELETE: 'it is removed',
  REPLACE: 'it is set to the wanted value',
} as const

/** An answer as people read it. */
export function answerLines({ verdict, audit, query, answers, ...flow }: TraceAnswer): string[] {
  const parts =
    query === undefined
      ? sideLines(flow)
      : [...queryLines(query), ...(answers?.flatMap(addressLines) ?? ['any address of it:', ...sideLines(flow).map(indented)])]
  return [...parts, `verdict: ${verdict}${audit === true ? ', and reported: policies in audit deny it' : ''}`]
}

function queryLines({ names: [name, ...aliases], server, port, verdict, seen, selectors, notes = [], ...flow }: TracedQuery): string[] {
  const list = selectors.map((selector) => (selector.denies ? `${selector.name} (denies)` : selector.name))
  return [
    `query for ${name} to ${server} ${port}: ${verdict}${seen ? ', and seen by the DNS process' : ''}`,
    ...sideLines(flow).map(indented),
    ...(aliases.length === 0 ? [] : [`  alias of: ${aliases.join(', ')}`]),
    `  selectors that match: ${list.join(', ') || 'none'}`,
    ...notes.map((note) => `  note: ${note}`),
  ]
}

function addressLines({ address, teaches, reason, selectors, ...flow }: TracedAddress): string[] {
  const known = teaches
    ? selectors.length === 0
      ? 'no selector is about it'
      : `known by ${selectors.join(', ')}`
    : `teaches nothing: ${reason}`
  return [`answer ${address}: ${known}`, ...sideLines(flow).map(indented)]
}

function sideLines({ egress, ingress }: Pick<TracedFlow, 'egress' | 'ingress'>): string[] {
  return Object.entries({ egress, ingress }).flatMap(([name, side]) => [
    `${name}: ${describeSide(side)}`,
    ...side.matched.map((rule) => `  + ${describeRule(rule)}`),
    ...side.unmatched.map((rule) => `  - ${describeRule(rule)}`),
    ...(side.headers ?? []).map(({ name, action }) => `  header ${name} is not as wanted: ${ACTIONS[action]} (${action})`),
    ...(side.notes ?? []).map((note) => `  note: ${note}`),
  ])
}

function indented(line: string): string {
  return `  ${line}`
}

function describeSide({ verdict, l7, reason }: TracedSide): string {
  const word = verdict === 'redirected' && l7 !== null ? `redirected, request ${l7}` : verdict
  return `${word} (${reason})`
}

function describeRule({ action, policy, at, reason, audit }: TracedRule): string {
  return `${action} by ${policy}${audit === true ? ', in audit' : ''} (${at.file}:${at.line} ${at.path}): ${reason}`
}

/** What `policy trace` and `policy test` ask: a scene made of files, and answers made readable. */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { Scene, type SceneEndpoint, type SceneFile } from '#policy/trace/scene.ts'
import type { TraceAnswer, TracedRule, TracedSide } from '#policy/trace/trace.ts'
import { CliError } from './errors.ts'
import { sanitize } from './output.ts'
import { formatProblem, type Limits, listPolicyFiles, readText } from './policy-files.ts'
import { loadIdentities, loadWorkloadsFile } from './processes.ts'

/**
 * @param policies files, and folders of them
 * @param endpoints workloads file @throws CliError HG-1111, AgentError HG-2001
 */
export async function createScene(policies: readonly string[], endpoints: string | undefined, limits: Limits): Promise<Scene> {
  const { parsePolicyFile } = await import('#policy/parse.ts')
  const files = policies.flatMap(filesOf).map((file): SceneFile => {
    const { documents, refused, problems } = parsePolicyFile(readText(file), file, limits)
    const errors = problems.filter(({ severity }) => severity === 'error')
    for (const problem of errors) process.stderr.write(`${sanitize(formatProblem(problem))}\n`)
    if (errors.length > 0) process.stderr.write(`${file}: refused; endpoints that it selects are at default deny\n`)
    return { file, documents, refused }
  })
  if (endpoints === undefined) return new Scene(files, [], 'default')
  const [{ parseWorkloads }, { endpointLabels }] = await Promise.all([loadWorkloadsFile(), loadIdentities()])
  const workloads = parseWorkloads(readText(endpoints), endpoints)
  const known = workloads.endpoints.map((spec): SceneEndpoint => {
    const labels = workloads.namespaces.find(({ name }) => name === spec.namespace)?.labels ?? {}
    return {
      name: `${spec.namespace}/${spec.name}`,
      labels: endpointLabels(spec, workloads.cluster, labels),
      addresses: [...spec.ipv4, ...spec.ipv6],
    }
  })
  return new Scene(files, known, workloads.cluster)
}

/** A folder stands for the policy files in it, as for the agent. */
function filesOf(path: string): string[] {
  let isFolder: boolean
  try {
    isFolder = statSync(path).isDirectory()
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read ${path}`, { cause })
  }
  return isFolder
    ? listPolicyFiles(path)
        .toSorted()
        .map((name) => join(path, name))
    : [path]
}

/** An answer as people read it. */
export function answerLines({ verdict, egress, ingress }: TraceAnswer): string[] {
  const sides = Object.entries({ egress, ingress }).flatMap(([name, side]) => [
    `${name}: ${describeSide(side)}`,
    ...side.matched.map((rule) => `  + ${describeRule(rule)}`),
    ...side.unmatched.map((rule) => `  - ${describeRule(rule)}`),
  ])
  return [...sides, `verdict: ${verdict}`]
}

function describeSide({ verdict, l7, reason }: TracedSide): string {
  const word = verdict === 'redirected' && l7 !== null ? `redirected, request ${l7}` : verdict
  return `${word} (${reason})`
}

function describeRule({ action, policy, at, reason }: TracedRule): string {
  return `${action} by ${policy} (${at.file}:${at.line} ${at.path}): ${reason}`
}

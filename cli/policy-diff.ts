/** `headgate policy diff`: what a change of policies changes for flows, before it is applied. No agent, no root. */
import { createReadStream } from 'node:fs'
import type { Config } from '#config/schema.ts'
import { describeChange, diffPolicies, type PolicyDiff } from '#policy/diff/diff.ts'
import { type RecordedDiff, RecordedFlows } from '#policy/diff/flows.ts'
import type { Dialect } from '#policy/model.ts'
import { type ParseOptions, parseOptions } from '#policy/options.ts'
import { describeQuestion } from '#policy/trace/expectations.ts'
import type { SceneFile } from '#policy/trace/scene.ts'
import { CliError, EXIT_CODES } from './errors.ts'
import { readLines } from './lines.ts'
import type { OutputFormat } from './options.ts'
import { print, printJson, sanitize } from './output.ts'
import { formatProblem, STANDARD_INPUT } from './policy-files.ts'
import { loadPeople, readPolicies, sceneOf } from './policy-scene.ts'
import { secretsIn } from './policy-secrets.ts'

export interface DiffOptions {
  readonly output: OutputFormat
  readonly endpoints?: string
  readonly secrets?: string
  readonly flows?: string
  readonly dialect?: Dialect
  readonly limit: number
}

const FLOW_LINE_LENGTH_MAX = 1 << 20

/** @throws CliError HG-1111 for what cannot be read, or is refused */
export async function runDiff([old, now]: readonly [string, string], options: DiffOptions, config: Config): Promise<void> {
  const parsing = parseOptions(config, options.dialect)
  const people = await loadPeople(options.endpoints, config)
  const secrets = await secretsIn(options.secrets)
  // Queries that are only seen have the verdict that they had: what names change is told of the names.
  const before = sceneOf(await acceptedFiles(old, parsing), people, config, secrets, false)
  const after = sceneOf(await acceptedFiles(now, parsing), people, config, secrets, false)
  const diff = diffPolicies({ before, after, endpoints: people.endpoints, nodes: people.nodes, changesMax: options.limit })
  const flows = new RecordedFlows(people.endpoints.map(({ name }) => name))
  if (options.flows !== undefined) await readFlows(options.flows, flows)
  const recorded = flows.diff(before, after)
  if (options.output === 'json') printJson(asJson(diff, recorded, options.limit))
  else for (const line of linesOf(diff, recorded, options)) print(sanitize(line))
  process.exitCode = diff.changeCount + recorded.changes.length > 0 ? EXIT_CODES.FAILED : EXIT_CODES.OK
}

/** What a refused file would mean depends on what was in force before it: there is nothing to compare. */
async function acceptedFiles(path: string, parsing: ParseOptions): Promise<readonly SceneFile[]> {
  const { files, errors } = await readPolicies([path], parsing)
  if (errors.length > 0) throw new CliError('HG-1111', `not valid: ${path}`, { details: errors.map(formatProblem) })
  return files
}

async function readFlows(file: string, flows: RecordedFlows): Promise<void> {
  const input = file === STANDARD_INPUT ? process.stdin : createReadStream(file)
  try {
    for await (const line of readLines(input, FLOW_LINE_LENGTH_MAX)) {
      if (line?.trim() !== '') flows.add(line === undefined ? undefined : parsed(line))
    }
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read ${file}`, { cause })
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

function asJson(diff: PolicyDiff, recorded: RecordedDiff, limit: number): object {
  return {
    changed: diff.changeCount + recorded.changes.length > 0,
    changes: diff.changes.map((change) => ({ ...change, change: describeChange(change) })),
    changeCount: diff.changeCount,
    partyCount: diff.partyCount,
    notAskedCount: diff.omittedCount,
    flows: recorded.changes.slice(0, limit),
    flowChangeCount: recorded.changes.length,
    flowCount: recorded.flowCount,
    flowSkippedCount: recorded.skippedCount,
  }
}

function linesOf(diff: PolicyDiff, recorded: RecordedDiff, { flows, limit }: DiffOptions): string[] {
  const lines = diff.changes.map((change) => `${change.from} -> ${change.to} ${change.traffic}: ${describeChange(change)}`)
  const rest = diff.changeCount - diff.changes.length
  if (rest > 0) lines.push(`${rest} more changes are not shown (--limit)`)
  if (flows !== undefined) {
    for (const { question, count, before, after } of recorded.changes.slice(0, limit))
      lines.push(`recorded ${count}x: ${describeQuestion(question)}: ${before} -> ${after}`)
    const more = recorded.changes.length - limit
    if (more > 0) lines.push(`${more} more recorded flows change (--limit)`)
    if (recorded.skippedCount > 0) lines.push(`${recorded.skippedCount} records could not be asked about`)
  }
  if (diff.omittedCount > 0) lines.push(`${diff.omittedCount} prefixes, names or endpoints were too many to ask about`)
  if (diff.changeCount + recorded.changes.length === 0) lines.push('no verdict changes')
  return lines
}

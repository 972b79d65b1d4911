/** Verdicts on requests, as `headgate policy counts` and `headgate status` show them. */
import type { CountsReport, VerdictCounts } from '#api/gen/headgate/v1/control_pb.js'
import type { AgentClient } from './agent-client.ts'
import { CliError } from './errors.ts'
import type { OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'

/** By CountsSource, as `headgate status` calls the processes; of the relay, each worker has a number. */
const RELAY = 'relay'
const SOURCE_NAMES = ['', 'proxy', 'ext-host', RELAY]

/** In `status`, nobody waits longer for a process that does not answer. */
const STATUS_PROCESS_MS = 500
const STATUS_AGENT_MS = 1500

const NO_RULES = 'no rule was counted: Envoy counts rules with the setting http.ruleCounters: true'

/** What every process has counted, with the rules. @throws CliError when no process has anything to tell */
export async function runCounts(agent: AgentClient, output: OutputFormat): Promise<void> {
  const { call, create, GetCountsRequestSchema, GetCountsResponseSchema, messageJson } = await import('./agent-client.ts')
  const response = await call(agent, 'getCounts', create(GetCountsRequestSchema))
  if (output === 'json') printJson(messageJson(GetCountsResponseSchema, response))
  else print(formatCounts(response.reports))
  if (response.reports.every(({ totals }) => totals === undefined)) throw new CliError('HG-1109', 'no process has told its counts')
}

/** What of the counts could be had. */
export interface StatusCounts {
  readonly reports: readonly CountsReport[]
  /** Why there are none, in the agent's words. */
  readonly problem: string
}

/** For `status`: what can be had soon. Never fails. */
export async function countsForStatus(agent: AgentClient): Promise<StatusCounts> {
  const { call, create, GetCountsRequestSchema } = await import('./agent-client.ts')
  try {
    const request = create(GetCountsRequestSchema, { totalsOnly: true, timeoutMs: STATUS_PROCESS_MS })
    const { reports } = await call(agent, 'getCounts', request, STATUS_AGENT_MS)
    return { reports, problem: '' }
  } catch (error) {
    return { reports: [], problem: (error as Error).message }
  }
}

export function formatCounts(reports: readonly CountsReport[]): string {
  return [formatRules(reports), formatTopics(reports)].filter((part) => part !== '').join('\n\n')
}

function formatRules(reports: readonly CountsReport[]): string {
  const rules = new Map<string, bigint[]>()
  for (const { rule, counts } of reports.flatMap((report) => report.rules)) {
    const numbers = [counts?.allowed ?? 0n, counts?.denied ?? 0n, counts?.audited ?? 0n]
    const before = rules.get(rule)
    rules.set(rule, before === undefined ? numbers : before.map((number, column) => number + (numbers[column] ?? 0n)))
  }
  // Only this: Envoy was not asked to count rules.
  if ([...rules.keys()].every((rule) => rule === '')) return [formatSources(reports), '', NO_RULES].join('\n')
  const rows = [...rules]
    .sort(([ruleA, a], [ruleB, b]) => Number(sum(b) - sum(a)) || (ruleA < ruleB ? -1 : 1))
    .map(([rule, numbers]) => [rule === '' ? '(no rule)' : rule, ...numbers.map(String)])
  return [formatTable(['RULE', 'ALLOWED', 'DENIED', 'AUDITED'], rows), '', formatSources(reports)].join('\n')
}

/** Empty where no request named one. */
function formatTopics(reports: readonly CountsReport[]): string {
  const topics = new Map<string, { readonly name: string; readonly apiKey: string; readonly numbers: bigint[] }>()
  for (const { topic, apiKey, counts } of reports.flatMap((report) => report.topics)) {
    const numbers = [counts?.allowed ?? 0n, counts?.denied ?? 0n, counts?.audited ?? 0n]
    // Neither has a space.
    const key = `${topic} ${apiKey}`
    const before = topics.get(key)
    const total = before === undefined ? numbers : before.numbers.map((number, column) => number + (numbers[column] ?? 0n))
    topics.set(key, { name: topic === '' ? '(other topics)' : topic, apiKey, numbers: total })
  }
  if (topics.size === 0) return ''
  const rows = [...topics.values()]
    .sort((a, b) => Number(sum(b.numbers) - sum(a.numbers)) || (a.name < b.name ? -1 : 1) || (a.apiKey < b.apiKey ? -1 : 1))
    .map(({ name, apiKey, numbers }) => [name, apiKey, ...numbers.map(String)])
  return formatTable(['TOPIC', 'REQUEST', 'ALLOWED', 'DENIED', 'AUDITED'], rows)
}

function sum(numbers: readonly bigint[]): bigint {
  return numbers.reduce((total, number) => total + number, 0n)
}

/** One line a process: its totals, or its problem. */
export function formatSources(reports: readonly CountsReport[]): string {
  return formatTable(
    ['COUNTED BY', 'ALLOWED', 'DENIED', 'AUDITED', 'FAILED', 'SINCE', 'PROBLEM'],
    reports.map(({ source, worker, totals, sinceNs, problem }) => [
      nameOf(source, worker),
      ...(totals === undefined ? ['', '', '', '', ''] : [...numbersOf(totals), timeOf(sinceNs)]),
      problem,
    ]),
  )
}

function nameOf(source: number, worker: number): string {
  const name = SOURCE_NAMES[source] ?? `source ${source}`
  return name === RELAY ? `${RELAY} ${worker}` : name
}

function numbersOf({ allowed, denied, audited, failed }: VerdictCounts): string[] {
  return [allowed, denied, audited, failed].map(String)
}

function timeOf(ns: bigint): string {
  return `${new Date(Number(ns / 1_000_000n)).toISOString().slice(0, 19)}Z`
}

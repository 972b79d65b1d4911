/**
 * How many requests were allowed and denied, as Envoy's own statistics have it: it counts each verdict as it takes it, whatever becomes
 * of the flow, of this process and of the agent. They begin with Envoy's start and are asked for when somebody wants to know.
 *
 * Three things are not as one would wish. The shadow is judged, and counted, also for requests that are then denied. A rule's counters
 * end with the last slot that has it, while the totals do not (envoy/bootstrap.ts). And Envoy reads its counters one after the other:
 * under load, totals and rules may differ by the requests of that moment.
 */
import { stat } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import {
  type CountsReport,
  CountsReportSchema,
  CountsSource,
  type RuleCounts,
  RuleCountsSchema,
  type VerdictCounts,
  VerdictCountsSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { type AdminAnswer, askAdmin } from './envoy/admin.ts'
import { ACCESS_LOG_STATS, EXT_HOST_STATS, RULES_STATS } from './envoy/bootstrap.ts'
import { ALLOW_ALL_RULE, AUDIT_DENY_PREFIX, DENY_PREFIX, EXT_HOST_RULE, ruleAfter } from './xds/verdict.ts'

/** More rules than anybody reads, and few enough for a message. */
const RULES_MAX = 100_000

/** Between looks at whether flows arrive, and for how long they are waited for. */
const ARRIVAL_STEP_MS = 20
const ARRIVAL_MS_MAX = 200

/** Is there from the start. */
const ALLOWED = `${RULES_STATS}allowed`
const RULE_STATS = `${RULES_STATS}policy.`

/** One counter's share in what is told. */
const TOTALS: ReadonlyMap<string, (totals: Totals, value: bigint) => void> = new Map([
  [ALLOWED, (totals, value) => (totals.allowed += value)],
  [`${RULES_STATS}denied`, (totals, value) => (totals.denied += value)],
  [`${RULES_STATS}shadow_denied`, (totals, value) => (totals.audited += value)],
  // The rules let these through to the extension host, which counts its verdicts itself.
  [`${EXT_HOST_STATS}streams_started`, (totals, value) => (totals.helped += value)],
  // What it did not answer: the stream broke, or the time was up.
  [`${EXT_HOST_STATS}streams_failed`, (totals, value) => (totals.failed += value)],
  [`${EXT_HOST_STATS}message_timeouts`, (totals, value) => (totals.failed += value)],
  // It answered what Envoy cannot do.
  [`${EXT_HOST_STATS}spurious_msgs_received`, (totals, value) => (totals.failed += value)],
  // There was no room for these, and those were sent, perhaps to nobody.
  [`${ACCESS_LOG_STATS}logs_dropped`, (totals, value) => (totals.flowsDropped += value)],
  [`${ACCESS_LOG_STATS}grpc_entries_flushed`, (totals, value) => (totals.flowsSent += value)],
])

interface Totals {
  allowed: bigint
  denied: bigint
  audited: bigint
  failed: bigint
  helped: bigint
  flowsDropped: bigint
  flowsSent: bigint
}

/** Statistics of the totals by name, and those of the rules by prefix. The filter is RE2, and matches anywhere. */
const TOTALS_FILTER = `^(${[...TOTALS.keys()].map(literal).join('|')})$`
const RULES_FILTER = `^${literal(RULE_STATS)}|${TOTALS_FILTER}`

function literal(text: string): string {
  return text.replaceAll('.', '\\.')
}

type CountedVerdict = 'allowed' | 'denied' | 'audited'

/** What a counter of one action counts. @returns undefined for any other statistic; an empty rule when no rule matched */
export function parseRuleStat(name: string): { readonly rule: string; readonly verdict: CountedVerdict } | undefined {
  // A rule's name may hold dots; what comes behind it does not.
  const end = name.lastIndexOf('.')
  if (!name.startsWith(RULE_STATS) || end < RULE_STATS.length) return undefined
  const action = name.slice(RULE_STATS.length, end)
  switch (name.slice(end + 1)) {
    case 'allowed':
      return action === EXT_HOST_RULE ? undefined : { rule: action === ALLOW_ALL_RULE ? '' : action, verdict: 'allowed' }
    case 'denied':
      return { rule: ruleAfter(DENY_PREFIX, action), verdict: 'denied' }
    case 'shadow_denied':
      return { rule: ruleAfter(AUDIT_DENY_PREFIX, action), verdict: 'audited' }
    default:
      return undefined
  }
}

export interface EnvoyCounts {
  readonly totals: VerdictCounts
  /** By descending number of requests. */
  readonly rules: readonly RuleCounts[]
  readonly flowsDropped: bigint
  readonly flowsSent: bigint
}

/** @param stats names and values of counters */
export function countsOf(stats: Iterable<{ readonly name: string; readonly value: number }>): EnvoyCounts {
  const totals: Totals = { allowed: 0n, denied: 0n, audited: 0n, failed: 0n, helped: 0n, flowsDropped: 0n, flowsSent: 0n }
  const rules = new Map<string, VerdictCounts>()
  for (const { name, value: number } of stats) {
    if (!Number.isInteger(number) || number < 0) continue
    const value = BigInt(number)
    TOTALS.get(name)?.(totals, value)
    const stat = parseRuleStat(name)
    if (stat === undefined || value === 0n) continue
    let counts = rules.get(stat.rule)
    if (counts === undefined) {
      counts = create(VerdictCountsSchema)
      rules.set(stat.rule, counts)
    }
    counts[stat.verdict] += value
  }
  const { allowed, denied, audited, failed, helped, flowsDropped, flowsSent } = totals
  return {
    totals: create(VerdictCountsSchema, { allowed: allowed > helped ? allowed - helped : 0n, denied, audited, failed }),
    rules: [...rules]
      .map(([rule, counts]) => create(RuleCountsSchema, { rule, counts }))
      .sort((a, b) => Number(requestsOf(b) - requestsOf(a)) || (a.rule < b.rule ? -1 : 1)),
    flowsDropped,
    flowsSent,
  }
}

function requestsOf({ counts }: RuleCounts): bigint {
  return counts === undefined ? 0n : counts.allowed + counts.denied + counts.audited
}

export interface EnvoyCountsOptions {
  readonly adminSocket: string
  readonly totalsOnly: boolean
  /** Flows that Envoy sent and that arrived; undefined when that is not known. */
  readonly flowsReceived: () => bigint | undefined
}

/** Asks Envoy. Never fails: what is wrong is in the report. */
export async function readEnvoyCounts({ adminSocket, totalsOnly, flowsReceived }: EnvoyCountsOptions): Promise<CountsReport> {
  const filter = totalsOnly ? TOTALS_FILTER : RULES_FILTER
  const path = `/stats?type=Counters&format=json&filter=${encodeURIComponent(filter)}`
  for (let attempt = 0; ; attempt++) {
    const since = await startOf(adminSocket)
    const answer = await askAdmin(adminSocket, path)
    // One that was started meanwhile may have answered, or it died while it did: either way, the next answer is whole.
    if (attempt === 0 && since !== (await startOf(adminSocket))) continue
    return await reportOf(answer, since, flowsReceived)
  }
}

/** Envoy makes its admin socket when it starts, and `headgate envoy` removes the one before: the file is as old as the process. */
async function startOf(adminSocket: string): Promise<bigint> {
  const found = await stat(adminSocket, { bigint: true }).catch(() => undefined)
  return found?.mtimeNs ?? 0n
}

async function reportOf(answer: AdminAnswer, sinceNs: bigint, flowsReceived: () => bigint | undefined): Promise<CountsReport> {
  const source = CountsSource.PROXY
  if ('problem' in answer) return create(CountsReportSchema, { source, problem: answer.problem })
  const stats = statsIn(answer.body)
  if (stats === undefined) return create(CountsReportSchema, { source, problem: 'Envoy answers with something that is no statistics' })
  if (!stats.some(({ name }) => name === ALLOWED))
    return create(CountsReportSchema, { source, problem: 'Envoy was started by a version that does not count; restart it' })
  const { totals, rules, flowsDropped, flowsSent } = countsOf(stats)
  return create(CountsReportSchema, {
    source,
    sinceNs,
    totals,
    rules: rules.slice(0, RULES_MAX),
    flowsLost: flowsDropped + (await lostOnTheWay(flowsSent, flowsReceived)),
    problem: rules.length > RULES_MAX ? `only the ${RULES_MAX} rules with the most requests are told of, of ${rules.length}` : '',
  })
}

/** What is on its way arrives within moments; what is still missing when nothing arrives any more is lost. */
async function lostOnTheWay(sent: bigint, received: () => bigint | undefined): Promise<bigint> {
  const deadline = performance.now() + ARRIVAL_MS_MAX
  for (let before: bigint | undefined; ; ) {
    const count = received() ?? sent
    if (count >= sent) return 0n
    if (count === before || performance.now() > deadline) return sent - count
    before = count
    await delay(ARRIVAL_STEP_MS)
  }
}

function statsIn(body: string): { name: string; value: number }[] | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(body)
  } catch {
    return undefined
  }
  const stats = (parsed as { stats?: unknown } | null)?.stats
  return Array.isArray(stats) ? stats.filter((stat) => typeof stat?.name === 'string' && typeof stat.value === 'number') : undefined
}

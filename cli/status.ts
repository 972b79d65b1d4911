/** `headgate status` */
import type { Command } from 'commander'
import type { Status } from '#api/gen/headgate/v1/local_pb.js'
import type { Config } from '#config/schema.ts'
import { documentName } from '#policy/model.ts'
import type { AgentClient } from './agent-client.ts'
import { formatSources, type StatusCounts } from './counts.ts'
import { CliError } from './errors.ts'
import { addConfigOptions, addOutputOption, configOf, type OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'

const HELP = `
REVISION is what the agent asks for, APPLIED what the process has in force. Refused rules are quoted in Envoy's own words: what they
would have allowed is denied. Requests are counted by Envoy, the extension host and the workers of the relay since their own start (headgate
policy counts has them by rule); Counters are of packets, start with the kernel's maps and survive restarts of Headgate.`

const DIRECTION_NAMES = ['', 'ingress', 'egress']

export function define(command: Command): void {
  addOutputOption(addConfigOptions(command))
    .addHelpText('after', HELP)
    .action(async (options: { output: OutputFormat }) => {
      const config = await configOf(command)
      const { call, create, GetCountsResponseSchema, GetStatusRequestSchema, messageJson, StatusSchema, withAgent } = await import(
        './agent-client.ts'
      )
      const { countsForStatus } = await import('./counts.ts')
      const ask = (agent: AgentClient) =>
        Promise.all([call(agent, 'getStatus', create(GetStatusRequestSchema)), countsForStatus(agent)] as const)
      const [status, requests] = await withAgent(config, ask).catch((error) => withRunning(config, error))
      if (options.output === 'json') {
        const reports = messageJson(GetCountsResponseSchema, create(GetCountsResponseSchema, { reports: [...requests.reports] }))
        printJson({ ...(messageJson(StatusSchema, status) as object), requests: { ...(reports as object), problem: requests.problem } })
      } else print(formatStatus(status, requests))
    })
}

/** Where flows were lost: each part is counted by somebody else. */
function lostOf({ flowsLost, flowsLostKernel }: Status, { reports }: StatusCounts): string {
  const byEnvoy = reports.reduce((sum, report) => sum + report.flowsLost, 0n)
  const onTheWay = flowsLost - (flowsLostKernel ?? 0n)
  const kernel = flowsLostKernel === undefined ? [] : [`${flowsLostKernel} in the kernel`]
  return `lost: ${[...kernel, `${byEnvoy} in Envoy`, `${onTheWay} on the way to the agent`].join(', ')}`
}

/** Without an agent there is still something to say: which processes do run. */
async function withRunning(config: Config, error: unknown): Promise<never> {
  if (!(error instanceof CliError) || error.code !== 'HG-1101') throw error
  const { runningProcesses } = await import('./supervisor/running.ts')
  const running = runningProcesses(config.paths.run).map((process) => `${process.name} runs with pid ${process.pid}`)
  const details = running.length === 0 ? ['no process of this instance runs'] : running
  throw new CliError(error.code, error.message, { details })
}

export function formatStatus(status: Status, requests: StatusCounts): string {
  const parts: string[] = [
    `agent ${status.version} (pid ${status.pid}), kernel ${status.kernelRelease}`,
    `${status.endpointCount} endpoints, ${status.identityCount} identities, ${status.slotCount} slots, revision ${status.revision}`,
    `${status.flowsSeen} flows seen; ${lostOf(status, requests)}`,
  ]
  const section = (title: string, lines: string) => parts.push('', `${title}:`, lines)
  if (status.warnings.length > 0) section('Warnings', status.warnings.map((warning) => `  ${warning}`).join('\n'))
  section(
    'Processes',
    formatTable(
      ['NAME', 'PID', 'VERSION', 'CONNECTED', 'REVISION', 'APPLIED', 'DETAIL'],
      status.processes.map((process) => [
        process.name,
        process.pid === 0 ? '' : String(process.pid),
        process.version,
        process.connected ? 'yes' : 'NO',
        // Envoy answers to the proxy process, whose revision stands for both.
        process.revision === 0n ? '' : String(process.revision),
        process.revision === 0n ? '' : String(process.appliedRevision),
        process.detail,
      ]),
    ),
  )
  if (status.refusedPolicies.length > 0) {
    const lines = status.refusedPolicies.flatMap((document) => [
      `  ${document.file}: ${document.state}${document.name === '' ? '' : ` (${documentName(document)})`}`,
      ...document.problems.map((problem) => `    ${problem.line}:${problem.column} ${problem.path}: ${problem.message}`),
    ])
    section('Policies refused', lines.join('\n'))
  }
  if (status.refused.length > 0) {
    section(
      'Rules refused by Envoy',
      status.refused.map(({ slotId, rule, reason }) => `  slot ${slotId} ${rule || 'whole'}: ${reason}`).join('\n'),
    )
  }
  section(
    'Kernel maps',
    formatTable(
      ['NAME', 'ENTRIES', 'MAX', 'FILL'],
      status.maps.map(({ name, entries, maxEntries }) => [
        name,
        String(entries),
        String(maxEntries),
        maxEntries === 0 ? '' : `${((100 * entries) / maxEntries).toFixed(1)} %`,
      ]),
    ),
  )
  if (requests.reports.length > 0 || requests.problem !== '') {
    section('Requests', requests.problem === '' ? formatSources(requests.reports) : `  ${requests.problem}`)
  }
  if (status.counters.length > 0) {
    section(
      'Counters',
      formatTable(
        ['VERDICT', 'REASON', 'DIRECTION', 'PACKETS', 'BYTES'],
        status.counters.map(({ verdict, reason, direction, packets, bytes }) => [
          verdict,
          reason,
          DIRECTION_NAMES[direction] ?? '',
          String(packets),
          String(bytes),
        ]),
      ),
    )
  }
  return parts.join('\n')
}

/** `headgate observe` */

import { setTimeout as delay } from 'node:timers/promises'
import type { ServiceError } from '@grpc/grpc-js'
import { type Command, Option } from 'commander'
import type { ObserveResponse } from '#api/gen/headgate/v1/local_pb.js'
import { FLOW_KINDS, FLOW_VERDICTS, type Flow, type FlowPeer } from '#flows/flow.ts'
import type { AgentClient } from './agent-client.ts'
import { CliError } from './errors.ts'
import { addConfigOptions, collect, configOf, parseCount, repeatableChoice } from './options.ts'
import { print, sanitize } from './output.ts'

const HELP = `
One line a flow: time, source -> destination, what, verdict, who decided and by which policy, with the policy's own word for it if it
has one, and headers that were not as a rule wants them with what was done about each. The verdict audit is of what passed and policy in
audit would deny, error of a request that was refused because nobody judged it. -o json prints flows/flow.ts, one object a line. --follow goes on, over restarts of the agent too. What had to be dropped under load is counted on standard error.`

const RECONNECT_MS = 200

interface ObserveOptions {
  readonly output: 'compact' | 'json'
  readonly follow?: boolean
  readonly last: number
  readonly verdict?: string[]
  readonly kind?: string[]
  readonly endpoint?: string[]
  readonly address?: string[]
  readonly port?: string[]
}

export function define(command: Command): void {
  addConfigOptions(command)
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['compact', 'json']).default('compact'))
    .option('-f, --follow', 'go on with what happens from now')
    .option('--last <count>', 'newest flows to begin with; 0: all that are kept', parseCount, 20)
    .addOption(repeatableChoice('--verdict <verdict>', 'only these; may be repeated', FLOW_VERDICTS))
    .addOption(repeatableChoice('--kind <kind>', 'only these; may be repeated', FLOW_KINDS))
    .option('--endpoint <namespace/name>', 'on either side; may be repeated', collect)
    .option('--address <ip>', 'on either side; may be repeated', collect)
    .option('--port <number>', 'on either side; may be repeated', collect)
    .addHelpText('after', HELP)
    .action((options: ObserveOptions) => observe(command, options))
}

async function observe(command: Command, options: ObserveOptions): Promise<void> {
  const config = await configOf(command)
  const { withAgent } = await import('./agent-client.ts')
  let hasConnected = false
  for (;;) {
    try {
      const last = hasConnected ? 0 : options.last
      const ask = (agent: AgentClient) => {
        hasConnected = true
        return stream(agent, options, last)
      }
      await withAgent(config, ask, { waitMs: hasConnected ? Number.POSITIVE_INFINITY : 0 })
      if (!options.follow) return
    } catch (error) {
      // Only an agent that was there is waited for; a new one has a new ring, and everything in it is news.
      const isGone = error instanceof CliError && error.code === 'HG-1101'
      if (!options.follow || !hasConnected || !isGone) throw error
    }
    process.stderr.write('the agent went away; waiting for it\n')
    await delay(RECONNECT_MS)
  }
}

async function stream(agent: AgentClient, options: ObserveOptions, last: number): Promise<void> {
  const { asCliError, create, ObserveRequestSchema } = await import('./agent-client.ts')
  const request = create(ObserveRequestSchema, {
    last,
    follow: options.follow ?? false,
    verdicts: options.verdict ?? [],
    kinds: options.kind ?? [],
    endpoints: options.endpoint ?? [],
    addresses: options.address ?? [],
    ports: (options.port ?? []).map(parseCount),
  })
  const call = agent.observe(request)
  try {
    for await (const message of call) {
      const { response } = message as ObserveResponse
      if (response.case === 'lost') process.stderr.write(`${response.value} flows lost\n`)
      else if (response.case === 'flowJson') {
        print(options.output === 'json' ? response.value : formatFlow(JSON.parse(response.value) as Flow))
      }
    }
  } catch (error) {
    throw asCliError(error as ServiceError)
  }
}

/** `12:34:56.789 default/web:41234 -> default/api:80 TCP http GET /x 403 dropped by envoy (policy default/api)` */
export function formatFlow(flow: Flow): string {
  const request = flow.http
  const policies = [...new Set(flow.origins.map(({ policy, log }) => (log === undefined ? policy : `${policy} "${log}"`)))]
  const headers = (request?.headers ?? []).map(({ name, action }) => `${name} ${action}`).join(', ')
  const why = [
    flow.verdict === 'audit' ? 'would be denied' : '',
    flow.reason,
    headers === '' ? '' : `headers: ${headers}`,
    ...(flow.dns?.notes ?? []),
    policies.length === 0 ? '' : `policy ${policies.join(', ')}`,
  ]
    .filter((part) => part !== '')
    .join('; ')
  const line = [
    flow.time.slice(11, 23),
    flow.direction,
    formatPeer(flow.source),
    '->',
    formatPeer(flow.destination),
    formatSubject(flow),
    flow.verdict,
    `by ${flow.where}`,
    ...(why === '' ? [] : [`(${why})`]),
  ]
  return sanitize(line.join(' '))
}

function formatSubject({ protocol, kind, http, dns, kafka, parsed }: Flow): string {
  if (parsed !== undefined) {
    const fields = Object.entries(parsed.fields).map(([name, value]) => `${name}=${value}`)
    return [parsed.parser, ...(fields.length === 0 ? ['connection'] : fields)].join(' ')
  }
  if (kind === 'kafka') {
    if (kafka === undefined) return 'Kafka connection'
    const error = kafka.errorCode === 0 ? [] : [`error ${kafka.errorCode}`]
    return ['Kafka', kafka.apiKey, ...kafka.topics, `client ${kafka.clientId}`, ...error].join(' ')
  }
  if (http !== undefined) return `${http.protocol} ${http.method} ${http.authority}${http.path} ${http.status}`
  if (dns === undefined) return protocol
  const answer = [dns.rcode === '' ? 'no answer' : dns.rcode, ...dns.cnames, ...dns.addresses].join(' ')
  return `${protocol} DNS ${dns.query} ${dns.type} ${answer}`
}

function formatPeer(peer: FlowPeer): string {
  const reserved =
    peer.labels.length === 1 && peer.labels[0]?.startsWith('reserved:') ? ` (${peer.labels[0].slice('reserved:'.length)})` : ''
  const name = peer.endpoint === undefined ? `${peer.address}` : `${peer.endpoint.namespace}/${peer.endpoint.name}`
  return `${name}${peer.port === 0 ? '' : `:${peer.port}`}${reserved}`
}

/** `headgate endpoint` */
import type { Command } from 'commander'
import type { Endpoint } from '#api/gen/headgate/v1/local_pb.js'
import { CliError } from './errors.ts'
import { addConfigOptions, addOutputOption, collect, configOf, type OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'

const HELP = `
A workload is a network namespace (by its name under /run/netns, or a path) or the host side of its veth pair.
Endpoints can also be listed in the workloads file, which is watched; those belong to the file and cannot be removed here.`

interface AddOptions {
  readonly output: OutputFormat
  readonly namespace: string
  readonly netns?: string
  readonly interface?: string
  readonly label?: readonly string[]
  readonly serviceAccount?: string
  readonly ip?: readonly string[]
  readonly port?: readonly string[]
  readonly audit?: boolean
  readonly searchDomain?: readonly string[]
}

interface NamedOptions {
  readonly output: OutputFormat
  readonly namespace: string
}

export function define(command: Command): void {
  command.addHelpText('after', HELP)
  const named = (child: Command) =>
    addOutputOption(addConfigOptions(child))
      .argument('<name>', 'name, or namespace/name')
      .option('-n, --namespace <name>', 'its namespace', 'default')
  named(command.command('add').description('put a workload under policy'))
    .option('--netns <name>', 'its network namespace: a name under /run/netns or an absolute path')
    .option('--interface <device>', 'instead: the host side of its veth pair')
    .option('-l, --label <key=value>', 'a label; may be repeated', collect)
    .option('--service-account <name>', 'its service account')
    .option('--ip <address>', 'its address; may be repeated; found in the namespace when absent', collect)
    .option('-p, --port <name=port/protocol>', 'a named port, such as http=80/TCP; may be repeated', collect)
    .option('--search-domain <name>', 'a domain that its resolver appends to names; may be repeated', collect)
    .option('--audit', 'report what policy would deny of its traffic, and deny nothing')
    .action((name: string, options: AddOptions, add: Command) => addEndpoint(add, name, options))
  named(command.command('remove').description('forget a workload: its rows and connections go')).action(
    (name: string, options: NamedOptions, remove: Command) => removeEndpoint(remove, name, options),
  )
  named(command.command('get').description('everything about one workload')).action((name: string, options: NamedOptions, get: Command) =>
    getEndpoint(get, name, options),
  )
  addOutputOption(addConfigOptions(command.command('list').description('all workloads of this node'))).action(
    (options: { output: OutputFormat }, list: Command) => listEndpoints(list, options.output),
  )
}

async function addEndpoint(command: Command, name: string, options: AddOptions): Promise<void> {
  const { AddEndpointRequestSchema, create } = await import('./agent-client.ts')
  if ((options.netns === undefined) === (options.interface === undefined)) {
    throw new CliError('HG-1108', `give either --netns or --interface for ${name}`)
  }
  const addresses = options.ip ?? []
  const request = create(AddEndpointRequestSchema, {
    spec: {
      ...splitName(name, options.namespace),
      labels: Object.fromEntries((options.label ?? []).map(parseLabel)),
      serviceAccount: options.serviceAccount ?? '',
      attachment:
        options.netns === undefined ? { case: 'interface', value: options.interface ?? '' } : { case: 'netns', value: options.netns },
      ipv4: addresses.filter((address) => !address.includes(':')),
      ipv6: addresses.filter((address) => address.includes(':')),
      ports: (options.port ?? []).map(parsePort),
      audit: options.audit ?? false,
      searchDomains: [...(options.searchDomain ?? [])],
    },
  })
  await printOne(command, options.output, (client, agent) => client.call(agent, 'addEndpoint', request))
}

async function removeEndpoint(command: Command, name: string, options: NamedOptions): Promise<void> {
  const { create, RemoveEndpointRequestSchema } = await import('./agent-client.ts')
  const request = create(RemoveEndpointRequestSchema, splitName(name, options.namespace))
  await printOne(command, options.output, (client, agent) => client.call(agent, 'removeEndpoint', request), 'removed')
}

async function getEndpoint(command: Command, name: string, options: NamedOptions): Promise<void> {
  const wanted = splitName(name, options.namespace)
  await printOne(command, options.output, async (client, agent) => {
    const { create, ListEndpointsRequestSchema } = await import('./agent-client.ts')
    const { endpoints } = await client.call(agent, 'listEndpoints', create(ListEndpointsRequestSchema))
    const found = endpoints.find(({ spec }) => spec?.name === wanted.name && spec.namespace === wanted.namespace)
    if (found === undefined) throw new CliError('HG-1107', `there is no endpoint ${wanted.namespace}/${wanted.name}`)
    return found
  })
}

async function listEndpoints(command: Command, format: OutputFormat): Promise<void> {
  const config = await configOf(command)
  const { call, create, ListEndpointsRequestSchema, ListEndpointsResponseSchema, messageJson, withAgent } = await import(
    './agent-client.ts'
  )
  const response = await withAgent(config, (agent) => call(agent, 'listEndpoints', create(ListEndpointsRequestSchema)))
  if (format === 'json') {
    printJson(messageJson(ListEndpointsResponseSchema, response))
    return
  }
  const rows = response.endpoints.map((endpoint) => [
    String(endpoint.id),
    fullName(endpoint),
    String(endpoint.identity),
    [...(endpoint.spec?.ipv4 ?? []), ...(endpoint.spec?.ipv6 ?? [])].join(','),
    enforcement(endpoint),
    endpoint.reason === '' ? endpoint.state : `${endpoint.state}: ${endpoint.reason}`,
  ])
  print(formatTable(['ID', 'NAME', 'IDENTITY', 'ADDRESSES', 'ENFORCED', 'STATE'], rows))
}

type Client = typeof import('./agent-client.ts')
type Agent = import('./agent-client.ts').AgentClient

async function printOne(
  command: Command,
  format: OutputFormat,
  ask: (client: Client, agent: Agent) => Promise<Endpoint>,
  verb = '',
): Promise<void> {
  const config = await configOf(command)
  const client = await import('./agent-client.ts')
  const { EndpointSchema, messageJson } = await import('./agent-client.ts')
  const endpoint = await client.withAgent(config, (agent) => ask(client, agent))
  if (format === 'json') printJson(messageJson(EndpointSchema, endpoint))
  else if (verb !== '') print(`${verb} ${fullName(endpoint)}`)
  else print(describe(endpoint))
}

function describe(endpoint: Endpoint): string {
  const spec = endpoint.spec
  const attachment = spec?.attachment.case === undefined ? '' : `${spec.attachment.case} ${spec.attachment.value}`
  const facts: readonly (readonly [string, string])[] = [
    ['name', fullName(endpoint)],
    ['id', String(endpoint.id)],
    ['identity', String(endpoint.identity)],
    ['labels', endpoint.labels.join(' ')],
    ['state', endpoint.reason === '' ? endpoint.state : `${endpoint.state}: ${endpoint.reason}`],
    ['enforced', enforcement(endpoint)],
    ['attachment', attachment],
    ['addresses', [...(spec?.ipv4 ?? []), ...(spec?.ipv6 ?? [])].join(' ')],
    ['ports', (spec?.ports ?? []).map((port) => `${port.name}=${port.port}/${port.protocol}`).join(' ')],
    ['service account', spec?.serviceAccount ?? ''],
    ['host device', endpoint.hostInterface === '' ? '' : `${endpoint.hostInterface} (${endpoint.hostInterfaceIndex})`],
    ['from', endpoint.origin],
  ]
  return facts
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${`${name}:`.padEnd(17)}${value}`)
    .join('\n')
}

function fullName({ spec }: Endpoint): string {
  return `${spec?.namespace ?? ''}/${spec?.name ?? ''}`
}

function enforcement({ spec, ingressEnforced, egressEnforced }: Endpoint): string {
  const directions = [ingressEnforced ? 'ingress' : '', egressEnforced ? 'egress' : ''].filter((part) => part !== '')
  if (directions.length === 0) return 'none'
  return `${directions.join(',')}${spec?.audit === true ? ' (audit)' : ''}`
}

/** `namespace/name`, or a name in the namespace of the option. */
function splitName(name: string, namespace: string): { namespace: string; name: string } {
  const [first = '', second, ...rest] = name.split('/')
  if (first === '' || second === '' || rest.length > 0) throw new CliError('HG-1108', `expected NAME or NAMESPACE/NAME, not ${name}`)
  return second === undefined ? { namespace, name: first } : { namespace: first, name: second }
}

function parseLabel(text: string): readonly [string, string] {
  const match = /^([^=\s]+)=(.*)$/.exec(text)
  if (match === null) throw new CliError('HG-1108', `expected --label KEY=VALUE, not ${text}`)
  return [match[1] ?? '', match[2] ?? '']
}

function parsePort(text: string): { name: string; port: number; protocol: string } {
  const match = /^([a-z0-9-]{1,15})=(\d{1,5})(?:\/(TCP|UDP|SCTP))?$/i.exec(text)
  const port = Number(match?.[2])
  if (match === null || port < 1 || port > 65535) throw new CliError('HG-1108', `expected --port NAME=PORT/PROTOCOL, not ${text}`)
  return { name: match[1] ?? '', port, protocol: (match[3] ?? 'TCP').toUpperCase() }
}

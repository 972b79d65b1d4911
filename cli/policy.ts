/** `headgate policy` */
import { type Command, Option } from 'commander'
import type { PolicyDocument } from '#api/gen/headgate/v1/local_pb.js'
import type { Config } from '#config/schema.ts'
import { type Dialect, documentName } from '#policy/model.ts'
import { parseOptions } from '#policy/options.ts'
import type { AgentClient } from './agent-client.ts'
import { CliError } from './errors.ts'
import {
  addConfigOptions,
  addDialectOption,
  addOutputOption,
  collect,
  configOf,
  type OutputFormat,
  parseCount,
  parseDurationMs,
} from './options.ts'
import { formatTable, print, printJson } from './output.ts'
import type { DiffOptions } from './policy-diff.ts'
import type { CheckedFile } from './policy-files.ts'
import type { TestOptions } from './policy-test.ts'
import type { TraceOptions } from './policy-trace.ts'
import type { ValidateOptions } from './policy-validate.ts'

const HELP = `
Policies are files of CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy and what these refer to, in the folder
paths.policies, which the agent watches: copying a file there is the same as applying it. A file is in force whole or not at all; a
refused one leaves its last accepted version. --dialect cilium refuses what Cilium refuses.`

const VALIDATE_HELP = `
Beside each file, all of them are judged together: rules that conflict, that others make moot, names that nothing has. Exit code 0:
nothing is refused (there may be warnings), 1: something is, 2: a file could not be read. -o sarif is for CI systems.`

const APPLY_HELP = `
The file is validated, written beside the others under its own name in one step, and waited for: the command returns when the kernel
and Envoy have it. Applying a file of the same name again replaces it. From standard input (-f -), the name is made from the first
document, or given with --name.`

const SECRETS_OPTION = 'folder of secrets that rules name: NAMESPACE/NAME is a file, or a folder with one; needed to judge such rules'

const TRACE_HELP = `
WHO is an endpoint (shop/web), labels (k8s:app=web,…; of the namespace default unless they say), an address, a DNS name (fqdn:NAME, or
the name alone where it has a dot), node/NAME, or reserved:ENTITY. Exit code 0: allowed, 1: denied, 2: the question could not be answered.
Each side is judged by the policies that select it; every rule of theirs says why it matched (+) or did not (-). A question of a batch:
{"from": "shop/web", "to": "10.0.0.1", "port": "80/TCP", "http": {"method": "GET", "path": "/x", "host": "a", "headers": {"X-Key": "v"}}};
instead of http there may be "grpc", "dns", "kafka" or "cassandra", and "sni" beside it.

To a DNS name, the query for it is judged first, then what each address of the answer teaches, then the flow to that address: allowed is
what is allowed all the way. The answer is given (--answer, with --cname; "answers", "cnames" and "dnsServer" of a batch) or looked up
(--resolve); without, judged is an address of which nothing but the name is known.

  headgate policy trace --policy policies --from shop/web --to fqdn:api.example.com --answer 192.0.2.7 --cname edge.example.net --port 443`

const DIFF_HELP = `
Asked about are all endpoints, nodes, the world, this host, every prefix and name that either side mentions, on all ports where either side
draws a line, and the recorded flows with their requests. Without --endpoints, whoever the selectors describe stands for endpoints.
Exit code 0: nothing changes, 1: something does, 2: it could not be told.

  shop/web -> shop/api 80/TCP: allowed -> denied
  shop/web -> shop/api 8080/TCP: redirected: +GET /new -GET /old`

const TEST_HELP = `
A file of expectations, whose paths are seen from the file; the exit code is 0 when all are met, 1 when not, 2 when it cannot be read:

  apiVersion: headgate.io/v1
  kind: PolicyTest
  policies: [policies]
  endpoints: workloads.yaml
  tests:
    - {from: shop/web, to: shop/api, port: 80/TCP, http: GET /products, verdict: allowed}
    - {from: shop/web, to: shop/dns, dns: api.example.com, verdict: allowed}
    - {from: shop/web, to: fqdn:api.example.com, answers: [192.0.2.7], cnames: [edge.example.net], port: 443/TCP, verdict: allowed}
    - {name: no way in, from: 8.8.8.8, to: shop/api, port: 80/TCP, verdict: denied}`

const COUNTS_HELP = `
Counted are HTTP requests, each by the process that judged it: exactly, whatever happens to flows. (no rule): allowed by a policy that
looks at no requests, or denied for the lack of a rule. AUDITED: what policies in audit would deny, among it requests that are denied
anyway. FAILED: refused because the extension host gave no verdict. The proxy's numbers begin with Envoy's start, those of the ext-host
with its own. A rule that no slot has any more may be missing; its requests stay in the totals.`

const DEFAULT_WAIT_MS = 30_000

interface ApplyOptions {
  readonly output: OutputFormat
  readonly file: readonly string[]
  readonly name?: string
  readonly dialect?: Dialect
  readonly wait: boolean
  readonly timeout: number
}

interface WaitOptions {
  readonly output: OutputFormat
  readonly timeout: number
}

interface DeleteOptions extends WaitOptions {
  readonly wait: boolean
  readonly dialect?: Dialect
}

export function define(command: Command): void {
  command.addHelpText('after', HELP)
  const child = (name: string, summary: string) => command.command(name).description(summary)
  const waitable = (target: Command) =>
    addOutputOption(addConfigOptions(target)).addOption(
      new Option('--timeout <duration>', 'how long to wait').argParser(parseDurationMs).default(DEFAULT_WAIT_MS, '30s'),
    )

  const reading = (name: string, summary: string) =>
    addDialectOption(addConfigOptions(child(name, `${summary}; needs no agent and no root`)))
  reading('validate', 'check policy files, each and all together')
    .argument('<path...>', 'files, folders of policy files, or - for standard input')
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json', 'sarif']).default('text'))
    .option('--endpoints <file>', 'workloads file: labels and namespaces that nobody has are told of')
    .addHelpText('after', VALIDATE_HELP)
    .action(async (names: string[], options: ValidateOptions, self: Command) => {
      const config = await configOf(self)
      const { runValidate } = await import('./policy-validate.ts')
      await runValidate(names, options, config)
    })
  addOutputOption(reading('trace', 'verdict on one flow and why, from files alone'))
    .option('--policy <path>', 'policy file, or folder of policy files; may be repeated', collect)
    .option('--endpoints <file>', 'workloads file: endpoints, namespaces, nodes, cluster')
    .option('--secrets <folder>', SECRETS_OPTION)
    .option('--live', 'ask about what the agent has in force, instead of files; needs an agent')
    .option('--from <who>', 'endpoint (namespace/name), labels (k8s:app=web,…), address, fqdn:name, node/name, or reserved:entity')
    .option('--to <who>', 'the same')
    .option('--answer <address>', 'what the DNS name that --to is was answered with; may be repeated', collect)
    .option('--cname <name>', 'what that name is an alias of, one after the other; may be repeated', collect)
    .option('--resolve', 'look both up, with the resolver of this machine')
    .option('--dns-server <who>', 'whom --from asks for that name (default: whom its policies let it ask)')
    .option('--port <port>', 'port of the receiver: 80/TCP, a port’s name, icmp/8, icmpv6/128, or a protocol like gre')
    .option('--http <request>', "a request, for example 'GET /path'")
    .option('--grpc <call>', "a gRPC call, for example 'package.Service/Method'")
    .option('--host <host>', 'its Host header')
    .option('--header <header>', "another header, 'Name: value'; may be repeated", collect)
    .option('--dns <name>', 'a DNS query for this name, to port 53/UDP unless --port says another')
    .option('--kafka <request>', "a Kafka request, for example 'produce TOPIC' or 'consume TOPIC'")
    .option('--cassandra <statement>', "a CQL statement, for example 'SELECT * FROM keyspace.table'")
    .option('--sni <name>', 'server name of the TLS connection')
    .option('--batch <file>', 'one JSON question a line (- for standard input), one JSON answer a line')
    .addHelpText('after', TRACE_HELP)
    .action(async (options: TraceOptions, self: Command) => {
      const config = await configOf(self)
      const { runTrace } = await import('./policy-trace.ts')
      await runTrace(options, config)
    })
  addOutputOption(reading('test', 'hold expectations about flows against policy files'))
    .argument('<file...>', 'files of kind PolicyTest')
    .option('--policy <path>', 'policy file or folder, instead of those that the file names; may be repeated', collect)
    .option('--endpoints <file>', 'workloads file, instead of the one that the file names')
    .option('--secrets <folder>', 'folder of secrets, instead of the one that the file names')
    .addHelpText('after', TEST_HELP)
    .action(async (files: string[], options: TestOptions, self: Command) => {
      const config = await configOf(self)
      const { runTests } = await import('./policy-test.ts')
      await runTests(files, options, config)
    })
  addOutputOption(reading('diff', 'flows whose verdict changes from one set of policies to another'))
    .argument('<old>', 'policy file or folder')
    .argument('<new>', 'policy file or folder')
    .option('--endpoints <file>', 'workloads file: endpoints, namespaces, nodes, cluster')
    .option('--secrets <folder>', SECRETS_OPTION)
    .option('--flows <file>', 'recorded flows, as headgate observe -o json prints them; - for standard input')
    .addOption(new Option('--limit <count>', 'how many changes to print').argParser(parseCount).default(200))
    .addHelpText('after', DIFF_HELP)
    .action(async (before: string, after: string, options: DiffOptions, self: Command) => {
      const config = await configOf(self)
      const { runDiff } = await import('./policy-diff.ts')
      await runDiff([before, after], options, config)
    })
  addOutputOption(addConfigOptions(child('list', 'documents that the agent knows, in force or refused'))).action(
    (options: { output: OutputFormat }, self: Command) => list(self, options.output),
  )
  addOutputOption(addConfigOptions(child('get', 'one document: where it stands, whom it selects, what is wrong with it')))
    .argument('<name>', 'namespace/name of the policy, or name of its file')
    .action((name: string, options: { output: OutputFormat }, self: Command) => get(self, name, options.output))
  addOutputOption(addConfigOptions(child('counts', 'requests that each rule allowed and denied, as those who judged them count them')))
    .addHelpText('after', COUNTS_HELP)
    .action(async (options: { output: OutputFormat }, self: Command) => {
      const { runCounts } = await import('./counts.ts')
      await withClient(await configOf(self), (agent) => runCounts(agent, options.output))
    })
  addDialectOption(waitable(child('apply', 'validate policy files and put them in force')))
    .requiredOption('-f, --file <file>', 'file, or - for standard input; may be repeated', collect)
    .option('--name <file>', 'name of the file in the policy folder; for one file only')
    .option('--no-wait', 'return when the file is written')
    .addHelpText('after', APPLY_HELP)
    .action((options: ApplyOptions, self: Command) => apply(self, options))
  addDialectOption(waitable(child('delete', 'remove a policy file')))
    .argument('<name...>', 'names of files in the policy folder, or namespace/name of the only policy in its file')
    .option('--no-wait', 'return when the file is removed')
    .action((names: string[], options: DeleteOptions, self: Command) => remove(self, names, options))
  waitable(child('wait', 'return when every accepted policy is in the kernel and acknowledged by Envoy')).action(
    (options: WaitOptions, self: Command) => wait(self, options),
  )
}

async function apply(command: Command, options: ApplyOptions): Promise<void> {
  if (options.name !== undefined && options.file.length > 1) throw new CliError('HG-1108', '--name goes with one file only')
  const config = await configOf(command)
  const { assertValid, checkFile, targetName, writePolicyFile } = await import('./policy-files.ts')
  const checked: { target: string; file: CheckedFile }[] = []
  for (const name of options.file) {
    const file = await checkFile(name, parseOptions(config, options.dialect))
    checked.push({ target: options.name ?? targetName(file), file })
  }
  assertValid(checked.map(({ file }) => file))
  const targets = checked.map(({ target }) => target)
  const twice = targets.find((target, index) => targets.indexOf(target) !== index)
  if (twice !== undefined) throw new CliError('HG-1108', `two files would be written to ${twice}; apply them one by one with --name`)

  const write = () => {
    for (const { target, file } of checked) writePolicyFile(config.paths.policies, target, file.text)
  }
  if (!options.wait) {
    write()
    report(options.output, { files: targets, waited: false }, () => targets.map((target) => `${target}: written`))
    return
  }
  // Asking for the agent first: without one, nothing is changed.
  await withClient(config, async (agent) => {
    write()
    const { revision } = await waitInForce(agent, options.timeout)
    const documents = (await listDocuments(agent)).documents.filter((document) => targets.includes(document.file))
    const refused = documents.filter((document) => document.state !== 'in-force')
    if (refused.length > 0) {
      throw new CliError('HG-1103', `the agent refused ${[...new Set(refused.map(({ file }) => file))].join(', ')}`, {
        details: refused.flatMap(describeProblems),
      })
    }
    report(options.output, { files: targets, waited: true, revision: Number(revision) }, () =>
      targets.map((target) => `${target}: in force, revision ${revision}`),
    )
  })
}

async function remove(command: Command, names: readonly string[], options: DeleteOptions): Promise<void> {
  const config = await configOf(command)
  const { findPolicyFile, removePolicyFile } = await import('./policy-files.ts')
  const targets: string[] = []
  for (const name of names) targets.push(await findPolicyFile(config.paths.policies, name, parseOptions(config, options.dialect)))
  const removeAll = () => {
    for (const target of targets) removePolicyFile(config.paths.policies, target)
  }
  if (!options.wait) {
    removeAll()
    report(options.output, { files: targets, waited: false }, () => targets.map((target) => `${target}: removed`))
    return
  }
  await withClient(config, async (agent) => {
    removeAll()
    const { revision } = await waitInForce(agent, options.timeout)
    report(options.output, { files: targets, waited: true, revision: Number(revision) }, () =>
      targets.map((target) => `${target}: removed, revision ${revision}`),
    )
  })
}

async function wait(command: Command, options: WaitOptions): Promise<void> {
  const config = await configOf(command)
  const deadline = performance.now() + options.timeout
  await withClient(
    config,
    async (agent) => {
      const { revision } = await waitInForce(agent, Math.max(1, deadline - performance.now()))
      report(options.output, { revision: Number(revision) }, () => [`in force: revision ${revision}`])
    },
    options.timeout,
  )
}

async function list(command: Command, format: OutputFormat): Promise<void> {
  const { ListPoliciesResponseSchema, messageJson } = await import('./agent-client.ts')
  const response = await withClient(await configOf(command), listDocuments)
  if (format === 'json') {
    printJson(messageJson(ListPoliciesResponseSchema, response))
    return
  }
  const rows = response.documents.map((document) => [
    documentName(document),
    document.kind,
    document.file,
    document.state,
    String(document.endpointCount),
    firstProblem(document),
  ])
  print(formatTable(['NAME', 'KIND', 'FILE', 'STATE', 'ENDPOINTS', 'PROBLEM'], rows))
}

async function get(command: Command, name: string, format: OutputFormat): Promise<void> {
  const { messageJson, PolicyDocumentSchema } = await import('./agent-client.ts')
  const { documents } = await withClient(await configOf(command), listDocuments)
  const found = documents.filter((document) => documentName(document) === name || document.file === name)
  if (found.length === 0) throw new CliError('HG-1107', `there is no policy ${name}`)
  if (format === 'json') {
    printJson(found.map((document) => messageJson(PolicyDocumentSchema, document)))
    return
  }
  for (const document of found) {
    print(`${document.kind} ${documentName(document)}`)
    print(`file:       ${document.file}`)
    print(`state:      ${document.state}`)
    print(`endpoints:  ${document.endpointCount}`)
    for (const line of describeProblems(document)) print(line)
  }
}

async function withClient<T>(config: Config, use: (agent: AgentClient) => Promise<T>, waitMs = 0): Promise<T> {
  const { withAgent } = await import('./agent-client.ts')
  return withAgent(config, use, { waitMs })
}

async function listDocuments(agent: AgentClient) {
  const { call, create, ListPoliciesRequestSchema } = await import('./agent-client.ts')
  return call(agent, 'listPolicies', create(ListPoliciesRequestSchema))
}

async function waitInForce(agent: AgentClient, timeoutMs: number) {
  const { call, create, WaitPolicyRequestSchema } = await import('./agent-client.ts')
  const response = await call(agent, 'waitPolicy', create(WaitPolicyRequestSchema, { rescan: true }), timeoutMs).catch((error) =>
    withWarnings(agent, error),
  )
  if (response.refused.length > 0) {
    const details = response.refused.map(({ slotId, rule, reason }) => `slot ${slotId} ${rule || 'whole'}: ${reason}`)
    throw new CliError('HG-1103', `Envoy refused ${response.refused.length} rules; what they would allow is denied`, {
      details,
    })
  }
  return response
}

/** The worst comes first. */
function firstProblem({ problems }: PolicyDocument): string {
  const problem = problems.find(({ severity }) => severity === 'error') ?? problems[0]
  return problem === undefined
    ? ''
    : `${problem.severity}: ${problem.message}${problems.length > 1 ? ` (and ${problems.length - 1} more)` : ''}`
}

function describeProblems(document: PolicyDocument): string[] {
  return document.problems.map(
    ({ severity, file, line, column, path, message, hint }) =>
      `${file}:${line}:${column}: ${severity}: ${path === '' ? '' : `${path}: `}${message}${hint === '' ? '' : `; ${hint}`}`,
  )
}

function report(format: OutputFormat, value: unknown, lines: () => readonly string[]): void {
  if (format === 'json') printJson(value)
  else for (const line of lines()) print(line)
}

/** What did not come in time is said with what the agent has to say: most often a process that is not there. */
async function withWarnings(agent: AgentClient, error: unknown): Promise<never> {
  if (!(error instanceof CliError) || error.code !== 'HG-1104') throw error
  const { call, create, GetStatusRequestSchema } = await import('./agent-client.ts')
  const { warnings, processes } = await call(agent, 'getStatus', create(GetStatusRequestSchema))
  const behind = processes
    .filter(({ connected, revision, appliedRevision }) => connected && appliedRevision < revision)
    .map(({ name, revision, appliedRevision }) => `${name} has revision ${appliedRevision} in force, not ${revision}`)
  throw new CliError(error.code, `not in force in time: ${error.message}`, { details: [...behind, ...warnings] })
}

/** `headgate policy trace`: the verdict on one flow from files alone, or on many, one JSON question a line. */
import { open } from 'node:fs/promises'
import type { Config } from '#config/schema.ts'
import type { Dialect } from '#policy/model.ts'
import { nameProblem } from '#policy/trace/names.ts'
import { answerQuestion, type NameField, parseGrpcCall, parseRequestLine, type Question, QuestionError } from '#policy/trace/question.ts'
import type { Scene } from '#policy/trace/scene.ts'
import type { TraceAnswer } from '#policy/trace/trace-name.ts'
import { CliError, EXIT_CODES } from './errors.ts'
import { readLines } from './lines.ts'
import type { OutputFormat } from './options.ts'
import { print, printJson, sanitize } from './output.ts'
import { STANDARD_INPUT } from './policy-files.ts'
import { knownLines, knownOf } from './policy-known.ts'
import { answerLines, createScene } from './policy-scene.ts'
import type { ResolvedName } from './resolve-name.ts'

export interface TraceOptions {
  readonly output: OutputFormat
  readonly policy?: readonly string[]
  readonly endpoints?: string
  readonly secrets?: string
  readonly from?: string
  readonly to?: string
  readonly answer?: readonly string[]
  readonly cname?: readonly string[]
  readonly resolve?: boolean
  readonly dnsServer?: string
  readonly port?: string
  readonly http?: string
  readonly grpc?: string
  readonly host?: string
  readonly header?: readonly string[]
  readonly dns?: string
  readonly kafka?: string
  readonly cassandra?: string
  readonly sni?: string
  readonly batch?: string
  readonly live?: boolean
  readonly dialect?: Dialect
}

const BATCH_LINE_LENGTH_MAX = 1 << 20
/** Options for what a question says of a name. */
const OPTIONS_OF: Readonly<Record<NameField, string>> = { answers: '--answer', cnames: '--cname', dnsServer: '--dns-server' }

export async function runTrace(options: TraceOptions, config: Config): Promise<void> {
  const scene = await sceneFor(options, config)
  if (options.batch !== undefined) {
    await answerBatch(scene, options.batch)
    return
  }
  const question = questionOf(options)
  const answer = answerOrFail(scene, options.resolve === true ? { ...question, ...(await resolve(scene, options)) } : question)
  const known = options.live === true && answer.query !== undefined ? await knownOf(answer.query.names[0] ?? '', config) : {}
  if (options.output === 'json') printJson({ ...answer, ...known })
  else for (const line of [...knownLines(known), ...answerLines(answer)]) print(sanitize(line))
  process.exitCode = answer.verdict === 'allowed' ? EXIT_CODES.OK : EXIT_CODES.FAILED
}

async function sceneFor({ live = false, policy = [], endpoints, secrets, dialect }: TraceOptions, config: Config): Promise<Scene> {
  if (!live) {
    if (policy.length === 0) throw new CliError('HG-1108', '--policy is needed, or --live')
    return createScene({ policies: policy, endpoints, secrets, config, dialect })
  }
  if (policy.length > 0 || endpoints !== undefined || dialect !== undefined)
    throw new CliError('HG-1108', '--live asks about what the agent has: --policy, --endpoints and --dialect do not go with it')
  const { createLiveScene } = await import('./policy-live.ts')
  return createLiveScene(config, secrets)
}

function questionOf(options: TraceOptions): Partial<Question> {
  const { from, to, answer: answers, cname: cnames, dnsServer, port, dns, kafka, cassandra, sni } = options
  if (from === undefined || to === undefined || (port === undefined && dns === undefined))
    throw new CliError('HG-1108', '--from, --to and --port are needed, or --batch')
  const http = httpOf(options)
  const said = { answers, cnames, dnsServer, port, http, dns, kafka, cassandra, sni }
  return { from, to, ...Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined)) }
}

/** @throws CliError HG-1108 where no name is asked about, HG-1113 */
async function resolve(scene: Scene, { to = '', answer, cname }: TraceOptions): Promise<ResolvedName> {
  if (answer !== undefined || cname !== undefined)
    throw new CliError('HG-1108', '--resolve finds addresses and aliases itself: --answer and --cname do not go with it')
  const name = scene.nameOf(to)
  if (name === undefined) throw new CliError('HG-1108', `--resolve: goes with a DNS name (fqdn:api.example.com), not with ${to}`)
  const problem = nameProblem(name)
  if (problem !== undefined) throw new CliError('HG-1108', problem)
  const { resolveName } = await import('./resolve-name.ts')
  return resolveName(name)
}

/** @throws CliError HG-1108 for a question that cannot be meant */
function answerOrFail(scene: Scene, question: unknown): TraceAnswer {
  try {
    return answerQuestion(scene, question)
  } catch (error) {
    if (error instanceof QuestionError)
      throw new CliError('HG-1108', error.field === undefined ? error.problem : `${OPTIONS_OF[error.field]}: ${error.problem}`)
    throw error
  }
}

function httpOf({ http, grpc, host, header = [] }: TraceOptions): Question['http'] {
  if (http === undefined && grpc === undefined) {
    if (host !== undefined || header.length > 0)
      throw new CliError('HG-1108', '--host and --header say more about --http or --grpc, which are not there')
    return undefined
  }
  if (http !== undefined && grpc !== undefined) throw new CliError('HG-1108', 'a question is about one request, not about http and grpc')
  const request = grpc === undefined ? parseRequestLine(http ?? '') : parseGrpcCall(grpc)
  if (request === undefined)
    throw new CliError(
      'HG-1108',
      grpc === undefined ? `expected 'METHOD /path', not ${http}` : `expected package.Service/Method, not ${grpc}`,
    )
  const headers = new Map<string, string[]>()
  for (const text of header) {
    const colon = text.indexOf(':')
    if (colon < 1) throw new CliError('HG-1108', `expected 'Name: value', not ${text}`)
    const name = text.slice(0, colon).toLowerCase()
    headers.set(name, [...(headers.get(name) ?? []), text.slice(colon + 1).trim()])
  }
  return { ...request, ...(host === undefined ? {} : { host }), headers: { ...request.headers, ...Object.fromEntries(headers) } }
}

/** One answer a line, in the order of the questions; a question that cannot be answered gets its error. */
async function answerBatch(scene: Scene, file: string): Promise<void> {
  const handle = file === STANDARD_INPUT ? undefined : await openBatch(file)
  try {
    for await (const line of readLines(handle?.createReadStream() ?? process.stdin, BATCH_LINE_LENGTH_MAX)) {
      if (line?.trim() === '') continue
      process.stdout.write(`${JSON.stringify(answerLine(scene, line))}\n`)
    }
  } finally {
    await handle?.close()
  }
}

async function openBatch(file: string) {
  try {
    return await open(file)
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read ${file}`, { cause })
  }
}

function answerLine(scene: Scene, line: string | undefined): TraceAnswer | { readonly error: string } {
  const failed = (error: string) => {
    process.exitCode = EXIT_CODES.COULD_NOT_RUN
    return { error }
  }
  if (line === undefined) return failed('the line is too long')
  try {
    return answerQuestion(scene, JSON.parse(line))
  } catch (error) {
    if (error instanceof QuestionError) return failed(error.message)
    if (error instanceof SyntaxError) return failed('not JSON')
    throw error
  }
}

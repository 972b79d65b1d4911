/** Questions about flows as users write them, checked before anything is made of them. */
import { parseCassandraRequest } from '#parsers/cassandra/match.ts'
import { normalizeName } from '#parsers/dns/name-pattern.ts'
import type { HttpRequest } from '#parsers/http/match.ts'
import { normalizePath } from '#parsers/http/normalize.ts'
import { parseKafkaRequest } from '#parsers/kafka/match.ts'
import { isServerName, normalizeServerName } from '#parsers/tls/server-name.ts'
import type { TracedRequest } from './matchers.ts'
import { answerProblem, chainOf, countProblem, nameProblem } from './names.ts'
import { type Party, PartyError, type Scene } from './scene.ts'
import { trace } from './trace.ts'
import { type TraceAnswer, traceName } from './trace-name.ts'
import { parseTraffic, type TracedTraffic, TrafficError } from './traffic.ts'

export interface Question {
  /** See Scene.party. */
  readonly from: string
  readonly to: string
  /** Where `to` is a DNS name: addresses that it is answered with; absent: judged by its name alone. */
  readonly answers?: readonly string[]
  /** What the name is an alias of, one after the other: the answer's addresses belong to these as well. */
  readonly cnames?: readonly string[]
  /** Whom `from` asks for the name, as Scene.party; absent: whom policy lets it ask. */
  readonly dnsServer?: string
  /** Of the receiver: `80/TCP`, `53/UDP`, `80`, a port’s name, `icmp/8`, `icmpv6/128`, `gre`; of a DNS query 53/UDP when absent. */
  readonly port?: string
  /** One of the five at most. */
  readonly http?: QuestionRequest
  /** `package.Service/Method`: short for the HTTP request that this call is. */
  readonly grpc?: string
  /** The name that is asked for. */
  readonly dns?: string
  /** `produce TOPIC`, `consume TOPIC`, or the name of a request and what it names (parseKafkaRequest). */
  readonly kafka?: string
  /** A CQL statement. */
  readonly cassandra?: string
  /** Server name of the ClientHello. */
  readonly sni?: string
}

export interface QuestionRequest {
  readonly method?: string
  readonly path?: string
  readonly host?: string
  /** A list for a header that comes several times. */
  readonly headers?: Readonly<Record<string, string | readonly string[]>>
}

/** What can be said on a connection. */
export const REQUEST_FIELDS = ['http', 'grpc', 'dns', 'kafka', 'cassandra'] as const

/** It cannot be answered as it is. */
export class QuestionError extends Error {
  override readonly name = 'QuestionError'
  /** Of the question, where one of those about names is meant. */
  readonly field: NameField | undefined
  /** The message without the field. */
  readonly problem: string

  constructor(problem: string, field?: NameField) {
    super(field === undefined ? problem : `${field}: ${problem}`)
    this.field = field
    this.problem = problem
  }
}

/** What is said of a DNS name. */
export const NAME_FIELDS = ['answers', 'cnames', 'dnsServer'] as const
export type NameField = (typeof NAME_FIELDS)[number]

const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+)$/
const GRPC_CALL = /^\/?([\w.-]+\/[\w.-]+)$/
const TEXT_FIELDS = ['from', 'to', 'dnsServer', 'port', 'grpc', 'dns', 'kafka', 'cassandra', 'sni'] as const
const LIST_FIELDS = ['answers', 'cnames'] as const
const FIELDS: ReadonlySet<string> = new Set([...TEXT_FIELDS, ...LIST_FIELDS, 'http'])
const DNS_PORT = '53/UDP'

/** `METHOD target`, as the first words of a request line. @returns undefined when it is none */
export function parseRequestLine(text: string): QuestionRequest | undefined {
  const match = REQUEST_LINE.exec(text)
  return match === null ? undefined : { method: match[1] ?? '', path: match[2] ?? '' }
}

/** `package.Service/Method`, as the request that it is on the wire. @returns undefined when it is none */
export function parseGrpcCall(text: string): QuestionRequest | undefined {
  const match = GRPC_CALL.exec(text)
  return match === null ? undefined : { method: 'POST', path: `/${match[1]}`, headers: { 'content-type': 'application/grpc' } }
}

/** @param question from outside, of whatever shape @throws QuestionError */
export function answerQuestion(scene: Scene, question: unknown): TraceAnswer {
  const checked = checkedQuestion(question)
  const request = requestOf(checked)
  const serverName = checked.sni === undefined ? undefined : serverNameOf(checked.sni)
  scene.tidy()
  try {
    const from = scene.party(checked.from)
    const name = scene.nameOf(checked.to)
    if (name !== undefined) return answerName(scene, from, name, checked, { request, serverName })
    const stray = NAME_FIELDS.find((field) => checked[field] !== undefined)
    if (stray !== undefined) throw new QuestionError(`goes with a DNS name (fqdn:api.example.com), not with ${checked.to}`, stray)
    const to = scene.party(checked.to)
    const ports = to.namedPorts.length > 0 ? to.namedPorts : scene.namedPortsOf(to)
    return trace(scene, { from, to, traffic: { ...parseTraffic(checked.port ?? DNS_PORT, ports), request, serverName } })
  } catch (error) {
    if (error instanceof PartyError || error instanceof TrafficError) throw new QuestionError(error.message)
    throw error
  }
}

function answerName(
  scene: Scene,
  from: Party,
  name: string,
  { answers = [], cnames = [], dnsServer, port = DNS_PORT }: Question,
  { request, serverName }: Pick<TracedTraffic, 'request' | 'serverName'>,
): TraceAnswer {
  const problem = nameProblem(name)
  if (problem !== undefined) throw new QuestionError(problem)
  if (dnsServer !== undefined) assertParty(scene, dnsServer, 'dnsServer')
  const names = chainOf(name, cnames)
  const traffic = { ...parseTraffic(port, []), request: request && withHost(request, names[0]), serverName }
  return traceName(scene, { from, names, addresses: [...new Set(answers)], server: dnsServer, traffic })
}

function assertParty(scene: Scene, text: string, field: NameField): void {
  try {
    scene.party(text)
  } catch (error) {
    if (error instanceof PartyError) throw new QuestionError(error.message, field)
    throw error
  }
}

/** A request to a name is one for that host, unless it says which. */
function withHost(request: TracedRequest, name: string): TracedRequest {
  if (request.kind !== 'http' || request.request.authority !== '') return request
  return { ...request, request: { ...request.request, authority: name.slice(0, -1) } }
}

function checkedQuestion(question: unknown): Question {
  if (!isObject(question)) throw new QuestionError('a question is an object with from, to and port')
  for (const field of TEXT_FIELDS) {
    const isNeeded = field === 'from' || field === 'to' || (field === 'port' && question.dns === undefined)
    if (question[field] === undefined ? isNeeded : typeof question[field] !== 'string')
      throw new QuestionError(isNeeded ? `${field} is needed, a string` : `${field} is a string`)
  }
  for (const field of LIST_FIELDS) {
    const list = question[field]
    if (list !== undefined && !(Array.isArray(list) && list.every((item) => typeof item === 'string')))
      throw new QuestionError('a list of strings', field)
  }
  const unknown = Object.keys(question).find((field) => !FIELDS.has(field))
  if (unknown !== undefined) throw new QuestionError(`no such field: ${unknown}`)
  const { http } = question
  if (http !== undefined && !isRequest(http))
    throw new QuestionError('http: method, path and host are strings, headers an object of strings or lists of them')
  const requests = REQUEST_FIELDS.filter((field) => question[field] !== undefined)
  if (requests.length > 1) throw new QuestionError(`a question is about one request, not about ${requests.join(' and ')}`)
  const checked = question as unknown as Question
  const [first] = nameFieldProblems(checked)
  if (first !== undefined) throw new QuestionError(first.problem, first.field)
  return checked
}

/** What is wrong with what a question says of a name. @returns with the index in the list, where it is one item */
export function nameFieldProblems({ answers = [], cnames = [] }: Pick<Question, 'answers' | 'cnames'>): readonly NameFieldProblem[] {
  const problemsOf = (field: NameFieldProblem['field'], list: readonly string[], problemOf: (text: string) => string | undefined) =>
    list.flatMap((text, index): NameFieldProblem[] => {
      const problem = problemOf(text)
      return problem === undefined ? [] : [{ field, index, problem }]
    })
  const tooMany = countProblem(answers.length, cnames.length)
  return [
    ...problemsOf('answers', answers, answerProblem),
    ...problemsOf('cnames', cnames, nameProblem),
    ...(tooMany === undefined ? [] : [{ ...tooMany, index: undefined }]),
  ]
}

export interface NameFieldProblem {
  readonly field: (typeof LIST_FIELDS)[number]
  readonly index: number | undefined
  readonly problem: string
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isRequest(value: unknown): value is QuestionRequest {
  if (!isObject(value)) return false
  const { method = '', path = '', host = '', headers = {}, ...others } = value
  const isText = (text: unknown): boolean => typeof text === 'string'
  const isHeader = (text: unknown): boolean => isText(text) || (Array.isArray(text) && text.length > 0 && text.every(isText))
  return (
    [method, path, host].every(isText) && isObject(headers) && Object.values(headers).every(isHeader) && Object.keys(others).length === 0
  )
}

function requestOf({ http, grpc, dns, kafka, cassandra }: Question): TracedRequest | undefined {
  if (http !== undefined) return { kind: 'http', request: httpOf(http) }
  if (grpc !== undefined) {
    const request = parseGrpcCall(grpc)
    if (request === undefined) throw new QuestionError(`expected package.Service/Method, not ${grpc}`)
    return { kind: 'http', request: httpOf(request) }
  }
  if (dns !== undefined) {
    const problem = nameProblem(dns)
    if (problem !== undefined) throw new QuestionError(problem)
    return { kind: 'dns', name: normalizeName(dns) }
  }
  if (kafka !== undefined) {
    const request = parseKafkaRequest(kafka)
    if (request === undefined) throw new QuestionError(`expected 'produce TOPIC', 'consume TOPIC' or 'apiKey [topic…]', not ${kafka}`)
    return { kind: 'kafka', request }
  }
  return cassandra === undefined ? undefined : { kind: 'cassandra', request: parseCassandraRequest(cassandra) }
}

function serverNameOf(text: string): string {
  const name = normalizeServerName(text)
  if (!isServerName(name)) throw new QuestionError(`not a server name: ${text}`)
  return name
}

function httpOf({ method = 'GET', path = '/', host, headers = {} }: QuestionRequest): HttpRequest {
  if (method === 'CONNECT') throw new QuestionError('a CONNECT is not simulated: it has no path, so only rules without one are about it')
  const asked = normalizePath(path)
  // A client that follows the redirect asks for what it says, which has a form of its own.
  const normalized = asked.kind === 'redirect' ? { ...asked, ...normalizePath(asked.path) } : asked
  if (normalized.kind !== 'path') throw new QuestionError(`the proxy refuses a request for this path, whatever the rules are: ${path}`)
  const byName = new Map<string, string[]>()
  for (const [name, given] of Object.entries(headers)) {
    // On the wire, spaces around a value are no part of it.
    const values = [given].flat().map((value) => value.trim())
    byName.set(name.toLowerCase(), [...(byName.get(name.toLowerCase()) ?? []), ...values])
  }
  const authority = normalized.authority ?? host ?? byName.get('host')?.join() ?? ''
  if (authority.includes(','))
    throw new QuestionError(`the proxy refuses a request for more than one host, whatever the rules are: ${authority}`)
  return { method, path: normalized.path, authority, headers: byName }
}

/** Files of expectations: questions about flows with the verdict that their author expects, read with the place of every mistake. */
import { Cursor, type MapCursor } from '../cursor.ts'
import { type Position, type Problem, ProblemList } from '../problems.ts'
import { parseSource } from '../source.ts'
import {
  type NameField,
  nameFieldProblems,
  parseGrpcCall,
  parseRequestLine,
  type Question,
  type QuestionRequest,
  REQUEST_FIELDS,
} from './question.ts'

export interface Expectation {
  readonly at: Position
  readonly name: string
  readonly question: Question
  readonly verdict: 'allowed' | 'denied'
}

export interface ExpectationFile {
  /** Paths as they stand there. */
  readonly policies: readonly string[]
  readonly endpoints: string | undefined
  readonly secrets: string | undefined
  readonly expectations: readonly Expectation[]
  /** With errors the rest is not to be used. */
  readonly problems: readonly Problem[]
}

/** Never throws: whatever is wrong is a problem with its place. */
export function parseExpectations(text: string, file: string): ExpectationFile {
  const problems = new ProblemList()
  const source = parseSource(text, file, problems)
  const policies: string[] = []
  const expectations: Expectation[] = []
  let endpoints: string | undefined
  let secrets: string | undefined
  for (const value of source.documents) {
    const map = new Cursor({ source, problems }, value, '').map()
    if (map === undefined) continue
    const version = map.get('apiVersion')
    const kind = map.get('kind')
    if (version?.string() !== 'headgate.io/v1') (version ?? map).error('apiVersion is needed', 'apiVersion: headgate.io/v1')
    if (kind?.string() !== 'PolicyTest') (kind ?? map).error('kind is needed', 'kind: PolicyTest')
    policies.push(...(map.get('policies')?.list() ?? []).flatMap((item) => item.string() ?? []))
    endpoints = map.get('endpoints')?.string() ?? endpoints
    secrets = map.get('secrets')?.string() ?? secrets
    const tests = map.get('tests')
    if (tests === undefined) map.error('tests is needed, a list')
    expectations.push(...(tests?.list() ?? []).flatMap((item) => parseExpectation(item) ?? []))
    map.finish()
  }
  if (expectations.length === 0 && problems.errorCount === 0)
    problems.error({ file, line: 1, column: 1, path: '' }, 'the file expects nothing', 'give it tests')
  return { policies, endpoints, secrets, expectations, problems: problems.toArray() }
}

function parseExpectation(cursor: Cursor): Expectation | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const [from, to] = ['from', 'to'].map((field) => needed(map, field))
  const named = parseNameFields(map)
  const http = map.get('http')
  const request = http && parseRequest(http)
  const said: { grpc?: string; dns?: string; kafka?: string; cassandra?: string; sni?: string } = {}
  for (const field of ['grpc', 'dns', 'kafka', 'cassandra', 'sni'] as const) {
    const cursor = map.get(field)
    const text = cursor?.string()
    if (text === undefined) continue
    said[field] = text
    if (field === 'grpc' && parseGrpcCall(text) === undefined) cursor?.error(`not a call: ${text}`, 'for example package.Service/Method')
  }
  // A DNS query has a port of its own.
  const port = said.dns === undefined ? needed(map, 'port') : map.get('port')?.string()
  const name = map.get('name')?.string()
  const verdictCursor = map.get('verdict')
  const verdict = needed(map, 'verdict')
  map.finish()
  const requests = REQUEST_FIELDS.filter((field) => map.get(field) !== undefined)
  if (requests.length > 1) map.error(`a test is about one request, not about ${requests.join(' and ')}`, 'write a test for each')
  if (verdict !== undefined && verdict !== 'allowed' && verdict !== 'denied') {
    verdictCursor?.error(`not a verdict: ${verdict}`, 'allowed or denied')
    return undefined
  }
  if (from === undefined || to === undefined || (port === undefined && said.dns === undefined) || verdict === undefined) return undefined
  const question: Question = {
    from,
    to,
    ...named,
    ...(port !== undefined && { port }),
    ...(request !== undefined && { http: request }),
    ...said,
  }
  return { at: map.position, name: name ?? describeQuestion(question), question, verdict }
}

/** What is said of a DNS name. */
function parseNameFields(map: MapCursor): Pick<Question, NameField> {
  const cursors = { answers: map.get('answers'), cnames: map.get('cnames') }
  const items = { answers: cursors.answers?.list() ?? [], cnames: cursors.cnames?.list() ?? [] }
  const listOf = (field: keyof typeof items) =>
    cursors[field] === undefined ? {} : { [field]: items[field].flatMap((item) => item.string() ?? []) }
  const dnsServer = map.get('dnsServer')?.string()
  const named: Pick<Question, NameField> = { ...listOf('answers'), ...listOf('cnames'), ...(dnsServer !== undefined && { dnsServer }) }
  for (const { field, index, problem } of nameFieldProblems(named)) {
    const item = index === undefined ? undefined : items[field][index]
    ;(item ?? cursors[field])?.error(problem)
  }
  return named
}

function needed(map: MapCursor, field: string): string | undefined {
  const cursor = map.get(field)
  if (cursor === undefined) map.error(`${field} is needed`)
  return cursor?.string()
}

/** `GET /path`, or a map. */
function parseRequest(cursor: Cursor): QuestionRequest | undefined {
  if (cursor.value.kind === 'scalar') {
    const text = cursor.string()
    const request = text === undefined ? undefined : parseRequestLine(text)
    if (text !== undefined && request === undefined) cursor.error(`not a request: ${text}`, "for example 'GET /path'")
    return request
  }
  const map = cursor.map()
  if (map === undefined) return undefined
  const request: { method?: string; path?: string; host?: string; headers?: Record<string, readonly string[]> } = {}
  for (const field of ['method', 'path', 'host'] as const) {
    const value = map.get(field)?.string()
    if (value !== undefined) request[field] = value
  }
  const headers = map.get('headers')?.map()
  if (headers !== undefined) request.headers = Object.fromEntries([...headers.entries()].map(([name, value]) => [name, parseHeader(value)]))
  map.finish()
  return request
}

/** One value, or a list for a header that comes several times. */
function parseHeader(cursor: Cursor): readonly string[] {
  return (cursor.value.kind === 'list' ? (cursor.list() ?? []) : [cursor]).flatMap((item) => item.string() ?? [])
}

/** `shop/web -> shop/api 80/TCP GET /products`, `shop/web -> api.example.com (192.0.2.7) 443/TCP` */
export function describeQuestion({ from, to, answers = [], port, http, grpc, dns, kafka, cassandra, sni }: Question): string {
  const request = http === undefined ? '' : `${http.method ?? 'GET'} ${http.host ?? ''}${http.path ?? '/'}`
  const said = [request, grpc, dns, kafka, cassandra, sni === undefined ? '' : `to ${sni}`].filter(
    (text) => text !== undefined && text !== '',
  )
  const answered = answers.length === 0 ? '' : ` (${answers.join(', ')})`
  return [`${from} -> ${to}${answered}`, port ?? '53/UDP', ...said].join(' ')
}

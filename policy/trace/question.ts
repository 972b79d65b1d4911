/** Questions about flows as users write them, checked before anything is made of them. */
import type { HttpRequest } from '#parsers/http/match.ts'
import { normalizePath } from '#parsers/http/normalize.ts'
import type { TracedTraffic } from './explain.ts'
import { PartyError, type Scene } from './scene.ts'
import { type TraceAnswer, trace } from './trace.ts'

export interface Question {
  /** See Scene.party. */
  readonly from: string
  readonly to: string
  /** Of the receiver: `80/TCP`, `53/UDP`, `80`, or `icmp`. */
  readonly port: string
  readonly http?: QuestionRequest
}

export interface QuestionRequest {
  readonly method?: string
  readonly path?: string
  readonly host?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** It cannot be answered as it is. */
export class QuestionError extends Error {
  override readonly name = 'QuestionError'
}

const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+)$/
const FIELDS = new Set(['from', 'to', 'port', 'http'])
const PORT = /^(\d{1,5})(?:\/(TCP|UDP|SCTP))?$/i

/** `METHOD target`, as the first words of a request line. @returns undefined when it is none */
export function parseRequestLine(text: string): QuestionRequest | undefined {
  const match = REQUEST_LINE.exec(text)
  return match === null ? undefined : { method: match[1] ?? '', path: match[2] ?? '' }
}

/** @param question from outside, of whatever shape @throws QuestionError */
export function answerQuestion(scene: Scene, question: unknown): TraceAnswer {
  const { from, to, port, http } = checked(question)
  try {
    const traffic: TracedTraffic = { ...parsePort(port), http: http === undefined ? undefined : requestOf(http) }
    return trace(scene, { from: scene.party(from), to: scene.party(to), traffic })
  } catch (error) {
    if (error instanceof PartyError) throw new QuestionError(error.message)
    throw error
  }
}

function checked(question: unknown): Question {
  if (!isObject(question)) throw new QuestionError('a question is an object with from, to and port')
  for (const field of ['from', 'to', 'port']) {
    if (typeof question[field] !== 'string') throw new QuestionError(`${field} is needed, a string`)
  }
  const unknown = Object.keys(question).find((field) => !FIELDS.has(field))
  if (unknown !== undefined) throw new QuestionError(`no such field: ${unknown}`)
  const { http } = question
  if (http !== undefined && !isRequest(http))
    throw new QuestionError('http: method, path and host are strings, headers an object of strings')
  return question as unknown as Question
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isRequest(value: unknown): value is QuestionRequest {
  if (!isObject(value)) return false
  const { method = '', path = '', host = '', headers = {}, ...others } = value
  const isText = (text: unknown): boolean => typeof text === 'string'
  return [method, path, host].every(isText) && isObject(headers) && Object.values(headers).every(isText) && Object.keys(others).length === 0
}

function parsePort(text: string): Pick<TracedTraffic, 'protocol' | 'port'> {
  if (/^icmp$/i.test(text)) return { protocol: 'ICMP', port: 0 }
  const match = PORT.exec(text)
  const port = Number(match?.[1])
  if (match === null || port < 1 || port > 65535) throw new QuestionError(`expected 80/TCP, 53/UDP or icmp, not ${text}`)
  return { protocol: (match[2]?.toUpperCase() ?? 'TCP') as TracedTraffic['protocol'], port }
}

function requestOf({ method = 'GET', path = '/', host = '', headers = {} }: QuestionRequest): HttpRequest {
  const normalized = normalizePath(path)
  if (normalized.kind === 'refused') throw new QuestionError(`a request for this path reaches no rule, the proxy answers 400: ${path}`)
  const byName = new Map<string, string[]>()
  for (const [name, value] of Object.entries(headers)) byName.set(name.toLowerCase(), [...(byName.get(name.toLowerCase()) ?? []), value])
  return { method, path: normalized.path, authority: host, headers: byName }
}

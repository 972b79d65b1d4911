/**
 * Envoy's HTTP ext_proc: one stream a request, on which the headers come and the verdict goes. Envoy names the ruleset when it opens the
 * stream. What cannot be judged is failed, which Envoy is told to refuse.
 */
import type { HttpJudge } from '#parsers/http/judge.ts'
import { TUNNEL_METHOD } from '#parsers/http/match.ts'
import { RULESET_METADATA } from '../contract.ts'
import { GRPC_STATUS, type GrpcCall, type GrpcHandler, type GrpcMethod } from '../grpc/grpc-framing.ts'
import { MessageError } from '../grpc/protobuf-cursor.ts'
import type { VerdictCounter } from '../verdict-counter.ts'
import { type Answers, decodeRequestHeaders, encodeAllowed } from './processing.ts'

export const PROCESS_PATH = '/envoy.service.ext_proc.v3.ExternalProcessor/Process'

/** What an invalid byte becomes when text is read. */
const NO_TEXT = '\ufffd'
const NOT_JUDGED = { allowed: false, rule: '', edits: [], notes: [] } as const

/** A ruleset as requests are judged by it. */
export interface LoadedRuleset {
  readonly judge: HttpJudge
  /** Which parts of its target a request has to come with: those that rules ask for. */
  readonly needs: { readonly path: boolean; readonly host: boolean }
  readonly answers: Answers
}

export interface HttpServiceOptions {
  /** @returns undefined for a key that is not known */
  readonly rulesetOf: (key: string) => LoadedRuleset | undefined
  readonly counter?: VerdictCounter
}

export function httpService(options: HttpServiceOptions): GrpcMethod {
  return {
    path: PROCESS_PATH,
    open: (call) => new Processing(call, options),
  }
}

class Processing implements GrpcHandler {
  readonly #call: GrpcCall
  readonly #options: HttpServiceOptions
  #isJudged = false

  constructor(call: GrpcCall, options: HttpServiceOptions) {
    this.#call = call
    this.#options = options
  }

  onMessage(message: Buffer): void {
    const isFirst = !this.#isJudged
    this.#isJudged = true
    const key = this.#call.metadata(RULESET_METADATA)
    const ruleset = key !== undefined ? this.#options.rulesetOf(key) : undefined
    if (!isFirst) this.#call.fail(GRPC_STATUS.invalidArgument, 'a request has headers once')
    else if (ruleset === undefined) this.#call.fail(GRPC_STATUS.unavailable, 'no such ruleset')
    else this.#answer(ruleset, message)
  }

  #answer(ruleset: LoadedRuleset, message: Buffer): void {
    try {
      this.#call.send(answerTo(ruleset, message, this.#options.counter))
    } catch (error) {
      if (!(error instanceof MessageError)) throw error
      this.#call.fail(GRPC_STATUS.invalidArgument, error.message)
    }
  }
}

/** The verdict on the request in a message, framed. @throws MessageError when there is none in it */
export function answerTo({ judge, needs, answers }: LoadedRuleset, message: Buffer, counter?: VerdictCounter): Buffer {
  const request = decodeRequestHeaders(message)
  const lacksPath = needs.path && request.path === '' && request.method !== TUNNEL_METHOD
  if (lacksPath || (needs.host && request.authority === '')) throw new MessageError('a request without what rules ask for')
  // RE2 in Envoy would match no pattern with what is no text, and here that would be a character like another.
  const isText = !request.path.includes(NO_TEXT) && !request.authority.includes(NO_TEXT) && !request.method.includes(NO_TEXT)
  const { allowed, rule, edits, notes } = isText ? judge.judge(request) : NOT_JUDGED
  counter?.count(rule, allowed)
  if (!allowed) return answers.denied(rule)
  return notes.length === 0 ? answers.allowed(rule) : encodeAllowed(rule, edits, notes)
}

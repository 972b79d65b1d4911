/**
 * The part of envoy.service.ext_proc.v3 that judging a request's headers takes, on bytes: a few fields of two messages, read and written
 * by hand because this is done for every request. Field numbers are those of external_processor.proto and base.proto, which the tests
 * hold against the generated types.
 *
 *   ProcessingRequest   { request_headers = 2, response_headers = 3, request_body = 4, response_body = 5, request_trailers = 6,
 *                         response_trailers = 7, … }
 *   HttpHeaders         { headers = 1: HeaderMap { headers = 1: repeated HeaderValue }, end_of_stream = 3 }
 *   HeaderValue         { key = 1, value = 2, raw_value = 3 }
 *   ProcessingResponse  { request_headers = 1: HeadersResponse { response = 1: CommonResponse { header_mutation = 2 } },
 *                         immediate_response = 7, dynamic_metadata = 8: Struct }
 *   HeaderMutation      { set_headers = 1: repeated HeaderValueOption { header = 1, append = 2: BoolValue { value = 1 }, append_action = 3 }, remove_headers = 2 }
 *   ImmediateResponse   { status = 1: HttpStatus { code = 1 }, grpc_status = 4: GrpcStatus { status = 1 }, details = 5 }
 *   Struct              { fields = 1: map<string, Value { string_value = 3, struct_value = 5 }> }
 */
import type { HeaderEdit, HeaderNote } from '#parsers/http/judge.ts'
import type { HttpRequest } from '#parsers/http/match.ts'
import { DENIED_DETAILS, DENIED_STATUS, METADATA_FIELDS, METADATA_NAMESPACE, RESULT_ALLOWED, RESULT_DENIED } from '../contract.ts'
import { frameMessage } from '../grpc/grpc-framing.ts'
import { LENGTH_DELIMITED, MessageError, ProtobufCursor, VARINT } from '../grpc/protobuf-cursor.ts'

/** Envoy takes 100 unless it is told otherwise. */
export const HEADERS_COUNT_MAX = 1024

const PERMISSION_DENIED = 7
const OVERWRITE_IF_EXISTS_OR_ADD = 2

const REQUEST_HEADERS = 2
const LAST_PHASE = 7

const NO_HEADERS: ReadonlyMap<string, readonly string[]> = new Map()

/** Reads a ProcessingRequest that has to be about a request's headers. @throws MessageError for anything else */
export function decodeRequestHeaders(message: Buffer): HttpRequest {
  const cursor = new ProtobufCursor(message)
  let headers: HttpRequest | undefined
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    const field = tag >>> 3
    if (field === REQUEST_HEADERS) {
      if (headers !== undefined) throw new MessageError('headers come twice')
      headers = cursor.message(tag, decodeHttpHeaders)
    } else if (field > REQUEST_HEADERS && field <= LAST_PHASE) {
      throw new MessageError('only headers of requests are judged')
    } else cursor.skip(tag)
  }
  if (headers === undefined) throw new MessageError('nothing to judge')
  return headers
}

function decodeHttpHeaders(cursor: ProtobufCursor): HttpRequest {
  let request: HttpRequest | undefined
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    if (tag >>> 3 !== 1) {
      cursor.skip(tag)
      continue
    }
    if (request !== undefined) throw new MessageError('headers come twice')
    request = cursor.message(tag, decodeHeaderMap)
  }
  if (request === undefined) throw new MessageError('a request without headers')
  return request
}

function decodeHeaderMap(cursor: ProtobufCursor): HttpRequest {
  let method: string | undefined
  let path: string | undefined
  let authority: string | undefined
  let others: Map<string, string[]> | undefined
  let count = 0
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    if (tag >>> 3 !== 1) {
      cursor.skip(tag)
      continue
    }
    count += 1
    if (count > HEADERS_COUNT_MAX) throw new MessageError(`a request may have ${HEADERS_COUNT_MAX} headers`)
    cursor.message(tag, decodeHeaderValue)
    const { key, value } = decoded
    switch (key) {
      case ':method':
        if (method !== undefined) throw new MessageError('two methods')
        method = value
        break
      case ':path':
        if (path !== undefined) throw new MessageError('two paths')
        path = value
        break
      case ':authority':
        if (authority !== undefined) throw new MessageError('two authorities')
        authority = value
        break
      default: {
        others ??= new Map()
        const values = others.get(key)
        if (values === undefined) others.set(key, [value])
        else values.push(value)
      }
    }
  }
  if (method === undefined) throw new MessageError('a request without method')
  // Envoy sends what the rules ask for; a CONNECT has no path in any case.
  return { method, path: path ?? '', authority: authority ?? '', headers: others ?? NO_HEADERS }
}

/** Of the header that was read last: an object a header is more than this needs. */
const decoded = { key: '', value: '' }

function decodeHeaderValue(cursor: ProtobufCursor): void {
  decoded.key = ''
  decoded.value = ''
  let isRaw = false
  while (cursor.at < cursor.end) {
    const tag = cursor.varint()
    const field = tag >>> 3
    if (field === 1) decoded.key = cursor.text(tag)
    else if (field === 3) {
      decoded.value = cursor.text(tag)
      isRaw = true
    } else if (field === 2) {
      const value = cursor.text(tag)
      if (!isRaw) decoded.value = value
    } else cursor.skip(tag)
  }
}

/** Answers to one ruleset's requests, framed. What can be said of a request without edits is made once for each rule. */
export class Answers {
  readonly #allowed = new Map<string, Buffer>()
  readonly #denied = new Map<string, Buffer>()

  /** @param rule empty, or the name of a rule of the ruleset */
  allowed(rule: string): Buffer {
    return remembered(this.#allowed, rule, () => encodeAllowed(rule, [], []))
  }

  denied(rule: string): Buffer {
    return remembered(this.#denied, rule, () => encodeDenied(rule))
  }
}

function remembered(answers: Map<string, Buffer>, rule: string, make: () => Buffer): Buffer {
  let answer = answers.get(rule)
  if (answer === undefined) {
    answer = make()
    answers.set(rule, answer)
  }
  return answer
}

/** Lets the request pass, changed. */
export function encodeAllowed(rule: string, edits: readonly HeaderEdit[], notes: readonly HeaderNote[]): Buffer {
  const mutation = edits.length === 0 ? EMPTY : field(1, field(2, Buffer.concat(edits.map(encodeEdit))))
  return frameMessage(Buffer.concat([field(1, mutation), encodeMetadata(RESULT_ALLOWED, rule, notes)]))
}

/** Answers the request; who asked gets what the listener makes of it. */
export function encodeDenied(rule: string): Buffer {
  const status = field(1, number(1, DENIED_STATUS))
  const grpcStatus = field(4, number(1, PERMISSION_DENIED))
  const immediate = field(7, Buffer.concat([status, grpcStatus, text(5, DENIED_DETAILS)]))
  return frameMessage(Buffer.concat([immediate, encodeMetadata(RESULT_DENIED, rule, [])]))
}

function encodeEdit(edit: HeaderEdit): Buffer {
  if (edit.kind === 'remove') return text(2, edit.name)
  const header = Buffer.concat([text(1, edit.name), text(3, edit.value)])
  // To append is the zero of append_action, for which Envoy's ext_proc looks at the older field instead, whose absence is false.
  return field(1, Buffer.concat([field(1, header), edit.kind === 'set' ? number(3, OVERWRITE_IF_EXISTS_OR_ADD) : APPEND]))
}

function encodeMetadata(result: string, rule: string, notes: readonly HeaderNote[]): Buffer {
  const values: [string, Buffer][] = [
    [METADATA_FIELDS.result, text(3, result)],
    [METADATA_FIELDS.rule, text(3, rule)],
  ]
  if (notes.length > 0)
    values.push([METADATA_FIELDS.headers, field(5, encodeStruct(notes.map(({ name, action }) => [name, text(3, action)])))])
  return field(8, encodeStruct([[METADATA_NAMESPACE, field(5, encodeStruct(values))]]))
}

/** @param values each a Value */
function encodeStruct(values: readonly (readonly [string, Buffer])[]): Buffer {
  return Buffer.concat(values.map(([key, value]) => field(1, Buffer.concat([text(1, key), field(2, value)]))))
}

const EMPTY = Buffer.alloc(0)
const APPEND = field(2, number(1, 1))

function field(id: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([varint((id << 3) | LENGTH_DELIMITED), varint(bytes.length), bytes])
}

/** Written although it may be empty: in a Value that makes the difference. */
function text(id: number, value: string): Buffer {
  return field(id, Buffer.from(value))
}

function number(id: number, value: number): Buffer {
  return Buffer.concat([varint((id << 3) | VARINT), varint(value)])
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest])
    bytes.push((rest & 0x7f) | 0x80)
  }
}

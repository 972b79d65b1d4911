/**
 * What a client is told when its request is denied: the node's status and body, in the form that the client reads. Envoy lets one
 * place rewrite its own answers, so all that is denied looks alike, whichever filter said so, and nothing of the reason gets out.
 *
 * The body is never part of a format string: it stands beside one that only repeats it, so that a `%` in it is just a character.
 */
import { STATUS_CODES } from 'node:http'
import { create } from '@bufbuild/protobuf'
import {
  type AccessLogFilter,
  AccessLogFilterSchema,
  AndFilterSchema,
  ComparisonFilter_Op,
  ComparisonFilterSchema,
} from '#api/gen/envoy/config/accesslog/v3/accesslog_pb.js'
import {
  DataSourceSchema,
  type HeaderValueOption,
  HeaderValueOption_HeaderAppendAction,
  HeaderValueOptionSchema,
  HeaderValueSchema,
  RuntimeUInt32Schema,
} from '#api/gen/envoy/config/core/v3/base_pb.js'
import { SubstitutionFormatStringSchema } from '#api/gen/envoy/config/core/v3/substitution_format_string_pb.js'
import { HeaderMatcherSchema } from '#api/gen/envoy/config/route/v3/route_components_pb.js'
import {
  type LocalReplyConfig,
  LocalReplyConfigSchema,
  type ResponseMapper,
  ResponseMapperSchema,
} from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import { RegexMatcherSchema } from '#api/gen/envoy/type/matcher/v3/regex_pb.js'
import { type StringMatcher, StringMatcherSchema } from '#api/gen/envoy/type/matcher/v3/string_pb.js'

export interface DeniedAnswer {
  /** HTTP status, 400 to 599. */
  readonly status: number
  readonly body: string
}

/** What the filters that judge answer with, and nothing else does. */
const DENIED_BY_FILTERS = 403
const OK = 200
const PERMISSION_DENIED = '7'
/** A message travels in a header, each byte of it as three at worst, and clients take 8 KiB of headers. */
const GRPC_MESSAGE_BYTES_MAX = 1024

/** An `Accept` that asks for JSON in any of its forms. Envoy's patterns match the whole value, and case does not matter. */
const ACCEPTS_JSON = acceptPattern()

/** Envoy takes the first mapper whose filter matches. */
export function deniedAnswers({ status, body }: DeniedAnswer): LocalReplyConfig {
  const text = body.toWellFormed()
  const message = truncateUtf8(text, GRPC_MESSAGE_BYTES_MAX)
  const trailers = webTrailers(message)
  const title = STATUS_CODES[status]
  // RFC 9457: the title of this type is the status's own, and may be left out where that has none.
  const problem = { type: 'about:blank', ...(title === undefined ? {} : { title }), status, detail: text }
  return create(LocalReplyConfigSchema, {
    mappers: [
      // gRPC-Web is no gRPC to Envoy: it would get the HTTP status, which its clients read as whatever is nearest.
      mapper(denied(contentTypeFilter('application/grpc-web-text')), OK, trailers.toString('base64'), 'application/grpc-web-text'),
      mapper(denied(contentTypeFilter('application/grpc-web')), OK, trailers, 'application/grpc-web'),
      // Envoy itself makes an answer of trailers only of it, with the body as the message, and the grpc-status out of the status.
      create(ResponseMapperSchema, {
        filter: denied(contentTypeFilter('application/grpc')),
        body: dataOf(message),
        headersToAdd: [setHeader('grpc-status', PERMISSION_DENIED)],
      }),
      mapper(denied(acceptFilter(ACCEPTS_JSON)), status, JSON.stringify(problem), 'application/problem+json'),
      mapper(denied(), status, text, 'text/plain; charset=utf-8'),
    ],
  })
}

function mapper(filter: AccessLogFilter, statusCode: number, body: string | Buffer, contentType: string): ResponseMapper {
  return create(ResponseMapperSchema, {
    filter,
    statusCode,
    body: dataOf(body),
    bodyFormatOverride: create(SubstitutionFormatStringSchema, {
      format: {
        case: 'textFormatSource',
        value: create(DataSourceSchema, { specifier: { case: 'inlineString', value: '%LOCAL_REPLY_BODY%' } }),
      },
      contentType,
    }),
    // Others than 403 are kept by caches of their own accord, and the next client may be allowed, or this one tomorrow.
    headersToAdd: [setHeader('cache-control', 'no-store')],
  })
}

/**
 * Matches replies of the proxy itself; those of servers are never rewritten. The rules' verdict cannot be asked for: Envoy writes it
 * down after the reply. Of its own accord it answers 403 only to an upgrade that it does not carry.
 */
function denied(...conditions: AccessLogFilter[]): AccessLogFilter {
  const value = create(RuntimeUInt32Schema, { defaultValue: DENIED_BY_FILTERS, runtimeKey: 'headgate.denied_status' })
  const comparison = create(ComparisonFilterSchema, { op: ComparisonFilter_Op.EQ, value })
  const status = create(AccessLogFilterSchema, { filterSpecifier: { case: 'statusCodeFilter', value: { comparison } } })
  if (conditions.length === 0) return status
  const filters = [status, ...conditions]
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'andFilter', value: create(AndFilterSchema, { filters }) } })
}

function contentTypeFilter(prefix: string): AccessLogFilter {
  return headerFilter('content-type', create(StringMatcherSchema, { matchPattern: { case: 'prefix', value: prefix }, ignoreCase: true }))
}

function acceptFilter(regex: string): AccessLogFilter {
  const value = create(RegexMatcherSchema, { regex })
  return headerFilter('accept', create(StringMatcherSchema, { matchPattern: { case: 'safeRegex', value } }))
}

function headerFilter(name: string, value: StringMatcher): AccessLogFilter {
  const header = create(HeaderMatcherSchema, { name, headerMatchSpecifier: { case: 'stringMatch', value } })
  return create(AccessLogFilterSchema, { filterSpecifier: { case: 'headerFilter', value: { header } } })
}

function setHeader(key: string, value: string): HeaderValueOption {
  return create(HeaderValueOptionSchema, {
    header: create(HeaderValueSchema, { key, value }),
    appendAction: HeaderValueOption_HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
  })
}

function dataOf(content: string | Buffer) {
  const inlineBytes = typeof content === 'string' ? Buffer.from(content) : content
  return create(DataSourceSchema, { specifier: { case: 'inlineBytes', value: inlineBytes } })
}

/** Trailers of gRPC-Web: a frame of the body. */
function webTrailers(message: string): Buffer {
  const text = `grpc-status:${PERMISSION_DENIED}\r\ngrpc-message:${percentEncode(message)}\r\n`
  const frame = Buffer.alloc(5 + text.length)
  frame.writeUInt8(0x80, 0)
  frame.writeUInt32BE(text.length, 1)
  frame.write(text, 5, 'latin1')
  return frame
}

/**
 * RFC 9110, 12.5.1: a list of media ranges with parameters, of which `q=0` says "not this". RE2 cannot look ahead, so the parameters
 * are spelled out as those that are not q and q with a digit that is not 0. Every listener holds it compiled: a comma in quotes is
 * taken for one of the list, and classes are ASCII, which is a third of the size.
 */
function acceptPattern(): string {
  const rest = '[ -+\\--:<-~]*'
  const parameter = `[a-pr-z0-9!#-+\\-.^_|~]${rest}|q[!#-+\\--:<>-~]${rest}|q=[0-9.]*[1-9][0-9.]*`
  return `(?i)(?:[ -~]*,)?[ \\t]*application/(?:[!-+\\-.0-:<-~]+\\+)?json[ \\t]*(?:;[ \\t]*(?:${parameter})?[ \\t]*)*(?:,[ -~]*)?`
}

/** The longest beginning within the limit that ends where a character ends. */
function truncateUtf8(text: string, bytesMax: number): string {
  const whole = Buffer.from(text)
  if (whole.length <= bytesMax) return text
  let end = bytesMax
  // What follows must not be the inside of a character.
  while (((whole[end] ?? 0) & 0xc0) === 0x80) end -= 1
  return whole.toString('utf8', 0, end)
}

/** As gRPC has it for grpc-message: what is not printable ASCII, and the percent sign. */
function percentEncode(text: string): string {
  let encoded = ''
  for (const byte of Buffer.from(text)) {
    encoded +=
      byte >= 0x20 && byte < 0x7f && byte !== 0x25 ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return encoded
}

import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import test from 'ava'
import fc from 'fast-check'
import { HeaderValueOption_HeaderAppendAction as AppendAction } from '#api/gen/envoy/config/core/v3/base_pb.js'
import {
  ProcessingRequestSchema,
  type ProcessingResponse,
  ProcessingResponseSchema,
} from '#api/gen/envoy/service/ext_proc/v3/external_processor_pb.js'
import { HttpJudge } from '#parsers/http/judge.ts'
import { METADATA_NAMESPACE } from '#proxy/ext-host/contract.ts'
import { PREFIX_LENGTH } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { MessageError } from '#proxy/ext-host/grpc/protobuf-cursor.ts'
import { answerTo } from '#proxy/ext-host/http/http-service.ts'
import { Answers, decodeRequestHeaders, encodeAllowed, encodeDenied, HEADERS_COUNT_MAX } from '#proxy/ext-host/http/processing.ts'

type Headers = readonly (readonly [string, string])[]

const TARGET: Headers = [
  [':method', 'GET'],
  [':path', '/a?b=c'],
  [':authority', 'shop.example:8080'],
]

function messageOf(request: { readonly case: string; readonly value: object }, more: object = {}): Buffer {
  const init = { request, ...more } as MessageInitShape<typeof ProcessingRequestSchema>
  return Buffer.from(toBinary(ProcessingRequestSchema, create(ProcessingRequestSchema, init)))
}

function headersOf(headers: Headers, isRaw = true): Buffer {
  const list = headers.map(([key, value]) => (isRaw ? { key, rawValue: Buffer.from(value) } : { key, value }))
  return messageOf({ case: 'requestHeaders', value: { headers: { headers: list }, endOfStream: true } })
}

function responseIn(frame: Buffer): ProcessingResponse {
  if (frame[0] !== 0 || frame.readUInt32BE(1) !== frame.length - PREFIX_LENGTH) throw new Error('not one frame')
  return fromBinary(ProcessingResponseSchema, frame.subarray(PREFIX_LENGTH))
}

test('headers are read as the generated code writes them', (t) => {
  for (const isRaw of [true, false]) {
    const request = decodeRequestHeaders(headersOf([...TARGET, ['x-a', '1'], ['x-b', ''], ['x-a', 'é']], isRaw))
    t.deepEqual(request, {
      method: 'GET',
      path: '/a?b=c',
      authority: 'shop.example:8080',
      headers: new Map([
        ['x-a', ['1', 'é']],
        ['x-b', ['']],
      ]),
    })
  }
})

test('what else Envoy tells is passed over', (t) => {
  const headers = TARGET.map(([key, value]) => ({ key, rawValue: Buffer.from(value) }))
  const message = messageOf(
    { case: 'requestHeaders', value: { headers: { headers } } },
    {
      metadataContext: { filterMetadata: { a: { b: 'c' } } },
      attributes: { 'envoy.filters.http.ext_proc': { x: 1.5 } },
      observabilityMode: true,
    },
  )
  t.is(decodeRequestHeaders(message).path, '/a?b=c')
  const unknown = Buffer.concat([Buffer.from([0xfd, 0x7f, 1, 2, 3, 4, 0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8]), message])
  t.is(decodeRequestHeaders(unknown).path, '/a?b=c')
})

test('any headers are read back', (t) => {
  const name = fc.stringMatching(/^[a-z][a-z-]{0,20}$/)
  fc.assert(
    fc.property(fc.array(fc.tuple(name, fc.string({ unit: 'grapheme' })), { maxLength: 30 }), (others) => {
      const { headers } = decodeRequestHeaders(headersOf([...others.slice(5), ...TARGET, ...others.slice(0, 5)]))
      const expected = new Map<string, string[]>()
      for (const [key, value] of [...others.slice(5), ...others.slice(0, 5)]) expected.set(key, [...(expected.get(key) ?? []), value])
      t.deepEqual(headers, expected)
    }),
  )
})

test('a request has a method, at most one target, and one set of headers', (t) => {
  for (const headers of [TARGET.slice(1), [...TARGET, TARGET[1]!], [...TARGET, TARGET[0]!], [...TARGET, TARGET[2]!]])
    t.throws(() => decodeRequestHeaders(headersOf(headers)), { instanceOf: MessageError })
  t.like(decodeRequestHeaders(headersOf([TARGET[0]!])), { path: '', authority: '' })
  t.throws(() => decodeRequestHeaders(Buffer.concat([headersOf(TARGET), headersOf(TARGET)])), { instanceOf: MessageError })
  const many = Array.from({ length: HEADERS_COUNT_MAX }, (): [string, string] => ['x-a', ''])
  t.throws(() => decodeRequestHeaders(headersOf([...TARGET, ...many])), { instanceOf: MessageError })
})

test('other phases have no place here', (t) => {
  for (const request of [
    { case: 'responseHeaders', value: {} },
    { case: 'requestBody', value: { body: Buffer.from('x') } },
    { case: 'responseBody', value: {} },
    { case: 'requestTrailers', value: {} },
    { case: 'responseTrailers', value: {} },
  ] as const)
    t.throws(() => decodeRequestHeaders(messageOf(request)), { instanceOf: MessageError, message: /only headers of requests/ })
  t.throws(() => decodeRequestHeaders(Buffer.alloc(0)), { instanceOf: MessageError })
})

test('whatever is cut or damaged is refused or read, and nothing else happens', (t) => {
  const whole = headersOf([...TARGET, ['x-a', 'some value']])
  const read = (bytes: Buffer) => {
    try {
      decodeRequestHeaders(bytes)
    } catch (error) {
      if (!(error instanceof MessageError)) throw error
    }
  }
  for (let length = 0; length < whole.length; length++)
    t.throws(() => decodeRequestHeaders(whole.subarray(0, length)), { instanceOf: MessageError })
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const damaged = Buffer.from(whole)
    damaged[bit >> 3]! ^= 1 << (bit & 7)
    read(damaged)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => read(Buffer.from(bytes))),
    { numRuns: 2000 },
  )
  // Lengths of four gigabytes and of more than a number holds.
  for (const length of [[0xff, 0xff, 0xff, 0xff, 0x0f], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Array(12).fill(0xff)])
    t.throws(() => decodeRequestHeaders(Buffer.from([0x12, ...length, ...whole])), { instanceOf: MessageError })
})

test('a request that passes is told with its rule', (t) => {
  const response = responseIn(new Answers().allowed('default/p/ingress/1'))
  t.is(response.response.case, 'requestHeaders')
  t.deepEqual(response.dynamicMetadata, { [METADATA_NAMESPACE]: { result: 'allowed', rule: 'default/p/ingress/1' } })
})

test('a denial is an answer, for clients of either kind', (t) => {
  const { response, dynamicMetadata } = responseIn(encodeDenied(''))
  if (response.case !== 'immediateResponse') return t.fail()
  const { status, grpcStatus, details, body } = response.value
  t.deepEqual([status?.code, grpcStatus?.status, details, body.length], [403, 7, 'headgate_denied', 0])
  t.deepEqual(dynamicMetadata, { [METADATA_NAMESPACE]: { result: 'denied', rule: '' } })
})

test('edits and notes are told as Envoy carries them out', (t) => {
  const frame = encodeAllowed(
    'r',
    [
      { kind: 'set', name: 'x-set', value: 'é' },
      { kind: 'add', name: 'x-add', value: '1' },
      { kind: 'remove', name: 'x-remove' },
    ],
    [
      { name: 'x-set', action: 'REPLACE' },
      { name: 'x-log', action: 'LOG' },
    ],
  )
  const { response, dynamicMetadata } = responseIn(frame)
  if (response.case !== 'requestHeaders') return t.fail()
  const mutation = response.value.response?.headerMutation
  t.deepEqual(
    mutation?.setHeaders.map(({ header, append, appendAction }) => [
      header?.key,
      Buffer.from(header?.rawValue ?? []).toString(),
      append,
      AppendAction[appendAction],
    ]),
    [
      ['x-set', 'é', undefined, 'OVERWRITE_IF_EXISTS_OR_ADD'],
      ['x-add', '1', true, 'APPEND_IF_EXISTS_OR_ADD'],
    ],
  )
  t.deepEqual(mutation?.removeHeaders, ['x-remove'])
  t.deepEqual(dynamicMetadata, {
    [METADATA_NAMESPACE]: { result: 'allowed', rule: 'r', headers: { 'x-set': 'REPLACE', 'x-log': 'LOG' } },
  })
})

test('a long value is told whole', (t) => {
  const value = 'v'.repeat(20_000)
  const { response } = responseIn(encodeAllowed('r', [{ kind: 'set', name: 'x-a', value }], []))
  if (response.case !== 'requestHeaders') return t.fail()
  t.is(Buffer.from(response.value.response?.headerMutation?.setHeaders[0]?.header?.rawValue ?? []).toString(), value)
})

test('a request that comes without what the rules ask for is not judged', (t) => {
  const judge = new HttpJudge({ allowAll: true, allow: [], deny: [] }, () => undefined)
  const judged = (needs: { path: boolean; host: boolean }, ...headers: [string, string][]) =>
    answerTo({ judge, needs, answers: new Answers() }, headersOf(headers)).length > 0
  const method: [string, string] = [':method', 'GET']
  t.true(judged({ path: false, host: false }, method))
  t.true(judged({ path: true, host: true }, method, [':path', '/'], [':authority', 'a']))
  t.true(judged({ path: true, host: false }, [':method', 'CONNECT']))
  t.throws(() => judged({ path: true, host: false }, method), { instanceOf: MessageError })
  t.throws(() => judged({ path: false, host: true }, method), { instanceOf: MessageError })
})

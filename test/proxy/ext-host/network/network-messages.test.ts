import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import test from 'ava'
import fc from 'fast-check'
import {
  ProcessingRequestSchema,
  ProcessingResponse_ConnectionStatus,
  ProcessingResponse_DataProcessedStatus,
  ProcessingResponseSchema,
} from '#api/gen/envoy/service/network_ext_proc/v3/network_external_processor_pb.js'
import { PREFIX_LENGTH } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { MessageError } from '#proxy/ext-host/grpc/protobuf-cursor.ts'
import { decodeStreamData, encodeClose, encodeStreamData } from '#proxy/ext-host/network/network-messages.ts'

const DIRECTIONS = fc.constantFrom('original' as const, 'reply' as const)
const SIZES = [0, 1, 127, 128, 16_383, 16_384, 300_000]

test('what Envoy sends is read as it was written', (t) => {
  fc.assert(
    fc.property(DIRECTIONS, fc.uint8Array({ maxLength: 300 }), fc.boolean(), (direction, data, endOfStream) => {
      const part = { data, endOfStream }
      const message = toBinary(
        ProcessingRequestSchema,
        create(ProcessingRequestSchema, direction === 'original' ? { readData: part } : { writeData: part }),
      )
      const read = decodeStreamData(Buffer.from(message))
      t.deepEqual({ ...read, data: Uint8Array.from(read.data) }, { direction, data, endOfStream })
    }),
  )
})

test('what is answered is read by Envoy as it was meant', (t) => {
  for (const size of SIZES) {
    for (const direction of ['original', 'reply'] as const) {
      for (const endOfStream of [false, true]) {
        const data = Buffer.alloc(size, 7)
        const frame = encodeStreamData(direction, [data.subarray(0, size >> 1), data.subarray(size >> 1)], endOfStream)
        t.is(frame.readUInt32BE(1), frame.length - PREFIX_LENGTH)
        const answer = fromBinary(ProcessingResponseSchema, frame.subarray(PREFIX_LENGTH))
        const [mine, other] = direction === 'original' ? [answer.readData, answer.writeData] : [answer.writeData, answer.readData]
        t.is(other, undefined)
        t.is(Buffer.compare(mine?.data ?? Buffer.of(1), data), 0)
        t.is(mine?.endOfStream, endOfStream)
        t.is(answer.dataProcessingStatus, ProcessingResponse_DataProcessedStatus.MODIFIED)
        t.is(answer.connectionStatus, ProcessingResponse_ConnectionStatus.CONTINUE)
      }
    }
  }
  const close = fromBinary(ProcessingResponseSchema, encodeClose().subarray(PREFIX_LENGTH))
  t.is(close.connectionStatus, ProcessingResponse_ConnectionStatus.CLOSE)
  t.deepEqual([close.readData, close.writeData], [undefined, undefined])
})

test('what is no such message is refused, whatever it is', (t) => {
  const both = create(ProcessingRequestSchema, { readData: { data: Buffer.of(1) }, writeData: { data: Buffer.of(2) } })
  t.throws(() => decodeStreamData(Buffer.from(toBinary(ProcessingRequestSchema, both))), { instanceOf: MessageError })
  t.throws(() => decodeStreamData(Buffer.alloc(0)), { instanceOf: MessageError })
  const whole = Buffer.from(toBinary(ProcessingRequestSchema, create(ProcessingRequestSchema, { readData: { data: Buffer.alloc(20) } })))
  for (let length = 0; length < whole.length; length++)
    t.throws(() => decodeStreamData(whole.subarray(0, length)), { instanceOf: MessageError })
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        decodeStreamData(Buffer.from(bytes))
      } catch (error) {
        t.true(error instanceof MessageError)
      }
    }),
  )
  t.pass()
})

/** HTTP/2 by hand, for what a client library would never send: one request on a connection of its own, headers as bytes without any check. */
import { createConnection } from 'node:net'

/** Name and value, as Latin-1. */
export type RawHeader = readonly [name: string, value: string]

export interface RawAnswer {
  /** Undefined when the stream or the connection ended without an answer. */
  readonly status: number | undefined
  readonly ended: 'answered' | 'reset' | 'closed' | 'silent'
}

export interface RawRequest {
  readonly headers: readonly RawHeader[]
  readonly body?: string
  readonly trailers?: readonly RawHeader[]
}

const DATA = 0
const HEADERS = 1
const RST_STREAM = 3
const SETTINGS = 4
const GOAWAY = 7
const END_STREAM = 1
const END_HEADERS = 4
const FRAME_HEADER_BYTES = 9
const FRAME_BYTES_MAX = 16_384
const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
const SILENCE_MS = 3000
/** RFC 7541, appendix A, from index 8 on. */
const STATIC_STATUSES = [200, 204, 206, 304, 400, 404, 500]

export function askRaw(port: number, { headers, body, trailers }: RawRequest): Promise<RawAnswer> {
  const bodyless = body === undefined && trailers === undefined
  const frames = [Buffer.from(PREFACE), frame(SETTINGS, 0, 0, Buffer.alloc(0)), ...headerFrames(headers, bodyless)]
  if (body !== undefined) frames.push(frame(DATA, trailers === undefined ? END_STREAM : 0, 1, Buffer.from(body, 'latin1')))
  if (trailers !== undefined) frames.push(...headerFrames(trailers, true))
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port })
    let status: number | undefined
    let seen = Buffer.alloc(0)
    const finish = (ended: RawAnswer['ended']) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ status, ended })
    }
    const timer = setTimeout(() => finish('silent'), SILENCE_MS)
    socket.on('error', () => {})
    socket.on('close', () => finish('closed'))
    socket.on('data', (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk])
      while (seen.length >= FRAME_HEADER_BYTES && seen.length >= FRAME_HEADER_BYTES + seen.readUIntBE(0, 3)) {
        const length = FRAME_HEADER_BYTES + seen.readUIntBE(0, 3)
        const [type, flags, payload] = [seen[3]!, seen[4]!, seen.subarray(FRAME_HEADER_BYTES, length)]
        seen = seen.subarray(length)
        if (type === HEADERS) status ??= statusOf(payload)
        if (type === RST_STREAM) return finish(status === undefined ? 'reset' : 'answered')
        if (type === GOAWAY) return finish(status === undefined ? 'closed' : 'answered')
        if ((type === HEADERS || type === DATA) && (flags & END_STREAM) !== 0) return finish('answered')
      }
    })
    socket.write(Buffer.concat(frames))
  })
}

/** HEADERS and as many CONTINUATION as it takes, of stream 1. */
function headerFrames(headers: readonly RawHeader[], endsStream: boolean): Buffer[] {
  const block = Buffer.concat(headers.map(([name, value]) => Buffer.concat([Buffer.from([0]), literal(name), literal(value)])))
  const frames: Buffer[] = []
  for (let offset = 0; offset === 0 || offset < block.length; offset += FRAME_BYTES_MAX) {
    const type = offset === 0 ? HEADERS : 9
    const flags = (offset + FRAME_BYTES_MAX >= block.length ? END_HEADERS : 0) | (offset === 0 && endsStream ? END_STREAM : 0)
    frames.push(frame(type, flags, 1, block.subarray(offset, offset + FRAME_BYTES_MAX)))
  }
  return frames
}

function frame(type: number, flags: number, streamId: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(FRAME_HEADER_BYTES)
  header.writeUIntBE(payload.length, 0, 3)
  header.writeUInt8(type, 3)
  header.writeUInt8(flags, 4)
  header.writeUInt32BE(streamId, 5)
  return Buffer.concat([header, payload])
}

/** RFC 7541, 5.2, without Huffman. */
function literal(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1')
  const length: number[] = []
  if (bytes.length < 127) length.push(bytes.length)
  else {
    length.push(127)
    let rest = bytes.length - 127
    for (; rest >= 128; rest = Math.floor(rest / 128)) length.push((rest % 128) + 128)
    length.push(rest)
  }
  return Buffer.concat([Buffer.from(length), bytes])
}

/** Of the first response of a connection: its status stands first, by index or as a literal. */
function statusOf(block: Buffer): number | undefined {
  let offset = 0
  // Updates of the table's size.
  while ((block[offset]! & 0xe0) === 0x20) offset += 1
  const first = block[offset]!
  if ((first & 0x80) !== 0) return STATIC_STATUSES[(first & 0x7f) - 8]
  const length = block[offset + 1]!
  const text = block.subarray(offset + 2, offset + 2 + (length & 0x7f))
  return (length & 0x80) === 0 ? Number(text.toString('latin1')) : Number(huffmanDigits(text))
}

/** RFC 7541, appendix B: 0 to 2 have five bits and the other digits six. */
function huffmanDigits(bytes: Buffer): string {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  let text = ''
  for (let offset = 0; text.length < 3; ) {
    const five = Number.parseInt(bits.slice(offset, offset + 5), 2)
    const isShort = five <= 2
    text += isShort ? five : Number.parseInt(bits.slice(offset, offset + 6), 2) - 22
    offset += isShort ? 5 : 6
  }
  return text
}

/**
 * A server that keeps exactly what reaches it over HTTP/1.1 and HTTP/2, and reads HTTP/1.1 strictly: whatever two servers could read in
 * two ways is a violation.
 */
import { once } from 'node:events'
import http2, { type ServerHttp2Stream } from 'node:http2'
import { createServer, type Server, type Socket } from 'node:net'

export interface Received {
  readonly protocol: 'HTTP/1.1' | 'HTTP/2'
  readonly method: string
  readonly path: string
  readonly host: string
  /** Names in lower case, values as Latin-1. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: string
  readonly trailers: readonly (readonly [name: string, value: string])[]
}

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const TARGET = /^[!-~]+$/
const VALUE = /^(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/
const HTTP2_PREFACE = 'PRI * HTTP/2'
const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

export class RecordingUpstream {
  readonly received: Received[] = []
  readonly violations: string[] = []
  /** Of HTTP/1.1, to all but HEAD. */
  answer = ANSWER
  delayMs = 0
  readonly #server: Server
  readonly #http2 = http2.createServer({ strictFieldWhitespaceValidation: false })
  readonly #sockets = new Set<Socket>()

  constructor() {
    this.#http2.on('stream', (stream: ServerHttp2Stream, _headers, _flags, raw: string[]) => this.#onStream(stream, raw))
    this.#http2.on('sessionError', () => {})
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
      socket.on('error', () => {})
      socket.once('data', (first: Buffer) => {
        socket.pause()
        socket.unshift(first)
        if (first.toString('latin1').startsWith(HTTP2_PREFACE)) this.#http2.emit('connection', socket)
        else this.#serveHttp1(socket)
      })
    })
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }

  clear(): void {
    this.received.length = 0
    this.violations.length = 0
    this.answer = ANSWER
    this.delayMs = 0
  }

  /** Waits for nothing: what it has so far, as `METHOD path host`. */
  get lines(): string[] {
    return this.received.map(({ method, path, host }) => `${method} ${path} ${host}`)
  }

  #serveHttp1(socket: Socket): void {
    let seen = ''
    socket.on('data', (chunk: Buffer) => {
      seen += chunk.toString('latin1')
      for (;;) {
        const message = readMessage(seen)
        if (message === undefined) return
        if (typeof message === 'string') {
          this.violations.push(`${message}: ${JSON.stringify(seen.slice(0, 500))}`)
          socket.destroy()
          return
        }
        seen = seen.slice(message.length)
        this.received.push(message.received)
        const answer = message.received.method === 'HEAD' ? ANSWER.slice(0, -2) : this.answer
        if (this.delayMs === 0) socket.write(answer)
        else setTimeout(() => socket.write(answer), this.delayMs)
      }
    })
    socket.resume()
  }

  #onStream(stream: ServerHttp2Stream, raw: string[]): void {
    const headers = pairsOf(raw)
    let body = ''
    const trailers: (readonly [string, string])[] = []
    stream.on('error', () => {})
    stream.on('trailers', (_trailers, _flags, rawTrailers: string[]) => trailers.push(...pairsOf(rawTrailers)))
    stream.on('data', (chunk: Buffer) => {
      body += chunk.toString('latin1')
    })
    const joined = (name: string) =>
      headers
        .filter(([one]) => one === name)
        .map(([, value]) => value)
        .join(',')
    stream.on('end', () => {
      const [method, path, host] = [joined(':method'), joined(':path'), joined(':authority') || joined('host')]
      this.received.push({ protocol: 'HTTP/2', method, path, host, headers, body, trailers })
      if (stream.destroyed) return
      stream.respond({ ':status': 200 })
      stream.end('ok')
    })
  }
}

function pairsOf(raw: readonly string[]): (readonly [string, string])[] {
  return Array.from({ length: raw.length / 2 }, (_, index) => [raw[index * 2]!, raw[index * 2 + 1]!] as const)
}

/** @returns undefined when it is not all there, a text when it is not clean */
function readMessage(text: string): { readonly received: Received; readonly length: number } | string | undefined {
  const headEnd = text.indexOf('\r\n\r\n')
  if (headEnd < 0) return text.length > 200_000 ? 'endless head' : undefined
  const [line = '', ...fields] = text.slice(0, headEnd).split('\r\n')
  const [method = '', path = '', version, ...more] = line.split(' ')
  if (!TOKEN.test(method) || !TARGET.test(path) || version !== 'HTTP/1.1' || more.length > 0) return 'request line'
  const headers = readFields(fields)
  if (headers === undefined) return 'field'
  const valuesOf = (name: string) => headers.filter(([one]) => one === name).map(([, value]) => value)
  const [lengths, encodings, hosts] = [valuesOf('content-length'), valuesOf('transfer-encoding'), valuesOf('host')]
  if (hosts.length !== 1) return 'hosts'
  if (lengths.length + encodings.length > 1) return 'framing'
  if (lengths.some((value) => !/^\d{1,9}$/.test(value)) || encodings.some((value) => value !== 'chunked')) return 'framing'
  const start = headEnd + 4
  const common = { protocol: 'HTTP/1.1', method, path, host: hosts[0]!, headers } as const
  if (encodings.length === 0) {
    const end = start + Number(lengths[0] ?? 0)
    return text.length < end ? undefined : { received: { ...common, body: text.slice(start, end), trailers: [] }, length: end }
  }
  const chunked = readChunked(text, start)
  if (typeof chunked !== 'object') return chunked
  return { received: { ...common, body: chunked.body, trailers: chunked.trailers }, length: chunked.end }
}

function readChunked(text: string, start: number) {
  let offset = start
  for (let body = ''; ; ) {
    const lineEnd = text.indexOf('\r\n', offset)
    if (lineEnd < 0) return undefined
    const size = text.slice(offset, lineEnd)
    if (!/^[0-9a-f]{1,8}$/i.test(size)) return 'chunk size'
    const [from, to] = [lineEnd + 2, lineEnd + 2 + Number.parseInt(size, 16)]
    if (to > from) {
      if (text.length < to + 2) return undefined
      if (text.slice(to, to + 2) !== '\r\n') return 'chunk end'
      body += text.slice(from, to)
      offset = to + 2
      continue
    }
    if (text.startsWith('\r\n', from)) return { body, trailers: [], end: from + 2 }
    const end = text.indexOf('\r\n\r\n', from)
    if (end < 0) return undefined
    const trailers = readFields(text.slice(from, end).split('\r\n'))
    return trailers === undefined ? 'trailer' : { body, trailers, end: end + 4 }
  }
}

function readFields(lines: readonly string[]): (readonly [string, string])[] | undefined {
  const fields: (readonly [string, string])[] = []
  for (const line of lines) {
    const colon = line.indexOf(':')
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')]
    if (colon < 0 || !TOKEN.test(name) || !VALUE.test(value)) return undefined
    fields.push([name.toLowerCase(), value])
  }
  return fields
}

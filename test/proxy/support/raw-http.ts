/** HTTP/1.1 by hand, to see every byte that the proxy lets through or adds. */
import { once } from 'node:events'
import { createConnection, createServer, type Server, type Socket } from 'node:net'

/** An upstream that keeps what it receives and answers each request with the next response. */
export class RawUpstream {
  readonly requests: string[] = []
  response = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  constructor() {
    this.#server = createServer((socket) => {
      let seen = ''
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
      socket.on('error', () => {})
      socket.on('data', (chunk) => {
        seen += chunk.toString('latin1')
        for (let end = endOfMessage(seen); end !== undefined; end = endOfMessage(seen)) {
          this.requests.push(seen.slice(0, end))
          seen = seen.slice(end)
          socket.write(this.response)
        }
      })
    })
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  async close(): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
  }
}

/**
 * Sends bytes on a connection of its own. @param until the end of one response, of its headers, or of the connection
 * @returns everything that comes back until then
 */
export async function exchange(port: number, request: string, until: 'response' | 'headers' | 'end' = 'response'): Promise<string> {
  const socket = createConnection({ host: '127.0.0.1', port })
  socket.setTimeout(5000, () => socket.destroy(new Error('no answer')))
  let seen = ''
  socket.write(request, 'latin1')
  try {
    for await (const chunk of socket) {
      seen += (chunk as Buffer).toString('latin1')
      if (until === 'end') continue
      const end = until === 'headers' && seen.includes('\r\n\r\n') ? seen.length : endOfMessage(seen)
      if (end !== undefined) return seen.slice(0, end)
    }
    return seen
  } finally {
    socket.destroy()
  }
}

/** Header lines of a message, without the first line. */
export function headerLines(message: string): string[] {
  return message.slice(0, message.indexOf('\r\n\r\n')).split('\r\n').slice(1)
}

export function firstLine(message: string): string {
  return message.slice(0, message.indexOf('\r\n'))
}

/** Length of the first whole message with a Content-Length or chunked body without trailers, or none. */
function endOfMessage(text: string): number | undefined {
  const head = text.indexOf('\r\n\r\n')
  if (head < 0) return undefined
  const headers = text.slice(0, head).toLowerCase()
  if (headers.includes('transfer-encoding: chunked')) {
    const last = /\r\n0\r\n(?:[^\r]+\r\n)*\r\n/.exec(text.slice(head + 2))
    return last === null ? undefined : head + 2 + last.index + last[0].length
  }
  const length = Number(/content-length: *(\d+)/.exec(headers)?.[1] ?? 0)
  const end = head + 4 + length
  return text.length >= end ? end : undefined
}

/** Small clients and servers for tests against a real Envoy. */
import { once } from 'node:events'
import {
  Agent,
  createServer,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestOptions,
  type Server,
} from 'node:http'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** Answers every request with 200, its method and its path. */
export async function echoServer(port: number): Promise<Server> {
  const server = createServer((request, response) => {
    request.resume()
    request.on('end', () => response.end(`${request.method} ${request.url}`))
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  // A test file ends when nothing is left to wait for.
  server.unref()
  return server
}

export async function get(port: number, path: string, options: RequestOptions = {}): Promise<Answer> {
  const request = httpRequest({ host: '127.0.0.1', port, path, ...options })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString() }
}

export async function statusOf(port: number, path: string, options: RequestOptions = {}): Promise<number> {
  return (await get(port, path, options)).status
}

/** Asks without pause on kept connections until it is stopped, and counts what came back. */
export class Load {
  readonly statuses = new Map<number, number>()
  readonly errors: string[] = []
  readonly #agent: Agent
  readonly #workers: Promise<void>[]
  #stopped = false

  constructor(port: number, path: string, connections: number) {
    this.#agent = new Agent({ keepAlive: true, maxSockets: connections })
    this.#workers = Array.from({ length: connections }, () => this.#work(port, path))
  }

  get count(): number {
    return this.#sum() + this.errors.length
  }

  /** Resolves when so many more requests were answered. */
  async more(requests: number): Promise<void> {
    const goal = this.count + requests
    while (this.count < goal) await new Promise((resolve) => setImmediate(resolve))
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#workers)
    this.#agent.destroy()
  }

  async #work(port: number, path: string): Promise<void> {
    while (!this.#stopped) {
      try {
        const { status } = await get(port, path, { agent: this.#agent })
        this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1)
      } catch (error) {
        this.errors.push(String(error))
      }
    }
  }

  #sum(): number {
    let sum = 0
    for (const count of this.statuses.values()) sum += count
    return sum
  }
}

/** Asks Envoy's admin interface on its UNIX socket. Whoever asks has little time and little memory: both are bounded. */
import { request } from 'node:http'

const TIMEOUT_MS = 2000
const BYTES_MAX = 64 * 1024 * 1024

export interface AdminLimits {
  readonly timeoutMs?: number
  readonly bytesMax?: number
}

/** The body of the answer, or why there is none: the reason is a sentence about Envoy. */
export type AdminAnswer = { readonly body: string } | { readonly problem: string }

/** @param path with the query string, one of our own making */
export function askAdmin(socketPath: string, path: string, limits: AdminLimits = {}): Promise<AdminAnswer> {
  const { timeoutMs = TIMEOUT_MS, bytesMax = BYTES_MAX } = limits
  return new Promise((resolve) => {
    // The signal covers the whole answer: one that trickles is none.
    const signal = AbortSignal.timeout(timeoutMs)
    const fail = (error: unknown): void => {
      resolve({ problem: signal.aborted ? `Envoy does not answer within ${timeoutMs} ms` : `Envoy does not answer: ${reasonOf(error)}` })
    }
    const call = request({ socketPath, path, signal, agent: false }, (response) => {
      const chunks: Buffer[] = []
      let length = 0
      response.on('error', fail)
      response.on('data', (chunk: Buffer) => {
        length += chunk.length
        if (length > bytesMax) {
          resolve({ problem: `Envoy's answer is longer than ${bytesMax} bytes` })
          call.destroy()
        } else chunks.push(chunk)
      })
      response.on('end', () => {
        if (response.statusCode === 200) resolve({ body: Buffer.concat(chunks).toString() })
        else resolve({ problem: `Envoy does not answer: status ${response.statusCode}` })
      })
      response.on('close', () => fail(undefined))
    })
    call.on('error', fail)
    call.end()
  })
}

function reasonOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  return code === 'ENOENT' || code === 'ECONNREFUSED' ? 'it does not run' : (code ?? 'the answer was cut short')
}

/** TCP connections of a test: both ends as processes in workloads, with the lines that they print as events. */
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { Machine, Workload } from './machine.ts'
import { ROOT } from './machine.ts'

export class TcpPeer {
  readonly lines: string[] = []
  readonly child: ChildProcess
  readonly #waiters: (() => void)[] = []

  constructor(child: ChildProcess) {
    this.child = child
    let rest = ''
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n')
      rest = parts.pop() ?? ''
      this.lines.push(...parts)
      for (const wake of this.#waiters.splice(0)) wake()
    })
  }

  /** Resolves with the first line that starts so. @throws Error after the time */
  async saw(start: string, timeoutMs = 5000): Promise<string> {
    const find = () => this.lines.find((line) => line.startsWith(start))
    await this.until(() => find() !== undefined, timeoutMs, `no line "${start}"`)
    return find() as string
  }

  /** Resolves when lines are as they should be. @throws Error after the time */
  async until(isSo: () => boolean, timeoutMs = 5000, missing = 'not so'): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!isSo()) {
      const left = deadline - performance.now()
      if (left <= 0) throw new Error(`${missing} within ${timeoutMs} ms, but: ${this.lines.join(', ')}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#waiters.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  write(text: string): void {
    this.child.stdin?.write(text)
  }
}

export async function listenTcp(machine: Machine, workload: Workload, port: number): Promise<TcpPeer> {
  const peer = new TcpPeer(
    machine.start(workload.netns, [join(ROOT, 'bin/node'), join(ROOT, 'test/support/tcp-peer.mjs'), 'listen', String(port)]),
  )
  await peer.saw('listening', 5000)
  return peer
}

export function connectTcp(machine: Machine, workload: Workload, host: string, port: number, localPort?: number): TcpPeer {
  const args = ['connect', host, String(port), ...(localPort === undefined ? [] : [String(localPort)])]
  return new TcpPeer(
    machine.start(workload.netns, [join(ROOT, 'bin/node'), join(ROOT, 'test/support/tcp-peer.mjs'), ...args], { stdin: true }),
  )
}

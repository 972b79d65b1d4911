/** r2d2 between workloads: a server that echoes what it is told behind OK, and clients that say lines. */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Machine, ROOT, type Workload } from './machine.ts'
import { connectTcp, TcpPeer } from './tcp.ts'

export const R2D2_PORT = 4040

/** Puts the example where a test's machine has its parsers. */
export function installR2d2(machine: Machine): void {
  cpSync(join(ROOT, 'examples/parsers/r2d2'), join(machine.parsersFolder, 'r2d2'), { recursive: true })
}

/** Puts a parser there: the body of `onData(direction, bytes)`, of a connection that is there as `connection`. */
export function installParser(machine: Machine, name: string, onData: string, before = ''): void {
  const folder = join(machine.parsersFolder, name)
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    join(folder, 'parser.js'),
    `${before}\nexport default { create: (connection) => ({ onData(direction, bytes, endOfStream) { ${onData} } }) }\n`,
  )
}

export async function startR2d2(machine: Machine, workload: Workload, port = R2D2_PORT): Promise<TcpPeer> {
  const command = [join(ROOT, 'bin/node'), join(ROOT, 'test/support/r2d2-server.mjs'), String(port)]
  const server = new TcpPeer(machine.start(workload.netns, command))
  await server.saw('listening')
  return server
}

export class R2d2Client {
  readonly peer: TcpPeer
  #told = 0

  constructor(machine: Machine, from: Workload, to: Workload, port = R2D2_PORT) {
    this.peer = connectTcp(machine, from, to.address, port)
  }

  /** What came back so far, and what became of the connection. */
  get answers(): string[] {
    return this.peer.lines.map((line) => line.trim().replace(/^data /, '')).filter((line) => !/^(open|end|error .*)$/.test(line))
  }

  /** @returns what came back for these lines, one each, and closed where the connection was */
  async say(...lines: readonly string[]): Promise<string[]> {
    this.peer.write(lines.map((line) => `${line}\r\n`).join(''))
    await this.peer.until(() => this.answers.length >= this.#told + lines.length || this.answers.includes('closed'))
    const answers = this.answers.slice(this.#told)
    this.#told = this.answers.length
    return answers
  }
}

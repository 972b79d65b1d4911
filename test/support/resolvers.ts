/**
 * Resolvers as programs have them: getaddrinfo of glibc and of musl, asked by one program that is built with either (getaddrinfo.c), in a
 * workload that sees an /etc of its own. The machine's own /etc is not touched: what is mounted goes with the program.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type CommandResult, type Machine, ROOT, type Workload } from './machine.ts'

export const C_LIBRARIES = ['glibc', 'musl'] as const
export type CLibrary = (typeof C_LIBRARIES)[number]

/** Debian's musl-dev has it there; clang and glibc are what BPF programs and everything else are built with. */
const MUSL_TRIPLE = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-musl`
const MUSL = `/usr/lib/${MUSL_TRIPLE}`
const FLAGS: Readonly<Record<CLibrary, readonly string[]>> = {
  glibc: [],
  musl: [
    ...['-static', '-nostdinc', '-nostdlib', '-isystem', `/usr/include/${MUSL_TRIPLE}`],
    ...[`${MUSL}/crt1.o`, `${MUSL}/crti.o`, '-Wl,--start-group', `${MUSL}/libc.a`, '-lgcc', '-Wl,--end-group', `${MUSL}/crtn.o`],
  ],
}

/** musl asks again over TCP since 1.2.4, and tells a name without addresses from one that is not there. */
export function isMuslOld(): boolean {
  const [major = 0, minor = 0, patch = 0] = (/Version ([\d.]+)/.exec(spawnSync(`${MUSL}/libc.so`, { encoding: 'utf8' }).stderr)?.[1] ?? '')
    .split('.')
    .map(Number)
  return major * 10_000 + minor * 100 + patch < 10_204
}

/** What one name got. */
export interface Lookup {
  /** OK or EAI_…. */
  readonly code: string
  readonly ms: number
  readonly addresses: readonly string[]
  /** Those that a TCP connection could be opened to. */
  readonly reached: readonly string[]
}

/** Programs of one test file, and what they are told in /etc. */
export class Resolvers {
  readonly #folder: string
  #etcCount = 0

  /** @param folder for the programs, of the caller's @throws Error when a library or the compiler is missing */
  constructor(folder: string) {
    this.#folder = folder
    const source = join(ROOT, 'test/support/getaddrinfo.c')
    for (const library of C_LIBRARIES) {
      execFileSync('clang-19', ['-O1', '-Wall', '-Werror', '-o', this.#program(library), source, ...FLAGS[library]], { stdio: 'pipe' })
    }
  }

  /** An /etc with these lines in resolv.conf, and no name that is not asked of a server. @returns its folder */
  etc(...lines: readonly string[]): string {
    const folder = join(this.#folder, `etc${this.#etcCount++}`)
    mkdirSync(folder)
    writeFileSync(join(folder, 'resolv.conf'), `${lines.join('\n')}\n`)
    writeFileSync(join(folder, 'nsswitch.conf'), 'hosts: dns\n')
    writeFileSync(join(folder, 'hosts'), '')
    return folder
  }

  /** Runs a command in a workload, with an /etc as `etc` gives. */
  run(machine: Machine, from: Workload, etc: string, ...command: readonly string[]): Promise<CommandResult> {
    return machine.run(from.netns, ['unshare', '--mount', 'sh', '-c', 'mount --bind "$0" /etc && exec "$@"', etc, ...command])
  }

  /** Looks up a name, and connects to port 80 of what comes. */
  async lookUp(machine: Machine, from: Workload, etc: string, library: CLibrary, name: string): Promise<Lookup> {
    const { stdout, stderr } = await this.run(machine, from, etc, this.#program(library), '80', name)
    const [said, code = '', ms = '', ...tried] = stdout.trim().split(' ')
    if (said !== name) throw new Error(`${library} says nothing of ${name}: ${stderr}`)
    const addressOf = (text: string): string => text.slice(0, -1)
    return { code, ms: Number(ms), addresses: tried.map(addressOf), reached: tried.filter((each) => each.endsWith('+')).map(addressOf) }
  }

  #program(library: CLibrary): string {
    return join(this.#folder, library)
  }
}

/** Resolvers of others that do nothing but forward, each between a client and its responder, alone on the core under test. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine } from '../../test/support/machine.ts'
import { addDnsScene, type DnsScene, runClient } from './dns.ts'
import { buildGoProgram, type GoProgram } from './go-program.ts'

const RESOLVERS = {
  coredns: 'CoreDNS forward',
  dnsproxy: 'AdGuard dnsproxy',
} as const
export type ResolverName = keyof typeof RESOLVERS

const READY_MS = 10_000
const LOG_CHARS_MAX = 4096

export interface ResolverProgram extends GoProgram {
  readonly name: ResolverName
}

export interface Resolver {
  readonly scene: DnsScene
  /** Whom the client asks. */
  readonly address: string
  readonly pid: number
}

/** Builds it, once for each version. @throws Error without a Go toolchain that is new enough */
export function buildResolver(name: ResolverName): ResolverProgram {
  return { name, ...buildGoProgram(name) }
}

/** How it takes part, for a result's conditions. */
export function describeResolver({ name, version }: ResolverProgram): string {
  return `${RESOLVERS[name]} ${version}, no cache, GOMAXPROCS=1, a namespace between client and responder, no program attached`
}

/** A scene on a machine where Headgate does not run, with the resolver in it. Resolves when it answers. */
export async function addResolver(
  machine: Machine,
  programs: { load: string; tcp: string },
  ttlSeconds: number,
  resolver: ResolverProgram,
): Promise<Resolver> {
  const { netns, address } = machine.addWorkload('resolver')
  const scene = await addDnsScene(machine, programs, ttlSeconds)
  const child = machine.start(netns, commandOf(machine, resolver, address, scene.server), { env: { GOMAXPROCS: '1' } })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-LOG_CHARS_MAX)
    })
  }
  const deadline = performance.now() + READY_MS
  for (;;) {
    const once = { rate: 10, count: 1, first: 1, mode: 'answers', probeEvery: 1 } as const
    const { answered, wrongAnswers } = await runClient(machine, scene.client, address, programs.load, once)
    if (answered > 0 && wrongAnswers === 0) return { scene, address, pid: child.pid ?? 0 }
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`${resolver.name}: no answer: ${log}`)
    await delay(100)
  }
}

function commandOf(machine: Machine, { name, path }: ResolverProgram, address: string, upstream: string): string[] {
  if (name === 'dnsproxy') return [path, `--listen=${address}`, '--port=53', `--upstream=${upstream}:53`, '--hosts-file-enabled=false']
  const folder = join(machine.folder, 'coredns')
  mkdirSync(folder)
  writeFileSync(join(folder, 'Corefile'), `.:53 {\n  forward . ${upstream}:53\n}\n`)
  return [path, '-conf', join(folder, 'Corefile')]
}

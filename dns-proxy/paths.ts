/** Where this process keeps what (docs/state-files.md). */
import { join } from 'node:path'
import type { Config } from '#config/schema.ts'

export interface DnsPaths {
  readonly control: string
  readonly netns: string
  readonly lock: string
  readonly desired: string
  readonly names: string
  readonly socket: string
}

export function dnsPaths({ paths: { run, state } }: Config): DnsPaths {
  return {
    control: join(run, 'control.sock'),
    netns: join(run, 'netns.json'),
    lock: join(run, 'locks/dns-proxy'),
    desired: join(state, 'dns-proxy/desired.bin'),
    socket: join(run, 'dns.sock'),
    names: join(state, 'dns-proxy/names.journal'),
  }
}

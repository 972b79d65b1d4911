/** Where this process and Envoy keep what (docs/state-files.md). */
import { cpus } from 'node:os'
import { join } from 'node:path'
import type { Config } from '#config/schema.ts'

export interface ProxyPaths {
  readonly control: string
  readonly xds: string
  /** Where the extension host serves Envoy's ext_proc. */
  readonly extHost: string
  /** Where the workers of the relay take connections, and what they keep, by their numbers. */
  readonly relayFolder: string
  readonly relayStateFolder: string
  /** Empty: processes of users' parsers have roots of their own there. */
  readonly parserRoot: string
  readonly envoyAdmin: string
  readonly envoyBootstrap: string
  /** Entries of Envoy's access log that arrived. */
  readonly flowsReceived: string
  readonly netns: string
  readonly proxyLock: string
  readonly extHostLock: string
  readonly envoyLock: string
  readonly snapshot: string
  readonly refusals: string
  readonly extHostRulesets: string
}

/** Of one worker of the relay. */
export function relayPaths({ relayFolder, relayStateFolder }: ProxyPaths, worker: number) {
  return {
    socket: join(relayFolder, `${worker}.sock`),
    lock: join(relayFolder, `${worker}.lock`),
    state: join(relayStateFolder, `${worker}.bin`),
  }
}

export function proxyPaths({ paths: { run, state } }: Config): ProxyPaths {
  return {
    control: join(run, 'control.sock'),
    xds: join(run, 'xds.sock'),
    extHost: join(run, 'ext-host.sock'),
    relayFolder: join(run, 'relay'),
    relayStateFolder: join(state, 'relay'),
    parserRoot: join(run, 'relay/root'),
    envoyAdmin: join(run, 'envoy-admin.sock'),
    envoyBootstrap: join(run, 'envoy.json'),
    flowsReceived: join(run, 'flows-received'),
    netns: join(run, 'netns.json'),
    proxyLock: join(run, 'locks/proxy'),
    extHostLock: join(run, 'locks/ext-host'),
    envoyLock: join(run, 'locks/envoy'),
    snapshot: join(state, 'proxy/snapshot.bin'),
    refusals: join(state, 'proxy/refusals.json'),
    extHostRulesets: join(state, 'ext-host/rulesets.bin'),
  }
}

/** Numbers of the relay's workers: all processes count the same, wherever each may run. */
export function relayWorkers({ relay: { workers } }: Config): number[] {
  return Array.from({ length: workers === 0 ? cpus().length : workers }, (_, index) => index)
}

/** Where this process and Envoy keep what (docs/state-files.md). */
import { join } from 'node:path'
import type { Config } from '#config/schema.ts'

export interface ProxyPaths {
  readonly control: string
  readonly xds: string
  /** Where the extension host serves Envoy's ext_proc. */
  readonly extHost: string
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

export function proxyPaths({ paths: { run, state } }: Config): ProxyPaths {
  return {
    control: join(run, 'control.sock'),
    xds: join(run, 'xds.sock'),
    extHost: join(run, 'ext-host.sock'),
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

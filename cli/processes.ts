/**
 * The mains of the processes, loaded only by the subcommand that runs one. The one place where the command line reaches over the
 * layers between: everything else here knows processes by their sockets.
 */
import type { Config } from '#config/schema.ts'

/** What a check of the machine found. */
export interface Finding {
  readonly name: string
  readonly level: 'ok' | 'warning' | 'error'
  readonly detail: string
  /** What to do about it; empty when ok. */
  readonly hint: string
}

interface AgentMain {
  runAgent(config: Config, signal: AbortSignal): Promise<void>
}
interface ProxyMain {
  runProxy(config: Config, signal: AbortSignal): Promise<void>
}
interface EnvoyMain {
  runEnvoy(config: Config): Promise<never>
}
interface CleanupModule {
  cleanup(config: Config): Promise<string[]>
}
interface ProbesModule {
  probe(config: Config): Promise<Finding[]>
}

const load = (specifier: string): Promise<unknown> => import(specifier)

export const loadAgent = async () => (await load('#agent/main.ts')) as AgentMain
export const loadProxy = async () => (await load('#proxy/main.ts')) as ProxyMain
export const loadEnvoy = async () => (await load('#proxy/envoy/main.ts')) as EnvoyMain
export const loadCleanup = async () => (await load('#agent/cleanup.ts')) as CleanupModule
export const loadProbes = async () => (await load('#agent/datapath/probes.ts')) as ProbesModule

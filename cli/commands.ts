/** Every subcommand with its one line of help. The module of a subcommand is loaded only when it is the one asked for. */
import type { Command } from 'commander'

export interface CommandModule {
  /**
   * Adds options, arguments, help and the action.
   * @param wholeProgram makes the program with every command's options
   */
  define(command: Command, wholeProgram: () => Promise<Command>): void
}

export interface CommandEntry {
  readonly name: string
  readonly summary: string
  readonly group: string
  readonly load: () => Promise<CommandModule>
}

const RUN = 'Run Headgate:'
const LOOK = 'See what it does:'
const TELL = 'Tell it what to do:'

export const COMMANDS: readonly CommandEntry[] = [
  { name: 'up', summary: 'run all processes on this machine and keep them running', group: RUN, load: () => import('./up.ts') },
  { name: 'agent', summary: 'run the agent: endpoints, policy, kernel maps', group: RUN, load: () => import('./agent.ts') },
  { name: 'proxy', summary: 'run the configuration server of this node’s Envoy', group: RUN, load: () => import('./proxy.ts') },
  { name: 'ext-host', summary: 'judge requests that Envoy cannot judge itself', group: RUN, load: () => import('./ext-host.ts') },
  { name: 'dns-proxy', summary: 'judge DNS queries and learn what names stand for', group: RUN, load: () => import('./dns-proxy.ts') },
  { name: 'envoy', summary: 'run Envoy, configured by the proxy process', group: RUN, load: () => import('./envoy.ts') },
  { name: 'doctor', summary: 'check whether this machine can run Headgate', group: RUN, load: () => import('./doctor.ts') },
  { name: 'cleanup', summary: 'remove every trace of Headgate from the kernel', group: RUN, load: () => import('./cleanup.ts') },
  {
    name: 'policy',
    summary: 'validate, trace, test, compare, apply, list, count policies; wait until they are in force',
    group: TELL,
    load: () => import('./policy.ts'),
  },
  { name: 'endpoint', summary: 'add, remove, list workloads', group: TELL, load: () => import('./endpoint.ts') },
  {
    name: 'status',
    summary: 'processes, policies refused, requests, kernel maps, counters',
    group: LOOK,
    load: () => import('./status.ts'),
  },
  { name: 'observe', summary: 'flows: who talked to whom, the verdict and why', group: LOOK, load: () => import('./observe.ts') },
  { name: 'fqdn', summary: 'names of toFQDNs and the addresses learned for them', group: LOOK, load: () => import('./fqdn.ts') },
  { name: 'identity', summary: 'list security identities', group: LOOK, load: () => import('./identity.ts') },
  { name: 'config', summary: 'show and validate the configuration', group: LOOK, load: () => import('./config.ts') },
  { name: 'version', summary: 'versions of all parts', group: LOOK, load: () => import('./version.ts') },
  { name: 'completion', summary: 'print a completion script for bash, zsh or fish', group: LOOK, load: () => import('./completion.ts') },
]

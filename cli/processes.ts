/**
 * The mains of the processes, loaded only by the subcommand that runs one, and what reads the files of the processes. The one place where the command line reaches over the
 * layers between: everything else here knows processes by their sockets.
 */

export type { Finding } from '#agent/datapath/probes.ts'

export const loadAgent = () => import('#agent/main.ts')
export const loadProxy = () => import('#proxy/main.ts')
export const loadExtHost = () => import('#proxy/ext-host/main.ts')
export const loadRelayWorker = () => import('#proxy/ext-host/parsing/worker.ts')
export const loadDnsProxy = () => import('#dns-proxy/main.ts')
export const loadEnvoy = () => import('#proxy/envoy/main.ts')
export const loadCleanup = () => import('#agent/cleanup.ts')
export const loadProbes = () => import('#agent/datapath/probes.ts')
export const loadTopology = () => import('#agent/datapath/topology.ts')
export const loadWorkloadsFile = () => import('#agent/workloads/file.ts')
export const loadIdentities = () => import('#agent/workloads/identities.ts')
export const loadSecretReader = () => import('#proxy/ext-host/http/secrets.ts')

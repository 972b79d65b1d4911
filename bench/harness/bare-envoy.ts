/** The floors under an L7 proxy on stock Envoy: what Envoy costs that judges nothing, as HTTP proxy and as TCP proxy. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import type { Machine, Workload } from '../../test/support/machine.ts'
import { get } from '../../test/support/running.ts'

export const BARE_PORTS = { http: 8001, tcp: 8002 } as const

const CLUSTER = 'server'
const TYPES = 'type.googleapis.com/envoy.extensions.filters'

/** Envoy with one worker in the server's own namespace, dialled by its address: no redirect, no rules, no log. @returns its pid */
export async function startBareEnvoy(machine: Machine, server: Workload, client: Workload): Promise<number> {
  const pid = runBareEnvoy(machine, server, {
    serverPort: 80,
    listeners: [httpListener(server.address), tcpProxyListener({ name: 'tcp', address: server.address, port: BARE_PORTS.tcp })],
  })
  for (let tries = 0; tries < 100; tries++) {
    if ((await get(machine, client, `http://${server.address}:${BARE_PORTS.http}/`, '-m', '0.5')).status === 200) return pid
    await delay(50)
  }
  throw new Error('bare Envoy does not answer')
}

/** @param workload where it runs @param listeners whose cluster is `server` @returns its pid */
export function runBareEnvoy(
  machine: Machine,
  workload: Workload,
  {
    listeners,
    server = workload,
    serverPort,
  }: { readonly listeners: readonly unknown[]; readonly server?: Workload; readonly serverPort: number },
): number {
  const endpoint = { address: { socketAddress: { address: server.address, portValue: serverPort } } }
  const config = {
    staticResources: {
      clusters: [{ name: CLUSTER, loadAssignment: { clusterName: CLUSTER, endpoints: [{ lbEndpoints: [{ endpoint }] }] } }],
      listeners,
    },
    statsConfig: { statsMatcher: { rejectAll: true } },
  }
  const file = join(machine.folder, `bare-envoy-${workload.name}.json`)
  writeFileSync(file, JSON.stringify(config))
  const command = [findEnvoy(''), '-c', file, '--concurrency', '1', '--log-level', 'error', '--disable-hot-restart']
  const child = machine.start(workload.netns, command)
  for (const stream of [child.stdout, child.stderr]) stream?.resume()
  return child.pid ?? 0
}

export function tcpProxyListener({ name, address, port }: { name: string; address: string; port: number }): unknown {
  return listener({ name, address, port }, { '@type': `${TYPES}.network.tcp_proxy.v3.TcpProxy`, statPrefix: 'bare', cluster: CLUSTER })
}

function httpListener(address: string): unknown {
  const virtualHosts = [{ name: 'all', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: CLUSTER } }] }]
  return listener(
    { name: 'http', address, port: BARE_PORTS.http },
    {
      '@type': `${TYPES}.network.http_connection_manager.v3.HttpConnectionManager`,
      statPrefix: 'bare',
      generateRequestId: false,
      routeConfig: { virtualHosts },
      httpFilters: [{ name: 'router', typedConfig: { '@type': `${TYPES}.http.router.v3.Router`, suppressEnvoyHeaders: true } }],
    },
  )
}

function listener({ name, address, port }: { name: string; address: string; port: number }, typedConfig: unknown): unknown {
  return {
    name,
    address: { socketAddress: { address, portValue: port } },
    filterChains: [{ filters: [{ name, typedConfig }] }],
  }
}

/** The floors under an L7 proxy on stock Envoy: what Envoy costs that judges nothing, as HTTP proxy and as TCP proxy. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import type { Machine, Workload } from '../../test/support/machine.ts'
import { get } from '../../test/support/running.ts'

export const BARE_PORTS = { http: 8001, tcp: 8002 } as const

const TYPES = 'type.googleapis.com/envoy.extensions.filters'

/** Envoy with one worker in the server's own namespace, dialled by its address: no redirect, no rules, no log. @returns its pid */
export async function startBareEnvoy(machine: Machine, server: Workload, client: Workload): Promise<number> {
  const listener = (name: keyof typeof BARE_PORTS, typedConfig: Record<string, unknown>) => ({
    name,
    address: { socketAddress: { address: server.address, portValue: BARE_PORTS[name] } },
    filterChains: [{ filters: [{ name, typedConfig }] }],
  })
  const config = {
    staticResources: {
      clusters: [
        {
          name: 'server',
          loadAssignment: {
            clusterName: 'server',
            endpoints: [{ lbEndpoints: [{ endpoint: { address: { socketAddress: { address: server.address, portValue: 80 } } } }] }],
          },
        },
      ],
      listeners: [
        listener('http', {
          '@type': `${TYPES}.network.http_connection_manager.v3.HttpConnectionManager`,
          statPrefix: 'bare',
          generateRequestId: false,
          routeConfig: {
            virtualHosts: [{ name: 'all', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: 'server' } }] }],
          },
          httpFilters: [{ name: 'router', typedConfig: { '@type': `${TYPES}.http.router.v3.Router`, suppressEnvoyHeaders: true } }],
        }),
        listener('tcp', { '@type': `${TYPES}.network.tcp_proxy.v3.TcpProxy`, statPrefix: 'bare', cluster: 'server' }),
      ],
    },
    statsConfig: { statsMatcher: { rejectAll: true } },
  }
  const file = join(machine.folder, 'bare-envoy.json')
  writeFileSync(file, JSON.stringify(config))
  const child = machine.start(server.netns, [
    findEnvoy(''),
    '-c',
    file,
    '--concurrency',
    '1',
    '--log-level',
    'error',
    '--disable-hot-restart',
  ])
  for (let tries = 0; tries < 100; tries++) {
    if (child.exitCode !== null) throw new Error(`bare Envoy ended with ${child.exitCode}`)
    if ((await get(machine, client, `http://${server.address}:${BARE_PORTS.http}/`, '-m', '0.5')).status === 200) return child.pid ?? 0
    await delay(50)
  }
  throw new Error('bare Envoy does not answer')
}

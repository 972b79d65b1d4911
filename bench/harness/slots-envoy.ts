/**
 * One stock Envoy whose listeners are those of slots, as the proxy process makes them, each with rules of its own: for benches that
 * compare rulesets with each other. Everything is in its configuration files, so no other process takes part.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import { BootstrapSchema } from '#api/gen/envoy/config/bootstrap/v3/bootstrap_pb.js'
import { ClusterSchema } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { ApiVersion, ConfigSourceSchema } from '#api/gen/envoy/config/core/v3/config_source_pb.js'
import { ListenerSchema } from '#api/gen/envoy/config/listener/v3/listener_pb.js'
import { HttpConnectionManagerSchema } from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import { DiscoveryResponseSchema } from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { Direction, RulesetSchema, SlotSchema } from '#api/gen/headgate/v1/control_pb.js'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import { slotName } from '#proxy/slot-name.ts'
import { packAny } from '#proxy/xds/resource.ts'
import { clusterResources, listenerResource, type ResourceSettings, rulesetResource } from '#proxy/xds/resources.ts'
import type { Machine, Workload } from '../../test/support/machine.ts'
import { get } from '../../test/support/running.ts'

export interface SlotOfBench {
  readonly port: number
  /** Undefined: the same listener, without a filter that judges. */
  readonly ruleset: MessageInitShape<typeof RulesetSchema> | undefined
  readonly extHostKey?: string
}

export interface SlotsEnvoyOptions {
  readonly extHostSocket?: string
  /** Command that Envoy's own is given to, such as a profiler. */
  readonly runBy?: readonly string[]
}

export interface SlotsEnvoy {
  readonly pid: number
  /** Statistics of Envoy whose names match. */
  stats(filter: string): Promise<string>
}

const ADMIN_PORT = 20_990
/** A profiler makes Envoy fifty times as slow. */
const READY_TRIES = 1000

/** Its listeners are on the workload's loopback, and it sends everything to the workload's own port 80. */
export async function startSlotsEnvoy(
  machine: Machine,
  server: Workload,
  slots: readonly SlotOfBench[],
  { extHostSocket = join(machine.folder, 'ext-host.sock'), runBy = [] }: SlotsEnvoyOptions = {},
): Promise<SlotsEnvoy> {
  const folder = join(machine.folder, 'slots-envoy')
  mkdirSync(folder)
  const settings: ResourceSettings = {
    ingressNetns: undefined,
    denied: { status: 403, body: 'Access denied' },
    accessLog: { mode: 'denied', sampleRate: 0 },
    upstream: { address: server.address, port: 80 },
    extHostSocket,
    l7Transport: 'relay',
    extProcKbps: 1024,
    relaySockets: [],
    extHostTimeoutMs: 2000,
    ruleCounters: false,
  }
  const bootstrap = create(BootstrapSchema, {
    node: { id: 'bench', cluster: 'bench' },
    admin: {
      address: {
        address: { case: 'socketAddress', value: { address: '127.0.0.1', portSpecifier: { case: 'portValue', value: ADMIN_PORT } } },
      },
    },
    staticResources: {
      clusters: [...clusterResources(settings).map((resource) => fromBinary(ClusterSchema, resource.encode('').value))],
      listeners: slots.map((slot, index) => listenerOf(folder, settings, slot, index + 1)),
    },
    layeredRuntime: {
      layers: [{ name: 'bench', layerSpecifier: { case: 'staticLayer', value: { 're2.max_program_size.error_level': 100_000_000 } } }],
    },
  })
  const file = join(folder, 'bootstrap.pb')
  writeFileSync(file, toBinary(BootstrapSchema, bootstrap))
  const command = [...runBy, findEnvoy(''), '-c', file, '--concurrency', '1', '--log-level', 'error', '--disable-hot-restart']
  const child = machine.start(server.netns, command)
  let errors = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  const stats = async (filter: string) => (await get(machine, server, `http://127.0.0.1:${ADMIN_PORT}/stats?filter=${filter}`)).body
  for (let tries = 0; tries < READY_TRIES; tries++) {
    if (child.exitCode !== null) throw new Error(`Envoy ended with ${child.exitCode}: ${errors}`)
    if ((await get(machine, server, `http://127.0.0.1:${ADMIN_PORT}/ready`, '-m', '0.5')).status === 200)
      return { pid: child.pid ?? 0, stats }
    await delay(50)
  }
  throw new Error(`Envoy is not ready: ${errors}`)
}

function listenerOf(folder: string, settings: ResourceSettings, { port, ruleset, extHostKey = '' }: SlotOfBench, id: number) {
  const slot = create(SlotSchema, {
    id,
    generation: 1,
    direction: Direction.EGRESS,
    port,
    mark: 1,
    upstreamMark: 2,
    ruleset: create(RulesetSchema, ruleset ?? {}),
    extHostKey,
  })
  const listener = fromBinary(ListenerSchema, listenerResource(slot, settings).encode('').value)
  const [filter] = listener.filterChains[0]?.filters ?? []
  if (filter?.configType.case !== 'typedConfig') throw new Error('a slot without a connection manager')
  const manager = fromBinary(HttpConnectionManagerSchema, filter.configType.value.value)
  const rules = manager.httpFilters.find(({ name }) => name === slotName(slot))
  if (rules?.configType.case !== 'configDiscovery') throw new Error('a slot without rules')
  // What flows cost is in g2; without rules the log would report everything, for it asks for their verdict.
  manager.accessLog = []
  if (ruleset === undefined) {
    manager.httpFilters = manager.httpFilters.filter((other) => other !== rules)
  } else {
    const file = join(folder, `${slotName(slot)}.pb`)
    const resource = rulesetResource(slot, slot.ruleset ?? create(RulesetSchema), settings).encode('')
    writeFileSync(file, toBinary(DiscoveryResponseSchema, create(DiscoveryResponseSchema, { versionInfo: '1', resources: [resource] })))
    rules.configType.value.configSource = create(ConfigSourceSchema, {
      resourceApiVersion: ApiVersion.V3,
      configSourceSpecifier: { case: 'pathConfigSource', value: { path: file } },
    })
  }
  filter.configType.value = packAny(HttpConnectionManagerSchema, manager)
  return listener
}

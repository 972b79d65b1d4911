/** A real Envoy that asks network ext_proc of this process, a TCP server behind it, and a parser of lines between. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, toBinary } from '@bufbuild/protobuf'
import { BootstrapSchema } from '#api/gen/envoy/config/bootstrap/v3/bootstrap_pb.js'
import { Cluster_DiscoveryType, ClusterSchema } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { AddressSchema } from '#api/gen/envoy/config/core/v3/address_pb.js'
import { ListenerSchema } from '#api/gen/envoy/config/listener/v3/listener_pb.js'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import { CLOSE_THROUGH_FILTERS } from '#proxy/envoy/bootstrap.ts'
import { type GrpcServer, serveGrpc } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { networkService } from '#proxy/ext-host/network/network-service.ts'
import { networkExtProcCluster, networkExtProcFilters } from '#proxy/xds/network-ext-proc.ts'
import { restOf } from '../../support/raw-tcp.ts'
import { freePort } from './ext-host-stack.ts'
import { KNOWN_SLOT, TestHost } from './test-host.ts'

/** The default. */
const CONNECTION_KBPS = 32_768
const SERVER_CLUSTER = 'server'
export class NetworkStack extends TestHost {
  readonly folder = mkdtempSync(join(tmpdir(), 'hg-net-'))
  /** Sockets of the server, as they came. */
  readonly accepted: Socket[] = []
  #server: Server | undefined
  #isReady = false
  #grpc: GrpcServer | undefined
  #envoy: ChildProcess | undefined
  readonly #ports = new Map<string, number>()

  /** @param onConnection what the server does */
  async start(onConnection: (socket: Socket) => void, slots: readonly string[] = [KNOWN_SLOT]): Promise<this> {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => {})
      if (!this.#isReady) {
        socket.destroy()
        return
      }
      this.accepted.push(socket)
      onConnection(socket)
    })
    this.#server = server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    await this.serve()
    for (const slot of slots) this.#ports.set(slot, await freePort())
    const bootstrap = create(BootstrapSchema, {
      layeredRuntime: {
        layers: [{ name: 'static', layerSpecifier: { case: 'staticLayer', value: { [CLOSE_THROUGH_FILTERS]: true } } }],
      },
      staticResources: {
        clusters: [networkExtProcCluster([this.#socket]), serverCluster((server.address() as AddressInfo).port)],
        listeners: [...this.#ports].map(([slot, port]) =>
          create(ListenerSchema, {
            name: slot,
            address: loopback(port),
            filterChains: [{ filters: networkExtProcFilters(slot, SERVER_CLUSTER, CONNECTION_KBPS) }],
          }),
        ),
      },
    })
    const file = join(this.folder, 'envoy.pb')
    writeFileSync(file, toBinary(BootstrapSchema, bootstrap))
    const log = openSync(join(this.folder, 'envoy.log'), 'a')
    this.#envoy = spawn(findEnvoy(''), ['-c', file, '--concurrency', '1', '-l', 'warning', '--disable-hot-restart'], {
      stdio: ['ignore', log, log],
    })
    for (const port of this.#ports.values()) await this.#listening(port)
    this.refused.length = 0
    this.#isReady = true
    return this
  }

  /** Starts the worker's side, or starts it again. */
  async serve(): Promise<void> {
    this.#grpc = await serveGrpc(this.#socket, {
      methods: [networkService(this.host)],
      onError: (error) => this.refused.push(String(error)),
    })
  }

  /** Ends the worker's side, as when it dies. */
  async stopServing(): Promise<void> {
    await this.#grpc?.close()
  }

  connect(slot = KNOWN_SLOT): Socket {
    return dial({ host: '127.0.0.1', port: this.#ports.get(slot) ?? 0, allowHalfOpen: true }).on('error', () => {})
  }

  get envoyRssBytes(): number {
    const [, kilobytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.#envoy?.pid}/status`, 'utf8')) ?? []
    return Number(kilobytes) * 1024
  }

  async close(): Promise<void> {
    for (const socket of this.accepted) socket.destroy()
    this.#server?.close()
    if (this.#envoy !== undefined && this.#envoy.exitCode === null) {
      const exited = once(this.#envoy, 'exit')
      this.#envoy.kill('SIGKILL')
      await exited
    }
    await this.#grpc?.close()
    rmSync(this.folder, { recursive: true, force: true })
  }

  get #socket(): string {
    return join(this.folder, 'worker.sock')
  }

  async #listening(port: number): Promise<void> {
    const deadline = performance.now() + 20_000
    for (;;) {
      const socket = dial({ host: '127.0.0.1', port })
      const isOpen = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
      })
      socket.destroy()
      if (isOpen) break
      if (performance.now() > deadline) throw new Error(readFileSync(join(this.folder, 'envoy.log'), 'utf8'))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    // That was a connection too.
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** All that a socket brings until its end. */
export async function received(socket: Socket): Promise<string> {
  return (await restOf(socket)).toString('latin1')
}

function loopback(port: number) {
  const value = { address: '127.0.0.1', portSpecifier: { case: 'portValue' as const, value: port } }
  return create(AddressSchema, { address: { case: 'socketAddress', value } })
}

function serverCluster(port: number) {
  const endpoint = { hostIdentifier: { case: 'endpoint' as const, value: { address: loopback(port) } } }
  return create(ClusterSchema, {
    name: SERVER_CLUSTER,
    clusterDiscoveryType: { case: 'type', value: Cluster_DiscoveryType.STATIC },
    loadAssignment: { clusterName: SERVER_CLUSTER, endpoints: [{ lbEndpoints: [endpoint] }] },
  })
}

/**
 * A real Envoy that asks an extension host about every request, and that extension host as a process of its own, without agent and
 * proxy: rulesets are put where it keeps them, and Envoy's configuration is one file.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { digestOfKeys } from '#api/digest.ts'
import { ExtHostUpdateSchema, type RulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import { isAnswering } from '#api/unix-socket.ts'
import { type Config, configSchema } from '#config/schema.ts'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import { METADATA_NAMESPACE, RULESET_METADATA } from '#proxy/ext-host/contract.ts'
import { RulesetStore } from '#proxy/ext-host/http/ruleset-store.ts'
import { proxyPaths } from '#proxy/paths.ts'

const ROOT = join(import.meta.dirname, '../../..')

/** A listener that asks. */
export interface Asking {
  readonly key: string
  /** The extension host's own when absent. */
  readonly socket?: string
  readonly timeoutMs?: number
  /** Of ProcessingMode, over what Headgate uses. */
  readonly mode?: Readonly<Record<string, string>>
  readonly forwarded?: readonly string[]
}

export interface Seen {
  readonly path: string
  readonly headers: readonly (readonly [string, string])[]
}

export class ExtHostStack {
  readonly folder = mkdtempSync(join(tmpdir(), 'hg-ext-'))
  readonly config: Config
  /** What reached the server behind Envoy. */
  readonly seen: Seen[] = []
  readonly #children = new Set<ChildProcess>()
  readonly #ports = new Map<string, number>()
  #upstream: Server | undefined
  extHost: ChildProcess | undefined
  envoy: ChildProcess | undefined

  constructor() {
    const paths = { run: join(this.folder, 'run'), state: join(this.folder, 'state'), secrets: join(this.folder, 'secrets') }
    this.config = configSchema.parse({ paths })
    mkdirSync(paths.run)
  }

  get socket(): string {
    return proxyPaths(this.config).extHost
  }

  port(listener: string): number {
    return this.#ports.get(listener) ?? 0
  }

  writeSecret(name: string, value: string): void {
    const path = join(this.config.paths.secrets, 'default', name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, value)
  }

  async setRulesets(rulesets: Readonly<Record<string, MessageInitShape<typeof RulesetSchema>>>): Promise<void> {
    const store = new RulesetStore(proxyPaths(this.config).extHostRulesets)
    const keys = Object.keys(rulesets)
    const list = keys.map((key) => ({ key, ruleset: rulesets[key]! }))
    store.apply(create(ExtHostUpdateSchema, { epoch: 1n, revision: 1n, full: true, rulesets: list, digest: digestOfKeys(keys) }))
    await store.persist()
  }

  async start(listeners: Readonly<Record<string, Asking>>): Promise<this> {
    this.#upstream = createServer((request, response) => {
      const { rawHeaders } = request
      const headers = rawHeaders.flatMap((name, index) => (index % 2 === 0 ? [[name, rawHeaders[index + 1] ?? ''] as const] : []))
      this.seen.push({ path: request.url ?? '', headers })
      request.resume()
      request.on('end', () => setTimeout(() => response.end('ok'), request.url === '/slow' ? 1000 : 0))
    })
    this.#upstream.listen(0, '127.0.0.1')
    await once(this.#upstream, 'listening')
    const upstreamPort = (this.#upstream.address() as AddressInfo).port
    for (const name of Object.keys(listeners)) this.#ports.set(name, await freePort())
    const file = join(this.folder, 'envoy.json')
    writeFileSync(file, JSON.stringify(this.#bootstrap(listeners, upstreamPort)))
    await this.startExtHost()
    this.envoy = this.#spawn('envoy', findEnvoy(''), [
      '-c',
      file,
      '--concurrency',
      '2',
      '-l',
      'warning',
      '--disable-hot-restart',
      '--file-flush-interval-msec',
      '50',
    ])
    for (const port of this.#ports.values()) await listening(port)
    return this
  }

  async startExtHost(): Promise<void> {
    const script = join(import.meta.dirname, 'ext-host-child.ts')
    this.extHost = this.#spawn('ext-host', process.execPath, ['--conditions=headgate-source', script, JSON.stringify(this.config)])
    const deadline = performance.now() + 10_000
    while (!(await isAnswering(this.socket))) {
      if (performance.now() > deadline) throw new Error(`the extension host does not answer:\n${this.log('ext-host')}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  async kill(child: ChildProcess | undefined, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
    this.#children.delete(child)
  }

  log(name: 'ext-host' | 'envoy' | 'access'): string {
    return readFileSync(join(this.folder, `${name}.log`), 'utf8')
  }

  async close(): Promise<void> {
    for (const child of [...this.#children]) await this.kill(child)
    this.#upstream?.closeAllConnections()
    this.#upstream?.close()
    rmSync(this.folder, { recursive: true, force: true })
  }

  #spawn(name: string, command: string, args: string[]): ChildProcess {
    const log = openSync(join(this.folder, `${name}.log`), 'a')
    const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', log, log] })
    this.#children.add(child)
    return child
  }

  #bootstrap(listeners: Readonly<Record<string, Asking>>, upstreamPort: number): object {
    const entries = Object.entries(listeners)
    return {
      layered_runtime: { layers: [{ name: 's', static_layer: { re2: { max_program_size: { error_level: 1e8 } } } }] },
      static_resources: {
        clusters: [
          cluster('upstream', { socket_address: { address: '127.0.0.1', port_value: upstreamPort } }),
          ...entries.map(([name, { socket }]) => cluster(`asked-${name}`, { pipe: { path: socket ?? this.socket } }, true)),
        ],
        listeners: entries.map(([name, asking]) => this.#listener(name, asking)),
      },
    }
  }

  #listener(name: string, { key, timeoutMs = 2000, mode = {}, forwarded = [':method', ':path', ':authority'] }: Asking): object {
    const extProc = {
      grpc_service: { envoy_grpc: { cluster_name: `asked-${name}` }, initial_metadata: [{ key: RULESET_METADATA, value: key }] },
      failure_mode_allow: false,
      message_timeout: `${timeoutMs / 1000}s`,
      status_on_error: { code: 503 },
      processing_mode: {
        request_header_mode: 'SEND',
        response_header_mode: 'SKIP',
        request_body_mode: 'NONE',
        response_body_mode: 'NONE',
        request_trailer_mode: 'SKIP',
        response_trailer_mode: 'SKIP',
        ...mode,
      },
      forward_rules: {
        allowed_headers: { patterns: [...forwarded, 'x-a', 'x-b', 'x-c', 'x-judged', 'x-token'].map((exact) => ({ exact })) },
      },
      metadata_options: { receiving_namespaces: { untyped: [METADATA_NAMESPACE] } },
    }
    const hcm = {
      stat_prefix: 'x',
      generate_request_id: false,
      route_config: {
        virtual_hosts: [{ name: 'v', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: 'upstream' } }] }],
      },
      http_filters: [filter('ext', `http.ext_proc.v3.ExternalProcessor`, extProc), filter('router', 'http.router.v3.Router', {})],
      local_reply_config: {
        mappers: [
          {
            filter: { status_code_filter: { comparison: { op: 'EQ', value: { default_value: 403, runtime_key: 'x' } } } },
            status_code: 418,
            body: { inline_string: 'denied by policy' },
          },
        ],
      },
      access_log: [
        {
          name: 'file',
          typed_config: {
            '@type': 'type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog',
            path: join(this.folder, 'access.log'),
            log_format: {
              text_format_source: {
                inline_string: `${name} %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(${METADATA_NAMESPACE})%\n`,
              },
            },
          },
        },
      ],
    }
    return {
      name,
      address: { socket_address: { address: '127.0.0.1', port_value: this.port(name) } },
      filter_chains: [{ filters: [filter('hcm', 'network.http_connection_manager.v3.HttpConnectionManager', hcm)] }],
    }
  }
}

function filter(name: string, type: string, config: object): object {
  return { name, typed_config: { '@type': `type.googleapis.com/envoy.extensions.filters.${type}`, ...config } }
}

function cluster(name: string, address: object, isHttp2 = false): object {
  const options = {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
      explicit_http_config: { http2_protocol_options: {} },
    },
  }
  return {
    name,
    type: 'STATIC',
    connect_timeout: '1s',
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
    circuit_breakers: { thresholds: [{ max_connections: 1e5, max_pending_requests: 1e5, max_requests: 1e5 }] },
    ...(isHttp2 ? { typed_extension_protocol_options: options } : {}),
  }
}

export async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function listening(port: number): Promise<void> {
  const deadline = performance.now() + 20_000
  for (;;) {
    const isThere = await fetch(`http://127.0.0.1:${port}/`).then(
      () => true,
      () => false,
    )
    if (isThere) return
    if (performance.now() > deadline) throw new Error(`nothing listens on ${port}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

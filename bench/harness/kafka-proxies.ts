/** Proxies of others between clients and a Kafka broker, in a namespace of their own: Envoy that copies bytes, and Kroxylicious without filters. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine, Workload } from '../../test/support/machine.ts'
import { ROOT } from '../../test/support/machine.ts'
import { runBareEnvoy, tcpProxyListener } from './bare-envoy.ts'
import { say } from './bench.ts'

/** Where they listen. Kroxylicious counts on from its port, one for each broker. */
export const PROXY_PORTS = { envoy: 8002, kroxylicious: 9192 } as const

/** Envoy's tcp_proxy with one worker. @param port of the server @returns its pid */
export function startTcpProxy(machine: Machine, proxy: Workload, server: Workload, port: number): number {
  const listener = tcpProxyListener({ name: 'kafka', address: proxy.address, port: PROXY_PORTS.envoy })
  return runBareEnvoy(machine, proxy, { listeners: [listener], server, serverPort: port })
}

/** Kroxylicious's jars, downloaded once for each version, and the program that runs them. */
export function buildKroxylicious(): { readonly classPath: string; readonly version: string } {
  const source = join(ROOT, 'bench/peers/kroxylicious')
  const pom = readFileSync(join(source, 'pom.xml'), 'utf8')
  const program = readFileSync(join(source, 'Main.java'), 'utf8')
  const [, version = ''] = /<artifactId>kroxylicious-runtime<\/artifactId><version>([^<]+)</.exec(pom) ?? []
  const digest = createHash('sha256').update(pom).update(program).digest('hex').slice(0, 12)
  const path = join(ROOT, '.cache/bench', `kroxylicious-${digest}`)
  const classPath = `${path}:${path}/lib/*`
  if (existsSync(path)) return { classPath, version }
  say(`downloading Kroxylicious ${version}, once`)
  const work = `${path}.${process.pid}`
  mkdirSync(work, { recursive: true })
  try {
    for (const name of ['pom.xml', 'Main.java']) copyFileSync(join(source, name), join(work, name))
    const run = (command: string, ...args: readonly string[]): void => {
      execFileSync(command, args, { cwd: work, stdio: ['ignore', 'ignore', 'pipe'] })
    }
    run('mvn', '-B', '-q', 'dependency:copy-dependencies', '-DincludeScope=runtime', '-DoutputDirectory=lib')
    // The runtime that tests need has no compiler.
    run('java', '-cp', 'lib/*', 'org.eclipse.jdt.internal.compiler.batch.Main', '-17', '-nowarn', '-cp', classPathOf(work), 'Main.java')
    renameSync(work, path)
  } catch (error) {
    throw new Error(`Kroxylicious ${version} cannot be had: it takes Maven, a Java runtime and a repository that can be reached`, {
      cause: error,
    })
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return { classPath, version }
}

/** The compiler takes no wildcards. */
function classPathOf(folder: string): string {
  return execFileSync('find', [join(folder, 'lib'), '-name', '*.jar'], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .join(':')
}

/** @returns its pid */
export function startKroxylicious(machine: Machine, proxy: Workload, broker: string, classPath: string): number {
  const file = join(machine.folder, 'kroxylicious.yaml')
  const config = {
    management: { bindAddress: '127.0.0.1', port: 9190 },
    virtualClusters: [
      {
        name: 'bench',
        targetCluster: { bootstrapServers: broker },
        gateways: [{ name: 'default', portIdentifiesNode: { bootstrapAddress: `${proxy.address}:${PROXY_PORTS.kroxylicious}` } }],
      },
    ],
  }
  writeFileSync(file, JSON.stringify(config))
  const child = machine.start(proxy.netns, ['java', '-Xmx512m', '-XX:+UseSerialGC', '-cp', classPath, 'Main', file])
  for (const stream of [child.stdout, child.stderr]) stream?.resume()
  return child.pid ?? 0
}

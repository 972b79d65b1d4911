/**
 * `headgate up`: all processes of one machine, supervised. The configuration is judged once and handed to the children as one file,
 * so that a child that is restarted later runs with what its siblings run with, whatever became of the file meanwhile.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { PACKAGE_ROOT, packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { CliError } from './errors.ts'
import { addConfigOptions, assertRoot, configOf } from './options.ts'
import type { Finding } from './processes.ts'
import type { ChildSpec } from './supervisor/child-keeper.ts'

const HELP = `
Checks the machine as \`headgate doctor\` does, then starts the agent, the proxy process, the extension host, the
DNS process and Envoy, and restarts each that dies.
SIGTERM or SIGINT stops all of them, Envoy first; policy in the kernel stays in force, \`headgate cleanup\` removes it.
\`kill -9\` of this process leaves them running: the next \`headgate up\` adopts them. It replaces those that run with another
configuration.`

/** In the order of starting; stopped in reverse. Envoy may take its drain time. */
const PROCESSES = [
  { name: 'agent', stopTimeoutMs: () => 10_000 },
  { name: 'proxy', stopTimeoutMs: () => 5000 },
  { name: 'ext-host', stopTimeoutMs: () => 2000 },
  { name: 'dns-proxy', stopTimeoutMs: () => 4000, keepsDescriptors: true },
  { name: 'envoy', stopTimeoutMs: (config: Config) => 5000 + config.envoy.drainTimeSeconds * 1000 },
] as const

export function define(command: Command): void {
  addConfigOptions(command)
    .option('--skip-checks', 'start although a check fails')
    .addHelpText('after', HELP)
    .action(async (options: { skipChecks?: boolean }) => {
      const config = await configOf(command)
      assertRoot('run Headgate')
      await up(config, options.skipChecks ? [] : await warningsOf(config))
    })
}

/** @throws CliError HG-1106 when a check fails */
async function warningsOf(config: Config): Promise<Finding[]> {
  const { checkMachine } = await import('./machine-checks.ts')
  const findings = await checkMachine(config)
  const failed = findings.filter((finding) => finding.level === 'error')
  if (failed.length === 0) return findings.filter((finding) => finding.level === 'warning')
  const details = failed.map((finding) => `${finding.name}: ${finding.detail}${finding.hint === '' ? '' : `; ${finding.hint}`}`)
  throw new CliError('HG-1106', `this machine cannot run Headgate: ${failed.length} of ${findings.length} checks failed`, {
    details,
  })
}

async function up(config: Config, warnings: readonly Finding[]): Promise<void> {
  const [{ createLogger }, { Supervisor, logEvent }, { acquireLock }, { LockHeldError }] = await Promise.all([
    import('#config/log.ts'),
    import('./supervisor/supervisor.ts'),
    import('#sys/flock.ts'),
    import('#sys/errors.ts'),
  ])
  const log = createLogger(config, 'up')
  try {
    acquireLock(join(config.paths.run, 'locks/up'))
  } catch (error) {
    if (!(error instanceof LockHeldError)) throw error
    throw new CliError('HG-1105', `another headgate up (pid ${error.holderPid}) runs with ${config.paths.run}`, {
      cause: error,
    })
  }
  const folder = join(config.paths.run, 'up')
  const supervisor = new Supervisor({
    folder,
    children: childrenOf(config, folder),
    onEvent: (name, event) => logEvent(log, name, event),
  })
  log.info({ version: packageVersion(), instance: config.instance }, 'starting')
  for (const { name, detail, hint } of warnings) log.warn({ check: name, next: hint }, detail)
  supervisor.start()
  await signalled()
  log.info('stopping')
  const kill = () => supervisor.kill()
  process.on('SIGTERM', kill).on('SIGINT', kill)
  await supervisor.stop()
  log.info('stopped')
}

function childrenOf(config: Config, folder: string): ChildSpec[] {
  const file = join(folder, 'config.json')
  const text = `${JSON.stringify(config, null, 2)}\n`
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  writeFileSync(`${file}.tmp`, text, { mode: 0o600, flush: true })
  renameSync(`${file}.tmp`, file)
  // The file holds everything; variables that said the same before must not say something else to a later child.
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HEADGATE_')))
  // Most of a start is loading modules: what V8 made of them the first time is there for the next.
  environment['NODE_COMPILE_CACHE'] ??= join(folder, 'compile-cache')
  const digest = createHash('sha256').update(text).update(PACKAGE_ROOT).update(packageVersion()).digest('hex').slice(0, 16)
  const main = process.argv[1] ?? ''
  return PROCESSES.map(({ name, stopTimeoutMs, ...rest }) => ({
    name,
    command: [process.execPath, ...process.execArgv, main, name, '--config', file],
    environment,
    digest,
    stopTimeoutMs: stopTimeoutMs(config),
    ...rest,
  }))
}

/** Until the first SIGTERM or SIGINT; the watches on children keep the process alive meanwhile. */
async function signalled(): Promise<void> {
  const keepAlive = setInterval(() => {}, 2 ** 30)
  await new Promise<void>((resolve) => {
    process.once('SIGTERM', () => resolve())
    process.once('SIGINT', () => resolve())
  })
  clearInterval(keepAlive)
}

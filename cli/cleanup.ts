/** `headgate cleanup` */
import { existsSync, rmSync } from 'node:fs'
import type { Command } from 'commander'
import { CliError } from './errors.ts'
import { addConfigOptions, addOutputOption, assertRoot, configOf, type OutputFormat } from './options.ts'
import { print, printJson } from './output.ts'
import { loadCleanup } from './processes.ts'

const HELP = `
Detaches programs, removes pinned maps, namespaces, devices and sockets of this instance: after it nothing is enforced any more.
Durable state (paths.state: identities, accepted policies) stays, so that the next start knows the same numbers; --state removes it too.
Refuses while a process of the instance runs; --stop stops it first.`

export function define(command: Command): void {
  addOutputOption(addConfigOptions(command))
    .option('--stop', 'stop running processes of this instance first')
    .option('--state', 'remove durable state too')
    .addHelpText('after', HELP)
    .action(async (options: { output: OutputFormat; stop?: boolean; state?: boolean }) => {
      const config = await configOf(command)
      assertRoot('remove kernel objects')
      const stopped = await stopRunning(config.paths.run, options.stop ?? false)
      const { cleanup } = await loadCleanup()
      const removed = await cleanup(config)
      if (options.state && existsSync(config.paths.state)) {
        rmSync(config.paths.state, { recursive: true })
        removed.push(config.paths.state)
      }
      if (options.output === 'json') printJson({ stopped, removed })
      else {
        for (const item of [...stopped.map((name) => `stopped ${name}`), ...removed.map((item) => `removed ${item}`)]) print(item)
        if (stopped.length + removed.length === 0) print('nothing to remove')
      }
    })
}

/** The supervisor goes first: it would start again what is stopped under it. */
async function stopRunning(run: string, mayStop: boolean): Promise<string[]> {
  const { runningProcesses, stopProcess } = await import('./supervisor/running.ts')
  const running = runningProcesses(run)
  if (running.length === 0) return []
  if (!mayStop) {
    const names = running.map((process) => `${process.name} (pid ${process.pid})`).join(', ')
    throw new CliError('HG-1105', `still running: ${names}`, { details: ['stop them, or run `headgate cleanup --stop`'] })
  }
  const stopped: string[] = []
  for (const process of running) {
    if (await stopProcess(process)) stopped.push(`${process.name} (pid ${process.pid})`)
  }
  return stopped
}

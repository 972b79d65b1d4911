/** Runs one process's main until it ends or a signal asks it to. */
import { flushCompileCache } from 'node:module'
import type { Command } from 'commander'
import type { Config } from '#config/schema.ts'
import { addConfigOptions, assertRoot, configOf } from './options.ts'

type Run = (config: Config, signal: AbortSignal) => Promise<void>

/**
 * A subcommand that is one of the processes.
 * @param what it does, for who is not root: run the agent
 * @param load its main, which is loaded only now
 */
export function defineProcess(command: Command, help: string, what: string, load: (config: Config) => Promise<Run>): void {
  addConfigOptions(command)
    .addHelpText('after', help)
    .action(async () => {
      const config = await configOf(command)
      assertRoot(what)
      const run = await load(config)
      // Now, and not at the end, which may come without warning. Without a cache, or with a complete one, it does nothing.
      flushCompileCache()
      await runUntilSignal(config, run)
    })
}

/**
 * The signal aborts on the first SIGTERM or SIGINT; a second one ends the process at once, with the exit code that a shell
 * expects.
 */
async function runUntilSignal(config: Config, run: Run): Promise<void> {
  const controller = new AbortController()
  const numbers = { SIGTERM: 15, SIGINT: 2 } as const
  const stop = (signal: keyof typeof numbers) => {
    if (controller.signal.aborted) process.exit(128 + numbers[signal])
    controller.abort()
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  try {
    await run(config, controller.signal)
  } finally {
    process.off('SIGTERM', stop)
    process.off('SIGINT', stop)
  }
}

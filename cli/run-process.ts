/** Runs one process's main until it ends or a signal asks it to. */
import type { Config } from '#config/schema.ts'

/**
 * The signal aborts on the first SIGTERM or SIGINT; a second one ends the process at once, with the exit code that a shell
 * expects.
 */
export async function runUntilSignal(config: Config, run: (config: Config, signal: AbortSignal) => Promise<void>): Promise<void> {
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

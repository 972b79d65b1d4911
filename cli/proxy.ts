/** `headgate proxy` */
import type { Command } from 'commander'
import { addConfigOptions, assertRoot, configOf } from './options.ts'
import { loadProxy } from './processes.ts'
import { runUntilSignal } from './run-process.ts'

const HELP = `
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  addConfigOptions(command)
    .addHelpText('after', HELP)
    .action(async () => {
      const config = await configOf(command)
      assertRoot('run the proxy process')
      const { runProxy } = await loadProxy()
      await runUntilSignal(config, runProxy)
    })
}

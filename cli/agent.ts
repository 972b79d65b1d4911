/** `headgate agent` */
import type { Command } from 'commander'
import { addConfigOptions, assertRoot, configOf } from './options.ts'
import { loadAgent, loadProbes } from './processes.ts'
import { runUntilSignal } from './run-process.ts'

const HELP = `
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  addConfigOptions(command)
    .addHelpText('after', HELP)
    .action(async () => {
      const config = await configOf(command)
      assertRoot('run the agent')
      // The agent itself cannot be loaded where libbpf is missing.
      const { assertMachine } = await loadProbes()
      await assertMachine(config)
      const { runAgent } = await loadAgent()
      await runUntilSignal(config, runAgent)
    })
}

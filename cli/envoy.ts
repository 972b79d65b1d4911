/** `headgate envoy` */
import type { Command } from 'commander'
import { addConfigOptions, assertRoot, configOf } from './options.ts'
import { loadEnvoy } from './processes.ts'
import { runUntilSignal } from './run-process.ts'

const HELP = `
Writes Envoy's bootstrap and becomes Envoy: the process id stays the same. Normally started by \`headgate up\` or a systemd unit.`

export function define(command: Command): void {
  addConfigOptions(command)
    .addHelpText('after', HELP)
    .action(async () => {
      const config = await configOf(command)
      assertRoot('run Envoy')
      const { runEnvoy } = await loadEnvoy()
      await runUntilSignal(config, runEnvoy)
    })
}

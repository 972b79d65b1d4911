/** `headgate ext-host` */
import type { Command } from 'commander'
import { addConfigOptions, assertRoot, configOf } from './options.ts'
import { loadExtHost } from './processes.ts'
import { runUntilSignal } from './run-process.ts'

const HELP = `
Judges for Envoy the requests whose rules compare headers with secrets, or change many headers. Secrets are read from paths.secrets.
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  addConfigOptions(command)
    .addHelpText('after', HELP)
    .action(async () => {
      const config = await configOf(command)
      assertRoot('run the extension host')
      const { runExtHost } = await loadExtHost()
      await runUntilSignal(config, runExtHost)
    })
}

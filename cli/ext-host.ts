/** `headgate ext-host` */
import type { Command } from 'commander'
import { loadExtHost } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Judges for Envoy the requests whose rules compare headers with secrets, or change many headers. Secrets are read from paths.secrets.
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  defineProcess(command, HELP, 'run the extension host', async () => (await loadExtHost()).runExtHost)
}

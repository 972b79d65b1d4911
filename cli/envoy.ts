/** `headgate envoy` */
import type { Command } from 'commander'
import { loadEnvoy } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Writes Envoy's bootstrap and becomes Envoy: the process id stays the same. Normally started by \`headgate up\` or a systemd unit.`

export function define(command: Command): void {
  defineProcess(command, HELP, 'run Envoy', async () => (await loadEnvoy()).runEnvoy)
}
